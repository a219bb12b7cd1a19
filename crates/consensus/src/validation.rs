//! Does a message fit this member's state? What the `raft` crate would abort on is refused here, each with its reason.

use quorate_ids::{LogIndex, MemberId, Term};
use raft::{StateRole, Storage};

use crate::consensus::Consensus;
use crate::entry::payload;
use crate::log::ENTRY_OVERHEAD_BYTES;
use crate::message::{Message, MessageKind};

/// Why a message was not stepped. It had no effect; a lost message is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("message for member {to} reached member {id}")]
    NotForMe { to: MemberId, id: MemberId },
    #[error("member {from} is not a member here")]
    UnknownMember { from: MemberId },
    /// This member acknowledged entries that it does not have, or the sender is broken.
    #[error(
        "leader says index {commit} is committed here, the log ends at {last}: this member has lost log entries"
    )]
    CommitBeyondLog { commit: LogIndex, last: LogIndex },
    #[error("follower {from} claims index {index}, this leader's log ends at {last}")]
    AckBeyondLog { from: MemberId, index: LogIndex, last: LogIndex },
    #[error("snapshot at {index} of term {term} contradicts what is committed here")]
    SnapshotConflict { index: LogIndex, term: Term },
    #[error("snapshot does not include this member {id}; the leader must make a newer one")]
    SnapshotWithoutMe { id: MemberId },
    /// Its term is over. Step it again when a leader is known.
    #[error("snapshot of an earlier term, and no leader is known to answer to")]
    SnapshotWithoutLeader,
    #[error("the log takes {bytes} bytes of memory; no appends until it is compacted")]
    LogFull { bytes: usize },
    #[error("not leader; only a leader answers read rounds")]
    NotLeader,
    #[error("{pending} read rounds are open already")]
    ReadsFull { pending: usize },
    /// A voter's state must be durable, and no snapshot under way, before it wins or begins an election.
    #[error("this member cannot stand for election now: not a voter, or its own state is not durable yet")]
    CannotStand,
    #[error("refused by the protocol: {0}")]
    Refused(String),
}

impl Consensus {
    /// Each refusal is one that the `raft` crate would panic on, or that would corrupt its view.
    pub(crate) fn validate(&self, message: &Message) -> Result<(), StepError> {
        let raft = &self.node.raft;
        if message.to() != self.config.id {
            return Err(StepError::NotForMe { to: message.to(), id: self.config.id });
        }
        let m = message.raft();
        let last = raft.raft_log.last_index();
        let from_known = raft.prs().get(m.from).is_some();
        match message.kind() {
            MessageKind::Heartbeat => self.validate_heartbeat(message, last),
            MessageKind::Append => {
                let bytes = self.log_bytes();
                let more: usize = m.entries.iter().map(|e| payload(e).len() + ENTRY_OVERHEAD_BYTES).sum();
                if more > 0 && bytes + more > self.config.log_bytes_max {
                    return Err(StepError::LogFull { bytes });
                }
                Ok(())
            }
            MessageKind::AppendResponse => {
                if !from_known {
                    return Err(StepError::UnknownMember { from: message.from() });
                }
                let claimed = m.index.max(m.commit);
                if raft.state == StateRole::Leader && m.term == raft.term && claimed > last {
                    return Err(StepError::AckBeyondLog {
                        from: message.from(),
                        index: LogIndex(claimed),
                        last: LogIndex(last),
                    });
                }
                Ok(())
            }
            MessageKind::HeartbeatResponse => {
                if from_known {
                    Ok(())
                } else {
                    Err(StepError::UnknownMember { from: message.from() })
                }
            }
            MessageKind::RequestVoteResponse | MessageKind::RequestPreVoteResponse => {
                if !from_known {
                    return Err(StepError::UnknownMember { from: message.from() });
                }
                // Winning asserts that the log is durable; a real answer comes only after the request left, which
                // was after that.
                if !m.reject && raft.state == StateRole::Candidate && !self.is_durable() {
                    return Err(StepError::CannotStand);
                }
                if !m.reject && raft.state == StateRole::PreCandidate && !self.may_campaign() {
                    return Err(StepError::CannotStand);
                }
                Ok(())
            }
            MessageKind::TimeoutNow => {
                if self.may_campaign() {
                    Ok(())
                } else {
                    Err(StepError::CannotStand)
                }
            }
            MessageKind::ReadIndex => {
                if raft.state != StateRole::Leader {
                    return Err(StepError::NotLeader);
                }
                if !from_known {
                    return Err(StepError::UnknownMember { from: message.from() });
                }
                let pending = raft.pending_read_count();
                if pending >= self.config.reads_pending_max {
                    return Err(StepError::ReadsFull { pending });
                }
                Ok(())
            }
            MessageKind::Snapshot => self.validate_snapshot(message),
            MessageKind::RequestVote | MessageKind::RequestPreVote | MessageKind::ReadIndexResponse => Ok(()),
        }
    }

    fn validate_heartbeat(&self, message: &Message, last: u64) -> Result<(), StepError> {
        let m = message.raft();
        if m.term >= self.node.raft.term && m.commit > last {
            return Err(StepError::CommitBeyondLog { commit: LogIndex(m.commit), last: LogIndex(last) });
        }
        Ok(())
    }

    fn validate_snapshot(&self, message: &Message) -> Result<(), StepError> {
        let raft = &self.node.raft;
        let point = message.is_snapshot().expect("a message of kind Snapshot has a point");
        if message.term().0 < raft.term
            && (raft.state != StateRole::Follower || raft.leader_id == 0 || raft.leader_id == raft.id)
        {
            return Err(StepError::SnapshotWithoutLeader);
        }
        let committed = raft.raft_log.committed;
        let conflict = StepError::SnapshotConflict { index: point.index, term: point.term };
        if point.index.0 == committed && !raft.raft_log.match_term(committed, point.term.0) {
            return Err(conflict);
        }
        if point.index.0 > committed {
            // Terms never decrease along a log, so not from what is committed to the snapshot either.
            let committed_term = raft.raft_log.term(committed).unwrap_or(0);
            if point.term.0 < committed_term {
                return Err(conflict);
            }
            if !point.membership.contains(self.config.id) {
                return Err(StepError::SnapshotWithoutMe { id: self.config.id });
            }
        }
        Ok(())
    }

    /// Whether the whole log, the term and the vote are durable.
    pub(crate) fn is_durable(&self) -> bool {
        let raft = &self.node.raft;
        raft.raft_log.unstable_entries().is_empty()
            && raft.raft_log.unstable_snapshot().is_none()
            && !self.outstanding.log_on_its_way()
            && raft.raft_log.persisted == raft.raft_log.last_index()
            && self.outstanding.durable() == (raft.term, raft.vote)
    }

    /// Whether an election may begin now. Not while a snapshot is being installed (what is committed cannot be read
    /// from the log then), and a sole voter, which wins at once, only when everything is durable.
    pub(crate) fn may_campaign(&self) -> bool {
        let raft = &self.node.raft;
        let first_index = self.node.store().first_index().unwrap_or(0);
        raft.promotable()
            && raft.raft_log.unstable_snapshot().is_none()
            && !self.outstanding.snapshot_on_its_way()
            && raft.raft_log.applied + 1 >= first_index
            && (!raft.prs().is_singleton() || self.is_durable())
    }
}
