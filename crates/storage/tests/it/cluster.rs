//! What only a cluster has: endpoints that change, members that are not there.

use std::time::Duration;

use quorate_client::Client;
use quorate_storage::{AtomicStorage as _, Cluster, StorageError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_change_behind_the_same_handle() {
    let first = crate::member().await;
    let second = crate::member().await;
    let address = |server: &quorate::Server| server.client_addrs()[0].to_string();
    let storage = Cluster::new(Client::new([address(&first)]).expect("an endpoint"));
    let held = storage.clone();
    held.put(b"k", b"first").await.expect("put");
    storage.set_endpoints(["x:y"]).expect_err("no endpoint");
    assert_eq!(held.get(b"k").await.expect("get").expect("still the first").value, "first");
    storage.set_endpoints([address(&second)]).expect("fine");
    assert!(held.get(b"k").await.expect("get").is_none(), "the clone asks the second one");
    first.shutdown().await;
    held.put(b"k", b"second").await.expect("put");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_asks_every_endpoint() {
    let (storage, _, _server) = crate::cluster("probe").await;
    let mut endpoints = storage.client().endpoints();
    endpoints.insert(0, "127.0.0.1:1".to_owned());
    let client =
        Client::builder(endpoints).request_timeout(Duration::from_secs(3)).build().expect("a client");
    let probes = Cluster::new(client).probe().await;
    assert!(!probes[0].is_healthy() && probes[0].status.is_err());
    assert!(probes[1..].iter().all(quorate_storage::Probe::is_healthy) && probes.len() > 1, "{probes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_endpoints_are_told_with_certainty() {
    let client = Client::builder(["127.0.0.1:1"])
        .request_timeout(Duration::from_millis(200))
        .build()
        .expect("a client");
    let storage = Cluster::new(client);
    let error = storage.put(b"k", b"v").await.expect_err("nobody listens");
    assert!(matches!(error, StorageError::Unavailable { .. }) && !error.is_outcome_unknown(), "{error}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert!(storage.get_prefix(b"").await.is_err());
}
