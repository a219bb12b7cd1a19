//! The keys model as simply as it can be said: every revision a full copy of the key space.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_models::keys::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, EventKind, Move, Op, Put, RangeEnd, RangeQuery,
    SortOrder, SortTarget, Txn,
};

#[derive(Clone, Debug, PartialEq)]
pub struct Kv {
    pub key: Bytes,
    pub create: u64,
    pub modified: u64,
    pub version: u64,
    pub lease: i64,
    pub value: Bytes,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: EventKind,
    pub key: Bytes,
    pub now: Option<Kv>,
    pub before: Option<Kv>,
}

pub type Space = BTreeMap<Bytes, Kv>;

#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub kvs: Vec<Kv>,
    pub count: u64,
    pub more: bool,
}

/// An answer, in the words of the test.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Put(u64, Option<Kv>),
    Delete(u64, u64, Vec<Kv>),
    Range(u64, Found),
    Txn(u64, bool, Vec<Answer>),
    Ok(u64),
    Moved(u64, u64, u64),
    Expired(u64, Vec<i64>),
    Refused(u64),
}

#[derive(Clone)]
pub struct Reference {
    /// By revision; 0 and 1 are empty.
    pub spaces: Vec<Space>,
    pub changes: BTreeMap<u64, Vec<Change>>,
    pub compacted: u64,
    pub leases: BTreeSet<i64>,
}

pub fn within(key: &[u8], from: &[u8], end: &RangeEnd) -> bool {
    match end {
        RangeEnd::Single => key == from,
        RangeEnd::Before(end) => key >= from && key < &end[..],
        RangeEnd::Unbounded => key >= from,
    }
}

/// A command that is being worked out.
struct Work<'a> {
    reference: &'a Reference,
    space: Space,
    changes: Vec<Change>,
}

impl Reference {
    pub fn new() -> Self {
        Self {
            spaces: vec![Space::new(), Space::new()],
            changes: BTreeMap::new(),
            compacted: 0,
            leases: BTreeSet::new(),
        }
    }

    pub fn revision(&self) -> u64 {
        self.spaces.len() as u64 - 1
    }

    fn now(&self) -> &Space {
        self.spaces.last().expect("a revision")
    }

    pub fn apply(&mut self, command: &Command, term: u64) -> Answer {
        let before = self.clone();
        let mut work = Work { reference: &before, space: self.now().clone(), changes: Vec::new() };
        let revision = self.revision();
        let answer = match command {
            Command::Put(put) if work.put_fits(put) => work.put(put),
            Command::DeleteRange(delete) => work.delete(delete),
            Command::Txn(txn) if work.txn_fits(txn) => work.txn(txn),
            Command::Put(_) | Command::Txn(_) => Answer::Refused(revision),
            Command::Move(moving) => match work.move_refused(moving) {
                true => Answer::Refused(revision),
                false => work.move_keys(moving),
            },
            Command::Compact { revision: asked } => {
                if asked.0 <= self.compacted || asked.0 > revision {
                    return Answer::Refused(revision);
                }
                self.compacted = asked.0;
                Answer::Ok(revision)
            }
            Command::LeaseGrant { id, .. } => match self.leases.insert(*id) {
                true => Answer::Ok(revision),
                false => Answer::Refused(revision),
            },
            Command::LeaseRevoke { id } => {
                if !self.leases.remove(id) {
                    return Answer::Refused(revision);
                }
                work.end_lease(*id);
                Answer::Ok(work.revision())
            }
            Command::LeaseExpire { term: decided, ids } => {
                let mut expired = Vec::new();
                for id in ids {
                    if decided.0 == term && self.leases.remove(id) {
                        work.end_lease(*id);
                        expired.push(*id);
                    }
                }
                Answer::Expired(work.revision(), expired)
            }
            Command::Alarm { .. } => Answer::Ok(revision),
        };
        let Work { space, changes, .. } = work;
        if !changes.is_empty() {
            self.spaces.push(space);
            self.changes.insert(self.revision(), changes);
        }
        answer
    }

