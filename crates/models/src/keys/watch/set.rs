//! The watchers of one thread.
//!
//! Invariants: a *synced* watcher was given everything that it watches below [`WatchSet::next_revision`]; an unsynced
//! one below its own next revision, which is lower, and it is in `unsynced` under exactly that. Every watcher is in
//! the index: one event finds its watchers without looking at the others. A watcher is given each event of its range
//! once, in order, and a revision's events together (in parts only where history comes in parts).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_ids::Revision;

use super::feed::RevisionEvents;
use super::intervals::Intervals;
use crate::keys::command::RangeEnd;
use crate::keys::history::HistoryResume;
use crate::keys::reply::{Event, EventKind};

/// A watcher, within its [`WatchSet`]. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// What is watched, and from when on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watcher {
    pub key: Bytes,
    pub end: RangeEnd,
    pub no_put: bool,
    pub no_delete: bool,
    /// The watcher wants [`Event::previous`]. Events have it anyway; a face leaves it out where this is false.
    pub prev_kv: bool,
    /// The first revision that the watcher has not been given. 0 when it is added: from now on.
    pub next_revision: Revision,
}

impl Watcher {
    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }

    fn range_end(&self) -> Option<Bytes> {
        if let RangeEnd::Before(end) = &self.end { Some(end.clone()) } else { None }
    }
}

struct Watching {
    watcher: Watcher,
    synced: bool,
}

/// A revision that history gives in parts, and the watchers that were there for its first.
struct Part {
    revision: Revision,
    watchers: BTreeSet<WatchId>,
    /// Where its next part begins.
    resume: HistoryResume,
}

/// Many watchers, found by the keys that change.
pub struct WatchSet {
    watchers: BTreeMap<WatchId, Watching>,
    exact: BTreeMap<Bytes, Vec<WatchId>>,
    ranges: Intervals,
    unsynced: BTreeSet<(Revision, WatchId)>,
    next_revision: Revision,
    next_id: u64,
    part: Option<Part>,
}

/// Which watchers a revision's events are for.
#[derive(Debug, Default)]
pub struct Matches {
    /// Sorted: a watcher's events stand together, in order.
    pairs: Vec<(WatchId, u32)>,
}

