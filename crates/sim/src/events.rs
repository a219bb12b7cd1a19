//! What happens next, and proof of what happened.
//!
//! Invariants: time never goes back; of two events at one time, the one that the seed drew first comes first; the hash
//! covers every event that was taken, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::rng::Rng;

struct Queued<E> {
    at: u64,
    tie: u64,
    seq: u64,
    event: E,
}

impl<E> Queued<E> {
    fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.seq)
    }
}

impl<E> PartialEq for Queued<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Queued<E> {}

impl<E> PartialOrd for Queued<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Queued<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Events by virtual time in nanoseconds.
pub struct Events<E> {
    queue: BinaryHeap<Reverse<Queued<E>>>,
    rng: Rng,
    now: u64,
    seq: u64,
}

impl<E> Events<E> {
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self { queue: BinaryHeap::new(), rng, now: 0, seq: 0 }
    }

    /// The time of the event taken last.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// `event` happens at `at`, or now where that has passed.
    pub fn at(&mut self, at: u64, event: E) {
        let tie = self.rng.draw();
        self.seq += 1;
        self.queue.push(Reverse(Queued { at: at.max(self.now), tie, seq: self.seq, event }));
    }

    pub fn after(&mut self, nanos: u64, event: E) {
        self.at(self.now.saturating_add(nanos), event);
    }

    /// Takes the next event and moves time to it.
    pub fn take(&mut self) -> Option<E> {
        let Reverse(next) = self.queue.pop()?;
        assert!(next.at >= self.now, "time went back");
        self.now = next.at;
        Some(next.event)
    }
}

/// A hash over what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHash(u64);

impl Default for EventHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl EventHash {
    pub fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = (mixed ^ (mixed >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.0 ^= self.0 >> 29;
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.number(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.number(u64::from_le_bytes(last));
        self.number(bytes.len() as u64);
    }

    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_ties_by_the_seed() {
        let order = |seed| {
            let mut events = Events::new(Rng::new(seed));
            for i in 0..20u64 {
                events.at(i / 10, i);
            }
            std::iter::from_fn(|| events.take()).collect::<Vec<_>>()
        };
        let first = order(1);
        assert!(first[..10].iter().all(|i| *i < 10));
        assert_eq!(first, order(1));
        assert_ne!(first, order(2));
    }
}
