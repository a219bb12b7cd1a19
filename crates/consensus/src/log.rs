//! The log since the last compaction, in memory, as the `raft` crate's storage.
//!
//! Invariants:
//! - `entries[i]` has index `compacted.0 + 1 + i`.
//! - `bytes` is the sum of [`entry_bytes`] over `entries`.
//! - It holds what was handed out for persistence, durable or not; what is durable the `raft` crate counts itself.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use raft::{GetEntriesContext, RaftState, Storage, StorageError, eraftpb};

use crate::entry::{HardState, payload};
use crate::membership::{Membership, SnapshotPoint};

/// What an entry costs in memory beside its data, in bytes.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = std::mem::size_of::<eraftpb::Entry>();

/// What an entry costs in memory, in bytes.
pub(crate) fn entry_bytes(entry: &eraftpb::Entry) -> usize {
    ENTRY_OVERHEAD_BYTES + payload(entry).len()
}

pub(crate) struct MemoryLog {
    initial_hard_state: HardState,
    initial_membership: Membership,
    compacted: (u64, u64),
    entries: VecDeque<eraftpb::Entry>,
    bytes: usize,
    snapshot: Option<SnapshotPoint>,
    /// Followers that needed a snapshot when none could be offered. The trait gives us `&self` there.
    snapshots_wanted: RefCell<BTreeSet<u64>>,
}

impl MemoryLog {
    pub(crate) fn new(
        hard_state: HardState,
        membership: Membership,
        compacted: (u64, u64),
        entries: VecDeque<eraftpb::Entry>,
    ) -> Self {
        let bytes = entries.iter().map(entry_bytes).sum();
        Self {
            initial_hard_state: hard_state,
            initial_membership: membership,
            compacted,
            entries,
            bytes,
            snapshot: None,
            snapshots_wanted: RefCell::default(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn compacted(&self) -> (u64, u64) {
        self.compacted
    }

    pub(crate) fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    /// Appends, replacing whatever stands at the first new index and after it.
    pub(crate) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.compacted.0, "entry {} is already compacted away", first.index);
        assert!(first.index <= self.last() + 1, "entry {} after {} leaves a gap", first.index, self.last());
        while self.last() >= first.index {
            let replaced = self.entries.pop_back().expect("last() counts it");
            self.bytes -= entry_bytes(&replaced);
        }
        self.bytes += entries.iter().map(entry_bytes).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Forgets all entries: a snapshot takes their place.
    pub(crate) fn restore(&mut self, point: &SnapshotPoint) {
        self.compacted = (point.index.0, point.term.0);
        self.entries.clear();
        self.bytes = 0;
        if self.snapshot.as_ref().is_some_and(|offered| offered.index < point.index) {
            self.snapshot = None;
        }
    }

    /// Drops the entries up to `through`, which must be present or already gone.
    pub(crate) fn compact(&mut self, through: u64) {
        assert!(through <= self.last(), "compaction through {through} beyond the log's end {}", self.last());
        while self.compacted.0 < through {
            let dropped = self.entries.pop_front().expect("last() counts it");
            self.bytes -= entry_bytes(&dropped);
            self.compacted = (dropped.index, dropped.term);
        }
    }

    /// The greatest index after which at least `bytes` of entries remain; the compacted one where there are fewer.
    pub(crate) fn compactable(&self, bytes: usize) -> u64 {
        let mut surplus = self.bytes.saturating_sub(bytes);
        let mut through = self.compacted.0;
        for entry in &self.entries {
            let size = entry_bytes(entry);
            if size > surplus {
                break;
            }
            surplus -= size;
            through = entry.index;
        }
        through
    }

    pub(crate) fn offer_snapshot(&mut self, point: Option<SnapshotPoint>) {
        self.snapshot = point;
    }

    pub(crate) fn has_snapshots_wanted(&self) -> bool {
        !self.snapshots_wanted.borrow().is_empty()
    }

    pub(crate) fn take_snapshots_wanted(&mut self) -> BTreeSet<u64> {
        std::mem::take(self.snapshots_wanted.get_mut())
    }

    fn at(&self, index: u64) -> Option<&eraftpb::Entry> {
        let offset = index.checked_sub(self.compacted.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.initial_hard_state.to_raft(), self.initial_membership.to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let mut found = Vec::new();
        for index in low..high {
            let entry = self.at(index).expect("within the bounds just checked");
            bytes += entry_bytes(entry) as u64;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        self.at(index).map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The offered point, if the log goes on from it and it already knows the receiver; else the receiver is noted.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        match &self.snapshot {
            Some(point)
                if point.index.0 >= request_index
                    && point.index.0 >= self.compacted.0
                    && point.membership.contains(quorate_ids::MemberId(to)) =>
            {
                Ok(point.to_raft())
            }
            _ => {
                self.snapshots_wanted.borrow_mut().insert(to);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
