//! Who takes part: voters and learners, the changes to them, and the point of a snapshot that carries them.
//!
//! Membership changes one member at a time (no joint phase), so any majority before a change and any majority after it
//! share a member. A change takes effect on each member when its entry is committed there and judged.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_ids::{LogIndex, MemberId, Term};
use raft::eraftpb;

use crate::{ENTRY_BYTES_MAX, MEMBERS_MAX};

/// The members as of some log index. Both lists are sorted and share no member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// They vote and count for a majority.
    pub voters: Vec<MemberId>,
    /// They receive the log and do not count.
    pub learners: Vec<MemberId>,
}

impl Membership {
    /// A membership from lists in any order.
    pub fn new(
        voters: impl IntoIterator<Item = MemberId>,
        learners: impl IntoIterator<Item = MemberId>,
    ) -> Result<Self, MembershipError> {
        let mut membership =
            Self { voters: voters.into_iter().collect(), learners: learners.into_iter().collect() };
        membership.voters.sort_unstable();
        membership.learners.sort_unstable();
        membership.check()?;
        Ok(membership)
    }

    /// Whether `id` is a voter or a learner.
    #[must_use]
    pub fn contains(&self, id: MemberId) -> bool {
        self.is_voter(id) || self.is_learner(id)
    }

    /// Whether `id` is a voter.
    #[must_use]
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.voters.binary_search(&id).is_ok()
    }

    /// Whether `id` is a learner.
    #[must_use]
    pub fn is_learner(&self, id: MemberId) -> bool {
        self.learners.binary_search(&id).is_ok()
    }

    /// Nobody: the membership of a member that has not joined yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.learners.is_empty()
    }

    /// Sorted, disjoint, within bounds, and with a voter unless there is nobody at all.
    pub(crate) fn check(&self) -> Result<(), MembershipError> {
        let sorted = |ids: &[MemberId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        if self.voters.len() > MEMBERS_MAX || self.learners.len() > MEMBERS_MAX {
            return Err(MembershipError::TooMany);
        }
        if !sorted(&self.voters) || !sorted(&self.learners) {
            return Err(MembershipError::Unordered);
        }
        if self.voters.first() == Some(&MemberId::ZERO) || self.learners.first() == Some(&MemberId::ZERO) {
            return Err(MembershipError::ZeroId);
        }
        if let Some(both) = self.voters.iter().find(|id| self.is_learner(**id)) {
            return Err(MembershipError::AlreadyMember { id: *both });
        }
        if self.voters.is_empty() && !self.learners.is_empty() {
            return Err(MembershipError::NoVoter);
        }
        Ok(())
    }

    /// The membership after `change`, or why that change makes no sense here.
    pub fn after(&self, change: &MembershipChange) -> Result<Self, MembershipError> {
        let mut voters = self.voters.clone();
        let mut learners = self.learners.clone();
        match *change {
            MembershipChange::AddLearner(id) | MembershipChange::AddVoter(id) => {
                if self.contains(id) {
                    return Err(MembershipError::AlreadyMember { id });
                }
                let list =
                    if matches!(change, MembershipChange::AddVoter(_)) { &mut voters } else { &mut learners };
                list.push(id);
            }
            MembershipChange::Promote(id) => {
                if !self.is_learner(id) {
                    return Err(MembershipError::NotALearner { id });
                }
                learners.retain(|learner| *learner != id);
                voters.push(id);
            }
            MembershipChange::Demote(id) => {
                if !self.is_voter(id) {
                    return Err(MembershipError::NotAVoter { id });
                }
                voters.retain(|voter| *voter != id);
                learners.push(id);
            }
            MembershipChange::Remove(id) => {
                if !self.contains(id) {
                    return Err(MembershipError::NotAMember { id });
                }
                voters.retain(|voter| *voter != id);
                learners.retain(|learner| *learner != id);
                if voters.is_empty() {
                    return Err(MembershipError::NoVoter);
                }
            }
        }
        Self::new(voters, learners)
    }

    pub(crate) fn to_raft(&self) -> eraftpb::ConfState {
        let mut state = eraftpb::ConfState::default();
        state.set_voters(self.voters.iter().map(|id| id.0).collect());
        state.set_learners(self.learners.iter().map(|id| id.0).collect());
        state
    }

    /// Sorts; the `raft` crate keeps its members in hash sets.
    pub(crate) fn from_raft(state: &eraftpb::ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids: Vec<MemberId> = ids.iter().copied().map(MemberId).collect();
            ids.sort_unstable();
            ids
        };
        Self { voters: sorted(state.get_voters()), learners: sorted(state.get_learners()) }
    }
}

/// One change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new member that receives the log and does not count.
    AddLearner(MemberId),
    /// A new member that counts at once. Mind that it counts before it has the log.
    AddVoter(MemberId),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// A voter becomes a learner.
    Demote(MemberId),
    /// A voter or learner leaves for good; its id is never used again.
    Remove(MemberId),
}

