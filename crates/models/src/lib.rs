//! What the log's commands mean, as pure code.
//!
//! A model is a deterministic state machine over the store's tables. Invariants:
//!
//! - `apply` reads nothing but the command, its [`Stamps`] and the tables: no clock, no flag, no random number.
//! - A model owns no durable state: all of it lives in tables; what it caches can be rebuilt from them.
//! - A command changes nothing before it returned its last [`Step::Need`]; a refused command changes nothing at all.
//! - A command that touches many records does so in slices ([`Step::More`]); what it must remember between them is in
//!   the [`Cursor`], which a checkpoint stores. No reader sees a part of a command: readers pin a revision, and a
//!   command's revision becomes visible when its last slice is done.

#![forbid(unsafe_code)]

mod bundle;
pub mod keys;
pub mod mutants;
pub mod tree;
mod varint;

pub use bundle::{Command, DecodeError, Expiries, Feeds, Models, Reply, hashed_tables};

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_ids::{ClusterTime, LogIndex, Term, WallTime};
use quorate_store::{Location, TableId};

/// Records that one slice of a command may touch.
pub const SLICE_RECORDS_MAX: usize = 4096;

/// Table numbers, all in one place: two models must never share one.
pub mod tables {
    use super::TableId;

    /// keys: a key's current version. Hashed.
    pub const KEYS: TableId = TableId(0x10);
    /// keys: every version that a reader at some revision above the compacted one can still see. Not hashed.
    pub const HISTORY: TableId = TableId(0x11);
    /// keys: keys deleted since the compacted revision. Not hashed.
    pub const GRAVEYARD: TableId = TableId(0x12);
    /// keys: current and compacted revision. Hashed.
    pub const KEYS_META: TableId = TableId(0x13);
    /// keys: leases by id. Hashed.
    pub const LEASES: TableId = TableId(0x14);
    /// keys: (lease id, key) for each attached key. Hashed.
    pub const LEASE_KEYS: TableId = TableId(0x15);
    /// keys: alarms by member. Hashed.
    pub const ALARMS: TableId = TableId(0x16);
    /// keys: how far this member has forgotten compacted versions: its own pace. Not hashed.
    pub const KEYS_LOCAL: TableId = TableId(0x17);
    /// keys: (revision, key) for keys too long to stand in their HISTORY rows. Not hashed.
    pub const HISTORY_KEYS: TableId = TableId(0x18);
    /// tree: nodes by their directory's number and their name. Hashed.
    pub const TREE: TableId = TableId(0x20);
    /// tree: each directory's own name and the directory that it is in, by its number. Hashed.
    pub const TREE_DIRS: TableId = TableId(0x21);
    /// tree: events by index. Hashed.
    pub const TREE_EVENTS: TableId = TableId(0x22);
    /// tree: values that events show, by the index that made them. Hashed.
    pub const TREE_VALUES: TableId = TableId(0x23);
    /// tree: nodes by the time at which they expire. Hashed.
    pub const TREE_DEADLINES: TableId = TableId(0x24);
    /// tree: directories cut off the tree whose content is still to go. Hashed; empty between commands.
    pub const TREE_ORPHANS: TableId = TableId(0x25);
    /// tree: index, history window, counters. Hashed.
    pub const TREE_META: TableId = TableId(0x26);
    /// tree: users, roles, and whether clients are asked who they are. Hashed.
    pub const TREE_AUTH: TableId = TableId(0x27);
    /// member: the cluster's members by id, and what else the member itself replicates. Hashed.
    pub const MEMBERS: TableId = TableId(0x01);
    pub const CLUSTER_META: TableId = TableId(0x02);
}

/// What an entry carries besides its command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    pub index: LogIndex,
    pub term: Term,
    pub cluster_time: ClusterTime,
    pub wall_time: WallTime,
}

/// What a command remembers between slices, and the cold bodies that were loaded for it.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// The model's own, empty at the start of a command. Bounded by [`quorate_store::ROW_BYTES_MAX`].
    pub state: Vec<u8>,
    /// Bodies that a [`Step::Need`] asked for. Only for this command, never stored.
    pub loaded: BTreeMap<Location, Bytes>,
}

/// What one call of `apply` came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<R> {
    /// The command is done.
    Done(R),
    /// A slice is done; call again with the same cursor.
    More,
    /// Nothing was changed. Load these bodies into [`Cursor::loaded`] and call again.
    Need(Vec<Location>),
}

impl<R> Step<R> {
    /// The same step with another answer.
    pub fn map<T>(self, answer: impl FnOnce(R) -> T) -> Step<T> {
        match self {
            Self::Done(reply) => Step::Done(answer(reply)),
            Self::More => Step::More,
            Self::Need(locations) => Step::Need(locations),
        }
    }
}

/// Which model a command is for; a number in the log, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u16);

impl ModelId {
    /// The member's own commands: members, cluster version.
    pub const MEMBER: Self = Self(0);
    pub const KEYS: Self = Self(1);
    pub const TREE: Self = Self(2);
}
