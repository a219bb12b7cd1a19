//! History: what is kept, what is forgotten, and where a watch finds its first event.

use quorate_ids::TreeIndex;
use quorate_models::tree::{
    self, Action, Command, Found, HISTORY_EVENTS_DEFAULT, TreeError, Watch, load_event,
};

use super::machine::{Machine, file, path_of};

fn first(machine: &Machine, path: &str, recursive: bool, from: u64) -> Result<Found, TreeError> {
    let watch = Watch { path: path_of(path), recursive };
    tree::first_match(&machine.store.read(), &watch, TreeIndex(from), 10_000)
}

fn index_of(found: Result<Found, TreeError>) -> u64 {
    match found.expect("not cleared") {
        Found::Event(event) => event.index.0,
        other => panic!("no event: {other:?}"),
    }
}

#[test]
fn the_last_thousand_events_are_kept_and_older_ones_are_told_to_be_gone() {
    let mut machine = Machine::new();
    for number in 1..=HISTORY_EVENTS_DEFAULT + 7 {
        machine.apply(&Command::Set(file("/foo", &number.to_string())));
    }
    assert_eq!(index_of(first(&machine, "/foo", false, 8)), 8);
    let cleared = TreeError::HistoryCleared { oldest: TreeIndex(8), asked: TreeIndex(7) };
    assert_eq!(first(&machine, "/foo", false, 7), Err(cleared.clone()));
    assert_eq!(cleared.to_string(), "the requested history has been cleared [8/7]");
    machine.checkpoint();
    machine.restart();
    assert_eq!(index_of(first(&machine, "/foo", false, 8)), 8, "a restart keeps history");
    machine.compare();
}

#[test]
fn a_watch_finds_its_first_event_at_or_after_its_index_and_else_waits() {
    let mut machine = Machine::new();
    for path in ["/a", "/b/c", "/b/_hidden", "/a"] {
        machine.apply(&Command::Set(file(path, "x")));
    }
    assert_eq!(index_of(first(&machine, "/a", false, 1)), 1);
    assert_eq!(index_of(first(&machine, "/a", false, 2)), 4);
    assert_eq!(index_of(first(&machine, "/", true, 2)), 2);
    assert_eq!(index_of(first(&machine, "/", true, 3)), 4, "what is hidden is not for watchers above");
    assert_eq!(index_of(first(&machine, "/b/_hidden", false, 1)), 3, "but for its own");
    assert_eq!(first(&machine, "/b", false, 1), Ok(Found::None(TreeIndex(5))));
    assert_eq!(first(&machine, "/a", false, 9), Ok(Found::None(TreeIndex(9))), "an index to come waits");
    let watch = Watch { path: path_of("/a"), recursive: false };
    let found = tree::first_match(&machine.store.read(), &watch, TreeIndex(2), 2);
    assert_eq!(found, Ok(Found::More(TreeIndex(4))), "a slice of the search");
}

#[test]
fn the_end_of_a_directory_is_an_event_for_those_who_watch_in_it() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/dir/file", "x")));
    machine.apply(&Command::Delete { path: path_of("/dir"), dir: false, recursive: true });
    assert_eq!(index_of(first(&machine, "/dir/file", false, 2)), 2);
    assert_eq!(first(&machine, "/directory", false, 2), Ok(Found::None(TreeIndex(3))));
}

#[test]
fn an_event_shows_both_values_after_its_node_has_moved_on_and_its_records_have_moved() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/foo", "one")));
    machine.apply(&Command::Set(file("/foo", "two")));
    let live = machine.events[1].clone();
    for number in 0..100 {
        machine.apply(&Command::Set(file("/bar", &"z".repeat(1000 + number))));
    }
    machine.checkpoint();
    machine.apply(&Command::SetHistoryWindow { events: 101 });
    machine.checkpoint();
    machine.rewrite();
    let event = load_event(&machine.store, &live).expect("both values");
    assert_eq!(event.action, Action::Set);
    assert_eq!(event.node.value, tree::Value::Here("two".into()));
    assert_eq!(event.previous.expect("there was one").value, tree::Value::Here("one".into()));
}
