//! A snapshot that another member sends: its manifest and its files, which come in chunks.
//!
//! An input is a byte of flags and a folder, as [`crate::store_open`] takes them. Where the flag is set, the checksums
//! of the blocks, of the whole files and of the manifest are made right first: else nothing would get beyond them.

use std::ops::ControlFlow;
use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk};
use quorate_store::{Chunk, Incoming, Store, StoreConfig, TableId, Unpaced};

use crate::files::{SEAL, flagged, seal_manifest, seal_run, store_identity, store_of};
use crate::folder::{self, File};
use crate::{Outcome, mutate::Draws};

/// The receiver's next generation.
const GENERATION: u64 = 1;
const CHUNK_BYTES_MAX: usize = 4096;

/// Receives the snapshot, cuts the transfer off in the middle and goes on after a restart, and opens what came of it.
/// What opens has the hashes that its manifest says.
pub fn snapshot_restore(input: &[u8]) -> Outcome {
    let Some((flags, files)) = input.split_first().and_then(|(f, rest)| Some((*f, folder::read(rest)?)))
    else {
        return Outcome::Refused;
    };
    let mut files = files;
    let Some(at) = files.iter().position(|(name, _)| name == "manifest") else { return Outcome::Refused };
    let (_, mut manifest) = files.swap_remove(at);
    if flags & SEAL != 0 {
        files.iter_mut().filter(|(name, _)| name.starts_with("run-")).for_each(|(_, bytes)| seal_run(bytes));
        // What can't be parsed stays as it is.
        let _ = seal_files(&mut manifest, &files);
        seal_manifest(&mut manifest);
    }
    let disk = MemoryDisk::new();
    let mut draws = Draws::new(input.len() as u64);
    if receive(&disk, &manifest, &files, &mut draws).is_none() {
        return Outcome::Refused;
    }
    let opened = Store::open(Arc::new(disk), StoreConfig::default(), store_identity(), GENERATION);
    let Ok((store, _)) = opened else { return Outcome::Refused };
    let read = store.read();
    let tables: Vec<TableId> = read.table_ids().collect();
    for table in tables {
        assert_eq!(read.rehash(table), read.hash(table));
        let mut rows = 0;
        read.scan(table, b"", None, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(rows, read.len(table));
    }
    Outcome::Taken
}

/// Takes everything in; `None` where the receiver refused it. Half way it is begun anew: what is complete by then counts.
fn receive(disk: &MemoryDisk, manifest: &[u8], files: &[File], draws: &mut Draws) -> Option<()> {
    let begin = || {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Incoming::begin(shared, store_identity(), GENERATION, manifest).ok()
    };
    let mut incoming = begin()?;
    let restart_before = incoming.missing().1.len() / 2;
    let mut restarted = false;
    loop {
        let (offset, missing) = incoming.missing();
        let Some(file) = missing.first() else { break };
        if missing.len() <= restart_before && !restarted {
            restarted = true;
            incoming = begin()?;
            assert!(incoming.missing().1.len() <= missing.len(), "a restart lost files that were complete");
            continue;
        }
        let (_, bytes) = files.iter().find(|(name, _)| *name == file.name)?;
        // A sender has the whole file; here its end may be cut off.
        let rest = bytes.get(usize::try_from(offset).ok()?..).filter(|rest| !rest.is_empty())?;
        let wanted = (file.len - offset).min(1 + draws.below(CHUNK_BYTES_MAX) as u64) as usize;
        let part = bytes::Bytes::copy_from_slice(&rest[..wanted.min(rest.len())]);
        let chunk = Chunk { offset, crc: crc32c::crc32c(&part), bytes: part };
        incoming.write_chunk(&file.name.clone(), &chunk, &mut Unpaced).ok()?;
    }
    incoming.finish(&mut Unpaced).ok()
}

/// Makes the checksums of whole files right in the manifest, as far as it can be parsed; `docs/formats/store.md` has the
/// places.
fn seal_files(manifest: &mut [u8], files: &[File]) -> Option<()> {
    const EXTRA_AT: usize = 20 + 8 * 8 + 4;
    const TABLE_BYTES: usize = 1 + 16 + 8;
    /// Of a run and of a segment alike; the length stands at the same place in both.
    const FILE_BYTES: usize = 36;
    const LEN_AT: usize = 8;
    let number = |manifest: &[u8], at: usize| {
        let bytes = manifest.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let mut at = EXTRA_AT.checked_add(4 + number(manifest, EXTRA_AT)?)?;
    at = at.checked_add(4 + number(manifest, at)?.checked_mul(TABLE_BYTES)?)?;
    let run: fn(usize) -> String = |number| format!("run-{number:016x}");
    let segment: fn(usize) -> String = |number| format!("segment-{number:08x}");
    for (name, crc_at) in [(run, 32), (segment, 12)] {
        let count = number(manifest, at)?;
        at += 4;
        for _ in 0..count {
            let (name, len) = (name(number(manifest, at)?), number(manifest, at + LEN_AT)?);
            let bytes = files.iter().find(|(file, _)| *file == name).and_then(|(_, bytes)| bytes.get(..len));
            if let Some(bytes) = bytes {
                let place = manifest.get_mut(at + crc_at..at + crc_at + 4)?;
                place.copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
            }
            at += FILE_BYTES;
        }
    }
    Some(())
}

/// Snapshots of an empty store, of one checkpoint, and of two.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let snapshot = |checkpoints| {
        let files = folder::read(&store_of(checkpoints)).expect("a folder");
        let bare = |(path, bytes): File| (path.rsplit('/').next().unwrap_or_default().to_owned(), bytes);
        let sent = files.into_iter().map(bare).filter(|(name, _)| name != "manifest.copy");
        folder::write(&sent.collect::<Vec<_>>())
    };
    let snapshots = [("empty", snapshot(0)), ("one", snapshot(1)), ("two", snapshot(2))];
    flagged(&[("as-it-is", 0), ("sealed", SEAL)], &snapshots)
}
