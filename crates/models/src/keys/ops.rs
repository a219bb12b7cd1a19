//! The operations that commands are made of: checked all together, then run in order, in slices.
//!
//! Invariants: every row that a change replaces stays reachable for readers at the compacted revision and above: the
//! version it supersedes has a HISTORY row (put back where compaction dropped it), and the new row names it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_store::{BODY_BYTES_MAX, Body, Location, Owners, Tables};

use super::apply::{Keys, Position};
use super::command::{DeleteRange, Move, Put, RangeEnd, RangeQuery};
use super::query::{Bounds, Progress, RangeResume, check_compacted, finish_range, range_slice, value_at};
use super::reply::{
    DeleteReply, Event, EventKind, KeyMeta, KeyValue, KeysError, OpReply, PutReply, RangeReply, Value,
};
use super::rows::{
    HistoryRow, KEY_IN_ROW_BYTES_MAX, KeyRow, Rev, USER_KEY_BYTES_MAX, long_key, read_grave, value_of_body,
    write_grave,
};
use super::txn::Blocked;
use crate::SLICE_RECORDS_MAX;
use crate::tables::{GRAVEYARD, HISTORY, HISTORY_KEYS, KEYS};
use crate::varint::put_varint;

/// Cold bodies that one [`crate::Step::Need`] asks for at most.
pub(super) const NEED_BODIES_MAX: usize = 1024;

/// Key and value of one record together, in bytes: a record's body has a length in front of them.
const RECORD_BYTES_MAX: usize = BODY_BYTES_MAX - 10;

