//! Elections: one of several candidates leads, and the others are told which. The recipe of etcd's own clients, so that
//! their candidates and ours stand in one election.
//!
//! Invariant: who leads holds the lock of the election's name; what it proclaims is the value of the key that holds it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::Client;
use crate::call::Plan;
use crate::error::{Error, ErrorKind};
use crate::keys::Keys;
use crate::kv::{KeyValue, PutOptions, RangeOptions, ResponseHeader, SortBy};
use crate::lock::{Lock, LockLost};
use crate::txn::{Compare, Is, Op, Txn};
use crate::watch::{Event, EventKind, Watch, WatchOptions};

/// The leadership of an election, held until it is resigned or its lease is lost.
#[derive(Debug)]
pub struct Leadership {
    client: Client,
    lock: Lock,
}

impl Client {
    /// Stands for election and waits until elected, under a lease of its own that is kept alive while the
    /// [`Leadership`] is. `value` is what the others are told of the leader.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let leadership = client.campaign("cleaner", "host-7", 10).await?;
    /// tokio::select! {
    ///     why = leadership.lost() => println!("no longer leading: {why}"),
    ///     () = async { /* lead */ } => leadership.resign().await?,
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn campaign(
        &self,
        name: &str,
        value: impl AsRef<[u8]>,
        ttl_seconds: i64,
    ) -> Result<Leadership, Error> {
        let lock = self.lock_with_value(name, value.as_ref(), ttl_seconds).await?;
        Ok(Leadership { client: self.clone(), lock })
    }

    /// The leader's key and value; `None` while nobody leads.
    pub async fn election_leader(&self, name: &str) -> Result<Option<KeyValue>, Error> {
        Ok(self.leader_and_header(name).await?.0)
    }

    async fn leader_and_header(&self, name: &str) -> Result<(Option<KeyValue>, ResponseHeader), Error> {
        let options = RangeOptions::new().ascending(SortBy::CreateRevision).limit(1);
        let mut found = self.range(candidates(name), options).await?;
        Ok((found.kvs.pop(), found.header.unwrap_or_default()))
    }

    /// Follows who leads an election, and what the leader proclaims. It begins with the leader of now.
    #[must_use]
    pub fn observe_election(&self, name: &str) -> Observation {
        Observation { client: self.clone(), name: name.to_owned(), leader: None }
    }
}

fn candidates(name: &str) -> Keys {
    Keys::prefix(format!("{name}/"))
}

impl Leadership {
    /// The key that stands for the leadership.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.lock.key()
    }

    /// A number that rises from leader to leader: the fencing token.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.lock.revision()
    }

    /// Tells the others something new. Fails with [`ErrorKind::LeaseNotFound`] where the leadership is lost.
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = Bytes::copy_from_slice(self.key());
        let put = PutOptions::new().lease(self.lock.lease());
        let txn = Txn::new()
            .when([Compare::create_revision(&key, Is::Equal, self.revision())])
            .and_then([Op::put_with(&key, value, put)]);
        // Not repeated: an attempt that comes late could undo what was proclaimed after it.
        if self.client.txn_planned(txn, Plan::WRITE).await?.succeeded {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LeaseNotFound, "the leadership is lost"))
    }

    /// Waits until the lease is lost, and with it the leadership.
    pub async fn lost(&self) -> LockLost {
        self.lock.lost().await
    }

    /// Ends the leadership. Where this fails, it ends with its lease.
    pub async fn resign(self) -> Result<(), Error> {
        self.lock.unlock().await
    }
}

/// Who leads an election, each time that this or what the leader proclaims changes. What was proclaimed between two
/// looks of a slow reader is all delivered.
#[derive(Debug)]
pub struct Observation {
    client: Client,
    name: String,
    leader: Option<Led>,
}

/// The leader's key is watched; these of its events are yet to be looked at.
#[derive(Debug)]
struct Led {
    watch: Watch,
    events: VecDeque<Event>,
}

impl Observation {
    /// The leader, once there is one that was not told of yet.
    pub async fn next(&mut self) -> Result<KeyValue, Error> {
        loop {
            match &mut self.leader {
                Some(led) => match led.next().await? {
                    Some(proclaimed) => return Ok(proclaimed),
                    None => self.leader = None,
                },
                None => {
                    let (leader, header) = self.client.leader_and_header(&self.name).await?;
                    let from = WatchOptions::new().start_revision(header.revision + 1);
                    match leader {
                        Some(leader) => {
                            let watch = match self.client.watch(&leader.key, from).await {
                                Ok(watch) => watch,
                                Err(error) if error.kind() == ErrorKind::Compacted => continue,
                                Err(error) => return Err(error),
                            };
                            self.leader = Some(Led { watch, events: VecDeque::new() });
                            return Ok(leader);
                        }
                        None => self.wait_for_candidate(from.no_deletes()).await?,
                    }
                }
            }
        }
    }

    async fn wait_for_candidate(&self, from: WatchOptions) -> Result<(), Error> {
        let mut watch = match self.client.watch(candidates(&self.name), from).await {
            Ok(watch) => watch,
            // What was missed is seen by looking again.
            Err(error) if error.kind() == ErrorKind::Compacted => return Ok(()),
            Err(error) => return Err(error),
        };
        loop {
            match watch.next().await {
                Some(Ok(response)) if response.is_progress() => {}
                Some(Err(error)) if error.kind() != ErrorKind::Compacted => return Err(error),
                _ => return Ok(()),
            }
        }
    }
}

impl Led {
    /// The next value that the leader proclaimed; `None` once its leadership is over.
    async fn next(&mut self) -> Result<Option<KeyValue>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok((event.kind == EventKind::Put).then_some(event.kv));
            }
            match self.watch.next().await {
                Some(Ok(response)) => self.events.extend(response.events),
                Some(Err(error)) if error.kind() != ErrorKind::Compacted => return Err(error),
                _ => return Ok(None),
            }
        }
    }
}
