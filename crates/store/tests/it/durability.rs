//! What was checkpointed is there after an open; what was not is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk, RealDisk};
use quorate_store::{BodyError, OpenError, Store, StoreConfig, StoreError, Unpaced};

use crate::support::{HISTORY, KEYS, Subject, body, check, identity, small};

fn fill_checkpoint_and_reopen(disk: Arc<dyn Disk>) {
    let mut subject = Subject::create(disk.clone(), small());
    for round in 0..4u64 {
        for n in 0..60 {
            subject.put_version(
                format!("key/{n:03}").as_bytes(),
                &body(round * 100 + n, (n as usize * 37) % 3000),
            );
        }
        subject.put_row(KEYS, b"row-alone", &[1; 1024]);
        subject.remove(KEYS, format!("key/{:03}", round * 7).as_bytes());
        subject.check();
        subject.checkpoint();
        subject.check();
    }
    let kept = subject.expected.clone();
    let (meta, hashes) = (subject.meta(), [KEYS, HISTORY].map(|table| subject.store.read().hash(table)));
    subject.put_version(b"after the checkpoint", b"is lost with the process");

    let (store, opened) = Store::open(disk, small(), identity(1), 0).expect("an open");
    assert_eq!(opened.meta, meta);
    assert_eq!([opened.hashes[&KEYS], opened.hashes[&HISTORY]], hashes);
    check(&store, &kept);
}

#[test]
fn a_checkpoint_survives_on_a_disk_in_memory() {
    fill_checkpoint_and_reopen(Arc::new(MemoryDisk::new()));
}

#[test]
fn a_checkpoint_survives_on_a_real_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    fill_checkpoint_and_reopen(Arc::new(RealDisk::new(folder.path()).expect("a disk")));
}

#[test]
fn a_store_opens_only_for_the_member_that_made_it() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let missing = Store::open(disk.clone(), small(), identity(1), 0);
    assert!(matches!(missing, Err(OpenError::Missing { .. })));
    Subject::create(disk.clone(), small());
    let other = Store::open(disk.clone(), small(), identity(2), 0);
    assert!(matches!(other, Err(OpenError::Identity { what: "member", found: 1, expected: 2, .. })));
    let again = Store::create(disk, small(), identity(1), 0);
    assert!(matches!(again, Err(OpenError::Exists { .. })));
}

#[test]
fn a_body_larger_than_a_segment_gets_one_of_its_own() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut subject = Subject::create(disk.clone(), small());
    subject.put(KEYS, b"a", b"", b"small");
    subject.put(KEYS, b"b", b"", &body(1, 900_000));
    subject.put(KEYS, b"c", b"", &[]);
    subject.put(KEYS, &vec![b'k'; 64 * 1024], &[7; 1024], &body(2, 300_000));
    subject.check();
    subject.checkpoint();
    let (store, _) = Store::open(disk, small(), identity(1), 0).expect("an open");
    check(&store, &subject.expected);
}

#[test]
fn a_checkpoint_without_changes_moves_the_applied_index_on() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut subject = Subject::create(disk.clone(), small());
    subject.put(KEYS, b"a", b"row", b"body");
    subject.checkpoint();
    subject.index = 500;
    assert_eq!(subject.checkpoint().written_bytes, 0);
    assert_eq!(subject.store.durable_index().0, 500);
    let (store, opened) = Store::open(disk, small(), identity(1), 0).expect("an open");
    assert_eq!(opened.meta.applied_index.0, 500);
    check(&store, &subject.expected);
}

#[test]
fn a_front_is_frozen_once_at_a_time_and_checkpointed_once() {
    let mut subject = Subject::create(Arc::new(MemoryDisk::new()), small());
    let room = subject.store.front_room();
    subject.put(KEYS, b"a", b"row", &body(1, 10_000));
    let used = room - subject.store.front_room();
    assert!((10_000..10_200).contains(&used), "{used} bytes for 10,000");
    let meta = subject.meta();
    let frozen = subject.store.write().freeze(meta.clone()).expect("the first freeze");
    assert!(subject.store.write().freeze(meta).is_none());
    assert_eq!(subject.store.front_room(), small().front_bytes_max);
    subject.put(KEYS, b"b", b"row", b"in the next front");
    subject.check();
    subject.store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
    let again = subject.store.checkpoint(&frozen, &mut Unpaced);
    assert!(matches!(again, Err(StoreError::NotPending)));
    subject.check();
}

#[test]
fn merged_runs_hold_the_same_rows_and_no_tombstones() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut subject = Subject::create(disk.clone(), small());
    for round in 0..40u64 {
        for n in 0..20 {
            subject.put(
                KEYS,
                format!("key/{:03}", (round * 13 + n) % 90).as_bytes(),
                b"row",
                &body(round, 50),
            );
        }
        subject.remove(KEYS, format!("key/{:03}", (round * 13) % 90).as_bytes());
        subject.checkpoint();
        while subject.store.merge_step(7, &mut Unpaced).expect("a step") != quorate_store::MergeStep::Idle {}
        assert!(subject.store.runs() < 8, "{} runs", subject.store.runs());
    }
    subject.check();
    let (store, _) = Store::open(disk.clone(), small(), identity(1), 0).expect("an open");
    check(&store, &subject.expected);

    let all: Vec<Vec<u8>> = subject.expected[&KEYS].keys().cloned().collect();
    all.iter().for_each(|key| subject.remove(KEYS, key));
    let aggressive = StoreConfig { runs_max: 1, merge_width: 64, ..small() };
    subject.checkpoint();
    drop(subject);
    let (store, _) = Store::open(disk.clone(), aggressive, identity(1), 0).expect("an open");
    while store.merge_step(1000, &mut Unpaced).expect("a step") != quorate_store::MergeStep::Idle {}
    assert_eq!(store.runs(), 1);
    let runs = disk.list("store-0000000000000000").expect("a listing");
    let run = runs.iter().find(|file| file.path.contains("/run-")).expect("a run");
    assert!(run.len <= 4096, "an empty run has no entries, but takes {} bytes", run.len);
    check(&store, &BTreeMap::new());
}

#[test]
fn a_location_of_nowhere_is_refused() {
    let mut subject = Subject::create(Arc::new(MemoryDisk::new()), small());
    subject.put(KEYS, b"a", b"row", &body(1, 100));
    let mut at = subject.store.read().get(KEYS, b"a").and_then(|entry| entry.body).expect("a body");
    for _ in 0..3 {
        subject.put(KEYS, b"b", b"row", &body(2, 30_000));
        subject.checkpoint();
    }
    assert_eq!(subject.store.load(at).expect("a body"), body(1, 100));
    for (segment, offset, len) in [(0, 1, 0), (0, 1, 0), (0, 0, 1), (0, 1 << 30, 0), (9, 0, 0)] {
        (at.segment, at.offset, at.len) = (at.segment + segment, at.offset + offset, at.len + len);
        let error = subject.store.load(at).expect_err("no record is there");
        assert!(matches!(error, BodyError::Corrupt { .. } | BodyError::Gone { .. }), "{error}");
    }
}
