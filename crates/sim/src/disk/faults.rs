//! What a hostile disk does, how often, how much of it in all, and what it did.

use crate::rng::Ppm;

/// Times of one device, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub read_nanos: u64,
    pub write_nanos: u64,
    pub sync_nanos: u64,
    /// Added for each KiB read or written.
    pub kib_nanos: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { read_nanos: 20_000, write_nanos: 15_000, sync_nanos: 60_000, kib_nanos: 500 }
    }
}

/// Chances per call, and a budget for each family: what may be damaged or refused before the disk behaves again.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    pub read_error: Ppm,
    pub write_error: Ppm,
    pub sync_error: Ppm,
    /// Errors that may still be returned.
    pub error_budget: u32,
    pub misdirected_read: Ppm,
    pub misdirected_write: Ppm,
    pub stale_read: Ppm,
    /// A read returns one flipped bit; the medium is fine.
    pub read_flip: Ppm,
    /// Wrong answers and misplaced writes that may still happen.
    pub damage_budget: u32,
    /// Paths that start so are spared wrong answers and misplaced writes.
    pub damage_spares: &'static [&'static str],
    /// Bytes that the device holds; writes and preallocation beyond fail.
    pub capacity_bytes: u64,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            read_error: Ppm(0),
            write_error: Ppm(0),
            sync_error: Ppm(0),
            error_budget: 0,
            misdirected_read: Ppm(0),
            misdirected_write: Ppm(0),
            stale_read: Ppm(0),
            read_flip: Ppm(0),
            damage_budget: 0,
            damage_spares: &[],
            capacity_bytes: u64::MAX,
        }
    }
}

/// What happened on a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    pub crashes: u64,
    pub writes_lost: u64,
    pub writes_torn: u64,
    pub names_lost: u64,
    pub errors: u64,
    pub full: u64,
    pub bits_flipped: u64,
    pub misdirected_reads: u64,
    pub misdirected_writes: u64,
    pub stale_reads: u64,
    pub slow: u64,
}

impl DiskCounts {
    /// Faults by kind, for tables.
    #[must_use]
    pub fn faults(&self) -> [(&'static str, u64); 11] {
        [
            ("disk: write lost in a crash", self.writes_lost),
            ("disk: write torn in a crash", self.writes_torn),
            ("disk: name lost in a crash", self.names_lost),
            ("disk: error returned", self.errors),
            ("disk: full", self.full),
            ("disk: bit flipped", self.bits_flipped),
            ("disk: misdirected read", self.misdirected_reads),
            ("disk: misdirected write", self.misdirected_writes),
            ("disk: stale read", self.stale_reads),
            ("disk: slow or stuck call", self.slow),
            ("disk: crash", self.crashes),
        ]
    }
}
