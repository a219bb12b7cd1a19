//! The member's stages, with no runtime in them.
//!
//! Each stage is a plain struct with `step(input, now)`; what it wants done comes back as outputs. The server gives
//! each stage a thread, the simulator runs them on one in the order that its seed picks:
//!
//! ```text
//!  requests, frames ──► LogLoop ──► LogWriter   (one write and one sync in flight)
//!                          │  ▲─────────┘ written
//!                          ├────► ApplyStage ──► answers, visible index, checkpoints to write
//!                          │  ▲─────────┘ applied
//!                          ├────► CheckpointStage (background)
//!                          └────► TransferStage   (background; snapshots to and from peers)
//! ```
//!
//! Invariants over all stages: the log loop never waits for a disk and never runs `apply`; what is handed to the apply
//! stage is committed and durable here; nothing is answered before it is applied here; the log is freed only below the
//! last durable checkpoint.

mod absorption;
#[cfg(test)]
mod absorption_tests;
mod apply;
#[cfg(test)]
mod apply_tests;
mod book;
mod checkpoint;
mod clock;
mod divergence;
mod extra;
#[cfg(test)]
mod full_fronts_tests;
pub mod gate;
mod joins;
#[cfg(test)]
mod kinds_tests;
mod lease_keeper;
mod leaving;
#[cfg(test)]
mod leaving_tests;
mod log_loop;
mod log_writer;
mod mending;
pub mod mutants;
mod offers;
mod open;
mod proposals;
mod reads;
mod replay;
mod reserve;
#[cfg(test)]
mod space_tests;
mod strangers;
#[cfg(test)]
mod tests;
mod traffic;
mod transfer;
pub mod votes;

use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{Entry, HardState, Membership};
use quorate_ids::{ClusterTime, Incarnation, LogIndex, MemberId, Monotonic, Revision, Term, WallTime};
use quorate_models::ModelId;
use quorate_store::{Frozen, Location};

use crate::envelope::Origin;
use crate::event::Event;
use crate::frame::{Lane, SnapshotPoint, Space};
use crate::handle::{Applied, MembershipRefusal, RequestError, Status};
use crate::joining::{Offer, Question, Reply};
use crate::log_view::LogView;
use crate::membership::{Member, MemberList, MembershipRequest};
use crate::statistics::Statistics;

pub use absorption::{complete as complete_move, move_to, pending as pending_move, reply_to_offer};
pub use apply::{ApplyStage, CheckpointRule};
pub use book::PeerBook;
pub use checkpoint::{CheckpointInput, CheckpointOutput, CheckpointStage};
pub use joins::{INVITE_AFTER_NANOS, JOIN_NANOS_MAX, JOINING_MAX};
pub use log_loop::{LogLoop, LogLoopConfig, envelope_of};
pub use log_writer::LogWriter;
pub use mending::{JOB_NANOS_MAX, Mended};
pub use open::{Founding, OpenConfig, OpenError, Stages, open};
pub use transfer::{TransferInput, TransferOutput, TransferStage};

/// The time, as one turn of a stage sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub monotonic: Monotonic,
    pub wall: WallTime,
}

