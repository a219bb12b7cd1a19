//! All outputs of a turn.

use quorate_ids::{LogIndex, MemberId, Term};

use crate::consensus::Consensus;
use crate::entry::{Entry, HardState, member};
use crate::membership::SnapshotPoint;
use crate::message::{Message, MessageKind};
use crate::outstanding::Unpersisted;
use crate::reads::ReadToken;
use crate::status::Role;

/// A change of role, leader or term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    pub role: Role,
    pub leader: Option<MemberId>,
    pub term: Term,
}

/// What to do after a turn.
///
/// Several readies may be outstanding. Each is persisted as a unit: `snapshot` first (it replaces the log), then
/// `entries`, then `hard_state`, in the order of the numbers; then [`Consensus::persisted`] is called with the number.
/// That call is needed for every ready, also for one that writes nothing. `committed` may be applied at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Ascending; the argument of [`Consensus::persisted`].
    pub number: u64,
    /// May leave at once, whatever the disk does.
    pub messages: Vec<Message>,
    /// May leave only when everything up to `number` is durable.
    pub persisted_messages: Vec<Message>,
    /// To append. The first may stand at an index that the log already has: it and all after it are replaced.
    pub entries: Vec<Entry>,
    /// To record, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether persisting needs a sync. If not (only the commit index moved), a write that a crash may lose is enough.
    pub must_sync: bool,
    /// To apply, in order; committed and durable here. A membership entry among them must be judged at once:
    /// [`Consensus::apply_membership`].
    pub committed: Vec<Entry>,
    /// Answers to [`Consensus::read_index`]: the read may be served when that index is applied.
    pub reads: Vec<(u64, LogIndex)>,
    pub role_change: Option<RoleChange>,
    /// An installed snapshot to record: log and membership start anew from it. Nothing before it will be committed
    /// again.
    pub snapshot: Option<SnapshotPoint>,
    /// Followers that need a snapshot while none can be offered: make one that includes them, then call
    /// [`Consensus::set_snapshot_point`]. Said again at every attempt.
    pub snapshots_wanted: Vec<MemberId>,
}

impl Consensus {
    /// All outputs since the last call, or `None` if there is nothing to do. Call until `None`: committed entries come in
    /// pages of `committed_bytes_per_ready_max`.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() && !self.node.store().has_snapshots_wanted() {
            return None;
        }
        let mut raft_ready = self.node.ready();
        let number = raft_ready.number();
        let must_sync = raft_ready.must_sync();
        let snapshot =
            (!raft_ready.snapshot().is_empty()).then(|| SnapshotPoint::from_raft(raft_ready.snapshot()));
        if let Some(point) = &snapshot {
            self.node.mut_store().restore(point);
            self.unjudged.clear();
        }
        let raft_entries = raft_ready.take_entries();
        self.node.mut_store().append(&raft_entries);
        let hard_state = raft_ready.hs().map(HardState::from_raft);
        self.outstanding.push(Unpersisted {
            number,
            term_and_vote: raft_ready.hs().map(|hs| (hs.term, hs.vote)),
            changes_log: snapshot.is_some() || !raft_entries.is_empty(),
            snapshot: snapshot.as_ref().map(|point| point.index),
            must_sync,
            since_tick: self.ticks,
        });
        let mut messages = raft_ready.take_messages();
        messages.append(&mut raft_ready.take_persisted_messages());
        let (messages, persisted_messages) = self.sort_out(messages);
        let committed: Vec<Entry> =
            raft_ready.take_committed_entries().iter().map(Entry::from_raft).collect();
        self.unjudged.extend(
            committed
                .iter()
                .filter(|entry| entry.kind == crate::EntryKind::Membership)
                .map(|entry| entry.index),
        );
        let reads = raft_ready
            .take_read_states()
            .into_iter()
            .filter_map(|state| {
                let token = ReadToken::from_bytes(&state.request_ctx)?;
                Some((token.number, LogIndex(state.index)))
            })
            .collect();
        let entries = raft_entries.iter().map(Entry::from_raft).collect();
        // The log in memory has it all: the `raft` crate may forget its copy.
        self.node.advance_append_async(raft_ready);
        let snapshots_wanted =
            self.node.mut_store().take_snapshots_wanted().into_iter().map(MemberId).collect();
        Some(Ready {
            number,
            messages,
            persisted_messages,
            entries,
            hard_state: hard_state.map(|state| self.as_handed_out(state)),
            must_sync,
            committed,
            reads,
            role_change: self.role_change(),
            snapshot,
            snapshots_wanted,
        })
    }

    /// Which messages may leave at once, and which promise something that must be durable first.
    ///
    /// A leader's messages may leave at once if its term is durable, which it always is but for a sole voter: that one
    /// leads before its vote for itself is written, and after a crash it could lead the same term again with other
    /// entries. A heartbeat's answer and a read request promise nothing about the log, only the term.
    fn sort_out(&self, messages: Vec<raft::eraftpb::Message>) -> (Vec<Message>, Vec<Message>) {
        let raft = &self.node.raft;
        let term_durable = self.outstanding.durable() == (raft.term, raft.vote);
        let leads = raft.state == raft::StateRole::Leader;
        let message_bytes_max = self.config.message_bytes_max;
        messages
            .into_iter()
            .filter_map(|message| crate::message::anchored(message, |index| self.term_at(index)))
            .flat_map(|message| crate::message::split_append(message, message_bytes_max))
            .filter_map(Message::from_raft)
            .partition(|message| {
                term_durable
                    && (leads
                        || matches!(message.kind(), MessageKind::HeartbeatResponse | MessageKind::ReadIndex))
            })
    }

    /// The term of an entry that the log still knows.
    fn term_at(&self, index: u64) -> Option<u64> {
        self.node.raft.raft_log.term(index).ok().filter(|term| *term > 0)
    }

    fn role_change(&mut self) -> Option<RoleChange> {
        let raft = &self.node.raft;
        let now = RoleChange {
            role: Role::from_raft(raft.state),
            leader: member(raft.leader_id),
            term: Term(raft.term),
        };
        (self.reported_role.replace(now) != Some(now)).then_some(now)
    }

    #[cfg(feature = "mutants")]
    fn as_handed_out(&self, mut state: HardState) -> HardState {
        if self.config.mutant == crate::config::Mutant::ForgetVote {
            state.vote = None;
        }
        state
    }

    #[cfg(not(feature = "mutants"))]
    fn as_handed_out(&self, state: HardState) -> HardState {
        state
    }
}
