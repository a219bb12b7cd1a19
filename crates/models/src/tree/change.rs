//! The changes that commands are made of, and the history that they leave.
//!
//! Invariants: a value that an event of history shows can be read: TREE_VALUES has it under the index that made it,
//! from then on until the last event that shows it has gone. A node's record is retired when neither TREE nor
//! TREE_VALUES points at it. What is cut off the tree is reachable for nobody from that moment on; its rows go later,
//! within the same command.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{TreeIndex, WallTime};
use quorate_store::{Location, Owners, Tables};

use super::nodes::{Found, is_empty_dir, value_at};
use super::path::Path;
use super::reply::{Action, Event, Node, Value};
use super::rows::{
    DirId, EventRow, Lifetime, NodeRow, PreviousRow, State, ValueState, after_number, deadline_key,
    event_key, node_key, read_event_key, write_parent,
};
use crate::tables::{TREE, TREE_DEADLINES, TREE_DIRS, TREE_EVENTS, TREE_ORPHANS, TREE_VALUES};

/// What is written into a node.
pub(super) enum Content<'a> {
    File(&'a Bytes),
    Dir,
}

/// One change in the making: it takes the index after the current one.
pub(super) struct Change<'a> {
    pub tables: &'a mut Tables,
    pub state: &'a mut State,
    pub scratch: &'a mut Vec<u8>,
    pub wall_time: WallTime,
}

impl Change<'_> {
    pub(super) fn index(&self) -> u64 {
        self.state.index + 1
    }

    /// Makes the directories of `path` that lack, and says which number the last one has.
    pub(super) fn make_directories(&mut self, path: &Path, existing: (DirId, usize)) -> DirId {
        let (mut dir, depth) = existing;
        for name in path.parts().skip(depth) {
            dir = self.make_directory(dir, name, None);
        }
        dir
    }

    fn make_directory(&mut self, parent: DirId, name: &[u8], lifetime: Option<Lifetime>) -> DirId {
        let dir = DirId(self.state.next_dir);
        self.state.next_dir += 1;
        write_parent(parent, self.scratch);
        self.tables.put(TREE_DIRS, &node_key(dir, name), self.scratch, None);
        let index = self.index();
        let row = NodeRow { created: index, modified: index, dir: Some(dir), lifetime };
        self.put_row(&node_key(parent, name), &row, None);
        dir
    }

    pub(super) fn put_row(&mut self, key: &[u8], row: &NodeRow, body: Option<Location>) {
        if let Some(lifetime) = row.lifetime {
            self.tables.put(TREE_DEADLINES, &deadline_key(lifetime.deadline, key), &[], None);
        }
        row.write(self.scratch);
        self.tables.put(TREE, key, self.scratch, body);
    }

    fn drop_deadline(&mut self, key: &[u8], row: &NodeRow) {
        if let Some(lifetime) = row.lifetime {
            self.tables.remove(TREE_DEADLINES, &deadline_key(lifetime.deadline, key));
        }
    }

    /// Writes the node `name` of `parent`. A node that was there is a file, and is `old`.
    /// `created`: `None` makes a new node, else the old one goes on.
    pub(super) fn write_node(
        &mut self,
        parent: DirId,
        name: &[u8],
        content: &Content<'_>,
        lifetime: Option<Lifetime>,
        old: Option<&Found>,
        created: Option<u64>,
    ) {
        let key = node_key(parent, name);
        if let Some(old) = old {
            self.drop_deadline(&key, &old.row);
            self.supersede(old);
        }
        let index = self.index();
        match content {
            Content::Dir => {
                self.make_directory(parent, name, lifetime);
            }
            Content::File(value) => {
                let row = NodeRow { created: created.unwrap_or(index), modified: index, dir: None, lifetime };
                let body = (!value.is_empty()).then(|| {
                    let made_by = index.to_be_bytes();
                    let owners = Owners { first: (TREE, &key), second: Some((TREE_VALUES, &made_by)) };
                    let body = self.tables.append(owners, &[value]);
                    self.put_value(index, ValueState::Current, body);
                    body
                });
                self.put_row(&key, &row, body);
            }
        }
    }

    /// Sets or takes away the end of a directory's life; its indexes stay as they are.
    pub(super) fn set_lifetime(&mut self, found: &Found, lifetime: Option<Lifetime>) {
        self.drop_deadline(&found.key, &found.row);
        self.put_row(&found.key, &NodeRow { lifetime, ..found.row }, found.body);
    }

    pub(super) fn put_value(&mut self, made_by: u64, state: ValueState, body: Location) {
        state.write(self.scratch);
        self.tables.put(TREE_VALUES, &made_by.to_be_bytes(), self.scratch, Some(body));
    }

    /// The event in the making shows this file's value as what was there before.
    fn supersede(&mut self, old: &Found) {
        if let Some(body) = old.body {
            self.put_value(old.row.modified, ValueState::Superseded(self.index()), body);
        }
    }

    /// Takes a node out of the tree. What is in a directory becomes unreachable at once; [`clean`] removes it.
    pub(super) fn cut_off(&mut self, name: &[u8], found: &Found) {
        self.drop_deadline(&found.key, &found.row);
        self.supersede(found);
        if let Some(dir) = found.row.dir {
            orphan(self.tables, dir, name);
        }
        self.tables.remove(TREE, &found.key);
    }

    /// Ends the change: it takes its index, and its event enters history.
    pub(super) fn record(
        &mut self,
        action: Action,
        refresh: bool,
        node: Node,
        previous: Option<Node>,
    ) -> Arc<Event> {
        let index = self.index();
        self.state.index = index;
        let row = EventRow {
            action,
            dir: node.dir,
            refresh,
            created: node.created.0,
            wall_time: self.wall_time,
            expiration: node.expiration,
            previous: previous.as_ref().map(|node| PreviousRow {
                dir: node.dir,
                created: node.created.0,
                modified: node.modified.0,
                expiration: node.expiration,
            }),
        };
        row.write(index, self.scratch);
        self.tables.put(TREE_EVENTS, &event_key(index, &node.path), self.scratch, None);
        let wall_time = self.wall_time;
        Arc::new(Event { action, index: TreeIndex(index), node, previous, wall_time, refresh })
    }
}

