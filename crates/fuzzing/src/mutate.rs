//! Mutations of an input that are the same at every run.

/// A small generator of numbers (SplitMix64): what it draws depends on the seed alone.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.number() % bound as u64) as usize }
    }
}

/// Numbers at which lengths and counts tend to break.
const EDGES: [u64; 14] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// `input`, changed in one to four places; `other` is what pieces are taken from.
#[must_use]
pub fn mutated(input: &[u8], other: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=draws.below(4) {
        change(&mut bytes, other, draws);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], draws: &mut Draws) {
    let at = draws.below(bytes.len());
    let len = 1 + draws.below(16);
    let end = (at + len).min(bytes.len());
    match draws.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << draws.below(8),
        1 if !bytes.is_empty() => bytes[at] = draws.number() as u8,
        2 => overwrite(bytes, at, 4, draws),
        3 => overwrite(bytes, at, 8, draws),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        6 => bytes.truncate(at),
        7 => {
            let from = draws.below(other.len());
            let piece = other[from..(from + len).min(other.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => bytes.insert(at, draws.number() as u8),
    }
}

/// An edge, in four or eight bytes of either order.
fn overwrite(bytes: &mut [u8], at: usize, width: usize, draws: &mut Draws) {
    let edge = EDGES[draws.below(EDGES.len())];
    let (little, big) = (edge.to_le_bytes(), edge.to_be_bytes());
    let edge = if draws.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
    for (byte, new) in bytes[at..].iter_mut().zip(edge) {
        *byte = *new;
    }
}
