//! Storage in this process's memory: for one replica, and for tests. It is gone with the process.
//!
//! Invariants: every operation holds the one lock from its first look to its last change, so each is atomic; a lease
//! whose time is over has taken its keys with it before anything is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::atomic::{
    Answer, AtomicStorage, Commit, Committed, Condition, Entry, Is, LeaseGuard, LeaseStorage, Page, Reading,
    Write,
};
use crate::error::StorageError;
use crate::limits::Limits;
use crate::lock::LockLost;

/// Renewals in a lease's time to live.
const RENEWALS_PER_TTL: u32 = 3;

/// See the module. Clones share what is stored.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    /// Told after each change.
    changed: watch::Sender<()>,
}

struct State {
    revision: i64,
    keys: BTreeMap<Bytes, Row>,
    leases: BTreeMap<i64, Lease>,
    last_lease: i64,
}

struct Row {
    value: Bytes,
    create_revision: i64,
    mod_revision: i64,
    lease: i64,
}

struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<Bytes>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Memory").field("revision", &state.revision).field("keys", &state.keys.len()).finish()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty storage with limits of one's own.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        let state = State { revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new(), last_lease: 0 };
        let changed = watch::Sender::new(());
        Self { shared: Arc::new(Shared { limits, state: Mutex::new(state), changed }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn read_now(&self, keys: &[Bytes]) -> Result<Reading, StorageError> {
        self.shared.limits.check_keys(keys.iter().map(|key| &key[..]))?;
        Ok(self.state().read(keys.iter()))
    }

    fn commit_now(&self, commit: Commit) -> Result<Committed, StorageError> {
        self.shared.limits.check(&commit)?;
        let done = self.state().commit(commit)?;
        if matches!(done, Committed::Yes { .. }) {
            self.shared.changed.send_replace(());
        }
        Ok(done)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(Instant::now());
        state
    }

    /// Renews a lease; whether it still exists.
    fn renew(&self, id: i64) -> bool {
        match self.state().leases.get_mut(&id) {
            Some(lease) => {
                lease.ends = Instant::now() + lease.ttl;
                true
            }
            None => false,
        }
    }
}

impl State {
    fn entry(&self, key: &Bytes) -> Option<Entry> {
        self.keys.get(key).map(|row| row.entry(key))
    }

    fn read<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> Reading {
        Reading { revision: self.revision, entries: keys.map(|key| self.entry(key)).collect(), source: 0 }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let row = self.keys.get(&condition.key);
        match &condition.is {
            Is::Absent => row.is_none(),
            Is::Present => row.is_some(),
            Is::Value(value) => row.is_some_and(|row| row.value == *value),
            Is::ModRevision(revision) => row.is_some_and(|row| row.mod_revision == *revision),
            Is::CreateRevision(revision) => row.is_some_and(|row| row.create_revision == *revision),
        }
    }

    fn commit(&mut self, commit: Commit) -> Result<Committed, StorageError> {
        let tokens_hold = commit
            .tokens
            .iter()
            .all(|token| self.keys.get(&token.key).is_some_and(|row| row.create_revision == token.revision));
        if !tokens_hold || !commit.conditions.iter().all(|condition| self.holds(condition)) {
            let reading = self.read(commit.conditions.iter().map(|condition| &condition.key));
            return Ok(Committed::No { reading, tokens_hold });
        }
        let unknown = commit.writes.iter().find_map(|write| match write {
            Write::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => Some(*lease),
            _ => None,
        });
        if let Some(lease) = unknown {
            return Err(StorageError::NoLease { lease });
        }
        let deletes = commit.writes.iter().any(|write| self.keys.contains_key(write.key_bytes()));
        let puts = commit.writes.iter().any(|write| matches!(write, Write::Put { .. }));
        if deletes || puts {
            self.revision += 1;
        }
        let mut deleted = 0;
        for write in commit.writes {
            match write {
                Write::Put { key, value, lease } => self.put(key, value, lease),
                Write::Delete { key } => deleted += usize::from(self.delete(&key)),
            }
        }
        Ok(Committed::Yes { revision: self.revision, deleted })
    }

    fn put(&mut self, key: Bytes, value: Bytes, lease: i64) {
        let revision = self.revision;
        let old = self.keys.get(&key);
        let create_revision = old.map_or(revision, |row| row.create_revision);
        self.detach(&key);
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.clone());
        }
        self.keys.insert(key, Row { value, create_revision, mod_revision: revision, lease });
    }

    fn delete(&mut self, key: &Bytes) -> bool {
        self.detach(key);
        self.keys.remove(key).is_some()
    }

    /// Takes the key away from its lease, if it has one.
    fn detach(&mut self, key: &Bytes) {
        let lease = self.keys.get(key).map_or(0, |row| row.lease);
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    fn end_lease(&mut self, id: i64) {
        let Some(lease) = self.leases.remove(&id) else { return };
        if !lease.keys.is_empty() {
            self.revision += 1;
        }
        for key in lease.keys {
            self.keys.remove(&key);
        }
    }

    fn expire(&mut self, now: Instant) {
        let over: Vec<i64> =
            self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.end_lease(id);
        }
    }

    fn page(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Page {
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let mut found = self
            .keys
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let limit = if limit == 0 { usize::MAX } else { limit };
        let entries = found.by_ref().take(limit).map(|(key, row)| row.entry(key)).collect();
        Page { revision: self.revision, entries, more: found.next().is_some() }
    }
}