/// What reaches the log loop.
#[derive(Debug)]
pub enum LogInput {
    /// A command of this member's clients.
    Propose {
        seq: u64,
        model: ModelId,
        command: Bytes,
    },
    ChangeMembership {
        seq: u64,
        request: MembershipRequest,
    },
    /// A linearizable read of this member's clients.
    Read {
        seq: u64,
    },
    /// A client asks about a lease, or keeps it alive.
    AskLease {
        seq: u64,
        lease: i64,
        renew: bool,
    },
    /// The apply stage saw something run out while this member led `term`: this command ends it.
    Expire {
        term: Term,
        model: ModelId,
        command: Bytes,
    },
    TransferLeadership {
        to: MemberId,
    },
    /// Somebody wants to see the log from here on.
    ReadLog {
        seq: u64,
        from: LogIndex,
        entries_max: usize,
    },
    /// Somebody wants to know what is counted of appends.
    Statistics {
        seq: u64,
    },
    /// Make a checkpoint as soon as one can be cut.
    Checkpoint,
    /// A whole frame from a peer whose handshake went through.
    Frame {
        from: MemberId,
        frame: Bytes,
    },
    /// A connection to a peer stands.
    Reachable {
        peer: MemberId,
    },
    /// A peer can't be reached, or its queue is full.
    Unreachable {
        to: MemberId,
    },
    /// The log writer made batch `number` durable.
    Written {
        number: u64,
    },
    /// The log has no space for the next batch; the writer goes on trying.
    NoSpace,
    /// The apply stage is done with everything up to here.
    Applied {
        index: LogIndex,
    },
    /// The store's fronts are nearly full (`true`), or have room again.
    FrontTight(bool),
    /// What this member's tables hold at `index`, to be compared with the others'.
    Hashed {
        index: LogIndex,
        hash: u64,
    },
    /// A checkpoint finds no space (`true`), or has found it.
    StoreNoSpace(bool),
    /// How much space the log's disk has.
    LogSpace(Space),
    /// How much space the store's disk has.
    StoreSpace(Space),
    /// A checkpoint is durable: the log below it may go.
    Checkpointed {
        point: SnapshotPoint,
        membership: Membership,
    },
    /// A peer's snapshot lies verified in `generation` of the store.
    SnapshotFetched {
        from: MemberId,
        point: SnapshotPoint,
        generation: u64,
    },
    /// The snapshot takes `bytes`, and the disk has `room`. [`Self::SnapshotFailed`] follows after a while.
    SnapshotHasNoRoom {
        point: SnapshotPoint,
        bytes: u64,
        room: u64,
    },
    SnapshotFailed {
        from: MemberId,
        point: SnapshotPoint,
    },
    /// The apply stage switched to the snapshot's tables, in which these stamps are the greatest.
    Installed {
        point: SnapshotPoint,
        members: MemberList,
        stamps: (ClusterTime, WallTime),
    },
    /// A question about joining came to the peer port, never [`Question::Admit`]. `hosts`: this member has an admission
    /// in hand for somebody else.
    JoinQuestion {
        ask: u64,
        question: Question,
        hosts: bool,
    },
    /// A peer went through the handshake in this incarnation, now or at an earlier run.
    Met {
        member: MemberId,
        incarnation: Incarnation,
    },
    /// A peer of this cluster that is in no list here wants to speak ([`gate::Shut::Stranger`]).
    Knocked {
        member: MemberId,
        incarnation: Incarnation,
    },
    /// A member answered who the members are.
    MembersTold {
        by: MemberId,
        members: MemberList,
    },
    /// A newcomer that was invited refuses to be a member.
    InvitationRefused {
        member: MemberId,
    },
    /// A stage failed for good.
    Failed {
        reason: String,
    },
    /// The member is to stop: hand leadership on if it is ours.
    Stop,
}

/// What the log loop wants done.
#[derive(Debug)]
pub enum LogOutput {
    Send {
        to: MemberId,
        lane: Lane,
        frame: Bytes,
    },
    Write(LogBatch),
    Apply(ApplyInput),
    Transfer(TransferInput),
    /// A proposal that will not be applied, or whose outcome is unknown.
    Refuse {
        seq: u64,
        error: RequestError,
    },
    RefuseRead {
        seq: u64,
        error: RequestError,
    },
    /// The leader's answer about a lease.
    AnswerLease {
        seq: u64,
        outcome: Result<LeaseAnswer, RequestError>,
    },
    Status(Status),
    Members(Arc<MemberList>),
    /// This list is what the durable log says: no restart goes back behind it. The peer book takes it in.
    MembersKept(Arc<MemberList>),
    /// Ask each of these members [`Question::Members`]; what they answer comes back as [`LogInput::MembersTold`].
    AskMembers(Vec<Member>),
    /// These may speak here although they are in no list of this member's yet. Replaces earlier ones.
    Guests(Vec<Member>),
    /// For whoever observes this member.
    Event(Event),
    AnswerLog {
        seq: u64,
        view: LogView,
    },
    AnswerStatistics {
        seq: u64,
        statistics: Statistics,
    },
    /// Leadership has been handed on, or there was none to hand on.
    MayStop,
    /// This member was removed from the cluster, and enough of the others know.
    Removed,
    /// The answer to question `ask`.
    JoinReply {
        ask: u64,
        reply: Reply,
    },
    /// Offers a newcomer, at one of these URLs, what it was admitted as: it may not have heard of it.
    Invite {
        urls: Vec<String>,
        offer: Offer,
    },
    /// The cluster that this member founded is given up: make the move durable ([`move_to`]), answer `ask`
    /// ([`reply_to_offer`]), and start the member anew. The loop does nothing more.
    GiveUp {
        ask: u64,
        offer: Offer,
    },
}

