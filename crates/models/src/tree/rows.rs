//! What the tree model's tables hold, byte by byte. `docs/formats/tree-tables.md` is the specification.
//!
//! Invariants: the store checks every row's bytes before it shows them, so a row that does not parse is a fault of this
//! program: reading one panics, which fails this member alone.

use quorate_ids::{ClusterTime, TreeIndex, WallTime};
use quorate_store::Tables;

use super::path::Path;
use super::reply::{Action, Statistics};
use crate::tables::TREE_META;
use crate::varint::{Reader, put_varint};

/// Events that history keeps, unless a command says otherwise: as many as etcd's.
pub const HISTORY_EVENTS_DEFAULT: u64 = 1000;

/// `flag` where it is on, else nothing.
pub(super) fn bit(on: bool, flag: u8) -> u8 {
    if on { flag } else { 0 }
}

/// A directory's number. Never used again; the root's is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirId(pub u64);

impl DirId {
    pub(super) const ROOT: Self = Self(0);

    pub(super) fn key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub(super) fn of_key(key: &[u8]) -> Self {
        Self(u64::from_be_bytes(key[..8].try_into().expect("a directory's number has 8 bytes")))
    }
}

/// The key of a node in TREE, and of a directory in TREE_DIRS: a number, then a name.
pub(super) fn node_key(dir: DirId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&dir.key());
    key.extend_from_slice(name);
    key
}

/// The first key after all that start with this number; `None`: no number is greater.
pub(super) fn after_number(number: u64) -> Option<[u8; 8]> {
    number.checked_add(1).map(u64::to_be_bytes)
}

/// When a node ends, and what is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub deadline: ClusterTime,
    pub expiration: WallTime,
}

/// A node: a row of TREE. The body is the value, if it is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeRow {
    pub created: u64,
    pub modified: u64,
    /// A directory's number; `None`: a file.
    pub dir: Option<DirId>,
    pub lifetime: Option<Lifetime>,
}

const NODE_DIR: u8 = 1;
const NODE_LIFETIME: u8 = 2;

impl NodeRow {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(bit(self.dir.is_some(), NODE_DIR) | bit(self.lifetime.is_some(), NODE_LIFETIME));
        put_varint(out, self.modified);
        put_varint(out, self.modified - self.created);
        if let Some(dir) = self.dir {
            put_varint(out, dir.0);
        }
        if let Some(lifetime) = self.lifetime {
            put_varint(out, lifetime.deadline.0);
            put_varint(out, lifetime.expiration.0);
        }
    }

    pub(super) fn read(row: &[u8]) -> Self {
        Self::parse(row).expect("a row of TREE parses")
    }

    fn parse(row: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: row };
        let flags = reader.byte()?;
        let modified = reader.varint()?;
        let created = modified.checked_sub(reader.varint()?)?;
        let dir = if flags & NODE_DIR != 0 { Some(DirId(reader.varint()?)) } else { None };
        let lifetime = if flags & NODE_LIFETIME != 0 { Some(read_lifetime(&mut reader)?) } else { None };
        reader.bytes.is_empty().then_some(Self { created, modified, dir, lifetime })
    }
}

fn read_lifetime(reader: &mut Reader<'_>) -> Option<Lifetime> {
    Some(Lifetime { deadline: ClusterTime(reader.varint()?), expiration: WallTime(reader.varint()?) })
}

/// What an event says of the node before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreviousRow {
    pub dir: bool,
    pub created: u64,
    pub modified: u64,
    pub expiration: Option<WallTime>,
}

/// An event: a row of TREE_EVENTS, whose key holds index and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventRow {
    pub action: Action,
    pub dir: bool,
    pub refresh: bool,
    pub created: u64,
    pub wall_time: WallTime,
    pub expiration: Option<WallTime>,
    pub previous: Option<PreviousRow>,
}

const EVENT_DIR: u8 = 1;
const EVENT_REFRESH: u8 = 2;
const EVENT_EXPIRATION: u8 = 4;
const EVENT_PREVIOUS: u8 = 8;
const PREVIOUS_DIR: u8 = 16;
const PREVIOUS_EXPIRATION: u8 = 32;