impl Row {
    fn entry(&self, key: &Bytes) -> Entry {
        Entry {
            key: key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            lease: self.lease,
        }
    }
}

impl AtomicStorage for Memory {
    fn read<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Reading> {
        Box::pin(async move { self.read_now(keys) })
    }

    fn page<'a>(&'a self, prefix: &'a [u8], after: Option<&'a [u8]>, limit: usize) -> Answer<'a, Page> {
        Box::pin(async move { Ok(self.state().page(prefix, after, limit)) })
    }

    fn get_prefix<'a>(&'a self, prefix: &'a [u8]) -> Answer<'a, Vec<Entry>> {
        Box::pin(async move { Ok(self.state().page(prefix, None, 0).entries) })
    }

    fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
        Box::pin(async move { self.commit_now(commit) })
    }
}

impl LeaseStorage for Memory {
    fn grant_lease(&self, ttl_seconds: u32) -> Answer<'_, i64> {
        Box::pin(async move {
            let mut state = self.state();
            state.last_lease += 1;
            let (id, ttl) = (state.last_lease, Duration::from_secs(u64::from(ttl_seconds.max(1))));
            state.leases.insert(id, Lease { ttl, ends: Instant::now() + ttl, keys: BTreeSet::new() });
            Ok(id)
        })
    }

    fn keep_lease_alive(&self, lease: i64) -> Answer<'_, LeaseGuard> {
        Box::pin(async move {
            let pause = match self.state().leases.get(&lease) {
                Some(lease) => lease.ttl / RENEWALS_PER_TTL,
                None => return Err(StorageError::NoLease { lease }),
            };
            let (sender, lost) = watch::channel(None);
            let shared = self.shared.clone();
            let task = tokio::spawn(async move {
                while shared.renew(lease) {
                    sleep(pause).await;
                }
                sender.send_replace(Some(LockLost::LeaseEnded));
            });
            Ok(LeaseGuard::new(lost, task.abort_handle()))
        })
    }

    fn revoke_lease(&self, lease: i64) -> Answer<'_, ()> {
        Box::pin(async move {
            self.state().end_lease(lease);
            self.shared.changed.send_replace(());
            Ok(())
        })
    }

    fn lease_seconds_left(&self, lease: i64) -> Answer<'_, Option<i64>> {
        Box::pin(async move {
            let state = self.state();
            let left = state.leases.get(&lease).map(|lease| lease.ends - Instant::now());
            Ok(left.map(|left| i64::try_from(left.as_secs()).unwrap_or(i64::MAX)))
        })
    }

    fn wait_gone<'a>(&'a self, key: &'a [u8], create_revision: i64) -> Answer<'a, ()> {
        Box::pin(async move {
            let key = Bytes::copy_from_slice(key);
            let mut changed = self.shared.changed.subscribe();
            loop {
                let ends = {
                    let state = self.state();
                    let Some(row) = state.keys.get(&key) else { return Ok(()) };
                    if row.create_revision != create_revision {
                        return Ok(());
                    }
                    state.leases.get(&row.lease).map(|lease| lease.ends)
                };
                let over = async {
                    match ends {
                        Some(ends) => sleep_until(ends).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = changed.changed() => {}
                    () = over => {}
                }
            }
        })
    }
}
