//! Transactions that change nothing, and compactions that wait.

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::Code;

use crate::Cluster;

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(range: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) }
}

fn value_is(key: &'static str, end: &'static str, value: &'static str) -> pb::Compare {
    pb::Compare {
        result: 0,
        target: 3,
        key: key.into(),
        range_end: end.into(),
        target_union: Some(pb::compare::TargetUnion::Value(value.into())),
    }
}

async fn applied_index(cluster: &Cluster) -> u64 {
    let mut maintenance = MaintenanceClient::new(cluster.channel().await);
    maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner().raft_applied_index
}

#[tokio::test]
async fn a_transaction_that_only_reads_is_answered_without_the_log() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    for key in ["k1", "k2", "k3"] {
        client.put(put(key, "v")).await.expect("a put");
    }
    client.put(put("x", "w")).await.expect("a put");
    let before = applied_index(&cluster).await;
    let range = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let nested = pb::TxnRequest {
        compare: vec![value_is("k", "y", "v")],
        success: vec![],
        failure: vec![get(pb::RangeRequest { key: "x".into(), ..Default::default() })],
    };
    let nested = pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(nested)) };
    let txn = pb::TxnRequest {
        compare: vec![value_is("k", "l", "v")],
        success: vec![get(range.clone()), nested],
        failure: vec![],
    };
    let reply = client.txn(txn).await.expect("a transaction").into_inner();
    assert!(reply.succeeded);
    assert_eq!(reply.header.expect("a header").revision, 5);
    let Some(pb::response_op::Response::ResponseRange(found)) = &reply.responses[0].response else {
        panic!("{reply:?}")
    };
    assert_eq!((found.count, found.kvs.len()), (3, 3));
    let Some(pb::response_op::Response::ResponseTxn(nested)) = &reply.responses[1].response else {
        panic!("{reply:?}")
    };
    assert!(!nested.succeeded, "one of the range's values is another");
    assert_eq!(nested.responses.len(), 1);
    let past = pb::RangeRequest { revision: 99, ..range };
    let future = pb::TxnRequest { success: vec![get(past)], ..Default::default() };
    assert_eq!(client.txn(future).await.expect_err("not yet").code(), Code::OutOfRange);
    assert_eq!(applied_index(&cluster).await, before, "nothing went into the log");
}

#[tokio::test]
async fn a_physical_compaction_waits_until_old_versions_are_gone() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    for _ in 0..50 {
        client.put(put("k", "v")).await.expect("a put");
    }
    let live = async || {
        let mut maintenance = MaintenanceClient::new(cluster.channel().await);
        maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner().db_size_in_use
    };
    let before = live().await;
    client.compact(pb::CompactionRequest { revision: 51, physical: true }).await.expect("compacted");
    let after = live().await;
    assert!(after * 10 < before, "{before} bytes before, {after} after");
    let again = client.compact(pb::CompactionRequest { revision: 51, physical: true }).await;
    let again = again.expect_err("compacted already");
    assert_eq!(
        (again.code(), again.message()),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
    );
    for revision in [0, -1] {
        let refused = client.compact(pb::CompactionRequest { revision, physical: false }).await;
        assert_eq!(refused.expect_err("below what is compacted").code(), Code::OutOfRange);
    }
    let future = client.compact(pb::CompactionRequest { revision: 99, physical: true }).await;
    assert_eq!(
        future.expect_err("not yet").message(),
        "etcdserver: mvcc: required revision is a future revision"
    );
}
