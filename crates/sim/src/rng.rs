//! The one source of chance: a small generator (xoshiro256++) that depends on its seed and nothing else.
//!
//! Invariant: two generators made from one seed give the same numbers for ever, on every platform. Each part of a
//! world has its own [`Rng::fork`], so that one more draw in one part does not change what another part sees.

/// A seeded stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// A chance in parts of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ppm(pub u32);

impl Rng {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut seeds = seed;
        Self { state: std::array::from_fn(|_| splitmix(&mut seeds)) }
    }

    /// A stream of its own, which depends on this one's state and on `label`.
    pub fn fork(&mut self, label: u64) -> Self {
        Self::new(self.draw() ^ label.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn draw(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let out = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        out
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "an empty range has no number");
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// A number in `[from, to]`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        assert!(from <= to);
        from + self.below((to - from).saturating_add(1))
    }

    pub fn chance(&mut self, chance: Ppm) -> bool {
        chance.0 > 0 && self.below(1_000_000) < u64::from(chance.0)
    }

    /// True once in `n` calls on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// An exponentially distributed number with this mean: waiting times.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let unit = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - unit).ln() * mean as f64) as u64
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_stream_and_another_seed_another() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..8).map(|_| rng.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn chances_and_ranges_keep_their_bounds() {
        let mut rng = Rng::new(3);
        assert!((0..1000).all(|_| (5..=9).contains(&rng.between(5, 9))));
        assert!(!(0..1000).any(|_| rng.chance(Ppm(0))));
        assert!((0..1000).all(|_| rng.chance(Ppm(1_000_000))));
        let hits = (0..100_000).filter(|_| rng.chance(Ppm(100_000))).count();
        assert!((9_000..11_000).contains(&hits), "{hits}");
    }
}
