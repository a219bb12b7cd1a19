//! The driver: inputs of a turn, and what follows from them.
//!
//! Invariants between fields:
//! - After every call the election timeout inside `node` is `election_timeout_ticks`, which changes exactly when role,
//!   term or leader change (`timeout_for`).
//! - `outstanding` knows every ready that was handed out and is not durable yet; `node`'s own log holds their entries.
//! - `unjudged` are the committed membership entries that were handed out and not judged; `applied` never passes them.
//! - A leader that is not a voter does not exist: it steps down in the call that applies its removal.

use std::collections::{BTreeMap, VecDeque};

use quorate_ids::{LogIndex, MemberId, Term};
use raft::{RawNode, SnapshotStatus, StateRole, Storage};

use crate::config::{Config, ConfigError};
use crate::election::ElectionTimeouts;
use crate::entry::{Entry, HardState, member};
use crate::log::MemoryLog;
use crate::membership::{Membership, MembershipChange, MembershipError, SnapshotPoint};
use crate::message::{Message, MessageKind};
use crate::observe::Observed;
use crate::outstanding::Outstanding;
use crate::reads::{ReadOutcome, ReadToken};
use crate::ready::RoleChange;
use crate::restored::{Restored, RestoredError};
use crate::status::{Progress, ReplicationState, Role, Status};
use crate::validation::StepError;

/// Why consensus cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Restored(#[from] RestoredError),
    #[error("the raft crate refused to start: {0}")]
    Raft(String),
}

/// Why leadership is not handed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask the leader, if one is known.
    #[error("not the leader")]
    NotLeader { leader: Option<MemberId> },
    #[error("member {to} is not a voter; only a voter can lead")]
    NotAVoter { to: MemberId },
    #[error("member {to} is the leader already")]
    AlreadyLeader { to: MemberId },
}

/// Why the log is not compacted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot compact the log through {through}: only {applied} is applied")]
pub struct CompactError {
    pub through: LogIndex,
    pub applied: LogIndex,
}

/// Why a snapshot cannot be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotPointError {
    #[error("a snapshot at {index} is beyond what is committed, {commit}")]
    BeyondCommit { index: LogIndex, commit: LogIndex },
    #[error("a snapshot at {index} is older than the log, which starts after {compacted}")]
    BelowLog { index: LogIndex, compacted: LogIndex },
    #[error("the entry at {index} has term {log}, not the snapshot's {snapshot}")]
    Term { index: LogIndex, log: Term, snapshot: Term },
    #[error("the snapshot's membership is refused: {0}")]
    Membership(#[from] MembershipError),
}

/// What this member last acknowledged, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ack {
    to: u64,
    term: u64,
    index: u64,
    tick: u64,
}

/// One member's consensus.
pub struct Consensus {
    pub(crate) config: Config,
    pub(crate) node: RawNode<MemoryLog>,
    pub(crate) outstanding: Outstanding,
    pub(crate) unjudged: VecDeque<LogIndex>,
    pub(crate) reported_role: Option<RoleChange>,
    pub(crate) observed: Observed,
    pub(crate) ticks: u64,
    acked: Option<Ack>,
    timeouts: ElectionTimeouts,
    timeout_for: (StateRole, u64, u64),
    election_timeout_ticks: usize,
}

