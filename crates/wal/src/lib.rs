//! The write-ahead log of one member: the only sync on the write path.
//!
//! The log keeps the latest vote state and the entries that no durable checkpoint contains yet, in segments that are
//! prepared ahead and recycled. It knows neither Raft nor models: payloads are bytes. The format, the commit protocol
//! and why a crash at any step is safe stand in `docs/formats/wal.md`.
//!
//! Invariants:
//! - When [`Wal::append`] returned `Ok`, its records survive a crash, whole and in order. A crash before that keeps
//!   some prefix of the records.
//! - Recovery gives back every record that was acknowledged, or an error. It never gives back a log that ends before
//!   a place that a later record proves durable.
//! - Bytes that a crash cut off, or that a recycled segment held before, are never taken for records again.
//! - After a failed write or sync the log takes nothing more.
//!
//! Calls block on the disk; the log has no thread and no clock of its own.

#![forbid(unsafe_code)]

mod buffer;
mod error;
mod files;
mod format;
mod recovery;
mod scan;
mod state;
mod wal;

use std::fmt;

use bytes::Bytes;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};

pub use error::WalError;
pub use format::FORMAT_VERSION;
pub use wal::{Stats, Wal};

/// Size of a segment where nothing else is asked for.
pub const SEGMENT_SIZE_BYTES_DEFAULT: u64 = 16 << 20;
/// Largest payload of an entry where nothing else is asked for.
pub const PAYLOAD_BYTES_MAX_DEFAULT: u64 = 4 << 20;
/// No segment may be larger: recovery reads one whole.
pub const SEGMENT_SIZE_BYTES_MAX: u64 = 1 << 30;
/// Ordinary records leave this much at the end of a segment free, so that a start, a mark and a release can always
/// be written without a new segment, on a full disk too.
pub const SEGMENT_RESERVE_BYTES: u64 = 512;

/// How a log lies on its disk.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the log, relative to the disk's root. Nothing else may live in it.
    pub folder: String,
    /// Size of a segment that is made from now on; a multiple of 4096. Existing ones keep theirs until recycled.
    pub segment_size_bytes: u64,
    /// Largest payload of an entry. A segment must have room for one.
    pub payload_bytes_max: u64,
    /// Prepared segments that are kept when others become free; what is more is removed.
    pub spare_segments_max: usize,
    /// Prepare the next spare inside the append that took the last one, after its records are durable. Where false,
    /// the owner calls [`Wal::prepare_spare`] when [`Wal::has_spare`] is false.
    pub prepare_spare_in_append: bool,
    /// Bypass the page cache where the file system allows it.
    pub direct: bool,
    /// A planted bug: batches are written and acknowledged without being synced.
    #[cfg(feature = "mutants")]
    pub skip_sync: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            folder: "wal".to_owned(),
            segment_size_bytes: SEGMENT_SIZE_BYTES_DEFAULT,
            payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT,
            spare_segments_max: 2,
            prepare_spare_in_append: true,
            direct: true,
            #[cfg(feature = "mutants")]
            skip_sync: false,
        }
    }
}

/// Whose log it is. A log of another cluster, member or incarnation is never opened by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} member {} incarnation {}", self.cluster, self.member, self.incarnation)
    }
}

/// The vote state. To the log it is opaque: the latest one written is the one recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    /// Whom this member voted for in `term`; 0 is nobody.
    pub vote: MemberId,
    pub commit: LogIndex,
}

/// The entry before the first one that the log can hold: index and term of the last installed snapshot, 0 at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartPoint {
    pub index: LogIndex,
    pub term: Term,
}

/// A byte of the log, counted through all segments that it ever had. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// What goes into the log.
///
/// A crash can keep any prefix of a batch. So put entries before the [`HardState`] whose commit names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    HardState(HardState),
    /// Supersedes every earlier entry with the same or a higher index. Must follow the last entry or replace one
    /// that was not released.
    Entry {
        index: LogIndex,
        term: Term,
        payload: Bytes,
    },
    /// After an installed snapshot: drops every entry, and what it drops counts as released. The next entry is the
    /// one after `index`.
    Restart {
        index: LogIndex,
        term: Term,
        store_generation: u64,
    },
}

impl Record {
    fn content(&self) -> format::Content<'_> {
        match *self {
            Self::HardState(hard_state) => format::Content::HardState(hard_state),
            Self::Entry { index, term, ref payload } => format::Content::Entry { index, term, payload },
            Self::Restart { index, term, store_generation } => {
                format::Content::Restart { point: RestartPoint { index, term }, store_generation }
            }
        }
    }
}

/// A torn tail that recovery cut: bytes behind the last whole record that no later record proves durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutTail {
    pub file: String,
    /// Where in the file the log ends now.
    pub offset: u64,
    pub position: Position,
}

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub identity: Identity,
    pub hard_state: HardState,
    /// In order, without a gap. May begin with entries that were released, because space is freed by whole segments;
    /// where not empty it ends at `last_index`.
    pub entries: Vec<(LogIndex, Term, Bytes)>,
    pub restart: RestartPoint,
    pub store_generation: u64,
    /// The newest entry ever written and not superseded, be it held still or not; or the restart point. A store that
    /// has applied more than this does not belong to this log.
    pub last_index: LogIndex,
    pub last_term: Term,
    /// The log's end.
    pub end: Position,
    pub cut_tail: Option<CutTail>,
}

impl Recovered {
    /// The first entry that is still there, or the one that would come next.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.entries.first().map_or_else(|| self.last_index.next(), |(index, _, _)| *index)
    }
}
