//! The hash of a row, summed up to the multiset hash of a table.
//!
//! It is compared between members and stored in manifests, so it is part of the format: see `docs/formats/store.md`.
//! It detects divergence; it resists no adversary.

const LOW: u64 = 0x9e37_79b9_7f4a_7c15;
const HIGH: u64 = 0xd6e8_feb8_6659_fd93;

/// 64 x 64 -> 128 bit multiplication, both halves folded together.
fn fold(value: u64, by: u64) -> u64 {
    let product = u128::from(value) * u128::from(by);
    (product as u64) ^ (product >> 64) as u64
}

struct Mixer {
    low: u64,
    high: u64,
}

impl Mixer {
    fn word(&mut self, word: u64) {
        // The additions make a zero word, or a state of zero, move the state on.
        self.low = fold(self.low ^ word, LOW).wrapping_add(HIGH).rotate_left(23) ^ word;
        self.high =
            fold(self.high.wrapping_add(word.rotate_left(32)), HIGH).wrapping_add(LOW).rotate_left(29);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut word = [0u8; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(word));
        }
    }
}

/// Every bit of the input moves every bit of the output with a probability near one half.
fn avalanche(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(HIGH);
    x ^= x >> 32;
    x = x.wrapping_mul(LOW);
    x ^ (x >> 32)
}

/// 128 bits of `key` and `row`. Both lengths go in first, so no two pairs read the same.
pub(crate) fn row_hash(key: &[u8], row: &[u8]) -> u128 {
    let mut mixer = Mixer { low: LOW, high: HIGH };
    mixer.word((key.len() as u64) << 32 | row.len() as u64);
    mixer.bytes(key);
    mixer.bytes(row);
    let low = avalanche(mixer.low ^ mixer.high.rotate_left(17));
    let high = avalanche(mixer.high.wrapping_add(low));
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_single_changed_bit_changes_about_half_of_the_hash() {
        let base = row_hash(b"some/key/0001", b"\x01\x02\x03\x04row");
        for bit in 0..13 * 8 {
            let mut key = *b"some/key/0001";
            key[bit / 8] ^= 1 << (bit % 8);
            let changed = (row_hash(&key, b"\x01\x02\x03\x04row") ^ base).count_ones();
            assert!((35..=93).contains(&changed), "bit {bit} changed {changed} bits");
        }
    }

    #[test]
    fn moving_bytes_between_key_and_row_changes_the_hash() {
        let splits: BTreeSet<u128> = (0..=16).map(|at| row_hash(&[0; 16][..at], &[0; 16][at..])).collect();
        assert_eq!(splits.len(), 17);
    }

    #[test]
    fn halves_of_many_similar_rows_never_collide() {
        let (mut low, mut high) = (BTreeSet::new(), BTreeSet::new());
        for n in 0u64..100_000 {
            let hash = row_hash(&n.to_be_bytes(), &n.to_le_bytes());
            low.insert(hash as u64);
            high.insert((hash >> 64) as u64);
        }
        assert_eq!((low.len(), high.len()), (100_000, 100_000));
    }

    #[test]
    fn the_hash_is_the_one_that_the_format_names() {
        // Computed from `docs/formats/store.md` by another program.
        assert_eq!(row_hash(b"", b""), 0x5397_c4e3_baf3_f561_4704_feea_5594_32c6);
        assert_eq!(row_hash(b"some/key/0001", b"a row"), 0xfa33_cc87_6cec_f3d1_916b_a0db_adb5_14bd);
    }
}