impl EventRow {
    pub(super) fn write(&self, index: u64, out: &mut Vec<u8>) {
        out.clear();
        out.push(self.action as u8);
        let mut flags = bit(self.dir, EVENT_DIR)
            | bit(self.refresh, EVENT_REFRESH)
            | bit(self.expiration.is_some(), EVENT_EXPIRATION);
        if let Some(previous) = &self.previous {
            flags |= EVENT_PREVIOUS
                | bit(previous.dir, PREVIOUS_DIR)
                | bit(previous.expiration.is_some(), PREVIOUS_EXPIRATION);
        }
        out.push(flags);
        put_varint(out, index - self.created);
        put_varint(out, self.wall_time.0);
        if let Some(expiration) = self.expiration {
            put_varint(out, expiration.0);
        }
        if let Some(previous) = &self.previous {
            put_varint(out, index - previous.modified);
            put_varint(out, previous.modified - previous.created);
            if let Some(expiration) = previous.expiration {
                put_varint(out, expiration.0);
            }
        }
    }

    pub(super) fn read(index: u64, row: &[u8]) -> Self {
        Self::parse(index, row).expect("a row of TREE_EVENTS parses")
    }

    fn parse(index: u64, row: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: row };
        let action = *Action::ALL.get(usize::from(reader.byte()?))?;
        let flags = reader.byte()?;
        let created = index.checked_sub(reader.varint()?)?;
        let wall_time = WallTime(reader.varint()?);
        let mut time = |flag| {
            if flags & flag == 0 { Some(None) } else { reader.varint().map(|time| Some(WallTime(time))) }
        };
        let expiration = time(EVENT_EXPIRATION)?;
        let mut previous = None;
        if flags & EVENT_PREVIOUS != 0 {
            let modified = index.checked_sub(reader.varint()?)?;
            let created = modified.checked_sub(reader.varint()?)?;
            let expiration =
                if flags & PREVIOUS_EXPIRATION != 0 { Some(WallTime(reader.varint()?)) } else { None };
            previous = Some(PreviousRow { dir: flags & PREVIOUS_DIR != 0, created, modified, expiration });
        }
        let (dir, refresh) = (flags & EVENT_DIR != 0, flags & EVENT_REFRESH != 0);
        let row = Self { action, dir, refresh, created, wall_time, expiration, previous };
        reader.bytes.is_empty().then_some(row)
    }
}

/// The key of TREE_EVENTS: index, then path.
pub(super) fn event_key(index: u64, path: &Path) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + path.as_bytes().len());
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(path.as_bytes());
    key
}

pub(super) fn read_event_key(key: &[u8]) -> (u64, Path) {
    let (index, path) = key.split_at(8);
    (
        u64::from_be_bytes(index.try_into().expect("a key of TREE_EVENTS starts with 8 bytes")),
        Path::known(path),
    )
}

/// What became of a value since the index that made it: a row of TREE_VALUES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueState {
    /// The node has it.
    Current,
    /// It went with a directory: no event shows it as what was there before.
    Orphaned,
    /// The event of this index shows it as what was there before.
    Superseded(u64),
}

impl ValueState {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Current => {}
            Self::Orphaned => put_varint(out, 0),
            Self::Superseded(by) => put_varint(out, by),
        }
    }

    pub(super) fn read(row: &[u8]) -> Self {
        if row.is_empty() {
            return Self::Current;
        }
        match (Reader { bytes: row }).varint().expect("a row of TREE_VALUES parses") {
            0 => Self::Orphaned,
            by => Self::Superseded(by),
        }
    }
}

/// The key of TREE_DEADLINES: when, then the node's key.
pub(super) fn deadline_key(deadline: ClusterTime, node: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + node.len());
    key.extend_from_slice(&deadline.0.to_be_bytes());
    key.extend_from_slice(node);
    key
}

/// A row of TREE_DIRS: the directory that a directory is in.
pub(super) fn write_parent(parent: DirId, out: &mut Vec<u8>) {
    out.clear();
    put_varint(out, parent.0);
}

pub(super) fn read_parent(row: &[u8]) -> DirId {
    DirId((Reader { bytes: row }).varint().expect("a row of TREE_DIRS parses"))
}

/// What stands for the whole tree: the row `s` of TREE_META.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Of the last change.
    pub index: u64,
    /// The first event that is kept, where there is one; events from here to `index` are.
    pub first: u64,
    /// Events kept at most.
    pub window: u64,
    /// The number of the next directory.
    pub next_dir: u64,
    /// Nodes of another tree are being imported, and this is the last index that modified one of them.
    pub importing: Option<u64>,
}

