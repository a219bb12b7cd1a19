//! The faces, from outside: a member in memory behind a real port, and real clients.

mod balsa;
mod deadlines;
mod etcd2;
mod etcd2_auth;
mod etcd2_stats;
mod etcd3;
mod full_disk;
mod gateway;
mod hostile;
mod limits;
mod queues;
mod refusals;
mod stopping;
mod tls;
mod txns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_faces::etcd3::{Config, Etcd3};
use quorate_faces::listener::{ListenConfig, Serving, serve};
use quorate_member::{Running, start};
use tonic::transport::{Channel, Endpoint};

/// A cluster of one member and its port.
struct Cluster {
    running: Option<Running>,
    serving: Option<Serving>,
    addr: SocketAddr,
}

impl Cluster {
    async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config, &mut ListenConfig)) -> Self {
        let mut face = Config::default();
        let mut listen = ListenConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        listen.stop_timeout = Duration::from_millis(100);
        change(&mut face, &mut listen);
        let member = quorate_member::Config {
            heartbeat_interval: Duration::from_millis(10),
            election_timeout: Duration::from_millis(100),
            ..quorate_member::Config::new("a")
        };
        let running = start(member).expect("a member in memory starts");
        running.handle().read_index().await.expect("a cluster of one elects itself");
        let face = Etcd3::new(running.handle(), face);
        let serving = serve(listen, vec![Arc::new(face)]).expect("a free port");
        let addr = serving.addrs()[0];
        Self { running: Some(running), serving: Some(serving), addr }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).expect("an address");
        endpoint.connect().await.expect("the port is open")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.stop();
        }
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}
