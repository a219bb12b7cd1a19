//! A checkpoint on its way to another member, while both go on.

use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk};
use quorate_ids::ClusterId;
use quorate_store::{
    BodyError, Export, Identity, Incoming, IncomingError, OpenError, RewriteStep, Store, Unpaced,
    generation_folder,
};

use crate::support::{HISTORY, KEYS, Subject, body, check, identity, rows_of, small};

/// Sends all that is missing, in small chunks.
pub fn send(export: &Export, incoming: &mut Incoming) -> Result<(), IncomingError> {
    while let (mut offset, Some(file)) = (incoming.missing().0, incoming.missing().1.first().cloned()) {
        while offset < file.len {
            let chunk = export.read_chunk(&file.name, offset, 10_000)?;
            incoming.write_chunk(&file.name, &chunk, &mut Unpaced)?;
            offset += chunk.bytes.len() as u64;
        }
    }
    Ok(())
}

fn filled(disk: Arc<dyn Disk>) -> Subject {
    let mut subject = Subject::create(disk, small());
    for n in 0..200u64 {
        subject.put_version(format!("key/{:03}", n % 70).as_bytes(), &body(n, 1500));
        if n % 40 == 39 {
            subject.checkpoint();
        }
    }
    subject.checkpoint();
    subject
}

#[test]
fn a_snapshot_is_installed_while_its_sender_writes_rewrites_and_checkpoints() {
    let mut sender = filled(Arc::new(MemoryDisk::new()));
    let export = sender.store.export();
    let (sent, meta) = (sender.expected.clone(), sender.meta());

    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let receiver = Store::create(disk.clone(), small(), identity(2), 4).expect("a store");
    let mut old = Subject { store: receiver.clone(), index: 0, expected: Default::default() };
    old.put(KEYS, b"stale", b"row", &body(3, 1500));
    old.checkpoint();
    let stale = receiver.read().get(KEYS, b"stale").and_then(|entry| entry.body).expect("a body");
    let reader = receiver.clone();

    let mut incoming = Incoming::begin(disk.clone(), identity(2), 5, &export.manifest()).expect("a begin");
    // The sender forgets nearly everything meanwhile.
    for (key, _, at) in rows_of(&sender.store, HISTORY) {
        sender.store.write().remove(HISTORY, &key);
        sender.expected.get_mut(&HISTORY).expect("the table").remove(&key);
        let owner = sent[&HISTORY][&key].0.clone();
        let current = sender.store.read().get(KEYS, &owner).and_then(|entry| entry.body);
        if current != at {
            sender.store.write().retire(at.expect("a body"));
        }
    }
    while !matches!(sender.store.rewrite_step(100_000).expect("a step"), RewriteStep::Idle) {
        sender.checkpoint();
    }
    sender.checkpoint();
    send(&export, &mut incoming).expect("a transfer");
    incoming.finish(&mut Unpaced).expect("a finish");
    drop(export);
    sender.check();

    let opened = receiver.replace_with(5).expect("the switch");
    assert_eq!(opened.meta, meta);
    check(&reader, &sent);
    assert!(matches!(reader.load(stale), Err(BodyError::Gone { .. })));
    assert!(reader.remove_generation(4).expect("a removal"));
    assert!(disk.list(&generation_folder(4)).expect("a listing").is_empty());
    assert!(reader.remove_generation(5).is_err(), "the generation in use was removed");

    // It goes on as a store of its own.
    let mut subject = Subject { store: receiver, index: opened.meta.applied_index.0, expected: sent };
    subject.put_version(b"key/001", &body(77, 4000));
    subject.checkpoint();
    subject.check();
    let (store, _) = Store::open(disk, small(), identity(2), 5).expect("an open");
    check(&store, &subject.expected);
}