const META_STATE: &[u8] = b"s";
const META_COUNTERS: &[u8] = b"c";

impl Default for State {
    fn default() -> Self {
        Self { index: 0, first: 1, window: HISTORY_EVENTS_DEFAULT, next_dir: 1, importing: None }
    }
}

impl State {
    pub(super) fn read(tables: &Tables) -> Self {
        let Some(entry) = tables.get(TREE_META, META_STATE) else { return Self::default() };
        let mut reader = Reader { bytes: entry.row };
        let mut next = || reader.varint().expect("a row of TREE_META parses");
        let (index, first, window, next_dir) = (next(), next(), next(), next());
        let importing = if reader.bytes.is_empty() { None } else { reader.varint() };
        Self { index, first, window, next_dir, importing }
    }

    pub(super) fn write(&self, tables: &mut Tables, scratch: &mut Vec<u8>) {
        scratch.clear();
        for number in [self.index, self.first, self.window, self.next_dir] {
            put_varint(scratch, number);
        }
        if let Some(modified) = self.importing {
            put_varint(scratch, modified);
        }
        tables.put(TREE_META, META_STATE, scratch, None);
    }
}

/// The index of the last change; 0 where there was none.
#[must_use]
pub fn current_index(tables: &Tables) -> TreeIndex {
    TreeIndex(State::read(tables).index)
}

/// How many events history keeps.
#[must_use]
pub fn history_window(tables: &Tables) -> u64 {
    State::read(tables).window
}

/// What commands came to so far.
#[must_use]
pub fn statistics(tables: &Tables) -> Statistics {
    let mut statistics = Statistics::default();
    if let Some(entry) = tables.get(TREE_META, META_COUNTERS) {
        let mut reader = Reader { bytes: entry.row };
        for counter in counters(&mut statistics) {
            *counter = reader.varint().expect("a row of TREE_META parses");
        }
    }
    statistics
}

pub(super) fn write_statistics(tables: &mut Tables, statistics: &mut Statistics, scratch: &mut Vec<u8>) {
    scratch.clear();
    for counter in counters(statistics) {
        put_varint(scratch, *counter);
    }
    tables.put(TREE_META, META_COUNTERS, scratch, None);
}

/// In the order of the row.
fn counters(statistics: &mut Statistics) -> [&mut u64; 13] {
    let Statistics {
        set_success,
        set_fail,
        create_success,
        create_fail,
        update_success,
        update_fail,
        compare_and_swap_success,
        compare_and_swap_fail,
        delete_success,
        delete_fail,
        compare_and_delete_success,
        compare_and_delete_fail,
        expire_count,
    } = statistics;
    [
        set_success,
        set_fail,
        create_success,
        create_fail,
        update_success,
        update_fail,
        compare_and_swap_success,
        compare_and_swap_fail,
        delete_success,
        delete_fail,
        compare_and_delete_success,
        compare_and_delete_fail,
        expire_count,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_as_written() {
        let lifetime = Lifetime { deadline: ClusterTime(1 << 40), expiration: WallTime(u64::MAX) };
        let mut out = Vec::new();
        for dir in [None, Some(DirId(7))] {
            for lifetime in [None, Some(lifetime)] {
                let row = NodeRow { created: 3, modified: 1 << 50, dir, lifetime };
                row.write(&mut out);
                assert_eq!(NodeRow::read(&out), row);
            }
        }
        let previous = PreviousRow { dir: true, created: 4, modified: 9, expiration: Some(WallTime(5)) };
        for action in Action::ALL {
            for previous in [None, Some(previous), Some(PreviousRow { expiration: None, ..previous })] {
                for expiration in [None, Some(WallTime(77))] {
                    let (dir, refresh) = (action == Action::Delete, action == Action::Update);
                    let wall_time = WallTime(1 << 60);
                    let row = EventRow { action, dir, refresh, created: 4, wall_time, expiration, previous };
                    row.write(10, &mut out);
                    assert_eq!(EventRow::read(10, &out), row);
                }
            }
        }
        for state in [ValueState::Current, ValueState::Orphaned, ValueState::Superseded(1)] {
            state.write(&mut out);
            assert_eq!(ValueState::read(&out), state);
        }
    }
}