/// What an event's answer says of the node that it wrote.
pub(super) fn written(
    path: Path,
    value: Value,
    created: u64,
    index: u64,
    lifetime: Option<Lifetime>,
) -> Node {
    Node {
        path,
        dir: value == Value::Absent,
        value,
        created: TreeIndex(created),
        modified: TreeIndex(index),
        expiration: lifetime.map(|lifetime| lifetime.expiration),
    }
}

/// A directory leaves the tree: it needs no way up any more, and what is in it is to go.
fn orphan(tables: &mut Tables, dir: DirId, name: &[u8]) {
    tables.remove(TREE_DIRS, &node_key(dir, name));
    if !is_empty_dir(tables, dir) {
        tables.put(TREE_ORPHANS, &dir.key(), &[], None);
    }
}

/// Removes what was cut off, up to `budget` nodes; whether all of it is gone.
pub(super) fn clean(tables: &mut Tables, scratch: &mut Vec<u8>, budget: &mut usize) -> bool {
    loop {
        let mut first = None;
        tables.scan(TREE_ORPHANS, &[], None, &mut |key, _| {
            first = Some(DirId::of_key(key));
            ControlFlow::Break(())
        });
        let Some(dir) = first else { return true };
        if *budget == 0 {
            return false;
        }
        let end = after_number(dir.0);
        let mut children = Vec::new();
        tables.scan(TREE, &dir.key(), end.as_ref().map(|end| &end[..]), &mut |key, entry| {
            if children.len() == *budget {
                return ControlFlow::Break(());
            }
            children.push(Found { key: key.to_vec(), row: NodeRow::read(entry.row), body: entry.body });
            ControlFlow::Continue(())
        });
        *budget -= children.len();
        children.iter().for_each(|child| drop_orphan(tables, scratch, child));
        if is_empty_dir(tables, dir) {
            tables.remove(TREE_ORPHANS, &dir.key());
        }
    }
}

fn drop_orphan(tables: &mut Tables, scratch: &mut Vec<u8>, child: &Found) {
    if let Some(lifetime) = child.row.lifetime {
        tables.remove(TREE_DEADLINES, &deadline_key(lifetime.deadline, &child.key));
    }
    if let Some(dir) = child.row.dir {
        orphan(tables, dir, &child.key[8..]);
    }
    if let Some(body) = child.body {
        let made_by = child.row.modified.to_be_bytes();
        if tables.get(TREE_VALUES, &made_by).is_some() {
            ValueState::Orphaned.write(scratch);
            tables.put(TREE_VALUES, &made_by, scratch, Some(body));
        } else {
            tables.retire(body);
        }
    }
    tables.remove(TREE, &child.key);
}

/// Forgets the oldest events beyond the window, up to `budget`; whether the window is kept.
pub(super) fn trim(tables: &mut Tables, state: &mut State, budget: &mut usize) -> bool {
    while state.index + 1 - state.first > state.window {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        forget(tables, state.first);
        state.first += 1;
    }
    true
}

fn forget(tables: &mut Tables, index: u64) {
    let mut found = None;
    let end = after_number(index);
    tables.scan(TREE_EVENTS, &index.to_be_bytes(), end.as_ref().map(|end| &end[..]), &mut |key, entry| {
        found = Some((key.to_vec(), EventRow::read(index, entry.row)));
        ControlFlow::Break(())
    });
    // The indexes that the tree began after have no events.
    let Some((key, row)) = found else { return };
    debug_assert_eq!(read_event_key(&key).0, index);
    tables.remove(TREE_EVENTS, &key);
    if let Some(previous) = row.previous.filter(|previous| !previous.dir) {
        let made_by = previous.modified.to_be_bytes();
        let held = tables.get(TREE_VALUES, &made_by);
        let held = held.filter(|held| ValueState::read(held.row) == ValueState::Superseded(index));
        if let Some(body) = held.and_then(|held| held.body) {
            tables.remove(TREE_VALUES, &made_by);
            tables.retire(body);
        }
    }
    let made_by = index.to_be_bytes();
    let Some(own) = tables.get(TREE_VALUES, &made_by) else { return };
    let (state, body) = (ValueState::read(own.row), own.body.expect("a value has a body"));
    match state {
        ValueState::Superseded(_) => {}
        ValueState::Current => {
            tables.remove(TREE_VALUES, &made_by);
        }
        ValueState::Orphaned => {
            tables.remove(TREE_VALUES, &made_by);
            tables.retire(body);
        }
    }
}

/// The value that TREE_VALUES has under an index; empty values have no record.
pub(super) fn value_made_by(tables: &Tables, index: u64) -> Value {
    let body = tables.get(TREE_VALUES, &index.to_be_bytes()).and_then(|entry| entry.body);
    value_at(tables, body)
}
