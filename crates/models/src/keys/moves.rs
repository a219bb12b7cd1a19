//! Moving all keys of one prefix to another, in one revision: how something that is larger than any command becomes
//! visible at once. Its parts are put under a prefix of their own first.
//!
//! Invariants: a moved key loses its lease and begins anew, as a key that is put for the first time; where a move is
//! refused nothing was changed; what a slice does follows from the tables alone, so a move goes on after a restart.

use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_store::{Location, Tables};

use super::apply::{Keys, Position};
use super::command::{Command, DeleteRange, Move, Put, RangeEnd};
use super::ops::{Leaf, Loaded, value_in_memory};
use super::query::Bounds;
use super::reply::{DeleteReply, KeysError, OpReply, Reply};
use super::rows::KeyRow;
use crate::tables::KEYS;
use crate::{Cursor, Step};

/// Keys that one slice moves at most, and about how many bytes of values: they are in memory together.
const BATCH_KEYS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Keys to be moved, each with its row and where its body is.
type Batch = Vec<(Bytes, KeyRow, Location)>;

impl Move {
    /// What is deleted before anything is moved: what began with `to`, without what is to be moved.
    fn cleared(&self) -> Vec<DeleteRange> {
        let range = |key: Bytes, end| DeleteRange { key, end, prev_kv: false };
        let end = RangeEnd::of_prefix(&self.to);
        if !self.from.starts_with(&self.to) {
            return vec![range(self.to.clone(), end)];
        }
        let mut cleared = vec![range(self.to.clone(), RangeEnd::Before(self.from.clone()))];
        if let RangeEnd::Before(behind) = RangeEnd::of_prefix(&self.from) {
            cleared.push(range(behind, end));
        }
        cleared
    }

    /// The next keys to be moved; whether there are more behind them.
    fn batch(&self, tables: &Tables) -> (Batch, bool) {
        let bounds = Bounds::new(&self.from, &RangeEnd::of_prefix(&self.from));
        let (mut batch, mut bytes, mut more) = (Batch::new(), 0, false);
        tables.scan(KEYS, &bounds.from, bounds.to.as_deref(), &mut |key, entry| {
            if batch.len() == BATCH_KEYS_MAX || bytes >= BATCH_BYTES_MAX {
                more = true;
                return ControlFlow::Break(());
            }
            let row = KeyRow::read(entry.row);
            bytes += row.value_len as usize;
            batch.push((Bytes::copy_from_slice(key), row, entry.body.expect("a version has a body")));
            ControlFlow::Continue(())
        });
        (batch, more)
    }

    /// The bodies that its next slice reads.
    pub(super) fn bodies(&self, tables: &Tables) -> impl Iterator<Item = Location> + use<> {
        self.batch(tables).0.into_iter().map(|(_, _, at)| at)
    }
}

fn count(tables: &Tables, prefix: &Bytes) -> u64 {
    let bounds = Bounds::new(prefix, &RangeEnd::of_prefix(prefix));
    tables.count(KEYS, &bounds.from, bounds.to.as_deref())
}

impl Keys {
    /// Runs a move, or goes on with it from `position`.
    pub(super) fn run_move(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        cursor: &mut Cursor,
        position: Option<Position>,
    ) -> Step<Reply> {
        let Command::Move(moving) = command else { unreachable!("called for moves alone") };
        let cleared = moving.cleared();
        if position.is_none()
            && let Some(error) = refusal(tables, moving, &cleared)
        {
            return self.refused(error);
        }
        let deletes = cleared.iter().map(Leaf::Delete);
        let leaves: Vec<Leaf<'_>> = deletes.chain([Leaf::Move(moving)]).collect();
        let step = self.run(tables, command, &leaves, cursor, position);
        if matches!(step, Step::More) {
            // Each slice reads bodies of its own.
            cursor.loaded.clear();
        }
        step
    }

    /// Moves the next keys. `None`: more are left.
    pub(super) fn move_slice(
        &mut self,
        tables: &mut Tables,
        moving: &Move,
        position: &mut Position,
        loaded: &Loaded,
        budget: &mut usize,
    ) -> Option<OpReply> {
        // What was moved before is gone from there, so each slice starts at the front.
        let (mut batch, mut more) = moving.batch(tables);
        let room = *budget / 2;
        more |= batch.len() > room;
        batch.truncate(room);
        for (key, row, at) in batch {
            let suffix = &key[moving.from.len()..];
            let put = Put {
                key: [&moving.to[..], suffix].concat().into(),
                value: value_in_memory(tables, at, loaded).expect("its body was asked for"),
                lease: 0,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            };
            self.put(tables, &put, position, loaded);
            self.delete_key(tables, key, &row, at, position);
            position.deleted += 1;
        }
        if more {
            *budget = 0;
            return None;
        }
        let (revision, deleted) = (position.revision(), position.deleted);
        Some(OpReply::DeleteRange(DeleteReply { revision, deleted, previous: Vec::new() }))
    }
}

/// A move's answer, from those of its parts: what was cleared, and at last what was moved.
pub(super) fn reply(revision: quorate_ids::Revision, parts: impl Iterator<Item = OpReply>) -> Reply {
    let counts = parts.map(|part| match part {
        OpReply::DeleteRange(part) => part.deleted,
        OpReply::Range(_) | OpReply::Put(_) | OpReply::Txn(_) => {
            unreachable!("a move only deletes and moves")
        }
    });
    let mut counts: Vec<u64> = counts.collect();
    let moved = counts.pop().unwrap_or_default();
    Reply::Move { revision, moved, replaced: counts.iter().sum() }
}

fn refusal(tables: &Tables, moving: &Move, cleared: &[DeleteRange]) -> Option<KeysError> {
    let Move { from, to, replace, count: wanted } = moving;
    if to.starts_with(from) || to.len() > from.len() {
        return Some(KeysError::MoveIntoItself);
    }
    // A key that would come to stand under `from` again.
    if let Some(rest) = from.strip_prefix(&to[..])
        && count(tables, &[&from[..], rest].concat().into()) > 0
    {
        return Some(KeysError::MoveIntoItself);
    }
    let found = count(tables, from);
    if let Some(wanted) = *wanted
        && wanted != found
    {
        return Some(KeysError::MoveIncomplete { found, wanted });
    }
    let there: u64 = cleared
        .iter()
        .map(|range| Bounds::new(&range.key, &range.end))
        .map(|bounds| tables.count(KEYS, &bounds.from, bounds.to.as_deref()))
        .sum();
    (!replace && there > 0).then_some(KeysError::MoveOntoKeys { count: there })
}
