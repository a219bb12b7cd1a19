//! Members compare what their tables hold, all the time.
//!
//! At every [`COMPARE_EVERY`]th log index each member tells the others a hash over its tables and over all commands that
//! it ever applied. Invariants: only hashes of the same index are compared; a member whose hash differs from one that a
//! majority of voters shares is wrong and must stop serving; memory is bounded.

use std::collections::{BTreeMap, VecDeque};

use quorate_ids::{LogIndex, MemberId};

/// Hashes are compared at log indexes that this divides.
pub const COMPARE_EVERY: u64 = 1024;
/// Indexes of which hashes are remembered: members that lag by more are compared later.
const INDEXES_MAX: usize = 64;

/// What a comparison showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// A majority of voters agrees, and not with this member.
    Mine { index: LogIndex },
    /// This member and that one differ.
    Theirs { index: LogIndex, member: MemberId },
}

/// See the module.
#[derive(Debug, Default)]
pub struct Comparison {
    told: VecDeque<(LogIndex, BTreeMap<MemberId, u64>)>,
}

impl Comparison {
    /// Takes in what `member` has at `index`, and compares.
    pub fn tell(
        &mut self,
        index: LogIndex,
        member: MemberId,
        hash: u64,
        me: MemberId,
        voters: &[MemberId],
    ) -> Option<Divergence> {
        let place = self.told.partition_point(|(known, _)| *known < index);
        if self.told.get(place).is_none_or(|(known, _)| *known != index) {
            if self.told.len() >= INDEXES_MAX {
                if place == 0 {
                    return None;
                }
                self.told.pop_front();
                return self.tell(index, member, hash, me, voters);
            }
            self.told.insert(place, (index, BTreeMap::new()));
        }
        let hashes = &mut self.told[place].1;
        hashes.insert(member, hash);
        let mine = *hashes.get(&me)?;
        let majority = voters.len() / 2 + 1;
        let shared_by = |hash: u64| voters.iter().filter(|voter| hashes.get(voter) == Some(&hash)).count();
        if hashes.values().any(|theirs| *theirs != mine && shared_by(*theirs) >= majority) {
            return Some(Divergence::Mine { index });
        }
        (member != me && hash != mine).then_some(Divergence::Theirs { index, member })
    }

    /// Forgets everything: a snapshot took the tables' place.
    pub fn clear(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [MemberId; 3] = [MemberId(1), MemberId(2), MemberId(3)];

    fn tell(comparison: &mut Comparison, index: u64, member: u64, hash: u64) -> Option<Divergence> {
        comparison.tell(LogIndex(index), MemberId(member), hash, MemberId(1), &VOTERS)
    }

    #[test]
    fn equal_members_say_nothing_whatever_the_order() {
        let mut comparison = Comparison::default();
        for (index, member) in [(1024, 2), (1024, 3), (2048, 3), (1024, 1), (2048, 1), (2048, 2)] {
            assert_eq!(tell(&mut comparison, index, member, index), None);
        }
    }

    #[test]
    fn a_member_that_a_majority_contradicts_is_wrong() {
        let mut comparison = Comparison::default();
        assert_eq!(tell(&mut comparison, 1024, 1, 7), None);
        let other = Divergence::Theirs { index: LogIndex(1024), member: MemberId(2) };
        assert_eq!(tell(&mut comparison, 1024, 2, 8), Some(other));
        assert_eq!(tell(&mut comparison, 1024, 3, 8), Some(Divergence::Mine { index: LogIndex(1024) }));
    }

    #[test]
    fn a_member_that_the_majority_does_not_share_is_named_and_this_one_goes_on() {
        let mut comparison = Comparison::default();
        assert_eq!(tell(&mut comparison, 1024, 3, 9), None);
        assert_eq!(tell(&mut comparison, 1024, 2, 8), None);
        assert_eq!(tell(&mut comparison, 1024, 1, 8), None);
        let other = Divergence::Theirs { index: LogIndex(1024), member: MemberId(3) };
        assert_eq!(tell(&mut comparison, 1024, 3, 9), Some(other));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stays() {
        let mut comparison = Comparison::default();
        for round in 1..1000 {
            tell(&mut comparison, round * COMPARE_EVERY, 2, round);
        }
        assert_eq!(comparison.told.len(), INDEXES_MAX);
        assert_eq!(tell(&mut comparison, 999 * COMPARE_EVERY, 3, 999), None);
        assert_eq!(
            tell(&mut comparison, 999 * COMPARE_EVERY, 1, 1),
            Some(Divergence::Mine { index: LogIndex(999 * COMPARE_EVERY) })
        );
    }
}
