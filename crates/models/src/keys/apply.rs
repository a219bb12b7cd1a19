//! What each command does to the tables.
//!
//! Invariants:
//!
//! - A command that changes keys makes exactly one revision; what it changes is numbered within it from 0. One that
//!   changes none makes none.
//! - The revision in KEYS_META moves only with a command's last slice: readers pinned at it see none of a command in
//!   progress.
//! - Everything that decides what later slices do to the tables is in the cursor. What is only in memory
//!   ([`Running`]) is the answer and the events; after a restart between slices nobody waits for that answer, and
//!   watchers read that revision from HISTORY.

use std::sync::Arc;

use quorate_ids::{LogIndex, Revision};
use quorate_store::Tables;

use super::command::Command;
use super::compact::Physical;
use super::moves;
use super::ops::Leaf;
use super::query::RangeResume;
use super::reply::{Event, KeyValue, KeysError, OpReply, Reply, TxnReply};
use super::rows::{Rev, compacted_revision, current_revision, set_compacted_revision, set_current_revision};
use super::txn::{Blocked, flatten, nest_replies};
use super::watch::{REVISION_EVENTS_BYTES_MAX, RevisionEvents, event_bytes};
use crate::varint::{Reader, put_varint};
use crate::{Cursor, Stamps, Step};

/// The keys model. Holds caches only: [`Keys::open`] rebuilds them.
pub struct Keys {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) physical: Physical,
    pub(super) scratch: Vec<u8>,
    pub(super) running: Running,
    events: Vec<Arc<RevisionEvents>>,
}

/// What a command has come to so far and no table needs.
#[derive(Default)]
pub(super) struct Running {
    /// The command's; tells what is left of another command.
    index: LogIndex,
    pub results: Vec<OpReply>,
    pub deleted: Vec<KeyValue>,
    pub range: RangeResume,
    /// Leases that the command ended.
    pub ended: Vec<i64>,
    events: Vec<Event>,
    events_bytes: usize,
    /// Too many for memory, or made before a restart: watchers read this revision from HISTORY.
    events_lost: bool,
    /// A restart came between slices: whoever asked is gone.
    pub answer_lost: bool,
}

impl Running {
    pub(super) fn event(&mut self, event: Event) {
        if crate::mutants::planted!(DropWatchEvent) && event.kv.meta.mod_revision.0.is_multiple_of(64) {
            return;
        }
        self.events_bytes += event_bytes(&event);
        if self.events_bytes > REVISION_EVENTS_BYTES_MAX {
            self.events_lost = true;
            self.events = Vec::new();
        }
        if !self.events_lost {
            self.events.push(event);
        }
    }
}

/// Where a command in slices stands: what [`Cursor::state`] holds.
#[derive(Debug, PartialEq)]
pub(super) struct Position {
    /// The revision in the making, and the number of its next change.
    pub next: Rev,
    /// The operation (or lease) that is under way.
    pub leaf: usize,
    /// Keys that it deleted so far.
    pub deleted: u64,
    /// Which branch each transaction takes, the outermost first.
    pub path: Vec<bool>,
}

const POSITION_VERSION: u8 = 1;

impl Position {
    pub(super) fn start(revision: Revision) -> Self {
        Self { next: Rev { main: revision.next().0, sub: 0 }, leaf: 0, deleted: 0, path: Vec::new() }
    }

    pub(super) fn changed(&self) -> bool {
        self.next.sub > 0
    }

    /// The store's revision as this command sees it.
    pub(super) fn revision(&self) -> Revision {
        Revision(if self.changed() { self.next.main } else { self.next.main - 1 })
    }