impl Matches {
    /// Each watcher once, with the places of its events in [`RevisionEvents::events`].
    pub fn by_watcher(&self) -> impl Iterator<Item = (WatchId, impl Iterator<Item = usize> + '_)> {
        self.pairs
            .chunk_by(|(a, _), (b, _)| a == b)
            .map(|pairs| (pairs[0].0, pairs.iter().map(|(_, event)| *event as usize)))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl WatchSet {
    /// No watchers. `next_revision`: the feed's, from which on the caller will deliver.
    #[must_use]
    pub fn new(next_revision: Revision) -> Self {
        Self {
            watchers: BTreeMap::new(),
            exact: BTreeMap::new(),
            ranges: Intervals::default(),
            unsynced: BTreeSet::new(),
            next_revision,
            next_id: 0,
            part: None,
        }
    }

    /// The next revision that [`Self::deliver`] takes.
    #[must_use]
    pub fn next_revision(&self) -> Revision {
        self.next_revision
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Adds a watcher: unsynced if it starts before [`Self::next_revision`].
    pub fn add(&mut self, mut watcher: Watcher) -> WatchId {
        let id = WatchId(self.next_id);
        self.next_id += 1;
        if watcher.next_revision == Revision::ZERO {
            watcher.next_revision = self.next_revision;
        }
        match &watcher.end {
            RangeEnd::Single => self.exact.entry(watcher.key.clone()).or_default().push(id),
            _ => self.ranges.add(watcher.key.clone(), watcher.range_end(), id),
        }
        let synced = watcher.next_revision >= self.next_revision;
        if !synced {
            self.unsynced.insert((watcher.next_revision, id));
        }
        self.watchers.insert(id, Watching { watcher, synced });
        id
    }

    /// Removes a watcher; its `next_revision` is where it could go on.
    pub fn remove(&mut self, id: WatchId) -> Option<Watcher> {
        let Watching { mut watcher, synced } = self.watchers.remove(&id)?;
        if synced {
            watcher.next_revision = watcher.next_revision.max(self.next_revision);
        } else {
            self.unsynced.remove(&(watcher.next_revision, id));
        }
        if let Some(part) = &mut self.part {
            part.watchers.remove(&id);
            if part.watchers.is_empty() {
                self.part = None;
            }
        }
        let was_indexed = if watcher.end == RangeEnd::Single {
            let ids = self.exact.get_mut(&watcher.key).expect("a watcher is in the index");
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.exact.remove(&watcher.key);
            }
            true
        } else {
            self.ranges.remove(&watcher.key, watcher.range_end(), id)
        };
        assert!(was_indexed, "a watcher is in the index");
        Some(watcher)
    }

    #[must_use]
    pub fn get(&self, id: WatchId) -> Option<&Watcher> {
        self.watchers.get(&id).map(|watching| &watching.watcher)
    }

    /// Whether a watcher was given everything below [`Self::next_revision`]: progress may be told.
    #[must_use]
    pub fn is_synced(&self, id: WatchId) -> bool {
        self.watchers.get(&id).is_some_and(|watching| watching.synced)
    }

    /// Whether every watcher is synced.
    #[must_use]
    pub fn all_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Takes the next revision of the feed; says which synced watchers get which events.
    pub fn deliver(&mut self, events: &RevisionEvents) -> Matches {
        assert_eq!(events.revision, self.next_revision, "revisions are delivered one after the other");
        assert!(events.events.is_some() && events.complete, "a feed holds whole revisions");
        self.next_revision = events.revision.next();
        self.find(events, |_, watching| watching.synced && watching.watcher.next_revision <= events.revision)
    }

    /// The feed no longer has [`Self::next_revision`]: delivery goes on at `next`, and watchers that would miss what
    /// lies between are unsynced.
    pub fn skip_to(&mut self, next: Revision) {
        assert!(next >= self.next_revision, "a feed does not go back");
        for (id, watching) in &mut self.watchers {
            let from = watching.watcher.next_revision.max(self.next_revision);
            if watching.synced && from < next {
                watching.synced = false;
                watching.watcher.next_revision = from;
                self.unsynced.insert((from, *id));
            }
        }
        self.next_revision = next;
    }

    /// Where to read history for the watchers that are furthest behind. `None`: all are synced.
    #[must_use]
    pub fn behind(&self) -> Option<HistoryResume> {
        match &self.part {
            Some(part) => Some(part.resume),
            None => self.unsynced.first().map(|(revision, _)| HistoryResume::from(*revision)),
        }
    }

    /// Takes what was read from `from` (which [`Self::behind`] said) up to `next`, from [`crate::keys::history_slice`]
    /// or, whole revisions, from the feed. Says for each revision which watchers get which events.
    pub fn catch_up<'a>(
        &mut self,
        from: HistoryResume,
        revisions: impl IntoIterator<Item = &'a RevisionEvents>,
        next: HistoryResume,
    ) -> Vec<Matches> {
        let part = self.part.take();
        // Whoever joined in the meantime further back, or after a revision's first part, is not meant: they get all
        // of it another time.
        let meant = |id: WatchId, watching: &Watching| {
            let needs = watching.watcher.next_revision;
            let late =
                part.as_ref().is_some_and(|part| needs <= part.revision && !part.watchers.contains(&id));
            !watching.synced && needs >= from.revision() && !late
        };
        let mut matches = Vec::new();
        let mut complete = true;
        for events in revisions {
            let found = self.find(events, |id, watching| {
                meant(id, watching) && watching.watcher.next_revision <= events.revision
            });
            matches.push(found);
            complete = events.complete;
        }
        let until = if complete { next.revision() } else { next.revision().next() };
        let reached: Vec<_> = self
            .unsynced
            .range((from.revision(), WatchId(0))..(until, WatchId(0)))
            .copied()
            .filter(|(_, id)| meant(*id, &self.watchers[id]))
            .collect();
        if complete {
            reached.into_iter().for_each(|(old, id)| self.advance(id, old, next.revision()));
        } else {
            // They have all below this revision, and stay unsynced until they have the rest of it.
            let revision = next.revision();
            for (old, id) in &reached {
                self.unsynced.remove(&(*old, *id));
                self.unsynced.insert((revision, *id));
                let watching = self.watchers.get_mut(id).expect("an unsynced watcher is a watcher");
                watching.watcher.next_revision = revision;
            }
            let watchers: BTreeSet<_> = reached.into_iter().map(|(_, id)| id).collect();
            self.part = (!watchers.is_empty()).then_some(Part { revision, watchers, resume: next });
        }
        matches
    }

    fn advance(&mut self, id: WatchId, old: Revision, next: Revision) {
        self.unsynced.remove(&(old, id));
        let watching = self.watchers.get_mut(&id).expect("an unsynced watcher is a watcher");
        watching.watcher.next_revision = next;
        watching.synced = next >= self.next_revision;
        if !watching.synced {
            self.unsynced.insert((next, id));
        }
    }

    /// Removes the watchers that need what compaction took: those whose next revision is below `compacted`.
    pub fn cancel_compacted(&mut self, compacted: Revision) -> Vec<WatchId> {
        let gone: Vec<_> = self.unsynced.range(..(compacted, WatchId(0))).map(|(_, id)| *id).collect();
        for id in &gone {
            self.remove(*id);
        }
        gone
    }

    fn find(&self, events: &RevisionEvents, takes: impl Fn(WatchId, &Watching) -> bool) -> Matches {
        let mut pairs = Vec::new();
        for (place, event) in events.events().iter().enumerate() {
            let place = u32::try_from(place).expect("a revision has fewer than 2^32 changes");
            self.watchers_of(event, &mut |id| {
                let watching = &self.watchers[&id];
                if watching.watcher.wants(event.kind) && takes(id, watching) {
                    pairs.push((id, place));
                }
            });
        }
        pairs.sort_unstable();
        Matches { pairs }
    }

    fn watchers_of(&self, event: &Event, visit: &mut dyn FnMut(WatchId)) {
        let key = &event.kv.key;
        if let Some(ids) = self.exact.get(key) {
            ids.iter().for_each(|id| visit(*id));
        }
        self.ranges.covering(key, &mut |ids| ids.iter().for_each(|id| visit(*id)));
    }
}
