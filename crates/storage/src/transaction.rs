//! Transactions: keys are read, a function decides, and its changes are committed only if none of the keys changed.

use std::future::Future;
use std::time::Instant;

use bytes::Bytes;

use crate::atomic::{AtomicStorage, Commit, Condition, Entry, Is, Reading, Write};
use crate::error::StorageError;
use crate::lock::FencingToken;
use crate::retry::RetryPolicy;

/// The keys of a transaction as of one revision, in the order in which they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    revision: i64,
    source: u64,
    keys: Vec<(Bytes, Option<Entry>)>,
}

impl Snapshot {
    /// The key, or `None` where it does not exist. A key that the transaction did not read is an error: it could change
    /// unnoticed.
    pub fn get(&self, key: &[u8]) -> Result<Option<&Entry>, StorageError> {
        match self.keys.iter().find(|(known, _)| known == key) {
            Some((_, entry)) => Ok(entry.as_ref()),
            None => Err(StorageError::NotInSnapshot { key: Bytes::copy_from_slice(key) }),
        }
    }

    /// All keys, those that do not exist too.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Bytes, Option<&Entry>)> {
        self.keys.iter().map(|(key, entry)| (key, entry.as_ref()))
    }

    /// The revision as of which the keys were read.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

/// A transaction that has read its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    snapshot: Snapshot,
    tokens: Vec<FencingToken>,
}

impl Transaction {
    pub(crate) fn new(keys: &[Bytes], reading: Reading) -> Result<Self, StorageError> {
        let keys = keys.iter().map(|key| (key.clone(), None)).collect();
        let mut made = Self { snapshot: Snapshot { revision: 0, source: 0, keys }, tokens: Vec::new() };
        made.refresh(reading)?;
        Ok(made)
    }

    /// Lets it commit only while the lock is held that the token is of.
    #[must_use]
    pub fn fenced_by(mut self, token: &FencingToken) -> Self {
        self.tokens.push(token.clone());
        self
    }

    /// The keys as they were read last.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn refresh(&mut self, reading: Reading) -> Result<(), StorageError> {
        if reading.entries.len() != self.snapshot.keys.len() {
            return Err(StorageError::BadAnswer("not every key of the transaction was answered"));
        }
        (self.snapshot.revision, self.snapshot.source) = (reading.revision, reading.source);
        for ((_, known), entry) in self.snapshot.keys.iter_mut().zip(reading.entries) {
            *known = entry;
        }
        Ok(())
    }

    pub(crate) fn commit(&self, writes: Vec<Write>) -> Commit {
        let conditions = self.snapshot.keys.iter().map(|(key, entry)| Condition {
            key: key.clone(),
            is: entry.as_ref().map_or(Is::Absent, |entry| Is::ModRevision(entry.mod_revision)),
        });
        Commit {
            conditions: conditions.collect(),
            tokens: self.tokens.clone(),
            writes,
            source: Some(self.snapshot.source),
            ..Commit::default()
        }
    }
}

/// What [`AtomicStorage::complete_transaction`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    Committed {
        revision: i64,
    },
    ConditionFailed {
        /// A lock is lost, so it would fail again.
        stale_token: bool,
    },
}

/// What a transaction does with what it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<E> {
    /// Make these changes; they may be of other keys too. Without any, it only makes sure that nothing has changed.
    Commit(Vec<Write>),
    /// Change nothing.
    Abort(E),
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<E> {
    Committed {
        revision: i64,
    },
    /// A condition does not hold and trying again was not allowed, or makes no sense: nothing was changed.
    ConditionFailed {
        /// A lock that the plan names is lost.
        stale_token: bool,
    },
    /// Others changed the keys each time: nothing was changed.
    RetriesExhausted {
        attempts: u32,
    },
    /// The function decided so: nothing was changed.
    Aborted(E),
}

impl<E> Outcome<E> {
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed { .. })
    }
}

/// What a transaction is about, and how often it is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(crate) keys: Vec<Bytes>,
    pub(crate) tokens: Vec<FencingToken>,
    pub(crate) retry: RetryPolicy,
}

impl Plan {
    /// The keys that the transaction reads, and that must not change until it commits. One that is named twice counts
    /// once.
    #[must_use]
    pub fn on(keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut plan = Self::default();
        for key in keys {
            if !plan.keys.iter().any(|known| known == key.as_ref()) {
                plan.keys.push(Bytes::copy_from_slice(key.as_ref()));
            }
        }
        plan
    }

    /// Commits only while the lock is held that the token is of.
    #[must_use]
    pub fn fenced_by(mut self, token: &FencingToken) -> Self {
        self.tokens.push(token.clone());
        self
    }

    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }
}

/// Transactions with retries, on any storage.
pub trait StorageExt: AtomicStorage {
    /// Reads the plan's keys, asks `decide`, and commits its changes only if none of the keys has changed meanwhile; if
    /// one has, it reads them anew and asks again, as often as the plan allows. An error of `decide` ends it.
    fn execute<E, F>(
        &self,
        plan: &Plan,
        mut decide: F,
    ) -> impl Future<Output = Result<Outcome<E>, StorageError>> + Send
    where
        E: Send,
        F: FnMut(&Snapshot) -> Result<Decision<E>, StorageError> + Send,
    {
        async move {
            let began = Instant::now();
            let mut attempts = 0;
            loop {
                attempts += 1;
                let mut transaction = self.start_transaction(&plan.keys).await?;
                transaction.tokens.clone_from(&plan.tokens);
                let writes = match decide(transaction.snapshot())? {
                    Decision::Commit(writes) => writes,
                    Decision::Abort(why) => return Ok(Outcome::Aborted(why)),
                };
                match self.complete_transaction(&mut transaction, writes).await? {
                    Completed::Committed { revision } => return Ok(Outcome::Committed { revision }),
                    Completed::ConditionFailed { stale_token: true } => {
                        return Ok(Outcome::ConditionFailed { stale_token: true });
                    }
                    Completed::ConditionFailed { stale_token: false } => {}
                }
                if plan.retry.attempts_max <= 1 {
                    return Ok(Outcome::ConditionFailed { stale_token: false });
                }
                let pause = plan.retry.pause(attempts);
                if attempts >= plan.retry.attempts_max || began.elapsed() + pause >= plan.retry.deadline {
                    return Ok(Outcome::RetriesExhausted { attempts });
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

impl<S: AtomicStorage + ?Sized> StorageExt for S {}
