//! Requests that make no sense, or come too often: etcd's codes and texts, by which clients tell failures apart.

use std::time::Duration;

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::cluster_client::ClusterClient;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);
const NOBODY: u64 = 404;

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: Code, text: &str) {
    let status = answer.expect_err("it is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

async fn grant(
    leases: &mut LeaseClient<Channel>,
    id: i64,
    ttl: i64,
) -> Result<pb::LeaseGrantResponse, Status> {
    leases.lease_grant(pb::LeaseGrantRequest { ttl, id }).await.map(Response::into_inner)
}

#[tokio::test]
async fn times_to_live_out_of_range_are_refused_or_raised_to_the_least() {
    let cluster = Cluster::start().await;
    let mut leases = LeaseClient::new(cluster.channel().await);
    for ttl in [9_000_000_001, i64::MAX] {
        let answer = leases.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await;
        refused(answer, Code::OutOfRange, "etcdserver: too large lease TTL");
    }
    let longest = grant(&mut leases, 0, 9_000_000_000).await.expect("the longest that there is");
    assert_eq!(longest.ttl, 9_000_000_000);
    for ttl in [0, -1, i64::MIN] {
        let shortest = grant(&mut leases, 0, ttl).await.expect("as in etcd, it gets the least");
        assert!((1..=2).contains(&shortest.ttl), "{ttl}: {}", shortest.ttl);
    }
}

#[tokio::test]
async fn leases_that_are_there_twice_or_not_at_all() {
    let cluster = Cluster::start().await;
    let mut leases = LeaseClient::new(cluster.channel().await);
    let mut keys = KvClient::new(cluster.channel().await);
    assert_eq!(grant(&mut leases, 77, 100).await.expect("a lease").id, 77);
    let again = leases.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 77 }).await;
    refused(again, Code::FailedPrecondition, "etcdserver: lease already exists");
    let put = pb::PutRequest { key: "k".into(), lease: 78, ..Default::default() };
    refused(keys.put(put.clone()).await, Code::NotFound, "etcdserver: requested lease not found");
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
    refused(keys.txn(txn).await, Code::NotFound, "etcdserver: requested lease not found");
    let revoke = pb::LeaseRevokeRequest { id: 78 };
    refused(leases.lease_revoke(revoke).await, Code::NotFound, "etcdserver: requested lease not found");
    let ask = pb::LeaseTimeToLiveRequest { id: 78, keys: true };
    let unknown = leases.lease_time_to_live(ask).await.expect("no error, as in etcd").into_inner();
    assert_eq!((unknown.id, unknown.ttl), (78, -1));
}

#[tokio::test]
async fn a_flood_of_leases_ends_at_the_quota_and_room_comes_back_with_those_that_end() {
    const QUOTA_BYTES: u64 = 100_000;
    let cluster = Cluster::with(|face, _| face.quota_bytes = QUOTA_BYTES).await;
    let mut leases = LeaseClient::new(cluster.channel().await);
    let mut held = Vec::new();
    let flood = async {
        loop {
            match grant(&mut leases, 0, 1000).await {
                Ok(granted) => held.push(granted.id),
                Err(refused) => return refused,
            }
        }
    };
    let refused = tokio::time::timeout(3 * PATIENCE, flood).await.expect("refused in time");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
    let listed = leases.lease_leases(pb::LeaseLeasesRequest {}).await.expect("they are listed").into_inner();
    assert_eq!(listed.leases.len(), held.len());
    for id in held {
        leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("revocations go on");
    }
    let taken = async {
        while grant(&mut leases, 0, 1000).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("leases are granted again by themselves");
}

#[tokio::test]
async fn lists_beyond_the_memory_for_answers_are_refused() {
    let cluster = Cluster::with(|face, _| face.answer_bytes_max = 70_000).await;
    let mut leases = LeaseClient::new(cluster.channel().await);
    let mut keys = KvClient::new(cluster.channel().await);
    let lease = grant(&mut leases, 0, 1000).await.expect("a lease").id;
    let name = |number: usize| format!("{number:04}-{}", "k".repeat(1000));
    for number in 0..40 {
        let put = pb::PutRequest { key: name(number).into(), lease, ..Default::default() };
        keys.put(put).await.expect("a put");
    }
    let ask = |keys| pb::LeaseTimeToLiveRequest { id: lease, keys };
    let refused = leases.lease_time_to_live(ask(true)).await.expect_err("they do not fit");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("does not fit the memory for answers"), "{}", refused.message());
    leases.lease_time_to_live(ask(false)).await.expect("without the keys it does");
}

