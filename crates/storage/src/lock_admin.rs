//! Looking at locks, and taking them away by force.

use bytes::Bytes;

use crate::atomic::{Commit, Condition, Entry, Is, LeaseStorage, Write};
use crate::error::StorageError;
use crate::lock::{FencingToken, Holder, holder, lock_name, queue};

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockState {
    pub name: Bytes,
    pub holder: Holder,
    /// Seconds until the lock frees itself, unless its holder renews it; `None` where it has just ended.
    pub seconds_left: Option<i64>,
    /// How many wait for it.
    pub waiting: usize,
}

/// The locks whose names begin with `prefix`, by name. It also finds locks that etcd's own clients took.
pub async fn list_locks(storage: &dyn LeaseStorage, prefix: &[u8]) -> Result<Vec<LockState>, StorageError> {
    let entries = storage.get_prefix(prefix).await?;
    let mut queues: std::collections::BTreeMap<Bytes, Vec<Entry>> = std::collections::BTreeMap::new();
    for entry in entries {
        if let Some(name) = lock_name(&entry) {
            queues.entry(entry.key.slice_ref(name)).or_default().push(entry);
        }
    }
    let mut states = Vec::with_capacity(queues.len());
    for (name, mut queue) in queues {
        queue.sort_by_key(|entry| entry.create_revision);
        states.extend(state(storage, name, &queue).await?);
    }
    Ok(states)
}

/// Who holds a lock; `None` where nobody does.
pub async fn inspect_lock(
    storage: &dyn LeaseStorage,
    name: &[u8],
) -> Result<Option<LockState>, StorageError> {
    let queue = queue(storage, name).await?;
    state(storage, Bytes::copy_from_slice(name), &queue).await
}

async fn state(
    storage: &dyn LeaseStorage,
    name: Bytes,
    queue: &[Entry],
) -> Result<Option<LockState>, StorageError> {
    let Some(front) = queue.first() else { return Ok(None) };
    let seconds_left = storage.lease_seconds_left(front.lease).await?;
    Ok(Some(LockState { name, holder: holder(storage, front), seconds_left, waiting: queue.len() - 1 }))
}

/// Takes a lock away from its holder, and answers who that was; `None` where nobody held it. With `only`, it is taken
/// from that holder alone: give the token that an inspection showed, so that nobody else loses it. The holder is told,
/// and its commits fail.
pub async fn force_unlock(
    storage: &dyn LeaseStorage,
    name: &[u8],
    only: Option<&FencingToken>,
) -> Result<Option<Holder>, StorageError> {
    let Some(front) = queue(storage, name).await?.into_iter().next() else { return Ok(None) };
    let found = holder(storage, &front);
    if only.is_some_and(|only| *only != found.token) {
        return Ok(None);
    }
    let condition = Condition::new(&front.key, Is::CreateRevision(front.create_revision));
    let commit = Commit::new(vec![condition], vec![Write::delete(&front.key)]).repeatable();
    // Where it is not there any more it was freed in this moment, or deleted by the first of two sendings.
    storage.commit(commit).await?;
    Ok(Some(found))
}
