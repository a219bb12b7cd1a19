//! Random histories against a plain map, with checkpoints, merges, rewriting and opens in between.

use std::sync::Arc;

use proptest::prelude::*;
use quorate_disk::MemoryDisk;
use quorate_store::{RewriteStep, Store, StoreConfig, TableId, Unpaced};

use crate::support::{Subject, body, check, identity};

#[derive(Clone, Debug)]
enum Step {
    Put { table: u8, key: u8, len: usize, seed: u64 },
    PutRow { table: u8, key: u8, row: Vec<u8> },
    PutVersion { key: u8, len: usize },
    Remove { table: u8, key: u8 },
    Checkpoint,
    Merge,
    Rewrite,
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3u8, any::<u8>(), 0..2000usize, any::<u64>())
            .prop_map(|(table, key, len, seed)| Step::Put { table, key: key % 40, len, seed }),
        2 => (0..3u8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..1024))
            .prop_map(|(table, key, row)| Step::PutRow { table, key: key % 40, row }),
        2 => (any::<u8>(), 0..3000usize).prop_map(|(key, len)| Step::PutVersion { key, len }),
        4 => (0..3u8, any::<u8>()).prop_map(|(table, key)| Step::Remove { table, key: key % 40 }),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Merge),
        2 => Just(Step::Rewrite),
        1 => Just(Step::Open),
    ]
}

fn config() -> StoreConfig {
    StoreConfig {
        front_bytes_max: 64 * 1024,
        segment_bytes_max: 12 * 1024,
        body_cache_bytes: 8 * 1024,
        small_segments_max: 3,
        merge_width: 3,
        runs_max: 5,
        ..StoreConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_a_map_holds(steps in proptest::collection::vec(step(), 1..120)) {
        let disk = Arc::new(MemoryDisk::new());
        let mut subject = Subject::create(disk.clone(), config());
        for step in steps {
            match step {
                Step::Put { table, key, len, seed } => subject.put(TableId(table), &[key], b"r", &body(seed, len)),
                Step::PutRow { table, key, row } => subject.put_row(TableId(table), &[key], &row),
                Step::PutVersion { key, len } => subject.put_version(&[key], &body(key.into(), len)),
                Step::Remove { table, key } => subject.remove(TableId(table), &[key]),
                Step::Checkpoint => { subject.checkpoint(); }
                Step::Merge => { subject.store.merge_step(50, &mut Unpaced).expect("a step"); }
                Step::Rewrite => {
                    let step = subject.store.rewrite_step(5000).expect("a step");
                    let damaged = matches!(step, RewriteStep::Damaged { .. });
                    prop_assert!(!damaged, "nothing was damaged: {:?}", step);
                }
                Step::Open => {
                    subject.checkpoint();
                    let (store, opened) = Store::open(disk.clone(), config(), identity(1), 0).expect("an open");
                    prop_assert_eq!(opened.meta, subject.meta());
                    subject.store = store;
                }
            }
        }
        subject.check();
        subject.checkpoint();
        subject.check();
        let (store, _) = Store::open(disk, config(), identity(1), 0).expect("an open");
        check(&store, &subject.expected);
    }
}
