//! What the keys model must do, written a second time and as plainly as possible: every version of every key in a map.
//!
//! The oracles feed it the committed log and compare what members answer with what it answers. Invariant: it shares no
//! code with the model that it judges, only the types of its commands and replies.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_ids::{Revision, Term};
use quorate_models::keys::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, DeleteReply, Event, EventKind, KeyMeta,
    KeyValue, KeysError, Move, Op, OpReply, Put, PutReply, RangeEnd, RangeQuery, RangeReply, Reply,
    SortOrder, SortTarget, Txn, TxnReply, Value,
};

#[derive(Clone)]
struct Version {
    meta: KeyMeta,
    /// `None`: deleted.
    value: Option<Bytes>,
}

/// The keys, their whole history, and the leases.
pub struct Reference {
    keys: BTreeMap<Bytes, Vec<Version>>,
    revision: u64,
    compacted: u64,
    leases: BTreeMap<i64, i64>,
    events: BTreeMap<u64, Vec<Event>>,
    /// The revision that the command being applied makes, if it changes anything.
    making: u64,
}

impl Default for Reference {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            revision: 1,
            compacted: 0,
            leases: BTreeMap::new(),
            events: BTreeMap::new(),
            making: 2,
        }
    }
}

fn inside(key: &Bytes, end: &RangeEnd, candidate: &Bytes) -> bool {
    match end {
        RangeEnd::Single => candidate == key,
        RangeEnd::Before(end) => candidate >= key && candidate < end,
        RangeEnd::Unbounded => candidate >= key,
    }
}

