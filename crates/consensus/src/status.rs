//! What a member knows about itself and, as leader, about the others. For decisions and metrics; not for safety.

use std::collections::BTreeMap;

use quorate_ids::{LogIndex, MemberId, Term};

/// The part that a member plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    Leader,
}

impl Role {
    pub(crate) fn from_raft(role: raft::StateRole) -> Self {
        match role {
            raft::StateRole::Follower => Self::Follower,
            raft::StateRole::PreCandidate => Self::PreCandidate,
            raft::StateRole::Candidate => Self::Candidate,
            raft::StateRole::Leader => Self::Leader,
        }
    }
}

/// How a leader sends the log to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationState {
    /// Looks for where the logs agree, one message per heartbeat.
    Probe,
    /// Sends ahead of acknowledgements.
    Replicate,
    /// Waits for a snapshot to be installed or to fail ([`crate::Consensus::report_snapshot`]).
    Snapshot,
}

/// A leader's view of one other member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The highest index known to be durable there.
    pub matched: LogIndex,
    /// The next index to send.
    pub next: LogIndex,
    pub state: ReplicationState,
    /// It was heard from since the last check for a majority.
    pub recent_active: bool,
    /// The index of the snapshot that was offered and neither confirmed nor reported as failed.
    pub pending_snapshot: Option<LogIndex>,
    /// Nothing more is sent until it answers.
    pub paused: bool,
    pub learner: bool,
}

/// A member's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: MemberId,
    pub role: Role,
    pub term: Term,
    pub vote: Option<MemberId>,
    pub leader: Option<MemberId>,
    pub commit: LogIndex,
    /// What [`crate::Consensus::applied`] last said, or a snapshot brought.
    pub applied: LogIndex,
    /// The end of the durable part of the log.
    pub persisted: LogIndex,
    pub last_index: LogIndex,
    /// The first index still in memory.
    pub first_index: LogIndex,
    /// Bytes that the log takes in memory.
    pub log_bytes: usize,
    /// Bytes proposed by this leader and not yet handed out as committed.
    pub uncommitted_bytes: usize,
    /// Whether this leader has committed an entry of its own term: from then on it answers reads.
    pub committed_in_term: bool,
    /// The member that leadership is being handed to.
    pub transferring_to: Option<MemberId>,
    pub reads_pending: usize,
    /// Readies handed out and not yet reported as persisted.
    pub readies_unpersisted: usize,
    /// Ticks since the oldest ready that needs a sync was handed out: a slow disk shows here. A leader applies only what
    /// it has persisted itself, so it should hand on leadership before this reaches half an election timeout.
    pub sync_pending_ticks: Option<u64>,
    /// Ticks since a leader was last heard of (or, as leader, since the last check for a majority).
    pub election_elapsed_ticks: usize,
    /// The timeout that the seed gave for the present wait.
    pub election_timeout_ticks: usize,
    /// As leader: the others.
    pub progress: BTreeMap<MemberId, Progress>,
}
