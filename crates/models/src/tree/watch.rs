//! Who wants which events, and the recent ones, held once for all watchers of a member.
//!
//! Invariants: the events in a [`Feed`] are consecutive, up to the newest one pushed, and bounded: a slow reader costs
//! nothing, it is told [`TooOld`] and reads history instead. A [`WatchSet`] finds the watchers of an event without
//! looking at the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use quorate_ids::TreeIndex;

use super::path::Path;
use super::reply::{Action, Event, Value};

/// Events that a feed holds at most, unless its owner says otherwise.
pub const FEED_EVENTS_MAX_DEFAULT: usize = 4096;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    pub path: Path,
    /// Also what lies below, except for what is hidden from there.
    pub recursive: bool,
}

impl Watch {
    /// Whether the watcher is told of this event: one of its own node; one below, if it is recursive and the node is
    /// not hidden from it; or the end of a directory that its node is in.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let previous_dir = event.previous.as_ref().is_some_and(|previous| previous.dir);
        !event.refresh && self.wants_change(&event.node.path, event.action, previous_dir)
    }

    pub(super) fn wants_change(&self, path: &Path, action: Action, previous_dir: bool) -> bool {
        *path == self.path
            || (self.recursive && path.is_below(&self.path) && !path.is_hidden_from(&self.path))
            || (action.deletes() && previous_dir && self.path.is_below(path))
    }
}

/// An event as the feed holds it, with the form that goes on the wire, made once for all watchers.
#[derive(Debug)]
pub struct FeedEvent {
    pub event: Arc<Event>,
    encoded: OnceLock<Bytes>,
}

impl FeedEvent {
    /// The event in the form that goes on the wire, made by the first caller, for all. One process has one such form.
    /// `None` from `encode`: it can't be made yet.
    pub fn encoded(&self, encode: impl FnOnce(&Event) -> Option<Bytes>) -> Option<Bytes> {
        if let Some(encoded) = self.encoded.get() {
            return Some(encoded.clone());
        }
        let made = encode(&self.event)?;
        Some(self.encoded.get_or_init(|| made).clone())
    }
}

/// A reader is behind what the feed holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event of index {asked} is no longer in memory; the oldest there has {oldest}")]
pub struct TooOld {
    pub asked: TreeIndex,
    pub oldest: TreeIndex,
}

/// The recent events, shared by the apply stage that pushes and all readers.
pub struct Feed {
    events_max: usize,
    bytes_max: usize,
    ring: RwLock<Ring>,
}

struct Ring {
    events: VecDeque<Arc<FeedEvent>>,
    bytes: usize,
    /// The index that the next event will have.
    next: TreeIndex,
}

impl Ring {
    fn empty(current: TreeIndex) -> Self {
        Self { events: VecDeque::new(), bytes: 0, next: current.next() }
    }

    fn oldest(&self) -> TreeIndex {
        TreeIndex(self.next.0 - self.events.len() as u64)
    }
}

/// What an event holds in memory, about; its own form counts once, the encoded one again.
fn event_bytes(event: &Event) -> usize {
    let value = |value: &Value| if let Value::Here(value) = value { value.len() } else { 0 };
    let previous = event.previous.as_ref().map_or(0, |previous| value(&previous.value));
    let text = event.node.path.as_bytes().len() + value(&event.node.value) + previous;
    size_of::<FeedEvent>() + size_of::<Event>() + 2 * text
}

impl Feed {
    /// An empty feed of a tree whose newest index is `current`.
    #[must_use]
    pub fn new(current: TreeIndex, events_max: usize, bytes_max: usize) -> Self {
        Self { events_max, bytes_max, ring: RwLock::new(Ring::empty(current)) }
    }

    /// Adds the next event; the oldest go where the bounds ask for it.
    pub fn push(&self, event: Arc<Event>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(event.index, ring.next, "events are pushed one after the other");
        ring.next = event.index.next();
        ring.bytes += event_bytes(&event);
        ring.events.push_back(Arc::new(FeedEvent { event, encoded: OnceLock::new() }));
        while (ring.bytes > self.bytes_max || ring.events.len() > self.events_max)
            && let Some(oldest) = ring.events.pop_front()
        {
            ring.bytes -= event_bytes(&oldest.event);
        }
    }

    /// Starts over where the tree's newest index is `current`: the tables were replaced by those of a snapshot, or the
    /// tree began after indexes that have no events.
    pub fn restart(&self, current: TreeIndex) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring::empty(current);
    }

    /// The index that the next event will have.
    #[must_use]
    pub fn next_index(&self) -> TreeIndex {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).next
    }

    /// Up to `events_max` events from the index `from` on, in order; empty if there is none yet.
    pub fn since(&self, from: TreeIndex, events_max: usize) -> Result<Vec<Arc<FeedEvent>>, TooOld> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.oldest();
        if from < oldest {
            return Err(TooOld { asked: from, oldest });
        }
        let skipped = usize::try_from(from.0 - oldest.0).unwrap_or(usize::MAX);
        Ok(ring.events.iter().skip(skipped).take(events_max).cloned().collect())
    }
}

/// A watcher, within its [`WatchSet`]. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// Many watchers, found by the nodes that change.
#[derive(Debug, Default)]
pub struct WatchSet {
    watches: BTreeMap<WatchId, Watch>,
    by_path: BTreeMap<Path, Vec<WatchId>>,
    next_id: u64,
}

impl WatchSet {
    #[must_use]
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    pub fn add(&mut self, watch: Watch) -> WatchId {
        let id = WatchId(self.next_id);
        self.next_id += 1;
        self.by_path.entry(watch.path.clone()).or_default().push(id);
        self.watches.insert(id, watch);
        id
    }

    pub fn remove(&mut self, id: WatchId) -> Option<Watch> {
        let watch = self.watches.remove(&id)?;
        let ids = self.by_path.get_mut(&watch.path).expect("a watcher stands under its path");
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_path.remove(&watch.path);
        }
        Some(watch)
    }

    #[must_use]
    pub fn get(&self, id: WatchId) -> Option<&Watch> {
        self.watches.get(&id)
    }

    /// Who wants an event, in the order in which they were added.
    #[must_use]
    pub fn matches(&self, event: &Event) -> Vec<WatchId> {
        if event.refresh || self.is_empty() {
            return Vec::new();
        }
        let path = &event.node.path;
        let mut found = Vec::new();
        let mut above = Some(path.clone());
        while let Some(at) = above {
            found.extend(self.by_path.get(&at).into_iter().flatten());
            above = at.parent();
        }
        if event.action.deletes() && event.previous.as_ref().is_some_and(|previous| previous.dir) {
            let below = self.by_path.range(path..).take_while(|(at, _)| *at == path || at.is_below(path));
            found.extend(below.filter(|(at, _)| *at != path).flat_map(|(_, ids)| ids));
        }
        found.retain(|id| self.watches[id].wants(event));
        found.sort_unstable();
        found
    }
}
