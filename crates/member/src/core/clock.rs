//! The stamps that a leader gives to entries: cluster time and wall time.
//!
//! Invariants: neither ever goes back along the log; cluster time stands still while there is no leader and moves with
//! the leader's monotonic clock otherwise, so no fast or jumping wall clock shows in it. What was stamped and lost its place
//! in the log counts for nothing: a leader that was cut off stamped on while the others stood still, and its time, taken up
//! later, would end early what they wrote since.

use quorate_ids::{ClusterTime, Monotonic, Term, WallTime};

use super::Now;

/// See the module.
#[derive(Debug)]
pub struct Stamper {
    /// The greatest stamps of what is committed.
    settled: (ClusterTime, WallTime),
    wall_time: WallTime,
    /// The term that is led, what its first stamp came from, and when.
    lead_from: Option<(Term, ClusterTime, Monotonic)>,
}

impl Stamper {
    /// Starts from the greatest stamps that the store holds.
    #[must_use]
    pub fn new(cluster_time: ClusterTime, wall_time: WallTime) -> Self {
        Self { settled: (cluster_time, wall_time), wall_time, lead_from: None }
    }

    /// An entry with these stamps is committed.
    pub fn settled(&mut self, cluster_time: ClusterTime, wall_time: WallTime) {
        self.settled = (self.settled.0.max(cluster_time), self.settled.1.max(wall_time));
    }

    /// This member leads `term` from now on, if it did not yet: cluster time goes on from the greatest stamp in its log,
    /// which is that of the last entry that has one.
    pub fn lead(&mut self, term: Term, now: Now, last: impl FnOnce() -> Option<(ClusterTime, WallTime)>) {
        if self.lead_from.is_some_and(|(led, _, _)| led == term) {
            return;
        }
        let (cluster_time, wall_time) = last().unwrap_or_default();
        self.wall_time = self.settled.1.max(wall_time);
        self.lead_from = Some((term, self.settled.0.max(cluster_time), now.monotonic));
    }

    /// The stamps of an entry that is proposed now, by a leader.
    pub fn stamp(&mut self, now: Now) -> (ClusterTime, WallTime) {
        let (_, base, since) = self.lead_from.expect("only a leader stamps entries");
        let cluster_time = ClusterTime(base.0.saturating_add(now.monotonic.since(since)));
        self.wall_time = self.wall_time.max(now.wall);
        (cluster_time, self.wall_time)
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
        stamper.settled(ClusterTime(120), WallTime(7));
        stamper.lead(Term(1), at(1_000, 9), || Some((ClusterTime(150), WallTime(9))));
        assert_eq!(stamper.stamp(at(1_030, 12)), (ClusterTime(180), WallTime(12)));
    }

    /// It stamped on for 900 while the others had no leader; what they wrote since is not that old.
    #[test]
    fn a_leader_that_was_cut_off_does_not_take_its_lost_time_up_again() {
        let mut stamper = Stamper::new(ClusterTime(100), WallTime(5));
        stamper.lead(Term(1), at(0, 9), || None);
        assert_eq!(stamper.stamp(at(900, 9)).0, ClusterTime(1_000));
        // The entry of that stamp lost its place to one that another leader stamped.
        stamper.settled(ClusterTime(150), WallTime(9));
        stamper.lead(Term(3), at(2_000, 9), || Some((ClusterTime(160), WallTime(9))));
        assert_eq!(stamper.stamp(at(2_010, 9)).0, ClusterTime(170));
    }

    #[test]
    fn a_wall_clock_that_jumps_back_shows_nowhere() {
        let mut stamper = Stamper::new(ClusterTime(0), WallTime(0));
        stamper.lead(Term(1), at(0, 50), || None);
        assert_eq!(stamper.stamp(at(1, 50)), (ClusterTime(1), WallTime(50)));
        assert_eq!(stamper.stamp(at(2, 10)), (ClusterTime(2), WallTime(50)));
    }
}
