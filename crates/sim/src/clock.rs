//! A member's clocks: monotonic with its own rate, wall with its own offset, jumps and stops.
//!
//! Invariant: the monotonic clock of one machine never goes back, whatever happens to its rate.

/// Rates and offsets of one machine. All times are nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// In the future where the clock stands still until then.
    base_virtual: u64,
    base_monotonic: u64,
    /// Parts of a million by which this clock is fast (or slow).
    drift_ppm: i64,
    wall_offset: i64,
}

/// 2024-01-01, in nanoseconds since 1970.
const EPOCH_NANOS: i64 = 1_704_067_200_000_000_000;

impl Clock {
    /// A clock that started at `monotonic_start` when the world did.
    #[must_use]
    pub fn new(monotonic_start: u64, drift_ppm: i64, wall_offset: i64) -> Self {
        Self { base_virtual: 0, base_monotonic: monotonic_start, drift_ppm, wall_offset }
    }

    #[must_use]
    pub fn monotonic(&self, now: u64) -> u64 {
        let passed = i128::from(now.saturating_sub(self.base_virtual));
        let shown = passed + passed * i128::from(self.drift_ppm) / 1_000_000;
        self.base_monotonic + shown as u64
    }

    #[must_use]
    pub fn wall(&self, now: u64) -> u64 {
        (EPOCH_NANOS + now as i64 + self.wall_offset) as u64
    }

    /// The machine runs at another rate from `now` on.
    pub fn set_drift(&mut self, now: u64, drift_ppm: i64) {
        self.base_monotonic = self.monotonic(now);
        self.base_virtual = self.base_virtual.max(now);
        self.drift_ppm = drift_ppm;
    }

    /// The monotonic clock stands still for so long, as that of a machine that sleeps.
    pub fn stand_still(&mut self, now: u64, nanos: u64) {
        self.base_monotonic = self.monotonic(now);
        self.base_virtual = self.base_virtual.max(now + nanos);
    }

    /// A clock that stood still goes on now.
    pub fn goes_on(&mut self, now: u64) {
        self.base_monotonic = self.monotonic(now);
        self.base_virtual = now;
    }

    /// Somebody sets the wall clock.
    pub fn set_wall_offset(&mut self, nanos: i64) {
        self.wall_offset = nanos;
    }

    /// The machine restarts: its monotonic clock begins anew.
    pub fn reboot(&mut self, now: u64, monotonic_start: u64) {
        self.base_virtual = now;
        self.base_monotonic = monotonic_start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_rate_does_not_move_the_monotonic_clock() {
        let mut clock = Clock::new(500, 1_000, 0);
        let before = clock.monotonic(1_000_000_000);
        assert_eq!(before, 500 + 1_001_000_000);
        clock.set_drift(1_000_000_000, -500_000);
        assert_eq!(clock.monotonic(1_000_000_000), before);
        assert_eq!(clock.monotonic(1_000_001_000), before + 500);
    }

    #[test]
    fn a_clock_that_stands_still_goes_on_from_where_it_was() {
        let mut clock = Clock::new(500, 0, 0);
        clock.stand_still(1_000, 4_000);
        assert_eq!((clock.monotonic(1_000), clock.monotonic(5_000)), (1_500, 1_500));
        clock.set_drift(2_000, 0);
        assert_eq!((clock.monotonic(4_999), clock.monotonic(5_010)), (1_500, 1_510));
    }
}