/// What one write and one sync make durable.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// Counts batches from 1.
    pub number: u64,
    /// An installed snapshot: the log starts anew after it, and the store's `generation` counts.
    pub restart: Option<(SnapshotPoint, u64)>,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Entries up to here are in a durable checkpoint.
    pub release: Option<LogIndex>,
}

/// What reaches the apply stage, in order.
#[derive(Debug)]
pub enum ApplyInput {
    /// Committed entries, without a gap.
    Entries(Vec<Committed>),
    /// Answer these reads once `index` is applied.
    Reads { seqs: Vec<u64>, index: LogIndex },
    /// Answer these questions about leases once `index` is applied, if this member still leads `term`.
    Leases { asks: Vec<LeaseAsk>, index: LogIndex, term: Term },
    /// This member leads `term` from now on: it keeps the time of leases.
    Lead { term: Term },
    /// This member does not lead any more.
    Follow,
    /// A checkpoint is wanted as soon as it can be cut: a peer needs it.
    CheckpointNow,
    /// Switch to the snapshot in `generation`; everything before it is settled.
    Install { point: SnapshotPoint, generation: u64 },
}

/// Who asks about a lease: a request of a run of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    pub asker: Origin,
    pub lease: i64,
    /// Keep it alive; else only tell.
    pub renew: bool,
}

/// What the leader says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// Granted for so many seconds, and so many nanoseconds are left.
    Alive {
        ttl_seconds: i64,
        remaining_nanos: u64,
    },
    Missing,
}

/// A committed entry and, for a membership entry, what the log loop judged.
#[derive(Debug)]
pub struct Committed {
    pub entry: Entry,
    pub verdict: Option<Verdict>,
}

/// What a membership request came to, and the list and membership after it.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub outcome: Result<(), MembershipRefusal>,
    pub members: MemberList,
    pub membership: Membership,
}

/// What the apply stage wants done.
#[derive(Debug)]
pub enum ApplyOutput {
    Answer {
        seq: u64,
        outcome: Result<Applied, RequestError>,
    },
    AnswerRead {
        seq: u64,
        index: LogIndex,
    },
    /// Readers may see this from now on. Comes before the answers of the commands that it includes.
    Visible {
        index: LogIndex,
        revision: Revision,
        term: Term,
    },
    /// For the log loop.
    Applied {
        index: LogIndex,
    },
    Installed {
        point: SnapshotPoint,
        members: MemberList,
        stamps: (ClusterTime, WallTime),
    },
    /// An answer about a lease to a client of this member.
    AnswerLease {
        seq: u64,
        outcome: Result<LeaseAnswer, RequestError>,
    },
    /// A frame for a peer, on the control lane.
    Send {
        to: MemberId,
        frame: Bytes,
    },
    /// For the log loop: leases, or whatever else a model lets run out, have run out.
    Expire {
        term: Term,
        model: ModelId,
        command: Bytes,
    },
    /// For the transfer stage: a command needs the record there, and it can't be read.
    Mend(Location),
    /// For the log loop: what the tables hold at `index`.
    Hashed {
        index: LogIndex,
        hash: u64,
    },
    /// For the log loop: the store's fronts are nearly full, or have room again.
    FrontTight(bool),
    /// For the checkpoint stage.
    Checkpoint {
        frozen: Frozen,
        point: SnapshotPoint,
        membership: Membership,
    },
    Failed {
        reason: String,
    },
}
