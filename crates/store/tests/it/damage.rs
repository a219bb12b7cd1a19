//! Flipped bits: named by file and offset, never served, never a panic.

use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_store::{
    BodyError, Incoming, MergeStep, OpenError, RewriteStep, Store, StoreConfig, StoreError, Unpaced,
    generation_folder,
};

use crate::support::{HISTORY, KEYS, Subject, body, check, identity, rows_of, small};
use crate::transfer::send;

fn cold() -> StoreConfig {
    StoreConfig { body_cache_bytes: 0, ..small() }
}

fn filled(disk: &MemoryDisk) -> Subject {
    let mut subject = Subject::create(Arc::new(disk.clone()), cold());
    for n in 0..30u64 {
        subject.put(KEYS, format!("key/{n:04}").as_bytes(), b"a row", &body(n, 100 + n as usize));
        if n % 10 == 9 {
            subject.checkpoint();
        }
    }
    subject
}

fn flip(disk: &MemoryDisk, path: &str, offset: u64) {
    let file = disk.open(path, Mode::default()).expect("the file");
    let mut byte = [0];
    file.read_at(&mut byte, offset).expect("a byte");
    file.write_at(&[byte[0] ^ (1 << (offset % 8))], offset).expect("a byte");
}

fn files(disk: &MemoryDisk, kind: &str) -> Vec<(String, u64)> {
    let listed = disk.list(&generation_folder(0)).expect("a listing");
    listed.into_iter().filter(|file| file.path.contains(kind)).map(|file| (file.path, file.len)).collect()
}

#[test]
fn any_flipped_bit_of_the_manifest_is_repaired_from_its_copy() {
    let disk = MemoryDisk::new();
    let subject = filled(&disk);
    let (path, len) = files(&disk, "/manifest").remove(0);
    for offset in 0..len {
        flip(&disk, &path, offset);
        let open =
            || Store::open(Arc::new(disk.clone()), cold(), identity(1), 0).expect("an open by the copy");
        let (store, opened) = open();
        let repaired = opened.repaired.expect("it says so");
        assert!(repaired.contains(&path), "{repaired}");
        assert_eq!(opened.meta, subject.meta());
        check(&store, &subject.expected);
        assert_eq!(open().1.repaired, None, "it was written anew");
    }
}

#[test]
fn any_flipped_bit_of_the_manifest_stops_the_open_where_its_copy_is_damaged_too() {
    let disk = MemoryDisk::new();
    filled(&disk);
    let manifests = files(&disk, "/manifest");
    let [(path, len), (copy, _)] = &manifests[..] else { panic!("{manifests:?}") };
    flip(&disk, copy, 30);
    for offset in 0..*len {
        flip(&disk, path, offset);
        match Store::open(Arc::new(disk.clone()), cold(), identity(1), 0).map(|_| ()) {
            Err(
                OpenError::Store(StoreError::Corrupt { path: named, .. })
                | OpenError::Version { path: named, .. },
            ) => {
                assert_eq!(named, *path);
            }
            other => panic!("byte {offset} of the manifest: {other:?}"),
        }
        flip(&disk, path, offset);
    }
    Store::open(Arc::new(disk), cold(), identity(1), 0).expect("undamaged again");
}

#[test]
fn any_flipped_bit_of_a_run_stops_the_open() {
    let disk = MemoryDisk::new();
    let subject = filled(&disk);
    let lengths: Vec<_> = subject.store.export().files();
    for (path, _) in files(&disk, "/run-") {
        let len = lengths.iter().find(|file| path.ends_with(&file.name)).expect("a run").len;
        for offset in 0..len {
            flip(&disk, &path, offset);
            match Store::open(Arc::new(disk.clone()), cold(), identity(1), 0).map(|_| ()) {
                Err(OpenError::Store(StoreError::Corrupt { path: named, .. })) => assert_eq!(named, path),
                other => panic!("byte {offset} of {path}: {other:?}"),
            }
            flip(&disk, &path, offset);
        }
    }
}

#[test]
fn a_flipped_bit_of_a_segment_is_never_served_nor_installed() {
    let disk = MemoryDisk::new();
    let subject = filled(&disk);
    let store = &subject.store;
    let rows = rows_of(store, KEYS);
    let (path, _) = files(&disk, "/segment-").remove(0);
    for offset in (0..17_000u64).step_by(7) {
        flip(&disk, &path, offset);
        let mut refused = 0;
        for (key, _, at) in &rows {
            let at = at.expect("a body");
            match store.load(at) {
                Ok(body) => assert_eq!(Some(body), subject.expected[&KEYS][key].1),
                Err(BodyError::Corrupt { segment, offset: start, .. }) => {
                    assert_eq!((segment, start), (at.segment, at.offset));
                    assert!(
                        offset >= u64::from(start) && offset < u64::from(start) + 36 + 8 + u64::from(at.len)
                    );
                    refused += 1;
                }
                Err(other) => panic!("byte {offset}: {other}"),
            }
        }
        let inside = rows.iter().filter_map(|(_, _, at)| *at).any(|at| {
            (u64::from(at.offset)..u64::from(at.offset) + 36 + 8 + u64::from(at.len)).contains(&offset)
        });
        assert_eq!(refused, usize::from(inside), "byte {offset}");
        if offset % 490 == 0 && offset < 16_384 {
            let export = store.export();
            let mut incoming =
                Incoming::begin(Arc::new(MemoryDisk::new()), identity(2), 0, &export.manifest())
                    .expect("a begin");
            let refused = send(&export, &mut incoming).and_then(|()| incoming.finish(&mut Unpaced));
            assert!(refused.is_err(), "byte {offset} was installed");
        }
        flip(&disk, &path, offset);
    }
    subject.check();
}

