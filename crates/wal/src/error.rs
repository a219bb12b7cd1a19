//! What can go wrong with a log, and what to do about it.

use std::io;

use quorate_ids::LogIndex;

use crate::Identity;

/// Every way in which a call on the log can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    #[error("the log's configuration cannot work: {what}")]
    InvalidConfig { what: String },

    #[error("a log exists already in folder {folder:?}; open it instead of making a new one")]
    Exists { folder: String },

    #[error("there is no log in folder {folder:?}; a member that had one must not start without it")]
    Missing { folder: String },

    /// A file in the log's folder that the log never wrote.
    #[error("{file} is not a segment of this log; move it out of the log's folder and start again")]
    Foreign { file: String },

    #[error(
        "{file} at byte {offset} was written by a newer version ({what}); start the newer version of quorate"
    )]
    NewerFormat { file: String, offset: u64, what: String },

    #[error("{file} belongs to {found}, but this is {expected}; point the member at its own data folder")]
    WrongIdentity { file: String, expected: Identity, found: Identity },

    /// Bytes that were durable once cannot be read back. Nothing was changed on disk.
    #[error(
        "the log is damaged: {file} at byte {offset}: {what}. Acknowledged writes may be lost on this member; restore \
         it from its peers: start it once with --give-up-data, so that it gives up its log and store and returns as \
         a new incarnation"
    )]
    Damaged { file: String, offset: u64, what: String },

    /// The batch was refused before anything of it was written; the log stays usable.
    #[error(
        "an entry of {payload_bytes} bytes is over the log's limit of {payload_bytes_max}; send it in pieces"
    )]
    TooLarge { payload_bytes: u64, payload_bytes_max: u64 },

    /// The batch was refused before anything of it was written; the log stays usable.
    #[error("log index {index} was refused: {what}")]
    Refused { index: LogIndex, what: &'static str },

    /// No segment could be prepared. Nothing of the batch was written; the log stays usable and the same append
    /// succeeds once there is space.
    #[error(
        "no space to prepare a log segment of {needed_bytes} bytes in folder {folder:?}; free some and try again"
    )]
    NoSpace { folder: String, needed_bytes: u64 },

    /// A write or sync failed, now or earlier: what the file holds is unknown, so this log takes nothing more.
    /// A restart reads back what is there.
    #[error(
        "{action} {file} failed ({detail}); what the file holds is unknown, so the log takes no more writes: check \
         the disk, then restart the member"
    )]
    Failed { file: String, action: &'static str, kind: io::ErrorKind, detail: String },

    /// An error of the disk before the log was in use, or while a segment was prepared.
    #[error("{action} {file} failed: {source}")]
    Io { file: String, action: &'static str, source: io::Error },
}

impl WalError {
    pub(crate) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, action, source }
    }

    pub(crate) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what: what.into() }
    }
}

/// The first failed write or sync. Kept, so that every later call answers the same.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub file: String,
    pub action: &'static str,
    pub kind: io::ErrorKind,
    pub detail: String,
}

impl Failure {
    pub fn new(file: &str, action: &'static str, error: &io::Error) -> Self {
        Self { file: file.to_owned(), action, kind: error.kind(), detail: error.to_string() }
    }
}

impl From<Failure> for WalError {
    fn from(failure: Failure) -> Self {
        let Failure { file, action, kind, detail } = failure;
        Self::Failed { file, action, kind, detail }
    }
}

/// True where `error` says that the disk, or the share of it that we may use, is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
