//! HTTP on the peer port. Some protocols expect it there, beside what members say to each other.
//!
//! Invariant: the first four bytes decide. They are capital letters (and a space) where a client speaks HTTP/1; in a
//! frame they are its length, and such a length is beyond what a frame may have.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_tls::Stream;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::transport::LinkError;

const DECIDING_BYTES: usize = 4;
/// Tells a client without TLS what it should do.
pub const NEEDS_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                             Connection: close\r\nContent-Length: 32\r\n\r\n\
                             this port has TLS: use https://\n";

/// A connection to the peer port that speaks HTTP/1.
pub struct HttpConnection {
    pub stream: Stream<TcpStream>,
    /// What was read of it already.
    pub first: Bytes,
    pub from: SocketAddr,
}

/// A connection that is being served, to its end.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What serves such connections. It runs on the peer thread, so it must not block.
#[derive(Clone)]
pub struct PeerHttp(pub Arc<dyn Fn(HttpConnection) -> Serving + Send + Sync>);

impl fmt::Debug for PeerHttp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PeerHttp")
    }
}

/// Whether these bytes begin a request of HTTP/1 and no frame.
pub fn begins(bytes: &[u8]) -> bool {
    let deciding = bytes.get(..DECIDING_BYTES);
    deciding.is_some_and(|bytes| {
        bytes[0].is_ascii_uppercase() && bytes.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b' ')
    })
}

/// Reads until it is certain whether the connection speaks HTTP/1. What was read stays in `buffer`.
pub async fn is_spoken(stream: &mut Stream<TcpStream>, buffer: &mut BytesMut) -> Result<bool, LinkError> {
    while buffer.len() < DECIDING_BYTES {
        if stream.read_buf(buffer).await? == 0 {
            return Err(LinkError::Closed);
        }
    }
    Ok(begins(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FRAME_BYTES_MAX;

    #[test]
    fn requests_are_told_apart_from_frames() {
        for request in
            ["GET /version HTTP/1.1", "PUT /", "POST /join", "DELETE /remove/a", "HEAD /", "OPTIONS *"]
        {
            assert!(begins(request.as_bytes()), "{request}");
        }
        assert!(!begins(b"GE"), "too early to tell");
        assert!(!begins(b" GET"));
        let longest = u32::try_from(FRAME_BYTES_MAX).expect("a frame's length fits");
        assert!(!begins(&longest.to_le_bytes()));
        // The shortest length that looks like HTTP is beyond any frame.
        assert!(u32::from_le_bytes(*b"A   ") > longest);
    }
}
