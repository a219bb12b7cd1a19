//! The client without a socket.

use quorate::client::{ErrorKind, EventKind, Keys, Outcome, PutOptions, RangeOptions, WatchOptions};
use quorate::{Config, Server};

async fn member(name: &str) -> Server {
    let config = Config::new(name)
        .memory_only()
        .listen_client_urls(["http://127.0.0.1:0"])
        .listen_peer_urls(["http://127.0.0.1:0"]);
    let server = Server::start(config).expect("a member");
    server.ready().await.expect("ready");
    server
}

#[tokio::test(flavor = "current_thread")]
async fn keys_watches_leases_and_locks_work_without_a_socket() {
    let server = member("alone").await;
    let client = server.client();
    let mut watch = client.watch(Keys::prefix("k/"), WatchOptions::new()).await.expect("a watch");
    let lease = client.lease_grant(60).await.expect("a lease").id;
    client.put_with("k/a", "1", PutOptions::new().lease(lease)).await.expect("put");
    let event = &watch.next().await.expect("open").expect("a response").events[0];
    assert_eq!((event.kind, &event.kv.value[..]), (EventKind::Put, &b"1"[..]));
    client.lease_revoke(lease).await.expect("revoke");
    let event = &watch.next().await.expect("open").expect("a response").events[0];
    assert_eq!(event.kind, EventKind::Delete);
    let lock = client.lock("l", 30).await.expect("free");
    lock.unlock().await.expect("unlock");
    assert_eq!(client.endpoints(), ["alone"]);
    let status = client.status("alone").await.expect("status");
    assert_eq!(status.leader, server.member_id().0);
    server.shutdown().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_large_answer_comes_whole() {
    const KEYS: usize = 40;
    let server = member("large").await;
    let client = server.client();
    for number in 0..KEYS {
        client.put(format!("k/{number}"), vec![7; 100_000]).await.expect("put");
    }
    let all = client.range(Keys::prefix("k/"), RangeOptions::new()).await.expect("range");
    assert_eq!(all.kvs.len(), KEYS);
    assert!(all.kvs.iter().all(|kv| kv.value.len() == 100_000));
    server.shutdown().await;
}

#[tokio::test(flavor = "current_thread")]
async fn clients_of_a_stopped_member_are_told_so_and_keep_nothing_running() {
    let server = member("stopping").await;
    let (client, never_used) = (server.client(), server.client());
    client.put("k", "v").await.expect("put");
    let mut watch = client.watch("k", WatchOptions::new()).await.expect("a watch");
    let addr = server.client_addrs()[0];
    server.shutdown().await;
    assert!(std::net::TcpListener::bind(addr).is_ok(), "the port is free again");
    for client in [&client, &never_used] {
        let error = client.put("k", "w").await.expect_err("it has stopped");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Gone, Outcome::NotApplied));
        let error = client.get("k").await.expect_err("it has stopped");
        assert_eq!(error.to_string(), "stopping: the member has stopped");
    }
    let last = watch.next().await.expect("it says why").expect_err("it is over");
    assert_eq!(last.kind(), ErrorKind::Gone);
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "current_thread")]
async fn two_members_in_one_process_do_not_mix() {
    let (one, other) = (member("same").await, member("same").await);
    one.client().put("k", "one").await.expect("put");
    assert!(other.client().get("k").await.expect("get").is_none());
    assert_ne!(one.client_addrs(), other.client_addrs());
    one.shutdown().await;
    other.client().put("k", "other").await.expect("the other one goes on");
    other.shutdown().await;
}