impl Reference {
    /// How many leases are alive.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// True where no key is left, and none of the past either.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let deleted = |versions: &Vec<Version>| versions.last().is_none_or(|last| last.value.is_none());
        self.compacted == self.revision && self.keys.values().all(deleted)
    }

    /// The changes that made `revision`, in order.
    #[must_use]
    pub fn events_at(&self, revision: u64) -> &[Event] {
        self.events.get(&revision).map_or(&[], Vec::as_slice)
    }

    fn at(&self, key: &Bytes, revision: u64) -> Option<&Version> {
        let versions = self.keys.get(key)?;
        versions.iter().rev().find(|v| v.meta.mod_revision.0 <= revision).filter(|v| v.value.is_some())
    }

    fn live_keys(&self, key: &Bytes, end: &RangeEnd, revision: u64) -> Vec<Bytes> {
        self.keys
            .range(key.clone()..)
            .take_while(|(candidate, _)| inside(key, end, candidate))
            .filter(|(candidate, _)| self.at(candidate, revision).is_some())
            .map(|(candidate, _)| candidate.clone())
            .collect()
    }

    /// A read, as a member whose store is at `current` must answer it; values are [`Value::Here`].
    pub fn range(&self, query: &RangeQuery, current: u64) -> Result<RangeReply, KeysError> {
        let at = if query.revision.0 == 0 { current } else { query.revision.0 };
        if at > current {
            return Err(KeysError::FutureRevision { asked: query.revision, current: Revision(current) });
        }
        if query.revision.0 != 0 && at < self.compacted {
            return Err(KeysError::Compacted { asked: query.revision, oldest: Revision(self.compacted) });
        }
        let mut kvs: Vec<KeyValue> = self
            .live_keys(&query.key, &query.end, at)
            .into_iter()
            .map(|key| self.kv(&key, at, query.keys_only))
            .collect();
        let count = kvs.len() as u64;
        let bounds = [
            (
                query.min_mod_revision,
                query.max_mod_revision,
                (|m: &KeyMeta| m.mod_revision) as fn(&KeyMeta) -> Revision,
            ),
            (query.min_create_revision, query.max_create_revision, |m: &KeyMeta| m.create_revision),
        ];
        for (min, max, of) in bounds {
            kvs.retain(|kv| of(&kv.meta) >= min && (max.0 == 0 || of(&kv.meta) <= max));
        }
        match query.sort_target {
            SortTarget::Key => kvs.sort_by(|a, b| a.key.cmp(&b.key)),
            SortTarget::Version => kvs.sort_by_key(|kv| kv.meta.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.meta.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.meta.mod_revision),
            SortTarget::Value => {
                assert_eq!(query.sort_order, SortOrder::None, "the workload does not sort by value")
            }
        }
        if query.sort_order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = query.limit > 0 && kvs.len() as u64 > query.limit;
        if more {
            kvs.truncate(query.limit as usize);
        }
        if query.count_only {
            return Ok(RangeReply { revision: Revision(current), kvs: Vec::new(), more: false, count });
        }
        Ok(RangeReply { revision: Revision(current), kvs, more, count })
    }

    fn kv(&self, key: &Bytes, at: u64, keys_only: bool) -> KeyValue {
        let version = self.at(key, at).expect("a live key");
        let value = if keys_only {
            Value::Absent
        } else {
            Value::Here(version.value.clone().expect("a live version"))
        };
        KeyValue { key: key.clone(), meta: version.meta, value }
    }

    /// Applies a committed command and says what its client must hear.
    pub fn apply(&mut self, command: &Command, term: Term) -> Reply {
        self.making = self.revision + 1;
        let reply = match self.refusal(command) {
            Some(error) => Reply::Refused { revision: Revision(self.revision), error },
            None => self.change(command, term),
        };
        if self.events.contains_key(&self.making) {
            self.revision = self.making;
        }
        let revision = Revision(self.revision);
        match reply {
            Reply::Put(reply) => Reply::Put(PutReply { revision, ..reply }),
            Reply::DeleteRange(reply) => Reply::DeleteRange(DeleteReply { revision, ..reply }),
            Reply::Txn(reply) => Reply::Txn(TxnReply { revision, ..reply }),
            Reply::Move { moved, replaced, .. } => Reply::Move { revision, moved, replaced },
            Reply::Compact { .. } => Reply::Compact { revision },
            Reply::LeaseGrant { id, ttl_seconds, .. } => Reply::LeaseGrant { revision, id, ttl_seconds },
            Reply::LeaseRevoke { .. } => Reply::LeaseRevoke { revision },
            Reply::LeaseExpire { expired, .. } => Reply::LeaseExpire { revision, expired },
            Reply::Alarm { .. } => Reply::Alarm { revision },
            Reply::Refused { error, .. } => Reply::Refused { revision, error },
        }
    }

    /// The end of a chain of events of one revision: where the next command's begins.
    fn now(&self) -> u64 {
        self.making
    }

    fn refusal(&self, command: &Command) -> Option<KeysError> {
        match command {
            Command::Put(put) => self.put_refusal(put),
            Command::Txn(txn) => {
                let branch = if self.holds(&txn.compare) { &txn.success } else { &txn.failure };
                branch.iter().find_map(|op| match op {
                    Op::Put(put) => self.put_refusal(put),
                    Op::Range(query) => self.range(query, self.revision).err(),
                    Op::DeleteRange(_) => None,
                    Op::Txn(txn) => self.refusal(&Command::Txn((**txn).clone())),
                })
            }
            Command::Move(moving) => self.move_refusal(moving),
            Command::Compact { revision } if revision.0 > self.revision => {
                Some(KeysError::FutureRevision { asked: *revision, current: Revision(self.revision) })
            }
            Command::Compact { revision } if revision.0 <= self.compacted => {
                Some(KeysError::Compacted { asked: *revision, oldest: Revision(self.compacted) })
            }
            Command::LeaseGrant { id, .. } if self.leases.contains_key(id) => {
                Some(KeysError::LeaseExists { id: *id })
            }
            Command::LeaseRevoke { id } if !self.leases.contains_key(id) => {
                Some(KeysError::LeaseNotFound { id: *id })
            }
            _ => None,
        }
    }

    fn put_refusal(&self, put: &Put) -> Option<KeysError> {
        if (put.ignore_value || put.ignore_lease) && self.at(&put.key, self.now()).is_none() {
            return Some(KeysError::KeyNotFound);
        }
        (put.lease != 0 && !self.leases.contains_key(&put.lease))
            .then_some(KeysError::LeaseNotFound { id: put.lease })
    }

    fn change(&mut self, command: &Command, term: Term) -> Reply {
        let revision = Revision::ZERO;
        match command {
            Command::Put(put) => Reply::Put(self.put(put)),
            Command::DeleteRange(delete) => Reply::DeleteRange(self.delete(delete)),
            Command::Txn(txn) => Reply::Txn(self.txn(txn)),
            Command::Move(moving) => self.move_keys(moving),
            Command::Compact { revision: to } => {
                self.compacted = to.0;
                Reply::Compact { revision }
            }
            Command::LeaseGrant { id, ttl_seconds } => {
                self.leases.insert(*id, *ttl_seconds);
                Reply::LeaseGrant { revision, id: *id, ttl_seconds: *ttl_seconds }
            }
            Command::LeaseRevoke { id } => {
                self.end_lease(*id);
                Reply::LeaseRevoke { revision }
            }
            Command::LeaseExpire { term: decided, ids } => {
                let live = if *decided == term { ids.as_slice() } else { &[] };
                let expired = live.iter().copied().filter(|id| self.end_lease(*id)).collect();
                Reply::LeaseExpire { revision, expired }
            }
            Command::Alarm { .. } => Reply::Alarm { revision },
        }
    }

    /// The keys that are live and begin with a prefix.
    fn beginning(&self, prefix: &Bytes) -> Vec<Bytes> {
        let mut all = self.live_keys(&Bytes::new(), &RangeEnd::Unbounded, self.now());
        all.retain(|key| key.starts_with(prefix));
        all
    }

    fn move_refusal(&self, moving: &Move) -> Option<KeysError> {
        let Move { from, to, replace, count } = moving;
        let keys = self.beginning(from);
        let again = |key: &Bytes| [&to[..], &key[from.len()..]].concat().starts_with(from);
        if to.starts_with(from) || to.len() > from.len() || keys.iter().any(again) {
            return Some(KeysError::MoveIntoItself);
        }
        let found = keys.len() as u64;
        if let Some(wanted) = count.filter(|wanted| *wanted != found) {
            return Some(KeysError::MoveIncomplete { found, wanted });
        }
        let count = self.beginning(to).iter().filter(|key| !key.starts_with(from)).count() as u64;
        (!replace && count > 0).then_some(KeysError::MoveOntoKeys { count })
    }

    fn move_keys(&mut self, moving: &Move) -> Reply {
        let Move { from, to, .. } = moving;
        let mut replaced = self.beginning(to);
        replaced.retain(|key| !key.starts_with(from));
        replaced.iter().for_each(|key| self.delete_key(key));
        let moved = self.beginning(from);
        for key in &moved {
            let value = self.at(key, self.now()).and_then(|version| version.value.clone());
            self.put(&Put {
                key: [&to[..], &key[from.len()..]].concat().into(),
                value: value.expect("a live version"),
                lease: 0,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            });
            self.delete_key(key);
        }
        let (moved, replaced) = (moved.len() as u64, replaced.len() as u64);
        Reply::Move { revision: Revision::ZERO, moved, replaced }
    }

    fn end_lease(&mut self, id: i64) -> bool {
        if self.leases.remove(&id).is_none() {
            return false;
        }
        let attached: BTreeSet<Bytes> = self
            .keys
            .keys()
            .filter(|key| self.at(key, self.now()).is_some_and(|v| v.meta.lease == id))
            .cloned()
            .collect();
        for key in attached {
            self.delete_key(&key);
        }
        true
    }

    fn previous(&self, key: &Bytes, wanted: bool) -> Option<KeyValue> {
        (wanted && self.at(key, self.now()).is_some()).then(|| self.kv(key, self.now(), false))
    }

    fn put(&mut self, put: &Put) -> PutReply {
        let reply = PutReply { revision: Revision::ZERO, previous: self.previous(&put.key, put.prev_kv) };
        let old = self.at(&put.key, self.now()).cloned();
        let meta = KeyMeta {
            create_revision: old.as_ref().map_or(Revision(self.now()), |old| old.meta.create_revision),
            mod_revision: Revision(self.now()),
            version: old.as_ref().map_or(1, |old| old.meta.version + 1),
            lease: if put.ignore_lease { old.as_ref().map_or(0, |old| old.meta.lease) } else { put.lease },
        };
        let value = match &old {
            Some(old) if put.ignore_value => old.value.clone().expect("a live version"),
            _ => put.value.clone(),
        };
        let previous = self.previous(&put.key, true);
        self.keys.entry(put.key.clone()).or_default().push(Version { meta, value: Some(value.clone()) });
        let kv = KeyValue { key: put.key.clone(), meta, value: Value::Here(value) };
        self.events.entry(self.making).or_default().push(Event { kind: EventKind::Put, kv, previous });
        reply
    }

    fn delete_key(&mut self, key: &Bytes) {
        let previous = self.previous(key, true);
        let meta = KeyMeta { mod_revision: Revision(self.now()), ..KeyMeta::default() };
        self.keys.entry(key.clone()).or_default().push(Version { meta, value: None });
        let kv = KeyValue { key: key.clone(), meta, value: Value::Absent };
        self.events.entry(self.making).or_default().push(Event { kind: EventKind::Delete, kv, previous });
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteReply {
        let keys = self.live_keys(&delete.key, &delete.end, self.now());
        let previous = keys.iter().filter_map(|key| self.previous(key, delete.prev_kv)).collect();
        for key in &keys {
            self.delete_key(key);
        }
        DeleteReply { revision: Revision::ZERO, deleted: keys.len() as u64, previous }
    }

    fn txn(&mut self, txn: &Txn) -> TxnReply {
        let succeeded = self.holds(&txn.compare);
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let responses = branch
            .iter()
            .map(|op| match op {
                Op::Put(put) => OpReply::Put(self.put(put)),
                Op::DeleteRange(delete) => OpReply::DeleteRange(self.delete(delete)),
                Op::Txn(txn) => OpReply::Txn(self.txn(txn)),
                Op::Range(query) => {
                    let reply = self.range(query, self.now()).expect("refused before anything changed");
                    OpReply::Range(RangeReply { revision: Revision::ZERO, ..reply })
                }
            })
            .collect();
        TxnReply { revision: Revision::ZERO, succeeded, responses }
    }

    fn holds(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| {
            let keys = self.live_keys(&compare.key, &compare.end, self.now());
            if keys.is_empty() {
                return !matches!(compare.target, CompareTarget::Value(_)) && compared(compare, None);
            }
            keys.iter().all(|key| compared(compare, self.at(key, self.now())))
        })
    }
}