    pub fn range(&self, query: &RangeQuery) -> Option<Found> {
        let at = if query.revision.0 == 0 { self.revision() } else { query.revision.0 };
        (at <= self.revision() && (query.revision.0 == 0 || at >= self.compacted))
            .then(|| find(&self.spaces[at as usize], query))
    }
}

fn find(space: &Space, query: &RangeQuery) -> Found {
    let all: Vec<_> = space.values().filter(|kv| within(&kv.key, &query.key, &query.end)).cloned().collect();
    let count = all.len() as u64;
    if query.count_only {
        return Found { kvs: Vec::new(), count, more: false };
    }
    let inside = |number: u64, min: u64, max: u64| number >= min && (max == 0 || number <= max);
    let mut kvs: Vec<_> = all
        .into_iter()
        .filter(|kv| inside(kv.modified, query.min_mod_revision.0, query.max_mod_revision.0))
        .filter(|kv| inside(kv.create, query.min_create_revision.0, query.max_create_revision.0))
        .collect();
    match query.sort_target {
        SortTarget::Key => {}
        SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
        SortTarget::Create => kvs.sort_by_key(|kv| kv.create),
        SortTarget::Mod => kvs.sort_by_key(|kv| kv.modified),
        SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    if query.sort_order == SortOrder::Descend {
        kvs.reverse();
    }
    let more = query.limit > 0 && kvs.len() as u64 > query.limit;
    if more {
        kvs.truncate(query.limit as usize);
    }
    if query.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Found { kvs, count, more }
}

impl Work<'_> {
    fn revision(&self) -> u64 {
        self.reference.revision() + u64::from(!self.changes.is_empty())
    }

    fn put_fits(&self, put: &Put) -> bool {
        let exists = self.reference.now().contains_key(&put.key);
        let lease = put.lease == 0 || put.ignore_lease || self.reference.leases.contains(&put.lease);
        lease && (exists || !(put.ignore_value || put.ignore_lease))
    }

    fn txn_fits(&self, txn: &Txn) -> bool {
        self.branch(txn).1.iter().all(|op| match op {
            Op::Put(put) => self.put_fits(put),
            Op::Range(query) => self.reference.range(query).is_some(),
            Op::DeleteRange(_) => true,
            Op::Txn(txn) => self.txn_fits(txn),
        })
    }

    fn branch<'t>(&self, txn: &'t Txn) -> (bool, &'t [Op]) {
        let space = self.reference.now();
        let holds = txn.compare.iter().all(|compare| holds(space, compare));
        (holds, if holds { &txn.success } else { &txn.failure })
    }

    fn put(&mut self, put: &Put) -> Answer {
        let before = self.space.get(&put.key).cloned();
        let modified = self.reference.revision() + 1;
        let value = match (&before, put.ignore_value) {
            (Some(before), true) => before.value.clone(),
            (None, true) => Bytes::new(),
            _ => put.value.clone(),
        };
        let lease =
            if put.ignore_lease { before.as_ref().map_or(0, |before| before.lease) } else { put.lease };
        let kv = Kv {
            key: put.key.clone(),
            create: before.as_ref().map_or(modified, |before| before.create),
            modified,
            version: before.as_ref().map_or(0, |before| before.version) + 1,
            lease,
            value,
        };
        self.space.insert(put.key.clone(), kv.clone());
        let change =
            Change { kind: EventKind::Put, key: put.key.clone(), now: Some(kv), before: before.clone() };
        self.changes.push(change);
        Answer::Put(self.revision(), before.filter(|_| put.prev_kv))
    }

    fn remove(&mut self, kv: &Kv) {
        self.space.remove(&kv.key);
        let before = Some(kv.clone());
        self.changes.push(Change { kind: EventKind::Delete, key: kv.key.clone(), now: None, before });
    }

    fn delete(&mut self, delete: &DeleteRange) -> Answer {
        let gone: Vec<_> =
            self.space.values().filter(|kv| within(&kv.key, &delete.key, &delete.end)).cloned().collect();
        gone.iter().for_each(|kv| self.remove(kv));
        let count = gone.len() as u64;
        Answer::Delete(self.revision(), count, if delete.prev_kv { gone } else { Vec::new() })
    }

    fn move_refused(&self, moving: &Move) -> bool {
        let Move { from, to, replace, count } = moving;
        let keys: Vec<&Bytes> = self.space.keys().collect();
        let from_there: Vec<_> = keys.iter().filter(|key| key.starts_with(from)).collect();
        let moved = |key: &[u8]| [&to[..], &key[from.len()..]].concat();
        let in_the_way = keys.iter().filter(|key| key.starts_with(to) && !key.starts_with(from)).count();
        to.starts_with(from)
            || to.len() > from.len()
            || from_there.iter().any(|key| moved(key).starts_with(from))
            || count.is_some_and(|count| count != from_there.len() as u64)
            || (!replace && in_the_way > 0)
    }

    fn move_keys(&mut self, moving: &Move) -> Answer {
        let Move { from, to, .. } = moving;
        let all: Vec<Kv> = self.space.values().cloned().collect();
        let there: Vec<_> =
            all.iter().filter(|kv| kv.key.starts_with(to) && !kv.key.starts_with(from)).collect();
        there.iter().for_each(|kv| self.remove(kv));
        let moved: Vec<_> = all.iter().filter(|kv| kv.key.starts_with(from)).collect();
        for kv in &moved {
            self.put(&Put {
                key: [&to[..], &kv.key[from.len()..]].concat().into(),
                value: kv.value.clone(),
                lease: 0,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            });
            self.remove(kv);
        }
        Answer::Moved(self.revision(), moved.len() as u64, there.len() as u64)
    }

    fn end_lease(&mut self, id: i64) {
        let gone: Vec<_> = self.space.values().filter(|kv| kv.lease == id).cloned().collect();
        gone.iter().for_each(|kv| self.remove(kv));
    }

    fn txn(&mut self, txn: &Txn) -> Answer {
        let (succeeded, ops) = self.branch(txn);
        let answers = ops
            .iter()
            .map(|op| match op {
                Op::Put(put) => self.put(put),
                Op::DeleteRange(delete) => self.delete(delete),
                Op::Txn(txn) => self.txn(txn),
                Op::Range(query) if query.revision.0 == 0 => {
                    Answer::Range(self.revision(), find(&self.space, query))
                }
                Op::Range(query) => {
                    Answer::Range(self.revision(), self.reference.range(query).expect("it was checked"))
                }
            })
            .collect();
        // The header is the whole command's: the caller puts it in.
        Answer::Txn(0, succeeded, answers)
    }
}

