//! Until when a member that was started again shows nothing of its tables.
//!
//! What an earlier run applied, and showed to whoever read without asking the others, lay in its durable log. How much of
//! that log was committed the log does not tell to the end: a commit index is written with the next batch. So nothing is
//! shown before as much is applied as the log held at the start; what a leader replaces of it meanwhile was never
//! committed, and so never shown.
//!
//! A member that hears of no leader can't come to know the rest. After a while it shows what its log knows to be
//! committed, which may lack the last batches of what it once showed: a lone survivor goes on answering.

use quorate_ids::{LogIndex, Monotonic};

use super::mutants::planted;
use super::open::FOUNDING_INDEX;

/// So many election timeouts without a leader, and a member shows what it knows.
const ALONE_ELECTION_TIMEOUTS: u64 = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Replay {
    /// An earlier run may have shown what is here, and nothing beyond.
    shown_max: LogIndex,
    /// What the log knew to be committed at the start.
    committed: LogIndex,
    /// Since when no leader is known.
    alone_since: Monotonic,
    patience_nanos: u64,
    done: bool,
}

impl Replay {
    /// Of a log that ends at `last` and knows that everything up to `committed` is. Who joins has nothing to show yet.
    pub(super) fn of(
        last: LogIndex,
        committed: LogIndex,
        election_timeout_nanos: u64,
        now: Monotonic,
    ) -> Self {
        Self {
            shown_max: last.max(FOUNDING_INDEX),
            committed: committed.max(FOUNDING_INDEX),
            alone_since: now,
            patience_nanos: ALONE_ELECTION_TIMEOUTS * election_timeout_nanos,
            done: false,
        }
    }

    /// The log is another from `first` on.
    pub(super) fn replaced_from(&mut self, first: LogIndex) {
        self.shown_max = self.shown_max.min(LogIndex(first.0 - 1));
    }

    /// A snapshot took the log's place. One that stands for less than the log held took it because the two differed.
    pub(super) fn replaced_by(&mut self, point: LogIndex) {
        self.shown_max = self.shown_max.min(point);
    }

    /// Whether what is shown from now on may lack what an earlier run showed.
    pub(super) fn lacks(&self, applied: LogIndex) -> bool {
        self.done && applied < self.shown_max
    }

    /// Whether everything that an earlier run may have shown is there again, or will not be known.
    pub(super) fn is_done(&mut self, applied: LogIndex, has_leader: bool, now: Monotonic) -> bool {
        if has_leader {
            self.alone_since = now;
        }
        let alone = now.since(self.alone_since) >= self.patience_nanos && applied >= self.committed;
        self.done |= applied >= self.shown_max || alone || planted!(ShowBeforeReplay);
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: u64 = 100;
    const PATIENCE: Monotonic = Monotonic(ALONE_ELECTION_TIMEOUTS * TIMEOUT);

    fn started() -> Replay {
        Replay::of(LogIndex(20), LogIndex(10), TIMEOUT, Monotonic(0))
    }

    #[test]
    fn with_a_leader_all_that_may_have_been_shown_is_waited_for() {
        let mut replay = started();
        assert!(!replay.is_done(LogIndex(19), true, PATIENCE));
        assert!(replay.is_done(LogIndex(20), true, PATIENCE));
    }

    #[test]
    fn what_a_leader_replaces_is_not_waited_for() {
        let mut replay = started();
        replay.replaced_from(LogIndex(15));
        replay.replaced_from(LogIndex(18));
        assert!(!replay.is_done(LogIndex(13), true, Monotonic(1)));
        assert!(replay.is_done(LogIndex(14), true, Monotonic(1)));
        let mut replay = started();
        replay.replaced_by(LogIndex(12));
        assert!(replay.is_done(LogIndex(12), true, Monotonic(1)));
    }

    #[test]
    fn without_a_leader_what_is_known_to_be_committed_is_shown_after_a_while() {
        let mut replay = started();
        let before = Monotonic(PATIENCE.0 - 1);
        assert!(!replay.is_done(LogIndex(10), false, before));
        assert!(!replay.is_done(LogIndex(9), false, PATIENCE));
        assert!(!replay.lacks(LogIndex(10)), "nothing is shown yet");
        assert!(replay.is_done(LogIndex(10), false, PATIENCE));
        assert!(replay.lacks(LogIndex(10)) && !replay.lacks(LogIndex(20)));
        let mut replay = started();
        assert!(!replay.is_done(LogIndex(10), true, before));
        assert!(!replay.is_done(LogIndex(10), false, PATIENCE), "a leader was there a moment ago");
        assert!(replay.is_done(LogIndex(10), false, PATIENCE.plus(before.0)));
    }

    #[test]
    fn a_founder_shows_at_once_that_there_is_nothing_and_who_joins_waits_for_what_there_is() {
        let founder = &mut Replay::of(FOUNDING_INDEX, FOUNDING_INDEX, TIMEOUT, Monotonic(0));
        assert!(founder.is_done(FOUNDING_INDEX, false, Monotonic(0)));
        let joiner = &mut Replay::of(LogIndex::ZERO, LogIndex::ZERO, TIMEOUT, Monotonic(0));
        assert!(!joiner.is_done(LogIndex::ZERO, false, PATIENCE));
        assert!(joiner.is_done(LogIndex(7), true, PATIENCE));
    }
}
