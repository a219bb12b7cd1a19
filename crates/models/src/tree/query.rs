//! Reading the tree.
//!
//! A directory may hold more than can be read under one hold of the tables' lock, and the tree has no versions. So a
//! reader walks in slices of [`SLICE_NODES`] nodes, in the order of paths, and before each slice does to what it has
//! already what the events since its last slice did to the tree. Invariant: after each slice, what was collected is the
//! tree at the current index as far as the walk has come. The answer is the tree at one index, which was current at
//! some moment of the call. A reader that history has left behind starts over.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_ids::TreeIndex;
use quorate_store::{BodyError, Location, Pin, Store, Tables};

use super::history;
use super::nodes::{find, is_empty_dir, look_up, node_of, root_row, value_at};
use super::path::Path;
use super::reply::{Action, Event, Node, TreeError, Value};
use super::rows::{DirId, NodeRow, State, after_number, node_key};
use crate::tables::TREE;

/// Nodes that one slice of a walk visits, and events that it takes in first.
const SLICE_NODES: usize = 256;
/// Values up to this size are put into an answer while the lock is held, if they are in memory; larger sums are read later.
const VALUES_HERE_BYTES_MAX: usize = 1 << 20;
/// How often a walk that fell behind history starts over.
const STARTS_MAX: usize = 8;

/// A read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    pub path: Path,
    /// Also what is in the directories of the directory, at any depth.
    pub recursive: bool,
    /// An answer with more than this, counted as paths, values and 64 bytes for each node, is refused.
    pub bytes_max: usize,
}

/// The tree at one index, as far as it was asked for.
#[derive(Debug)]
pub struct GetReply {
    pub index: TreeIndex,
    pub node: Node,
    /// What is in a directory, in the order of paths: sorted by name, each directory right before its own content.
    /// Hidden nodes are left out.
    pub below: Vec<Node>,
    /// Keeps the values that lie on disk; drop it once they are loaded.
    pub pin: Pin,
}

/// Reads a node and, of a directory, what is in it. Takes the tables' lock in short holds; a large directory takes many,
/// so call it where that may take a moment.
pub fn get(store: &Store, query: &Get) -> Result<GetReply, TreeError> {
    let pin = store.pin();
    for _ in 0..STARTS_MAX {
        let mut walk = Walk::new(query);
        loop {
            match walk.slice(&store.read())? {
                Progress::More => {}
                Progress::Done => {
                    let node = walk.node.expect("a walk that is done has its node");
                    let below = walk.below.into_values().collect();
                    return Ok(GetReply { index: TreeIndex(walk.index), node, below, pin });
                }
                Progress::Behind => break,
            }
        }
    }
    Err(TreeError::Overtaken)
}

enum Progress {
    More,
    Done,
    Behind,
}

struct Walk<'a> {
    query: &'a Get,
    /// What was collected is the tree at this index, up to `position`.
    index: u64,
    node: Option<Node>,
    below: BTreeMap<Path, Node>,
    /// The last node that was visited.
    position: Path,
    bytes: usize,
    values_here: usize,
    /// Nodes that a slice visits, and events that it takes in.
    slice: usize,
}

/// A directory that a walk is in.
struct Level {
    dir: DirId,
    path: Path,
    /// The last name that was visited in it.
    after: Option<Vec<u8>>,
}

enum Visited {
    All,
    /// The slice is used up.
    Cut,
    Into {
        rest: Level,
        level: Level,
    },
}

fn weight(node: &Node) -> usize {
    let value = match &node.value {
        Value::Here(value) => value.len(),
        Value::At(at) => at.len as usize,
        Value::Absent => 0,
    };
    64 + node.path.as_bytes().len() + value
}

impl<'a> Walk<'a> {
    fn new(query: &'a Get) -> Self {
        Self {
            query,
            index: 0,
            node: None,
            below: BTreeMap::new(),
            position: query.path.clone(),
            bytes: 0,
            values_here: 0,
            slice: SLICE_NODES,
        }
    }

