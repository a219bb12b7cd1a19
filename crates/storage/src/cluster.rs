//! Storage in a cluster of Quorate, or of anything else that speaks etcd v3.
//!
//! Each operation is one request: conditions are compared by the cluster, in the transaction that writes.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::{
    Client, Compare, ErrorKind, EventKind, Is as Comparison, KeyValue, Keys, LeaseLost, Op, OpResponse,
    PutOptions, RangeOptions, StatusResponse, Txn, TxnResponse, WatchOptions,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::atomic::{
    Answer, AtomicStorage, Commit, Committed, Condition, Entry, Is, LeaseGuard, LeaseStorage, Page, Reading,
    Write,
};
use crate::error::StorageError;
use crate::limits::Limits;
use crate::lock::LockLost;

/// Keys of one request of a scan.
const SCAN_KEYS: i64 = 1000;
/// A scan whose revision is compacted away begins anew this often.
const SCANS_MAX: u32 = 5;

/// What one endpoint answered to a probe.
#[derive(Debug)]
pub struct Probe {
    pub endpoint: String,
    pub status: Result<StatusResponse, quorate_client::Error>,
}

impl Probe {
    /// Whether the member answers and knows a leader.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status.as_ref().is_ok_and(|status| status.leader != 0)
    }
}

/// See the module. Clones share their connections and endpoints.
#[derive(Clone, Debug)]
pub struct Cluster {
    client: Client,
    limits: Limits,
}

