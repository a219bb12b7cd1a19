//! Every bound of the store, and who a store belongs to.

use quorate_disk::DIRECT_ALIGN_BYTES;
use quorate_ids::{ClusterId, Incarnation, MemberId};

/// A row is at most this long.
pub const ROW_BYTES_MAX: usize = 1024;
/// A key of a table is at most this long.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// A body is at most this long: a quarter of what an offset can address, so that no sum of lengths overflows.
pub const BODY_BYTES_MAX: usize = 1 << 30;
/// What a checkpoint carries for the member besides index and term is at most this long.
pub const EXTRA_BYTES_MAX: usize = 4 << 20;
/// Background writes go out in pieces of this size, each followed by a sync.
pub const PIECE_BYTES: usize = 256 * 1024;
/// A run's block is closed once its entries reach this size.
pub(crate) const RUN_BLOCK_BYTES: usize = 64 * 1024;
/// Space is reserved this much at a time, so that writing itself cannot run out of it.
pub(crate) const PREALLOCATE_BYTES: u64 = 1 << 20;
/// A segment starts with one such block; what each checkpoint adds is padded to a multiple of it.
pub(crate) const SEGMENT_BLOCK_BYTES: u32 = DIRECT_ALIGN_BYTES as u32;

/// The bounds of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// A front that reaches this size is due for a checkpoint. Two fronts may be in memory: one that fills and one
    /// that is being written. See [`crate::Store::front_room`].
    pub front_bytes_max: u64,
    /// A segment is not extended beyond this; only a single record larger than it makes a larger segment.
    pub segment_bytes_max: u32,
    /// Bodies of past checkpoints that stay in memory (they are not in the page cache).
    pub body_cache_bytes: u64,
    /// A segment of which less than this is alive is rewritten.
    pub rewrite_below_percent: u8,
    /// Segments smaller than an eighth of `segment_bytes_max` (each start leaves one): beyond this many they are
    /// rewritten into larger ones.
    pub small_segments_max: usize,
    /// This many runs of similar size are merged into one.
    pub merge_width: usize,
    /// Beyond this many runs the newest are merged whatever their sizes.
    pub runs_max: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            front_bytes_max: 16 << 20,
            segment_bytes_max: 64 << 20,
            body_cache_bytes: 8 << 20,
            rewrite_below_percent: 50,
            small_segments_max: 8,
            merge_width: 4,
            runs_max: 16,
        }
    }
}

/// Whose store it is. A store opens only under the identity that its manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
}

/// Told of each piece that reached the disk, so that the shell can slow background writing down.
pub trait Pace {
    /// `bytes` were written and synced; `direct` is false where the file system refused O_DIRECT.
    fn wrote(&mut self, bytes: usize, direct: bool);

    /// `bytes` were read in the background.
    fn read(&mut self, _bytes: usize) {}
}

/// As fast as the disk allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpaced;

impl Pace for Unpaced {
    fn wrote(&mut self, _bytes: usize, _direct: bool) {}
}

/// The folder of one generation.
#[must_use]
pub fn generation_folder(generation: u64) -> String {
    format!("store-{generation:016x}")
}

pub(crate) fn segment_name(segment: u32) -> String {
    format!("segment-{segment:08x}")
}

pub(crate) fn run_name(run: u64) -> String {
    format!("run-{run:016x}")
}

/// The next multiple of [`SEGMENT_BLOCK_BYTES`].
pub(crate) fn padded(offset: u32) -> u32 {
    offset.checked_next_multiple_of(SEGMENT_BLOCK_BYTES).expect("segment offsets stay far below 4 GiB")
}
