//! What the log's records add up to. The writer and recovery run the same rules over the same records, so recovery
//! accepts exactly what an append accepts.

use quorate_ids::{LogIndex, Term};

use crate::format::Content;
use crate::{HardState, RestartPoint};

/// The sum of all records up to some place in the log.
///
/// Invariant: `restart.index <= released_through <= last_index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub hard_state: HardState,
    pub restart: RestartPoint,
    pub store_generation: u64,
    /// The newest entry, or what stands in its place: the restart point.
    pub last_index: LogIndex,
    pub last_term: Term,
    /// Entries up to here are no longer needed. The log may still hold some of them.
    pub released_through: LogIndex,
}

impl State {
    pub fn new(store_generation: u64) -> Self {
        Self {
            hard_state: HardState::default(),
            restart: RestartPoint::default(),
            store_generation,
            last_index: LogIndex::ZERO,
            last_term: Term::ZERO,
            released_through: LogIndex::ZERO,
        }
    }

    /// Takes the next record in, or says which index is wrong with it and why.
    pub fn take(&mut self, content: &Content<'_>) -> Result<(), (LogIndex, &'static str)> {
        match *content {
            Content::HardState(hard_state) => self.hard_state = hard_state,
            Content::Entry { index, term, .. } => {
                if index <= self.released_through {
                    return Err((index, "an entry cannot replace one that was released"));
                }
                if index.0 - 1 > self.last_index.0 {
                    return Err((index, "an entry must follow the last one or replace one"));
                }
                self.last_index = index;
                self.last_term = term;
            }
            Content::Restart { point, store_generation } => {
                if point.index < self.released_through {
                    return Err((point.index, "a log cannot restart before entries that were released"));
                }
                if point.index.0 == u64::MAX {
                    return Err((point.index, "no entry can follow this index"));
                }
                self.restart = point;
                self.store_generation = store_generation;
                self.last_index = point.index;
                self.last_term = point.term;
                self.released_through = point.index;
            }
            Content::Release { through, .. } => self.release(through)?,
            Content::Mark | Content::Start | Content::Seal => {}
        }
        Ok(())
    }

    /// Notes that entries up to `through` are no longer needed.
    pub fn release(&mut self, through: LogIndex) -> Result<(), (LogIndex, &'static str)> {
        if through > self.last_index {
            return Err((through, "entries that the log does not hold cannot be released"));
        }
        self.released_through = self.released_through.max(through);
        Ok(())
    }

    /// False where the fields contradict each other.
    pub fn is_consistent(&self) -> bool {
        self.restart.index <= self.released_through
            && self.released_through <= self.last_index
            && self.last_index.0 < u64::MAX
    }
}
