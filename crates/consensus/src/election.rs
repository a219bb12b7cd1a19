//! Election timeouts from a seed.
//!
//! The `raft` crate draws its timeout from a thread-local generator whenever a member changes role, leader or term. We
//! draw our own at exactly those changes and put it in place after every call, so its draw is never used.

/// A small deterministic generator (SplitMix64, Steele et al. 2014). Good enough to spread elections; nothing secret.
#[derive(Clone, Debug)]
pub(crate) struct ElectionTimeouts {
    state: u64,
    election_timeout_ticks: usize,
}

impl ElectionTimeouts {
    pub(crate) fn new(seed: u64, member: u64, election_timeout_ticks: usize) -> Self {
        assert!(election_timeout_ticks > 0, "checked by Config::validate");
        Self { state: seed ^ member.rotate_left(32), election_timeout_ticks }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A timeout in ticks, in `[n, 2n)`.
    pub(crate) fn draw(&mut self) -> usize {
        let n = self.election_timeout_ticks as u64;
        self.election_timeout_ticks + usize::try_from(self.next() % n).expect("less than a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::ElectionTimeouts;

    #[test]
    fn the_same_seed_gives_the_same_timeouts_within_bounds() {
        let mut a = ElectionTimeouts::new(7, 1, 10);
        let mut b = ElectionTimeouts::new(7, 1, 10);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let drawn = a.draw();
            assert_eq!(drawn, b.draw());
            assert!((10..20).contains(&drawn));
            seen.insert(drawn);
        }
        assert_eq!(seen.len(), 10, "every timeout comes up");
    }
}
