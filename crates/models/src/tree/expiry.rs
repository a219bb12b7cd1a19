//! When nodes run out, as the leader sees it: pure, driven by its caller's monotonic clock.
//!
//! Invariants: a deadline is a fixed point of cluster time; what decides is the cluster time that the expiry's own entry
//! carries, so a clock here that runs ahead ends nothing early. One expiry is on its way at a time; nothing here is
//! replicated, and a new leader starts one anew.

use bytes::Bytes;
use quorate_ids::{ClusterTime, Monotonic, Term};

use super::codec::encode;
use super::command::{Command, EXPIRED_PER_COMMAND_MAX};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryClock {
    term: Term,
    /// A cluster time, and the moment at which it was at least that late. `None`: the term has no entry yet.
    known: Option<(ClusterTime, Monotonic)>,
    proposed: bool,
}

impl ExpiryClock {
    /// This member leads `term`.
    #[must_use]
    pub fn new(term: Term) -> Self {
        Self { term, known: None, proposed: false }
    }

    /// An entry of `term` is applied, and the greatest stamp so far is `time`.
    pub fn applied(&mut self, term: Term, time: ClusterTime, now: Monotonic) {
        if term != self.term {
            return;
        }
        if self.known.is_none() || self.time(now).is_some_and(|estimate| time > estimate) {
            self.known = Some((time, now));
        }
    }

    /// An expiry of this term was applied at `time`.
    pub fn expired(&mut self, term: Term, time: ClusterTime, now: Monotonic) {
        if term == self.term {
            self.proposed = false;
            // Whatever is still there is due later than this: no estimate may say otherwise, or it would be proposed
            // again and again.
            self.known = Some((time, now));
        }
    }

    /// Cluster time, as far as it is known.
    fn time(&self, now: Monotonic) -> Option<ClusterTime> {
        self.known.map(|(time, at)| ClusterTime(time.0.saturating_add(now.since(at))))
    }

    /// When the first node, which ends at `deadline`, is due.
    #[must_use]
    pub fn due_at(&self, deadline: ClusterTime) -> Option<Monotonic> {
        let (time, at) = self.known.filter(|_| !self.proposed)?;
        Some(at.plus(deadline.0.saturating_sub(time.0)))
    }

    /// The command that ends what ran out by `now`, where the first node ends at `deadline`.
    pub fn due(&mut self, deadline: ClusterTime, now: Monotonic) -> Option<Bytes> {
        if self.due_at(deadline)? > now {
            return None;
        }
        self.proposed = true;
        Some(encode(&Command::Expire { term: self.term, nodes_max: EXPIRED_PER_COMMAND_MAX }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(3);

    #[test]
    fn nothing_is_due_before_the_terms_first_entry_and_one_expiry_is_on_its_way_at_a_time() {
        let mut clock = ExpiryClock::new(TERM);
        clock.applied(Term(2), ClusterTime(1_000), Monotonic(0));
        assert_eq!(clock.due_at(ClusterTime(1)), None);
        clock.applied(TERM, ClusterTime(1_000), Monotonic(50));
        assert_eq!(clock.due_at(ClusterTime(1_300)), Some(Monotonic(350)));
        assert_eq!(clock.due(ClusterTime(1_300), Monotonic(349)), None);
        assert!(clock.due(ClusterTime(1_300), Monotonic(350)).is_some());
        assert_eq!(clock.due(ClusterTime(1_300), Monotonic(900)), None, "one is on its way");
    }

    #[test]
    fn an_expiry_that_came_too_early_is_proposed_again_when_the_node_is_due() {
        let mut clock = ExpiryClock::new(TERM);
        clock.applied(TERM, ClusterTime(1_000), Monotonic(0));
        assert!(clock.due(ClusterTime(1_010), Monotonic(10)).is_some());
        clock.expired(TERM, ClusterTime(1_008), Monotonic(12));
        assert_eq!(clock.due_at(ClusterTime(1_010)), Some(Monotonic(14)));
    }

    #[test]
    fn a_stamp_that_is_ahead_of_the_estimate_corrects_it() {
        let mut clock = ExpiryClock::new(TERM);
        clock.applied(TERM, ClusterTime(1_000), Monotonic(0));
        clock.applied(TERM, ClusterTime(5_000), Monotonic(10));
        assert_eq!(clock.due_at(ClusterTime(5_020)), Some(Monotonic(30)));
        clock.applied(TERM, ClusterTime(5_005), Monotonic(20));
        assert_eq!(clock.due_at(ClusterTime(5_020)), Some(Monotonic(30)), "an older stamp says nothing");
    }
}
