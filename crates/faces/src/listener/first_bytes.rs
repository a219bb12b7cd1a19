//! What a connection speaks, by its first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;
const METHOD_BYTES_MAX: usize = 16;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http2,
    Http1,
    Tls,
    Unknown,
}

/// `None`: more bytes are needed.
pub(super) fn judge(bytes: &[u8]) -> Option<Speaks> {
    let first = *bytes.first()?;
    if first == TLS_HANDSHAKE {
        return Some(Speaks::Tls);
    }
    let common = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..common] == HTTP2_PREFACE[..common] {
        return (bytes.len() >= HTTP2_PREFACE.len()).then_some(Speaks::Http2);
    }
    for (place, byte) in bytes.iter().enumerate() {
        match byte {
            b' ' if place > 0 => return Some(Speaks::Http1),
            b'A'..=b'Z' if place < METHOD_BYTES_MAX => {}
            _ => return Some(Speaks::Unknown),
        }
    }
    None
}

/// Reads until the bytes say what the connection speaks. The bytes read come back with it.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Speaks, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        let mut piece = [0; 256];
        let read = stream.read(&mut piece).await?;
        bytes.extend_from_slice(&piece[..read]);
        if let Some(speaks) = judge(&bytes) {
            return Ok((speaks, bytes));
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A stream of which some bytes were read already: they come first.
pub(super) struct Rewound<S> {
    first: Vec<u8>,
    taken: usize,
    stream: S,
}

impl<S> Rewound<S> {
    pub(super) fn new(first: Vec<u8>, stream: S) -> Self {
        Self { first, taken: 0, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken < this.first.len() {
            let rest = &this.first[this.taken..];
            let len = rest.len().min(into.remaining());
            into.put_slice(&rest[..len]);
            this.taken += len;
            if this.taken == this.first.len() {
                this.first = Vec::new();
                this.taken = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocols_apart() {
        assert_eq!(judge(HTTP2_PREFACE), Some(Speaks::Http2));
        assert_eq!(judge(b"GET /health HTTP/1.1\r\n"), Some(Speaks::Http1));
        assert_eq!(judge(b"PUT "), Some(Speaks::Http1));
        assert_eq!(judge(&[TLS_HANDSHAKE, 3, 1]), Some(Speaks::Tls));
        assert_eq!(judge(b"\x00\x01garbage"), Some(Speaks::Unknown));
        assert_eq!(judge(b"get / HTTP/1.1"), Some(Speaks::Unknown));
        assert_eq!(judge(b" GET"), Some(Speaks::Unknown));
        assert_eq!(judge(&[b'A'; 17]), Some(Speaks::Unknown), "a method without an end");
    }

    #[test]
    fn a_beginning_asks_for_more() {
        for len in 0..HTTP2_PREFACE.len() {
            assert_eq!(judge(&HTTP2_PREFACE[..len]), None, "{len} bytes of the preface");
        }
        assert_eq!(judge(b"GE"), None);
    }
}
