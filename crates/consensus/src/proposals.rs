//! Proposals: only a leader takes them, only within bounds. Forwarding to a leader is the caller's.

use bytes::Bytes;
use protobuf::Message as _;
use quorate_ids::{LogIndex, MemberId, Term};
use raft::StateRole;
use raft::eraftpb;

use crate::ENTRY_BYTES_MAX;
use crate::consensus::Consensus;
use crate::entry::{EntryKind, member, raft_entry};
use crate::log::ENTRY_OVERHEAD_BYTES;
use crate::membership::{Membership, MembershipChange, MembershipEntry, MembershipError};

/// Why a proposal was not taken. Nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader, if one is known.
    #[error("not the leader")]
    NotLeader { leader: Option<MemberId> },
    #[error("leadership is being handed to member {to}; ask again shortly")]
    Transferring { to: MemberId },
    #[error("{bytes} bytes are proposed and not yet committed; ask again when some are")]
    UncommittedFull { bytes: usize },
    #[error("the log takes {bytes} bytes of memory and must be compacted first")]
    LogFull { bytes: usize },
    #[error("a command must not be empty")]
    Empty,
    #[error("a command of {len} bytes is larger than {ENTRY_BYTES_MAX}; send it in parts")]
    TooLarge { len: usize },
    /// One at a time, and at the start of a term only after everything before it is applied.
    #[error("another change of membership may be under way; ask again when index {until} is applied")]
    MembershipPending { until: LogIndex },
    #[error("change of membership refused: {0}")]
    Membership(#[from] MembershipError),
}

impl Consensus {
    /// Appends one command to the log of this leader. Returns the index and term that it has: it is committed exactly if
    /// an entry of that term is committed at that index.
    pub fn propose(&mut self, data: Bytes) -> Result<(LogIndex, Term), ProposeError> {
        self.propose_batch(vec![data])
    }

    /// Appends commands, all or none, at consecutive indexes; returns the first index, and the term.
    pub fn propose_batch(&mut self, commands: Vec<Bytes>) -> Result<(LogIndex, Term), ProposeError> {
        self.check_may_propose()?;
        let mut total_bytes = 0usize;
        for data in &commands {
            if data.is_empty() {
                return Err(ProposeError::Empty);
            }
            if data.len() > ENTRY_BYTES_MAX {
                return Err(ProposeError::TooLarge { len: data.len() });
            }
            total_bytes += data.len();
        }
        if commands.is_empty() {
            return Err(ProposeError::Empty);
        }
        let uncommitted_bytes = self.node.raft.uncommitted_size();
        if uncommitted_bytes + total_bytes > self.config.uncommitted_bytes_max {
            return Err(ProposeError::UncommittedFull { bytes: uncommitted_bytes });
        }
        let log_bytes = self.log_bytes();
        if log_bytes + total_bytes + commands.len() * ENTRY_OVERHEAD_BYTES > self.config.log_bytes_max {
            return Err(ProposeError::LogFull { bytes: log_bytes });
        }
        let first = LogIndex(self.node.raft.raft_log.last_index()).next();
        let count = commands.len() as u64;
        // In pieces of one message each: the `raft` crate sends one message per proposal and follower at once, and the
        // rest of a larger proposal only after an acknowledgement.
        let mut piece = Vec::new();
        let mut piece_bytes = 0;
        for data in commands {
            let bytes = data.len() + ENTRY_OVERHEAD_BYTES;
            if !piece.is_empty() && piece_bytes + bytes > self.config.message_bytes_max {
                self.append_proposed(std::mem::take(&mut piece));
                piece_bytes = 0;
            }
            piece_bytes += bytes;
            piece.push(raft_entry(EntryKind::Command, 0, 0, data));
        }
        self.append_proposed(piece);
        assert_eq!(
            self.node.raft.raft_log.last_index() + 1,
            first.0 + count,
            "all of the batch is in the log"
        );
        Ok((first, Term(self.node.raft.term)))
    }

    /// Proposes one change of membership. It takes effect when its entry is committed and judged
    /// ([`Consensus::apply_membership`]); `context` travels with it.
    pub fn propose_membership(
        &mut self,
        change: MembershipChange,
        context: Bytes,
    ) -> Result<(LogIndex, Term), ProposeError> {
        self.check_may_propose()?;
        if context.len() > MembershipEntry::CONTEXT_BYTES_MAX {
            return Err(ProposeError::TooLarge { len: context.len() });
        }
        let raft = &self.node.raft;
        if raft.has_pending_conf() {
            return Err(ProposeError::MembershipPending { until: LogIndex(raft.pending_conf_index) });
        }
        if let Some(unjudged) = self.unjudged.front() {
            return Err(ProposeError::MembershipPending { until: *unjudged });
        }
        self.membership().after(&change)?;
        let uncommitted_bytes = self.node.raft.uncommitted_size();
        let data = MembershipEntry { change, context }.encode();
        // What the `raft` crate reads in the moment of the proposal; our own bytes are what stays.
        let raft_change = change.to_raft().write_to_bytes().expect("a message of numbers always encodes");
        if uncommitted_bytes + raft_change.len() > self.config.uncommitted_bytes_max {
            return Err(ProposeError::UncommittedFull { bytes: uncommitted_bytes });
        }
        let mut entry = raft_entry(EntryKind::Membership, 0, 0, data);
        entry.data = raft_change.into();
        let first = LogIndex(self.node.raft.raft_log.last_index()).next();
        self.append_proposed(vec![entry]);
        assert_eq!(self.node.raft.pending_conf_index, first.0, "the change is in the log as such");
        Ok((first, Term(self.node.raft.term)))
    }

    /// The members as this member's consensus counts them now.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership::from_raft(&self.node.raft.prs().conf().to_conf_state())
    }

    fn check_may_propose(&self) -> Result<(), ProposeError> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { leader: member(raft.leader_id) });
        }
        match raft.lead_transferee {
            Some(to) => Err(ProposeError::Transferring { to: MemberId(to) }),
            None => Ok(()),
        }
    }

    fn append_proposed(&mut self, entries: Vec<eraftpb::Entry>) {
        let mut message = eraftpb::Message { from: self.config.id.0, ..Default::default() };
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.set_entries(entries.into());
        // Every reason to refuse was checked before: leader, no transfer, a member, within the bound of uncommitted bytes.
        self.node.raft.step(message).expect("a checked proposal is taken");
    }
}
