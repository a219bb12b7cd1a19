//! How a consensus instance is set up: timings in ticks, bounds in bytes and counts, the seed.

use quorate_ids::MemberId;

use crate::{ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX};

/// A deliberate mistake, to prove that the simulator's oracles catch it.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutant {
    /// No mistake.
    #[default]
    None,
    /// A leader treats what it alone has persisted as committed.
    CommitWithoutQuorum,
    /// The vote is missing from every hard state that is handed out for persistence.
    ForgetVote,
}

/// Settings of one member's consensus.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member. Never 0.
    pub id: MemberId,
    /// Ticks without word from a leader before an election; the real timeout is drawn from `[n, 2n)` for each election.
    pub election_timeout_ticks: usize,
    /// Ticks between a leader's heartbeats; less than `election_timeout_ticks`.
    pub heartbeat_ticks: usize,
    /// An append message carries at most this many bytes of entries (or one entry, if that alone is larger).
    pub message_bytes_max: usize,
    /// Append messages on their way to one follower, unacknowledged.
    pub inflight_messages_max: usize,
    /// One [`crate::Ready`] carries at most this many bytes of committed entries (at least one entry).
    pub committed_bytes_per_ready_max: usize,
    /// A leader refuses proposals while this many bytes are proposed and not yet committed.
    pub uncommitted_bytes_max: usize,
    /// The log in memory (since the last compaction) refuses proposals and appends beyond this many bytes.
    pub log_bytes_max: usize,
    /// Read rounds that a leader holds open at a time.
    pub reads_pending_max: usize,
    /// Decides the election timeouts. Members of one cluster should differ in it, or elections may tie; `id` is mixed in.
    pub seed: u64,
    /// Ask before disturbing: a candidate first finds out whether it could win.
    pub pre_vote: bool,
    /// A leader that hears from no majority for an election timeout steps down.
    pub check_quorum: bool,
    /// Note what happens for [`crate::Consensus::take_observations`].
    pub observe: bool,
    /// A deliberate mistake.
    #[cfg(feature = "mutants")]
    pub mutant: Mutant,
}

impl Config {
    /// The house's defaults for member `id`.
    #[must_use]
    pub fn new(id: MemberId, seed: u64) -> Self {
        Self {
            id,
            election_timeout_ticks: 10,
            heartbeat_ticks: 1,
            message_bytes_max: 256 * 1024,
            inflight_messages_max: 64,
            committed_bytes_per_ready_max: 1024 * 1024,
            uncommitted_bytes_max: 16 * 1024 * 1024,
            log_bytes_max: 64 * 1024 * 1024,
            reads_pending_max: 256,
            seed,
            pre_vote: true,
            check_quorum: true,
            observe: false,
            #[cfg(feature = "mutants")]
            mutant: Mutant::None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        // Room for a message's header and its entries' headers beside the data.
        const HEADROOM_BYTES: usize = 64 * 1024;
        let refuse = |what| Err(ConfigError { what });
        if self.id == MemberId::ZERO {
            return refuse("the member id must not be 0");
        }
        if self.heartbeat_ticks == 0 || self.election_timeout_ticks <= self.heartbeat_ticks {
            return refuse(
                "election_timeout_ticks must be greater than heartbeat_ticks, and that greater than 0",
            );
        }
        if self.message_bytes_max == 0 || self.message_bytes_max > MESSAGE_BYTES_MAX - HEADROOM_BYTES {
            return refuse("message_bytes_max must be between 1 and 8 MiB less 64 KiB");
        }
        if self.inflight_messages_max == 0
            || self.reads_pending_max == 0
            || self.committed_bytes_per_ready_max == 0
        {
            return refuse(
                "inflight_messages_max, reads_pending_max and committed_bytes_per_ready_max must not be 0",
            );
        }
        if self.uncommitted_bytes_max < ENTRY_BYTES_MAX || self.uncommitted_bytes_max < self.message_bytes_max
        {
            return refuse("uncommitted_bytes_max must hold one entry of 4 MiB and one message");
        }
        if self.log_bytes_max < self.uncommitted_bytes_max {
            return refuse("log_bytes_max must be at least uncommitted_bytes_max");
        }
        Ok(())
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("consensus settings refused: {what}")]
pub struct ConfigError {
    /// Which rule the settings break.
    pub what: &'static str,
}
