//! Leases and alarms as the tables know them. When a lease runs out is judged by the leader's
//! [`super::LeaseClock`]; here its end is a command.
//!
//! Invariant: LEASE_KEYS has (lease, key) exactly where the row of KEYS names that lease, and the lease exists.

use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_ids::{ClusterTime, Term};
use quorate_store::Tables;

use super::apply::{Keys, Position};
use super::command::Command;
use super::reply::{KeysError, Reply};
use super::rows::KeyRow;
use crate::tables::{ALARMS, KEYS, LEASE_KEYS, LEASES};
use crate::varint::{Reader, put_varint, unzigzag, zigzag};
use crate::{Cursor, SLICE_RECORDS_MAX, Step};

const LEASE_KEY_BYTES: usize = 8;

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: i64,
    pub ttl_seconds: i64,
    /// The cluster time of its grant.
    pub granted: ClusterTime,
}

fn lease_row_key(id: i64) -> [u8; LEASE_KEY_BYTES] {
    id.to_be_bytes()
}

fn attached_key(id: i64, key: &[u8]) -> Vec<u8> {
    let mut attached = Vec::with_capacity(LEASE_KEY_BYTES + key.len());
    attached.extend_from_slice(&lease_row_key(id));
    attached.extend_from_slice(key);
    attached
}

/// The end of a lease's rows in LEASE_KEYS; `None`: the table's end.
fn attached_end(id: i64) -> Option<[u8; LEASE_KEY_BYTES]> {
    Some((id as u64).checked_add(1)?.to_be_bytes())
}

fn read_lease(key: &[u8], row: &[u8]) -> Lease {
    let mut reader = Reader { bytes: row };
    let numbers = reader.varint().zip(reader.varint());
    let (ttl, granted) = numbers.expect("a row of LEASES parses");
    let id = i64::from_be_bytes(key.try_into().expect("a key of LEASES has 8 bytes"));
    Lease { id, ttl_seconds: unzigzag(ttl), granted: ClusterTime(granted) }
}

pub(super) fn exists(tables: &Tables, id: i64) -> bool {
    tables.get(LEASES, &lease_row_key(id)).is_some()
}

/// Moves a key from one lease to another; 0 is none.
pub(super) fn move_key(tables: &mut Tables, key: &[u8], from: i64, to: i64) {
    if from != 0 {
        let removed = tables.remove(LEASE_KEYS, &attached_key(from, key));
        debug_assert!(removed, "an attached key has a row");
    }
    if to != 0 {
        tables.put(LEASE_KEYS, &attached_key(to, key), &[], None);
    }
}

/// One lease.
#[must_use]
pub fn lease(tables: &Tables, id: i64) -> Option<Lease> {
    let key = lease_row_key(id);
    tables.get(LEASES, &key).map(|entry| read_lease(&key, entry.row))
}

/// Up to `budget` leases after `after` (`None`: from the first), in the order of their ids as unsigned numbers.
#[must_use]
pub fn leases(tables: &Tables, after: Option<i64>, budget: usize) -> Vec<Lease> {
    let mut found = Vec::new();
    let from = after.map_or(Vec::new(), |id| super::query::after(&lease_row_key(id)));
    tables.scan(LEASES, &from, None, &mut |key, entry| {
        if found.len() == budget {
            return ControlFlow::Break(());
        }
        found.push(read_lease(key, entry.row));
        ControlFlow::Continue(())
    });
    found
}

/// Up to `budget` keys attached to a lease after `after` (`None`: from the first), in order.
#[must_use]
pub fn lease_keys(tables: &Tables, id: i64, after: Option<&[u8]>, budget: usize) -> Vec<Bytes> {
    let mut found = Vec::new();
    let from = after.map_or(lease_row_key(id).to_vec(), |key| super::query::after(&attached_key(id, key)));
    let to = attached_end(id);
    tables.scan(LEASE_KEYS, &from, to.as_ref().map(|to| &to[..]), &mut |key, _| {
        if found.len() == budget {
            return ControlFlow::Break(());
        }
        found.push(Bytes::copy_from_slice(&key[LEASE_KEY_BYTES..]));
        ControlFlow::Continue(())
    });
    found
}

