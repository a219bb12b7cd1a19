//! A storage whose place can be changed while its users hold on to it: another prefix, another cluster, from memory to
//! a cluster.
//!
//! Invariant: no operation runs on the old place after the last comparison of the two, so nothing is left behind there.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::atomic::{
    Answer, AtomicStorage, Commit, Committed, Entry, LeaseGuard, LeaseStorage, Page, Reading,
};
use crate::copy::{Copied, CopyError, copy_namespace, verify_copy};

/// Counts the switches: revisions of different storages must not be compared.
type Epoch = u32;

/// See the module. It only holds up the operations that go through it: other processes that write to the old place have
/// to be stopped, or switched, by other means.
pub struct Switch {
    current: RwLock<(Epoch, Arc<dyn LeaseStorage>)>,
    /// Held shared by each operation, and alone by a switch.
    gate: tokio::sync::RwLock<()>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Switch {
    /// Starts with this storage.
    #[must_use]
    pub fn new(storage: Arc<dyn LeaseStorage>) -> Self {
        Self { current: RwLock::new((0, storage)), gate: tokio::sync::RwLock::new(()) }
    }

    /// The storage in use.
    #[must_use]
    pub fn current(&self) -> Arc<dyn LeaseStorage> {
        self.epoch_and_current().1
    }

    fn epoch_and_current(&self) -> (Epoch, Arc<dyn LeaseStorage>) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Copies everything to `target`, verifies it, and goes on there. Most is copied while operations go on; they wait
    /// only while what changed meanwhile is brought over and both sides are compared. Where anything fails, the old
    /// storage stays in use.
    ///
    /// The target has to be empty, or `replace` allowed. Locks are not carried over: a lock that is held keeps its old
    /// place, and commits under its token fail in the new one.
    pub async fn migrate(&self, target: Arc<dyn LeaseStorage>, replace: bool) -> Result<Copied, CopyError> {
        let source = self.current();
        let first = copy_namespace(&*source, &*target, replace).await?;
        let _alone = self.gate.write().await;
        let rest = copy_namespace(&*source, &*target, true).await?;
        const DIFFERENCES_SHOWN: usize = 1000;
        let mut differences = verify_copy(&*source, &*target, DIFFERENCES_SHOWN).await?.into_iter();
        if let Some(first) = differences.next() {
            return Err(CopyError::NotEqual { first, more: differences.len() });
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0.wrapping_add(1), target);
        Ok(Copied {
            written: first.written + rest.written,
            deleted: first.deleted + rest.deleted,
            equal: first.equal,
        })
    }
}

/// The epoch stands above what a switch underneath put there.
const EPOCH_SHIFT: u32 = 32;
const INNER_MASK: u64 = u32::MAX as u64;

fn marked(epoch: Epoch, mut reading: Reading) -> Reading {
    reading.source = u64::from(epoch) << EPOCH_SHIFT | (reading.source & INNER_MASK);
    reading
}

impl AtomicStorage for Switch {
    fn read<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Reading> {
        Box::pin(async move {
            let _open = self.gate.read().await;
            let (epoch, current) = self.epoch_and_current();
            Ok(marked(epoch, current.read(keys).await?))
        })
    }

    fn page<'a>(&'a self, prefix: &'a [u8], after: Option<&'a [u8]>, limit: usize) -> Answer<'a, Page> {
        Box::pin(async move {
            let _open = self.gate.read().await;
            self.current().page(prefix, after, limit).await
        })
    }

    fn get_prefix<'a>(&'a self, prefix: &'a [u8]) -> Answer<'a, Vec<Entry>> {
        Box::pin(async move {
            let _open = self.gate.read().await;
            self.current().get_prefix(prefix).await
        })
    }

    fn commit(&self, mut commit: Commit) -> Answer<'_, Committed> {
        Box::pin(async move {
            let _open = self.gate.read().await;
            let (epoch, current) = self.epoch_and_current();
            if let Some(source) = commit.source {
                if source >> EPOCH_SHIFT != u64::from(epoch) {
                    let keys: Vec<Bytes> =
                        commit.conditions.into_iter().map(|condition| condition.key).collect();
                    let reading = marked(epoch, current.read(&keys).await?);
                    return Ok(Committed::No { reading, tokens_hold: commit.tokens.is_empty() });
                }
                commit.source = Some(source & INNER_MASK);
            }
            Ok(match current.commit(commit).await? {
                Committed::No { reading, tokens_hold } => {
                    Committed::No { reading: marked(epoch, reading), tokens_hold }
                }
                done => done,
            })
        })
    }

    fn absolute_key(&self, key: &[u8]) -> Bytes {
        self.current().absolute_key(key)
    }
}

impl LeaseStorage for Switch {
    fn grant_lease(&self, ttl_seconds: u32) -> Answer<'_, i64> {
        Box::pin(async move {
            let _open = self.gate.read().await;
            self.current().grant_lease(ttl_seconds).await
        })
    }

    // What follows stays with the storage that it began in, and would hold a switch up for as long as it lasts.
    fn keep_lease_alive(&self, lease: i64) -> Answer<'_, LeaseGuard> {
        Box::pin(async move { self.current().keep_lease_alive(lease).await })
    }

    fn revoke_lease(&self, lease: i64) -> Answer<'_, ()> {
        Box::pin(async move { self.current().revoke_lease(lease).await })
    }

    fn lease_seconds_left(&self, lease: i64) -> Answer<'_, Option<i64>> {
        Box::pin(async move { self.current().lease_seconds_left(lease).await })
    }

    fn wait_gone<'a>(&'a self, key: &'a [u8], create_revision: i64) -> Answer<'a, ()> {
        Box::pin(async move { self.current().wait_gone(key, create_revision).await })
    }
}