impl Consensus {
    /// Starts from durable state. The commit index becomes the greater of the hard state's and what is applied.
    pub fn new(config: Config, restored: Restored) -> Result<Self, StartError> {
        config.validate()?;
        restored.validate()?;
        let hard_state = HardState { commit: restored.commit(), ..restored.hard_state };
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_timeout_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: restored.applied.0,
            max_size_per_msg: config.message_bytes_max as u64,
            max_inflight_msgs: config.inflight_messages_max,
            check_quorum: config.check_quorum,
            pre_vote: config.pre_vote,
            batch_append: true,
            max_uncommitted_size: config.uncommitted_bytes_max as u64,
            max_committed_size_per_ready: config.committed_bytes_per_ready_max as u64,
            ..Default::default()
        };
        let log = MemoryLog::new(
            hard_state,
            restored.membership,
            (restored.compacted.0.0, restored.compacted.1.0),
            restored.entries.into_iter().map(Entry::into_raft).collect(),
        );
        // Role changes, votes and the like are in our outputs; nothing reads the crate's own log lines.
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let node =
            RawNode::new(&raft_config, log, &silent).map_err(|error| StartError::Raft(error.to_string()))?;
        let mut timeouts = ElectionTimeouts::new(config.seed, config.id.0, config.election_timeout_ticks);
        let election_timeout_ticks = timeouts.draw();
        let mut consensus = Self {
            outstanding: Outstanding::new((node.raft.term, node.raft.vote)),
            unjudged: VecDeque::new(),
            reported_role: None,
            observed: Observed::default(),
            ticks: 0,
            acked: None,
            timeout_for: (node.raft.state, node.raft.term, node.raft.leader_id),
            config,
            node,
            timeouts,
            election_timeout_ticks,
        };
        consensus.settle();
        Ok(consensus)
    }

    /// One tick of the caller's clock has passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        let raft = &self.node.raft;
        let would_campaign = raft.state != StateRole::Leader
            && raft.promotable()
            && raft.election_elapsed + 1 >= self.election_timeout_ticks;
        // An election that may not begin yet waits for the next tick.
        let ticks = !would_campaign || self.may_campaign();
        let before = self.before(None);
        if ticks {
            self.node.tick();
        }
        self.settle();
        self.compare(before, would_campaign && ticks);
    }

    /// Takes a message of a peer. An error means that it had no effect.
    ///
    /// A snapshot message is stepped after its data has arrived, minutes later if need be. If it is still news, the next
    /// ready has [`crate::Ready::snapshot`]; if not, it is ignored and the data can be thrown away. Where its term is over
    /// it is answered to the present leader: what it stands for is committed in any term.
    pub fn step(&mut self, mut message: Message) -> Result<(), StepError> {
        self.validate(&message)?;
        if message.kind() == MessageKind::Snapshot && message.term().0 < self.node.raft.term {
            message.readdress(self.node.raft.leader_id, self.node.raft.term);
        }
        let from = message.from();
        let before = self.before(Some(&message));
        let (is_append, entries) = (message.kind() == MessageKind::Append, message.entries_count());
        let answers_before = self.node.raft.msgs.len();
        let stepped = self.node.step(message.into_raft());
        if is_append && self.node.raft.msgs.len() == answers_before + 1 {
            self.note_ack(entries == 0);
        }
        self.settle();
        self.compare(before, false);
        stepped.map_err(|error| match error {
            raft::Error::StepPeerNotFound => StepError::UnknownMember { from },
            other => StepError::Refused(other.to_string()),
        })
    }

    /// A leader tells its followers of each commit with an append that carries nothing, and every append is acknowledged;
    /// where that says nothing new it is left out, which spares each write two messages. Once a tick it is repeated, for
    /// the leader may have missed it: it sends appends to a follower that seems to lag with each heartbeat.
    fn note_ack(&mut self, of_nothing: bool) {
        let answers = &mut self.node.raft.msgs;
        let Some(answer) = answers.last() else { return };
        if answer.get_msg_type() != raft::eraftpb::MessageType::MsgAppendResponse || answer.reject {
            return;
        }
        let ack = Ack { to: answer.to, term: answer.term, index: answer.index, tick: self.ticks };
        if of_nothing && self.acked == Some(ack) {
            answers.pop();
        }
        self.acked = Some(ack);
    }

    /// Asks for the index that a linearizable read must wait for. `number` must never be used again by this member, not
    /// even after a restart; the answer names it. Followers ask the leader.
    pub fn read_index(&mut self, number: u64) -> ReadOutcome {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader if !raft.commit_to_current_term() => return ReadOutcome::NoCommitInTerm,
            StateRole::Leader if raft.pending_read_count() >= self.config.reads_pending_max => {
                return ReadOutcome::Full;
            }
            StateRole::Leader => {}
            _ if raft.leader_id == 0 => return ReadOutcome::NoLeader,
            StateRole::Follower => {}
            StateRole::Candidate | StateRole::PreCandidate => return ReadOutcome::NoLeader,
        }
        let token = ReadToken { member: self.config.id, number };
        self.node.read_index(token.to_bytes().to_vec());
        self.settle();
        ReadOutcome::Started
    }

    /// Begins to hand leadership to `to`: it is first brought up to date, then told to stand. Proposals are refused
    /// meanwhile. Given up after an election timeout.
    pub fn transfer_leadership(&mut self, to: MemberId) -> Result<(), TransferError> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Err(TransferError::NotLeader { leader: member(raft.leader_id) });
        }
        if to == self.config.id {
            return Err(TransferError::AlreadyLeader { to });
        }
        if !self.membership().is_voter(to) {
            return Err(TransferError::NotAVoter { to });
        }
        self.node.transfer_leader(to.0);
        self.settle();
        Ok(())
    }

    /// Stands for election at once, if this member may. Returns whether it did.
    pub fn campaign(&mut self) -> bool {
        let raft = &self.node.raft;
        if raft.state == StateRole::Leader || !self.may_campaign() {
            return false;
        }
        let before = self.before(None);
        let stepped = self.node.campaign();
        self.settle();
        self.compare(before, false);
        stepped.is_ok()
    }

    /// Shortens the present wait for an election, once: for a member that has just started, hears of no leader and reaches
    /// a majority. What is left is drawn anew, from two ticks up to half an election timeout more, so that members that
    /// start at the same time do not stand at the same time. A sole voter need not wait at all.
    pub fn hasten_election(&mut self) {
        const TICKS_LEFT_MIN: usize = 2;
        let membership = self.membership();
        if membership.voters == [self.config.id] {
            self.campaign();
            return;
        }
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Follower || raft.leader_id != 0 || !raft.promotable() {
            return;
        }
        let drawn = self.election_timeout_ticks.saturating_sub(self.config.election_timeout_ticks);
        let elapsed = self.election_timeout_ticks.saturating_sub(TICKS_LEFT_MIN + drawn / 2);
        raft.election_elapsed = raft.election_elapsed.max(elapsed);
    }

    /// The connection to `id` failed: what was sent to it may be lost.
    pub fn report_unreachable(&mut self, id: MemberId) {
        self.node.report_unreachable(id.0);
        self.settle();
    }

    /// The snapshot for `id` arrived and was installed there (`ok`), or will not. A leader sends that follower nothing
    /// until it hears of one or the other, so this must be called for every snapshot message that was sent.
    pub fn report_snapshot(&mut self, id: MemberId, ok: bool) {
        self.node.report_snapshot(id.0, if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
        self.settle();
    }

    /// Everything up to ready `number` is durable. Call it before sending that ready's `persisted_messages`; what follows
    /// (commits, messages) comes with the next [`Consensus::ready`].
    pub fn persisted(&mut self, number: u64) {
        let snapshot = self.outstanding.persisted(number);
        self.node.on_persist_ready(number);
        if let Some(index) = snapshot {
            self.apply_to(index);
        }
        #[cfg(feature = "mutants")]
        self.commit_without_quorum();
        self.settle();
    }

    /// The caller has applied everything up to `index`. Membership entries up to there must have been judged.
    pub fn applied(&mut self, index: LogIndex) {
        assert!(
            self.unjudged.front().is_none_or(|unjudged| *unjudged > index),
            "index {index} is applied while membership entry {:?} is not judged",
            self.unjudged.front()
        );
        self.apply_to(index);
        self.settle();
    }

    fn apply_to(&mut self, index: LogIndex) {
        let raft_log = &self.node.raft.raft_log;
        let readable = raft_log.committed.min(raft_log.persisted);
        assert!(index.0 <= readable, "index {index} is applied, only {readable} is committed and durable");
        // A snapshot may have overtaken the apply stage.
        if index.0 > raft_log.applied {
            self.node.advance_apply_to(index.0);
        }
    }

    /// Judges the committed membership entry at `index`: applies `change`, or rejects it (`None`). Judged entries come in
    /// log order, each right after the ready that carried it. A change that makes no sense is an error and counts as
    /// rejected; every member that judges the same entries comes to the same membership, which is returned.
    pub fn apply_membership(
        &mut self,
        index: LogIndex,
        change: Option<&MembershipChange>,
    ) -> Result<Membership, MembershipError> {
        let next = self.unjudged.pop_front();
        assert_eq!(next, Some(index), "membership entries are judged once each, in order");
        let Some(change) = change else { return Ok(self.membership()) };
        let expected = self.membership().after(change)?;
        let before = self.before(None);
        let state = self
            .node
            .apply_conf_change(&change.to_raft())
            .expect("a checked change of one member is applied");
        assert_eq!(Membership::from_raft(&state), expected, "both sides count the same members");
        let raft = &mut self.node.raft;
        // The `raft` crate lets a removed leader go on, and would panic when it next counts itself.
        if raft.state != StateRole::Follower && !raft.promotable() {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
        self.settle();
        self.compare(before, false);
        Ok(expected)
    }

    /// Entries up to `through` leave memory. They must be applied, and the store must be able to do without them.
    pub fn compact(&mut self, through: LogIndex) -> Result<(), CompactError> {
        let applied = LogIndex(self.node.raft.raft_log.applied);
        if through > applied {
            return Err(CompactError { through, applied });
        }
        self.node.mut_store().compact(through.0);
        Ok(())
    }

    /// What may be offered to a follower that needs older entries than the log has, or nothing (`None`). The point must
    /// stay available until another replaces it. It is offered only to members that it includes.
    pub fn set_snapshot_point(&mut self, point: Option<SnapshotPoint>) -> Result<(), SnapshotPointError> {
        if let Some(point) = &point {
            point.membership.check()?;
            let raft_log = &self.node.raft.raft_log;
            if point.index.0 > raft_log.committed {
                let commit = LogIndex(raft_log.committed);
                return Err(SnapshotPointError::BeyondCommit { index: point.index, commit });
            }
            let compacted = LogIndex(self.node.store().compacted().0);
            if point.index < compacted || point.index == LogIndex::ZERO {
                return Err(SnapshotPointError::BelowLog { index: point.index, compacted });
            }
            let log = Term(raft_log.term(point.index.0).unwrap_or(0));
            if log != point.term {
                return Err(SnapshotPointError::Term { index: point.index, log, snapshot: point.term });
            }
        }
        self.node.mut_store().offer_snapshot(point);
        Ok(())
    }

    /// Role, leader and term: what [`Self::status`] says of them, without its cost.
    #[must_use]
    pub fn leadership(&self) -> (Role, Option<MemberId>, Term) {
        let raft = &self.node.raft;
        (Role::from_raft(raft.state), member(raft.leader_id), Term(raft.term))
    }

    /// The index up to which the log can be compacted so that at least the newest `bytes` of it stay.
    #[must_use]
    pub fn compactable(&self, bytes: usize) -> LogIndex {
        LogIndex(self.node.store().compactable(bytes))
    }

    /// The log that is in memory: the index just before it, and its entries in order, durable or not.
    #[must_use]
    pub fn log(&self) -> (LogIndex, Vec<Entry>) {
        let raft_log = &self.node.raft.raft_log;
        let store = self.node.store();
        let from = store.compacted().0;
        let stable = store.entries(from + 1, store.last() + 1, None, raft::GetEntriesContext::empty(false));
        let unstable = raft_log.unstable_entries();
        let first_unstable = unstable.first().map_or(u64::MAX, |entry| entry.index);
        let stable = stable.unwrap_or_default();
        let stable = stable.iter().filter(|entry| entry.index < first_unstable);
        (LogIndex(from), stable.chain(unstable).map(Entry::from_raft).collect())
    }

    /// Bytes that the log takes in memory.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.node.store().bytes() + self.node.raft.raft_log.unstable.entries_size
    }

    /// The present state.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status {
            id: self.config.id,
            role: Role::from_raft(raft.state),
            term: Term(raft.term),
            vote: member(raft.vote),
            leader: member(raft.leader_id),
            commit: LogIndex(raft.raft_log.committed),
            applied: LogIndex(raft.raft_log.applied),
            persisted: LogIndex(raft.raft_log.persisted),
            last_index: LogIndex(raft.raft_log.last_index()),
            first_index: LogIndex(self.node.store().first_index().unwrap_or(0)),
            log_bytes: self.log_bytes(),
            uncommitted_bytes: raft.uncommitted_size(),
            committed_in_term: raft.state == StateRole::Leader && raft.commit_to_current_term(),
            transferring_to: raft.lead_transferee.map(MemberId),
            reads_pending: raft.pending_read_count(),
            readies_unpersisted: self.outstanding.len(),
            sync_pending_ticks: self.outstanding.oldest_sync_tick().map(|since| self.ticks - since),
            election_elapsed_ticks: raft.election_elapsed,
            election_timeout_ticks: self.election_timeout_ticks,
            progress: self.progress(),
        }
    }

    fn progress(&self) -> BTreeMap<MemberId, Progress> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return BTreeMap::new();
        }
        let membership = self.membership();
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        others
            .map(|(id, pr)| {
                let id = MemberId(*id);
                let progress = Progress {
                    matched: LogIndex(pr.matched),
                    next: LogIndex(pr.next_idx),
                    state: match pr.state {
                        raft::ProgressState::Probe => ReplicationState::Probe,
                        raft::ProgressState::Replicate => ReplicationState::Replicate,
                        raft::ProgressState::Snapshot => ReplicationState::Snapshot,
                    },
                    recent_active: pr.recent_active,
                    pending_snapshot: (pr.pending_snapshot != 0).then_some(LogIndex(pr.pending_snapshot)),
                    paused: pr.is_paused(),
                    learner: membership.is_learner(id),
                };
                (id, progress)
            })
            .collect()
    }

    /// Puts our election timeout in place of the one that the `raft` crate may have drawn during the call.
    fn settle(&mut self) {
        let raft = &mut self.node.raft;
        let now = (raft.state, raft.term, raft.leader_id);
        if now != self.timeout_for {
            self.timeout_for = now;
            self.election_timeout_ticks = self.timeouts.draw();
        }
        raft.set_randomized_election_timeout(self.election_timeout_ticks);
    }

    #[cfg(feature = "mutants")]
    fn commit_without_quorum(&mut self) {
        let raft = &mut self.node.raft;
        if self.config.mutant == crate::config::Mutant::CommitWithoutQuorum && raft.state == StateRole::Leader
        {
            let (persisted, term) = (raft.raft_log.persisted, raft.term);
            if raft.raft_log.maybe_commit(persisted, term) {
                raft.bcast_append();
            }
        }
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("status", &self.status()).finish_non_exhaustive()
    }
}

// A whole instance moves between threads; the simulator keeps many on one.
const _: fn() = || {
    fn assert_send<T: Send>() {}
    assert_send::<Consensus>();
};
