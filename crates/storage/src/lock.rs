//! Locks that live under a lease, with the keys of etcd's own recipe: `<name>/<lease in hex>`.
//!
//! Invariants: of the keys in a lock's queue, the one created first holds the lock; a lock is handed out only when its
//! own key was seen to be that one; the creation revision of that key is the fencing token, which rises from holder to
//! holder. A holder that is gone, or cut off, loses the lock when its lease ends, and a commit that names its token
//! then fails.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::atomic::{Commit, Committed, Condition, Entry, Is, LeaseGuard, LeaseStorage, Write};
use crate::error::{StorageError, shown};

/// The time to live of a lock's lease, if nothing else is said.
const TTL_DEFAULT: Duration = Duration::from_secs(10);

/// Why a lock is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockLost {
    #[error("the lock's lease expired or was revoked")]
    LeaseEnded,
    #[error("no member renewed the lock's lease in time")]
    NotRenewed,
    #[error("the lock was taken away by force")]
    Removed,
}

/// The proof that a lock was taken. A commit that names it ([`crate::Plan::fenced_by`]) changes nothing once that lock is
/// lost, however late it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingToken {
    /// The lock's key, as the undermost storage has it.
    pub(crate) key: Bytes,
    pub(crate) revision: i64,
}

impl FencingToken {
    /// A number that rises from holder to holder, for what lies outside of the storage.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.revision
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What the holder calls itself; empty for locks that etcd's own clients took.
    pub owner: Bytes,
    pub lease: i64,
    pub token: FencingToken,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the lock {} is held by {} (lease {:x})", shown(.name), shown(&.holder.owner), .holder.lease)]
    Held { name: Bytes, holder: Holder },
    #[error("the lease ended while the lock {} was waited for", shown(.name))]
    LeaseEnded { name: Bytes },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Takes locks in a storage, in the name of one owner.
#[derive(Clone)]
pub struct Locks {
    storage: Arc<dyn LeaseStorage>,
    owner: Bytes,
    ttl: Duration,
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("owner", &shown(&self.owner)).field("ttl", &self.ttl).finish()
    }
}

impl Locks {
    /// `owner` is shown to whoever looks at a lock. Leases last 10 s.
    #[must_use]
    pub fn new(storage: Arc<dyn LeaseStorage>, owner: impl AsRef<[u8]>) -> Self {
        Self { storage, owner: Bytes::copy_from_slice(owner.as_ref()), ttl: TTL_DEFAULT }
    }

    /// How long a lock outlives its holder, in whole seconds, at least one. The cluster may lengthen it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Takes the lock if nobody has it; else [`LockError::Held`] says who does.
    pub async fn try_lock(&self, name: &[u8]) -> Result<Lock, LockError> {
        check(name)?;
        if let Some(holder) = queue(&*self.storage, name).await?.into_iter().next() {
            return Err(self.held(name, holder));
        }
        let place = self.enqueue(name).await?;
        let front = self.front(name, &place).await?;
        match front {
            None => Ok(place.into_lock(name)),
            Some(front) => {
                place.leave().await?;
                Err(self.held(name, front))
            }
        }
    }

    /// Waits for the lock for up to `patience`; then [`LockError::Held`] says who has it.
    pub async fn lock(&self, name: &[u8], patience: Duration) -> Result<Lock, LockError> {
        check(name)?;
        let deadline = Instant::now() + patience;
        let place = self.enqueue(name).await?;
        loop {
            let Some(front) = self.front(name, &place).await? else { return Ok(place.into_lock(name)) };
            let waiting = self.storage.wait_gone(&front.key, front.create_revision);
            tokio::select! {
                gone = timeout_at(deadline, waiting) => match gone {
                    Ok(gone) => gone?,
                    Err(_) => {
                        let holder = queue(&*self.storage, name).await?.into_iter().next().unwrap_or(front);
                        place.leave().await?;
                        return Err(self.held(name, holder));
                    }
                },
                _ = place.guard.lost() => return Err(LockError::LeaseEnded { name: Bytes::copy_from_slice(name) }),
            }
        }
    }

