//! What can go wrong, by what the caller can do about it.

use std::io;
use std::sync::Arc;

use crate::{Stamp, TableId};

/// What an intact record header says of a record whose body is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordName {
    pub table: TableId,
    pub key: Vec<u8>,
    pub stamp: Stamp,
}

/// Why a body could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// `name` is known where the record's header is intact. [`crate::Store::mend`] puts a peer's copy in its place.
    #[error(
        "segment {segment:08x} at offset {offset}: {what}; the record was not served, fetch it from a peer"
    )]
    Corrupt { segment: u32, offset: u32, what: &'static str, name: Option<Box<RecordName>> },
    #[error("segment {segment:08x} is gone; the reader held no pin or was too slow, read again")]
    Gone { segment: u32 },
    #[error("segment {segment:08x} at offset {offset}: {error}")]
    Io { segment: u32, offset: u32, error: Arc<io::Error> },
}

/// Why background work (checkpoint, merge, rewrite, transfer) failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is lost: the frozen front stays in memory. Free space, then call again with the same arguments.
    #[error("{path}: no space left on the disk; free some and try again ({error})")]
    NoSpace { path: String, error: io::Error },
    /// What is durable is not known any more. The member must stop and open its store anew.
    #[error("{path}: {error}; stop this member and check its disk")]
    Io { path: String, error: io::Error },
    #[error("an earlier write of this store failed; stop this member and check its disk")]
    Stopped,
    #[error("{path} at offset {offset}: {what}; the file is damaged")]
    Corrupt { path: String, offset: u64, what: &'static str },
    #[error("the store moved on to generation {current:x}; work for generation {asked:x} is void")]
    Superseded { asked: u64, current: u64 },
    #[error("this front was not frozen by this store or is durable already")]
    NotPending,
    #[error("an export has no file named {name}")]
    NoSuchFile { name: String },
}

impl StoreError {
    pub(crate) fn io(path: &str, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, error },
            _ => Self::Io { path, error },
        }
    }

    pub(crate) fn corrupt(path: &str, offset: u64, what: &'static str) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, what }
    }

    /// An error of reading: running over the end of a file means that a part of it is missing.
    pub(crate) fn reading(path: &str, offset: u64, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::corrupt(path, offset, "the file ends too early");
        }
        Self::io(path, error)
    }
}

/// Why a store could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{folder} holds no store (no manifest)")]
    Missing { folder: String },
    #[error("{folder} holds a store already; it was left untouched")]
    Exists { folder: String },
    #[error(
        "{path}: format version {found}, this program reads {known}; use the version that wrote it or a newer one"
    )]
    Version { path: String, found: u32, known: u32 },
    #[error(
        "{path}: belongs to {what} {found:x}, not {expected:x}; point this member to its own data folder"
    )]
    Identity { path: String, what: &'static str, found: u64, expected: u64 },
    #[error(
        "{path}: table {table:#04x} has hash {found:032x} after loading, its manifest says {expected:032x}"
    )]
    Hash { path: String, table: u8, found: u128, expected: u128 },
    #[error(transparent)]
    Store(#[from] StoreError),
}
