//! What locks and elections have in common: who holds a lease puts a key behind all earlier ones of a name, and waits
//! until those are gone.
//!
//! Invariants: a place in the queue is the key's create revision, so the order is the log's; a place ends with its
//! lease; whoever stops waiting gives its place up. Keys before a place can only go, never come, so this member's own
//! tables say when a turn has come, with or without a leader; that the place itself still stands then is asked of a
//! majority.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_member::RequestError;
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Command, Compare, CompareOp, CompareTarget, DeleteRange, KeyMeta, KeyValue, Op, OpReply, Put,
    RangeEnd, RangeQuery, Reply, SortOrder, SortTarget, Txn,
};

use super::errors::Status;
use super::kv::unexpected;
use super::waits::SEPARATOR;
use super::{Shared, Thread};

/// The time to live of a lease that is granted for a request without one.
const SESSION_TTL_SECONDS: i64 = 60;
/// Between two tries to ask a majority.
const RETRY: Duration = Duration::from_millis(100);

/// The keys of one name.
#[derive(Clone)]
pub(super) struct Name {
    prefix: Bytes,
}

impl Name {
    pub(super) fn new(name: &[u8]) -> Self {
        Self { prefix: [name, &[SEPARATOR]].concat().into() }
    }

    pub(super) fn prefix(&self) -> Bytes {
        self.prefix.clone()
    }

    /// The key of a lease, as etcd's clients make it.
    fn key(&self, lease: i64) -> Bytes {
        let sign = if lease < 0 { "-" } else { "" };
        let hex = format!("{sign}{:x}", lease.unsigned_abs());
        [&self.prefix[..], hex.as_bytes()].concat().into()
    }

    fn all(&self) -> RangeQuery {
        let mut end = self.prefix.to_vec();
        // The separator is not the last byte there is.
        *end.last_mut().expect("a prefix ends in its separator") += 1;
        RangeQuery::new(self.prefix.clone(), RangeEnd::Before(end.into()))
    }

    /// The first in the queue.
    pub(super) fn first(&self) -> RangeQuery {
        RangeQuery { limit: 1, sort_target: SortTarget::Create, sort_order: SortOrder::Ascend, ..self.all() }
    }

    /// The last one before a place.
    fn last_before(&self, place: Revision) -> RangeQuery {
        RangeQuery {
            limit: 1,
            sort_target: SortTarget::Create,
            sort_order: SortOrder::Descend,
            max_create_revision: Revision(place.0 - 1),
            keys_only: true,
            ..self.all()
        }
    }
}

/// A key whose create revision is the place in the queue. Given up when it is dropped, unless it was kept.
pub(super) struct Place {
    shared: Arc<Shared>,
    pub(super) key: Bytes,
    pub(super) created: Revision,
    /// The store's revision when the place was taken.
    pub(super) revision: Revision,
    /// The key was there before, with this value.
    pub(super) held: Option<KeyValue>,
    kept: bool,
}

impl Place {
    /// It stays, until it is given up by its owner or its lease ends.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.kept {
            return;
        }
        let (shared, delete) =
            (Arc::clone(&self.shared), if_created(&self.key, self.created, delete(&self.key)));
        runtime.spawn(async move {
            // Once: what fails here ends with the lease.
            if let Err(error) = shared.handle.propose(ModelId::KEYS, keys::encode(&delete)).await {
                tracing::debug!(%error, "a place in a queue ends with its lease: it can't be given up");
            }
        });
    }
}

pub(super) fn delete(key: &Bytes) -> Op {
    Op::DeleteRange(DeleteRange { key: key.clone(), end: RangeEnd::Single, prev_kv: false })
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> Op {
    let key = key.clone();
    Op::Put(Put { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false })
}

/// Does `op` if the key was created at this revision.
pub(super) fn if_created(key: &Bytes, at: Revision, op: Op) -> Command {
    let target = CompareTarget::Create(super::answers::signed(at));
    let compare = Compare { key: key.clone(), end: RangeEnd::Single, op: CompareOp::Equal, target };
    Command::Txn(Txn { compare: vec![compare], success: vec![op], failure: Vec::new() })
}

impl Thread {
    /// The lease that a request names, or a new one.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let id = self.next_lease_id();
        match self.propose(&Command::LeaseGrant { id, ttl_seconds: SESSION_TTL_SECONDS }).await? {
            Reply::LeaseGrant { id, .. } => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes the last place in the queue, or finds the one that the lease has already.
    pub(super) async fn take_place(&self, name: &Name, lease: i64, value: Bytes) -> Result<Place, Status> {
        let key = name.key(lease);
        let get = Op::Range(RangeQuery::point(key.clone()));
        let Command::Txn(mut txn) = if_created(&key, Revision::ZERO, put(&key, value, lease)) else {
            unreachable!("a conditional operation is a transaction")
        };
        txn.failure = vec![get];
        let reply = match self.propose(&Command::Txn(txn)).await? {
            Reply::Txn(reply) => reply,
            other => return Err(unexpected(&other)),
        };
        let held = match reply.responses.first() {
            Some(OpReply::Range(range)) => range.kvs.first().cloned(),
            _ => None,
        };
        let created = held.as_ref().map_or(reply.revision, |kv| kv.meta.create_revision);
        let shared = Arc::clone(&self.shared);
        Ok(Place { shared, key, created, revision: reply.revision, held, kept: false })
    }

    /// Waits until nobody is before the place. Returns the store's revision, or `None` where the place was lost with
    /// its lease meanwhile.
    pub(super) async fn wait_for_turn(&self, name: &Name, place: &Place) -> Result<Option<Revision>, Status> {
        let mut waited = false;
        while let Some(before) = self.read(&name.last_before(place.created)).await?.kvs.pop() {
            waited = true;
            let waiting = self.waits.on(before.key.clone());
            loop {
                let change = waiting.change();
                let now = self.meta(&before.key).await?.1;
                if now.is_none_or(|now| now.create_revision != before.meta.create_revision) {
                    break;
                }
                change.await;
            }
        }
        if !waited {
            return Ok(Some(place.revision));
        }
        self.read_index_patiently().await?;
        let (revision, own) = self.meta(&place.key).await?;
        Ok(own.filter(|own| own.create_revision == place.created).map(|_| revision))
    }

    /// The store's revision, and what is known of a key.
    async fn meta(&self, key: &Bytes) -> Result<(Revision, Option<KeyMeta>), Status> {
        let query = RangeQuery { keys_only: true, ..RangeQuery::point(key.clone()) };
        let reply = self.read(&query).await?;
        Ok((reply.revision, reply.kvs.first().map(|kv| kv.meta)))
    }

    /// A read index, whatever time a new leader takes: the client's own patience is the bound.
    pub(super) async fn read_index_patiently(&self) -> Result<(), Status> {
        loop {
            match self.handle().read_index().await {
                Ok(_) => return Ok(()),
                Err(
                    RequestError::NoLeader
                    | RequestError::LeaderChanged
                    | RequestError::TimedOut
                    | RequestError::Overloaded,
                ) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_etcds_clients_make() {
        let name = Name::new(b"locks/a");
        assert_eq!(name.key(0x1ff), "locks/a/1ff");
        assert_eq!(name.key(-0x10), "locks/a/-10");
        assert_eq!(name.all().end, RangeEnd::Before("locks/a0".into()), "the byte after the separator");
        assert_eq!(Name::new(b"").key(7), "/7");
    }
}
