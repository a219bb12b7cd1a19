//! When background writing has to hurry.
//!
//! Checkpoints are written by a thread that lets all others go first, at a steady rate. On a machine that is busy
//! enough, that thread gets next to no processor: the front behind the one that it writes fills, and writes are refused
//! though the disk could take them. So it is watched how much room the fronts have left. Below halfway between the
//! room of one whole front (what there is when a checkpoint begins) and the room at which writes are refused, the
//! writer hurries: it runs at the process's own priority and takes no breaks. It goes on hurrying for
//! [`CALM_NANOS`] after the last time that room was short, so that a machine that stays busy does not have to fall
//! behind once for each checkpoint.

use quorate_ids::Monotonic;

/// For so long the writer hurries on after room was short.
pub const CALM_NANOS: u64 = 10_000_000_000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Pressure {
    hurry_below_bytes: u64,
    short_at: Option<Monotonic>,
}

impl Pressure {
    /// For fronts of this size that refuse writes below `room_bytes_min`.
    #[must_use]
    pub fn new(front_bytes_max: u64, room_bytes_min: u64) -> Self {
        let hurry_below_bytes = room_bytes_min + front_bytes_max.saturating_sub(room_bytes_min) / 2;
        Self { hurry_below_bytes, short_at: None }
    }

    /// Says whether to hurry, with so much room left in the fronts.
    pub fn hurries(&mut self, room_bytes: u64, now: Monotonic) -> bool {
        if room_bytes < self.hurry_below_bytes {
            self.short_at = Some(now);
        }
        self.short_at.is_some_and(|at| now.since(at) < CALM_NANOS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_hurries_before_writes_are_refused_and_calms_down_a_while_after() {
        let mut pressure = Pressure::new(16 * MIB, 8 * MIB);
        assert!(!pressure.hurries(32 * MIB, Monotonic(0)), "both fronts are empty");
        assert!(!pressure.hurries(16 * MIB, Monotonic(1)), "a checkpoint has just begun");
        assert!(!pressure.hurries(12 * MIB, Monotonic(2)));
        assert!(pressure.hurries(12 * MIB - 1, Monotonic(3)), "half of the way to where writes are refused");
        assert!(
            pressure.hurries(32 * MIB, Monotonic(4)),
            "the checkpoint is durable, but the next may need it too"
        );
        assert!(pressure.hurries(32 * MIB, Monotonic(2 + CALM_NANOS)));
        assert!(!pressure.hurries(32 * MIB, Monotonic(3 + CALM_NANOS)));
    }

    #[test]
    fn room_that_stays_short_keeps_it_hurrying() {
        let mut pressure = Pressure::new(16 * MIB, 8 * MIB);
        for seconds in 0..60 {
            assert!(pressure.hurries(0, Monotonic(seconds * 1_000_000_000)));
        }
        assert!(pressure.hurries(32 * MIB, Monotonic(60_000_000_000)));
        assert!(!pressure.hurries(32 * MIB, Monotonic(59_000_000_000 + CALM_NANOS)));
    }
}
