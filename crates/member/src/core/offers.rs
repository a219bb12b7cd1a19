//! Snapshots that were offered to followers, as their leader sees them.
//!
//! A leader sends nothing else to a follower until it hears what became of the offer, and what would tell it can be
//! lost: the follower crashes in the middle of its fetching, a connection breaks with the answer on it. Invariant: a
//! follower that is not heard fetching for [`SILENCE_NANOS_MAX`] is offered a snapshot anew.

use std::collections::BTreeMap;

use quorate_ids::{MemberId, Monotonic};

/// More than twice what a receiver waits before it asks again for a chunk that does not come.
const SILENCE_NANOS_MAX: u64 = 5_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Offers {
    heard: BTreeMap<MemberId, Monotonic>,
}

impl Offers {
    /// `member` asked for a part of the snapshot.
    pub fn heard(&mut self, member: MemberId, now: Monotonic) {
        if let Some(last) = self.heard.get_mut(&member) {
            *last = now;
        }
    }

    /// Which of the followers that have an open offer were silent for too long. Call it regularly.
    pub fn silent(&mut self, open: impl Iterator<Item = MemberId>, now: Monotonic) -> Vec<MemberId> {
        let before = std::mem::take(&mut self.heard);
        let mut silent = Vec::new();
        for member in open {
            let last = before.get(&member).copied().unwrap_or(now);
            if now.since(last) > SILENCE_NANOS_MAX {
                silent.push(member);
            } else {
                self.heard.insert(member, last);
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_that_fetches_keeps_its_offer_and_a_silent_one_gets_another() {
        let (fetching, silent) = (MemberId(1), MemberId(2));
        let mut offers = Offers::default();
        let at = |seconds: u64| Monotonic(seconds * 1_000_000_000);
        for second in 0..=5 {
            assert!(offers.silent([fetching, silent].into_iter(), at(second)).is_empty());
            offers.heard(fetching, at(second));
        }
        assert_eq!(offers.silent([fetching, silent].into_iter(), at(6)), [silent]);
        assert!(offers.silent([fetching, silent].into_iter(), at(7)).is_empty(), "its time starts anew");
    }
}
