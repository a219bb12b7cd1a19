//! What lies on a disk: the log's segments, and the store's manifest, runs and segments.
//!
//! An input is a byte of flags and a folder. Where the first flag is set, checksums are made right before the files
//! are opened: else no mutation would get beyond them.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quorate_disk::{Disk, MemoryDisk};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_store::{Owners, Store, StoreConfig, TableId, Unpaced};
use quorate_wal::{Config, HardState, Identity, Record, Recovered, Wal};

use crate::{Outcome, folder};

/// Checksums are made right.
pub const SEAL: u8 = 1;
/// Each record of the log is made to follow the one before.
const CHAIN: u8 = 2;

const WAL_FOLDER: &str = "wal";
const BLOCK_BYTES: usize = 4096;
/// Bodies that are read of each table.
const BODIES_MAX: usize = 64;

fn wal_config() -> Config {
    Config {
        folder: WAL_FOLDER.to_owned(),
        segment_size_bytes: 2 * BLOCK_BYTES as u64,
        payload_bytes_max: 1024,
        spare_segments_max: 1,
        direct: false,
        ..Config::default()
    }
}

fn wal_identity() -> Identity {
    Identity { cluster: ClusterId(1), member: MemberId(2), incarnation: Incarnation(3) }
}

fn recover(disk: &MemoryDisk) -> Option<(Wal, Recovered)> {
    Wal::open(Arc::new(disk.clone()), wal_config(), Some(wal_identity())).ok()
}

/// Recovers the log of the folder `wal`. What it gives back has no gap, a second recovery gives back the same, and
/// what is appended then is there after a third.
pub fn wal_recovery(input: &[u8]) -> Outcome {
    let Some((flags, files)) = input.split_first().and_then(|(f, rest)| Some((*f, folder::read(rest)?)))
    else {
        return Outcome::Refused;
    };
    let mut files = files;
    if flags & SEAL != 0 {
        files.iter_mut().for_each(|(_, bytes)| seal_log_segment(bytes, flags & CHAIN != 0));
    }
    let disk = folder::on_disk(&files);
    let Some((wal, first)) = recover(&disk) else { return Outcome::Refused };
    drop(wal);
    for pair in first.entries.windows(2) {
        assert_eq!(pair[1].0, pair[0].0.next(), "recovered entries have a gap");
    }
    if let Some((index, term, _)) = first.entries.last() {
        assert_eq!((*index, *term), (first.last_index, first.last_term));
    }
    let (mut wal, again) = recover(&disk).expect("a log that was recovered is recovered again");
    assert_eq!(first, again, "a second recovery gives back something else");
    // The last index that there can be has none after it, and no log gets there.
    if first.last_index.0 == u64::MAX {
        return Outcome::Taken;
    }
    let (index, term) = (first.last_index.next(), first.last_term);
    let added = Record::Entry { index, term, payload: Bytes::from_static(b"added") };
    if wal.append(&[added]).is_err() {
        return Outcome::Taken;
    }
    drop(wal);
    let (_, third) = recover(&disk).expect("a log that was written to is recovered");
    assert_eq!(third.entries.last(), Some(&(index, term, Bytes::from_static(b"added"))));
    assert_eq!(third.cut_tail, None, "the append took the torn tail's place");
    Outcome::Taken
}

