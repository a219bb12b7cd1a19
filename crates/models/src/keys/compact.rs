//! Forgetting what compaction allows to forget, in slices, at this member's own pace.
//!
//! A pass goes once over the changes from the last pass's revision to its own target, in order. Each change says which
//! one it superseded: that one goes, with its body. A tombstone below the target goes, with its grave. A version below
//! the target that is still its key's current one loses its HISTORY row alone: KEYS keeps its body, and a later change
//! puts the row back. So a pass costs the changes since the last one, however many keys there are.
//!
//! Invariants: nothing at or above the target revision goes, nor what a reader at the target still sees; no read and
//! no hashed table shows how far a pass is.

use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_store::Tables;

use super::apply::Keys;
use super::reply::EventKind;
use super::rows::{HistoryRow, KeyRow, Rev, history_key, long_key, read_grave};
use crate::tables::{GRAVEYARD, HISTORY, HISTORY_KEYS, KEYS, KEYS_LOCAL};
use crate::varint::{Reader, put_varint};

const LOCAL_PASS: &[u8] = b"p";

/// How far this member has forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Physical {
    /// The last finished pass's target.
    done: u64,
    pass: Option<Pass>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pass {
    target: u64,
    next: Rev,
}

impl Physical {
    pub(super) fn open(tables: &Tables) -> Self {
        let Some(entry) = tables.get(KEYS_LOCAL, LOCAL_PASS) else { return Self::default() };
        Self::parse(entry.row).expect("a row of KEYS_LOCAL parses")
    }

    fn parse(row: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: row };
        let done = reader.varint()?;
        if reader.bytes.is_empty() {
            return Some(Self { done, pass: None });
        }
        let target = reader.varint()?;
        let next = Rev { main: reader.varint()?, sub: u32::try_from(reader.varint()?).ok()? };
        Some(Self { done, pass: Some(Pass { target, next }) })
    }

    fn write(&self, tables: &mut Tables, scratch: &mut Vec<u8>) {
        scratch.clear();
        put_varint(scratch, self.done);
        if let Some(Pass { target, next }) = self.pass {
            put_varint(scratch, target);
            put_varint(scratch, next.main);
            put_varint(scratch, u64::from(next.sub));
        }
        tables.put(KEYS_LOCAL, LOCAL_PASS, scratch, None);
    }
}

/// The compacted revision up to which this member has forgotten all that may be forgotten.
#[must_use]
pub fn forgotten_revision(tables: &Tables) -> Revision {
    Revision(Physical::open(tables).done)
}

/// A change that the pass looks at.
struct Seen {
    rev: Rev,
    kind: EventKind,
    previous: Option<Rev>,
    key: Bytes,
}

impl Keys {
    /// Forgets superseded versions below the compacted revision: a slice of at most `budget_records` changes. Returns
    /// whether more is left. Not replicated; call it under the write lock, between commands or their slices.
    pub fn compact_step(&mut self, tables: &mut Tables, budget_records: usize) -> bool {
        assert!(budget_records > 0, "a slice without a budget would never end");
        if self.physical.pass.is_none() && self.physical.done < self.compacted.0 {
            let next = Rev { main: self.physical.done, sub: 0 };
            self.physical.pass = Some(Pass { target: self.compacted.0, next });
        }
        let Some(Pass { target, next }) = self.physical.pass else { return false };
        let seen = look(tables, next, target, budget_records);
        for change in &seen {
            forget(tables, change, target);
        }
        match seen.last() {
            Some(last) if seen.len() == budget_records => {
                self.physical.pass = Some(Pass { target, next: last.rev.next() });
            }
            _ => self.physical = Physical { done: target, pass: None },
        }
        self.physical.write(tables, &mut self.scratch);
        self.physical.pass.is_some() || self.physical.done < self.compacted.0
    }
}

fn look(tables: &Tables, next: Rev, target: u64, budget: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    let beyond = u64::from(crate::mutants::planted!(CompactTooFar));
    let end = Rev { main: target + 1 + beyond, sub: 0 }.key();
    tables.scan(HISTORY, &next.key(), Some(&end), &mut |key, entry| {
        let rev = Rev::of_key(key);
        let row = HistoryRow::read(rev, entry.row);
        let key = history_key(tables, rev, &row);
        seen.push(Seen { rev, kind: row.kind, previous: row.previous, key });
        if seen.len() == budget { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    seen
}

fn forget(tables: &mut Tables, change: &Seen, target: u64) {
    if let Some(previous) = change.previous
        && (previous.main < target || crate::mutants::planted!(CompactTooFar))
        && let Some(entry) = tables.get(HISTORY, &previous.key())
    {
        // Superseded, so no row of KEYS points at it.
        let body = entry.body;
        remove_history(tables, previous, &change.key);
        if let Some(body) = body {
            tables.retire(body);
        }
    }
    if change.rev.main >= target {
        return;
    }
    match change.kind {
        EventKind::Put => {
            let current = tables.get(KEYS, &change.key).map(|entry| KeyRow::read(entry.row).rev);
            if current == Some(change.rev) {
                remove_history(tables, change.rev, &change.key);
            }
        }
        EventKind::Delete => {
            remove_history(tables, change.rev, &change.key);
            let grave = tables.get(GRAVEYARD, &change.key).map(|entry| read_grave(entry.row));
            if grave == Some(change.rev) {
                tables.remove(GRAVEYARD, &change.key);
            }
        }
    }
}

fn remove_history(tables: &mut Tables, rev: Rev, key: &[u8]) {
    if tables.remove(HISTORY, &rev.key()) && key.len() > super::rows::KEY_IN_ROW_BYTES_MAX {
        tables.remove(HISTORY_KEYS, &long_key(rev, key));
    }
}