fn compared(compare: &Compare, version: Option<&Version>) -> bool {
    let meta = version.map(|v| v.meta).unwrap_or_default();
    let ordering = match &compare.target {
        CompareTarget::Version(v) => (meta.version as i64).cmp(v),
        CompareTarget::Create(r) => (meta.create_revision.0 as i64).cmp(r),
        CompareTarget::Mod(r) => (meta.mod_revision.0 as i64).cmp(r),
        CompareTarget::Lease(l) => meta.lease.cmp(l),
        CompareTarget::Value(value) => version.and_then(|v| v.value.clone()).unwrap_or_default().cmp(value),
    };
    match compare.op {
        CompareOp::Equal => ordering.is_eq(),
        CompareOp::Greater => ordering.is_gt(),
        CompareOp::Less => ordering.is_lt(),
        CompareOp::NotEqual => ordering.is_ne(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Command {
        Command::Put(Put {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            lease: 0,
            prev_kv: true,
            ignore_value: false,
            ignore_lease: false,
        })
    }

    fn delete(key: &'static str) -> DeleteRange {
        DeleteRange { key: Bytes::from_static(key.as_bytes()), end: RangeEnd::Single, prev_kv: false }
    }

    #[test]
    fn revisions_versions_and_tombstones_count_as_in_etcd() {
        let mut reference = Reference::default();
        assert!(
            matches!(reference.apply(&put("a", "1"), Term(1)), Reply::Put(p) if p.revision == Revision(2) && p.previous.is_none())
        );
        let Reply::Put(second) = reference.apply(&put("a", "2"), Term(1)) else {
            panic!("a put answers as one")
        };
        assert_eq!(second.previous.unwrap().meta.version, 1);
        let Reply::DeleteRange(gone) = reference.apply(&Command::DeleteRange(delete("b")), Term(1)) else {
            panic!()
        };
        assert_eq!((gone.revision, gone.deleted), (Revision(3), 0));
        reference.apply(&Command::DeleteRange(delete("a")), Term(1));
        assert_eq!(reference.revision(), 4);
        assert_eq!(reference.events_at(4)[0].kind, EventKind::Delete);
        reference.apply(&put("a", "3"), Term(1));
        assert_eq!(reference.at(&Bytes::from_static(b"a"), 5).unwrap().meta.create_revision, Revision(5));
        assert!(reference.at(&Bytes::from_static(b"a"), 4).is_none());
    }

    #[test]
    fn an_expiry_decided_in_an_earlier_term_changes_nothing() {
        let mut reference = Reference::default();
        reference.apply(&Command::LeaseGrant { id: 7, ttl_seconds: 5 }, Term(1));
        let expire = Command::LeaseExpire { term: Term(1), ids: vec![7] };
        assert!(
            matches!(reference.apply(&expire, Term(2)), Reply::LeaseExpire { expired, .. } if expired.is_empty())
        );
        assert!(
            matches!(reference.apply(&expire, Term(1)), Reply::LeaseExpire { expired, .. } if expired == [7])
        );
    }
}
