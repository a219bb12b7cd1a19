//! The snapshots of etcd 2 and 3: a CRC32C, and the store as JSON with the log's index and term that it is of.

use std::path::Path;

use prost::Message;

use super::FIXED;
use super::records::{Snapshot, SnapshotFile};
use crate::error::{Error, Fault};
use crate::json;
use crate::replay::Store;

/// A snapshot that was read.
pub(crate) struct Found {
    pub index: u64,
    pub term: u64,
    pub store: Store,
}

/// The newest snapshot of a folder that is whole. As etcd itself, it goes back to the one before where a crash cut the
/// newest short; whether the log still goes on from there is seen when it is read.
pub(crate) fn newest(folder: &Path, notes: &mut Vec<String>) -> Result<Option<Found>, Error> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("listing", folder)(error)),
    };
    let mut files = Vec::new();
    for entry in listed {
        let path = entry.map_err(Error::io("listing", folder))?.path();
        // Names have a fixed width: term, then index.
        if path.extension().is_some_and(|extension| extension == "snap") {
            files.push(path);
        }
    }
    files.sort();
    for file in files.iter().rev() {
        match load(file) {
            Ok(found) => return Ok(Some(found)),
            Err(error @ Error::Damaged { .. }) => {
                notes.push(format!("{error}; what came before it was used"))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn load(file: &Path) -> Result<Found, Error> {
    let bytes = std::fs::read(file).map_err(Error::io("reading", file))?;
    let damaged = |fault: Fault| fault.at(file, 0);
    let malformed = |error: prost::DecodeError| damaged(Fault::malformed("the snapshot", error));
    let outer = SnapshotFile::decode(&bytes[..]).map_err(malformed)?;
    let data = outer.data.filter(|data| !data.is_empty() && outer.crc != 0);
    let Some(data) = data else { return Err(damaged(Fault::Short { what: "the snapshot" })) };
    let found = crc32c::crc32c(&data);
    if found != outer.crc {
        return Err(damaged(Fault::Checksum { found, expected: outer.crc }));
    }
    let snapshot = Snapshot::decode(&data[..]).map_err(malformed)?;
    let metadata = snapshot.metadata.unwrap_or_default();
    let store = json::store(&snapshot.data.unwrap_or_default(), &FIXED).map_err(damaged)?;
    Ok(Found { index: metadata.index, term: metadata.term, store })
}
