//! Locks and elections, as a client of the server's own services sees them.

use std::time::Duration;

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::v3electionpb as election;
use quorate_wire::v3electionpb::election_client::ElectionClient;
use quorate_wire::v3lockpb as lock;
use quorate_wire::v3lockpb::lock_client::LockClient;
use tonic::{Code, Status};

use crate::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);

async fn lease(cluster: &Cluster, ttl: i64) -> i64 {
    let mut leases = LeaseClient::new(cluster.channel().await);
    leases.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.expect("a lease").into_inner().id
}

async fn revoke(cluster: &Cluster, id: i64) {
    let mut leases = LeaseClient::new(cluster.channel().await);
    leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("a revocation");
}

/// Keys below `name`, once there are this many of them.
async fn queue(cluster: &Cluster, len: i64) -> Vec<String> {
    let mut client = KvClient::new(cluster.channel().await);
    let all = pb::RangeRequest { key: "q/".into(), range_end: "q0".into(), ..Default::default() };
    let wait = async {
        loop {
            let read = client.range(all.clone()).await.expect("a range").into_inner();
            if read.count == len {
                let text = |kv: quorate_wire::mvccpb::KeyValue| String::from_utf8(kv.key.to_vec());
                return read.kvs.into_iter().map(text).collect::<Result<_, _>>().expect("text");
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("that many in time")
}

type Locking = tokio::task::JoinHandle<Result<lock::LockResponse, Status>>;

async fn locking(cluster: &Cluster, lease: i64) -> Locking {
    let mut client = LockClient::new(cluster.channel().await);
    let request = lock::LockRequest { name: "q".into(), lease };
    tokio::spawn(async move { client.lock(request).await.map(tonic::Response::into_inner) })
}

async fn locked(locking: Locking) -> Result<lock::LockResponse, Status> {
    tokio::time::timeout(PATIENCE, locking).await.expect("an answer in time").expect("no panic")
}

async fn unlock(cluster: &Cluster, key: bytes::Bytes) {
    let mut client = LockClient::new(cluster.channel().await);
    client.unlock(lock::UnlockRequest { key }).await.expect("unlocked");
}

#[tokio::test]
async fn a_lock_has_one_holder_and_passes_on_in_order() {
    let cluster = Cluster::start().await;
    let (a, b, c) = (lease(&cluster, 60).await, lease(&cluster, 60).await, lease(&cluster, 60).await);
    let first = locked(locking(&cluster, a).await).await.expect("locked");
    assert_eq!(first.key, format!("q/{a:x}"));
    let again = locked(locking(&cluster, a).await).await.expect("its holder has it already");
    assert_eq!(again.key, first.key);
    let second = locking(&cluster, b).await;
    queue(&cluster, 2).await;
    let third = locking(&cluster, c).await;
    queue(&cluster, 3).await;
    assert!(!second.is_finished() && !third.is_finished(), "there is one holder");
    unlock(&cluster, first.key).await;
    let second = locked(second).await.expect("the next one's turn");
    assert_eq!(second.key, format!("q/{b:x}"));
    assert!(!third.is_finished());
    unlock(&cluster, second.key).await;
    let third = locked(third).await.expect("the last one's turn");
    assert!(third.header.expect("a header").revision >= 4);
}

#[tokio::test]
async fn a_lock_whose_lease_ends_is_free() {
    let cluster = Cluster::start().await;
    let (a, b) = (lease(&cluster, 60).await, lease(&cluster, 60).await);
    locked(locking(&cluster, a).await).await.expect("locked");
    let second = locking(&cluster, b).await;
    queue(&cluster, 2).await;
    revoke(&cluster, a).await;
    locked(second).await.expect("the lock is free");
    // Expired by time, not by hand.
    let short = lease(&cluster, 1).await;
    revoke(&cluster, b).await;
    locked(locking(&cluster, short).await).await.expect("locked");
    let c = lease(&cluster, 60).await;
    locked(locking(&cluster, c).await).await.expect("the lock is free once the lease expired");
}

#[tokio::test]
async fn whoever_loses_the_lease_while_waiting_does_not_get_the_lock() {
    let cluster = Cluster::start().await;
    let (a, b) = (lease(&cluster, 60).await, lease(&cluster, 60).await);
    let first = locked(locking(&cluster, a).await).await.expect("locked");
    let second = locking(&cluster, b).await;
    queue(&cluster, 2).await;
    revoke(&cluster, b).await;
    unlock(&cluster, first.key).await;
    let refused = locked(second).await.expect_err("its place is gone");
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "mutex: session is expired"));
    let missing = locked(locking(&cluster, 404).await).await.expect_err("no such lease");
    assert_eq!(missing.message(), "etcdserver: requested lease not found");
}

#[tokio::test]
async fn whoever_stops_waiting_leaves_the_queue() {
    let cluster = Cluster::start().await;
    let (a, b) = (lease(&cluster, 60).await, lease(&cluster, 60).await);
    locked(locking(&cluster, a).await).await.expect("locked");
    let second = locking(&cluster, b).await;
    queue(&cluster, 2).await;
    second.abort();
    assert_eq!(queue(&cluster, 1).await, [format!("q/{a:x}")]);
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one_of_its_own() {
    let cluster = Cluster::start().await;
    locked(locking(&cluster, 0).await).await.expect("locked");
    let mut leases = LeaseClient::new(cluster.channel().await);
    let granted = leases.lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner().leases;
    assert_eq!(queue(&cluster, 1).await, [format!("q/{:x}", granted[0].id)]);
}

async fn campaign(
    cluster: &Cluster,
    lease: i64,
    value: &'static str,
) -> tokio::task::JoinHandle<election::LeaderKey> {
    let mut client = ElectionClient::new(cluster.channel().await);
    let request = election::CampaignRequest { name: "q".into(), lease, value: value.into() };
    tokio::spawn(async move {
        client.campaign(request).await.expect("elected").into_inner().leader.expect("a leader's key")
    })
}

#[tokio::test]
async fn an_election_has_one_leader_whom_observers_see() {
    let cluster = Cluster::start().await;
    let mut client = ElectionClient::new(cluster.channel().await);
    let name = || election::LeaderRequest { name: "q".into() };
    let nobody = client.leader(name()).await.expect_err("no campaign yet");
    assert_eq!((nobody.code(), nobody.message()), (Code::Unknown, "election: no leader"));
    let mut observed = client.observe(name()).await.expect("a stream").into_inner();
    let (a, b) = (lease(&cluster, 60).await, lease(&cluster, 60).await);

    let first = campaign(&cluster, a, "one").await.await.expect("elected");
    assert_eq!((first.key.clone(), first.lease), (format!("q/{a:x}").into(), a));
    let second = campaign(&cluster, b, "two").await;
    queue(&cluster, 2).await;
    let leads = client.leader(name()).await.expect("a leader").into_inner().kv.expect("a version");
    assert_eq!(leads.value, "one");
    let mut next = async || {
        let told = tokio::time::timeout(PATIENCE, observed.message()).await;
        told.expect("in time").expect("no failure").expect("no end").kv.expect("a version").value
    };
    assert_eq!(next().await, "one");
    let value = "one more".into();
    client
        .proclaim(election::ProclaimRequest { leader: Some(first.clone()), value })
        .await
        .expect("proclaimed");
    assert_eq!(next().await, "one more");
    assert!(!second.is_finished());

    client.resign(election::ResignRequest { leader: Some(first.clone()) }).await.expect("resigned");
    let second = tokio::time::timeout(PATIENCE, second).await.expect("in time").expect("elected");
    assert_eq!(second.lease, b);
    assert_eq!(next().await, "two", "a leader whose key is older than the last proclamation");
    let late = election::ProclaimRequest { leader: Some(first.clone()), value: "late".into() };
    let late = client.proclaim(late).await.expect_err("no longer the leader");
    assert_eq!((late.code(), late.message()), (Code::Unknown, "election: not leader"));
    client
        .resign(election::ResignRequest { leader: Some(first) })
        .await
        .expect("resigning twice does no harm");
    let unnamed = client.resign(election::ResignRequest { leader: None }).await.expect_err("whose?");
    assert_eq!(unnamed.message(), "\"leader\" field must be provided");
}
