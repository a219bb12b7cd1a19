//! What members say to each other, as bytes.
//!
//! A frame is: length u32 (of all that follows) | CRC32C u32 (of all that follows it) | kind u8 | group u8 = 0 | body.
//! Layouts are in `docs/formats/peer-frames.md`. Every length is checked before anything is allocated; a frame that
//! makes no sense is a typed error and ends its connection.

mod codec;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_models::ModelId;

use crate::handle::MembershipRefusal;
use crate::kinds::Level;

/// The longest frame, in bytes: the largest request with room to spare, and several snapshot chunks.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The protocol of this file; a peer with another is refused at the handshake.
pub const PROTOCOL_VERSION: u16 = 1;
/// Length, CRC, kind and group.
pub const FRAME_HEADER_BYTES: usize = 4 + 4 + 1 + 1;
/// A snapshot chunk carries at most this many bytes of a file.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Which of a peer's connections a frame takes: what must not wait behind data has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, acks, read rounds.
    Control,
    /// Entries and forwarded requests.
    Entries,
    /// Snapshot files and mended records.
    Bulk,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Control, Self::Entries, Self::Bulk];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }
}

/// The first frame of a connection, from each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub lane: Lane,
    /// Whom the caller means to talk to.
    pub to: MemberId,
}

/// A command on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub start: u64,
    pub seq: u64,
    pub body: ForwardedBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedBody {
    Command { model: ModelId, command: Bytes },
    Membership { request: Bytes },
}

/// How much space a member's disk has. Each one is worse than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    #[default]
    Enough,
    /// The reserve is whole, and not much is free beside it.
    Nearly,
    /// The disk is full: a part of the reserve is given free, or there never was one.
    Short,
    /// And less than half of the reserve is left, or there is no next segment for the log.
    Last,
}

impl Space {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Enough, Self::Nearly, Self::Short, Self::Last].into_iter().find(|space| *space as u8 == byte)
    }

    /// Nothing may be put.
    #[must_use]
    pub fn is_full(self) -> bool {
        self >= Self::Short
    }
}

/// Why a leader did not take a forwarded command. In each case it is certain that it was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardRefusal {
    NotLeader,
    Overloaded,
    NoSpace,
    /// Not every member knows commands of this kind.
    TooNew,
    Membership(MembershipRefusal),
}

impl ForwardRefusal {
    fn code(self) -> u8 {
        match self {
            Self::NotLeader => 0,
            Self::Overloaded => 1,
            Self::NoSpace => 2,
            Self::TooNew => 3,
            Self::Membership(refusal) => 16 + refusal.code(),
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::NotLeader),
            1 => Some(Self::Overloaded),
            2 => Some(Self::NoSpace),
            3 => Some(Self::TooNew),
            code => MembershipRefusal::from_code(code.checked_sub(16)?).map(Self::Membership),
        }
    }
}

/// The point in the log that a snapshot stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotPoint {
    pub index: LogIndex,
    pub term: Term,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    /// The handshake failed; the connection ends after this.
    Refused {
        reason: String,
    },
    /// A message of consensus, in its own encoding.
    Raft(Bytes),
    /// Requests for the leader of `term`, which alone may propose them.
    Forward {
        term: Term,
        requests: Vec<Forwarded>,
    },
    ForwardRefused {
        start: u64,
        term: Term,
        seqs: Vec<u64>,
        reason: ForwardRefusal,
    },
    SnapshotOpen {
        point: SnapshotPoint,
    },
    SnapshotManifest {
        point: SnapshotPoint,
        manifest: Bytes,
    },
    SnapshotGone {
        point: SnapshotPoint,
    },
    ChunkRequest {
        point: SnapshotPoint,
        file: String,
        offset: u64,
        len: u32,
    },
    Chunk {
        point: SnapshotPoint,
        file: String,
        offset: u64,
        bytes: Bytes,
    },
    /// The receiver is done with a transfer.
    SnapshotStatus {
        point: SnapshotPoint,
        installed: bool,
    },
    /// Asks for a record by table, key and stamp, to mend a damaged one.
    RecordRequest {
        request: u64,
        table: u8,
        key: Bytes,
        index: LogIndex,
        place: u32,
    },
    Record {
        request: u64,
        record: Option<Bytes>,
    },
    /// Table hashes at an applied index, to find divergence.
    Hashes {
        index: LogIndex,
        hash: u64,
    },
    /// Questions about leases, for the leader: run, sequence, lease, whether to keep it alive.
    LeaseAsks {
        asks: Vec<(u64, u64, i64, bool)>,
    },
    /// Answers to a run's questions: sequence and, unless the lease is missing, TTL in seconds and nanoseconds left.
    LeaseAnswers {
        start: u64,
        answers: Vec<(u64, Option<(i64, u64)>)>,
    },
    /// The answer to a joiner that has no cluster yet.
    Members {
        cluster: ClusterId,
        list: Bytes,
    },
    /// A question about joining, and its answer, in their own encoding. The only frames, beside the one above, that
    /// go between members of different clusters.
    JoinQuestion(Bytes),
    JoinAnswer(Bytes),
    /// Asks the leader of `term` to hand leadership to `to`.
    Transfer {
        term: Term,
        to: MemberId,
    },
    /// How much of what may stand in the log the sender knows; see [`crate::kinds`]. A program of level 1 sends none.
    Level(Level),
    /// Tells the leader how much space the sender's disk has.
    Space(Space),
    /// The leader of `term` goes on without a member whose disk is full: it need not take what takes space.
    Spared {
        term: Term,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    Long(usize),
    #[error("a frame of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("a frame's checksum does not match")]
    Checksum,
    #[error("a frame of kind {0} that this program does not know")]
    Kind(u8),
    #[error("a frame for group {0}; there is only group 0")]
    Group(u8),
    #[error("a frame of kind {0} ends early or holds a value that makes no sense")]
    Body(u8),
    #[error("this is not a Quorate peer")]
    Magic,
}