    fn held(&self, name: &[u8], front: Entry) -> LockError {
        let holder = holder(&*self.storage, &front);
        LockError::Held { name: Bytes::copy_from_slice(name), holder }
    }

    /// Puts a key of its own into the queue.
    async fn enqueue(&self, name: &[u8]) -> Result<Place, StorageError> {
        let seconds = u32::try_from(self.ttl.as_secs().max(1)).unwrap_or(u32::MAX);
        let lease = self.storage.grant_lease(seconds).await?;
        let guard = match self.storage.keep_lease_alive(lease).await {
            Ok(guard) => guard,
            Err(error) => {
                let _ = self.storage.revoke_lease(lease).await;
                return Err(error);
            }
        };
        let key = Bytes::from([name, b"/", format!("{lease:x}").as_bytes()].concat());
        // From here on, whoever gives up half way gives the place up too.
        let mut place =
            Place { storage: self.storage.clone(), key: key.clone(), lease, revision: 0, guard, kept: true };
        let condition = Condition::new(&key, Is::Absent);
        let put = Write::put_under_lease(&key, &self.owner, lease);
        // Only this owner knows the lease, so finding the key there means that it was put already.
        let commit = Commit::new(vec![condition], vec![put]).repeatable();
        place.revision = match self.storage.commit(commit).await? {
            Committed::Yes { revision, .. } => revision,
            Committed::No { reading, .. } => match reading.entries.into_iter().next().flatten() {
                Some(own) => own.create_revision,
                None => return Err(StorageError::BadAnswer("a key is there and is not")),
            },
        };
        Ok(place)
    }

    /// Who is in front of this place; `None` where it is the first.
    async fn front(&self, name: &[u8], place: &Place) -> Result<Option<Entry>, LockError> {
        let queue = queue(&*self.storage, name).await?;
        let own =
            queue.iter().position(|entry| entry.key == place.key && entry.create_revision == place.revision);
        match own {
            Some(0) => Ok(None),
            // The next in front is waited for, not the first: one end wakes one waiter.
            Some(place) => Ok(queue.into_iter().nth(place - 1)),
            None => Err(LockError::LeaseEnded { name: Bytes::copy_from_slice(name) }),
        }
    }
}

fn check(name: &[u8]) -> Result<(), StorageError> {
    if name.is_empty() { Err(StorageError::EmptyKey) } else { Ok(()) }
}

/// A lock's queue, the holder first.
pub(crate) async fn queue(storage: &dyn LeaseStorage, name: &[u8]) -> Result<Vec<Entry>, StorageError> {
    let prefix = [name, b"/"].concat();
    let mut entries = storage.get_prefix(&prefix).await?;
    // Other locks may lie below this one's name.
    entries.retain(|entry| lock_name(entry) == Some(name));
    entries.sort_by_key(|entry| entry.create_revision);
    Ok(entries)
}

/// The name of the lock whose queue the key stands in; `None` where it is no lock's.
pub(crate) fn lock_name(entry: &Entry) -> Option<&[u8]> {
    if entry.lease == 0 {
        return None;
    }
    entry.key.strip_suffix(format!("/{:x}", entry.lease).as_bytes())
}

pub(crate) fn holder(storage: &dyn LeaseStorage, entry: &Entry) -> Holder {
    let key = storage.absolute_key(&entry.key);
    let token = FencingToken { key, revision: entry.create_revision };
    Holder { owner: entry.value.clone(), lease: entry.lease, token }
}

/// A place in a lock's queue. Dropped, it is given up.
struct Place {
    storage: Arc<dyn LeaseStorage>,
    key: Bytes,
    lease: i64,
    revision: i64,
    guard: LeaseGuard,
    /// Whether there is something to give up.
    kept: bool,
}

impl Place {
    async fn leave(mut self) -> Result<(), StorageError> {
        let done = release(&*self.storage, &self.key, self.revision, self.lease).await;
        self.kept = done.is_err();
        done.map(drop)
    }

