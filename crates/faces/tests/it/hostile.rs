//! Bytes that make no sense: each connection gets its due, and the member lives on.

use std::net::SocketAddr;
use std::time::Duration;

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends bytes and reads what comes until the other side closes.
async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.expect("the port is open");
    stream.write_all(bytes).await.expect("written");
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    answer
}

async fn assert_alive(cluster: &Cluster) {
    let mut client = KvClient::new(cluster.channel().await);
    client.put(pb::PutRequest { key: "alive".into(), ..Default::default() }).await.expect("a put");
}

#[tokio::test]
async fn garbage_and_tls_are_closed() {
    let cluster = Cluster::start().await;
    for garbage in [&b"\0\xff\xfe\x01"[..], b"\x16\x03\x01\x02\0\x01", b"hello there\r\n", &[b'A'; 4096]] {
        assert_eq!(exchange(cluster.addr, garbage).await, b"");
    }
    assert_alive(&cluster).await;
}

#[tokio::test]
async fn a_broken_http2_connection_ends_alone() {
    let cluster = Cluster::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for frames in
        [&b"\xff\xff\xff\0\0\0\0\0\0"[..], b"\0\0\x04\x01\x05\0\0\0\x01abcd", b"\0\0\0\x07\0\0\0\0\x09"]
    {
        exchange(cluster.addr, &[&preface[..], frames].concat()).await;
    }
    assert_alive(&cluster).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_in_time() {
    let cluster = Cluster::with(|_, listen| listen.handshake_timeout = Duration::from_millis(50)).await;
    for beginning in [&b""[..], b"PRI * HT", b"GE"] {
        assert_eq!(exchange(cluster.addr, beginning).await, b"");
    }
    assert_alive(&cluster).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed() {
    let cluster = Cluster::with(|_, listen| listen.connections_max = 1).await;
    let held = cluster.channel().await;
    assert_eq!(exchange(cluster.addr, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await, b"");
    KvClient::new(held)
        .range(pb::RangeRequest { key: "a".into(), ..Default::default() })
        .await
        .expect("served");
}

#[tokio::test]
async fn http_answers_beside_grpc() {
    let cluster = Cluster::start().await;
    for (request, status, part) in [
        ("GET /health", "200", r#""health":"true""#),
        ("GET /version", "200", r#""etcdserver":"3.7.1""#),
        ("GET /readyz?verbose", "200", "[+]linearizable_read ok"),
        ("GET /livez/serializable_read", "200", "ok"),
        ("GET /livez/nonsense", "404", "404 page not found"),
        ("GET /metrics", "200", "etcd_server_has_leader 1"),
        ("POST /health", "405", "Method Not Allowed"),
        ("GET /", "404", "404 page not found"),
        ("GET /v3/kv/range", "501", "Method Not Allowed"),
        ("POST /etcdserverpb.KV/Put", "415", "speaks gRPC"),
    ] {
        let text = format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = String::from_utf8(exchange(cluster.addr, text.as_bytes()).await).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains(part), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let cluster = Cluster::start().await;
    let mut client = KvClient::new(cluster.channel().await);
    let value =
        |len: usize| pb::PutRequest { key: "k".into(), value: vec![0; len].into(), ..Default::default() };
    let refused = client.put(value(1_600_000)).await.expect_err("more than a command may have");
    assert_eq!(refused.message(), "etcdserver: request is too large");
    let refused = client.put(value(3_000_000)).await.expect_err("more than a message may have");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    client.put(value(1_000_000)).await.expect("a large value");
}
