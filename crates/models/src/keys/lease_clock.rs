//! When leases run out, as the leader sees it: pure, driven by its caller's monotonic clock.
//!
//! Invariants: a lease has one deadline, or its expiry was handed out by [`LeaseClock::due`] and waits for its
//! outcome; both collections hold the same leases. Nothing here is replicated: a new leader starts one anew, and each
//! lease gets its full TTL again.

use std::collections::{BTreeMap, BTreeSet};

use quorate_ids::Monotonic;

use super::leases::Lease;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The deadlines of all leases. Granting, renewing and finding what is due take O(log n).
#[derive(Clone, Debug, Default)]
pub struct LeaseClock {
    leases: BTreeMap<i64, Timed>,
    deadlines: BTreeSet<(Monotonic, i64)>,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    ttl_seconds: i64,
    /// `None`: its expiry is proposed.
    deadline: Option<Monotonic>,
}

fn deadline_of(ttl_seconds: i64, now: Monotonic) -> Monotonic {
    now.plus(u64::try_from(ttl_seconds).unwrap_or(0).saturating_mul(NANOS_PER_SECOND))
}

impl LeaseClock {
    /// A new leader's clock: every lease has its full TTL from `now` on.
    #[must_use]
    pub fn start(leases: impl IntoIterator<Item = Lease>, now: Monotonic) -> Self {
        let mut clock = Self::default();
        for lease in leases {
            clock.granted(lease.id, lease.ttl_seconds, now);
        }
        clock
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// A grant was applied.
    pub fn granted(&mut self, id: i64, ttl_seconds: i64, now: Monotonic) {
        self.ended(id);
        let deadline = deadline_of(ttl_seconds, now);
        self.leases.insert(id, Timed { ttl_seconds, deadline: Some(deadline) });
        self.deadlines.insert((deadline, id));
    }

    /// A revocation or expiry was applied.
    pub fn ended(&mut self, id: i64) {
        if let Some(Timed { deadline: Some(deadline), .. }) = self.leases.remove(&id) {
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// A keep-alive: the lease's TTL in seconds, counted from `now` on. `None`: there is no such lease, or its expiry
    /// is proposed (see [`Self::is_expiring`]) and the answer waits for that outcome.
    pub fn renew(&mut self, id: i64, now: Monotonic) -> Option<i64> {
        let timed = self.leases.get_mut(&id)?;
        let old = timed.deadline?;
        let deadline = deadline_of(timed.ttl_seconds, now);
        timed.deadline = Some(deadline);
        self.deadlines.remove(&(old, id));
        self.deadlines.insert((deadline, id));
        Some(timed.ttl_seconds)
    }

    /// Whether a lease's expiry was handed out and neither applied nor taken back.
    #[must_use]
    pub fn is_expiring(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|timed| timed.deadline.is_none())
    }

    /// The TTL that a lease was granted for, in seconds; `None`: there is no such lease.
    #[must_use]
    pub fn ttl_seconds(&self, id: i64) -> Option<i64> {
        self.leases.get(&id).map(|timed| timed.ttl_seconds)
    }

    /// Nanoseconds until a lease runs out, 0 where its expiry is proposed; `None`: there is no such lease.
    #[must_use]
    pub fn remaining_nanos(&self, id: i64, now: Monotonic) -> Option<u64> {
        let timed = self.leases.get(&id)?;
        Some(timed.deadline.map_or(0, |deadline| deadline.since(now)))
    }

    /// When [`Self::due`] next has something.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Hands out up to `limit` leases that ran out by `now`, the longest overdue first, once each: the caller proposes
    /// their expiry, and says [`Self::ended`] or [`Self::take_back`] when its outcome is known.
    pub fn due(&mut self, now: Monotonic, limit: usize) -> Vec<i64> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.leases.get_mut(&id).expect("a deadline belongs to a lease").deadline = None;
            due.push(id);
        }
        due
    }

    /// The proposal of this lease's expiry came to nothing: it is due again at `now`.
    pub fn take_back(&mut self, id: i64, now: Monotonic) {
        if let Some(timed) = self.leases.get_mut(&id)
            && timed.deadline.is_none()
        {
            timed.deadline = Some(now);
            self.deadlines.insert((now, id));
        }
    }
}
