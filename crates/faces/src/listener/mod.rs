//! The one place that binds client ports.
//!
//! One thread accepts and hands connections round-robin to the net threads, each with its own single-threaded runtime.
//! A connection's first bytes say what it speaks: HTTP/2, HTTP/1 or neither, and all faces share both. On a port with TLS
//! they do so inside of it.
//!
//! Connections that come faster than net threads take them wait: first in a queue for each thread, then in the system's.
//!
//! Invariants: connections, header sizes and the time until a connection has said what it speaks are bounded; what is
//! beyond a bound is closed with a line in the log. Nothing is answered in plain text on a port with TLS but that it has
//! TLS. [`Serving::stop`] returns within its bound.

mod body;
mod connection;
mod first_bytes;
mod gathered;
mod handed;
mod open_files;
mod request_body;
mod seldom;
mod stopping;
mod switch;
mod threads;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use quorate_tls::Acceptor;

pub use body::{Body, BodyBroken, Outgoing, outgoing};
pub use handed::Handed;
pub(crate) use request_body::whole;
pub use request_body::{BODIES_BYTES_MAX, BodyBudget, BodyFault, Share};
pub use stopping::Stopping;
pub use switch::Switch;
pub use threads::{LocalPort, Serving};

/// What a net thread does with a request.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A protocol, as the listener sees it.
pub trait Face: Send + Sync + 'static {
    /// Called once on each net thread, in its runtime: what serves that thread's requests. Answers that go on until the
    /// client leaves end once a stop has begun, so that it need not wait for them.
    fn on_thread(&self, stopping: &Stopping) -> Arc<dyn ThreadFace>;
}

/// A face on one net thread.
pub trait ThreadFace: Send + Sync + 'static {
    /// Whether requests for this path are this face's. The first face that says yes gets the request.
    fn takes(&self, path: &str) -> bool;

    /// Answers a request. Dropped where the client goes away.
    fn call(&self, request: Request<Incoming>) -> Answering;
}

/// The common names in the certificate that a client has shown: an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct ClientNames(pub Arc<[String]>);

/// Ports with TLS.
#[derive(Clone, Debug)]
pub struct ListenTls {
    /// Listened on besides [`ListenConfig::addrs`]; they come after those in [`Serving::addrs`].
    pub addrs: Vec<SocketAddr>,
    pub acceptor: Arc<Acceptor>,
}

/// The protocols offered in a TLS handshake, best first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What to listen on, and the bounds.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Without TLS. Port 0 takes a free one; [`Serving::addrs`] says which.
    pub addrs: Vec<SocketAddr>,
    pub tls: Option<ListenTls>,
    /// 0: one for each core.
    pub net_threads: usize,
    /// Connections open at a time; one more is closed at once. Where the limit on open files is lower, less what others
    /// than clients need, that is the bound.
    pub connections_max: usize,
    /// Requests that one HTTP/2 connection may have open at a time.
    pub streams_max: u32,
    /// All headers of one request.
    pub header_bytes_max: usize,
    /// How long a connection may take to say what it speaks, and an HTTP/1 client to send its headers.
    pub handshake_timeout: Duration,
    /// An idle HTTP/2 connection is asked for a sign of life this often.
    pub keepalive_interval: Duration,
    /// It is closed if none comes within this time.
    pub keepalive_timeout: Duration,
    /// How long [`Serving::stop`] lets requests finish.
    pub stop_timeout: Duration,
    pub reuse_port: bool,
    pub reuse_address: bool,
}

impl ListenConfig {
    /// The defaults, for these addresses.
    #[must_use]
    pub fn new(addrs: Vec<SocketAddr>) -> Self {
        Self {
            addrs,
            tls: None,
            net_threads: 0,
            connections_max: 10_000,
            streams_max: 16_384,
            header_bytes_max: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            stop_timeout: Duration::from_secs(7),
            reuse_port: false,
            reuse_address: true,
        }
    }
}

/// Why the listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("can't listen on {addr}: {error}; another program may use this port")]
    Bind { addr: SocketAddr, error: io::Error },
    #[error("no address to listen on was given")]
    NoAddress,
    #[error("can't start a net thread: {0}")]
    Thread(io::Error),
}

/// Binds the ports and serves `faces` on them until [`Serving::stop`].
pub fn serve(config: ListenConfig, faces: Vec<Arc<dyn Face>>) -> Result<Serving, ListenError> {
    let bound = |addr: &SocketAddr, tls| match bind(*addr, &config) {
        Ok(listener) => Ok(Port { listener, tls }),
        Err(error) => Err(ListenError::Bind { addr: *addr, error }),
    };
    let mut listeners =
        config.addrs.iter().map(|addr| bound(addr, None)).collect::<Result<Vec<Port>, ListenError>>()?;
    if let Some(tls) = &config.tls {
        for addr in &tls.addrs {
            listeners.push(bound(addr, Some(Arc::clone(&tls.acceptor)))?);
        }
    }
    if listeners.is_empty() {
        return Err(ListenError::NoAddress);
    }
    Serving::start(config, faces, listeners).map_err(ListenError::Thread)
}

/// A bound port, and what makes TLS connections of those that it accepts.
struct Port {
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
}

fn bind(addr: SocketAddr, config: &ListenConfig) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    // As many as may come in one burst before the accepting thread runs; the system may allow fewer (somaxconn).
    const BACKLOG: i32 = 4096;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(config.reuse_address)?;
    #[cfg(unix)]
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
