//! The file `log` of etcd 0.4: entries, each with its length before it as eight hexadecimal digits and a line's end.

use std::path::Path;

use prost::Message;

use crate::error::{Error, Fault};

/// An entry, and where in the file it begins.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub offset: u64,
    pub index: u64,
    pub term: u64,
    pub name: String,
    /// JSON.
    pub command: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct LogEntry {
    #[prost(uint64, required, tag = "1")]
    index: u64,
    #[prost(uint64, required, tag = "2")]
    term: u64,
    #[prost(string, required, tag = "3")]
    command_name: String,
    #[prost(bytes = "vec", optional, tag = "4")]
    command: Option<Vec<u8>>,
}

/// Bytes of a length and its line's end.
const LENGTH_BYTES: usize = 9;

/// Reads the whole log. A last entry that a crash cut short is left out, and noted.
pub(crate) fn read(file: &Path, notes: &mut Vec<String>) -> Result<Vec<Entry>, Error> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io("reading", file)(error)),
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let damaged = |fault: Fault| fault.at(file, at as u64);
        let rest = &bytes[at..];
        let Some(data) = whole(rest).map_err(damaged)? else {
            if goes_on(rest, entries.last().map_or(0, |last| last.index)) {
                return Err(damaged(Fault::Short { what: "an entry" }));
            }
            notes.push(format!(
                "the last entry of {} was cut short at byte {at}: the machine stopped while it wrote it",
                file.display()
            ));
            break;
        };
        let entry = LogEntry::decode(data).map_err(|error| damaged(Fault::malformed("an entry", error)))?;
        if let Some(last) = entries.last().filter(|last| entry.index != last.index + 1) {
            return Err(damaged(Fault::Gap { last: last.index, found: entry.index }));
        }
        entries.push(Entry {
            offset: at as u64,
            index: entry.index,
            term: entry.term,
            name: entry.command_name,
            command: entry.command.unwrap_or_default(),
        });
        at += LENGTH_BYTES + data.len();
    }
    Ok(entries)
}

/// The data of the entry that `rest` begins with; `None` where the file ends before the entry does.
fn whole(rest: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some((length, rest)) = rest.split_at_checked(LENGTH_BYTES) else { return Ok(None) };
    let digits = std::str::from_utf8(length).ok().and_then(|text| text.strip_suffix('\n'));
    let length = digits.and_then(|digits| usize::from_str_radix(digits.trim_start(), 16).ok());
    let Some(length) = length else {
        return Err(Fault::malformed(
            "an entry's length",
            "it is not eight hexadecimal digits and a line's end",
        ));
    };
    Ok(rest.get(..length))
}

/// Whether an entry with a greater index than `last` begins within: then what is before it was not the end of the log.
fn goes_on(rest: &[u8], last: u64) -> bool {
    let ends =
        rest.iter().enumerate().skip(LENGTH_BYTES).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    ends.map(|at| &rest[at + 1 - LENGTH_BYTES..]).any(|rest| {
        let data = whole(rest).ok().flatten().filter(|data| !data.is_empty());
        data.and_then(|data| LogEntry::decode(data).ok()).is_some_and(|entry| entry.index > last)
    })
}
