//! Consensus: a sans-IO driver around the `raft` crate.
//!
//! Inputs go in ([`Consensus::tick`], [`Consensus::step`], [`Consensus::propose`], ...), and all outputs of a turn come out
//! of one place, [`Consensus::ready`]. Invariants that this crate keeps:
//!
//! - No clock, thread or random number: time is `tick()`, and every election timeout comes from the seed in [`Config`],
//!   so the same inputs in the same order give the same outputs.
//! - Nothing that a peer sends can panic: a message is checked when it is decoded (it agrees with itself) and again when
//!   it is stepped (it agrees with this member's log). What the `raft` crate would abort on gets a typed error.
//! - What promises something to a peer leaves only after it is durable: such messages are in
//!   [`Ready::persisted_messages`]. A leader's messages may leave at once only while its own term is durable.
//! - Memory is bounded: the log by `log_bytes_max`, proposals by `uncommitted_bytes_max`, reads by `reads_pending_max`.
//! - Nothing outside this crate names the `raft` crate or a protobuf type. Peers exchange the byte format of
//!   `docs/formats/raft-messages.md`.

#![forbid(unsafe_code)]

mod codec;
mod config;
mod consensus;
mod election;
mod entry;
mod log;
mod membership;
mod message;
mod observe;
mod outstanding;
mod proposals;
mod reads;
mod ready;
mod restored;
mod status;
mod validation;

pub use codec::{DecodeError, FORMAT_VERSION};
#[cfg(feature = "mutants")]
pub use config::Mutant;
pub use config::{Config, ConfigError};
pub use consensus::{CompactError, Consensus, SnapshotPointError, StartError, TransferError};
pub use entry::{Entry, EntryKind, HardState};
pub use membership::{
    Membership, MembershipChange, MembershipDecodeError, MembershipEntry, MembershipError, SnapshotPoint,
};
pub use message::{AppendAnswer, AppendSpan, Message, MessageKind};
pub use observe::{OBSERVATIONS_MAX, Observation};
pub use proposals::ProposeError;
pub use reads::{ReadOutcome, ReadToken};
pub use ready::{Ready, RoleChange};
pub use restored::{Restored, RestoredError};
pub use status::{Progress, ReplicationState, Role, Status};
pub use validation::StepError;

/// The largest data of one entry, in bytes. Larger commands travel as several entries.
pub const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024 - 4096;
/// The largest encoded message, in bytes; a longer one is refused before it is decoded.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most voters, and the most learners, that a membership may have.
pub const MEMBERS_MAX: usize = 128;
/// The largest term or log index that is taken from outside: leaves room to count on without overflow.
pub const NUMBER_MAX: u64 = 1 << 62;
