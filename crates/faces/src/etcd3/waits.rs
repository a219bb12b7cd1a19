//! Waiting for keys to change: for locks and elections.
//!
//! One task a net thread follows the feed and wakes whoever waits for a changed key, or for a key that begins as theirs
//! do. Invariants: who registers first and looks at the tables then, misses nothing; a wake says only "look again", so
//! waking too often does no harm, and what the feed no longer holds wakes everyone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use quorate_member::{Handle, Visible};
use quorate_models::keys::watch::Feed;
use tokio::sync::Notify;

/// Revisions taken from the feed at once.
const FEED_REVISIONS: usize = 64;
/// Ends the keys that one lock or election has in common.
pub const SEPARATOR: u8 = b'/';

/// Keys, or beginnings of keys that end in [`SEPARATOR`], and who waits for each.
#[derive(Default)]
pub struct Waits {
    waiting: Mutex<HashMap<Bytes, Weak<Notify>>>,
}

/// A place to wait for changes of a key or of a prefix; forgotten when it is dropped.
pub struct Waiting<'a> {
    waits: &'a Waits,
    name: Bytes,
    notify: Arc<Notify>,
}

impl Waits {
    /// Starts the task of this thread, in its runtime. It ends with the member.
    pub fn start(handle: &Handle) -> Arc<Self> {
        let waits = Arc::new(Self::default());
        let feed = Arc::clone(handle.feed());
        tokio::spawn(Arc::clone(&waits).run(feed, handle.visible()));
        waits
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Weak<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a key, or for all keys that begin with `name` where that ends in [`SEPARATOR`].
    pub fn on(&self, name: Bytes) -> Waiting<'_> {
        let mut waiting = self.lock();
        let known = waiting.get(&name).and_then(Weak::upgrade);
        let notify = known.unwrap_or_else(|| {
            let notify = Arc::new(Notify::new());
            waiting.insert(name.clone(), Arc::downgrade(&notify));
            notify
        });
        Waiting { waits: self, name, notify }
    }

    fn wake(&self, key: &[u8]) {
        let waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        let ends = key.iter().enumerate().filter(|(_, byte)| **byte == SEPARATOR).map(|(at, _)| at + 1);
        let whole = (key.last() != Some(&SEPARATOR)).then_some(key.len());
        for end in ends.chain(whole) {
            if let Some(notify) = waiting.get(&key[..end]).and_then(Weak::upgrade) {
                notify.notify_waiters();
            }
        }
    }

    fn wake_all(&self) {
        for notify in self.lock().values().filter_map(Weak::upgrade) {
            notify.notify_waiters();
        }
    }

    async fn run(self: Arc<Self>, feed: Arc<Feed>, mut visible: tokio::sync::watch::Receiver<Visible>) {
        let mut next = feed.next_revision();
        loop {
            let newest = feed.next_revision();
            if self.lock().is_empty() || newest < next {
                // Nobody waits, or the tables are a snapshot's, in which anything may have changed.
                next = newest;
                self.wake_all();
            }
            match feed.since(next, FEED_REVISIONS) {
                Ok(revisions) if revisions.is_empty() => {
                    if visible.changed().await.is_err() {
                        return;
                    }
                }
                Ok(revisions) => {
                    for revision in revisions {
                        next = revision.revision.next();
                        revision.events().iter().for_each(|event| self.wake(&event.kv.key));
                    }
                    tokio::task::yield_now().await;
                }
                Err(_) => {
                    next = newest;
                    self.wake_all();
                }
            }
        }
    }
}

impl Waiting<'_> {
    /// The next change after this call. Look at the tables between this call and waiting for what it returns.
    pub fn change(&self) -> impl Future<Output = ()> + Send + use<> {
        let notify = Arc::clone(&self.notify);
        // Registered now, not when it is first waited for.
        let mut changed = Box::pin(notify.notified_owned());
        changed.as_mut().enable();
        changed
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waits.lock();
        // The map's own reference is weak: this one is the last.
        if Arc::strong_count(&self.notify) == 1 {
            waiting.remove(&self.name);
        }
    }
}
