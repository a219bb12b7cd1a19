//! The time of leases, kept by the leader alone.
//!
//! Invariants: the clock starts once the first entry of the led term is applied, with the full TTL for every lease; a
//! lease is ended only by a command in the log that names the term it was decided in; a keep-alive counts only after a
//! quorum confirmed the leader in the meantime, and one for a lease whose expiry is proposed waits for that outcome.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_ids::{Monotonic, Term};
use quorate_models::keys::{self, Command, LeaseClock, Reply};
use quorate_store::Store;

use super::{LeaseAnswer, LeaseAsk};

/// Leases that one expiry command ends.
const EXPIRED_PER_COMMAND_MAX: usize = 1000;
/// Leases read under one hold of the tables' lock.
const LEASES_PER_HOLD_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct LeaseKeeper {
    term: Term,
    clock: Option<LeaseClock>,
    undecided: BTreeMap<i64, Vec<LeaseAsk>>,
}

impl LeaseKeeper {
    /// This member leads `term`.
    #[must_use]
    pub fn new(term: Term) -> Self {
        Self { term, clock: None, undecided: BTreeMap::new() }
    }

    /// What no leader may do: the clock of an earlier term knows nothing of what was renewed since.
    pub(super) fn goes_on_in(&mut self, term: Term) {
        self.term = term;
    }

    /// What no leader may do either: an expiry of an earlier term, as if it were decided in `term`.
    pub(super) fn decided_in(term: Term, expiry: &Bytes) -> Bytes {
        match keys::decode(expiry) {
            Ok(Command::LeaseExpire { ids, .. }) => keys::encode(&Command::LeaseExpire { term, ids }),
            _ => expiry.clone(),
        }
    }

    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// An entry of `term` is applied: if it is the first of the led term, the clock starts.
    pub fn applied(&mut self, term: Term, store: &Store, now: Monotonic) {
        if self.clock.is_some() || term != self.term {
            return;
        }
        let mut clock = LeaseClock::default();
        let mut after = None;
        loop {
            let leases = keys::leases(&store.read(), after, LEASES_PER_HOLD_MAX);
            let Some(last) = leases.last() else { break };
            after = Some(last.id);
            leases.iter().for_each(|lease| clock.granted(lease.id, lease.ttl_seconds, now));
        }
        self.clock = Some(clock);
    }

    /// A command was applied; what it says of leases, and the questions that this decides.
    pub fn saw(&mut self, command: &Command, reply: &Reply, now: Monotonic) -> Vec<(LeaseAsk, LeaseAnswer)> {
        let Some(clock) = &mut self.clock else { return Vec::new() };
        match (command, reply) {
            (Command::LeaseGrant { .. }, Reply::LeaseGrant { id, ttl_seconds, .. }) => {
                clock.granted(*id, *ttl_seconds, now);
                Vec::new()
            }
            (Command::LeaseRevoke { id }, Reply::LeaseRevoke { .. }) => {
                clock.ended(*id);
                self.decided(*id, now)
            }
            (Command::LeaseExpire { ids, .. }, Reply::LeaseExpire { expired, .. }) => {
                for id in ids {
                    if expired.contains(id) {
                        clock.ended(*id);
                    } else {
                        clock.take_back(*id, now);
                    }
                }
                ids.iter().flat_map(|id| self.decided(*id, now)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn decided(&mut self, id: i64, now: Monotonic) -> Vec<(LeaseAsk, LeaseAnswer)> {
        let asks = self.undecided.remove(&id).unwrap_or_default();
        asks.into_iter().filter_map(|ask| Some((ask, self.ask(ask, now)?))).collect()
    }

    /// Answers a question whose leadership was confirmed; `None`: it is answered by a later [`Self::saw`].
    pub fn ask(&mut self, ask: LeaseAsk, now: Monotonic) -> Option<LeaseAnswer> {
        let clock = self.clock.as_mut()?;
        if clock.is_expiring(ask.lease) {
            self.undecided.entry(ask.lease).or_default().push(ask);
            return None;
        }
        if ask.renew && clock.renew(ask.lease, now).is_none() {
            return Some(LeaseAnswer::Missing);
        }
        let alive = clock.ttl_seconds(ask.lease).zip(clock.remaining_nanos(ask.lease, now));
        Some(alive.map_or(LeaseAnswer::Missing, |(ttl_seconds, remaining_nanos)| LeaseAnswer::Alive {
            ttl_seconds,
            remaining_nanos,
        }))
    }

    /// True once the clock runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.clock.is_some()
    }

    /// When a lease runs out next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.clock.as_ref()?.next_deadline()
    }

    /// The command that ends what ran out by `now`.
    pub fn due(&mut self, now: Monotonic) -> Option<Bytes> {
        let ids = self.clock.as_mut()?.due(now, EXPIRED_PER_COMMAND_MAX);
        (!ids.is_empty()).then(|| keys::encode(&Command::LeaseExpire { term: self.term, ids }))
    }
}