/// One operation of a command.
#[derive(Clone, Copy)]
pub(super) enum Leaf<'a> {
    Range(&'a RangeQuery),
    Put(&'a Put),
    Delete(&'a DeleteRange),
    Move(&'a Move),
}

impl Leaf<'_> {
    /// An answer without content.
    pub(super) fn blank(&self, revision: Revision) -> OpReply {
        match self {
            Self::Range(_) => OpReply::Range(RangeReply { revision, kvs: Vec::new(), more: false, count: 0 }),
            Self::Put(_) => OpReply::Put(PutReply { revision, previous: None }),
            Self::Delete(_) | Self::Move(_) => {
                OpReply::DeleteRange(DeleteReply { revision, deleted: 0, previous: Vec::new() })
            }
        }
    }
}

pub(super) type Loaded = BTreeMap<Location, Bytes>;

impl Keys {
    /// Whether the operations may run, judged by the tables as they are before any of them.
    pub(super) fn check(&self, tables: &Tables, leaves: &[Leaf<'_>]) -> Result<(), Blocked> {
        for leaf in leaves {
            match leaf {
                Leaf::Put(put) => self.check_put(tables, put)?,
                Leaf::Range(query) if query.revision > self.revision => {
                    let (asked, current) = (query.revision, self.revision);
                    return Err(Blocked::Refused(KeysError::FutureRevision { asked, current }));
                }
                Leaf::Range(query) if query.revision != Revision::ZERO => {
                    check_compacted(tables, query.revision).map_err(Blocked::Refused)?;
                }
                Leaf::Range(_) | Leaf::Delete(_) | Leaf::Move(_) => {}
            }
        }
        Ok(())
    }

    fn check_put(&self, tables: &Tables, put: &Put) -> Result<(), Blocked> {
        if put.key.len() > USER_KEY_BYTES_MAX {
            let (len, max) = (put.key.len(), USER_KEY_BYTES_MAX);
            return Err(Blocked::Refused(KeysError::KeyTooLong { len, max }));
        }
        let (len, max) = (put.key.len() + put.value.len(), RECORD_BYTES_MAX);
        if len > max {
            return Err(Blocked::Refused(KeysError::ValueTooLong { len, max }));
        }
        if (put.ignore_value || put.ignore_lease) && tables.get(KEYS, &put.key).is_none() {
            return Err(Blocked::Refused(KeysError::KeyNotFound));
        }
        if put.lease != 0 && !put.ignore_lease && !super::leases::exists(tables, put.lease) {
            return Err(Blocked::Refused(KeysError::LeaseNotFound { id: put.lease }));
        }
        Ok(())
    }

    /// Puts the bodies that these operations will read into `loaded`; returns those that must come from disk first.
    pub(super) fn need(&self, tables: &Tables, leaves: &[Leaf<'_>], loaded: &mut Loaded) -> Vec<Location> {
        let mut need = Vec::new();
        for leaf in leaves {
            match leaf {
                Leaf::Put(put) if put.ignore_value => {
                    if let Some(at) = tables.get(KEYS, &put.key).and_then(|entry| entry.body) {
                        have_body(tables, at, loaded, &mut need);
                    }
                }
                // Its order depends on values. Those that the command itself writes first are in memory.
                Leaf::Range(query) if query.sorts_by_value() => {
                    let at = self.range_revision(query, self.revision);
                    let mut resume = RangeResume::default();
                    while range_slice(tables, query, at, &mut resume, SLICE_RECORDS_MAX) == Ok(Progress::More)
                    {
                    }
                    for kv in resume.kvs {
                        if let Value::At(at) = kv.value {
                            have_body(tables, at, loaded, &mut need);
                        }
                    }
                }
                Leaf::Move(moving) => {
                    moving.bodies(tables).for_each(|at| have_body(tables, at, loaded, &mut need));
                }
                Leaf::Put(_) | Leaf::Range(_) | Leaf::Delete(_) => {}
            }
        }
        need.truncate(NEED_BODIES_MAX);
        need
    }

    /// The revision that a range inside a command reads: its own writes count, unless it asks for the past.
    fn range_revision(&self, query: &RangeQuery, newest: Revision) -> Revision {
        if query.revision == Revision::ZERO { newest } else { query.revision }
    }

    /// Runs operations from `position` on. False: the slice's budget is used up, go on from `position` later.
    pub(super) fn run_slice(
        &mut self,
        tables: &mut Tables,
        leaves: &[Leaf<'_>],
        position: &mut Position,
        loaded: &Loaded,
    ) -> bool {
        let mut budget = SLICE_RECORDS_MAX;
        while let Some(leaf) = leaves.get(position.leaf) {
            if budget == 0 {
                return false;
            }
            let result = match leaf {
                Leaf::Put(put) => {
                    budget -= 1;
                    Some(OpReply::Put(self.put(tables, put, position, loaded)))
                }
                Leaf::Delete(delete) => self.delete_slice(tables, delete, position, &mut budget),
                Leaf::Move(moving) => self.move_slice(tables, moving, position, loaded, &mut budget),
                Leaf::Range(query) => self.range_in_command(tables, query, position, loaded, &mut budget),
            };
            let Some(result) = result else { return false };
            self.running.results.push(result);
            position.leaf += 1;
            position.deleted = 0;
        }
        true
    }

    fn range_in_command(
        &mut self,
        tables: &Tables,
        query: &RangeQuery,
        position: &Position,
        loaded: &Loaded,
        budget: &mut usize,
    ) -> Option<OpReply> {
        let revision = position.revision();
        if self.running.answer_lost {
            return Some(Leaf::Range(query).blank(revision));
        }
        let at = self.range_revision(query, revision);
        let mut resume = std::mem::take(&mut self.running.range);
        let found = resume.kvs.len();
        let progress = range_slice(tables, query, at, &mut resume, *budget)
            .expect("checked at the command's start, and no other command ran since");
        *budget -= (resume.kvs.len() - found).min(*budget);
        if progress == Progress::More {
            self.running.range = resume;
            // Counting visits rows without finding any: it uses the slice up too.
            *budget = 0;
            return None;
        }
        let value_of = &mut |value: &Value| -> Result<Bytes, std::convert::Infallible> {
            Ok(match value {
                Value::Here(bytes) => bytes.clone(),
                Value::At(at) => value_in_memory(tables, *at, loaded).unwrap_or_default(),
                Value::Absent => Bytes::new(),
            })
        };
        let Ok(reply) = finish_range(query, resume, revision, value_of);
        Some(OpReply::Range(reply))
    }

    pub(super) fn put(
        &mut self,
        tables: &mut Tables,
        put: &Put,
        position: &mut Position,
        loaded: &Loaded,
    ) -> PutReply {
        let old = tables
            .get(KEYS, &put.key)
            .map(|entry| (KeyRow::read(entry.row), entry.body.expect("a version has a body")));
        let rev = position.take();
        let mut value = put.value.clone();
        if put.ignore_value {
            // None: an earlier operation of the same command deleted the key; nothing is left to keep.
            value = old.and_then(|(_, at)| value_in_memory(tables, at, loaded)).unwrap_or_default();
        }
        let old_lease = old.map_or(0, |(old, _)| old.lease);
        let row = KeyRow {
            rev,
            create: old.map_or(rev.main, |(old, _)| old.create),
            version: old.map_or(0, |(old, _)| old.version) + 1,
            lease: if put.ignore_lease { old_lease } else { put.lease },
            value_len: u32::try_from(value.len()).expect("checked against RECORD_BYTES_MAX"),
        };
        let previous = match old {
            Some((old, at)) => {
                self.keep_history(tables, &put.key, &old, at);
                Some(old.rev)
            }
            None => dig_up(tables, &put.key),
        };
        self.write_version(tables, &put.key, &value, &row, previous);
        if row.lease != old_lease {
            super::leases::move_key(tables, &put.key, old_lease, row.lease);
        }
        let previous = old.map(|(old, at)| (old.meta(), at));
        self.running.event(Event {
            kind: EventKind::Put,
            kv: KeyValue { key: put.key.clone(), meta: row.meta(), value: Value::Here(value) },
            previous: previous.map(|(meta, at)| KeyValue {
                key: put.key.clone(),
                meta,
                value: Value::At(at),
            }),
        });
        let previous = previous.filter(|_| put.prev_kv).map(|(meta, at)| KeyValue {
            key: put.key.clone(),
            meta,
            value: value_at(tables, at),
        });
        PutReply { revision: position.revision(), previous }
    }

    fn write_version(
        &mut self,
        tables: &mut Tables,
        key: &[u8],
        value: &[u8],
        row: &KeyRow,
        previous: Option<Rev>,
    ) {
        let history_key = row.rev.key();
        self.scratch.clear();
        put_varint(&mut self.scratch, key.len() as u64);
        let owners = Owners { first: (KEYS, key), second: Some((HISTORY, &history_key)) };
        let at = tables.append(owners, &[&self.scratch, key, value]);
        row.write(&mut self.scratch);
        tables.put(KEYS, key, &self.scratch, Some(at));
        self.put_history(tables, row.rev, HistoryRow::of_put(row, previous, key), key, Some(at));
    }

    fn put_history(
        &mut self,
        tables: &mut Tables,
        rev: Rev,
        row: HistoryRow<'_>,
        key: &[u8],
        body: Option<Location>,
    ) {
        row.write(rev, &mut self.scratch);
        tables.put(HISTORY, &rev.key(), &self.scratch, body);
        if key.len() > KEY_IN_ROW_BYTES_MAX {
            tables.put(HISTORY_KEYS, &long_key(rev, key), &[], None);
        }
    }

    /// Called before `old` is superseded: readers from the compacted revision on may still see it.
    fn keep_history(&mut self, tables: &mut Tables, key: &[u8], old: &KeyRow, at: Location) {
        // Compaction never touches rows of its own revision and above.
        if old.rev.main >= self.compacted.0 || tables.get(HISTORY, &old.rev.key()).is_some() {
            return;
        }
        // What came before it is compacted.
        self.put_history(tables, old.rev, HistoryRow::of_put(old, None, key), key, Some(at));
    }

    /// Deletes what is left of a range, as far as the budget goes. `None`: more is left.
    fn delete_slice(
        &mut self,
        tables: &mut Tables,
        delete: &DeleteRange,
        position: &mut Position,
        budget: &mut usize,
    ) -> Option<OpReply> {
        let mut doomed: Vec<(Bytes, KeyRow, Location)> = Vec::new();
        let mut left = false;
        let mut visit = |key: Bytes, row: &[u8], body: Option<Location>| {
            doomed.push((key, KeyRow::read(row), body.expect("a version has a body")));
        };
        if delete.end == RangeEnd::Single {
            if let Some(entry) = tables.get(KEYS, &delete.key) {
                visit(delete.key.clone(), entry.row, entry.body);
            }
        } else {
            // What was deleted before is gone from KEYS, so each slice starts at the front.
            let bounds = Bounds::new(&delete.key, &delete.end);
            let mut room = *budget;
            tables.scan(KEYS, &bounds.from, bounds.to.as_deref(), &mut |key, entry| {
                if room == 0 {
                    left = true;
                    return ControlFlow::Break(());
                }
                room -= 1;
                visit(Bytes::copy_from_slice(key), entry.row, entry.body);
                ControlFlow::Continue(())
            });
        }
        *budget -= doomed.len();
        position.deleted += doomed.len() as u64;
        for (key, row, at) in doomed {
            if delete.prev_kv {
                let kv = KeyValue { key: key.clone(), meta: row.meta(), value: Value::At(at) };
                self.running.deleted.push(kv);
            }
            self.delete_key(tables, key, &row, at, position);
        }
        if left {
            *budget = 0;
            return None;
        }
        let previous = std::mem::take(&mut self.running.deleted);
        let reply = DeleteReply { revision: position.revision(), deleted: position.deleted, previous };
        Some(OpReply::DeleteRange(reply))
    }

    /// Deletes one key, whose current version is `old`.
    pub(super) fn delete_key(
        &mut self,
        tables: &mut Tables,
        key: Bytes,
        old: &KeyRow,
        at: Location,
        position: &mut Position,
    ) {
        let rev = position.take();
        self.keep_history(tables, &key, old, at);
        // The tombstone needs no record: its row says everything.
        self.put_history(tables, rev, HistoryRow::of_delete(old.rev, &key), &key, None);
        tables.remove(KEYS, &key);
        write_grave(rev, &mut self.scratch);
        tables.put(GRAVEYARD, &key, &self.scratch, None);
        if old.lease != 0 {
            super::leases::move_key(tables, &key, old.lease, 0);
        }
        let meta = KeyMeta { mod_revision: Revision(rev.main), ..KeyMeta::default() };
        let previous = KeyValue { key: key.clone(), meta: old.meta(), value: Value::At(at) };
        self.running.event(Event {
            kind: EventKind::Delete,
            kv: KeyValue { key, meta, value: Value::Absent },
            previous: Some(previous),
        });
    }
}

/// Takes a key's tombstone out of the graveyard: the version that recreates it links to it.
fn dig_up(tables: &mut Tables, key: &[u8]) -> Option<Rev> {
    if tables.len(GRAVEYARD) == 0 {
        return None;
    }
    let rev = read_grave(tables.get(GRAVEYARD, key)?.row);
    tables.remove(GRAVEYARD, key);
    Some(rev)
}

/// A value that [`Keys::need`] made sure of.
pub(super) fn value_in_memory(tables: &Tables, at: Location, loaded: &Loaded) -> Option<Bytes> {
    let body = match loaded.get(&at) {
        Some(body) => body.clone(),
        None => match tables.body(at) {
            Body::Ready(body) => body,
            Body::Cold => return None,
        },
    };
    value_of_body(&body).ok().map(|(_, value)| value)
}

/// Makes sure that `loaded` has a body, or says that it must be loaded.
pub(super) fn have_body(tables: &Tables, at: Location, loaded: &mut Loaded, need: &mut Vec<Location>) {
    if loaded.contains_key(&at) {
        return;
    }
    match tables.body(at) {
        Body::Ready(body) => {
            loaded.insert(at, body);
        }
        Body::Cold => need.push(at),
    }
}