/// What a lease counts for, in bytes of data: it has no record, and costs its holder's memory all the same.
pub const LEASE_BYTES: u64 = 128;

/// Bytes of data as a quota counts them: of all that lies in records and of that alone which something still needs, and
/// in both the leases.
#[must_use]
pub fn data_bytes(tables: &Tables) -> (u64, u64) {
    let (total, live) = tables.record_bytes();
    let leases = tables.len(LEASES).saturating_mul(LEASE_BYTES);
    (total.saturating_add(leases), live.saturating_add(leases))
}

/// The alarms that are raised: (member, alarm), by member.
#[must_use]
pub fn alarms(tables: &Tables) -> Vec<(u64, u8)> {
    let mut found = Vec::new();
    tables.scan(ALARMS, &[], None, &mut |key, _| {
        let (member, alarm) = key.split_at(8);
        found.push((u64::from_be_bytes(member.try_into().expect("a key of ALARMS has 9 bytes")), alarm[0]));
        ControlFlow::Continue(())
    });
    found
}

impl Keys {
    pub(super) fn grant(
        &mut self,
        tables: &mut Tables,
        id: i64,
        ttl_seconds: i64,
        now: ClusterTime,
    ) -> Reply {
        if exists(tables, id) {
            return Reply::Refused { revision: self.revision, error: KeysError::LeaseExists { id } };
        }
        self.scratch.clear();
        put_varint(&mut self.scratch, zigzag(ttl_seconds));
        put_varint(&mut self.scratch, now.0);
        tables.put(LEASES, &lease_row_key(id), &self.scratch, None);
        Reply::LeaseGrant { revision: self.revision, id, ttl_seconds }
    }

    pub(super) fn alarm(&mut self, tables: &mut Tables, activate: bool, member: u64, alarm: u8) -> Reply {
        if !(1..=2).contains(&alarm) {
            return Reply::Refused { revision: self.revision, error: KeysError::UnknownAlarm { alarm } };
        }
        let mut key = member.to_be_bytes().to_vec();
        key.push(alarm);
        if activate {
            tables.put(ALARMS, &key, &[], None);
        } else {
            tables.remove(ALARMS, &key);
        }
        Reply::Alarm { revision: self.revision }
    }

    /// Ends leases and deletes their keys, all in one revision; `position.leaf` counts the leases that are done.
    pub(super) fn end_leases(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        term: Term,
        mut position: Position,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        let (ids, expire) = match command {
            Command::LeaseRevoke { id } => {
                if !exists(tables, *id) {
                    return self.refused(KeysError::LeaseNotFound { id: *id });
                }
                (std::slice::from_ref(id), false)
            }
            Command::LeaseExpire { term: decided, ids } => {
                let ids = if *decided == term { &ids[..] } else { &[] };
                (ids, true)
            }
            _ => unreachable!("called for the end of leases alone"),
        };
        let mut budget = SLICE_RECORDS_MAX;
        while let Some(id) = ids.get(position.leaf) {
            if budget == 0 || !self.delete_attached(tables, *id, &mut position, &mut budget) {
                return self.pause(&position, cursor);
            }
            budget -= 1;
            if tables.remove(LEASES, &lease_row_key(*id)) {
                self.running.ended.push(*id);
            }
            position.leaf += 1;
        }
        let revision = self.finish(tables, &position);
        let expired = std::mem::take(&mut self.running.ended);
        Step::Done(if expire {
            Reply::LeaseExpire { revision, expired }
        } else {
            Reply::LeaseRevoke { revision }
        })
    }

    /// Deletes a lease's keys as far as the budget goes; whether all are gone, with a record left for the lease.
    fn delete_attached(
        &mut self,
        tables: &mut Tables,
        id: i64,
        position: &mut Position,
        budget: &mut usize,
    ) -> bool {
        // Deleted keys leave LEASE_KEYS too, so each slice starts at the front.
        for key in lease_keys(tables, id, None, *budget) {
            let entry = tables.get(KEYS, &key).expect("an attached key exists");
            let row = KeyRow::read(entry.row);
            assert_eq!(row.lease, id, "an attached key names its lease");
            let at = entry.body.expect("a version has a body");
            self.delete_key(tables, key, &row, at, position);
            *budget -= 1;
        }
        *budget > 0
    }
}
