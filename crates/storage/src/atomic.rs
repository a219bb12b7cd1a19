//! The trait that back ends implement, and what it is asked and answers.
//!
//! Back ends implement three primitives: read keys, read a page of a prefix, commit under conditions. Everything else
//! is made of them here, once, so that it means the same everywhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::StorageError;
use crate::lock::{FencingToken, LockLost};
use crate::transaction::{Completed, Transaction};

/// What an operation returns: a future, so that storage can be used behind `dyn`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'a>>;

/// A key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that wrote it last.
    pub mod_revision: i64,
    /// The lease it dies with; 0: none.
    pub lease: i64,
}

/// Several keys as of one revision, in the order in which they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub revision: i64,
    pub entries: Vec<Option<Entry>>,
    /// Which storage's revisions these are, where a [`crate::Switch`] may have changed it; else 0.
    pub source: u64,
}

/// A part of the keys with a prefix, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub revision: i64,
    pub entries: Vec<Entry>,
    /// Whether there are keys behind the last one.
    pub more: bool,
}

/// What has to be true of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Is {
    Absent,
    Present,
    Value(Bytes),
    ModRevision(i64),
    CreateRevision(i64),
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub key: Bytes,
    pub is: Is,
}

impl Condition {
    #[must_use]
    pub fn new(key: impl AsRef<[u8]>, is: Is) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_ref()), is }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put { key: Bytes, value: Bytes, lease: i64 },
    Delete { key: Bytes },
}

impl Write {
    #[must_use]
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::put_under_lease(key, value, 0)
    }

    /// Writes a key that is deleted when the lease ends.
    #[must_use]
    pub fn put_under_lease(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, lease: i64) -> Self {
        Self::Put {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: Bytes::copy_from_slice(value.as_ref()),
            lease,
        }
    }

    #[must_use]
    pub fn delete(key: impl AsRef<[u8]>) -> Self {
        Self::Delete { key: Bytes::copy_from_slice(key.as_ref()) }
    }

    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key_bytes()
    }

    pub(crate) fn key_bytes(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(crate) fn map_key(self, map: impl FnOnce(&[u8]) -> Bytes) -> Self {
        match self {
            Self::Put { key, value, lease } => Self::Put { key: map(&key), value, lease },
            Self::Delete { key } => Self::Delete { key: map(&key) },
        }
    }
}

/// Changes that are made together, if all conditions hold and all tokens are those of held locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    pub conditions: Vec<Condition>,
    pub tokens: Vec<FencingToken>,
    pub writes: Vec<Write>,
    /// The caller's word that carrying it out twice is the same as once: it is sent again where an answer was lost.
    pub repeatable: bool,
    /// Whose revisions the conditions name ([`Reading::source`]); where that storage is no longer in use, they do not
    /// hold.
    pub source: Option<u64>,
}

impl Commit {
    #[must_use]
    pub fn new(conditions: Vec<Condition>, writes: Vec<Write>) -> Self {
        Self { conditions, writes, ..Self::default() }
    }

    /// See [`Commit::repeatable`].
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    pub(crate) fn size_bytes(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| {
            let operand = if let Is::Value(value) = &condition.is { value.len() } else { 0 };
            condition.key.len() + operand
        });
        let writes = self.writes.iter().map(|write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        });
        conditions.chain(writes).sum()
    }
}

/// What became of a [`Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    Yes {
        revision: i64,
        /// Keys that were there to be deleted.
        deleted: usize,
    },
    /// A condition does not hold; nothing was changed.
    No {
        /// The keys of the conditions, in their order, as they are.
        reading: Reading,
        /// Whether all tokens are still those of held locks.
        tokens_hold: bool,
    },
}

/// Keys that change atomically.
///
/// Keys and values are bytes; a key has at least one. All reads are linearizable. Where a write's outcome is unknown the
/// error says so ([`StorageError::OutcomeUnknown`]), and it is not sent again by itself.
pub trait AtomicStorage: Send + Sync {
    /// Reads keys as of one revision.
    fn read<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Reading>;

