//! The log of etcd 2 and 3: files of framed records, each with a CRC that goes on from the one before.
//!
//! A frame: its length in the low 56 bits of eight bytes, in the high ones (if the highest is set) how many bytes of
//! padding follow; the record; the padding. A length of 0 is the unused rest of a file. The first record of a file holds
//! the CRC that the one before ended with.

use std::path::{Path, PathBuf};

use prost::Message;

use super::records::{self, HardState, Record};
use crate::error::{Error, Fault};

const LENGTH_BYTES: usize = 8;
/// What a disk writes as a whole: a record of which one such piece is still zeros was cut short by a crash.
const SECTOR_BYTES: usize = 512;

mod kind {
    pub const METADATA: i64 = 1;
    pub const ENTRY: i64 = 2;
    pub const STATE: i64 = 3;
    pub const CRC: i64 = 4;
    pub const SNAPSHOT: i64 = 5;
}

/// An entry, and where its record begins.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its place in [`WholeLog::files`].
    pub file: usize,
    pub offset: u64,
    pub index: u64,
    pub term: u64,
    pub kind: i32,
    pub data: Vec<u8>,
}

/// What was read of a log.
#[derive(Debug, Default)]
pub(crate) struct WholeLog {
    pub files: Vec<PathBuf>,
    /// Without a gap, those that were overwritten left out.
    pub entries: Vec<Entry>,
    pub committed: u64,
}

