//! A lock that dies with its lease: the recipe of etcd's own clients, so that they exclude each other.
//!
//! Invariant: of all keys under the lock's name, the one created first holds the lock; whoever returns from acquiring
//! has seen that its own key is that one and still exists.

use std::time::Duration;

use bytes::Bytes;

use crate::Client;
use crate::call::Plan;
use crate::error::{Error, ErrorKind};
use crate::keep_alive::{KeepAlive, LeaseLost};
use crate::keys::Keys;
use crate::kv::{RangeOptions, SortBy};
use crate::txn::{Compare, Is, Op, OpResponse, Txn};
use crate::watch::{EventKind, WatchOptions};

/// Why a lock is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockLost {
    #[error(transparent)]
    Lease(#[from] LeaseLost),
    /// Its key was deleted while its lease lives.
    #[error("it was taken away by force")]
    Removed,
}

/// A held lock.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    key: Bytes,
    revision: i64,
    lease: i64,
    alive: Option<KeepAlive>,
}

impl Client {
    /// Waits for the lock `name` and takes it, under a lease of its own that is kept alive while the [`Lock`] is.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let lock = client.lock("jobs/nightly", 10).await?;
    /// // Whatever is changed under the lock should refuse smaller revisions than this one.
    /// println!("fencing token: {}", lock.revision());
    /// lock.unlock().await?;
    /// # Ok(()) }
    /// ```
    pub async fn lock(&self, name: &str, ttl_seconds: i64) -> Result<Lock, Error> {
        self.lock_with_value(name, b"", ttl_seconds).await
    }

    /// The same with a value in the key that holds the lock.
    pub(crate) async fn lock_with_value(
        &self,
        name: &str,
        value: &[u8],
        ttl_seconds: i64,
    ) -> Result<Lock, Error> {
        let lease = self.lease_grant(ttl_seconds).await?.id;
        let alive = self.lease_keep_alive(lease).await?;
        let taken = tokio::select! {
            taken = self.take_turn(name, value, lease) => taken,
            why = alive.lost() => Err(Error::new(ErrorKind::LeaseNotFound, why.to_string())),
        };
        match taken {
            Ok(lock) => Ok(Lock { alive: Some(alive), ..lock }),
            Err(error) => {
                // Else the key would keep others waiting until the lease's time is over.
                let _ = self.lease_revoke(lease).await;
                Err(error)
            }
        }
    }

    /// Waits for the lock `name` and takes it under a lease that the caller keeps alive. Given up half way, its place in
    /// the queue stays until the lease ends.
    pub async fn lock_under_lease(&self, name: &str, lease: i64) -> Result<Lock, Error> {
        self.take_turn(name, b"", lease).await
    }

    async fn take_turn(&self, name: &str, value: &[u8], lease: i64) -> Result<Lock, Error> {
        let key = format!("{name}/{lease:x}");
        let revision = self.enqueue(&key, value, lease).await?;
        while self.wait_for_predecessor(name, revision).await? {}
        // The lease may have ended while others were waited for.
        let own = self.get(&key).await?;
        if own.is_none_or(|own| own.create_revision != revision) {
            let why = format!("lease {lease:x} ended while the lock {name:?} was waited for");
            return Err(Error::new(ErrorKind::LeaseNotFound, why));
        }
        Ok(Lock { client: self.clone(), key: Bytes::from(key), revision, lease, alive: None })
    }

    /// Puts a key in the queue, and answers its place: the revision that created it.
    async fn enqueue(&self, key: &str, value: &[u8], lease: i64) -> Result<i64, Error> {
        let txn = Txn::new()
            .when([Compare::create_revision(key, Is::Equal, 0)])
            .and_then([Op::put_with(key, value, crate::PutOptions::new().lease(lease))])
            .or_else([Op::get(key)]);
        // A second time it finds its own key, so it may be repeated.
        let answer = self.txn_planned(txn, Plan::READ).await?;
        let found = match answer.responses.first() {
            Some(OpResponse::Put(_)) => answer.header.map(|header| header.revision),
            Some(OpResponse::Get(found)) => found.kvs.first().map(|kv| kv.create_revision),
            _ => None,
        };
        found.ok_or_else(|| Error::new(ErrorKind::Other, "the server's answer does not fit the transaction"))
    }

    /// Waits until the next one in front is gone. Answers whether there was one: there may be others then.
    async fn wait_for_predecessor(&self, name: &str, revision: i64) -> Result<bool, Error> {
        let options =
            RangeOptions::new().create_revisions(0, revision - 1).descending(SortBy::CreateRevision).limit(1);
        let queue = self.range(Keys::prefix(format!("{name}/")), options).await?;
        let Some(front) = queue.kvs.into_iter().next() else { return Ok(false) };
        let seen_at = queue.header.map_or(front.mod_revision, |header| header.revision);
        self.wait_for_delete(&front.key, seen_at + 1).await?;
        Ok(true)
    }

    /// Waits until a key is deleted, from a revision on. It may return without: look again.
    async fn wait_for_delete(&self, key: &[u8], from: i64) -> Result<(), Error> {
        let options = WatchOptions::new().start_revision(from).no_puts();
        let mut watch = match self.watch(key, options).await {
            Ok(watch) => watch,
            Err(error) if error.kind() == ErrorKind::Compacted => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(response) = watch.next().await {
            match response {
                Ok(response) if response.events.iter().any(|event| event.kind == EventKind::Delete) => {
                    return Ok(());
                }
                Ok(_) => {}
                // What was missed is seen by looking again.
                Err(error) if error.kind() == ErrorKind::Compacted => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the key that `revision` created is gone.
    async fn wait_gone(&self, key: &[u8], revision: i64) -> Result<(), Error> {
        loop {
            let found = self.range(Keys::one(key), RangeOptions::new()).await?;
            let own = found.kvs.first().filter(|kv| kv.create_revision == revision);
            let Some(own) = own else { return Ok(()) };
            let seen_at = found.header.map_or(own.mod_revision, |header| header.revision);
            self.wait_for_delete(key, seen_at + 1).await?;
        }
    }
}

impl Lock {
    /// The key that holds the lock.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// A number that rises from holder to holder: the fencing token.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The lease that the lock lives under.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Waits until the lock is lost: its lease is over, or somebody took it away by force.
    pub async fn lost(&self) -> LockLost {
        let lease = async {
            match &self.alive {
                Some(alive) => alive.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = lease => LockLost::Lease(why),
            why = self.gone() => why,
        }
    }

    /// Waits until the key that holds the lock is gone. It goes with its lease, or without it.
    async fn gone(&self) -> LockLost {
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        // Where it can't be seen, the lease alone tells.
        while self.client.wait_gone(&self.key, self.revision).await.is_err() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        match self.client.lease_time_to_live(self.lease, false).await {
            Ok(None) => LockLost::Lease(LeaseLost::Gone),
            Ok(Some(_)) | Err(_) => LockLost::Removed,
        }
    }

    /// Frees the lock. Where this fails, it frees itself when its lease ends.
    pub async fn unlock(self) -> Result<(), Error> {
        let txn = Txn::new()
            .when([Compare::create_revision(&self.key, Is::Equal, self.revision)])
            .and_then([Op::delete(&self.key)]);
        // A second time it finds nothing, so it may be repeated.
        self.client.txn_planned(txn, Plan::READ).await?;
        if self.alive.is_some() {
            match self.client.lease_revoke(self.lease).await {
                Err(error) if error.kind() != ErrorKind::LeaseNotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