    /// The number of the next change.
    pub(super) fn take(&mut self) -> Rev {
        let rev = self.next;
        self.next.sub = rev.sub.checked_add(1).expect("a command changes fewer than 2^32 keys");
        rev
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(POSITION_VERSION);
        for number in [self.next.main, u64::from(self.next.sub), self.leaf as u64, self.deleted] {
            put_varint(out, number);
        }
        put_varint(out, self.path.len() as u64);
        for bits in self.path.chunks(8) {
            out.push(bits.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit) << at));
        }
        assert!(out.len() <= quorate_store::ROW_BYTES_MAX, "a cursor fits a row");
    }

    fn read(state: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: state };
        if reader.byte()? != POSITION_VERSION {
            return None;
        }
        let next = Rev { main: reader.varint()?, sub: u32::try_from(reader.varint()?).ok()? };
        let leaf = usize::try_from(reader.varint()?).ok()?;
        let deleted = reader.varint()?;
        let path_len = usize::try_from(reader.varint()?).ok()?;
        if reader.bytes.len() != path_len.div_ceil(8) {
            return None;
        }
        let path = (0..path_len).map(|at| reader.bytes[at / 8] >> (at % 8) & 1 == 1).collect();
        Some(Self { next, leaf, deleted, path })
    }
}