#[test]
fn a_missing_or_shortened_file_stops_the_open() {
    for kind in ["/segment-", "/run-"] {
        let disk = MemoryDisk::new();
        filled(&disk);
        let (path, _) = files(&disk, kind).remove(0);
        disk.open(&path, Mode::default()).and_then(|file| file.truncate(20)).expect("a truncate");
        let open = || Store::open(Arc::new(disk.clone()), cold(), identity(1), 0).map(|_| ());
        let corrupt = |found: Result<(), OpenError>| match found {
            Err(OpenError::Store(StoreError::Corrupt { path: named, .. })) => assert_eq!(named, path),
            other => panic!("{path}: {other:?}"),
        };
        corrupt(open());
        disk.remove(&path).expect("a remove");
        corrupt(open());
    }
}

/// Rewrites and writes checkpoints until the store wants no more of them.
fn get_rid_of_what_is_condemned(subject: &mut Subject) {
    for _ in 0..50 {
        let index = loop {
            match subject.store.reindex_step().expect("a step") {
                MergeStep::More => {}
                end => break end,
            }
        };
        let segments = loop {
            match subject.store.rewrite_step(1 << 20).expect("a step") {
                RewriteStep::More { .. } | RewriteStep::Vacated { .. } => {}
                end => break end,
            }
        };
        let done = index == MergeStep::Idle && segments == RewriteStep::Idle;
        if done && !subject.store.wants_checkpoint() {
            return;
        }
        subject.checkpoint();
    }
    panic!("the store wants checkpoints for ever");
}

#[test]
fn a_damaged_file_that_nobody_reads_is_noticed_by_its_sender_and_written_anew() {
    for kind in ["/segment-", "/run-"] {
        let disk = MemoryDisk::new();
        let mut subject = filled(&disk);
        // The header of a segment and the footer of a run: read when a file is opened, or by a receiver.
        let files = files(&disk, kind);
        let (path, _) = files.last().expect("a file");
        let name = path.rsplit('/').next().expect("a name");
        flip(&disk, path, 2);
        let export = subject.store.export();
        match export.verify(name, &mut Unpaced) {
            Err(StoreError::Corrupt { path: named, .. }) => assert_eq!(named, *path),
            other => panic!("{path}: {other:?}"),
        }
        assert!(subject.store.condemn(name));
        drop(export);
        get_rid_of_what_is_condemned(&mut subject);
        subject.store.collect().expect("files are unlinked");
        let export = subject.store.export();
        assert!(export.files().iter().all(|file| file.name != name), "{name} is still there");
        let target = MemoryDisk::new();
        let mut incoming =
            Incoming::begin(Arc::new(target.clone()), identity(2), 0, &export.manifest()).expect("a begin");
        send(&export, &mut incoming).and_then(|()| incoming.finish(&mut Unpaced)).expect("a sound snapshot");
        let (store, _) = Store::open(Arc::new(target), cold(), identity(2), 0).expect("an open");
        check(&store, &subject.expected);
        subject.check();
        let (store, _) = Store::open(Arc::new(disk), cold(), identity(1), 0).expect("an open");
        check(&store, &subject.expected);
    }
}

#[test]
fn a_condemned_segment_whose_damaged_records_are_still_in_memory_is_rewritten_from_memory() {
    // Bodies that are damaged (first round), and heads, so that only the index still leads to the records (second round).
    for offset_in_record in [60, 2] {
        let disk = MemoryDisk::new();
        let config = StoreConfig { body_cache_bytes: 1 << 20, ..small() };
        let mut subject = Subject::create(Arc::new(disk.clone()), config);
        for n in 0..5u64 {
            subject.put(KEYS, format!("key/{n:04}").as_bytes(), b"a row", &body(n, 100));
        }
        subject.checkpoint();
        let (path, _) = files(&disk, "/segment-").remove(0);
        let name = path.rsplit('/').next().expect("a name");
        for (_, _, at) in rows_of(&subject.store, KEYS).iter().take(3) {
            flip(&disk, &path, u64::from(at.expect("a body").offset) + offset_in_record);
        }
        assert!(subject.store.condemn(name));
        get_rid_of_what_is_condemned(&mut subject);
        subject.store.collect().expect("files are unlinked");
        assert!(files(&disk, "/segment-").iter().all(|(left, _)| *left != path), "{path} is still there");
        subject.check();
        let (store, _) = Store::open(Arc::new(disk), cold(), identity(1), 0).expect("an open");
        check(&store, &subject.expected);
    }
}

#[test]
fn an_index_is_written_anew_while_its_rows_change() {
    let disk = MemoryDisk::new();
    let mut subject = filled(&disk);
    for n in 0..60_000u64 {
        subject.put_row(HISTORY, format!("row/{n:06}").as_bytes(), b"first");
    }
    subject.checkpoint();
    let (path, _) = files(&disk, "/run-").remove(0);
    flip(&disk, &path, 40);
    subject.store.condemn_index();
    let mut steps = 0u64;
    while subject.store.reindex_step().expect("a step") != MergeStep::Done {
        steps += 1;
        for n in [steps, 9_000 - steps, 59_500 - steps] {
            subject.put_row(HISTORY, format!("row/{n:06}").as_bytes(), b"second");
            subject.remove(HISTORY, format!("row/{:06}", n + 300).as_bytes());
        }
        subject.checkpoint();
    }
    assert!(steps > 1, "it takes more than one front");
    get_rid_of_what_is_condemned(&mut subject);
    subject.check();
    let (store, _) =
        Store::open(Arc::new(disk), cold(), identity(1), 0).expect("an open without the damaged run");
    check(&store, &subject.expected);
}
