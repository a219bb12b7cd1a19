//! Calls whose deadline, which the client sends along, is over before they are answered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Cluster;

/// A request that never comes whole: so its deadline is over first, on however quick a machine.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// What is answered to a call that may take a millisecond: its code and its message. Tonic's client would not wait for it.
async fn late(cluster: &Cluster, method: &str) -> (String, String) {
    let stream = TcpStream::connect(cluster.addr).await.expect("the port is open");
    let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.expect("a connection");
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}/etcdserverpb.{method}", cluster.addr))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "1m")
        .body(Endless)
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let text = |name: &str| {
        let value: Option<&HeaderValue> = answer.headers().get(name);
        value.expect("a status without a message").to_str().expect("text").to_owned()
    };
    (text("grpc-status"), text("grpc-message"))
}

/// Etcd's client for Go asks another member where it is told that the deadline is over before its own clock says so.
#[tokio::test]
async fn a_write_is_not_told_that_its_deadline_is_over_for_clients_would_write_again() {
    let cluster = Cluster::start().await;
    let unavailable = ("14".to_owned(), "etcdserver: request timed out".to_owned());
    for method in [
        "KV/Put",
        "KV/DeleteRange",
        "KV/Txn",
        "KV/Compact",
        "Lease/LeaseGrant",
        "Lease/LeaseRevoke",
        "Cluster/MemberAdd",
    ] {
        assert_eq!(late(&cluster, method).await, unavailable, "{method}");
    }
    let deadline_exceeded = ("4".to_owned(), "context deadline exceeded".to_owned());
    for method in ["KV/Range", "Lease/LeaseTimeToLive", "Maintenance/Status"] {
        assert_eq!(late(&cluster, method).await, deadline_exceeded, "{method}");
    }
}
