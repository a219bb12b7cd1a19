//! One simulated machine: its disk, its clock, and, while it runs, the stages of a member with their queues.
//!
//! Invariants: a stage runs one step at a time and is busy until its disk calls are complete; the outputs of a step are
//! handed on only then; what belongs to an earlier run of the member (its `epoch`) reaches nobody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_ids::{LogIndex, MemberId, Monotonic, WallTime};
use quorate_member::core::{
    ApplyInput, CheckpointInput, LogBatch, LogInput, Mended, Now, Stages, TransferInput,
};
use quorate_member::joining::{Asking, Offer};
use quorate_member::kinds::Kinds;
use quorate_member::{Identity, Member, MemberList, PeerBook, Status};
use quorate_models::Feeds;
use quorate_store::Location;

use super::damage::LogRot;
use super::shown::Shown;
use crate::clock::Clock;
use crate::disk::{CrashKind, SimDisk};

/// A thread of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Log,
    Writer,
    Apply,
    Checkpoint,
    Transfer,
}

impl Stage {
    pub const ALL: [Self; 5] = [Self::Log, Self::Writer, Self::Apply, Self::Checkpoint, Self::Transfer];
}

/// What waits for a stage.
pub enum Input {
    Log(LogInput),
    Writer(LogBatch),
    Apply(ApplyInput),
    CheckpointDone(Option<LogIndex>),
    Mended(Location, Mended),
    Checkpoint(CheckpointInput),
    Transfer(TransferInput),
}

impl Input {
    pub fn stage(&self) -> Stage {
        match self {
            Self::Log(_) => Stage::Log,
            Self::Writer(_) => Stage::Writer,
            Self::Apply(_) | Self::CheckpointDone(_) | Self::Mended(..) => Stage::Apply,
            Self::Checkpoint(_) => Stage::Checkpoint,
            Self::Transfer(_) => Stage::Transfer,
        }
    }
}

/// A stage's queue, and when it may run next.
#[derive(Default)]
pub struct Queue {
    pub waiting: VecDeque<Input>,
    pub busy_until: u64,
    /// A wake-up is on its way for this time.
    pub wake_at: Option<u64>,
}

/// The stages of a member that runs.
pub struct Running {
    pub stages: Stages,
    pub feeds: Feeds,
    pub start: u64,
    /// What its program knows.
    pub kinds: Kinds,
    pub queues: [Queue; 5],
    pub next_seq: u64,
    pub status: Status,
    /// Since when no leader is known.
    pub alone_since: u64,
    /// It heard of no leader for so long that it may show less than it once did.
    pub shows_less: bool,
    /// What its newest checkpoint of this run holds.
    pub checkpoint: LogIndex,
    /// Last index at which the tables' hash was compared.
    pub hashed: LogIndex,
    pub last_unreachable: u64,
    /// The disk calls of its opening are complete; nothing reads its tables before.
    pub ready_at: u64,
    /// When the last hand-over to each stage arrives.
    pub handed: [u64; 5],
    /// The members, as the member itself says.
    pub members: Arc<MemberList>,
    /// Who may speak although the list does not name them.
    pub guests: BTreeMap<MemberId, Member>,
    /// Where members come and go: whom it met, and who went through a handshake with it.
    pub book: Option<PeerBook>,
    pub doors: BTreeMap<usize, Door>,
}

/// A connection from another machine that went through its handshake.
#[derive(Clone, Copy)]
pub struct Door {
    /// The run of the other one.
    pub epoch: u64,
    /// What the handshake had to make durable is durable.
    pub open_at: u64,
}

impl Running {
    pub fn queue(&mut self, stage: Stage) -> &mut Queue {
        &mut self.queues[stage as usize]
    }
}

pub struct Machine {
    /// Whom it runs, or ran last.
    pub identity: Identity,
    /// Its member was added to a cluster that ran already.
    pub joins: bool,
    /// The cluster of its own that its settings have it found.
    pub founded: Option<Identity>,
    /// What its member said that it moved to.
    pub moved: Option<Offer>,
    /// The name in its settings, where that is not its own.
    pub called: Option<String>,
    /// What its member said that it does not become.
    pub refused: Option<MemberId>,
    /// It asks to be admitted whenever it has no member.
    pub asks: bool,
    /// It has no member yet, and asks for one.
    pub asking: Option<Asking>,
    /// Its disk was lost since its member first started.
    pub wiped: bool,
    /// The newest list that its member durably knows.
    pub kept: Arc<MemberList>,
    /// The end of its member's log, at its furthest.
    pub log_end: LogIndex,
    /// Its peer book is durable from then on.
    pub book_at: u64,
    pub disk: SimDisk,
    pub clock: Clock,
    pub epoch: u64,
    pub running: Option<Box<Running>>,
    /// It will not start again: its disk was damaged, and it said so.
    pub given_up: bool,
    pub restart_pending: bool,
    pub paused_until: u64,
    pub crash_on_write: Option<(CrashKind, u64)>,
    /// The newest term that was handed to the writer.
    pub written_term: u64,
    pub crash_on_vote: Option<(CrashKind, u64)>,
    /// Until then it dies after each vote, and is back in milliseconds.
    pub vote_race: Option<(CrashKind, u64)>,
    /// The simulator damaged bytes of this disk: the member may refuse to go on, saying why.
    pub damaged: bool,
    /// A bit of its log that is to rot.
    pub log_rot: Option<LogRot>,
    /// The simulator let calls fail: the member may stop, and start again.
    pub errors: bool,
    pub failures: u32,
    /// Client operations that this member served since the faults ended.
    pub served: u64,
    pub shown: Shown,
}

impl Machine {
    /// The stages of a member that runs and is open.
    pub fn serving(&self, at: u64) -> Option<&Running> {
        self.running.as_deref().filter(|running| running.ready_at <= at)
    }

    /// Whether its member, which starts with this list, was removed and asks to be admitted anew.
    pub fn asks_anew(&self, list: &MemberList) -> bool {
        self.joins && self.founded.is_none() && self.asks && list.was_removed(self.identity.member)
    }

    /// The member's own time.
    pub fn now(&self, at: u64) -> Now {
        Now { monotonic: Monotonic(self.clock.monotonic(at)), wall: WallTime(self.clock.wall(at)) }
    }
}
