//! The readies that were handed out and are not yet durable.
//!
//! Invariant: numbers ascend; `durable` is the term and vote of the last hard state that is known to be durable.

use std::collections::VecDeque;

use quorate_ids::LogIndex;

/// A term, and the vote in it (0: none).
pub(crate) type TermAndVote = (u64, u64);

/// What must become durable of one ready.
#[derive(Clone, Debug)]
pub(crate) struct Unpersisted {
    pub(crate) number: u64,
    pub(crate) term_and_vote: Option<TermAndVote>,
    pub(crate) changes_log: bool,
    pub(crate) snapshot: Option<LogIndex>,
    pub(crate) must_sync: bool,
    pub(crate) since_tick: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    readies: VecDeque<Unpersisted>,
    durable: TermAndVote,
    last_number: u64,
}

impl Outstanding {
    pub(crate) fn new(durable: TermAndVote) -> Self {
        Self { readies: VecDeque::new(), durable, last_number: 0 }
    }

    pub(crate) fn push(&mut self, ready: Unpersisted) {
        assert!(ready.number > self.last_number, "ready numbers ascend");
        self.last_number = ready.number;
        self.readies.push_back(ready);
    }

    /// Everything up to `number` is durable. Returns the last snapshot among it.
    pub(crate) fn persisted(&mut self, number: u64) -> Option<LogIndex> {
        assert!(
            number <= self.last_number,
            "ready {number} was never handed out (last: {})",
            self.last_number
        );
        let mut snapshot = None;
        while self.readies.front().is_some_and(|ready| ready.number <= number) {
            let ready = self.readies.pop_front().expect("just seen");
            self.durable = ready.term_and_vote.unwrap_or(self.durable);
            snapshot = ready.snapshot.or(snapshot);
        }
        snapshot
    }

    /// The term and vote that are durable.
    pub(crate) fn durable(&self) -> TermAndVote {
        self.durable
    }

    /// Whether entries or a snapshot are on their way to the disk.
    pub(crate) fn log_on_its_way(&self) -> bool {
        self.readies.iter().any(|ready| ready.changes_log)
    }

    /// Whether a snapshot is on its way to the disk.
    pub(crate) fn snapshot_on_its_way(&self) -> bool {
        self.readies.iter().any(|ready| ready.snapshot.is_some())
    }

    pub(crate) fn len(&self) -> usize {
        self.readies.len()
    }

    /// The tick at which the oldest ready that needs a sync was handed out.
    pub(crate) fn oldest_sync_tick(&self) -> Option<u64> {
        self.readies.iter().find(|ready| ready.must_sync).map(|ready| ready.since_tick)
    }
}
