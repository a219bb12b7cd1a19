//! A crash at every disk operation: an open finds the last checkpoint, or the one that was being committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_store::{MergeStep, RewriteStep, Store, StoreConfig, StoreError, TableId, Unpaced};

use crate::fault_disk::FaultDisk;
use crate::support::{KEYS, Rows, Subject, body, check, identity};

fn config() -> StoreConfig {
    StoreConfig {
        segment_bytes_max: 16 * 1024,
        front_bytes_max: 64 * 1024,
        merge_width: 3,
        ..StoreConfig::default()
    }
}

type Expected = BTreeMap<TableId, Rows>;

/// What was in the store at each index at which a checkpoint was begun.
type Begun = BTreeMap<u64, Expected>;

fn checkpoint(subject: &mut Subject, begun: &mut Begun) -> Result<(), StoreError> {
    begun.insert(subject.index, subject.expected.clone());
    subject.try_checkpoint().map(|_| ())
}

/// Checkpoints, merges and a rewrite, until one fails.
fn work(subject: &mut Subject, begun: &mut Begun) -> Result<(), StoreError> {
    for round in 0..2u64 {
        for n in 0..12 {
            subject.put(KEYS, format!("k{:02}", n % 9).as_bytes(), b"row", &body(round * 50 + n, 600));
        }
        subject.remove(KEYS, b"k04");
        checkpoint(subject, begun)?;
        while subject.store.merge_step(5, &mut Unpaced)? != MergeStep::Idle {}
        while !matches!(subject.store.rewrite_step(4096)?, RewriteStep::Idle | RewriteStep::Full) {}
    }
    checkpoint(subject, begun)?;
    subject.store.collect()
}

#[test]
fn a_crash_at_any_operation_leaves_the_last_checkpoint_or_the_new_one() {
    let mut crash_after = 0;
    loop {
        let disk = FaultDisk::default();
        let mut subject = Subject::create(Arc::new(disk.clone()), config());
        let mut begun = Begun::from([(0, Expected::new())]);
        for n in 0..30u64 {
            subject.put(KEYS, format!("old{n:02}").as_bytes(), b"row", &body(n, 500));
        }
        checkpoint(&mut subject, &mut begun).expect("no crash yet");
        (0..30u64).step_by(2).for_each(|n| subject.remove(KEYS, format!("old{n:02}").as_bytes()));
        disk.crash_after(crash_after);
        let done = work(&mut subject, &mut begun);
        assert_eq!(done.is_err(), disk.has_crashed(), "after {crash_after} operations: {done:?}");
        let durable = subject.store.durable_index().0;
        for seed in 1..=3u64 {
            let found = disk.after_crash(seed * 7919 + crash_after);
            let context = format!("crash after {crash_after} operations, seed {seed}");
            let (store, opened) =
                Store::open(Arc::new(found.clone()), config(), identity(1), 0).expect(&context);
            let index = opened.meta.applied_index.0;
            assert!(index >= durable, "{context}: went back from {durable} to {index}");
            let expected = begun.get(&index).expect(&context);
            check(&store, expected);
            // It goes on from there.
            let mut again = Subject { store, index, expected: expected.clone() };
            again.put(KEYS, b"after", b"row", &body(9, 5000));
            again.checkpoint();
            let (store, _) = Store::open(Arc::new(found), config(), identity(1), 0).expect(&context);
            check(&store, &again.expected);
        }
        if done.is_ok() {
            break;
        }
        crash_after += 1;
    }
    assert!(crash_after > 60, "only {crash_after} operations were tried");
}

#[test]
fn nothing_more_is_written_after_a_failed_write() {
    let disk = FaultDisk::default();
    let mut subject = Subject::create(Arc::new(disk.clone()), config());
    subject.put(KEYS, b"a", b"row", b"body");
    disk.crash_after(2);
    let meta = subject.meta();
    let frozen = subject.store.write().freeze(meta).expect("a freeze");
    let first = subject.store.checkpoint(&frozen, &mut Unpaced);
    assert!(matches!(first, Err(StoreError::Io { .. })), "{first:?}");
    let second = subject.store.checkpoint(&frozen, &mut Unpaced);
    assert!(matches!(second, Err(StoreError::Stopped)), "{second:?}");
    subject.check();
}