    /// Reads up to `limit` keys that begin with `prefix` and come behind `after`, in their order. `limit` 0 means as
    /// many as there are.
    fn page<'a>(&'a self, prefix: &'a [u8], after: Option<&'a [u8]>, limit: usize) -> Answer<'a, Page>;

    /// All keys that begin with `prefix`, in their order, as of one revision. For many keys, take [`Self::page`].
    fn get_prefix<'a>(&'a self, prefix: &'a [u8]) -> Answer<'a, Vec<Entry>>;

    /// Makes changes under conditions.
    fn commit(&self, commit: Commit) -> Answer<'_, Committed>;

    /// The key as the undermost storage has it.
    fn absolute_key(&self, key: &[u8]) -> Bytes {
        Bytes::copy_from_slice(key)
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            let keys = [Bytes::copy_from_slice(key)];
            Ok(self.read(&keys).await?.entries.pop().flatten())
        })
    }

    /// Writes a key. Answers the revision.
    fn put<'a>(&'a self, key: &'a [u8], value: &'a [u8]) -> Answer<'a, i64> {
        Box::pin(async move {
            match self.commit(Commit::new(vec![], vec![Write::put(key, value)])).await? {
                Committed::Yes { revision, .. } => Ok(revision),
                Committed::No { .. } => Err(StorageError::BadAnswer("a put without conditions was refused")),
            }
        })
    }

    /// Writes a key that does not exist. Answers whether it did.
    fn put_if_absent<'a>(&'a self, key: &'a [u8], value: &'a [u8]) -> Answer<'a, bool> {
        Box::pin(self.write_if(key, Is::Absent, Write::put(key, value)))
    }

    /// Writes a key whose value is `previous`. Answers whether it did. A key that does not exist has no value, not even
    /// an empty one.
    fn compare_and_swap<'a>(&'a self, key: &'a [u8], previous: &'a [u8], next: &'a [u8]) -> Answer<'a, bool> {
        Box::pin(self.write_if(key, Is::Value(Bytes::copy_from_slice(previous)), Write::put(key, next)))
    }

    /// Deletes a key whose value is `previous`. Answers whether it did.
    fn compare_and_delete<'a>(&'a self, key: &'a [u8], previous: &'a [u8]) -> Answer<'a, bool> {
        Box::pin(self.write_if(key, Is::Value(Bytes::copy_from_slice(previous)), Write::delete(key)))
    }

    /// Deletes a key. Answers whether it existed.
    fn delete<'a>(&'a self, key: &'a [u8]) -> Answer<'a, bool> {
        Box::pin(async move {
            match self.commit(Commit::new(vec![], vec![Write::delete(key)])).await? {
                Committed::Yes { deleted, .. } => Ok(deleted > 0),
                Committed::No { .. } => {
                    Err(StorageError::BadAnswer("a delete without conditions was refused"))
                }
            }
        })
    }

    #[doc(hidden)]
    fn write_if<'a>(&'a self, key: &'a [u8], is: Is, write: Write) -> Answer<'a, bool> {
        Box::pin(async move {
            let done = self.commit(Commit::new(vec![Condition::new(key, is)], vec![write])).await?;
            Ok(matches!(done, Committed::Yes { .. }))
        })
    }

    /// Reads the keys that a transaction is about. [`crate::StorageExt::execute`] does this and what follows, with
    /// retries.
    fn start_transaction<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Transaction> {
        Box::pin(async move {
            let reading = self.read(keys).await?;
            Transaction::new(keys, reading)
        })
    }

    /// Makes changes if none of the transaction's keys has changed since it read them; the changes may be of other keys
    /// too. Where one has, the transaction then knows them as they are now, and may be completed anew.
    fn complete_transaction<'a>(
        &'a self,
        transaction: &'a mut Transaction,
        writes: Vec<Write>,
    ) -> Answer<'a, Completed> {
        Box::pin(async move {
            let commit = transaction.commit(writes);
            match self.commit(commit).await? {
                Committed::Yes { revision, .. } => Ok(Completed::Committed { revision }),
                Committed::No { reading, tokens_hold } => {
                    transaction.refresh(reading)?;
                    Ok(Completed::ConditionFailed { stale_token: !tokens_hold })
                }
            }
        })
    }
}

/// A lease that is kept alive until this is dropped. That does not end it: it ends when its time is over.
#[derive(Debug)]
pub struct LeaseGuard {
    pub(crate) lost: watch::Receiver<Option<LockLost>>,
    pub(crate) task: AbortHandle,
}

impl LeaseGuard {
    /// For back ends: `task` renews the lease, and `lost` tells when it can't any more.
    #[must_use]
    pub fn new(lost: watch::Receiver<Option<LockLost>>, task: AbortHandle) -> Self {
        Self { lost, task }
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) -> LockLost {
        let mut lost = self.lost.clone();
        let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        why.unwrap_or(LockLost::NotRenewed)
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Leases: what locks live under.
pub trait LeaseStorage: AtomicStorage {
    /// Grants a lease; answers its id.
    fn grant_lease(&self, ttl_seconds: u32) -> Answer<'_, i64>;

    /// Keeps a lease alive in the background.
    fn keep_lease_alive(&self, lease: i64) -> Answer<'_, LeaseGuard>;

    /// Ends a lease, and deletes its keys. One that has ended already is no error.
    fn revoke_lease(&self, lease: i64) -> Answer<'_, ()>;

    /// Seconds that a lease has left; `None` where there is no such lease.
    fn lease_seconds_left(&self, lease: i64) -> Answer<'_, Option<i64>>;

    /// Waits until the key as created by this revision is gone.
    fn wait_gone<'a>(&'a self, key: &'a [u8], create_revision: i64) -> Answer<'a, ()>;
}

macro_rules! delegate {
    ($($on:ty),*) => {$(
        impl<S: AtomicStorage + ?Sized> AtomicStorage for $on {
            fn read<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Reading> {
                (**self).read(keys)
            }

            fn page<'a>(
                &'a self,
                prefix: &'a [u8],
                after: Option<&'a [u8]>,
                limit: usize,
            ) -> Answer<'a, Page> {
                (**self).page(prefix, after, limit)
            }

            fn get_prefix<'a>(&'a self, prefix: &'a [u8]) -> Answer<'a, Vec<Entry>> {
                (**self).get_prefix(prefix)
            }

            fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
                (**self).commit(commit)
            }

            fn absolute_key(&self, key: &[u8]) -> Bytes {
                (**self).absolute_key(key)
            }
        }

        impl<S: LeaseStorage + ?Sized> LeaseStorage for $on {
            fn grant_lease(&self, ttl_seconds: u32) -> Answer<'_, i64> {
                (**self).grant_lease(ttl_seconds)
            }

            fn keep_lease_alive(&self, lease: i64) -> Answer<'_, LeaseGuard> {
                (**self).keep_lease_alive(lease)
            }

            fn revoke_lease(&self, lease: i64) -> Answer<'_, ()> {
                (**self).revoke_lease(lease)
            }

            fn lease_seconds_left(&self, lease: i64) -> Answer<'_, Option<i64>> {
                (**self).lease_seconds_left(lease)
            }

            fn wait_gone<'a>(&'a self, key: &'a [u8], create_revision: i64) -> Answer<'a, ()> {
                (**self).wait_gone(key, create_revision)
            }
        }
    )*};
}

delegate!(Arc<S>, Box<S>);

impl fmt::Debug for dyn AtomicStorage + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtomicStorage")
    }
}
