//! Files that turn out to be damaged while the member runs, and how it gets rid of them without stopping.
//!
//! Nobody may read a damaged part for a long time: dead records, padding, the index that is read at a start alone. But
//! who is sent the file refuses it, and the next start refuses it too. What such a file is needed for is all known here,
//! so it is written anew. Invariants:
//!
//! - A condemned segment is rewritten as any other is (see `rewrite`), before all others and however much of it is
//!   alive: what can't be read of it is mended from peers first. It goes with a checkpoint.
//! - A damaged run makes the whole index be written anew: every row is put among the changes of the fronts once, in
//!   slices. A key that changes meanwhile has its newer change in a newer run. Once the last slice is durable, all runs
//!   from before the first slice say nothing that a newer one does not say, and go with that checkpoint.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use crate::checkpoint::Keeper;
use crate::config::{run_name, segment_name};
use crate::{MergeStep, Store, StoreError, TableId, Tables};

/// What is known to be damaged. Held for an instant, with no other lock taken under it.
#[derive(Default)]
pub(crate) struct Suspects {
    /// Segments with records that only a peer can mend: not rewritten before that.
    pub(crate) unmended: BTreeSet<u32>,
    /// Segments that are not what the manifest says.
    pub(crate) condemned: BTreeSet<u32>,
    /// A run is not what the manifest says: the index is to be written anew.
    pub(crate) index: bool,
}

/// Writing the index anew, from step to step.
pub(crate) struct Reindexing {
    /// Runs before this one go.
    runs_from: u64,
    table: TableId,
    key: Vec<u8>,
}

/// Rows that one step puts among the changes.
const ROWS_PER_STEP: usize = 64 * ROWS_PER_LOCK;
/// Rows put among the changes in one hold of the write lock.
const ROWS_PER_LOCK: usize = 256;

impl Store {
    pub(crate) fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.shared.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of the durable checkpoint, by its name in an export, is not what the manifest says: what it is needed for
    /// is written anew, and it goes with a coming checkpoint. False where that is known already, or the file has gone.
    pub fn condemn(&self, name: &str) -> bool {
        let durable = self.durable();
        if durable.runs.iter().any(|run| run_name(run.number) == name) {
            return !std::mem::replace(&mut self.suspects().index, true);
        }
        let Some(&number) = durable.segments.keys().find(|&&number| segment_name(number) == name) else {
            return false;
        };
        {
            let mut tables = self.write();
            if tables.tail.is_some_and(|(tail, _)| tail == number) {
                // Nothing more is added to it: once its last extent is durable it can be rewritten.
                tables.tail = None;
            }
        }
        let mut suspects = self.suspects();
        // What could not be mended before is tried again.
        suspects.unmended.remove(&number);
        suspects.condemned.insert(number)
    }

    /// The index turned out to be damaged: it is written anew.
    pub fn condemn_index(&self) {
        self.suspects().index = true;
    }

    /// True where the next checkpoint would let a condemned file go, or brings that nearer.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        let condemned = self.suspects().condemned.clone();
        let tables = self.read();
        let extents = tables.front.extents.iter().map(|extent| extent.segment);
        let leaves = |number: u32| condemned.contains(&number);
        tables.front.runs_from.is_some()
            || tables.front.vacated.iter().copied().any(leaves)
            || extents.into_iter().any(leaves)
    }

    /// Goes on writing the index anew, where that is to be done.
    pub fn reindex_step(&self) -> Result<MergeStep, StoreError> {
        self.keeper().work(|keeper| {
            if keeper.reindexing.is_none() {
                if !std::mem::take(&mut self.suspects().index) {
                    return Ok(MergeStep::Idle);
                }
                // A merge that is under way would read what is damaged; its file is nobody's.
                keeper.merging = None;
                keeper.reindexing =
                    Some(Reindexing { runs_from: keeper.run_next, table: TableId(0), key: Vec::new() });
            }
            Ok(self.reindex(keeper))
        })
    }

    fn reindex(&self, keeper: &mut Keeper) -> MergeStep {
        for _ in 0..ROWS_PER_STEP / ROWS_PER_LOCK {
            let mut tables = self.write();
            if tables.front_room() < tables.config.front_bytes_max / 2 {
                return MergeStep::Full;
            }
            let reindexing = keeper.reindexing.as_mut().expect("the caller made sure");
            if tables.put_again(reindexing) {
                tables.front.runs_from = Some(reindexing.runs_from);
                keeper.reindexing = None;
                return MergeStep::Done;
            }
        }
        MergeStep::More
    }
}

impl Tables {
    /// Puts the next rows among the changes, as they are; true behind the last row.
    fn put_again(&mut self, reindexing: &mut Reindexing) -> bool {
        let Reindexing { table, key: from, .. } = reindexing;
        let Some((&current, rows)) = self.rows.range(*table..).next() else { return true };
        if current != *table {
            *table = current;
            from.clear();
        }
        let (changes, value) = (&mut self.front.changes, &mut self.value);
        let mut left = ROWS_PER_LOCK;
        let mut next = None;
        rows.scan(from, None, &mut |key, body, row| {
            if left == 0 {
                next = Some(key.to_vec());
                return std::ops::ControlFlow::Break(());
            }
            left -= 1;
            crate::rows::encode_value(value, body, row);
            changes.push(current, key, Some(value));
            std::ops::ControlFlow::Continue(())
        });
        match (next, current.0.checked_add(1)) {
            (Some(key), _) => *from = key,
            (None, Some(after)) => {
                *table = TableId(after);
                from.clear();
            }
            (None, None) => return true,
        }
        false
    }
}
