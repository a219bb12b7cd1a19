//! Watchers: every event of its range once and in order, live or from history.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_ids::Revision;
use quorate_models::keys::watch::{Feed, Matches, RevisionEvents, WatchId, WatchSet, Watcher};
use quorate_models::keys::{
    self, Command, EventKind, HistoryResume, KeysError, RangeEnd, Reply, history_slice, load_previous,
};

use crate::machine::{Machine, bytes};
use crate::model::command;
use crate::reference::{Reference, within};

fn watcher(key: Bytes, end: RangeEnd, from: u64) -> Watcher {
    Watcher { key, end, no_put: false, no_delete: false, prev_kv: false, next_revision: Revision(from) }
}

type Seen = Vec<(u64, EventKind, Bytes)>;

/// A thread with watchers, and what each was given.
struct Thread {
    set: WatchSet,
    /// By watcher: what it asked for (with the revision that it started at), and what it got.
    seen: BTreeMap<WatchId, (Watcher, Seen)>,
}

impl Thread {
    fn new(next: Revision) -> Self {
        Self { set: WatchSet::new(next), seen: BTreeMap::new() }
    }

    fn add(&mut self, mut watcher: Watcher) -> WatchId {
        let id = self.set.add(watcher.clone());
        watcher.next_revision = self.set.get(id).expect("just added").next_revision;
        self.seen.insert(id, (watcher, Vec::new()));
        id
    }

    fn give(&mut self, events: &RevisionEvents, matches: &Matches) {
        for (id, places) in matches.by_watcher() {
            let seen = &mut self.seen.get_mut(&id).expect("a watcher").1;
            for place in places {
                let event = &events.events()[place];
                seen.push((events.revision.0, event.kind, event.kv.key.clone()));
            }
        }
    }

    /// Takes what the feed has, or falls behind.
    fn live(&mut self, feed: &Feed) {
        match feed.since(self.set.next_revision(), 3) {
            Ok(revisions) => {
                for events in revisions {
                    let matches = self.set.deliver(&events);
                    self.give(&events, &matches);
                }
            }
            Err(_) => self.set.skip_to(feed.next_revision()),
        }
    }

