//! How storage fails.

use bytes::Bytes;
use quorate_client::{ErrorKind, Outcome};

use crate::codec::CodecError;

/// A failed operation. Conditions that do not hold are no failure; they are answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    #[error("a key is empty: the storage takes keys of at least one byte")]
    EmptyKey,
    #[error("the request has {bytes} bytes and at most {max} are taken: store less at a time")]
    TooLarge { bytes: usize, max: usize },
    #[error("the transaction is about {keys} keys and at most {max} are taken: split it")]
    TooManyKeys { keys: usize, max: usize },
    #[error("the transaction writes the key {} twice", shown(.key))]
    DuplicateKey { key: Bytes },
    #[error("the key {} is not among those that the transaction read: name it in the plan", shown(.key))]
    NotInSnapshot { key: Bytes },
    #[error("the key or value of {}: {source}", shown(.key))]
    Codec { key: Bytes, source: CodecError },
    #[error("there is no lease {lease:x}: it expired or was revoked")]
    NoLease { lease: i64 },
    #[error("the store is full: delete something, or raise its quota")]
    NoSpace,
    #[error("no member of the cluster served the request, and nothing was changed: {source}")]
    Unavailable { source: quorate_client::Error },
    #[error("the request may or may not have been carried out; look before you repeat it: {source}")]
    OutcomeUnknown { source: quorate_client::Error },
    #[error("the cluster refused the request: {source}")]
    Refused { source: quorate_client::Error },
    #[error("the server's answer does not fit the request: {0}")]
    BadAnswer(&'static str),
}

impl StorageError {
    /// Whether the operation may have had an effect all the same.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::BadAnswer(_))
    }
}

impl From<quorate_client::Error> for StorageError {
    fn from(source: quorate_client::Error) -> Self {
        match source.kind() {
            ErrorKind::KeyNotProvided => Self::EmptyKey,
            ErrorKind::NoSpace => Self::NoSpace,
            _ if source.outcome() == Outcome::Unknown => Self::OutcomeUnknown { source },
            ErrorKind::Unreachable
            | ErrorKind::NoLeader
            | ErrorKind::ConnectionLost
            | ErrorKind::Timeout
            | ErrorKind::ClusterTimedOut
            | ErrorKind::LeaderChanged
            | ErrorKind::Stopped
            | ErrorKind::TooManyRequests => Self::Unavailable { source },
            _ => Self::Refused { source },
        }
    }
}

/// A key for people: as text with escapes, cut where it is long.
pub(crate) fn shown(key: &[u8]) -> String {
    const BYTES_MAX: usize = 120;
    let cut = &key[..key.len().min(BYTES_MAX)];
    let dots = if key.len() > BYTES_MAX { "..." } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}
