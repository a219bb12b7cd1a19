//! Live watching: who is told, and what a slow reader finds.

use std::sync::Arc;

use quorate_ids::TreeIndex;
use quorate_models::tree::{Command, Event, Feed, TooOld, Watch, WatchSet, Write};

use super::machine::{Machine, directory, file, path_of};

fn watch(path: &str, recursive: bool) -> Watch {
    Watch { path: path_of(path), recursive }
}

fn last(machine: &Machine) -> Arc<Event> {
    machine.events.last().expect("an event").clone()
}

#[test]
fn the_index_of_watchers_finds_exactly_those_who_want_an_event() {
    let mut machine = Machine::new();
    let paths = ["/", "/a", "/a/b", "/a/b/c", "/a/_h", "/a/_h/x", "/ab", "/z"];
    let mut set = WatchSet::default();
    let mut watches = Vec::new();
    for path in paths {
        for recursive in [false, true] {
            watches.push((set.add(watch(path, recursive)), watch(path, recursive)));
        }
    }
    let removed = watches.remove(3);
    assert_eq!(set.remove(removed.0), Some(removed.1));
    let commands = [
        Command::Set(file("/a/b/c", "1")),
        Command::Set(file("/a/_h/x", "1")),
        Command::Set(file("/ab", "1")),
        Command::Update(Write { refresh: true, ..file("/ab", "") }),
        Command::Set(directory("/z")),
        Command::Delete { path: path_of("/z"), dir: true, recursive: false },
        Command::Delete { path: path_of("/a/_h"), dir: true, recursive: true },
        Command::Delete { path: path_of("/a"), dir: true, recursive: true },
    ];
    let mut told = Vec::new();
    for command in commands {
        machine.apply(&command);
        let event = last(&machine);
        let wanted: Vec<_> = watches.iter().filter(|(_, w)| w.wants(&event)).map(|(id, _)| *id).collect();
        assert_eq!(set.matches(&event), wanted, "{event:?}");
        told.push(wanted.len());
    }
    assert_eq!(told[3], 0, "a refresh tells nobody");
    // Of `/a` and below: all twelve less the removed one; and the recursive watcher of the root.
    assert_eq!(told[7], 10);
}

#[test]
fn a_feed_gives_events_in_order_and_tells_a_slow_reader_to_read_history() {
    let mut machine = Machine::new();
    let feed = Feed::new(TreeIndex(0), 3, 1 << 20);
    for number in 1..=5 {
        machine.apply(&Command::Set(file("/foo", &number.to_string())));
        feed.push(last(&machine));
    }
    let indexes = |from: u64, max| {
        feed.since(TreeIndex(from), max)
            .map(|events| events.iter().map(|e| e.event.index.0).collect::<Vec<_>>())
    };
    assert_eq!(indexes(3, 10), Ok(vec![3, 4, 5]));
    assert_eq!(indexes(4, 1), Ok(vec![4]));
    assert_eq!(indexes(6, 10), Ok(vec![]));
    assert_eq!(indexes(2, 10), Err(TooOld { asked: TreeIndex(2), oldest: TreeIndex(3) }));
    feed.restart(TreeIndex(9));
    assert_eq!(feed.next_index(), TreeIndex(10));
    assert_eq!(indexes(9, 10), Err(TooOld { asked: TreeIndex(9), oldest: TreeIndex(10) }));
}

#[test]
fn a_feed_is_bounded_in_bytes_and_encodes_each_event_once() {
    let mut machine = Machine::new();
    let feed = Feed::new(TreeIndex(0), 1000, 10_000);
    for _ in 0..50 {
        machine.apply(&Command::Set(file("/foo", &"x".repeat(1000))));
        feed.push(last(&machine));
    }
    let (from, next) = (feed.since(TreeIndex(1), 1).expect_err("long gone").oldest, feed.next_index());
    assert_eq!(next, TreeIndex(51));
    assert!(next.0 - from.0 < 10, "{from} to {next}");
    let held = feed.since(from, 1).expect("the oldest there");
    let mut made = 0;
    for _ in 0..3 {
        held[0].encoded(|_| {
            made += 1;
            Some("encoded".into())
        });
    }
    assert_eq!(made, 1);
}
