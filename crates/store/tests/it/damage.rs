//! Flipped bits: named by file and offset, never served, never a panic.

use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_store::{
    BodyError, Incoming, OpenError, Store, StoreConfig, StoreError, Unpaced, generation_folder,
};

use crate::support::{KEYS, Subject, body, identity, rows_of, small};
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
fn any_flipped_bit_of_the_manifest_stops_the_open() {
    let disk = MemoryDisk::new();
    filled(&disk);
    let (path, len) = files(&disk, "/manifest").remove(0);
    for offset in 0..len {
        flip(&disk, &path, offset);
        match Store::open(Arc::new(disk.clone()), cold(), identity(1), 0).map(|_| ()) {
            Err(
                OpenError::Store(StoreError::Corrupt { path: named, .. })
                | OpenError::Version { path: named, .. },
            ) => {
                assert_eq!(named, path);
            }
            other => panic!("byte {offset} of the manifest: {other:?}"),
        }
        flip(&disk, &path, offset);
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