    fn slice(&mut self, tables: &Tables) -> Result<Progress, TreeError> {
        if self.node.is_none() {
            let state = State::read(tables);
            self.index = state.index;
            if state.importing.is_some() {
                return self.of_an_empty_tree();
            }
            let found = find(tables, &self.query.path)?;
            self.node = Some(found.node(tables, self.query.path.clone()));
        } else {
            match self.catch_up(tables) {
                Progress::Done => {}
                other => return Ok(other),
            }
        }
        let more = self.visit(tables);
        if self.bytes > self.query.bytes_max {
            return Err(TreeError::ListingTooLarge { bytes_max: self.query.bytes_max });
        }
        Ok(if more { Progress::More } else { Progress::Done })
    }

    /// What is being imported is not there before all of it is.
    fn of_an_empty_tree(&mut self) -> Result<Progress, TreeError> {
        if !self.query.path.is_root() {
            return Err(TreeError::NotFound { path: self.query.path.prefix(1) });
        }
        self.node = Some(node_of(Path::root(), &root_row(), Value::Absent));
        Ok(Progress::Done)
    }

    // ---- what happened since the last slice ----

    /// Does to what was collected what happened since. Behind: history does not know all of it any more, or the node
    /// that was asked for is not the same any more.
    fn catch_up(&mut self, tables: &Tables) -> Progress {
        let current = State::read(tables).index;
        if current == self.index {
            return Progress::Done;
        }
        let Ok(events) = history::events(tables, TreeIndex(self.index + 1), self.slice) else {
            return Progress::Behind;
        };
        if !events.iter().all(|event| self.replay(event)) {
            return Progress::Behind;
        }
        self.index = events.last().map_or(current, |last| last.index.0);
        if self.index == current { Progress::Done } else { Progress::More }
    }

    fn replay(&mut self, event: &Event) -> bool {
        let (root, path) = (&self.query.path, &event.node.path);
        if path == root || root.is_below(path) {
            // A new TTL changes nothing but itself; anything else may have made another node of it.
            let renewed = event.action == Action::Update && event.node.dir;
            if path == root && renewed {
                let node = self.node.as_mut().expect("the walk has begun");
                node.expiration = event.node.expiration;
                return true;
            }
            return root.is_below(path) && !event.action.deletes();
        }
        if !path.is_below(root) {
            return true;
        }
        if event.action.deletes() {
            self.take_away(path);
            return true;
        }
        let depth = root.depth();
        for parts in depth + 1..=path.depth() {
            let at = path.prefix(parts);
            if at.is_hidden_from(root) || at > self.position || (!self.query.recursive && parts > depth + 1) {
                break;
            }
            if at != *path {
                if !self.below.contains_key(&at) {
                    self.add(made_on_the_way(at, event.index));
                }
                continue;
            }
            match self.below.get_mut(&at) {
                // A directory's new TTL changes nothing but itself: neither its index nor what is in it.
                Some(known) if event.action == Action::Update && event.node.dir => {
                    known.expiration = event.node.expiration;
                }
                _ => {
                    self.take_away(&at);
                    self.add(event.node.clone());
                }
            }
        }
        true
    }

    fn take_away(&mut self, path: &Path) {
        let gone: Vec<Path> = self
            .below
            .range(path.clone()..)
            .take_while(|(at, _)| *at == path || at.is_below(path))
            .map(|(at, _)| at.clone())
            .collect();
        for at in gone {
            let node = self.below.remove(&at).expect("it was there a moment ago");
            self.bytes -= weight(&node);
        }
    }

    fn add(&mut self, node: Node) {
        self.bytes += weight(&node);
        self.below.insert(node.path.clone(), node);
    }

    // ---- the walk itself ----

    /// Visits the nodes after `position`; whether there are more.
    fn visit(&mut self, tables: &Tables) -> bool {
        let mut budget = self.slice;
        let Some(mut levels) = self.levels(tables) else { return false };
        while let Some(level) = levels.pop() {
            match self.visit_directory(tables, level, &mut budget) {
                Visited::All => {}
                Visited::Cut => return true,
                Visited::Into { rest, level } => levels.extend([rest, level]),
            }
        }
        false
    }

