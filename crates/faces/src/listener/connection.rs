//! One connection, from its first bytes to its end.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use quorate_tls::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::first_bytes::{self, Rewound, Speaks};
use super::gathered::gathered;
use super::{Body, ClientNames, ListenConfig, ThreadFace};

/// Bytes that a client may send on one stream, and on all of a connection, before we have read them.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of one stream that are framed and wait for the socket.
const SEND_BUFFER_BYTES_MAX: usize = 1 << 20;
/// What a client without TLS on a port with it may still send while it is told so: pieces, and time.
const PLAIN_TEXT_READS_MAX: usize = 64;
const PLAIN_TEXT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended, for the log.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who is at the other end, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    At(SocketAddr),
    InProcess,
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(addr) => addr.fmt(out),
            Self::InProcess => out.write_str("this process"),
        }
    }
}

pub(super) struct Served {
    pub config: Arc<ListenConfig>,
    pub faces: Arc<[Arc<dyn ThreadFace>]>,
    pub stopping: watch::Receiver<bool>,
    /// On a port with TLS.
    pub tls: Option<Arc<Acceptor>>,
}

impl Served {
    /// Serves a connection until either side ends it, or a stop.
    pub(super) async fn run(self, mut stream: TcpStream, peer: Peer) {
        let _ = stream.set_nodelay(true);
        let Some((speaks, bytes)) = self.first(&mut stream, peer).await else { return };
        let Some(tls) = self.tls.clone() else {
            if speaks == Speaks::Tls {
                tracing::info!(%peer, "closed a connection that speaks TLS; this port is plain text (http://)");
                return;
            }
            return self.serve(speaks, Rewound::new(bytes, stream), peer).await;
        };
        if speaks != Speaks::Tls {
            tracing::info!(%peer, "closed a connection that speaks plain text; this port has TLS (https://)");
            if speaks == Speaks::Http1 {
                self.answer_plain_text(stream).await;
            }
            return;
        }
        let mut stopping = self.stopping.clone();
        let shaken = tokio::select! {
            shaken = tls.accept(Rewound::new(bytes, stream), self.config.handshake_timeout) => shaken,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let mut stream = match shaken {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%peer, %error, "refused a client's connection");
                return;
            }
        };
        let names = quorate_tls::common_names_of(&stream);
        let names = (!names.is_empty()).then(|| ClientNames(names.into()));
        let Some((speaks, bytes)) = self.first(&mut stream, peer).await else { return };
        self.serve_client(speaks, Rewound::new(bytes, stream), peer, names).await;
    }

    /// Serves a connection from within the process, which has neither TLS nor a socket.
    pub(super) async fn run_local(self, mut stream: DuplexStream) {
        let Some((speaks, bytes)) = self.first(&mut stream, Peer::InProcess).await else { return };
        self.serve(speaks, Rewound::new(bytes, stream), Peer::InProcess).await;
    }

    /// What the stream speaks, and the bytes that said so. `None`: it did not say in time, or there is a stop.
    async fn first<S: AsyncRead + Unpin>(&self, stream: &mut S, peer: Peer) -> Option<(Speaks, Vec<u8>)> {
        let mut stopping = self.stopping.clone();
        let first = tokio::select! {
            first = tokio::time::timeout(self.config.handshake_timeout, first_bytes::read(stream)) => first,
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        };
        match first {
            Ok(Ok(first)) => Some(first),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a connection ended before it said what it speaks");
                None
            }
            Err(_) => {
                let seconds = self.config.handshake_timeout.as_secs_f64();
                tracing::info!(%peer, seconds, "closed a connection that did not say in time what it speaks");
                None
            }
        }
    }

    /// Serves a stream of which it is known what it speaks.
    pub(super) async fn serve<S>(self, speaks: Speaks, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_client(speaks, stream, peer, None).await;
    }

    /// The same for a client whose certificate has these names.
    async fn serve_client<S>(self, speaks: Speaks, stream: S, peer: Peer, names: Option<ClientNames>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = match speaks {
            Speaks::Http2 => self.http2(stream, names).await,
            Speaks::Http1 => self.http1(stream, names).await,
            Speaks::Tls | Speaks::Unknown => {
                tracing::info!(%peer, "closed a connection that speaks neither HTTP/1 nor HTTP/2");
                Ok(())
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    }

    /// Tells an HTTP/1 client without TLS what it should do.
    async fn answer_plain_text(&self, mut stream: TcpStream) {
        const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                              Connection: close\r\nContent-Length: 32\r\n\r\n\
                              this port has TLS: use https://\n";
        let answer = async {
            stream.write_all(ANSWER.as_bytes()).await?;
            stream.shutdown().await?;
            // What the client still sends is taken, within bounds: closing on unread bytes would reset the connection
            // and could cost the client the answer.
            let mut sent = [0; 1024];
            for _ in 0..PLAIN_TEXT_READS_MAX {
                if stream.read(&mut sent).await? == 0 {
                    break;
                }
            }
            Ok::<(), std::io::Error>(())
        };
        let _ = tokio::time::timeout(PLAIN_TEXT_TIMEOUT, answer).await;
    }

    async fn http2<S>(self, stream: S, names: Option<ClientNames>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = &self.config;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.streams_max)
            .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout);
        let faces = Arc::clone(&self.faces);
        let service = service_fn(move |request| answer(Arc::clone(&faces), names.clone(), request));
        let (stream, flusher) = gathered(stream);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut stopping = self.stopping;
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = flusher.drive(connection.as_mut()) => Some(ended),
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                flusher.drive(connection).await
            }
        };
        ended.map_err(BoxError::from)?.map_err(BoxError::from)
    }

    async fn http1<S>(self, stream: S, names: Option<ClientNames>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        /// What hyper needs at least.
        const BUFFER_BYTES_MIN: usize = 8192;
        let config = &self.config;
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(config.handshake_timeout)
            // As servers in Go write them: people's scripts look for names in that form.
            .title_case_headers(true)
            .max_buf_size(config.header_bytes_max.max(BUFFER_BYTES_MIN));
        let faces = Arc::clone(&self.faces);
        let service = service_fn(move |request| answer(Arc::clone(&faces), names.clone(), request));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut stopping = self.stopping;
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(BoxError::from),
            _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
        }
        connection.await.map_err(BoxError::from)
    }
}

async fn answer(
    faces: Arc<[Arc<dyn ThreadFace>]>,
    names: Option<ClientNames>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if let Some(names) = names {
        request.extensions_mut().insert(names);
    }
    let face = faces.iter().find(|face| face.takes(request.uri().path()));
    Ok(match face {
        Some(face) => face.call(request).await,
        None => {
            let mut response = Response::new(Body::whole("404 page not found\n".into()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}