impl Cluster {
    /// Storage over a client, whose timeouts, endpoints and TLS files it uses.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, limits: Limits::default() }
    }

    /// With the limits that the cluster's servers are set to.
    #[must_use]
    pub fn with_limits(client: Client, limits: Limits) -> Self {
        Self { client, limits }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Replaces the endpoints while requests run, for all that use this storage: whatever holds it goes on with the new
    /// ones. A bad list changes nothing. They have to be endpoints of the same cluster; to move to another one, see
    /// [`crate::Switch`].
    pub fn set_endpoints(
        &self,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<(), StorageError> {
        self.client.set_endpoints(endpoints).map_err(|source| StorageError::Refused { source })
    }

    /// Asks each endpoint for its state, all at the same time. It takes as long as the slowest: where one does not
    /// answer, the client's request timeout.
    pub async fn probe(&self) -> Vec<Probe> {
        let mut probes = self.probing().join_all().await;
        let order = self.client.endpoints();
        probes.sort_by_key(|probe| order.iter().position(|endpoint| *endpoint == probe.endpoint));
        probes
    }

    /// Asks all endpoints until one is healthy; what they answered where none is.
    pub async fn wait_healthy(&self) -> Result<(), Vec<Probe>> {
        let mut probing = self.probing();
        let mut sick = Vec::new();
        while let Some(Ok(probe)) = probing.join_next().await {
            if probe.is_healthy() {
                return Ok(());
            }
            sick.push(probe);
        }
        Err(sick)
    }

    fn probing(&self) -> JoinSet<Probe> {
        let mut probing = JoinSet::new();
        for endpoint in self.client.endpoints() {
            let client = self.client.clone();
            probing.spawn(async move {
                let status = client.status(&endpoint).await;
                Probe { endpoint, status }
            });
        }
        probing
    }

    async fn read_keys(&self, keys: &[Bytes]) -> Result<Reading, StorageError> {
        self.limits.check_keys(keys.iter().map(|key| &key[..]))?;
        let txn = Txn::new().and_then(keys.iter().map(Op::get));
        let answer = self.client.txn(txn).await?;
        reading(answer.header.map_or(0, |header| header.revision), answer.responses, keys.len())
    }

    async fn read_page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: i64,
        revision: i64,
    ) -> Result<Page, StorageError> {
        let keys = match after.filter(|after| *after >= prefix) {
            // The key that comes next after a key is that key and a zero byte.
            Some(after) => Keys::prefix_from(prefix, [after, b"\0"].concat()),
            None => Keys::prefix(prefix),
        };
        let options = RangeOptions::new().limit(limit).revision(revision);
        let answer = self.client.range(keys, options).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(Page { revision, more: answer.more, entries: answer.kvs.into_iter().map(entry).collect() })
    }

    async fn scan(&self, prefix: &[u8]) -> Result<Vec<Entry>, StorageError> {
        let mut scans = 1;
        loop {
            match self.scan_once(prefix).await {
                Err(StorageError::Refused { source })
                    if source.kind() == ErrorKind::Compacted && scans < SCANS_MAX =>
                {
                    scans += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// All pages as of the first one's revision.
    async fn scan_once(&self, prefix: &[u8]) -> Result<Vec<Entry>, StorageError> {
        let mut page = self.read_page(prefix, None, SCAN_KEYS, 0).await?;
        let revision = page.revision;
        let mut entries = std::mem::take(&mut page.entries);
        while page.more {
            let last = entries.last().map(|entry| entry.key.clone());
            page = self.read_page(prefix, last.as_deref(), SCAN_KEYS, revision).await?;
            entries.append(&mut page.entries);
        }
        Ok(entries)
    }

    async fn send_commit(&self, commit: Commit) -> Result<Committed, StorageError> {
        self.limits.check(&commit)?;
        let txn = Txn::new()
            .when(commit.conditions.iter().map(compare))
            .when(
                commit
                    .tokens
                    .iter()
                    .map(|token| Compare::create_revision(&token.key, Comparison::Equal, token.revision)),
            )
            .and_then(commit.writes.iter().map(op))
            .or_else(commit.conditions.iter().map(|condition| Op::get(&condition.key)))
            .or_else(commit.tokens.iter().map(|token| Op::get(&token.key)));
        let sent = match commit.repeatable {
            true => self.client.txn_repeatable(txn).await,
            false => self.client.txn(txn).await,
        };
        match sent {
            Ok(answer) => committed(&commit, answer),
            Err(error) => Err(refused(&commit, self.limits, error)),
        }
    }

    /// Whether the key as created by this revision is still there, and the revision that says so.
    async fn exists(&self, key: &[u8], create_revision: i64) -> Result<Option<i64>, StorageError> {
        let answer = self.client.range(Keys::one(key), RangeOptions::new()).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let same = answer.kvs.first().is_some_and(|kv| kv.create_revision == create_revision);
        Ok(same.then_some(revision))
    }

    async fn watch_until_gone(&self, key: &[u8], create_revision: i64) -> Result<(), StorageError> {
        while let Some(revision) = self.exists(key, create_revision).await? {
            let options = WatchOptions::new().start_revision(revision + 1).no_puts();
            let mut watch = match self.client.watch(Keys::one(key), options).await {
                Ok(watch) => watch,
                // What was missed is seen by looking again.
                Err(error) if error.kind() == ErrorKind::Compacted => continue,
                Err(error) => return Err(error.into()),
            };
            loop {
                match watch.next().await {
                    Some(Ok(response)) => {
                        if response.events.iter().any(|event| event.kind == EventKind::Delete) {
                            return Ok(());
                        }
                    }
                    Some(Err(error)) if error.kind() != ErrorKind::Compacted => return Err(error.into()),
                    Some(Err(_)) | None => break,
                }
            }
        }
        Ok(())
    }
}

fn entry(kv: KeyValue) -> Entry {
    Entry {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        lease: kv.lease,
    }
}

fn compare(condition: &Condition) -> Compare {
    let key = &condition.key;
    match &condition.is {
        Is::Absent => Compare::create_revision(key, Comparison::Equal, 0),
        Is::Present => Compare::create_revision(key, Comparison::Greater, 0),
        Is::Value(value) => Compare::value(key, Comparison::Equal, value),
        Is::ModRevision(revision) => Compare::mod_revision(key, Comparison::Equal, *revision),
        Is::CreateRevision(revision) => Compare::create_revision(key, Comparison::Equal, *revision),
    }
}

fn op(write: &Write) -> Op {
    match write {
        Write::Put { key, value, lease } => Op::put_with(key, value, PutOptions::new().lease(*lease)),
        Write::Delete { key } => Op::delete(key),
    }
}

fn reading(revision: i64, responses: Vec<OpResponse>, keys: usize) -> Result<Reading, StorageError> {
    let mut entries = Vec::with_capacity(keys);
    for response in responses.into_iter().take(keys) {
        match response {
            OpResponse::Get(mut answer) => entries.push(answer.kvs.pop().map(entry)),
            _ => return Err(StorageError::BadAnswer("a read was answered with something else")),
        }
    }
    if entries.len() < keys {
        return Err(StorageError::BadAnswer("a read was not answered"));
    }
    Ok(Reading { revision, entries, source: 0 })
}

fn committed(commit: &Commit, answer: TxnResponse) -> Result<Committed, StorageError> {
    let revision = answer.header.map_or(0, |header| header.revision);
    if answer.succeeded {
        let deleted = answer.responses.iter().map(|response| match response {
            OpResponse::Delete(answer) => usize::try_from(answer.deleted).unwrap_or(0),
            _ => 0,
        });
        return Ok(Committed::Yes { revision, deleted: deleted.sum() });
    }
    let (conditions, tokens) = (commit.conditions.len(), commit.tokens.len());
    let mut all = reading(revision, answer.responses, conditions + tokens)?;
    let locks = all.entries.split_off(conditions);
    let tokens_hold =
        commit.tokens.iter().zip(&locks).all(|(token, entry)| {
            entry.as_ref().is_some_and(|entry| entry.create_revision == token.revision)
        });
    Ok(Committed::No { reading: all, tokens_hold })
}

/// What a failed commit means, with what it was about.
fn refused(commit: &Commit, limits: Limits, error: quorate_client::Error) -> StorageError {
    let lease = commit.writes.iter().find_map(|write| match write {
        Write::Put { lease, .. } if *lease != 0 => Some(*lease),
        _ => None,
    });
    match (error.kind(), lease) {
        (ErrorKind::LeaseNotFound, Some(lease)) => StorageError::NoLease { lease },
        (ErrorKind::RequestTooLarge, _) => {
            StorageError::TooLarge { bytes: commit.size_bytes(), max: limits.request_bytes_max }
        }
        _ => error.into(),
    }
}

impl AtomicStorage for Cluster {
    fn read<'a>(&'a self, keys: &'a [Bytes]) -> Answer<'a, Reading> {
        Box::pin(self.read_keys(keys))
    }

    fn page<'a>(&'a self, prefix: &'a [u8], after: Option<&'a [u8]>, limit: usize) -> Answer<'a, Page> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Box::pin(self.read_page(prefix, after, limit, 0))
    }

    fn get_prefix<'a>(&'a self, prefix: &'a [u8]) -> Answer<'a, Vec<Entry>> {
        Box::pin(self.scan(prefix))
    }

    fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
        Box::pin(self.send_commit(commit))
    }
}

impl LeaseStorage for Cluster {
    fn grant_lease(&self, ttl_seconds: u32) -> Answer<'_, i64> {
        Box::pin(async move { Ok(self.client.lease_grant(i64::from(ttl_seconds)).await?.id) })
    }

    fn keep_lease_alive(&self, lease: i64) -> Answer<'_, LeaseGuard> {
        Box::pin(async move {
            let alive = match self.client.lease_keep_alive(lease).await {
                Err(error) if error.kind() == ErrorKind::LeaseNotFound => {
                    return Err(StorageError::NoLease { lease });
                }
                outcome => outcome?,
            };
            let (sender, lost) = watch::channel(None);
            let task = tokio::spawn(async move {
                let why = match alive.lost().await {
                    LeaseLost::Gone => LockLost::LeaseEnded,
                    LeaseLost::NotRenewed => LockLost::NotRenewed,
                };
                sender.send_replace(Some(why));
            });
            Ok(LeaseGuard::new(lost, task.abort_handle()))
        })
    }

    fn revoke_lease(&self, lease: i64) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.client.lease_revoke(lease).await {
                Err(error) if error.kind() != ErrorKind::LeaseNotFound => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    fn lease_seconds_left(&self, lease: i64) -> Answer<'_, Option<i64>> {
        Box::pin(async move {
            let left = self.client.lease_time_to_live(lease, false).await?;
            Ok(left.map(|left| left.remaining_seconds))
        })
    }

    fn wait_gone<'a>(&'a self, key: &'a [u8], create_revision: i64) -> Answer<'a, ()> {
        /// Between two tries to watch, while no member can be asked.
        const PAUSE: Duration = Duration::from_millis(200);
        Box::pin(async move {
            loop {
                match self.watch_until_gone(key, create_revision).await {
                    Err(StorageError::Unavailable { .. } | StorageError::OutcomeUnknown { .. }) => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    outcome => return outcome,
                }
            }
        })
    }
}