impl Keys {
    /// The model over these tables, whatever they hold.
    #[must_use]
    pub fn open(tables: &Tables) -> Self {
        Self {
            revision: current_revision(tables),
            compacted: compacted_revision(tables),
            physical: Physical::open(tables),
            scratch: Vec::new(),
            running: Running::default(),
            events: Vec::new(),
        }
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision of the last compaction, 0 before the first.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The events of the revisions made since the last call, in order: for the shared watch history. Take them after
    /// each `apply`. A revision whose events are too many for memory comes without them; see [`RevisionEvents`].
    pub fn take_events(&mut self) -> Vec<Arc<RevisionEvents>> {
        std::mem::take(&mut self.events)
    }

    /// Applies a command, or a slice of it. The caller has called [`Tables::begin`] once for the command.
    pub fn apply(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        stamps: &Stamps,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        match self.resume(stamps.index, cursor) {
            None => match command {
                Command::Put(put) => self.run(tables, command, &[Leaf::Put(put)], cursor, None),
                Command::DeleteRange(delete) => {
                    self.run(tables, command, &[Leaf::Delete(delete)], cursor, None)
                }
                Command::Txn(txn) => match self.choose_path(tables, txn, &cursor.loaded) {
                    Ok(path) => {
                        let mut position = Position::start(self.revision);
                        position.path = path;
                        self.run_txn(tables, command, cursor, position, true)
                    }
                    Err(blocked) => self.blocked(blocked),
                },
                Command::Move(_) => self.run_move(tables, command, cursor, None),
                Command::Compact { revision } => Step::Done(self.compact(tables, *revision)),
                Command::LeaseGrant { id, ttl_seconds } => {
                    Step::Done(self.grant(tables, *id, *ttl_seconds, stamps.cluster_time))
                }
                Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => {
                    let position = Position::start(self.revision);
                    self.end_leases(tables, command, stamps.term, position, cursor)
                }
                Command::Alarm { activate, member, alarm } => {
                    Step::Done(self.alarm(tables, *activate, *member, *alarm))
                }
            },
            Some(position) => match command {
                Command::Put(put) => self.run(tables, command, &[Leaf::Put(put)], cursor, Some(position)),
                Command::DeleteRange(delete) => {
                    self.run(tables, command, &[Leaf::Delete(delete)], cursor, Some(position))
                }
                Command::Txn(_) => self.run_txn(tables, command, cursor, position, false),
                Command::Move(_) => self.run_move(tables, command, cursor, Some(position)),
                Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => {
                    self.end_leases(tables, command, stamps.term, position, cursor)
                }
                Command::Compact { .. } | Command::LeaseGrant { .. } | Command::Alarm { .. } => {
                    unreachable!("these commands have one slice")
                }
            },
        }
    }

    /// Where the command stands, if it is not at its start.
    fn resume(&mut self, index: LogIndex, cursor: &Cursor) -> Option<Position> {
        if cursor.state.is_empty() {
            self.running = Running { index, ..Running::default() };
            return None;
        }
        let position = Position::read(&cursor.state).expect("the cursor was written by this model");
        assert_eq!(
            position.next.main,
            self.revision.next().0,
            "the cursor belongs to the revision in the making"
        );
        if self.running.index != index {
            self.running = Running { index, events_lost: true, answer_lost: true, ..Running::default() };
        }
        Some(position)
    }

    pub(super) fn refused(&self, error: KeysError) -> Step<Reply> {
        Step::Done(Reply::Refused { revision: self.revision, error })
    }

    pub(super) fn blocked(&self, blocked: Blocked) -> Step<Reply> {
        match blocked {
            Blocked::Need(bodies) => Step::Need(bodies),
            Blocked::Refused(error) => self.refused(error),
        }
    }

    pub(super) fn pause(&self, position: &Position, cursor: &mut Cursor) -> Step<Reply> {
        position.write(&mut cursor.state);
        Step::More
    }

    fn run_txn(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        cursor: &mut Cursor,
        position: Position,
        first: bool,
    ) -> Step<Reply> {
        let Command::Txn(txn) = command else { unreachable!("called for transactions alone") };
        let mut leaves = Vec::new();
        flatten(txn, &mut position.path.iter().copied(), &mut leaves);
        if first && let Err(blocked) = self.check(tables, &leaves) {
            return self.blocked(blocked);
        }
        self.run_checked(tables, command, &leaves, cursor, position)
    }

    pub(super) fn run(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        leaves: &[Leaf<'_>],
        cursor: &mut Cursor,
        position: Option<Position>,
    ) -> Step<Reply> {
        if position.is_none()
            && let Err(blocked) = self.check(tables, leaves)
        {
            return self.blocked(blocked);
        }
        let position = position.unwrap_or_else(|| Position::start(self.revision));
        self.run_checked(tables, command, leaves, cursor, position)
    }

    fn run_checked(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        leaves: &[Leaf<'_>],
        cursor: &mut Cursor,
        mut position: Position,
    ) -> Step<Reply> {
        let need = self.need(tables, leaves.get(position.leaf..).unwrap_or_default(), &mut cursor.loaded);
        if !need.is_empty() {
            return Step::Need(need);
        }
        if !self.run_slice(tables, leaves, &mut position, &cursor.loaded) {
            return self.pause(&position, cursor);
        }
        let revision = self.finish(tables, &position);
        let mut results = std::mem::take(&mut self.running.results);
        // After a restart between slices: the answers before it are gone, and so is whoever asked.
        if results.len() < leaves.len() {
            let missing = leaves.len() - results.len();
            results.splice(0..0, leaves[..missing].iter().map(|leaf| leaf.blank(revision)));
        }
        let mut results = results.into_iter();
        Step::Done(match command {
            Command::Txn(txn) => {
                let reply: TxnReply =
                    nest_replies(txn, &mut position.path.iter().copied(), &mut results, revision);
                Reply::Txn(reply)
            }
            Command::Move(_) => moves::reply(revision, results),
            _ => match results.next() {
                Some(OpReply::Put(put)) => Reply::Put(put),
                Some(OpReply::DeleteRange(delete)) => Reply::DeleteRange(delete),
                _ => unreachable!("a plain command has one operation"),
            },
        })
    }

    /// Ends a command: what it changed becomes visible.
    pub(super) fn finish(&mut self, tables: &mut Tables, position: &Position) -> Revision {
        if !position.changed() && !crate::mutants::planted!(BumpEmptyRevision) {
            return self.revision;
        }
        self.revision = Revision(position.next.main);
        set_current_revision(tables, self.revision, &mut self.scratch);
        let events = std::mem::take(&mut self.running.events);
        let events = (!self.running.events_lost).then_some(events);
        self.events.push(Arc::new(RevisionEvents::new(self.revision, events)));
        self.revision
    }

    fn compact(&mut self, tables: &mut Tables, revision: Revision) -> Reply {
        let refused = |error| Reply::Refused { revision: self.revision, error };
        if revision <= self.compacted {
            return refused(KeysError::Compacted { asked: revision, oldest: self.compacted });
        }
        if revision > self.revision {
            return refused(KeysError::FutureRevision { asked: revision, current: self.revision });
        }
        self.compacted = revision;
        set_compacted_revision(tables, revision, &mut self.scratch);
        Reply::Compact { revision: self.revision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_from_the_cursor() {
        for bits in [0, 1, 7, 8, 9, 64] {
            let path = (0..bits).map(|at| at % 3 == 0).collect();
            let position = Position { next: Rev { main: 1 << 40, sub: 77 }, leaf: 3, deleted: 1 << 33, path };
            let mut state = Vec::new();
            position.write(&mut state);
            assert_eq!(Position::read(&state), Some(position));
        }
        assert_eq!(Position::read(&[1, 2]), None);
    }
}
