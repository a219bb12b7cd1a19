//! What can be asked of the tree model.
//!
//! What differs between etcd 0.4 and 2.x stands in the commands themselves: `apply` knows no flag.

use bytes::Bytes;
use quorate_ids::{Term, TreeIndex, WallTime};

use super::auth::{AuthChange, AuthRevision, Authority};
use super::path::Path;

/// Nodes that one [`Command::Expire`] may name as its bound.
pub const EXPIRED_PER_COMMAND_MAX: u32 = 1000;
/// Nodes that one [`Command::Import`] may hold.
pub const IMPORTED_PER_COMMAND_MAX: usize = 1000;
/// The largest history window that can be set.
pub const HISTORY_EVENTS_MAX: u64 = 1_000_000;

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes a node, whatever was there; a directory is never replaced. Directories above are made where they lack.
    Set(Write),
    /// Writes a node that must not exist. Directories above are made where they lack.
    Create(Write),
    /// Creates a node in the directory `write.path` (made if it lacks), named by the index that the command takes.
    CreateInOrder { write: Write, style: NameStyle },
    /// Writes a file that must exist, or changes the TTL of a directory that must exist.
    Update(Write),
    /// Writes a file that must exist and fulfil the conditions.
    CompareAndSwap { write: Write, conditions: Conditions },
    /// Deletes a node: a directory if `dir` is set and it is empty, or whatever is in it if `recursive` is set.
    Delete { path: Path, dir: bool, recursive: bool },
    /// Deletes a file that must fulfil the conditions.
    CompareAndDelete { path: Path, conditions: Conditions },
    /// The leader of `term` saw nodes expire: up to `nodes_max` that are due at the entry's cluster time end, the
    /// longest overdue first. In a later term it changes nothing.
    Expire { term: Term, nodes_max: u32 },
    /// The first change of the tree takes the index after this one. Changes nothing once the tree's index has moved,
    /// so each member may propose it at its start.
    Begin { index: TreeIndex },
    /// How many events history keeps: 1 to [`HISTORY_EVENTS_MAX`]. Fewer than now: the oldest go.
    SetHistoryWindow { events: u64 },
    /// Nodes of another tree, with their indexes; each after the directory that it is in. Only a tree that never
    /// changed takes them. Until [`Command::EndImport`] nobody sees them, and no other command changes the tree.
    Import { nodes: Vec<ImportedNode> },
    /// The tree is what was imported, and its last change took this index: not before that of any node. There is no
    /// history of what came before.
    EndImport { index: TreeIndex },
    /// A change of a node on somebody's behalf, allowed by the records of users and roles as of a revision. Those have
    /// changed since: it is refused unchanged, and whoever carried it judges anew. The command is one that takes an
    /// index by itself ([`Command::is_change`]).
    Authorised { authority: Authority, command: Box<Command> },
    /// Changes users, roles, or whether clients are asked who they are. Changes nothing at another revision than `at`.
    /// Takes no index of the tree.
    ChangeAuth { at: AuthRevision, change: AuthChange },
}

impl Command {
    /// Whether this changes a node, and nothing else.
    #[must_use]
    pub fn is_change(&self) -> bool {
        match self {
            Self::Set(_)
            | Self::Create(_)
            | Self::CreateInOrder { .. }
            | Self::Update(_)
            | Self::CompareAndSwap { .. }
            | Self::Delete { .. }
            | Self::CompareAndDelete { .. } => true,
            Self::Expire { .. }
            | Self::Begin { .. }
            | Self::SetHistoryWindow { .. }
            | Self::Import { .. }
            | Self::EndImport { .. }
            | Self::Authorised { .. }
            | Self::ChangeAuth { .. } => false,
        }
    }

    /// True where this may leave more on the disk than it frees.
    #[must_use]
    pub fn takes_space(&self) -> bool {
        match self {
            Self::Set(_)
            | Self::Create(_)
            | Self::CreateInOrder { .. }
            | Self::Update(_)
            | Self::CompareAndSwap { .. }
            | Self::Import { .. } => true,
            Self::Delete { .. }
            | Self::CompareAndDelete { .. }
            | Self::Expire { .. }
            | Self::Begin { .. }
            | Self::SetHistoryWindow { .. }
            | Self::EndImport { .. }
            | Self::ChangeAuth { .. } => false,
            Self::Authorised { command, .. } => command.takes_space(),
        }
    }

    /// The command itself, on whose behalf it may be.
    #[must_use]
    pub fn bare(&self) -> &Self {
        match self {
            Self::Authorised { command, .. } => command,
            other => other,
        }
    }
}

/// A node of another tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedNode {
    pub path: Path,
    /// `None`: a directory.
    pub value: Option<Bytes>,
    pub created: TreeIndex,
    pub modified: TreeIndex,
    /// When it expires, by the wall clock; at once where that is past.
    pub expiration: Option<WallTime>,
}

/// What is written where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub path: Path,
    /// Empty for a directory.
    pub value: Bytes,
    /// Make a directory ([`Command::Set`], [`Command::Create`], [`Command::CreateInOrder`]).
    pub dir: bool,
    /// The node expires so many seconds after the entry's cluster time, at once with 0. `None`: never, and a deadline
    /// that it had is taken away.
    pub ttl_seconds: Option<u64>,
    /// Keep the file's value, and tell no watcher (2.x: `refresh`). `value` is empty, the node must exist.
    pub refresh: bool,
}

impl Write {
    /// A file without a TTL.
    #[must_use]
    pub fn file(path: Path, value: Bytes) -> Self {
        Self { path, value, dir: false, ttl_seconds: None, refresh: false }
    }
}

/// What a file must be like. Both must hold where both are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub value: Option<Bytes>,
    /// The index that modified it last.
    pub index: Option<TreeIndex>,
}

/// How [`Command::CreateInOrder`] writes the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameStyle {
    /// `6`, as etcd before 2.2.
    Plain,
    /// `00000000000000000006`, 20 digits, as etcd since 2.2.
    Padded,
}

impl NameStyle {
    pub(super) fn name(self, index: TreeIndex) -> String {
        match self {
            Self::Plain => index.0.to_string(),
            Self::Padded => format!("{:020}", index.0),
        }
    }
}