#[test]
fn a_transfer_resumes_after_a_restart_of_the_receiver() {
    let sender = filled(Arc::new(MemoryDisk::new()));
    let export = sender.store.export();
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut incoming = Incoming::begin(disk.clone(), identity(2), 1, &export.manifest()).expect("a begin");
    let all = incoming.missing().1;
    for file in &all[..3] {
        let chunk = export.read_chunk(&file.name, 0, usize::MAX).expect("a file");
        incoming.write_chunk(&file.name, &chunk, &mut Unpaced).expect("a chunk");
    }
    let part = export.read_chunk(&all[3].name, 0, 100).expect("a part");
    incoming.write_chunk(&all[3].name, &part, &mut Unpaced).expect("a chunk");
    assert_eq!(incoming.missing(), (100, all[3..].to_vec()));
    drop(incoming);

    let mut incoming = Incoming::begin(disk.clone(), identity(2), 1, &export.manifest()).expect("a begin");
    assert_eq!(incoming.missing(), (0, all[3..].to_vec()));
    assert!(matches!(incoming.finish(&mut Unpaced), Err(IncomingError::Incomplete { .. })));
    let unfinished = Store::open(disk.clone(), small(), identity(2), 1).map(|_| ());
    assert!(matches!(unfinished, Err(OpenError::Missing { .. })));
    send(&export, &mut incoming).expect("the rest");
    incoming.finish(&mut Unpaced).expect("a finish");
    let (store, _) = Store::open(disk.clone(), small(), identity(2), 1).expect("an open");
    check(&store, &sender.expected);
    let again = Incoming::begin(disk, identity(2), 1, &export.manifest()).map(|_| ());
    assert!(matches!(again, Err(IncomingError::Open(OpenError::Exists { .. }))));
}

#[test]
fn what_was_received_and_never_used_is_removed_while_readers_read() {
    let sender = filled(Arc::new(MemoryDisk::new()));
    let export = sender.store.export();
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let receiver = Store::create(disk.clone(), small(), identity(2), 1).expect("a store");
    let mut incoming = Incoming::begin(disk.clone(), identity(2), 2, &export.manifest()).expect("a begin");
    send(&export, &mut incoming).expect("a transfer");
    incoming.finish(&mut Unpaced).expect("a finish");
    let _reader = receiver.pin();
    assert!(receiver.remove_generation(2).expect("a removal"), "no reader can hold anything of it");
    assert!(disk.list(&generation_folder(2)).expect("a listing").is_empty());
    Incoming::begin(disk, identity(2), 2, &export.manifest()).expect("its place is free again");
}

#[test]
fn what_does_not_fit_is_refused() {
    let sender = filled(Arc::new(MemoryDisk::new()));
    let export = sender.store.export();
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let stranger = Identity { cluster: ClusterId(8), ..identity(2) };
    let other = Incoming::begin(disk.clone(), stranger, 1, &export.manifest()).map(|_| ());
    assert!(matches!(other, Err(IncomingError::OtherCluster { found: 7, expected: 8 })));
    assert!(Incoming::begin(disk.clone(), identity(2), 1, &export.manifest()[..50]).is_err());

    let mut incoming = Incoming::begin(disk, identity(2), 1, &export.manifest()).expect("a begin");
    let file = incoming.missing().1.remove(0);
    let chunk = export.read_chunk(&file.name, 0, 50).expect("a chunk");
    let mut damaged = chunk.clone();
    damaged.crc ^= 1;
    let refused = incoming.write_chunk(&file.name, &damaged, &mut Unpaced);
    assert!(matches!(refused, Err(IncomingError::DamagedChunk { .. })));
    incoming.write_chunk(&file.name, &chunk, &mut Unpaced).expect("a chunk");
    for (name, chunk) in [(file.name.as_str(), &chunk), ("../../etc/passwd", &chunk)] {
        let refused = incoming.write_chunk(name, chunk, &mut Unpaced);
        assert!(matches!(refused, Err(IncomingError::OutOfOrder { expected_offset: 50, .. })));
    }
    assert!(export.read_chunk("manifest", 0, 10).is_err());
}
