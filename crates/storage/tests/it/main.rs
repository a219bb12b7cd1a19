//! The back ends from outside. `QUORATE_TEST_ENDPOINTS` (endpoints separated by commas) names a cluster to use instead of
//! a member in this process: Quorate and etcd must both pass.

mod cluster;
mod conformance;
mod memory;
mod switching;

use quorate::{Config, Server};
use quorate_client::Client;
use quorate_storage::Cluster;

/// A member in this process, on free ports, that forgets everything.
async fn member() -> Server {
    let config = Config::new("alone")
        .memory_only()
        .listen_client_urls(["http://127.0.0.1:0"])
        .listen_peer_urls(["http://127.0.0.1:0"]);
    let server = Server::start(config).expect("a member");
    server.ready().await.expect("ready");
    server
}

/// Storage in the cluster under test, a namespace of the test's own, and the member that lives as long as the test.
async fn cluster(test: &str) -> (Cluster, String, Option<Server>) {
    let unique =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    let namespace = format!("{test}/{unique}");
    if let Ok(endpoints) = std::env::var("QUORATE_TEST_ENDPOINTS") {
        let client = Client::new(endpoints.split(',')).expect("endpoints");
        return (Cluster::new(client), namespace, None);
    }
    let server = member().await;
    let client = Client::new([server.client_addrs()[0].to_string()]).expect("an endpoint");
    (Cluster::new(client), namespace, Some(server))
}
