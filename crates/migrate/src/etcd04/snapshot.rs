//! The snapshots of etcd 0.4: a CRC32 as eight hexadecimal digits, a line's end, and JSON that holds the store's.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, Fault};
use crate::json;
use crate::replay::Store;

/// A snapshot that was read.
pub(crate) struct Found {
    pub index: u64,
    pub term: u64,
    pub store: Store,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "lastIndex")]
    last_index: u64,
    #[serde(rename = "lastTerm")]
    last_term: u64,
    /// Base64 of JSON.
    state: Option<String>,
}

const CHECKSUM_BYTES: usize = 9;

/// The newest snapshot of a folder. One that a crash cut short, and that has no other behind it, is an error: the log
/// before it may be gone.
pub(crate) fn newest(folder: &Path, notes: &mut Vec<String>) -> Result<Option<Found>, Error> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("listing", folder)(error)),
    };
    let mut files = Vec::new();
    for entry in listed {
        let entry = entry.map_err(Error::io("listing", folder))?;
        let name = entry.file_name();
        let place = name.to_str().and_then(|name| name.strip_suffix(".ss")).and_then(|name| {
            let (term, index) = name.split_once('_')?;
            Some((term.parse::<u64>().ok()?, index.parse::<u64>().ok()?))
        });
        match place {
            Some(place) => files.push((place, entry.path())),
            None => notes
                .push(format!("{} is no snapshot by its name, and was passed over", entry.path().display())),
        }
    }
    files.sort();
    let mut first_error = None;
    for (_, file) in files.iter().rev() {
        match load(file) {
            Ok(found) => return Ok(Some(found)),
            // The one before it was not removed yet when the machine stopped.
            Err(error @ Error::Damaged { .. }) => {
                notes.push(format!("{error}; the snapshot before it was tried"));
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    first_error.map_or(Ok(None), Err)
}

fn load(file: &Path) -> Result<Found, Error> {
    let bytes = std::fs::read(file).map_err(Error::io("reading", file))?;
    let damaged = |offset: usize| move |fault: Fault| fault.at(file, offset as u64);
    let Some((checksum, json)) = bytes.split_at_checked(CHECKSUM_BYTES) else {
        return Err(damaged(0)(Fault::Short { what: "the snapshot" }));
    };
    let digits = std::str::from_utf8(checksum).ok().and_then(|text| text.strip_suffix('\n'));
    let expected = digits.and_then(|digits| u32::from_str_radix(digits.trim_start(), 16).ok());
    let Some(expected) = expected else {
        let why = "it is not eight hexadecimal digits and a line's end";
        return Err(damaged(0)(Fault::malformed("the checksum", why)));
    };
    let found = crc32fast::hash(json);
    if found != expected {
        return Err(damaged(CHECKSUM_BYTES)(Fault::Checksum { found, expected }));
    }
    let within = damaged(CHECKSUM_BYTES);
    let saved: Saved =
        serde_json::from_slice(json).map_err(|error| within(Fault::malformed("the snapshot", error)))?;
    let state = STANDARD
        .decode(saved.state.unwrap_or_default())
        .map_err(|error| within(Fault::malformed("the snapshot's state", error)))?;
    let store = json::store(&state, &[]).map_err(within)?;
    Ok(Found { index: saved.last_index, term: saved.last_term, store })
}
