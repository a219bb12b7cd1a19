//! The events of recent revisions, held once for all watchers.
//!
//! Invariants: the revisions held are consecutive, up to the newest one pushed; what they hold is within the bound,
//! so a slow reader costs nothing: it is told [`TooOld`] and reads HISTORY instead.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use quorate_ids::Revision;

use crate::keys::reply::{Event, Value};

/// Events of one revision beyond this many bytes are not held in memory: watchers read them from HISTORY.
pub const REVISION_EVENTS_BYTES_MAX: usize = 4 << 20;
/// What a feed holds at most, unless its owner says otherwise.
pub const FEED_BYTES_MAX_DEFAULT: usize = 16 << 20;

/// What one revision changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionEvents {
    pub revision: Revision,
    /// In the order of the changes. `None`: too many for memory; [`crate::keys::history_slice`] has them.
    pub events: Option<Vec<Event>>,
    /// False for a part of a revision, which [`crate::keys::history_slice`] goes on with.
    pub complete: bool,
    encoded: OnceLock<Vec<Bytes>>,
}

impl RevisionEvents {
    pub(in crate::keys) fn new(revision: Revision, events: Option<Vec<Event>>) -> Self {
        Self { revision, events, complete: true, encoded: OnceLock::new() }
    }

    pub(in crate::keys) fn part(revision: Revision, events: Vec<Event>, complete: bool) -> Self {
        Self { complete, ..Self::new(revision, Some(events)) }
    }

    /// The events, none where they are too many for memory.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        self.events.as_deref().unwrap_or_default()
    }

    /// Each event in the form that goes on the wire, made by the first caller, for all. One process has one such form.
    pub fn encoded(&self, encode: impl FnOnce(&[Event]) -> Vec<Bytes>) -> &[Bytes] {
        self.encoded.get_or_init(|| {
            let encoded = encode(self.events());
            assert_eq!(encoded.len(), self.events().len(), "one encoding an event");
            encoded
        })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.events().iter().map(event_bytes).sum::<usize>()
    }
}

/// What an event holds in memory, about; key and value count twice, for their encoded form.
pub(in crate::keys) fn event_bytes(event: &Event) -> usize {
    let value = if let Value::Here(value) = &event.kv.value { value.len() } else { 0 };
    size_of::<Event>() + size_of::<Bytes>() + 2 * (event.kv.key.len() + value)
}

/// A reader is behind what the feed holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events of revision {asked} are no longer in memory; the oldest there are of {oldest}")]
pub struct TooOld {
    pub asked: Revision,
    pub oldest: Revision,
}

/// The recent revisions, shared by the apply stage that pushes and all readers.
pub struct Feed {
    bytes_max: usize,
    ring: RwLock<Ring>,
}

struct Ring {
    revisions: VecDeque<Arc<RevisionEvents>>,
    bytes: usize,
    /// The next revision that will be pushed.
    next: Revision,
}

impl Ring {
    fn oldest(&self) -> Revision {
        Revision(self.next.0 - self.revisions.len() as u64)
    }
}

impl Feed {
    /// An empty feed of a store whose newest revision is `current`.
    #[must_use]
    pub fn new(current: Revision, bytes_max: usize) -> Self {
        let ring = Ring { revisions: VecDeque::new(), bytes: 0, next: current.next() };
        Self { bytes_max, ring: RwLock::new(ring) }
    }

    /// Adds the next revision; the oldest go where the bound asks for it.
    pub fn push(&self, events: Arc<RevisionEvents>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(events.revision, ring.next, "revisions are pushed one after the other");
        ring.next = events.revision.next();
        if events.events.is_none() {
            ring.revisions.clear();
            ring.bytes = 0;
            return;
        }
        ring.bytes += events.bytes();
        ring.revisions.push_back(events);
        while ring.bytes > self.bytes_max
            && let Some(oldest) = ring.revisions.pop_front()
        {
            ring.bytes -= oldest.bytes();
        }
    }

    /// Starts over after the tables were replaced by those of a snapshot whose newest revision is `current`.
    pub fn restart(&self, current: Revision) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if crate::mutants::planted!(KeepWatchEvents) {
            ring.next = current.next();
            return;
        }
        *ring = Ring { revisions: VecDeque::new(), bytes: 0, next: current.next() };
    }

    /// The next revision that will be pushed.
    #[must_use]
    pub fn next_revision(&self) -> Revision {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).next
    }

    /// Up to `revisions_max` revisions from `from` on, in order; empty if there is none yet.
    pub fn since(&self, from: Revision, revisions_max: usize) -> Result<Vec<Arc<RevisionEvents>>, TooOld> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.oldest();
        if from < oldest {
            return Err(TooOld { asked: from, oldest });
        }
        let skipped = usize::try_from(from.0 - oldest.0).unwrap_or(usize::MAX);
        Ok(ring.revisions.iter().skip(skipped).take(revisions_max).cloned().collect())
    }
}
