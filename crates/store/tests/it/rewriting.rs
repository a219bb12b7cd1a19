//! Rewriting gives space back, below readers and around damage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_ids::LogIndex;
use quorate_store::{
    BodyError, CheckpointMeta, Owners, RewriteStep, Store, StoreConfig, Unpaced, generation_folder,
};

use crate::support::{HISTORY, KEYS, Subject, body, check, identity, rows_of, small};

fn cold() -> StoreConfig {
    StoreConfig { body_cache_bytes: 0, ..small() }
}

fn segments(disk: &MemoryDisk) -> usize {
    let listed = disk.list(&generation_folder(0)).expect("a listing");
    listed.iter().filter(|file| file.path.contains("/segment-")).count()
}

/// Two segments and more, of which a tenth is alive.
fn sparse(disk: &MemoryDisk) -> Subject {
    let mut subject = Subject::create(Arc::new(disk.clone()), cold());
    (0..100u64).for_each(|n| subject.put(KEYS, &n.to_be_bytes(), b"row", &body(n, 2000)));
    subject.checkpoint();
    (0..100u64).filter(|n| n % 10 != 0).for_each(|n| subject.remove(KEYS, &n.to_be_bytes()));
    subject.checkpoint();
    subject
}

fn rewrite(subject: &mut Subject) -> Vec<RewriteStep> {
    let mut ends = Vec::new();
    loop {
        match subject.store.rewrite_step(1).expect("a step") {
            RewriteStep::Idle => return ends,
            RewriteStep::Full => {
                subject.checkpoint();
            }
            RewriteStep::More { .. } => {}
            end => ends.push(end),
        }
    }
}

#[test]
fn a_pinned_reader_keeps_the_old_segments_until_it_lets_go() {
    let disk = MemoryDisk::new();
    let mut subject = sparse(&disk);
    let before = segments(&disk);
    let hash = subject.store.read().hash(KEYS);
    let pin = subject.store.pin();
    let rows = rows_of(&subject.store, KEYS);
    assert!(rewrite(&mut subject).len() >= 2);
    assert_eq!(subject.store.read().hash(KEYS), hash);
    subject.checkpoint();
    let moved = rows_of(&subject.store, KEYS);
    assert!(rows.iter().zip(&moved).all(|(old, new)| old.1 == new.1));
    let changed: Vec<_> =
        rows.iter().zip(&moved).filter(|(old, new)| old.2 != new.2).map(|(old, _)| old).collect();
    assert!(changed.len() >= 6, "{} records moved", changed.len());
    assert!(segments(&disk) >= before);
    for (key, _, at) in &changed {
        let expected = &subject.expected[&KEYS][key].1;
        assert_eq!(&subject.store.load(at.expect("a body")).ok(), expected);
    }
    drop(pin);
    subject.store.collect().expect("files are unlinked");
    assert!(segments(&disk) < before, "{} of {before} segments are left", segments(&disk));
    for (_, _, at) in &changed {
        let gone = subject.store.load(at.expect("a body"));
        assert!(matches!(gone, Err(BodyError::Gone { .. })), "{gone:?}");
    }
    subject.check();
    let (store, _) = Store::open(Arc::new(disk), cold(), identity(1), 0).expect("an open");
    check(&store, &subject.expected);
}

#[test]
fn a_record_with_two_owners_moves_for_both() {
    let disk = MemoryDisk::new();
    let mut subject = Subject::create(Arc::new(disk), cold());
    (0..60u64).for_each(|n| subject.put_version(&(n % 20).to_be_bytes(), &body(n, 2000)));
    subject.checkpoint();
    // All history but every tenth version is forgotten; current versions lose one of their owners only.
    for revision in (1..=60u64).filter(|n| n % 10 != 0) {
        let key = revision.to_be_bytes();
        let mut tables = subject.store.write();
        let at = tables.get(HISTORY, &key).and_then(|entry| entry.body).expect("a version");
        tables.remove(HISTORY, &key);
        subject.expected.get_mut(&HISTORY).expect("the table").remove(key.as_slice());
        if revision <= 40 {
            tables.retire(at);
        }
    }
    assert!(!rewrite(&mut subject).is_empty());
    subject.checkpoint();
    subject.check();
    let key = 19u64.to_be_bytes();
    let tables = subject.store.read();
    let current = tables.get(KEYS, &key).and_then(|entry| entry.body);
    assert_eq!(current, tables.get(HISTORY, &60u64.to_be_bytes()).and_then(|entry| entry.body));
}

