//! Past events, as far as history keeps them.
//!
//! Invariants: from the start of history to the current index every event can be read, each once and in order. The
//! events are in tables: a restart and a snapshot keep them.

use std::ops::ControlFlow;

use quorate_ids::TreeIndex;
use quorate_store::Tables;

use super::change::value_made_by;
use super::path::Path;
use super::reply::{Event, Node, TreeError, Value};
use super::rows::{EventRow, State, after_number, read_event_key};
use super::watch::Watch;
use crate::tables::TREE_EVENTS;

/// The first index of which history would still know an event; greater than the current one only where there is none.
#[must_use]
pub fn history_start(tables: &Tables) -> TreeIndex {
    TreeIndex(State::read(tables).first)
}

/// The event that took `index`; `None` where history does not have it (any more, or yet).
#[must_use]
pub fn event(tables: &Tables, index: TreeIndex) -> Option<Event> {
    let end = after_number(index.0);
    let mut found = None;
    let from = index.0.to_be_bytes();
    tables.scan(TREE_EVENTS, &from, end.as_ref().map(|end| &end[..]), &mut |key, entry| {
        found = Some(past_event(tables, key, entry.row));
        ControlFlow::Break(())
    });
    found
}

/// Up to `budget` events from the index `from` on, in order.
pub fn events(tables: &Tables, from: TreeIndex, budget: usize) -> Result<Vec<Event>, TreeError> {
    check_start(tables, from)?;
    let mut found = Vec::new();
    tables.scan(TREE_EVENTS, &from.0.to_be_bytes(), None, &mut |key, entry| {
        if found.len() == budget {
            return ControlFlow::Break(());
        }
        found.push(past_event(tables, key, entry.row));
        ControlFlow::Continue(())
    });
    Ok(found)
}

/// What a look for a watch's first event came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Event(Box<Event>),
    /// The budget is used up; go on at this index.
    More(TreeIndex),
    /// There is none so far; wait for events from this index on.
    None(TreeIndex),
}

/// The first event at or after `from` that `watch` wants, among up to `budget` events. Values may lie on disk:
/// [`super::load_event`].
pub fn first_match(
    tables: &Tables,
    watch: &Watch,
    from: TreeIndex,
    budget: usize,
) -> Result<Found, TreeError> {
    assert!(budget > 0, "a slice without a budget would never end");
    check_start(tables, from)?;
    let current = State::read(tables).index;
    let mut outcome = Found::None(TreeIndex(from.0.max(current + 1)));
    let mut seen = 0;
    tables.scan(TREE_EVENTS, &from.0.to_be_bytes(), None, &mut |key, entry| {
        let (index, path) = read_event_key(key);
        if seen == budget {
            outcome = Found::More(TreeIndex(index));
            return ControlFlow::Break(());
        }
        seen += 1;
        let row = EventRow::read(index, entry.row);
        let previous_dir = row.previous.is_some_and(|previous| previous.dir);
        if row.refresh || !watch.wants_change(&path, row.action, previous_dir) {
            return ControlFlow::Continue(());
        }
        outcome = Found::Event(Box::new(past_event(tables, key, entry.row)));
        ControlFlow::Break(())
    });
    Ok(outcome)
}

fn check_start(tables: &Tables, from: TreeIndex) -> Result<(), TreeError> {
    let oldest = history_start(tables);
    if from < oldest { Err(TreeError::HistoryCleared { oldest, asked: from }) } else { Ok(()) }
}

fn past_event(tables: &Tables, key: &[u8], row: &[u8]) -> Event {
    let (index, path) = read_event_key(key);
    let row = EventRow::read(index, row);
    let value = if row.dir || row.action.deletes() { Value::Absent } else { value_made_by(tables, index) };
    let node = node(path.clone(), row.dir, value, row.created, index, row.expiration);
    let previous = row.previous.map(|previous| {
        let value = if previous.dir { Value::Absent } else { value_made_by(tables, previous.modified) };
        node_before(path, &previous, value)
    });
    let (action, wall_time, refresh) = (row.action, row.wall_time, row.refresh);
    Event { action, index: TreeIndex(index), node, previous, wall_time, refresh }
}

fn node_before(path: Path, previous: &super::rows::PreviousRow, value: Value) -> Node {
    node(path, previous.dir, value, previous.created, previous.modified, previous.expiration)
}

fn node(
    path: Path,
    dir: bool,
    value: Value,
    created: u64,
    modified: u64,
    expiration: Option<quorate_ids::WallTime>,
) -> Node {
    Node { path, dir, value, created: TreeIndex(created), modified: TreeIndex(modified), expiration }
}
