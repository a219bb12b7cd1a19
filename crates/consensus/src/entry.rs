//! The log's entries and the hard state, in this house's own types.
//!
//! Inside, an entry is the `raft` crate's. A membership entry carries our own bytes (see [`crate::MembershipEntry`]) in that
//! crate's `context`; its `data` field only matters in the moment of the proposal, so it is neither sent nor stored.

use bytes::Bytes;
use quorate_ids::{LogIndex, MemberId, Term};
use raft::eraftpb;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A new leader's first entry; its data is empty.
    Empty,
    /// A command; its data is not empty.
    Command,
    /// A change of membership; its data decodes as [`crate::MembershipEntry`].
    Membership,
}

impl EntryKind {
    /// The byte that stands for this kind in messages and may stand for it in a log.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Command => 1,
            Self::Membership => 2,
        }
    }

    /// The kind that a byte stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Empty),
            1 => Some(Self::Command),
            2 => Some(Self::Membership),
            _ => None,
        }
    }

    /// Whether data of `len` bytes may belong to an entry of this kind.
    pub(crate) fn admits_len(self, len: usize) -> bool {
        match self {
            Self::Empty => len == 0,
            Self::Command | Self::Membership => len > 0,
        }
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    pub data: Bytes,
}

impl Entry {
    pub(crate) fn into_raft(self) -> eraftpb::Entry {
        raft_entry(self.kind, self.term.0, self.index.0, self.data)
    }

    pub(crate) fn from_raft(entry: &eraftpb::Entry) -> Self {
        Self {
            index: LogIndex(entry.index),
            term: Term(entry.term),
            kind: kind(entry),
            data: payload(entry).clone(),
        }
    }
}

/// The kind of a `raft` entry.
pub(crate) fn kind(entry: &eraftpb::Entry) -> EntryKind {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal if entry.data.is_empty() => EntryKind::Empty,
        eraftpb::EntryType::EntryNormal => EntryKind::Command,
        eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Membership,
    }
}

/// The bytes of a `raft` entry that are sent and stored.
pub(crate) fn payload(entry: &eraftpb::Entry) -> &Bytes {
    match kind(entry) {
        EntryKind::Membership => &entry.context,
        EntryKind::Empty | EntryKind::Command => &entry.data,
    }
}

/// A `raft` entry as it is received or restored.
pub(crate) fn raft_entry(kind: EntryKind, term: u64, index: u64, data: Bytes) -> eraftpb::Entry {
    let mut entry = eraftpb::Entry { term, index, ..Default::default() };
    match kind {
        EntryKind::Empty => {}
        EntryKind::Command => entry.data = data,
        EntryKind::Membership => {
            entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
            entry.context = data;
        }
    }
    entry
}

/// What must survive a restart beside the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term that this member has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<MemberId>,
    /// The highest index that it knows to be committed.
    pub commit: LogIndex,
}

impl HardState {
    pub(crate) fn to_raft(self) -> eraftpb::HardState {
        eraftpb::HardState {
            term: self.term.0,
            vote: self.vote.map_or(0, |vote| vote.0),
            commit: self.commit.0,
            ..Default::default()
        }
    }

    pub(crate) fn from_raft(state: &eraftpb::HardState) -> Self {
        Self { term: Term(state.term), vote: member(state.vote), commit: LogIndex(state.commit) }
    }
}

/// A member id, where the `raft` crate says "nobody" with 0.
pub(crate) fn member(id: u64) -> Option<MemberId> {
    (id != 0).then_some(MemberId(id))
}
