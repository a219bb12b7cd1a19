//! A stop does not wait for what would never end by itself; and a burst of connections loses none.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use quorate_faces::listener::{Answering, Body, Face, ListenConfig, Stopping, ThreadFace, serve};
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::v3lockpb;
use quorate_wire::v3lockpb::lock_client::LockClient;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::Cluster;

/// Far longer than anybody would wait: a stop that lets it run out fails the test by its client's patience.
const STOP_TIMEOUT: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_watches_keep_alives_and_waits_for_locks_at_once() {
    let mut cluster = Cluster::with(|_, listen| listen.stop_timeout = STOP_TIMEOUT).await;
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let request =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut watch =
        WatchClient::new(cluster.channel().await).watch(requests).await.expect("a watch").into_inner();
    assert!(watch.message().await.expect("an answer").expect("a message").created);

    let mut leases = LeaseClient::new(cluster.channel().await);
    let grant = pb::LeaseGrantRequest { ttl: 600, ..Default::default() };
    let id = leases.lease_grant(grant).await.expect("a lease").into_inner().id;
    let alive = tokio_stream::once(pb::LeaseKeepAliveRequest { id }).chain(tokio_stream::pending());
    let mut alive = leases.lease_keep_alive(alive).await.expect("a stream").into_inner();
    assert_eq!(alive.message().await.expect("an answer").expect("a message").id, id);

    let ask = || v3lockpb::LockRequest { name: "l".into(), lease: id };
    LockClient::new(cluster.channel().await).lock(ask()).await.expect("the lock is free");
    let other = leases
        .lease_grant(pb::LeaseGrantRequest { ttl: 600, ..Default::default() })
        .await
        .expect("a lease")
        .into_inner()
        .id;
    let channel = cluster.channel().await;
    let waits = tokio::spawn(async move {
        LockClient::new(channel).lock(v3lockpb::LockRequest { name: "l".into(), lease: other }).await
    });
    // It waits once its place in the queue is there.
    let mut kv = pb::kv_client::KvClient::new(cluster.channel().await);
    let queue = || pb::RangeRequest { key: "l/".into(), range_end: "l0".into(), ..Default::default() };
    while kv.range(queue()).await.expect("an answer").into_inner().count < 2 {
        tokio::task::yield_now().await;
    }

    let serving = cluster.serving.take().expect("it serves");
    let stop = tokio::task::spawn_blocking(move || serving.stop());
    let ended = async {
        let watch = watch.message().await.expect_err("the watch ends");
        let alive = alive.message().await.expect_err("the keep-alives end");
        let lock = waits.await.expect("no panic").expect_err("nobody gave the lock back");
        [watch, alive, lock]
    };
    for status in tokio::time::timeout(PATIENCE, ended).await.expect("all end") {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    tokio::time::timeout(PATIENCE, stop).await.expect("the stop ends").expect("no panic");
}

/// Answers everything; a request for `/hold` holds its net thread until it is let go.
struct Holding {
    held: Mutex<mpsc::Sender<()>>,
    let_go: Mutex<mpsc::Receiver<()>>,
}

impl Face for Shared {
    fn on_thread(&self, _: &Stopping) -> Arc<dyn ThreadFace> {
        Arc::new(self.clone())
    }
}

#[derive(Clone)]
struct Shared(Arc<Holding>);

impl ThreadFace for Shared {
    fn takes(&self, _: &str) -> bool {
        true
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        let holding = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() == "/hold" {
                holding.held.lock().expect("no panic").send(()).expect("the test listens");
                holding.let_go.lock().expect("no panic").recv().expect("the test lets go");
            }
            Response::new(Body::empty())
        })
    }
}

#[test]
fn connections_that_come_faster_than_they_are_taken_wait() {
    // More than the queue of a net thread holds.
    const BURST: usize = 400;
    let (held, holds) = mpsc::channel();
    let (let_it_go, let_go) = mpsc::channel();
    let face = Shared(Arc::new(Holding { held: Mutex::new(held), let_go: Mutex::new(let_go) }));
    let mut config = ListenConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
    config.net_threads = 1;
    config.handshake_timeout = PATIENCE;
    let serving = serve(config, vec![Arc::new(face)]).expect("a free port");
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(serving.addrs()[0]).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("sent");
        stream
    };
    let first = ask("/hold");
    holds.recv_timeout(PATIENCE).expect("the net thread is held");
    let burst: Vec<TcpStream> = (0..BURST).map(|_| ask("/")).collect();
    let_it_go.send(()).expect("the face waits");
    let answered = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok_and(|_| answer.starts_with("HTTP/1.1 200"))
    };
    assert!(answered(first));
    assert_eq!(burst.into_iter().map(answered).filter(|&ok| ok).count(), BURST);
    serving.stop();
}
