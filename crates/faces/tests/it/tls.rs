//! A client port with TLS: gRPC and HTTP/1 inside of it, nothing outside of it.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use quorate_faces::listener::{ALPN, ListenTls};
use quorate_tls::{Acceptor, Connector, Port, Settings};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::{PutRequest, RangeRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// A port with a certificate made at start in `folder`, and what trusts it.
async fn start(folder: &Path) -> (Cluster, Settings) {
    let settings = Settings { auto: true, ..Settings::default() };
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let identity = settings.identity(Port::Client, Some(folder), &hosts).expect("made").expect("one");
    let acceptor = Acceptor::new(Port::Client, &settings, &identity, &ALPN).expect("usable");
    let cluster = Cluster::with(|_, listen| {
        listen.tls =
            Some(ListenTls { addrs: std::mem::take(&mut listen.addrs), acceptor: Arc::new(acceptor) });
    })
    .await;
    let trusting = Settings { trusted_ca_file: Some(folder.join("cert.pem")), ..Settings::default() };
    (cluster, trusting)
}

fn connector(settings: &Settings, alpn: &[&[u8]]) -> Arc<Connector> {
    Arc::new(Connector::new(Port::Client, settings, None, alpn).expect("usable"))
}

#[tokio::test]
async fn grpc_and_http1_share_a_port_with_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, trusting) = start(folder.path()).await;
    let addr = cluster.addr;

    let tls = connector(&trusting, &[b"h2"]);
    let dial = tower::service_fn(move |_| {
        let tls = Arc::clone(&tls);
        async move {
            let stream = tls.connect("localhost", TcpStream::connect(addr).await?, PATIENCE).await;
            let stream = stream.map_err(std::io::Error::other)?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let mut kv = KvClient::new(endpoint.connect_with_connector(dial).await.expect("connected"));
    // Longer than one TLS record.
    let value = vec![7; 100_000];
    let put = PutRequest { key: "k".into(), value: value.clone().into(), ..PutRequest::default() };
    kv.put(put).await.expect("put");
    let range = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    let kvs = kv.range(range).await.expect("range").into_inner().kvs;
    assert_eq!(kvs[0].value, value);

    // With the protocol agreed on, and without.
    for (alpn, agreed) in [(&[&b"http/1.1"[..]][..], Some(&b"http/1.1"[..])), (&[], None)] {
        let tls = connector(&trusting, alpn);
        let stream = TcpStream::connect(addr).await.expect("connected");
        let mut stream = tls.connect("127.0.0.1", stream, PATIENCE).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        stream.flush().await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn plain_text_on_a_port_with_tls_gets_nothing_but_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, _) = start(folder.path()).await;
    for (sent, expected) in [
        (&b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"[..], "HTTP/1.1 400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (b"\x16\x03\x01nonsense that looks like TLS at first", "\u{15}"),
    ] {
        let mut stream = TcpStream::connect(cluster.addr).await.expect("connected");
        stream.write_all(sent).await.expect("sent");
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        ended.expect("it is closed").ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(expected), "{answer}");
        assert!(!answer.contains("200"), "{answer}");
    }
}

#[tokio::test]
async fn tls_on_a_plain_port_is_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start().await;
    let settings = Settings { auto: true, ..Settings::default() };
    settings.identity(Port::Client, Some(folder.path()), &["localhost".to_owned()]).expect("made");
    let trusting = Settings { trusted_ca_file: Some(folder.path().join("cert.pem")), ..Settings::default() };
    let stream = TcpStream::connect(cluster.addr).await.expect("connected");
    let error = connector(&trusting, &[]).connect("localhost", stream, PATIENCE).await.expect_err("plain");
    assert!(error.to_string().contains("perhaps it speaks plain text"), "{error}");
}
