//! One connection to a peer: opening it, with TLS where its URL says so, and whole frames on it.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quorate_tls::{Connector, HandshakeError, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frame::{Frame, FrameError};
use crate::shell::urls;

pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What one read takes from a connection, at least and at most.
const READ_BYTES: usize = 64 * 1024;
const READ_BYTES_MAX: usize = 1024 * 1024;
/// A larger read buffer is given back once it is empty.
const READ_BYTES_KEPT_MAX: usize = 256 * 1024;

/// What went wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("refused by the peer: {0}")]
    Refused(String),
    #[error("refused: {0}")]
    Refusing(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0} is no address of a peer: http://HOST:PORT or https://HOST:PORT is expected")]
    Url(String),
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    #[error(
        "{0} has TLS, and this member has nothing to check it with: set peer-trusted-ca-file or peer-auto-tls"
    )]
    NoCa(String),
}

/// Opens a connection to the first of `urls` that answers, with TLS where the URL says so.
pub(super) async fn connect(
    urls: &[String],
    tls: Option<&Connector>,
) -> Result<Stream<TcpStream>, LinkError> {
    let mut last = LinkError::Url("(none)".to_owned());
    for url in urls {
        let Some(address) = urls::host_and_port(url) else {
            last = LinkError::Url(url.clone());
            continue;
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                match secure(stream, url, &address, tls).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = LinkError::Timeout(CONNECT_TIMEOUT),
        }
    }
    Err(last)
}

/// The TLS handshake with a peer that was dialled, where its URL asks for it.
async fn secure(
    stream: TcpStream,
    url: &str,
    address: &str,
    tls: Option<&Connector>,
) -> Result<Stream<TcpStream>, LinkError> {
    if !urls::is_tls(url) {
        return Ok(Stream::Plain(stream));
    }
    let tls = tls.ok_or_else(|| LinkError::NoCa(url.to_owned()))?;
    let host = urls::host(address);
    Ok(tls.connect(host, stream, HANDSHAKE_TIMEOUT).await?.into())
}

/// A peer's refusal of our certificate, which may come with the first read, in words.
pub(super) fn explained(tls: Option<&Connector>, error: LinkError) -> LinkError {
    match &error {
        LinkError::Io(io) => match tls.and_then(|tls| tls.explain(io)) {
            Some(text) => LinkError::Tls(HandshakeError::Failed(text)),
            None => error,
        },
        _ => error,
    }
}

/// Reads one frame; `buffer` keeps what came beyond it.
///
/// What is read may live for long: log entries and watch events are slices of it. So a frame gets memory of its own
/// size, and never a share of a larger read buffer.
pub(super) async fn read_frame(
    stream: &mut Stream<TcpStream>,
    buffer: &mut BytesMut,
) -> Result<Bytes, LinkError> {
    loop {
        let wanted = Frame::len_of(buffer)?;
        if let Some(len) = wanted.filter(|len| buffer.len() >= *len) {
            let frame = Bytes::copy_from_slice(&buffer[..len]);
            buffer.advance(len);
            if buffer.is_empty() && buffer.capacity() > READ_BYTES_KEPT_MAX {
                *buffer = BytesMut::new();
            }
            return Ok(frame);
        }
        let missing = wanted.map_or(0, |len| len - buffer.len());
        buffer.reserve(missing.clamp(READ_BYTES, READ_BYTES_MAX));
        match stream.read_buf(buffer).await {
            Ok(0) => return Err(LinkError::Closed),
            Ok(_) => {}
            // A TLS peer that was killed does not say that it ends.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(LinkError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) async fn write(stream: &mut Stream<TcpStream>, bytes: &[u8]) -> Result<(), LinkError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, work).await.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT)))
}
