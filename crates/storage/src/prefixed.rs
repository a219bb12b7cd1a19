//! A part of a storage: the keys under a prefix and a slash.
//!
//! The rule: the key `k` under the prefix `p` is `p/k`, byte for byte. One slash is put in between, always, and nothing is
//! cleaned: `p` may end with a slash and `k` may begin with one, and `//` in the middle is kept. Where keys are read
//! back, exactly `p/` is taken off again.

use bytes::Bytes;

use crate::atomic::{
    Answer, AtomicStorage, Commit, Committed, Condition, Entry, LeaseGuard, LeaseStorage, Page, Reading,
};
use crate::error::StorageError;

/// See the module.
#[derive(Clone, Debug)]
pub struct Prefixed<S> {
    storage: S,
    /// With the slash.
    prefix: Bytes,
}

impl<S> Prefixed<S> {
    /// The keys of `storage` that begin with `prefix` and a slash.
    #[must_use]
    pub fn new(storage: S, prefix: impl AsRef<[u8]>) -> Self {
        Self { storage, prefix: [prefix.as_ref(), b"/"].concat().into() }
    }

    /// The storage that this is a part of.
    #[must_use]
    pub fn storage(&self) -> &S {
        &self.storage
    }

    fn full(&self, key: &[u8]) -> Bytes {
        [&self.prefix, key].concat().into()
    }

    /// A key of a user, who may not leave it empty here either.
    fn full_key(&self, key: &[u8]) -> Result<Bytes, StorageError> {
        if key.is_empty() { Err(StorageError::EmptyKey) } else { Ok(self.full(key)) }
    }

    fn stripped(&self, mut entry: Entry) -> Entry {
        entry.key = entry.key.slice(self.prefix.len().min(entry.key.len())..);
        entry
    }

    fn stripped_reading(&self, reading: Reading) -> Reading {
        let Reading { revision, entries, source } = reading;
        let entries = entries.into_iter().map(|entry| entry.map(|entry| self.stripped(entry))).collect();
        Reading { revision, entries, source }
    }
}

impl<S: AtomicStorage> AtomicStorage for Prefixed<S> {
    fn read<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Reading> {
        Box::pin(async move {
            let keys: Vec<Bytes> = keys.iter().map(|key| self.full_key(key)).collect::<Result<_, _>>()?;
            Ok(self.stripped_reading(self.storage.read(&keys).await?))
        })
    }

    fn page<'a>(&'a self, prefix: &'a [u8], after: Option<&'a [u8]>, limit: usize) -> Answer<'a, Page> {
        Box::pin(async move {
            let (prefix, after) = (self.full(prefix), after.map(|after| self.full(after)));
            let page = self.storage.page(&prefix, after.as_deref(), limit).await?;
            let entries = page.entries.into_iter().map(|entry| self.stripped(entry)).collect();
            Ok(Page { entries, ..page })
        })
    }

    fn get_prefix<'a>(&'a self, prefix: &'a [u8]) -> Answer<'a, Vec<Entry>> {
        Box::pin(async move {
            let entries = self.storage.get_prefix(&self.full(prefix)).await?;
            Ok(entries.into_iter().map(|entry| self.stripped(entry)).collect())
        })
    }

    fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
        Box::pin(async move {
            let Commit { conditions, tokens, writes, repeatable, source } = commit;
            let map = |condition: Condition| {
                Ok(Condition { key: self.full_key(&condition.key)?, is: condition.is })
            };
            let conditions = conditions.into_iter().map(map).collect::<Result<_, StorageError>>()?;
            if writes.iter().any(|write| write.key().is_empty()) {
                return Err(StorageError::EmptyKey);
            }
            let writes = writes.into_iter().map(|write| write.map_key(|key| self.full(key))).collect();
            // Tokens name their keys as the undermost storage has them, so that they hold across prefixes.
            let commit = Commit { conditions, tokens, writes, repeatable, source };
            Ok(match self.storage.commit(commit).await? {
                Committed::No { reading, tokens_hold } => {
                    Committed::No { reading: self.stripped_reading(reading), tokens_hold }
                }
                done => done,
            })
        })
    }

    fn absolute_key(&self, key: &[u8]) -> Bytes {
        self.storage.absolute_key(&self.full(key))
    }
}

impl<S: LeaseStorage> LeaseStorage for Prefixed<S> {
    fn grant_lease(&self, ttl_seconds: u32) -> Answer<'_, i64> {
        self.storage.grant_lease(ttl_seconds)
    }

    fn keep_lease_alive(&self, lease: i64) -> Answer<'_, LeaseGuard> {
        self.storage.keep_lease_alive(lease)
    }

    fn revoke_lease(&self, lease: i64) -> Answer<'_, ()> {
        self.storage.revoke_lease(lease)
    }

    fn lease_seconds_left(&self, lease: i64) -> Answer<'_, Option<i64>> {
        self.storage.lease_seconds_left(lease)
    }

    fn wait_gone<'a>(&'a self, key: &'a [u8], create_revision: i64) -> Answer<'a, ()> {
        Box::pin(async move { self.storage.wait_gone(&self.full(key), create_revision).await })
    }
}
