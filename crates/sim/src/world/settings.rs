//! How large, how fast and how full the members of a seed are.

use super::MILLI;
use crate::rng::Rng;

/// What differs between seeds besides faults.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub checkpoint_entries: u64,
    pub front_bytes_max: u64,
    pub segment_bytes_max: u32,
    pub log_retained_bytes: usize,
    pub wal_segment_bytes: u64,
    pub feed_bytes_max: usize,
    pub body_cache_bytes: u64,
    pub think_nanos: u64,
    pub tick_nanos: u64,
    pub election_ticks: usize,
    /// Requests, and reads, that a member has under way at most; entries that wait to be applied.
    pub proposals_max: usize,
    pub reads_max: usize,
    pub apply_lag_entries_max: u64,
}

impl Settings {
    /// As much as the shell keeps.
    pub fn reserve_bytes(&self) -> u64 {
        self.wal_segment_bytes + 2 * self.front_bytes_max + u64::from(self.segment_bytes_max) / 2
    }

    /// Requests are refused most of the time.
    pub fn has_tiny_queues(&self) -> bool {
        self.proposals_max.min(self.reads_max) < 100
    }

    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            checkpoint_entries: *rng.pick(&[15, 60, 400, 100_000]),
            front_bytes_max: *rng.pick(&[512 << 10, 4 << 20, 16 << 20]),
            segment_bytes_max: *rng.pick(&[128 << 10, 1 << 20, 64 << 20]),
            log_retained_bytes: *rng.pick(&[0, 2 << 10, 64 << 10, 16 << 20]),
            wal_segment_bytes: *rng.pick(&[1 << 20, 5 << 20, 8 << 20]),
            feed_bytes_max: *rng.pick(&[0, 4 << 10, 1 << 20]),
            body_cache_bytes: *rng.pick(&[0, 16 << 10, 8 << 20]),
            think_nanos: *rng.pick(&[5 * MILLI, 20 * MILLI, 60 * MILLI]),
            tick_nanos: *rng.pick(&[20 * MILLI, 100 * MILLI]),
            election_ticks: 10,
            proposals_max: *rng.pick(&[1024, 1024, 1024, 2]),
            reads_max: *rng.pick(&[1024, 1024, 1024, 1]),
            apply_lag_entries_max: *rng.pick(&[5_000, 5_000, 5_000, 10]),
        }
    }
}
