//! One connection, from its first bytes to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::first_bytes::{self, Rewound, Speaks};
use super::{Body, ListenConfig, ThreadFace};

/// Bytes that a client may send on one stream, and on all of a connection, before we have read them.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of one stream that are framed and wait for the socket.
const SEND_BUFFER_BYTES_MAX: usize = 1 << 20;

pub(super) struct Served {
    pub config: Arc<ListenConfig>,
    pub faces: Arc<[Arc<dyn ThreadFace>]>,
    pub stopping: watch::Receiver<bool>,
}

impl Served {
    /// Serves a connection until either side ends it, or a stop.
    pub(super) async fn run(self, mut stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let mut stopping = self.stopping.clone();
        let first = tokio::select! {
            first = tokio::time::timeout(self.config.handshake_timeout, first_bytes::read(&mut stream)) => first,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let (speaks, bytes) = match first {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a connection ended before it said what it speaks");
                return;
            }
            Err(_) => {
                let seconds = self.config.handshake_timeout.as_secs_f64();
                tracing::info!(%peer, seconds, "closed a connection that did not say in time what it speaks");
                return;
            }
        };
        let stream = Rewound::new(bytes, stream);
        let ended = match speaks {
            Speaks::Http2 => self.http2(stream).await,
            Speaks::Http1 => self.http1(stream).await,
            Speaks::Tls => {
                tracing::info!(%peer, "closed a connection that speaks TLS; this port is plain text");
                Ok(())
            }
            Speaks::Unknown => {
                tracing::info!(%peer, "closed a connection that speaks neither HTTP/1 nor HTTP/2");
                Ok(())
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    }

    async fn http2(self, stream: Rewound<TcpStream>) -> Result<(), hyper::Error> {
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
        let service = service_fn(move |request| answer(Arc::clone(&faces), request));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut stopping = self.stopping;
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    async fn http1(self, stream: Rewound<TcpStream>) -> Result<(), hyper::Error> {
        /// What hyper needs at least.
        const BUFFER_BYTES_MIN: usize = 8192;
        let config = &self.config;
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(config.handshake_timeout)
            .max_buf_size(config.header_bytes_max.max(BUFFER_BYTES_MIN));
        let faces = Arc::clone(&self.faces);
        let service = service_fn(move |request| answer(Arc::clone(&faces), request));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut stopping = self.stopping;
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

async fn answer(
    faces: Arc<[Arc<dyn ThreadFace>]>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
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