fn holds(space: &Space, compare: &Compare) -> bool {
    let judge = |ordering: std::cmp::Ordering| match compare.op {
        CompareOp::Equal => ordering.is_eq(),
        CompareOp::Greater => ordering.is_gt(),
        CompareOp::Less => ordering.is_lt(),
        CompareOp::NotEqual => ordering.is_ne(),
    };
    let one = |kv: Option<&Kv>| {
        let number = |of: fn(&Kv) -> i64| kv.map_or(0, of);
        match &compare.target {
            CompareTarget::Version(wanted) => judge(number(|kv| kv.version as i64).cmp(wanted)),
            CompareTarget::Create(wanted) => judge(number(|kv| kv.create as i64).cmp(wanted)),
            CompareTarget::Mod(wanted) => judge(number(|kv| kv.modified as i64).cmp(wanted)),
            CompareTarget::Lease(wanted) => judge(number(|kv| kv.lease).cmp(wanted)),
            CompareTarget::Value(wanted) => kv.is_some_and(|kv| judge(kv.value.cmp(wanted))),
        }
    };
    let mut found = space.values().filter(|kv| within(&kv.key, &compare.key, &compare.end)).peekable();
    if found.peek().is_none() { one(None) } else { found.all(|kv| one(Some(kv))) }
}