    /// Reads a slice of history for those who fell behind; cancels those whom compaction overtook.
    fn history(&mut self, machine: &Machine, budget: usize) {
        let Some(from) = self.set.behind() else { return };
        let mut resume = from;
        let slice = history_slice(&machine.store.read(), &mut resume, Revision(u64::MAX - 1), budget);
        match slice {
            Ok(slice) => {
                let matches = self.set.catch_up(from, &slice, resume);
                for (events, matches) in slice.iter().zip(&matches) {
                    self.give(events, matches);
                }
            }
            Err(KeysError::Compacted { oldest, .. }) => {
                let gone = self.set.cancel_compacted(oldest);
                assert!(!gone.is_empty(), "whoever needed it is cancelled");
                gone.iter().for_each(|id| {
                    self.seen.remove(id);
                });
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Doing {
    Apply(Command),
    Watch(Bytes, RangeEnd, u64, bool, bool),
    Unwatch(prop::sample::Index),
    Live,
    History(usize),
}

fn doing() -> impl Strategy<Value = Doing> {
    let end = prop_oneof![
        Just(RangeEnd::Single),
        "[a-d]{1,2}".prop_map(|end| RangeEnd::Before(Bytes::from(end))),
        Just(RangeEnd::Unbounded)
    ];
    prop_oneof![
        5 => command().prop_map(Doing::Apply),
        2 => ("[a-c]{0,2}", end, 0..20u64, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(key, end, from, no_put, no_delete)| {
                Doing::Watch(Bytes::from(key), end, from, no_put, no_delete)
            }),
        1 => any::<prop::sample::Index>().prop_map(Doing::Unwatch),
        2 => Just(Doing::Live),
        2 => (1..4usize).prop_map(Doing::History),
    ]
}

fn check(doings: Vec<Doing>, feed_bytes_max: usize) {
    let mut machine = Machine::new();
    let mut reference = Reference::new();
    let feed = Feed::new(machine.keys.revision(), feed_bytes_max);
    let mut thread = Thread::new(feed.next_revision());
    for doing in doings {
        match doing {
            Doing::Apply(command) => {
                machine.apply(&command);
                reference.apply(&command, machine.term);
                machine.events.drain(..).for_each(|events| feed.push(events));
            }
            Doing::Watch(key, end, from, no_put, no_delete) => {
                thread.add(Watcher { no_put, no_delete, ..watcher(key, end, from) });
            }
            Doing::Unwatch(which) if !thread.seen.is_empty() => {
                let ids: Vec<_> = thread.seen.keys().copied().collect();
                let id = *which.get(&ids);
                let left = thread.set.remove(id).expect("a watcher");
                let (watcher, seen) = thread.seen.remove(&id).expect("a watcher");
                let until = left.next_revision.0;
                let whole: Vec<_> = seen.into_iter().filter(|(revision, ..)| *revision < until).collect();
                assert_eq!(whole, wanted(&reference, &watcher, until));
            }
            Doing::Unwatch(_) => {}
            Doing::Live => thread.live(&feed),
            Doing::History(budget) => thread.history(&machine, budget),
        }
    }
    while thread.set.next_revision() < feed.next_revision() {
        thread.live(&feed);
    }
    while !thread.set.all_synced() {
        thread.history(&machine, 2);
    }
    assert_eq!(thread.set.len(), thread.seen.len());
    for (id, (watcher, seen)) in &thread.seen {
        assert!(thread.set.is_synced(*id));
        assert_eq!(*seen, wanted(&reference, watcher, u64::MAX), "{watcher:?}");
    }
}

/// What a watcher should have been given below a revision.
fn wanted(reference: &Reference, watcher: &Watcher, until: u64) -> Seen {
    let mut wanted = Vec::new();
    for (revision, changes) in
        reference.changes.range(watcher.next_revision.0..until.max(watcher.next_revision.0))
    {
        for change in changes {
            let filtered = match change.kind {
                EventKind::Put => watcher.no_put,
                EventKind::Delete => watcher.no_delete,
            };
            if !filtered && within(&change.key, &watcher.key, &watcher.end) {
                wanted.push((*revision, change.kind, change.key.clone()));
            }
        }
    }
    wanted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_watcher_gets_each_of_its_events_once_and_in_order(
        doings in prop::collection::vec(doing(), 1..80), feed_bytes_max in prop_oneof![Just(0usize), Just(1500), Just(1 << 20)]
    ) {
        check(doings, feed_bytes_max);
    }
}

#[test]
fn a_watch_from_the_compacted_revision_gets_it_and_one_from_below_is_cancelled() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    machine.delete("a", RangeEnd::Single);
    machine.put("b", "1");
    machine.apply(&Command::Compact { revision: Revision(3) });
    machine.compact_fully();
    let mut thread = Thread::new(machine.keys.revision().next());
    let at = thread.add(watcher(Bytes::new(), RangeEnd::Unbounded, 3));
    let below = thread.add(watcher(Bytes::new(), RangeEnd::Unbounded, 2));
    while !thread.set.all_synced() {
        thread.history(&machine, 10);
    }
    assert!(!thread.seen.contains_key(&below), "revision 2 is compacted");
    assert_eq!(thread.seen[&at].1, [(3, EventKind::Delete, bytes("a")), (4, EventKind::Put, bytes("b"))]);
}

#[test]
fn one_event_finds_its_watchers_among_many_ranges() {
    let mut machine = Machine::new();
    let mut thread = Thread::new(machine.keys.revision().next());
    let mut ids = Vec::new();
    for number in 0..3000u32 {
        let (from, to) =
            (format!("{:05}", number * 7 % 3000), format!("{:05}", number * 7 % 3000 + number % 50));
        ids.push(thread.add(watcher(bytes(&from), RangeEnd::Before(bytes(&to)), 0)));
    }
    for id in ids.iter().step_by(3) {
        thread.set.remove(*id);
        thread.seen.remove(id);
    }
    machine.put("01500", "value");
    for events in machine.events.drain(..) {
        let matches = thread.set.deliver(&events);
        thread.give(&events, &matches);
    }
    let mut found = 0;
    for (watcher, seen) in thread.seen.values() {
        let inside = within(b"01500", &watcher.key, &watcher.end);
        assert_eq!(seen.len(), usize::from(inside));
        found += seen.len();
    }
    assert!(found > 5, "{found} watchers");
}

#[test]
fn a_feed_holds_no_more_than_its_bound_and_says_who_is_too_old() {
    let mut machine = Machine::new();
    let feed = Feed::new(Revision(1), 20_000);
    for _ in 0..100 {
        machine.put("a", &"v".repeat(500));
    }
    machine.events.drain(..).for_each(|events| feed.push(events));
    let too_old = feed.since(Revision(2), 10).expect_err("revision 2 is long gone");
    assert!(too_old.oldest > Revision(60), "{too_old}");
    let held = feed.since(too_old.oldest, 1000).expect("held");
    assert_eq!(held.last().map(|events| events.revision), Some(Revision(101)));
    assert!(feed.since(Revision(102), 10).expect("nothing yet").is_empty());
}

#[test]
fn a_revision_too_large_for_memory_reaches_watchers_through_history() {
    let mut machine = Machine::new();
    let feed = Feed::new(Revision(1), 64 << 20);
    let mut thread = Thread::new(feed.next_revision());
    let id = thread.add(watcher(Bytes::new(), RangeEnd::Unbounded, 0));
    let ops = (0..20_000).map(|number| keys::Op::Put(crate::machine::put(&format!("{number:06}"), "value")));
    let txn = keys::Txn { compare: vec![], success: ops.collect(), failure: vec![] };
    assert!(matches!(machine.apply(&Command::Txn(txn)), Reply::Txn(_)));
    machine.put("after", "value");
    assert!(machine.events[0].events.is_none(), "20,000 events are more than memory takes for one revision");
    machine.events.drain(..).for_each(|events| feed.push(events));
    thread.live(&feed);
    assert!(!thread.set.is_synced(id));
    let mut late = None;
    while !thread.set.all_synced() {
        thread.history(&machine, 1000);
        // Joins while the large revision comes in parts: it must still get all of it.
        late.get_or_insert_with(|| thread.add(watcher(Bytes::new(), RangeEnd::Unbounded, 2)));
    }
    for id in [id, late.expect("added")] {
        let seen = &thread.seen[&id].1;
        assert_eq!(seen.len(), 20_001);
        assert!(seen.is_sorted_by_key(|(revision, ..)| *revision));
    }
    assert_eq!(HistoryResume::from(Revision(7)).revision(), Revision(7));
}

#[test]
fn what_was_before_an_event_is_found_after_its_record_moved_and_not_once_it_is_compacted() {
    let mut machine = Machine::cold();
    for number in 0..50 {
        machine.put(&format!("{number:02}"), &"before".repeat(100));
    }
    machine.checkpoint();
    for number in 0..50 {
        machine.put(&format!("{number:02}"), "after");
    }
    let events: Vec<_> = machine.events.drain(..).flat_map(|events| events.events().to_vec()).collect();
    let previous = |machine: &Machine, event| load_previous(&machine.store, event).expect("readable");
    let before = |kv: keys::KeyValue| kv.value == keys::Value::Here(bytes(&"before".repeat(100)));
    assert!(events[..50].iter().all(|event| previous(&machine, event).is_none()));
    assert!(events[50..].iter().all(|event| previous(&machine, event).is_some_and(before)));
    // Most of the old versions go; what is left of their segments is moved, and the files go.
    machine.apply(&Command::Compact { revision: Revision(97) });
    machine.compact_fully();
    machine.checkpoint();
    machine.rewrite();
    let moved = |event: &&keys::Event| match &event.previous.as_ref().expect("an overwrite").value {
        keys::Value::At(at) => machine.store.load(*at).is_err(),
        _ => false,
    };
    assert!(events[97..].iter().filter(moved).count() > 0, "no record moved: the test shows nothing");
    // Revision 97 itself is readable, so what the changes after it superseded is still there.
    for event in &events[50..] {
        let found = previous(&machine, event);
        let still_there = event.kv.meta.mod_revision > Revision(97);
        assert!(found.is_some() || !still_there);
        assert!(found.is_none_or(before));
    }
}
