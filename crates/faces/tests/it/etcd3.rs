//! What etcd v3's clients rely on.

use std::time::Duration;

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(cluster: &Cluster) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let mut client = WatchClient::new(cluster.channel().await);
        let responses = client.watch(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
        Self { requests, responses }
    }

    async fn ask(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(pb::watch_request::RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        next.expect("an answer in time").expect("no failure").expect("no end")
    }
}

fn prefix(key: &'static str, end: &'static str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), range_end: end.into(), start_revision, ..Default::default() }
}

#[tokio::test]
async fn keys_are_put_read_and_deleted() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    let first = client.put(put("a", "1")).await.expect("a put").into_inner();
    let header = first.header.expect("a header");
    assert_eq!(header.revision, 2, "an empty store is at 1");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    let again =
        client.put(pb::PutRequest { prev_kv: true, ..put("a", "2") }).await.expect("a put").into_inner();
    assert_eq!(again.prev_kv.expect("what was there").value, "1");
    client.put(put("b", "3")).await.expect("a put");

    let read = client.range(pb::RangeRequest { limit: 1, ..all() }).await.expect("a range").into_inner();
    assert_eq!((read.kvs.len(), read.count, read.more), (1, 2, true));
    assert_eq!((read.kvs[0].create_revision, read.kvs[0].mod_revision, read.kvs[0].version), (2, 3, 2));
    let past = pb::RangeRequest { revision: 2, ..all() };
    assert_eq!(client.range(past).await.expect("a range").into_inner().kvs[0].value, "1");
    let future = client.range(pb::RangeRequest { revision: 99, ..all() }).await.expect_err("not yet");
    assert_eq!(future.code(), Code::OutOfRange);
    assert_eq!(future.message(), "etcdserver: mvcc: required revision is a future revision");

    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: true };
    let deleted = client.delete_range(delete).await.expect("a delete").into_inner();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (2, 2));
    assert_eq!(client.range(all()).await.expect("a range").into_inner().count, 0);
}

#[tokio::test]
async fn a_large_range_comes_whole() {
    const KEYS: usize = 300;
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await).max_decoding_message_size(64 << 20);
    let value = "v".repeat(10_000);
    for i in 0..KEYS {
        client.put(put(&format!("k{i:04}"), &value)).await.expect("a put");
    }
    let read = client.range(all()).await.expect("a range").into_inner();
    assert_eq!((read.kvs.len(), read.count, read.more), (KEYS, KEYS as i64, false));
    assert!(read.kvs.iter().all(|kv| kv.value == value.as_bytes()));
    let mut stream = client.range_stream(all()).await.expect("a stream").into_inner();
    let mut keys = Vec::new();
    let mut last = None;
    while let Some(part) = stream.message().await.expect("a part") {
        let part = part.range_response.expect("a range");
        keys.extend(part.kvs.iter().map(|kv| kv.key.clone()));
        last = Some(part);
    }
    assert_eq!(keys, read.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>());
    let last = last.expect("at least one part");
    assert_eq!((last.count, last.header.is_some()), (KEYS as i64, true));
}

#[tokio::test]
async fn a_watcher_gets_each_change_once_and_in_order() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    client.put(put("k1", "before")).await.expect("a put");
    let mut watching = Watching::open(&cluster).await;
    let created = watching.create(prefix("k", "l", 2)).await;
    assert!(created.created && created.watch_id == 0);
    client.put(put("k2", "after")).await.expect("a put");
    client.put(put("other", "unwatched")).await.expect("a put");
    client
        .delete_range(pb::DeleteRangeRequest { key: "k1".into(), ..Default::default() })
        .await
        .expect("a delete");
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watching.next().await.events);
    }
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().expect("a version");
            (event.r#type, kv.key.clone(), kv.mod_revision)
        })
        .collect();
    assert_eq!(seen, [(0, "k1".into(), 2), (0, "k2".into(), 3), (1, "k1".into(), 5)]);

    watching.ask(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = watching.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.expect("a header").revision, 5);

    let duplicate = watching.create(pb::WatchCreateRequest { watch_id: 7, ..prefix("x", "", 0) }).await;
    assert!(duplicate.created && !duplicate.canceled);
    let duplicate = watching.create(pb::WatchCreateRequest { watch_id: 7, ..prefix("x", "", 0) }).await;
    assert!(duplicate.created && duplicate.canceled && duplicate.watch_id == -1);
    assert_eq!(duplicate.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    watching
        .ask(pb::watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 7 }))
        .await;
    let canceled = watching.next().await;
    assert!(canceled.canceled && canceled.watch_id == 7);
}