    /// Goes through a directory up to the first node that has something below it.
    fn visit_directory(&mut self, tables: &Tables, level: Level, budget: &mut usize) -> Visited {
        let mut from = node_key(level.dir, level.after.as_deref().unwrap_or_default());
        if level.after.is_some() {
            from.push(0);
        }
        let end = after_number(level.dir.0);
        let mut visited = Visited::All;
        tables.scan(TREE, &from, end.as_ref().map(|end| &end[..]), &mut |key, entry| {
            if *budget == 0 || self.bytes > self.query.bytes_max {
                visited = Visited::Cut;
                return ControlFlow::Break(());
            }
            *budget -= 1;
            let name = &key[8..];
            let at = level.path.child_known(name);
            self.position = at.clone();
            if name.starts_with(b"_") {
                return ControlFlow::Continue(());
            }
            let row = NodeRow::read(entry.row);
            let node = self.read(tables, at.clone(), &row, entry.body);
            self.add(node);
            let below = row.dir.filter(|dir| self.query.recursive && !is_empty_dir(tables, *dir));
            let Some(dir) = below else { return ControlFlow::Continue(()) };
            let rest = Level { dir: level.dir, path: level.path.clone(), after: Some(name.to_vec()) };
            visited = Visited::Into { rest, level: Level { dir, path: at, after: None } };
            ControlFlow::Break(())
        });
        visited
    }

    fn read(&mut self, tables: &Tables, path: Path, row: &NodeRow, body: Option<Location>) -> Node {
        let value = match body {
            _ if row.dir.is_some() => Value::Absent,
            Some(at) if self.values_here >= VALUES_HERE_BYTES_MAX => Value::At(at),
            body => value_at(tables, body),
        };
        if let Value::Here(value) = &value {
            self.values_here += value.len();
        }
        node_of(path, row, value)
    }

    /// The directories that the walk is in, the outermost first. `None`: the node that was asked for is a file.
    fn levels(&self, tables: &Tables) -> Option<Vec<Level>> {
        let root = find(tables, &self.query.path).ok()?;
        let mut levels = vec![Level { dir: root.row.dir?, path: self.query.path.clone(), after: None }];
        for name in self.position.parts().skip(self.query.path.depth()) {
            let level = levels.last_mut().expect("it starts with one");
            level.after = Some(name.to_vec());
            let hidden = name.starts_with(b"_");
            let next = look_up(tables, level.dir, name).and_then(|found| found.row.dir);
            let Some(dir) = next.filter(|_| self.query.recursive && !hidden) else { break };
            let path = level.path.child_known(name);
            levels.push(Level { dir, path, after: None });
        }
        Some(levels)
    }
}

/// A directory that a change below it made.
fn made_on_the_way(path: Path, index: TreeIndex) -> Node {
    Node { path, dir: true, value: Value::Absent, created: index, modified: index, expiration: None }
}

/// A value wherever it lies. Reads the disk where it must: never with the store's lock held.
pub fn load_value(store: &Store, value: &Value) -> Result<Bytes, TreeError> {
    match value {
        Value::Here(bytes) => Ok(bytes.clone()),
        Value::Absent => Ok(Bytes::new()),
        Value::At(at) => store.load(*at).map_err(|error| unreadable(*at, &error)),
    }
}

fn unreadable(at: Location, error: &BodyError) -> TreeError {
    TreeError::Unreadable { reason: format!("{} bytes in segment {}: {error}", at.len, at.segment) }
}

/// An event with both its values in memory, for a face that sends it. Reads the disk where it must: never call it with
/// the store's lock held. Events stay in memory longer than the files that their locations name: records move. Then the
/// value is looked up again in history; once history has forgotten it too, that is the error.
pub fn load_event(store: &Store, event: &Event) -> Result<Event, TreeError> {
    let _pin = store.pin();
    match loaded(store, event) {
        Ok(loaded) => Ok(loaded),
        Err(error) => {
            let (again, oldest) = {
                let tables = store.read();
                (history::event(&tables, event.index), history::history_start(&tables))
            };
            match again {
                Some(again) => loaded(store, &again),
                None if event.index < oldest => Err(TreeError::HistoryCleared { oldest, asked: event.index }),
                None => Err(error),
            }
        }
    }
}

fn loaded(store: &Store, event: &Event) -> Result<Event, TreeError> {
    let mut event = event.clone();
    event.node.value = load_node(store, &event.node)?;
    if let Some(previous) = &mut event.previous {
        previous.value = load_node(store, previous)?;
    }
    Ok(event)
}

fn load_node(store: &Store, node: &Node) -> Result<Value, TreeError> {
    match &node.value {
        Value::Absent => Ok(Value::Absent),
        value => load_value(store, value).map(Value::Here),
    }
}

#[cfg(test)]
mod tests;
