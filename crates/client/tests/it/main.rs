//! The client against a member in this process, or against the cluster that `QUORATE_TEST_ENDPOINTS` names (endpoints
//! separated by commas): Quorate and etcd must both pass.

mod members;
mod tls;

use quorate::{Config, Server};
use quorate_client::{
    Client, Compare, ErrorKind, EventKind, Is, Keys, Op, OpResponse, PutOptions, RangeOptions, Txn,
    WatchOptions,
};

/// A client of the cluster, a prefix of the test's own, and the member that lives as long as the test.
async fn cluster(test: &str) -> (Client, String, Option<Server>) {
    let unique =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    let prefix = format!("{test}/{unique}/");
    if let Ok(endpoints) = std::env::var("QUORATE_TEST_ENDPOINTS") {
        return (Client::new(endpoints.split(',')).expect("endpoints"), prefix, None);
    }
    let config = Config::new("alone")
        .memory_only()
        .listen_client_urls(["http://127.0.0.1:0"])
        .listen_peer_urls(["http://127.0.0.1:0"]);
    let server = Server::start(config).expect("a member");
    server.ready().await.expect("ready");
    let client = Client::new([server.client_addrs()[0].to_string()]).expect("an endpoint");
    (client, prefix, Some(server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_written_read_compared_and_deleted() {
    let (client, prefix, _server) = cluster("keys").await;
    let key = |name: &str| format!("{prefix}{name}");
    client.put(key("a"), "1").await.expect("put");
    let old = client.put_with(key("a"), "2", PutOptions::new().previous()).await.expect("put");
    assert_eq!(old.prev_kv.expect("the old value").value, "1");
    client.put(key("b"), "3").await.expect("put");
    assert_eq!(client.get(key("a")).await.expect("get").expect("found").version, 2);
    let all = client.range(Keys::prefix(&prefix), RangeOptions::new().limit(1)).await.expect("range");
    assert_eq!((all.kvs.len(), all.count, all.more), (1, 2, true));
    let txn = Txn::new()
        .when([Compare::value(key("a"), Is::Equal, "2"), Compare::version(key("c"), Is::Equal, 0)])
        .and_then([Op::put(key("c"), "4"), Op::txn(Txn::new().and_then([Op::get(key("b"))]))])
        .or_else([Op::get(key("a"))]);
    let answer = client.txn(txn).await.expect("txn");
    assert!(answer.succeeded);
    let OpResponse::Txn(inner) = &answer.responses[1] else { panic!("{answer:?}") };
    let OpResponse::Get(found) = &inner.responses[0] else { panic!("{answer:?}") };
    assert_eq!(found.kvs[0].value, "3");
    let refused = client.put("", "x").await.expect_err("an empty key");
    assert_eq!(refused.kind(), ErrorKind::KeyNotProvided);
    assert_eq!(client.delete(Keys::prefix(&prefix)).await.expect("delete").deleted, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_delivers_what_comes_after_it_stands_and_what_came_before() {
    let (client, prefix, _server) = cluster("watch").await;
    let key = format!("{prefix}k");
    let before = client.put(&key, "1").await.expect("put").header.expect("a header").revision;
    let mut live = client.watch(&key, WatchOptions::new().previous()).await.expect("a watch");
    client.put(&key, "2").await.expect("put");
    let response = live.next().await.expect("open").expect("a response");
    assert_eq!(response.events[0].kv.value, "2");
    assert_eq!(response.events[0].previous.as_ref().expect("previous").value, "1");
    client.delete(&key).await.expect("delete");
    assert_eq!(live.next().await.expect("open").expect("fine").events[0].kind, EventKind::Delete);
    let mut past = client.watch(&key, WatchOptions::new().start_revision(before)).await.expect("a watch");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(past.next().await.expect("open").expect("fine").events);
    }
    assert_eq!(seen[0].kv.mod_revision, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_while_it_is_kept_alive_and_takes_its_keys_with_it() {
    let (client, prefix, _server) = cluster("lease").await;
    let key = format!("{prefix}k");
    let lease = client.lease_grant(60).await.expect("grant").id;
    client.put_with(&key, "x", PutOptions::new().lease(lease)).await.expect("put");
    let alive = client.lease_keep_alive(lease).await.expect("alive");
    assert_eq!(alive.ttl_seconds(), Some(60));
    let left = client.lease_time_to_live(lease, true).await.expect("ttl").expect("a lease");
    assert_eq!((left.granted_seconds, left.keys.len()), (60, 1));
    client.lease_revoke(lease).await.expect("revoke");
    assert!(client.get(&key).await.expect("get").is_none());
    assert!(client.lease_time_to_live(lease, false).await.expect("ttl").is_none());
    let gone = client.lease_keep_alive_once(lease).await.expect_err("revoked");
    assert_eq!(gone.kind(), ErrorKind::LeaseNotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_handed_on_with_a_greater_revision() {
    let (client, prefix, _server) = cluster("lock").await;
    let first = client.lock(&prefix, 30).await.expect("free");
    let revision = first.revision();
    let waiting = tokio::spawn({
        let (client, name) = (client.clone(), prefix.clone());
        async move { client.lock(&name, 30).await }
    });
    // Its place in the queue shows that it waits.
    let queue = Keys::prefix(format!("{prefix}/"));
    while client.range(queue.clone(), RangeOptions::new().count_only()).await.expect("range").count < 2 {}
    assert!(!waiting.is_finished());
    first.unlock().await.expect("unlock");
    let second = waiting.await.expect("no panic").expect("its turn");
    assert!(second.revision() > revision);
    second.unlock().await.expect("unlock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_who_observes_is_told_of_all() {
    let (client, name, _server) = cluster("election").await;
    assert!(client.election_leader(&name).await.expect("an answer").is_none());
    let mut leaders = client.observe_election(&name);
    let observing = tokio::spawn(async move {
        let told = leaders.next().await.expect("a leader").value;
        (leaders, told)
    });
    let first = client.campaign(&name, "first", 30).await.expect("elected");
    let revision = first.revision();
    let leader = client.election_leader(&name).await.expect("an answer").expect("a leader");
    assert_eq!((&leader.key[..], &leader.value[..]), (first.key(), &b"first"[..]));
    let waiting = tokio::spawn({
        let (client, name) = (client.clone(), name.clone());
        async move { client.campaign(&name, "second", 30).await }
    });
    let candidates = Keys::prefix(format!("{name}/"));
    while client.range(candidates.clone(), RangeOptions::new().count_only()).await.expect("range").count < 2 {
    }
    let (mut leaders, told) = observing.await.expect("no panic");
    assert_eq!(told, "first");
    for value in ["first, still", "first, again"] {
        first.proclaim(value).await.expect("leading");
        assert_eq!(leaders.next().await.expect("a leader").value, value);
    }
    first.resign().await.expect("resigned");
    let second = waiting.await.expect("no panic").expect("its turn");
    assert!(second.revision() > revision);
    assert_eq!(leaders.next().await.expect("a leader").value, "second");
    second.proclaim("second, still").await.expect("leading");
    assert_eq!(leaders.next().await.expect("a leader").value, "second, still");
    second.resign().await.expect("resigned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over_and_the_state_is_shown() {
    let (client, prefix, _server) = cluster("endpoints").await;
    let mut endpoints = client.endpoints();
    let status = client.status(&endpoints[0]).await.expect("status");
    assert_ne!(status.leader, 0);
    assert!(!client.member_list().await.expect("members").members.is_empty());
    endpoints.insert(0, "127.0.0.1:1".to_owned());
    client.set_endpoints(endpoints).expect("fine");
    client.put(format!("{prefix}k"), "v").await.expect("another member takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_member_the_request_was_certainly_not_applied() {
    let client = Client::builder(["127.0.0.1:1"])
        .request_timeout(std::time::Duration::from_millis(200))
        .build()
        .expect("a client");
    let error = client.put("k", "v").await.expect_err("nobody listens");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Unreachable, quorate_client::Outcome::NotApplied)
    );
}
