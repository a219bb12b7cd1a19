//! What one request may hold. The same in every back end, so that what works in memory works in a cluster.

use std::collections::BTreeSet;

use crate::atomic::{Commit, Write};
use crate::error::StorageError;

/// The limits of one request: those of a server with etcd's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Keys that a transaction compares, reads or writes (`--max-txn-ops` of the server).
    pub keys_max: usize,
    /// Bytes of all keys and values of one request (`--max-request-bytes` of the server).
    pub request_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { keys_max: 128, request_bytes_max: 1_572_864 }
    }
}

impl Limits {
    pub(crate) fn check_keys<'a>(
        &self,
        keys: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<(), StorageError> {
        let count = keys.len();
        if count > self.keys_max {
            return Err(StorageError::TooManyKeys { keys: count, max: self.keys_max });
        }
        let mut bytes = 0;
        for key in keys {
            if key.is_empty() {
                return Err(StorageError::EmptyKey);
            }
            bytes += key.len();
        }
        self.check_bytes(bytes)
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), StorageError> {
        if bytes > self.request_bytes_max {
            return Err(StorageError::TooLarge { bytes, max: self.request_bytes_max });
        }
        Ok(())
    }

    /// Whether a commit can be sent at all.
    pub(crate) fn check(&self, commit: &Commit) -> Result<(), StorageError> {
        let compared: Vec<&[u8]> = commit
            .conditions
            .iter()
            .map(|condition| &condition.key[..])
            .chain(commit.tokens.iter().map(|token| &token.key[..]))
            .collect();
        self.check_keys(compared.iter().copied())?;
        self.check_keys(commit.writes.iter().map(Write::key))?;
        let mut written = BTreeSet::new();
        for write in &commit.writes {
            if !written.insert(write.key()) {
                return Err(StorageError::DuplicateKey { key: write.key_bytes().clone() });
            }
        }
        self.check_bytes(commit.size_bytes())
    }
}