/// Makes the checksums of a log's segment right; `docs/formats/wal.md` has the places.
fn seal_log_segment(bytes: &mut [u8], chain: bool) {
    const HEADER_CRC: usize = 508;
    const KIND_SEAL: u8 = 8;
    if bytes.len() < BLOCK_BYTES || bytes[..BLOCK_BYTES].iter().all(|byte| *byte == 0) {
        return;
    }
    let (header, records) = bytes.split_at_mut(BLOCK_BYTES);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..HEADER_CRC]), &header[HEADER_CRC + 4..]);
    header[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    let seed = crc32c::crc32c(&header[24..48]);
    let mut previous = u32_at(header, 12);
    let mut rest = records;
    while rest.len() >= 40 && rest[..40].iter().any(|byte| *byte != 0) {
        let framed = (40 + u32_at(rest, 4) as usize).next_multiple_of(8);
        if framed > rest.len() {
            return;
        }
        let (record, behind) = rest.split_at_mut(framed);
        let chained = chain && record[8] != KIND_SEAL;
        if chained {
            record[12..16].copy_from_slice(&previous.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(seed, &record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        if chained {
            previous = crc;
        }
        rest = behind;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Logs of one segment and of three, with what may stand in them.
pub fn wal_seeds() -> Vec<(String, Vec<u8>)> {
    let entry = |index: u64, term: u64, bytes: usize| Record::Entry {
        index: LogIndex(index),
        term: Term(term),
        payload: Bytes::from(vec![index as u8; bytes]),
    };
    let vote = |term: u64, commit: u64| {
        Record::HardState(HardState { term: Term(term), vote: MemberId(2), commit: LogIndex(commit) })
    };
    let made = |write: &dyn Fn(&mut Wal)| {
        let disk = MemoryDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut wal = Wal::create(shared, wal_config(), wal_identity(), 1).expect("a new log");
        write(&mut wal);
        drop(wal);
        folder::write(&folder::of_disk(&disk, WAL_FOLDER))
    };
    let short = made(&|wal| {
        wal.append(&[entry(1, 1, 8), entry(2, 1, 0), vote(1, 1)]).expect("written");
        wal.append(&[entry(2, 2, 30), vote(2, 2)]).expect("written");
        wal.mark().expect("marked");
    });
    let long = made(&|wal| {
        for index in 1..=9 {
            wal.append(&[entry(index, 1, 700), vote(1, index - 1)]).expect("written");
        }
        wal.release(LogIndex(4)).expect("released");
        wal.mark().expect("marked");
    });
    let restarted = made(&|wal| {
        wal.append(&[entry(1, 1, 8), vote(1, 1)]).expect("written");
        let restart = Record::Restart { index: LogIndex(9), term: Term(3), store_generation: 2 };
        wal.append(&[restart, vote(3, 9)]).expect("written");
        wal.append(&[entry(10, 3, 16), vote(3, 10)]).expect("written");
    });
    let flags = [("as-it-is", 0), ("sealed", SEAL), ("chained", SEAL | CHAIN)];
    let logs = [("short", short), ("long", long), ("restarted", restarted)];
    flagged(&flags, &logs)
}

/// Each folder with each flag before it.
pub fn flagged(flags: &[(&str, u8)], folders: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let with = |flag: u8, folder: &[u8]| [&[flag], folder].concat();
    let each = |(name, folder): &(&str, Vec<u8>)| {
        flags.iter().map(|(how, flag)| (format!("{name}-{how}"), with(*flag, folder))).collect::<Vec<_>>()
    };
    folders.iter().flat_map(each).collect()
}

pub fn store_identity() -> quorate_store::Identity {
    quorate_store::Identity { cluster: ClusterId(1), member: MemberId(2), incarnation: Incarnation(3) }
}

/// Opens the store of generation 0. What opens has the hashes that it says, and can be read from end to end.
pub fn store_open(input: &[u8]) -> Outcome {
    let Some((flags, files)) = input.split_first().and_then(|(f, rest)| Some((*f, folder::read(rest)?)))
    else {
        return Outcome::Refused;
    };
    let mut files = files;
    if flags & SEAL != 0 {
        for (name, bytes) in &mut files {
            match name.rsplit('/').next() {
                Some("manifest") => seal_manifest(bytes),
                Some(name) if name.starts_with("run-") => seal_run(bytes),
                _ => {}
            }
        }
    }
    let disk = folder::on_disk(&files);
    let opened = Store::open(Arc::new(disk), StoreConfig::default(), store_identity(), 0);
    let Ok((store, _)) = opened else { return Outcome::Refused };
    let tables: Vec<TableId> = store.read().table_ids().collect();
    for table in tables {
        let read = store.read();
        assert_eq!(read.rehash(table), read.hash(table));
        let mut rows = 0;
        read.scan(table, b"", None, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        });
        assert_eq!((rows, rows), (read.len(table), read.count(table, b"", None)));
        drop(read);
        // A body that is damaged, or not where its row says, is an error and no more.
        let _ = store.verify(table, b"", BODIES_MAX);
    }
    Outcome::Taken
}

/// Makes a manifest's length and checksum right.
pub fn seal_manifest(bytes: &mut [u8]) {
    let Some((prefix, rest)) = bytes.split_at_mut_checked(20) else { return };
    prefix[12..16].copy_from_slice(&(rest.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&prefix[..16]), rest);
    prefix[16..].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the checksum of each block of a run right.
pub fn seal_run(bytes: &mut [u8]) {
    const HEADER_BYTES: usize = 24;
    let mut rest = bytes;
    while rest.len() >= HEADER_BYTES {
        let block_bytes = HEADER_BYTES + u32_at(rest, 4) as usize;
        if block_bytes > rest.len() {
            return;
        }
        let (block, behind) = rest.split_at_mut(block_bytes);
        let crc = crc32c::crc32c(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        rest = behind;
    }
}

/// An empty store, one after a checkpoint, and one after two with deletes between them.
pub fn store_seeds() -> Vec<(String, Vec<u8>)> {
    let flags = [("as-it-is", 0), ("sealed", SEAL)];
    let stores = [("empty", store_of(0)), ("one", store_of(1)), ("two", store_of(2))];
    flagged(&flags, &stores)
}

pub fn store_of(checkpoints: u64) -> Vec<u8> {
    let disk = MemoryDisk::new();
    let config = StoreConfig::default();
    let store = Store::create(Arc::new(disk.clone()), config, store_identity(), 0).expect("a new store");
    for round in 1..=checkpoints {
        let mut tables = store.write();
        tables.begin(LogIndex(round));
        for number in 0..12u64 {
            let key = format!("key/{round}/{number}");
            let (first, second) = (TableId(0x10), TableId(0x11));
            let owners =
                Owners { first: (first, key.as_bytes()), second: Some((second, &number.to_be_bytes())) };
            let body = tables.append(owners, &[b"a body of ", key.as_bytes()]);
            tables.put(first, key.as_bytes(), &[number as u8; 5], Some(body));
            tables.put(second, &number.to_be_bytes(), b"", Some(body));
            tables.put(TableId(0x12), key.as_bytes(), b"a row alone", None);
        }
        tables.remove(TableId(0x12), b"key/1/3");
        let extra = Bytes::from_static(b"extra");
        let meta =
            quorate_store::CheckpointMeta { applied_index: LogIndex(round), applied_term: Term(1), extra };
        let frozen = tables.freeze(meta).expect("nothing else is frozen");
        drop(tables);
        store.checkpoint(&frozen, &mut Unpaced).expect("written");
    }
    drop(store);
    let mut files = folder::of_disk(&disk, &quorate_store::generation_folder(0));
    for (name, bytes) in &mut files {
        // What is reserved behind a segment's end need not be there.
        if name.contains("/segment-") {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(used.next_multiple_of(BLOCK_BYTES));
        }
    }
    folder::write(&files)
}