/// The files of a log in order: sequence number, index of the first entry, path.
pub(crate) fn files(folder: &Path) -> Result<Vec<(u64, u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("listing", folder))? {
        let path = entry.map_err(Error::io("listing", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".wal"));
        let numbers = name.and_then(|name| {
            let (sequence, index) = name.split_once('-')?;
            Some((u64::from_str_radix(sequence, 16).ok()?, u64::from_str_radix(index, 16).ok()?))
        });
        if let Some((sequence, index)) = numbers {
            found.push((sequence, index, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads what goes on from the entry `from`. What a crash cut short at the end is left out, and noted.
pub(crate) fn read(folder: &Path, from: u64, notes: &mut Vec<String>) -> Result<WholeLog, Error> {
    let all = files(folder)?;
    // The newest file that begins at the entry after that, or before, has it and what follows.
    let first = all.iter().rposition(|(_, index, _)| *index <= from + 1);
    let Some(first) = first else {
        let detail = match all.first() {
            None => format!("{} has no file of a log", folder.display()),
            Some((_, index, file)) => {
                format!("{} begins at entry {index}, after entry {from}", file.display())
            }
        };
        return Err(Error::Incomplete { what: "its beginning", detail });
    };
    let all = &all[first..];
    for pair in all.windows(2) {
        if pair[1].0 != pair[0].0 + 1 {
            let detail = format!("{} does not follow after {}", pair[1].2.display(), pair[0].2.display());
            return Err(Error::Incomplete { what: "a file", detail });
        }
    }
    let mut reading = Reading { log: WholeLog::default(), crc: 0 };
    for (place, (_, _, path)) in all.iter().enumerate() {
        let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
        reading.log.files.push(path.clone());
        let is_last = place + 1 == all.len();
        if let Some(at) = reading.file(&bytes, path, is_last)? {
            notes.push(format!(
                "the last record of {} was cut short at byte {at}: the machine stopped while it wrote it",
                path.display()
            ));
        }
    }
    Ok(reading.log)
}

struct Reading {
    log: WholeLog,
    /// Of all data so far.
    crc: u32,
}

/// A frame of a file.
enum Frame<'a> {
    Record {
        data: &'a [u8],
        end: usize,
    },
    /// The rest is unused.
    End,
    /// The file ends before the frame does.
    Short,
}

fn frame(bytes: &[u8], at: usize) -> Frame<'_> {
    let Some(length) = bytes.get(at..at + LENGTH_BYTES) else {
        let rest = bytes.get(at..).unwrap_or_default();
        return if rest.iter().all(|byte| *byte == 0) { Frame::End } else { Frame::Short };
    };
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    if length == 0 {
        return Frame::End;
    }
    let padding = if length >> 63 == 1 { (length >> 56) & 7 } else { 0 };
    let start = at + LENGTH_BYTES;
    let len = usize::try_from(length & ((1 << 56) - 1)).unwrap_or(usize::MAX);
    let end = start.saturating_add(len);
    match (bytes.get(start..end), end.saturating_add(padding as usize)) {
        (Some(data), end) if end <= bytes.len() => Frame::Record { data, end },
        _ => Frame::Short,
    }
}

/// Whether a crash may have left a frame that its file ends before: a file with room behind its records never does.
fn may_be_short(bytes: &[u8]) -> bool {
    bytes.last_chunk::<LENGTH_BYTES>() != Some(&[0; LENGTH_BYTES])
}

/// Whether a crash may have left a record like this: a part of it was never written. `start` is where it lies. Where
/// that is not its data but its beginning, it is no record.
fn may_be_torn(data: &[u8], start: usize, fault: &Fault) -> bool {
    let first = data.len().min(SECTOR_BYTES - start % SECTOR_BYTES);
    if !matches!(fault, Fault::Checksum { .. }) {
        return data[..first].iter().all(|byte| *byte == 0);
    }
    let mut at = 0;
    while at < data.len() {
        let end = data.len().min(at + SECTOR_BYTES - (start + at) % SECTOR_BYTES);
        if data[at..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = end;
    }
    false
}

/// How long a record is as etcd writes it: numbers stand there where they are 0, too.
fn record_len(record: &Record) -> usize {
    use prost::encoding::encoded_len_varint as len;
    let data = record.data.as_ref().map_or(0, |data| 1 + len(data.len() as u64) + data.len());
    2 + len(record.kind as u64) + len(u64::from(record.crc)) + data
}

/// Whether two records follow somewhere that belong together: then what is before them was not the end of the log.
fn goes_on(bytes: &[u8], from: usize) -> bool {
    let record = |at: usize| match frame(bytes, at) {
        Frame::Record { data, end } => Record::decode(data).ok().map(|record| (record, end)),
        Frame::End | Frame::Short => None,
    };
    // Padding lets every record begin at a multiple of eight.
    (from.next_multiple_of(8)..bytes.len()).step_by(8).any(|at| {
        let Some((first, next)) = record(at).filter(|(first, _)| first.data.is_some()) else { return false };
        record(next).is_some_and(|(second, _)| {
            let data = second.data.unwrap_or_default();
            !data.is_empty() && crc32c::crc32c_append(first.crc, &data) == second.crc
        })
    })
}

impl Reading {
    /// Reads a file; where it was cut short, if that may be.
    fn file(&mut self, bytes: &[u8], path: &Path, is_last: bool) -> Result<Option<usize>, Error> {
        let mut at = 0;
        loop {
            let damaged = |fault: Fault| fault.at(path, at as u64);
            let (fault, may_be_torn) = match frame(bytes, at) {
                Frame::End => return Ok(None),
                Frame::Short => (Fault::Short { what: "a record" }, may_be_short(bytes)),
                Frame::Record { data, end } => match self.record(data, at) {
                    Ok(()) => {
                        at = end;
                        continue;
                    }
                    Err(fault) => {
                        let may_be_torn = may_be_torn(data, at + LENGTH_BYTES, &fault);
                        (fault, may_be_torn)
                    }
                },
            };
            let is_torn = is_last && may_be_torn && !goes_on(bytes, at + LENGTH_BYTES);
            return if is_torn { Ok(Some(at)) } else { Err(damaged(fault)) };
        }
    }

    fn record(&mut self, bytes: &[u8], at: usize) -> Result<(), Fault> {
        let record = Record::decode(bytes).map_err(|error| Fault::malformed("a record", error))?;
        if record_len(&record) != bytes.len() {
            return Err(Fault::malformed("a record", "it has another length than its frame"));
        }
        let data = record.data.unwrap_or_default();
        if record.kind == kind::CRC {
            if self.crc != 0 && self.crc != record.crc {
                return Err(Fault::Checksum { found: self.crc, expected: record.crc });
            }
            self.crc = record.crc;
            return Ok(());
        }
        let crc = crc32c::crc32c_append(self.crc, &data);
        if crc != record.crc {
            return Err(Fault::Checksum { found: crc, expected: record.crc });
        }
        self.crc = crc;
        match record.kind {
            kind::ENTRY => self.entry(&data, at),
            kind::STATE => {
                let state =
                    HardState::decode(&data[..]).map_err(|error| Fault::malformed("a state", error))?;
                self.log.committed = state.commit;
                Ok(())
            }
            kind::METADATA | kind::SNAPSHOT => Ok(()),
            other => Err(Fault::malformed("a record", format!("its kind is {other}"))),
        }
    }

    fn entry(&mut self, data: &[u8], at: usize) -> Result<(), Fault> {
        let entry = records::Entry::decode(data).map_err(|error| Fault::malformed("an entry", error))?;
        let entries = &mut self.log.entries;
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            if entry.index > last.index + 1 {
                return Err(Fault::Gap { last: last.index, found: entry.index });
            }
            // A new leader's entries take the place of what an earlier one did not get committed.
            let kept = entry.index.saturating_sub(first.index);
            entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
        entries.push(Entry {
            file: self.log.files.len() - 1,
            offset: at as u64,
            index: entry.index,
            term: entry.term,
            kind: entry.kind,
            data: entry.data.unwrap_or_default(),
        });
        Ok(())
    }
}