#[tokio::test]
async fn a_watcher_of_compacted_history_is_told_where_it_starts() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    for value in ["1", "2", "3"] {
        client.put(put("k", value)).await.expect("a put");
    }
    client.compact(pb::CompactionRequest { revision: 4, physical: true }).await.expect("a compaction");
    let mut watching = Watching::open(&cluster).await;
    assert!(watching.create(prefix("k", "", 2)).await.created);
    let canceled = watching.next().await;
    assert!(canceled.canceled);
    assert_eq!(canceled.compact_revision, 4);
}

#[tokio::test]
async fn a_slow_watcher_loses_nothing_and_gets_nothing_twice() {
    const PUTS: i64 = 200;
    let cluster = Cluster::with(|face, _| face.watch_queue_bytes_max = 32 * 1024).await;
    let mut client = KvClient::new(cluster.channel().await);
    let mut watching = Watching::open(&cluster).await;
    assert!(watching.create(prefix("k", "l", 0)).await.created);
    // Far more than the windows and the queue hold, before the first event is read.
    let value = "v".repeat(64 * 1024);
    for i in 0..PUTS {
        client.put(put(&format!("k{i}"), &value)).await.expect("a put");
    }
    let mut revisions = Vec::new();
    while revisions.len() < PUTS as usize {
        let events = watching.next().await.events;
        revisions.extend(events.iter().map(|event| event.kv.as_ref().expect("a version").mod_revision));
    }
    assert_eq!(revisions, (2..2 + PUTS).collect::<Vec<_>>());
}

#[tokio::test]
async fn leases_are_granted_kept_alive_and_revoked() {
    let cluster = Cluster::start().await;
    let mut leases = LeaseClient::new(cluster.channel().await);
    let mut client = KvClient::new(cluster.channel().await);
    let granted =
        leases.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 0 }).await.expect("a lease").into_inner();
    assert_eq!(granted.ttl, 100);
    assert!(granted.id > 0);
    client.put(pb::PutRequest { lease: granted.id, ..put("k", "v") }).await.expect("a put");
    let ask = pb::LeaseTimeToLiveRequest { id: granted.id, keys: true };
    let left = leases.lease_time_to_live(ask).await.expect("an answer").into_inner();
    assert_eq!((left.granted_ttl, left.keys.len()), (100, 1));
    assert!((95..=100).contains(&left.ttl), "{} seconds left", left.ttl);
    let alive = tokio_stream::iter([granted.id, 404].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut alive = leases.lease_keep_alive(alive).await.expect("a stream").into_inner();
    assert_eq!(alive.message().await.expect("an answer").expect("one").ttl, 100);
    assert_eq!(alive.message().await.expect("an answer").expect("one").ttl, 0, "a lease that does not exist");
    leases.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await.expect("a revocation");
    assert_eq!(client.range(all()).await.expect("a range").into_inner().count, 0, "its key is gone");
    let missing = leases.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await.expect_err("gone");
    assert_eq!(
        (missing.code(), missing.message()),
        (Code::NotFound, "etcdserver: requested lease not found")
    );
}

#[tokio::test]
async fn an_alarm_about_space_stops_puts_alone() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    let mut maintenance = MaintenanceClient::new(cluster.channel().await);
    client.put(put("k", "v")).await.expect("a put");
    let activate = pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 };
    maintenance.alarm(activate).await.expect("an alarm");
    let refused = client.put(put("k", "v")).await.expect_err("no space");
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    client.range(all()).await.expect("reads go on");
    let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    client.delete_range(delete).await.expect("deletes go on");
    maintenance.alarm(pb::AlarmRequest { action: 2, member_id: 0, alarm: 0 }).await.expect("cleared");
    client.put(put("k", "v")).await.expect("a put");
    let status = maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!((status.version.as_str(), status.errors.len()), ("3.7.1", 0));
}

#[tokio::test]
async fn what_is_not_there_yet_says_so() {
    let cluster = Cluster::start().await;
    let mut maintenance = MaintenanceClient::new(cluster.channel().await);
    let refused = maintenance.snapshot(pb::SnapshotRequest {}).await.expect_err("not yet");
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("not supported yet"), "{}", refused.message());
}
