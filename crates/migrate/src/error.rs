//! Why a folder can't be read.

use std::io;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{folder} holds no data of an etcd: neither member/wal (2.x and 3.x) nor log or snapshot (0.4) is there",
        folder = .folder.display()
    )]
    NoData { folder: PathBuf },
    #[error("{folder} is a folder of Quorate's own; there is nothing to migrate", folder = .folder.display())]
    OwnFolder { folder: PathBuf },
    #[error("{file} is locked: an etcd still runs on this folder; stop it first", file = .file.display())]
    InUse { file: PathBuf },
    #[error("{what} {path}: {source}", path = .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{file} is damaged at byte {offset}: {fault}", file = .file.display())]
    Damaged { file: PathBuf, offset: u64, fault: Fault },
    #[error("the log lacks {what}: {detail}")]
    Incomplete { what: &'static str, detail: String },
}

/// What is wrong with bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the checksum is {found:08x}, not {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    #[error("{what} ends too early")]
    Short { what: &'static str },
    #[error("{what} can't be understood: {why}")]
    Malformed { what: &'static str, why: String },
    #[error("entry {found} follows after entry {last}: those between are missing")]
    Gap { last: u64, found: u64 },
    #[error("the command {name:?} is not known")]
    UnknownCommand { name: String },
}

impl Fault {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    pub(crate) fn at(self, file: &Path, offset: u64) -> Error {
        Error::Damaged { file: file.to_owned(), offset, fault: self }
    }
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
