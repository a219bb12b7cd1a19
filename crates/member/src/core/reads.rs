//! Linearizable reads: at most one quorum round is in flight, every read that comes meanwhile shares the next.
//!
//! Invariant: a read is answered only by a round that started after the read arrived. A round's token is never used
//! again, by this run of the member or another.

use quorate_ids::Monotonic;

#[derive(Debug)]
struct Round<T> {
    token: u64,
    reads: Vec<T>,
    since: Monotonic,
}

/// See the module.
#[derive(Debug)]
pub struct Reads<T> {
    waiting: Vec<T>,
    round: Option<Round<T>>,
    start: u64,
    rounds: u64,
    count_max: usize,
}

impl<T> Reads<T> {
    /// `start` is new at every start of the member.
    #[must_use]
    pub fn new(start: u64, count_max: usize) -> Self {
        Self { waiting: Vec::new(), round: None, start, rounds: 0, count_max }
    }

    /// Takes a read in; false where too many wait.
    #[must_use]
    pub fn accept(&mut self, read: T) -> bool {
        let fits = self.waiting.len() < self.count_max;
        if fits {
            self.waiting.push(read);
        }
        fits
    }

    /// True where a round could start: none is in flight and a read waits.
    #[must_use]
    pub fn wants_round(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    /// Starts a round for all that wait; returns its token.
    pub fn begin(&mut self, now: Monotonic) -> u64 {
        assert!(self.wants_round());
        self.rounds += 1;
        let token = spread(self.start ^ spread(self.rounds));
        self.round = Some(Round { token, reads: std::mem::take(&mut self.waiting), since: now });
        token
    }

    /// The round with this token has its index; the reads that it answers. A stale token answers nothing.
    pub fn answered(&mut self, token: u64) -> Vec<T> {
        match self.round.take_if(|round| round.token == token) {
            Some(round) => round.reads,
            None => Vec::new(),
        }
    }

    /// Ends a round that started before `limit`, or any with `limit` of `None`: its reads share the next.
    pub fn give_up_round(&mut self, limit: Option<Monotonic>) {
        let lapsed = |round: &mut Round<T>| limit.is_none_or(|limit| round.since < limit);
        if let Some(round) = self.round.take_if(lapsed) {
            let later = std::mem::replace(&mut self.waiting, round.reads);
            self.waiting.extend(later);
        }
    }

    /// Gives up every read.
    pub fn give_up_all(&mut self) -> Vec<T> {
        self.give_up_round(None);
        std::mem::take(&mut self.waiting)
    }
}

/// A bijection on 64 bits (the finisher of SplitMix64): distinct rounds of a run get distinct tokens.
fn spread(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_come_during_a_round_share_the_next() {
        let mut reads = Reads::new(1, 8);
        assert!(reads.accept(1));
        let first = reads.begin(Monotonic(0));
        assert!(reads.accept(2));
        assert!(reads.accept(3));
        assert!(!reads.wants_round());
        assert_eq!(reads.answered(first), vec![1]);
        let second = reads.begin(Monotonic(1));
        assert_eq!(reads.answered(first), Vec::<u64>::new());
        assert_eq!(reads.answered(second), vec![2, 3]);
    }

    #[test]
    fn a_round_without_an_answer_is_tried_again_under_a_new_token() {
        let mut reads = Reads::new(1, 8);
        assert!(reads.accept(1));
        let first = reads.begin(Monotonic(0));
        reads.give_up_round(Some(Monotonic(0)));
        assert!(!reads.wants_round(), "not old enough");
        reads.give_up_round(Some(Monotonic(1)));
        let second = reads.begin(Monotonic(2));
        assert_ne!(first, second);
        assert_eq!(reads.answered(first), Vec::<u64>::new());
        assert_eq!(reads.answered(second), vec![1]);
    }
}