impl MembershipChange {
    /// The member that it is about.
    #[must_use]
    pub fn member(&self) -> MemberId {
        match *self {
            Self::AddLearner(id)
            | Self::AddVoter(id)
            | Self::Promote(id)
            | Self::Demote(id)
            | Self::Remove(id) => id,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::AddLearner(_) => 1,
            Self::AddVoter(_) => 2,
            Self::Promote(_) => 3,
            Self::Remove(_) => 4,
            Self::Demote(_) => 5,
        }
    }

    pub(crate) fn to_raft(self) -> eraftpb::ConfChangeV2 {
        let mut single = eraftpb::ConfChangeSingle { node_id: self.member().0, ..Default::default() };
        single.set_change_type(match self {
            Self::AddLearner(_) | Self::Demote(_) => eraftpb::ConfChangeType::AddLearnerNode,
            Self::AddVoter(_) | Self::Promote(_) => eraftpb::ConfChangeType::AddNode,
            Self::Remove(_) => eraftpb::ConfChangeType::RemoveNode,
        });
        let mut change = eraftpb::ConfChangeV2::default();
        change.set_changes(vec![single].into());
        change
    }
}

/// The data of a membership entry: the change, and what the proposer has to say about it (opaque here).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipEntry {
    pub change: MembershipChange,
    pub context: Bytes,
}

impl MembershipEntry {
    /// The version of the bytes that [`Self::encode`] writes.
    pub const VERSION: u8 = 1;
    /// Bytes before the context: version, change, member id.
    pub const HEADER_BYTES: usize = 10;
    /// The longest context, in bytes.
    pub const CONTEXT_BYTES_MAX: usize = ENTRY_BYTES_MAX - Self::HEADER_BYTES;

    /// The data of an entry of kind [`crate::EntryKind::Membership`]; see `docs/formats/raft-messages.md`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::HEADER_BYTES + self.context.len());
        bytes.put_u8(Self::VERSION);
        bytes.put_u8(self.change.code());
        bytes.put_u64_le(self.change.member().0);
        bytes.put_slice(&self.context);
        bytes.freeze()
    }

    /// Reads a membership entry's data. A version or change that this build does not know is an error: whoever meets it
    /// must stop applying, never skip it.
    pub fn decode(data: &Bytes) -> Result<Self, MembershipDecodeError> {
        if data.len() < Self::HEADER_BYTES {
            return Err(MembershipDecodeError::Truncated { len: data.len() });
        }
        if data[0] != Self::VERSION {
            return Err(MembershipDecodeError::UnknownVersion { version: data[0] });
        }
        let id = MemberId(u64::from_le_bytes(data[2..10].try_into().expect("8 bytes")));
        if id == MemberId::ZERO {
            return Err(MembershipDecodeError::ZeroId);
        }
        let change = match data[1] {
            1 => MembershipChange::AddLearner(id),
            2 => MembershipChange::AddVoter(id),
            3 => MembershipChange::Promote(id),
            4 => MembershipChange::Remove(id),
            5 => MembershipChange::Demote(id),
            change => return Err(MembershipDecodeError::UnknownChange { change }),
        };
        Ok(Self { change, context: data.slice(Self::HEADER_BYTES..) })
    }
}

/// Why the data of a membership entry cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipDecodeError {
    #[error("membership entry of {len} bytes is too short; the log is damaged or not ours")]
    Truncated { len: usize },
    #[error("membership entry has version {version}, which this build does not know; upgrade this member")]
    UnknownVersion { version: u8 },
    #[error("membership entry has change {change}, which this build does not know; upgrade this member")]
    UnknownChange { change: u8 },
    #[error("membership entry names member 0, which cannot be")]
    ZeroId,
}

/// Why a membership, or a change to one, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("member {id} is already a member")]
    AlreadyMember { id: MemberId },
    #[error("member {id} is not a learner; only a learner can be promoted")]
    NotALearner { id: MemberId },
    #[error("member {id} is not a voter; only a voter can be demoted")]
    NotAVoter { id: MemberId },
    #[error("member {id} is not a member")]
    NotAMember { id: MemberId },
    #[error("no voter would be left")]
    NoVoter,
    #[error("more than {MEMBERS_MAX} voters or learners")]
    TooMany,
    #[error("member ids are not in ascending order or repeat")]
    Unordered,
    #[error("member id 0 cannot be")]
    ZeroId,
}

/// What a snapshot stands for: all entries up to `index`, and the members as of it. The data travels elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPoint {
    pub index: LogIndex,
    /// The term of the entry at `index`.
    pub term: Term,
    pub membership: Membership,
}

impl SnapshotPoint {
    pub(crate) fn to_raft(&self) -> eraftpb::Snapshot {
        let mut snapshot = eraftpb::Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.index.0;
        metadata.term = self.term.0;
        metadata.set_conf_state(self.membership.to_raft());
        snapshot
    }

    pub(crate) fn from_raft(snapshot: &eraftpb::Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self {
            index: LogIndex(metadata.index),
            term: Term(metadata.term),
            membership: Membership::from_raft(metadata.get_conf_state()),
        }
    }
}
