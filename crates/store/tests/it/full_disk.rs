//! A full disk: nothing is lost, and it can be emptied.

use std::sync::Arc;

use quorate_store::{RewriteStep, Store, StoreError, Unpaced};

use crate::fault_disk::FaultDisk;
use crate::support::{KEYS, Subject, body, check, identity, small};

#[test]
fn a_checkpoint_that_found_the_disk_full_succeeds_later() {
    let disk = FaultDisk::default();
    let mut subject = Subject::create(Arc::new(disk.clone()), small());
    (0..20u64).for_each(|n| subject.put(KEYS, &n.to_be_bytes(), b"row", &body(n, 3000)));
    subject.checkpoint();
    (0..40u64).for_each(|n| subject.put(KEYS, &n.to_be_bytes(), b"row", &body(100 + n, 3000)));
    let meta = subject.meta();
    let frozen = subject.store.write().freeze(meta).expect("a freeze");
    let used = disk.used_bytes();
    // Each limit stops it somewhere else: at a segment, at the run, at the manifest.
    let mut stopped_at = std::collections::BTreeSet::new();
    for more in (0..).map(|step| step * 1_000) {
        disk.limit(Some(used + more));
        match subject.store.checkpoint(&frozen, &mut Unpaced) {
            Err(StoreError::NoSpace { path, .. }) => stopped_at.insert(path),
            Ok(_) => break,
            Err(other) => panic!("{more} bytes more: {other}"),
        };
        subject.check();
    }
    assert!(stopped_at.len() >= 3, "{stopped_at:?}");
    subject.put(KEYS, b"afterwards", b"row", b"in the next front");
    disk.limit(None);
    subject.checkpoint();
    subject.check();
    let (store, _) = Store::open(Arc::new(disk), small(), identity(1), 0).expect("an open");
    check(&store, &subject.expected);
}

#[test]
fn the_last_segment_gives_its_space_back_too() {
    let disk = FaultDisk::default();
    let mut subject = Subject::create(Arc::new(disk.clone()), small());
    (0..8u64).for_each(|n| subject.put(KEYS, &n.to_be_bytes(), b"row", &body(n, 1500)));
    subject.checkpoint();
    let full = disk.used_bytes();
    (0..8u64).for_each(|n| subject.remove(KEYS, &n.to_be_bytes()));
    assert!(matches!(subject.store.rewrite_step(1 << 20), Ok(RewriteStep::More { .. })));
    while !subject.store.has_vacated() {
        subject.store.rewrite_step(1 << 20).expect("a step");
    }
    subject.checkpoint();
    let left = disk.used_bytes();
    assert!(left * 4 < full, "{left} of {full} bytes are left");
    subject.put(KEYS, b"afterwards", b"row", b"in a segment of its own");
    subject.checkpoint();
    subject.check();
    let (store, _) = Store::open(Arc::new(disk), small(), identity(1), 0).expect("an open");
    check(&store, &subject.expected);
}

#[test]
fn starts_take_no_space_for_good() {
    let disk = FaultDisk::default();
    let mut subject = Subject::create(Arc::new(disk.clone()), small());
    subject.put(KEYS, b"key", b"row", &body(1, 1000));
    subject.checkpoint();
    let mut used = None;
    // Each start puts what it writes into a segment of its own, and reserves space ahead there.
    for start in 2..7 {
        (subject.store, _) = Store::open(Arc::new(disk.clone()), small(), identity(1), 0).expect("an open");
        let before = used.replace(disk.used_bytes()).unwrap_or(0);
        assert!(disk.used_bytes() < before + 32 * 1024, "start {start}: {before}, then {used:?}");
        subject.put(KEYS, b"key", b"row", &body(start, 1000));
        subject.checkpoint();
    }
    subject.check();
}

#[test]
fn deleting_and_rewriting_give_space_back() {
    let disk = FaultDisk::default();
    let mut subject = Subject::create(Arc::new(disk.clone()), small());
    for n in 0..600u64 {
        subject.put(KEYS, &n.to_be_bytes(), b"row", &body(n, 3000));
        if n % 60 == 59 {
            subject.checkpoint();
        }
    }
    let full = disk.used_bytes();
    (0..600u64).filter(|n| n % 6 != 0).for_each(|n| subject.remove(KEYS, &n.to_be_bytes()));
    loop {
        match subject.store.rewrite_step(1 << 20).expect("a step") {
            RewriteStep::Idle => break,
            RewriteStep::Full => {
                subject.checkpoint();
            }
            RewriteStep::More { .. } | RewriteStep::Vacated { .. } => {}
            RewriteStep::Damaged { .. } => panic!("nothing is damaged"),
        }
    }
    subject.checkpoint();
    let left = disk.used_bytes();
    assert!(left * 5 < full * 2, "{left} of {full} bytes are left");
    subject.check();
    let (store, _) = Store::open(Arc::new(disk), small(), identity(1), 0).expect("an open");
    check(&store, &subject.expected);
}