#[tokio::test]
async fn members_that_are_unknown_or_there_already() {
    let cluster = Cluster::start().await;
    let mut members = ClusterClient::new(cluster.channel().await);
    let own = members.member_list(pb::MemberListRequest::default()).await.expect("a list").into_inner();
    let own = own.members[0].id;
    let urls = |url: &str| vec![url.to_owned()];
    let unknown = (Code::NotFound, "etcdserver: member not found");
    refused(members.member_remove(pb::MemberRemoveRequest { id: NOBODY }).await, unknown.0, unknown.1);
    refused(members.member_promote(pb::MemberPromoteRequest { id: NOBODY }).await, unknown.0, unknown.1);
    let update = pb::MemberUpdateRequest { id: NOBODY, peer_ur_ls: urls("http://127.0.0.1:1") };
    refused(members.member_update(update).await, unknown.0, unknown.1);
    let add = |url: &str, is_learner| pb::MemberAddRequest { peer_ur_ls: urls(url), is_learner };
    for url in ["127.0.0.1:1", "http://127.0.0.1", "ftp://127.0.0.1:1", ""] {
        let answer = members.member_add(add(url, true)).await;
        refused(answer, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    }
    let added = members.member_add(add("http://127.0.0.1:1", true)).await.expect("added").into_inner();
    let learner = added.member.expect("it is told").id;
    for is_learner in [true, false] {
        let answer = members.member_add(add("http://127.0.0.1:1", is_learner)).await;
        refused(answer, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    }
    let answer = members.member_add(add("http://127.0.0.1:2", true)).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
    let update = pb::MemberUpdateRequest { id: own, peer_ur_ls: urls("http://127.0.0.1:1") };
    refused(
        members.member_update(update).await,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    refused(
        members.member_promote(pb::MemberPromoteRequest { id: own }).await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
    refused(
        members.member_promote(pb::MemberPromoteRequest { id: learner }).await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader",
    );
    // Etcd's servers lose the code of this one on the way.
    refused(
        members.member_remove(pb::MemberRemoveRequest { id: own }).await,
        Code::Unknown,
        "etcdserver: re-configuration failed due to not enough started members",
    );
    let mut maintenance = MaintenanceClient::new(cluster.channel().await);
    for target_id in [NOBODY, learner] {
        let answer = maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await;
        refused(answer, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    }
    members.member_remove(pb::MemberRemoveRequest { id: learner }).await.expect("removed");
    refused(members.member_remove(pb::MemberRemoveRequest { id: learner }).await, unknown.0, unknown.1);
    members.member_add(add("http://127.0.0.1:1", true)).await.expect("its place is free again");
}

/// Opens a stream for one watch; the first answers to it.
async fn watch(
    cluster: &Cluster,
    creates: Vec<pb::WatchCreateRequest>,
    answers: usize,
) -> Vec<pb::WatchResponse> {
    let requests = creates.into_iter().map(|create| pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>()).chain(tokio_stream::pending());
    let mut client = WatchClient::new(cluster.channel().await);
    let mut stream = client.watch(requests).await.expect("a stream").into_inner();
    let mut seen = Vec::new();
    while seen.len() < answers {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time");
        seen.push(next.expect("no failure").expect("no end"));
    }
    seen
}

#[tokio::test]
async fn watches_of_what_is_compacted_or_makes_no_sense_are_cancelled_with_the_reason() {
    let cluster = Cluster::start().await;
    let mut keys = KvClient::new(cluster.channel().await);
    for value in ["1", "2", "3", "4"] {
        let put = pb::PutRequest { key: "k".into(), value: value.into(), ..Default::default() };
        keys.put(put).await.expect("a put");
    }
    keys.compact(pb::CompactionRequest { revision: 4, physical: false }).await.expect("a compaction");
    let create =
        |start_revision| pb::WatchCreateRequest { key: "k".into(), start_revision, ..Default::default() };

    let answers = watch(&cluster, vec![create(3)], 2).await;
    assert!(answers[0].created && !answers[0].canceled, "{answers:?}");
    assert!(answers[1].canceled && answers[1].compact_revision == 4, "{answers:?}");

    let first_readable = watch(&cluster, vec![create(4)], 2).await;
    let revision = |answer: &pb::WatchResponse| answer.events[0].kv.as_ref().map(|kv| kv.mod_revision);
    assert_eq!(revision(&first_readable[1]), Some(4), "the compacted revision itself can be watched");

    let negative = watch(&cluster, vec![create(-1)], 1).await.remove(0);
    assert!(negative.created && negative.canceled && negative.watch_id == -1, "{negative:?}");
    assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");

    let empty = pb::WatchCreateRequest { range_end: "a".into(), ..create(0) };
    let empty = watch(&cluster, vec![empty], 1).await.remove(0);
    assert!(empty.created && empty.canceled && empty.watch_id == -1, "{empty:?}");
    assert_eq!(empty.cancel_reason, "mvcc: watcher range is empty");

    let numbered = pb::WatchCreateRequest { watch_id: 9, ..create(0) };
    let twice = watch(&cluster, vec![numbered.clone(), numbered], 2).await;
    assert!(twice[0].created && !twice[0].canceled, "{twice:?}");
    assert!(twice[1].created && twice[1].canceled && twice[1].watch_id == -1, "{twice:?}");
    assert_eq!(twice[1].cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");

    let range = pb::RangeRequest { key: "k".into(), revision: 3, ..Default::default() };
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(keys.range(range).await, Code::OutOfRange, compacted);
    let again = pb::CompactionRequest { revision: 4, physical: false };
    refused(keys.compact(again).await, Code::OutOfRange, compacted);
    let future = pb::CompactionRequest { revision: 99, physical: false };
    refused(
        keys.compact(future).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
}
