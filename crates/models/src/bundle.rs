//! All models behind one interface: what the member's apply stage drives.
//!
//! A command's model is in its entry; from there on the member knows commands, answers, tables, events and expiries as
//! wholes. A further model is a folder beside the others and one arm in each function here.
//!
//! Invariants: the enums are closed and hold commands by value, so that nothing is allocated to tell models apart; two
//! models never share a table; a model's background work and expiries never touch another's tables.

use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{ClusterTime, Monotonic, Revision, Term, TreeIndex};
use quorate_store::{TableId, Tables};

use crate::keys::{self, Keys};
use crate::tree::{self, Tree};
use crate::{Cursor, ModelId, Stamps, Step};

/// A command of any model.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Keys(keys::Command),
    Tree(tree::Command),
}

/// The answer to a command of any model.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Keys(keys::Reply),
    Tree(tree::Reply),
}

/// Why bytes are not a command that this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it is for model {0}, which this program does not know: run a newer version of Quorate")]
    UnknownModel(u16),
    #[error(transparent)]
    Keys(#[from] keys::DecodeError),
    #[error(transparent)]
    Tree(#[from] tree::DecodeError),
}

impl Command {
    /// Decodes a command of `model`. The member's own commands are not among them.
    pub fn decode(model: ModelId, bytes: &Bytes) -> Result<Self, DecodeError> {
        match model {
            ModelId::KEYS => Ok(Self::Keys(keys::decode(bytes)?)),
            ModelId::TREE => Ok(Self::Tree(tree::decode(bytes)?)),
            other => Err(DecodeError::UnknownModel(other.0)),
        }
    }

    /// True where this may leave more on the disk than it frees: it is refused while the disk is full.
    #[must_use]
    pub fn takes_space(&self) -> bool {
        match self {
            Self::Keys(command) => command.takes_space(),
            Self::Tree(command) => command.takes_space(),
        }
    }
}

/// The tables that must be equal on all members at one applied index.
pub fn hashed_tables() -> impl Iterator<Item = TableId> {
    keys::HASHED_TABLES.into_iter().chain(tree::HASHED_TABLES)
}

/// The recent events of each model, shared by the apply stage that pushes and all readers.
#[derive(Clone)]
pub struct Feeds {
    pub keys: Arc<keys::watch::Feed>,
    pub tree: Arc<tree::Feed>,
}

impl Feeds {
    /// Empty feeds, each of at most this many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            keys: Arc::new(keys::watch::Feed::new(keys::REVISION_FIRST, bytes_max)),
            tree: Arc::new(tree::Feed::new(TreeIndex::ZERO, tree::FEED_EVENTS_MAX_DEFAULT, bytes_max)),
        }
    }
}

/// All models of one member. Holds caches only.
pub struct Models {
    keys: Keys,
    tree: Tree,
    feeds: Feeds,
    /// A model has background work.
    busy: bool,
}

impl Models {
    /// The models over these tables, whatever they hold; the feeds start over from there.
    #[must_use]
    pub fn open(tables: &Tables, feeds: Feeds) -> Self {
        let (keys, tree) = (Keys::open(tables), Tree::open(tables));
        feeds.keys.restart(keys.revision());
        feeds.tree.restart(tree.index());
        Self { keys, tree, feeds, busy: true }
    }

    /// The newest revision of the keys model.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.keys.revision()
    }

    #[must_use]
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Applies a command, or a slice of it. The caller has called [`Tables::begin`] once for the command.
    pub fn apply(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        stamps: &Stamps,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        match command {
            Command::Keys(command) => self.keys.apply(tables, command, stamps, cursor).map(Reply::Keys),
            Command::Tree(command) => self.tree.apply(tables, command, stamps, cursor).map(Reply::Tree),
        }
    }

    /// A command is done: what it changed reaches the feeds.
    pub fn publish(&mut self, reply: &Reply) {
        match reply {
            Reply::Keys(reply) => {
                self.keys.take_events().into_iter().for_each(|events| self.feeds.keys.push(events));
                self.busy |= matches!(reply, keys::Reply::Compact { .. });
            }
            Reply::Tree(reply) => {
                if matches!(reply, tree::Reply::Began { .. } | tree::Reply::Imported { .. })
                    && self.feeds.tree.next_index() <= self.tree.index()
                {
                    self.feeds.tree.restart(self.tree.index());
                }
                self.tree.take_events().into_iter().for_each(|event| self.feeds.tree.push(event));
            }
        }
    }

    /// True while there is work for when nothing else is to be done.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        self.busy
    }

    /// A slice of that work, of about `records_max` records.
    pub fn background(&mut self, tables: &mut Tables, records_max: usize) {
        self.busy = self.keys.compact_step(tables, records_max);
    }
}

/// What runs out with time by a rule in the tables alone, as the leader of one term sees it. (Leases are more: they are
/// kept alive by questions that the member answers; it keeps their time.)
#[derive(Clone, Copy, Debug)]
pub struct Expiries {
    term: Term,
    tree: tree::ExpiryClock,
}

impl Expiries {
    /// This member leads `term`.
    #[must_use]
    pub fn new(term: Term) -> Self {
        Self { term, tree: tree::ExpiryClock::new(term) }
    }

    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Everything up to an entry of `term` is applied; `time` is the greatest stamp so far.
    pub fn applied(&mut self, term: Term, time: ClusterTime, now: Monotonic) {
        self.tree.applied(term, time, now);
    }

    /// A command that was stamped with `time` was applied.
    pub fn saw(&mut self, command: &Command, time: ClusterTime, now: Monotonic) {
        if let Command::Tree(tree::Command::Expire { term, .. }) = command {
            self.tree.expired(*term, time, now);
        }
    }

    /// When something is due next.
    #[must_use]
    pub fn next_deadline(&self, models: &Models) -> Option<Monotonic> {
        self.tree.due_at(models.tree.next_deadline()?)
    }

    /// A command that ends what ran out by `now`; ask until there is none.
    pub fn due(&mut self, models: &Models, now: Monotonic) -> Option<(ModelId, Bytes)> {
        let command = self.tree.due(models.tree.next_deadline()?, now)?;
        Some((ModelId::TREE, command))
    }
}
