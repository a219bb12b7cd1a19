//! The stamps that a leader gives to entries: cluster time and wall time.
//!
//! Invariants: neither ever goes back along the log; cluster time stands still while there is no leader and moves with
//! the leader's monotonic clock otherwise, so no fast or jumping wall clock shows in it.

use quorate_ids::{ClusterTime, Monotonic, WallTime};

use super::Now;

/// See the module.
#[derive(Debug)]
pub struct Stamper {
    cluster_time: ClusterTime,
    wall_time: WallTime,
    lead_from: Option<(ClusterTime, Monotonic)>,
}

impl Stamper {
    /// Starts from the greatest stamps that the log and the store hold.
    #[must_use]
    pub fn new(cluster_time: ClusterTime, wall_time: WallTime) -> Self {
        Self { cluster_time, wall_time, lead_from: None }
    }

    /// An entry with these stamps is in the log.
    pub fn seen(&mut self, cluster_time: ClusterTime, wall_time: WallTime) {
        self.cluster_time = self.cluster_time.max(cluster_time);
        self.wall_time = self.wall_time.max(wall_time);
    }

    /// This member leads from now on: cluster time goes on from the greatest stamp in its log.
    pub fn lead(&mut self, now: Now) {
        self.lead_from = Some((self.cluster_time, now.monotonic));
    }

    /// The stamps of an entry that is proposed now, by a leader.
    pub fn stamp(&mut self, now: Now) -> (ClusterTime, WallTime) {
        let (base, since) = *self.lead_from.get_or_insert((self.cluster_time, now.monotonic));
        let cluster_time = ClusterTime(base.0.saturating_add(now.monotonic.since(since)));
        self.seen(cluster_time, now.wall);
        (self.cluster_time, self.wall_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic: u64, wall: u64) -> Now {
        Now { monotonic: Monotonic(monotonic), wall: WallTime(wall) }
    }

    #[test]
    fn a_new_leader_goes_on_from_the_greatest_stamp_by_its_own_clock() {
        let mut stamper = Stamper::new(ClusterTime(100), WallTime(5));
        stamper.seen(ClusterTime(150), WallTime(9));
        stamper.lead(at(1_000, 9));
        assert_eq!(stamper.stamp(at(1_030, 12)), (ClusterTime(180), WallTime(12)));
    }

    #[test]
    fn a_wall_clock_that_jumps_back_shows_nowhere() {
        let mut stamper = Stamper::new(ClusterTime(0), WallTime(0));
        stamper.lead(at(0, 50));
        assert_eq!(stamper.stamp(at(1, 50)), (ClusterTime(1), WallTime(50)));
        assert_eq!(stamper.stamp(at(2, 10)), (ClusterTime(2), WallTime(50)));
    }
}