#[test]
fn a_damaged_record_holds_its_segment_until_a_peer_mends_it() {
    // In the body, then in the header, behind which the scan of the file is lost.
    for within in [60, 5] {
        let disk = MemoryDisk::new();
        let (mut subject, peer) = (sparse(&disk), sparse(&MemoryDisk::new()));
        let key = 20u64.to_be_bytes();
        let at = subject.store.read().get(KEYS, &key).and_then(|entry| entry.body).expect("a body");
        let path = format!("{}/segment-{:08x}", generation_folder(0), at.segment);
        let file = disk.open(&path, Mode::default()).expect("the segment");
        let mut byte = [0];
        let offset = u64::from(at.offset) + within;
        file.read_at(&mut byte, offset).expect("a byte");
        file.write_at(&[byte[0] ^ 4], offset).expect("a byte");

        let Err(BodyError::Corrupt { segment, offset, name, .. }) = subject.store.load(at) else {
            panic!("a damaged body was served")
        };
        assert_eq!((segment, offset), (at.segment, at.offset));
        assert_eq!(name.is_some(), within == 60);
        let steps = rewrite(&mut subject);
        let damaged = steps.iter().find_map(|step| match step {
            RewriteStep::Damaged { records, .. } => Some(records.clone()),
            _ => None,
        });
        let damaged = damaged.expect("the damage was met");
        assert_eq!(damaged.len(), 1);
        assert_eq!((damaged[0].table, damaged[0].key.as_slice(), damaged[0].at), (KEYS, &key[..], at));
        subject.checkpoint();
        assert!(subject.store.load(at).is_err(), "the segment must stay");

        let stamp = name.map(|name| name.stamp);
        let other = peer.store.record(KEYS, &30u64.to_be_bytes(), None).expect("a read").expect("a record");
        assert!(subject.store.mend(KEYS, &key, at, &other).is_err(), "another key's record was taken");
        let good = peer.store.record(KEYS, &key, stamp).expect("a read").expect("a record");
        let mut wrong = good.clone();
        match stamp {
            // The header tells what the body must be; rows of histories may differ in how far they were forgotten.
            Some(_) => wrong.body = vec![1; good.body.len()].into(),
            None => wrong.row = b"other".to_vec(),
        }
        assert!(subject.store.mend(KEYS, &key, at, &wrong).is_err(), "another version's record was taken");
        assert!(subject.store.mend(KEYS, &key, at, &good).expect("it fits").is_some());
        subject.check();
        assert!(rewrite(&mut subject).iter().all(|step| matches!(step, RewriteStep::Vacated { .. })));
        subject.checkpoint();
        subject.check();
        let (store, _) = Store::open(Arc::new(disk), cold(), identity(1), 0).expect("an open");
        check(&store, &subject.expected);
    }
}

#[test]
fn readers_with_pins_read_every_body_while_all_of_it_moves() {
    let disk = MemoryDisk::new();
    let subject = sparse(&disk);
    let stop = AtomicBool::new(false);
    let loaded = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _pin = subject.store.pin();
                    for (key, _, at) in rows_of(&subject.store, HISTORY) {
                        let found = subject.store.load(at.expect("a body")).expect("a pinned body");
                        assert_eq!(found[..8], key[..], "a body of another key");
                        loaded.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let store = subject.store.clone();
        let index = subject.index;
        for round in 1..=60u64 {
            for n in 0..12u64 {
                let key = (n * 5 % 12).to_be_bytes();
                let mut tables = store.write();
                tables.begin(LogIndex(index + round));
                let old = tables.get(HISTORY, &key).and_then(|entry| entry.body);
                let owners = Owners { first: (HISTORY, &key), second: None };
                let at = tables.append(owners, &[&key, &vec![n as u8; 1500]]);
                tables.put(HISTORY, &key, &round.to_be_bytes(), Some(at));
                old.into_iter().for_each(|old| tables.retire(old));
            }
            let meta = CheckpointMeta { applied_index: LogIndex(index + round), ..CheckpointMeta::default() };
            let frozen = store.write().freeze(meta).expect("no front is frozen");
            store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
            while matches!(
                store.rewrite_step(1).expect("a step"),
                RewriteStep::More { .. } | RewriteStep::Vacated { .. }
            ) {}
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(loaded.into_inner() > 0);
    subject.store.collect().expect("files are unlinked");
    assert!(segments(&disk) < 8, "{} segments are left", segments(&disk));
}
