//! What the tree model answers, and the events that its watchers see.

use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{TreeIndex, WallTime};
use quorate_store::Location;

use super::auth::AuthRevision;
use super::path::{Path, PathError};

/// A value, or where to read it: what an answer carries besides the command's own is read after `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Here(Bytes),
    /// The record's body is the value; [`super::load_value`] reads it.
    At(Location),
    /// A directory has none, nor has the node of an event that deletes.
    Absent,
}

/// A node as an answer, a listing or an event shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub path: Path,
    pub dir: bool,
    pub value: Value,
    pub created: TreeIndex,
    pub modified: TreeIndex,
    /// When it expires, by the wall clock that entries carry. What counts is cluster time; this is what is shown.
    pub expiration: Option<WallTime>,
}

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Set,
    Create,
    Update,
    CompareAndSwap,
    CompareAndDelete,
    Delete,
    Expire,
}

impl Action {
    pub(super) const ALL: [Self; 7] = [
        Self::Set,
        Self::Create,
        Self::Update,
        Self::CompareAndSwap,
        Self::CompareAndDelete,
        Self::Delete,
        Self::Expire,
    ];

    /// The name that clients know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Create => "create",
            Self::Update => "update",
            Self::CompareAndSwap => "compareAndSwap",
            Self::CompareAndDelete => "compareAndDelete",
            Self::Delete => "delete",
            Self::Expire => "expire",
        }
    }

    /// Whether the node is gone after it.
    #[must_use]
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompareAndDelete | Self::Expire)
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub action: Action,
    /// The index that the change took.
    pub index: TreeIndex,
    /// The node after it. Its `modified` is `index`, also for the update of a directory, whose own does not move. Of a
    /// node that is gone: its path, kind and `created`.
    pub node: Node,
    /// What was there before.
    pub previous: Option<Node>,
    /// When it happened, by the wall clock that entries carry: what is left of a TTL at that moment is
    /// `node.expiration` less this.
    pub wall_time: WallTime,
    /// Only a TTL was renewed: watchers are not told.
    pub refresh: bool,
}

/// What became of a command. `index` is the tree's after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Set, create, update, compare-and-swap, delete, compare-and-delete.
    Changed(Arc<Event>),
    Expired {
        index: TreeIndex,
        nodes: u64,
    },
    Began {
        index: TreeIndex,
    },
    HistoryWindow {
        index: TreeIndex,
        events: u64,
    },
    /// Import, which leaves the index as it is, and the end of one.
    Imported {
        index: TreeIndex,
    },
    AuthChanged {
        index: TreeIndex,
        revision: AuthRevision,
    },
    /// Nothing was changed: the records of users and roles are no longer those that allowed the command.
    Outdated {
        index: TreeIndex,
        revision: AuthRevision,
    },
    Refused {
        index: TreeIndex,
        error: TreeError,
    },
}

impl Reply {
    /// The tree's index after the command.
    #[must_use]
    pub fn index(&self) -> TreeIndex {
        match self {
            Self::Changed(event) => event.index,
            Self::Expired { index, .. }
            | Self::Began { index }
            | Self::HistoryWindow { index, .. }
            | Self::Imported { index }
            | Self::AuthChanged { index, .. }
            | Self::Outdated { index, .. }
            | Self::Refused { index, .. } => *index,
        }
    }
}

/// What a compare found: for each condition that does not hold, what was asked for and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompareFailure {
    pub value: Option<(Bytes, Bytes)>,
    pub index: Option<(TreeIndex, TreeIndex)>,
}

/// Why nodes of another tree were not imported: none of the command was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportFault {
    #[error("the tree has changed already; only one that never did can import another")]
    Changed,
    #[error("{path} is there already")]
    Exists { path: Path },
    #[error("the directory of {path} is not there, or is a file")]
    NoDirectory { path: Path },
    #[error("{path} was created at index {created} and modified at {modified}, which is no order")]
    Indexes { path: Path, created: TreeIndex, modified: TreeIndex },
    #[error("{path} was modified at index {index}, as another file was")]
    IndexTaken { path: Path, index: TreeIndex },
    #[error("the value of {path} has {len} bytes; at most {max} are possible")]
    ValueTooLong { path: Path, len: usize, max: usize },
    #[error("a node was modified at index {modified}, after {index}, which is to be the last")]
    EndsBefore { index: TreeIndex, modified: TreeIndex },
}

/// Why a command or a read was refused. Nothing but a counter was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The first part of the path that does not exist.
    #[error("key not found: {path}")]
    NotFound { path: Path },
    #[error("the conditions do not hold")]
    CompareFailed(CompareFailure),
    #[error("not a file: {path}")]
    NotFile { path: Path },
    /// The part of the path that is a file.
    #[error("not a directory: {path}")]
    NotDirectory { path: Path },
    #[error("key exists already: {path}")]
    Exists { path: Path },
    #[error("the root is read only")]
    RootReadOnly,
    #[error("directory not empty: {path}")]
    NotEmpty { path: Path },
    /// Events from `asked` on are no longer all kept; `oldest` is the first that is.
    #[error("the requested history has been cleared [{oldest}/{asked}]")]
    HistoryCleared { oldest: TreeIndex, asked: TreeIndex },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("the value has {len} bytes; at most {max} are possible")]
    ValueTooLong { len: usize, max: usize },
    #[error("the TTL of {seconds} seconds lies beyond what a clock can show")]
    TtlTooLong { seconds: u64 },
    #[error("a history of {events} events is not possible; 1 to {max} are")]
    HistoryWindow { events: u64, max: u64 },
    #[error(transparent)]
    Import(#[from] ImportFault),
    #[error("nodes of another tree are being imported; nothing else changes until that is done")]
    Importing,
    #[error("there are {max} users or roles already, which is as many as may be")]
    TooManyAuthRecords { max: u64 },
    #[error("the listing has more than {bytes_max} bytes; read it in parts, directory by directory")]
    ListingTooLarge { bytes_max: usize },
    #[error("the directory changes faster than it can be read; read it in parts")]
    Overtaken,
    #[error("a value can't be read: {reason}")]
    Unreadable { reason: String },
}

/// What commands came to since the tree began: part of the replicated state, so it outlives restarts and is equal on
/// all members. Reads and watchers are no commands: each member counts its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub set_success: u64,
    pub set_fail: u64,
    pub create_success: u64,
    pub create_fail: u64,
    pub update_success: u64,
    pub update_fail: u64,
    pub compare_and_swap_success: u64,
    pub compare_and_swap_fail: u64,
    pub delete_success: u64,
    pub delete_fail: u64,
    pub compare_and_delete_success: u64,
    pub compare_and_delete_fail: u64,
    pub expire_count: u64,
}
