//! Quota, compaction by itself, memory for answers, fragments, and the metrics that tell of it all.

use std::time::Duration;

use quorate_faces::etcd3::AutoCompaction;
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

#[tokio::test]
async fn puts_beyond_the_quota_are_refused_until_space_is_freed() {
    let cluster = Cluster::with(|face, _| face.quota_bytes = 100_000).await;
    let mut client = KvClient::new(cluster.channel().await);
    let value = "v".repeat(10_000);
    let refused = async {
        loop {
            // Overwritten versions count until they are compacted.
            if let Err(refused) = client.put(put("k", &value)).await {
                return refused;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("refused in time");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
    let mut maintenance = MaintenanceClient::new(cluster.channel().await);
    let get = pb::AlarmRequest::default();
    let raised = async {
        while maintenance.alarm(get).await.expect("alarms").into_inner().alarms.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, raised).await.expect("the alarm is raised");
    let read = client.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await;
    let revision = read.expect("reads go on").into_inner().header.expect("a header").revision;
    let delete = pb::DeleteRangeRequest { key: "other".into(), ..Default::default() };
    client.delete_range(delete).await.expect("deletes go on");
    client.compact(pb::CompactionRequest { revision, physical: true }).await.expect("compaction goes on");
    let taken = async {
        while client.put(put("k", "small")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("puts are taken again by themselves");
    let mut maintenance = MaintenanceClient::new(cluster.channel().await);
    let alarms = maintenance.alarm(pb::AlarmRequest::default()).await.expect("alarms").into_inner().alarms;
    assert_eq!(alarms, [], "the alarm cleared itself");
}

#[tokio::test]
async fn history_older_than_the_period_goes_by_itself() {
    let rule = AutoCompaction::OlderThan(Duration::from_millis(200));
    let cluster = Cluster::with(|face, _| face.auto_compaction = rule).await;
    let mut client = KvClient::new(cluster.channel().await);
    for value in ["1", "2", "3"] {
        client.put(put("k", value)).await.expect("a put");
    }
    let past = pb::RangeRequest { key: "k".into(), revision: 2, ..Default::default() };
    let gone = async {
        loop {
            match client.range(past.clone()).await {
                Err(compacted) => return compacted,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let compacted = tokio::time::timeout(PATIENCE, gone).await.expect("compacted in time");
    assert_eq!(compacted.message(), "etcdserver: mvcc: required revision has been compacted");
    let now =
        client.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.expect("a range");
    assert_eq!(now.into_inner().kvs[0].value, "3");
}

#[tokio::test]
async fn an_answer_beyond_the_memory_for_answers_is_refused() {
    let cluster = Cluster::with(|face, _| face.answer_bytes_max = 300_000).await;
    let mut client = KvClient::new(cluster.channel().await);
    let value = "v".repeat(100_000);
    for key in ["k1", "k2"] {
        client.put(put(key, &value)).await.expect("a put");
    }
    let read = |end: &'static str| {
        let range = pb::RangeRequest { key: "k1".into(), range_end: end.into(), ..Default::default() };
        let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) };
        pb::TxnRequest { success: vec![op], ..Default::default() }
    };
    client.txn(read("")).await.expect("one value fits");
    let refused = client.txn(read("k3")).await.expect_err("two don't");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("does not fit the memory for answers"), "{}", refused.message());
    let delete = pb::DeleteRangeRequest { key: "k1".into(), range_end: "k3".into(), prev_kv: true };
    let refused = client.delete_range(delete).await.expect_err("what was there does not fit");
    assert!(refused.message().starts_with("etcdserver: the change was made, but "), "{}", refused.message());
    client.txn(read("k3")).await.expect("memory is back, and so are the keys gone");
}

#[tokio::test]
async fn a_revision_larger_than_a_message_comes_in_fragments_for_who_asks() {
    let cluster = Cluster::with(|face, _| face.request_bytes_max = 1_200_000).await;
    let mut client = KvClient::new(cluster.channel().await);
    // Together just within a request; with what was there before, twice that.
    let txn = |fill: &str| {
        let puts = (0..18).map(|key| put(&format!("k{key:02}"), &fill.repeat(60_000)));
        let op = |put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
        pb::TxnRequest { success: puts.map(op).collect(), ..Default::default() }
    };
    client.txn(txn("a")).await.expect("a transaction");
    let mut responses = Vec::new();
    for fragment in [true, false] {
        let create = pb::WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            start_revision: 3,
            prev_kv: true,
            fragment,
            ..Default::default()
        };
        let create =
            pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let mut watch = WatchClient::new(cluster.channel().await).max_decoding_message_size(16 << 20);
        let requests = tokio_stream::iter([create]).chain(tokio_stream::pending());
        let mut stream = watch.watch(requests).await.expect("a stream").into_inner();
        assert!(stream.message().await.expect("no failure").expect("created").created);
        responses.push((fragment, stream));
    }
    client.txn(txn("b")).await.expect("a transaction");
    for (fragment, stream) in &mut responses {
        let (mut keys, mut parts) = (0, 0);
        while keys < 18 {
            let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time");
            let response = next.expect("no failure").expect("no end");
            keys += response.events.len();
            parts += 1;
            assert!(response.events.iter().all(|event| event.prev_kv.is_some()));
            assert_eq!(response.fragment, *fragment && keys < 18, "all but the last say that more comes");
        }
        assert_eq!(keys, 18);
        assert_eq!(parts > 1, *fragment, "{parts} parts");
    }
}

async fn http_get(cluster: &Cluster, path: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(cluster.addr).await.expect("the port is open");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("an answer");
    answer
}

/// What etcd's dashboards and its alert rules ask for, as far as it has a meaning here.
const NAMES: &str = "etcd_server_has_leader etcd_server_is_leader etcd_server_is_learner \
    etcd_server_leader_changes_seen_total etcd_server_proposals_committed_total \
    etcd_server_proposals_applied_total etcd_server_proposals_pending etcd_server_proposals_failed_total \
    etcd_server_quota_backend_bytes etcd_server_version etcd_server_id etcd_server_health_success \
    etcd_server_health_failures etcd_cluster_version etcd_mvcc_db_total_size_in_bytes \
    etcd_mvcc_db_total_size_in_use_in_bytes etcd_mvcc_put_total etcd_mvcc_delete_total etcd_mvcc_range_total \
    etcd_mvcc_txn_total etcd_disk_wal_fsync_duration_seconds_bucket \
    etcd_disk_backend_commit_duration_seconds_bucket etcd_network_client_grpc_received_bytes_total \
    etcd_network_client_grpc_sent_bytes_total etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_watcher_total \
    etcd_debugging_mvcc_slow_watcher_total etcd_debugging_mvcc_watch_stream_total \
    etcd_debugging_mvcc_events_total etcd_debugging_mvcc_current_revision etcd_debugging_mvcc_compact_revision \
    grpc_server_started_total grpc_server_handled_total grpc_server_msg_received_total \
    grpc_server_msg_sent_total grpc_server_handling_seconds_bucket process_cpu_seconds_total process_open_fds \
    process_max_fds process_resident_memory_bytes process_virtual_memory_bytes process_start_time_seconds \
    os_fd_used os_fd_limit";

#[tokio::test]
async fn the_metrics_that_dashboards_ask_for_are_there() {
    let cluster = Cluster::with(|face, _| {
        face.metrics_extensive = true;
        face.quota_bytes = 7 << 30;
    })
    .await;
    let mut client = KvClient::new(cluster.channel().await);
    client.put(put("k", "v")).await.expect("a put");
    assert!(http_get(&cluster, "/health").await.contains(r#""health":"true""#));
    let text = http_get(&cluster, "/metrics").await;
    let value = |name: &str| -> Option<f64> {
        let line = text.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let missing: Vec<_> = NAMES.split_whitespace().filter(|name| value(name).is_none()).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert_eq!(value("etcd_mvcc_put_total"), Some(1.0));
    assert_eq!(value("etcd_debugging_mvcc_current_revision"), Some(2.0));
    assert_eq!(value("etcd_server_quota_backend_bytes"), Some(7.0 * f64::from(1 << 30)));
    assert_eq!(value("etcd_server_health_success"), Some(1.0));
    for positive in ["process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds"] {
        assert!(value(positive).is_some_and(|value| value > 0.0), "{positive}");
    }
    assert!(value("etcd_network_client_grpc_received_bytes_total").is_some_and(|bytes| bytes > 0.0));
    assert!(!text.contains("\ngo_"), "nothing of a runtime that is not there");
}
