//! A server whose member is joined to another cluster.

use std::time::Duration;

use quorate::{Config, Server};

const PATIENCE: Duration = Duration::from_secs(60);

async fn founder(name: &str) -> Server {
    let config = Config::new(name)
        .memory_only()
        .listen_client_urls(["http://127.0.0.1:0"])
        .listen_peer_urls(["http://127.0.0.1:0"]);
    let server = Server::start(config).expect("a member");
    server.ready().await.expect("ready");
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_joined_goes_on_behind_its_ports_and_its_clients_with_it() {
    let (host, joined) = (founder("n1").await, founder("n2").await);
    host.client().put("k", "of the host").await.expect("put");
    let held = joined.client();
    let over_the_network = quorate::Client::new([joined.client_addrs()[0].to_string()]).expect("a client");
    assert!(held.get("k").await.expect("get").is_none(), "its own cluster is empty");
    over_the_network.get("k").await.expect("get");
    let (was, ports) = (joined.member_id(), joined.client_addrs().to_vec());
    let url = format!("http://{}", joined.peer_addrs()[0]);
    let admitted = host.handle().absorb("n2", &url, true).await.expect("it is admitted");
    let moved = async {
        while joined.cluster_id() != host.cluster_id() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        joined.ready().await.expect("ready in the other cluster");
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("it moves");
    assert_eq!((joined.member_id(), joined.client_addrs()), (admitted.member, &ports[..]));
    assert_ne!(joined.member_id(), was);
    // The clients from before, not new ones.
    for client in [&held, &over_the_network] {
        assert_eq!(client.get("k").await.expect("get").expect("it is there").value, "of the host");
    }
    held.put("k", "of the joined").await.expect("put");
    assert_eq!(host.client().get("k").await.expect("get").expect("there").value, "of the joined");
    let names = |server: &Server| -> Vec<(String, usize)> {
        let mut all: Vec<_> = server
            .handle()
            .members()
            .iter()
            .map(|member| (member.name.clone(), member.client_urls.len()))
            .collect();
        all.sort();
        all
    };
    assert_eq!(names(&host), [("n1".to_owned(), 1), ("n2".to_owned(), 1)], "it made itself known there");
    let ended = tokio::time::timeout(Duration::ZERO, joined.stopped()).await;
    assert!(ended.is_err(), "it has not stopped: {ended:?}");
    joined.shutdown().await;
    assert!(std::net::TcpListener::bind(ports[0]).is_ok(), "the port is free again");
    host.shutdown().await;
}
