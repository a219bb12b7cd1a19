//! The checkpoint stage: writes frozen fronts in the background, and gives dead space back.
//!
//! Invariant: the log loop hears of a checkpoint only once it is durable. A checkpoint that finds no space is kept and
//! tried again; its front stays in memory until then. On a full disk the reserve is drawn on for checkpoints, never for
//! merging: that begins again where it found no space.

use std::sync::Arc;

use quorate_consensus::Membership;
use quorate_ids::LogIndex;
use quorate_store::{Frozen, Location, MergeStep, Pace, RewriteStep, Store, StoreError};

use super::LogInput;
use super::reserve::{Reserve, with_room};
use crate::frame::{SnapshotPoint, Space};

/// Index entries that one step of merging runs touches.
const MERGE_ENTRIES_PER_STEP: u64 = 16 * 1024;
/// Bytes of records that one step of rewriting a segment touches.
const REWRITE_BYTES_PER_STEP: usize = 256 * 1024;

/// A checkpoint to write.
pub struct CheckpointInput {
    pub frozen: Frozen,
    pub point: SnapshotPoint,
    pub membership: Membership,
}

/// What became of the checkpoint, or of the background work.
#[derive(Debug)]
pub enum CheckpointOutput {
    Durable {
        point: SnapshotPoint,
        membership: Membership,
    },
    /// Kept; call [`CheckpointStage::retry`] after a while.
    NoSpace,
    /// A snapshot took the tables' place meanwhile; the checkpoint is void.
    Void,
    Failed {
        reason: String,
    },
}

/// See the module.
pub struct CheckpointStage {
    store: Store,
    stuck: Option<CheckpointInput>,
    damaged: Vec<Location>,
    reserve: Arc<Reserve>,
    /// That of the log, where it is on another disk.
    log_reserve: Arc<Reserve>,
    told: Space,
    /// A merge found no space: none is begun before a checkpoint, or the return of space, changed that.
    merge_blocked: bool,
    /// There was nothing to do in the background.
    rests: bool,
}

impl CheckpointStage {
    #[must_use]
    pub fn new(store: Store, reserve: Arc<Reserve>, log_reserve: Arc<Reserve>) -> Self {
        Self {
            store,
            stuck: None,
            damaged: Vec::new(),
            reserve,
            log_reserve,
            told: Space::Enough,
            merge_blocked: false,
            rests: false,
        }
    }

    /// How much space the store's disk has, if that changed since the last call. To be asked after each other call.
    pub fn space_news(&mut self) -> Option<LogInput> {
        let space = if self.is_stuck() { Space::Last } else { self.reserve.space() };
        (std::mem::replace(&mut self.told, space) != space).then_some(LogInput::StoreSpace(space))
    }

    fn look_for_space(&mut self) {
        let was_full = self.reserve.space().is_full();
        self.reserve.look();
        if !Arc::ptr_eq(&self.reserve, &self.log_reserve) {
            self.log_reserve.look();
        }
        self.merge_blocked &= was_full == self.reserve.space().is_full();
    }

    /// Finds space for a checkpoint: what a merge holds that is under way, then a piece of the reserve.
    fn make_room(&mut self) -> bool {
        if self.store.abandon_merge() {
            self.merge_blocked = true;
            return true;
        }
        self.reserve.give()
    }

    /// Writes a checkpoint; blocks for the disk and the pace.
    pub fn step(&mut self, input: CheckpointInput, pace: &mut dyn Pace) -> CheckpointOutput {
        assert!(self.stuck.is_none(), "one checkpoint is under way at a time");
        self.rests = false;
        let store = self.store.clone();
        let is_no_space = |error: &StoreError| matches!(error, StoreError::NoSpace { .. });
        let written = with_room(|| store.checkpoint(&input.frozen, pace), is_no_space, || self.make_room());
        self.merge_blocked &= written.is_err();
        self.look_for_space();
        match written {
            Ok(_) => CheckpointOutput::Durable { point: input.point, membership: input.membership },
            Err(StoreError::NoSpace { .. }) => {
                self.stuck = Some(input);
                CheckpointOutput::NoSpace
            }
            Err(StoreError::Superseded { .. } | StoreError::NotPending) => CheckpointOutput::Void,
            Err(error) => CheckpointOutput::Failed { reason: error.to_string() },
        }
    }

    /// True while a checkpoint waits for space.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Tries the checkpoint that found no space once more.
    pub fn retry(&mut self, pace: &mut dyn Pace) -> Option<CheckpointOutput> {
        let input = self.stuck.take()?;
        Some(self.step(input, pace))
    }

    /// Where the damaged records lie that background work came across since the last call.
    pub fn take_damaged(&mut self) -> Vec<Location> {
        std::mem::take(&mut self.damaged)
    }

    /// The index of the last durable checkpoint.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.store.durable_index()
    }

    /// True where a checkpoint should be made soon: so that a damaged file can go, or one that holds nothing any more, so
    /// that space comes back without waiting for more to be written.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        let frees = || self.rests && self.store.has_vacated();
        self.stuck.is_none() && (self.store.wants_checkpoint() || frees())
    }

    /// A bounded piece of background work: merging runs, rewriting segments, writing a damaged index anew, removing
    /// files. True if there is more.
    pub fn background(&mut self, pace: &mut dyn Pace) -> Result<bool, String> {
        self.look_for_space();
        let merged = match self.merge(pace) {
            Ok(step) => step == MergeStep::More,
            Err(StoreError::NoSpace { .. }) => {
                self.merge_blocked = true;
                false
            }
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(%error, "a part of the index on disk is damaged; all of it is written anew");
                self.store.condemn_index();
                true
            }
            Err(error) => return Err(error.to_string()),
        };
        let merged =
            merged | (self.store.reindex_step().map_err(|error| error.to_string())? == MergeStep::More);
        let rewritten = match self.store.rewrite_step(REWRITE_BYTES_PER_STEP) {
            Ok(RewriteStep::More { .. }) => true,
            Ok(RewriteStep::Damaged { records, .. }) => {
                self.damaged.extend(records.into_iter().map(|record| record.at));
                false
            }
            Ok(RewriteStep::Idle | RewriteStep::Full | RewriteStep::Vacated { .. }) => false,
            Err(StoreError::NoSpace { .. }) => false,
            Err(error) => return Err(error.to_string()),
        };
        self.store.collect().map_err(|error| error.to_string())?;
        self.rests = !merged && !rewritten;
        Ok(merged || rewritten)
    }

    fn merge(&mut self, pace: &mut dyn Pace) -> Result<MergeStep, StoreError> {
        if self.merge_blocked {
            return Ok(MergeStep::Idle);
        }
        self.store.merge_step(MERGE_ENTRIES_PER_STEP, pace)
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
