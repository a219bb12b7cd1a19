//! Merging runs, so that an open reads few of them and tombstones go away.
//!
//! Runs are merged by size, newest first: a run joins those newer than it while it is not larger than all of them
//! together, so each entry is written again a logarithmic number of times.

use std::sync::Arc;

use crate::checkpoint::{Keeper, Obsolete, remove_if_there};
use crate::config::{generation_folder, run_name};
use crate::run::{Merge, RunInfo, RunReader, RunWriter};
use crate::{Pace, Store, StoreConfig, StoreError};

/// A merge that goes on from step to step.
pub(crate) struct Merging {
    /// The runs that go into it, from the oldest to the newest; neighbours in the manifest.
    inputs: Vec<u64>,
    merge: Merge,
    writer: RunWriter,
    path: String,
    /// The oldest run is among the inputs: nothing older can be hidden by a tombstone.
    oldest: bool,
}

/// What a step of background work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// There is nothing to merge.
    Idle,
    /// A part is done, call again.
    More,
    /// The front has no room for changes: checkpoint, then call again.
    Full,
    /// Runs were merged and their space is coming back.
    Done,
}

/// Which runs to merge: a range of `runs` that ends with the newest.
fn choose(runs: &[RunInfo], config: &StoreConfig) -> Option<usize> {
    let mut start = runs.len().checked_sub(1)?;
    let mut together = runs[start].len;
    while start > 0 && runs[start - 1].len <= together.saturating_mul(2) {
        start -= 1;
        together += runs[start].len;
    }
    if runs.len() - start >= config.merge_width.max(2) {
        return Some(start);
    }
    (runs.len() > config.runs_max).then(|| runs.len() - config.merge_width.clamp(2, runs.len()))
}

impl Store {
    /// Goes on merging runs, for about `entries_max` entries. Blocks for the disk; checkpoints may come in between.
    pub fn merge_step(&self, entries_max: u64, pace: &mut dyn Pace) -> Result<MergeStep, StoreError> {
        self.keeper().work(|keeper| {
            if keeper.reindexing.is_some() {
                // All runs of now are about to go.
                return Ok(MergeStep::Idle);
            }
            let mut merging = match keeper.merging.take() {
                Some(merging) => merging,
                None => match self.start_merge(keeper)? {
                    Some(merging) => merging,
                    None => return Ok(MergeStep::Idle),
                },
            };
            let path = merging.path.clone();
            let result = match merging.step(entries_max, pace) {
                Ok(false) => {
                    keeper.merging = Some(merging);
                    Ok(MergeStep::More)
                }
                Ok(true) => self.finish_merge(merging, keeper, pace).map(|()| MergeStep::Done),
                Err(error) => Err(error),
            };
            if let Err(StoreError::NoSpace { .. } | StoreError::Corrupt { .. }) = result {
                // No manifest names it. What cannot be removed now is removed at the next open.
                let _ = remove_if_there(self.disk(), &path);
            }
            result
        })
    }

    /// Gives up the merge that is under way, and the space that it holds. False where there is none.
    pub fn abandon_merge(&self) -> bool {
        let Some(merging) = self.keeper().merging.take() else { return false };
        // No manifest names it. What cannot be removed now is removed at the next open.
        let _ = remove_if_there(self.disk(), &merging.path);
        true
    }

    fn start_merge(&self, keeper: &mut Keeper) -> Result<Option<Merging>, StoreError> {
        let durable = self.durable();
        let config = self.read().config.clone();
        let Some(start) = choose(&durable.runs, &config) else { return Ok(None) };
        let folder = generation_folder(keeper.generation);
        let inputs = &durable.runs[start..];
        let readers = inputs
            .iter()
            .map(|&info| RunReader::open(self.disk(), &format!("{folder}/{}", run_name(info.number)), info))
            .collect::<Result<Vec<_>, _>>()?;
        let number = keeper.run_next;
        keeper.run_next += 1;
        let path = format!("{folder}/{}", run_name(number));
        Ok(Some(Merging {
            inputs: inputs.iter().map(|run| run.number).collect(),
            merge: Merge::new(readers)?,
            writer: RunWriter::create(self.disk(), &path, number)?,
            path,
            oldest: start == 0,
        }))
    }

    fn finish_merge(
        &self,
        merging: Merging,
        keeper: &mut Keeper,
        pace: &mut dyn Pace,
    ) -> Result<(), StoreError> {
        let mut next = self.durable().as_ref().clone();
        let start = next
            .runs
            .iter()
            .position(|run| run.number == merging.inputs[0])
            .expect("merges alone remove runs");
        let range = start..start + merging.inputs.len();
        assert!(next.runs[range.clone()].iter().map(|run| run.number).eq(merging.inputs.iter().copied()));
        let merged = merging.writer.finish(pace)?;
        next.runs.splice(range, [merged]);
        next.counter += 1;
        next.run_next = keeper.run_next;
        next.commit(self.disk())?;
        self.publish(next, merging.inputs.into_iter().map(Obsolete::Run).collect(), keeper);
        self.sweep(keeper)
    }

    /// How many runs an open would read now.
    #[must_use]
    pub fn runs(&self) -> usize {
        Arc::clone(&self.durable()).runs.len()
    }
}

impl Merging {
    /// True once all inputs are read.
    fn step(&mut self, entries_max: u64, pace: &mut dyn Pace) -> Result<bool, StoreError> {
        for _ in 0..entries_max.max(1) {
            if !self.merge.advance()? {
                return Ok(true);
            }
            let change = self.merge.current();
            if change.2.is_some() || !self.oldest {
                self.writer.push(change, pace)?;
            }
        }
        Ok(false)
    }
}
