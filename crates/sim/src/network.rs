//! A hostile network: each frame between two members gets a fate.
//!
//! What crosses a *loose* lane (Raft messages, which must survive anything) may be lost, delayed, doubled, reordered or
//! corrupted. What crosses a *strict* lane (forwarded requests, snapshot transfers: one TCP connection each) keeps its
//! order; where it would be lost or corrupted the connection breaks, and everything under way on it is gone.
//!
//! Invariants: a frame that was sent while its link was cut is never delivered; fates depend on the seed alone.

use std::collections::BTreeMap;

use crate::rng::{Ppm, Rng};

/// Chances per frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkFaults {
    pub loss: Ppm,
    pub duplicate: Ppm,
    pub corrupt: Ppm,
    /// A frame that takes up to `late_nanos_max` longer: what overtakes it is reordered.
    pub late: Ppm,
    pub late_nanos_max: u64,
}

/// What happened on the network so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    pub sent: u64,
    pub lost: u64,
    pub cut: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    pub late: u64,
    pub broken: u64,
    pub partitions: u64,
}

impl NetworkCounts {
    /// Faults by kind, for tables.
    #[must_use]
    pub fn faults(&self) -> [(&'static str, u64); 7] {
        [
            ("network: frame lost", self.lost),
            ("network: frame into a cut link", self.cut),
            ("network: frame doubled", self.duplicated),
            ("network: frame corrupted", self.corrupted),
            ("network: frame late", self.late),
            ("network: connection broken", self.broken),
            ("network: partition", self.partitions),
        ]
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at these times (one or two).
    Arrives {
        at: u64,
        again_at: Option<u64>,
    },
    /// It arrives with this bit flipped.
    Corrupt {
        at: u64,
        bit: u64,
    },
    Lost,
    /// The strict connection breaks: the sender learns of it at this time.
    Broken {
        known_at: u64,
    },
}

#[derive(Clone, Copy, Default)]
struct Link {
    cut: bool,
    /// Period of a flapping link, 0 for none: open and cut by turns.
    flap_nanos: u64,
    extra_delay_nanos: u64,
}

/// The links between all members, by number.
pub struct SimNetwork {
    rng: Rng,
    links: BTreeMap<(usize, usize), Link>,
    /// Of each strict connection: when its last frame arrives, and how often it broke.
    strict: BTreeMap<(usize, usize, u8), (u64, u64)>,
    pub faults: NetworkFaults,
    pub counts: NetworkCounts,
    base_delay_nanos: u64,
}

impl SimNetwork {
    #[must_use]
    pub fn new(rng: Rng, base_delay_nanos: u64) -> Self {
        Self {
            rng,
            links: BTreeMap::new(),
            strict: BTreeMap::new(),
            faults: NetworkFaults::default(),
            counts: NetworkCounts::default(),
            base_delay_nanos,
        }
    }

    #[must_use]
    pub fn is_cut(&self, now: u64, from: usize, to: usize) -> bool {
        self.links
            .get(&(from, to))
            .is_some_and(|link| link.cut || link.flap_nanos > 0 && (now / link.flap_nanos) % 2 == 1)
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.links.entry((from, to)).or_default().cut = true;
    }

    /// Opens and cuts one direction by turns.
    pub fn flap(&mut self, from: usize, to: usize, period_nanos: u64) {
        self.links.entry((from, to)).or_default().flap_nanos = period_nanos;
    }

    pub fn slow(&mut self, from: usize, to: usize, extra_delay_nanos: u64) {
        self.links.entry((from, to)).or_default().extra_delay_nanos = extra_delay_nanos;
    }

    /// Every link is open and fast again.
    pub fn heal(&mut self) {
        self.links.clear();
    }

    /// How often the strict connection broke: what was sent before the last break must not be delivered.
    #[must_use]
    pub fn breaks(&self, from: usize, to: usize, lane: u8) -> u64 {
        self.strict.get(&(from, to, lane)).map_or(0, |(_, breaks)| *breaks)
    }

    /// Breaks all strict connections of a member (it crashed or was paused for long).
    pub fn break_all(&mut self, member: usize) {
        for ((from, to, _), (_, breaks)) in &mut self.strict {
            if *from == member || *to == member {
                *breaks += 1;
            }
        }
    }

    /// Breaks one strict connection.
    pub fn break_one(&mut self, from: usize, to: usize, lane: u8) {
        self.strict.entry((from, to, lane)).or_default().1 += 1;
        self.counts.broken += 1;
    }

    /// Decides over a frame of `len` bytes.
    pub fn send(&mut self, now: u64, from: usize, to: usize, lane: u8, strict: bool, len: usize) -> Fate {
        self.counts.sent += 1;
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        // 10 Gbit/s and a queue's worth of jitter.
        let mut delay = self.base_delay_nanos + self.rng.exponential(self.base_delay_nanos / 2 + 1);
        delay += link.extra_delay_nanos + len as u64;
        if self.rng.chance(self.faults.late) {
            self.counts.late += 1;
            delay += self.rng.below(self.faults.late_nanos_max.max(1));
        }
        let cut = self.is_cut(now, from, to);
        let lost = cut || self.rng.chance(self.faults.loss);
        let corrupt = !lost && self.rng.chance(self.faults.corrupt);
        self.counts.cut += u64::from(cut);
        self.counts.lost += u64::from(lost && !cut);
        self.counts.corrupted += u64::from(corrupt);
        if strict {
            let (last, _) = self.strict.entry((from, to, lane)).or_default();
            *last = (now + delay).max(*last + 1);
            let at = *last;
            if lost {
                self.break_one(from, to, lane);
                return Fate::Broken { known_at: now + delay };
            }
            return if corrupt { self.corrupt(at, len) } else { Fate::Arrives { at, again_at: None } };
        }
        if lost {
            return Fate::Lost;
        }
        if corrupt {
            return self.corrupt(now + delay, len);
        }
        let again = self.rng.chance(self.faults.duplicate);
        self.counts.duplicated += u64::from(again);
        let again_at = again.then(|| now + delay + self.rng.below(self.faults.late_nanos_max.max(1_000_000)));
        Fate::Arrives { at: now + delay, again_at }
    }

    fn corrupt(&mut self, at: u64, len: usize) -> Fate {
        Fate::Corrupt { at, bit: self.rng.below(len.max(1) as u64 * 8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_connection_keeps_order_and_breaks_instead_of_losing() {
        let mut network = SimNetwork::new(Rng::new(1), 100_000);
        network.faults = NetworkFaults {
            loss: Ppm(100_000),
            duplicate: Ppm(500_000),
            late: Ppm(500_000),
            late_nanos_max: 50_000_000,
            ..NetworkFaults::default()
        };
        let (mut last, mut broken) = (0, 0);
        for now in (0..1_000_000).step_by(1_000) {
            match network.send(now, 0, 1, 2, true, 100) {
                Fate::Arrives { at, again_at } => {
                    assert!(at > last && again_at.is_none());
                    last = at;
                }
                Fate::Broken { .. } => broken += 1,
                fate => panic!("{fate:?}"),
            }
        }
        assert!(broken > 50 && network.breaks(0, 1, 2) == broken, "{broken}");
    }

    #[test]
    fn a_cut_has_a_direction_and_a_flapping_link_opens_again() {
        let mut network = SimNetwork::new(Rng::new(1), 100_000);
        network.cut(0, 1);
        assert_eq!(network.send(0, 0, 1, 0, false, 10), Fate::Lost);
        assert!(matches!(network.send(0, 1, 0, 0, false, 10), Fate::Arrives { .. }));
        network.heal();
        network.flap(0, 1, 1_000);
        assert!(!network.is_cut(500, 0, 1) && network.is_cut(1_500, 0, 1) && !network.is_cut(2_500, 0, 1));
    }
}