    fn into_lock(self, name: &[u8]) -> Lock {
        let token = FencingToken { key: self.storage.absolute_key(&self.key), revision: self.revision };
        let (sender, lost) = watch::channel(None);
        let (storage, key, revision, id) =
            (self.storage.clone(), self.key.clone(), self.revision, self.lease);
        let lease = self.guard.lost.clone();
        let task = tokio::spawn(async move {
            let why = tokio::select! {
                why = lease_lost(lease.clone()) => why,
                gone = storage.wait_gone(&key, revision) => match gone {
                    Ok(()) => why_gone(&*storage, &lease, id).await,
                    // It can't be watched; the lease alone tells then.
                    Err(error) => {
                        tracing::warn!(lock = shown(&key), %error, "cannot watch a lock's key");
                        lease_lost(lease.clone()).await
                    }
                },
            };
            sender.send_replace(Some(why));
        });
        let task = task.abort_handle();
        Lock { name: Bytes::copy_from_slice(name), token, place: Some(self), lost, task }
    }
}

async fn lease_lost(mut lease: watch::Receiver<Option<LockLost>>) -> LockLost {
    let why = lease.wait_for(Option::is_some).await.ok().and_then(|why| *why);
    why.unwrap_or(LockLost::NotRenewed)
}

/// A key goes with its lease or without it.
async fn why_gone(
    storage: &dyn LeaseStorage,
    lease: &watch::Receiver<Option<LockLost>>,
    id: i64,
) -> LockLost {
    let known = *lease.borrow();
    match known {
        Some(why) => why,
        None => match storage.lease_seconds_left(id).await {
            Ok(Some(_)) => LockLost::Removed,
            Ok(None) | Err(_) => LockLost::LeaseEnded,
        },
    }
}

/// Takes the key out of the queue and ends its lease. Answers whether the key was still there.
async fn release(
    storage: &dyn LeaseStorage,
    key: &[u8],
    revision: i64,
    lease: i64,
) -> Result<bool, StorageError> {
    let condition = Condition::new(key, Is::CreateRevision(revision));
    // A second time it finds nothing to delete.
    let commit = Commit::new(vec![condition], vec![Write::delete(key)]).repeatable();
    let held = matches!(storage.commit(commit).await?, Committed::Yes { .. });
    storage.revoke_lease(lease).await?;
    Ok(held)
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            return;
        }
        // Without a runtime it frees itself when its lease ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (storage, key, lease) = (self.storage.clone(), self.key.clone(), self.lease);
            runtime.spawn(async move {
                if let Err(error) = storage.revoke_lease(lease).await {
                    tracing::debug!(lock = shown(&key), %error, "a lock frees itself when its lease ends");
                }
            });
        }
    }
}

/// A held lock. Dropped, it is freed in the background.
pub struct Lock {
    name: Bytes,
    token: FencingToken,
    place: Option<Place>,
    lost: watch::Receiver<Option<LockLost>>,
    task: AbortHandle,
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", &shown(&self.name)).field("token", &self.token).finish()
    }
}

impl Lock {
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What makes commits fail once the lock is lost.
    #[must_use]
    pub fn token(&self) -> &FencingToken {
        &self.token
    }

    /// Why the lock is lost; `None` while it is held, as far as is known here. Only a commit with its token knows for
    /// certain.
    #[must_use]
    pub fn why_lost(&self) -> Option<LockLost> {
        *self.lost.borrow()
    }

    /// Waits until the lock is lost.
    pub async fn lost(&self) -> LockLost {
        let mut lost = self.lost.clone();
        let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        why.unwrap_or(LockLost::NotRenewed)
    }

    /// Frees the lock. Answers whether it was still held. Where this fails, it frees itself when its lease ends.
    pub async fn unlock(mut self) -> Result<bool, StorageError> {
        let Some(mut place) = self.place.take() else { return Ok(false) };
        let done = release(&*place.storage, &place.key, place.revision, place.lease).await;
        place.kept = done.is_err();
        done
    }

    /// Lets go of the lock without freeing it, as a crash would: it frees itself when its lease ends.
    pub fn abandon(mut self) {
        if let Some(place) = &mut self.place {
            place.kept = false;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.task.abort();
    }
}
