//! One HTTP/2 connection to one member.
//!
//! Invariant: a request that fails says whether it can have reached the member ([`TransportError`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use crate::endpoint::{Address, Endpoint};
use crate::error::{Error, ErrorKind};
use crate::tls::ClientTls;

/// While requests are open, the member is asked for a sign of life this often. Servers of etcd object to less than 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Without one for this long, the connection is given up.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that takes no more requests says within this time why.
const END_TIMEOUT: Duration = Duration::from_millis(100);
/// What may be under way to this client on one stream.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// No bound but the streams': a watch that nobody reads must not hold up what shares its connection.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// How a request failed below gRPC.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// It never reached the member's handlers.
    #[error("the connection was closed before the request was sent: {}", told(.0))]
    Unsent(#[source] hyper::Error),
    /// In TLS 1.3 a member judges our certificate only after the handshake is over on our side.
    #[error("TLS: the member refuses our certificate: {0}")]
    Untrusted(String),
    #[error("the connection was lost: {}", told(.0))]
    Lost(#[source] hyper::Error),
}

/// An open connection. Clones share it; it closes with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    pub origin: Uri,
    require_leader: bool,
    /// Once it is over: why.
    ended: watch::Receiver<Option<Ended>>,
}

/// How a connection ended: an error's text, or nothing.
#[derive(Clone, Debug)]
struct Ended {
    why: String,
    untrusted: bool,
}

impl Connection {
    /// Connects within `timeout`.
    pub async fn open(endpoint: &Endpoint, tls: &ClientTls, timeout: Duration) -> Result<Self, Error> {
        match tokio::time::timeout(timeout, Self::dial(endpoint, tls)).await {
            Ok(connected) => connected,
            Err(_) => Err(unreachable_because(format!("no connection within {timeout:?}"))),
        }
        .map_err(|error| error.at(endpoint.to_string()))
    }

    async fn dial(endpoint: &Endpoint, tls: &ClientTls) -> Result<Self, Error> {
        let failed = |error: std::io::Error| unreachable_because(format!("cannot connect: {error}"));
        // First, so that files that can't be used are told of before a member that can't be reached.
        let config = if endpoint.tls { Some(Self::tls_config(tls).await?) } else { None };
        match &endpoint.address {
            Address::Local(dial) => {
                let stream = (dial.0)().map_err(|error| match error.kind() {
                    io::ErrorKind::NotConnected => Error::new(ErrorKind::Gone, error.to_string()),
                    _ => failed(error),
                })?;
                Self::handshake(stream, endpoint).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                Self::secure(stream, endpoint, tls, config, "localhost").await
            }
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Self::secure(stream, endpoint, tls, config, host).await
            }
        }
    }

    async fn tls_config(tls: &ClientTls) -> Result<ClientConfig, Error> {
        let reading = tls.clone();
        tokio::task::spawn_blocking(move || reading.load())
            .await
            .map_err(|error| Error::config(format!("reading the TLS files: {error}")))?
    }

    /// With TLS where there is a `config` for it.
    async fn secure<S>(
        stream: S,
        endpoint: &Endpoint,
        tls: &ClientTls,
        config: Option<ClientConfig>,
        host: &str,
    ) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(config) = config else { return Self::handshake(stream, endpoint).await };
        let name = tls.expected_name(host)?;
        let stream = TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| unreachable_because(format!("TLS: {error}")))?;
        Self::handshake(stream, endpoint).await
    }

    async fn handshake<S>(stream: S, endpoint: &Endpoint) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable_because(format!("HTTP/2: {error}")))?;
        let shown = endpoint.to_string();
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let outcome = driver.await;
            if let Err(error) = &outcome {
                tracing::debug!(endpoint = shown, %error, "connection ended");
            }
            let ended = |error| Ended { why: told(&error), untrusted: untrusted(&error) };
            let nothing = Ended { why: String::new(), untrusted: false };
            tell.send_replace(Some(outcome.err().map_or(nothing, ended)));
        });
        Ok(Self { sender, origin: endpoint.origin.clone(), require_leader: false, ended })
    }

    /// Whether it can still take requests.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks the member to refuse what it can't do without a leader, rather than to wait.
    pub fn requiring_leader(mut self, yes: bool) -> Self {
        self.require_leader = yes;
        self
    }
}

fn unreachable_because(why: String) -> Error {
    Error::new(ErrorKind::Unreachable, why)
}

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A closed connection says so when a request is tried on it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if self.require_leader {
            request.headers_mut().insert("hasleader", HeaderValue::from_static("true"));
        }
        let sending = self.sender.try_send_request(request);
        let ended = self.ended.clone();
        Box::pin(async move {
            let mut failed = match sending.await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            let unsent = failed.take_message().is_some();
            let error = failed.into_error();
            if untrusted(&error) {
                return Err(TransportError::Untrusted(told(&error)));
            }
            if !unsent && !refused(&error) {
                return Err(TransportError::Lost(error));
            }
            // A connection that is over knows why, and the request does not.
            if error.is_canceled()
                && let Some(Ended { why, untrusted: true }) = end_of(ended).await
            {
                return Err(TransportError::Untrusted(why));
            }
            Err(TransportError::Unsent(error))
        })
    }
}

/// How a connection ended that is ending now.
async fn end_of(mut ended: watch::Receiver<Option<Ended>>) -> Option<Ended> {
    let end = tokio::time::timeout(END_TIMEOUT, ended.wait_for(Option::is_some)).await;
    end.ok()?.ok()?.clone()
}

/// An error and what is behind it.
fn told(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let why = error.to_string();
        if !text.ends_with(&why) {
            text = format!("{text}: {why}");
        }
        source = error.source();
    }
    text
}

/// The member ended the handshake because of our certificate: no request of this connection was looked at. HTTP/2 hands
/// on no more than the text of TLS's error.
fn untrusted(error: &hyper::Error) -> bool {
    use rustls::AlertDescription as Alert;
    const ALERTS: [Alert; 9] = [
        Alert::CertificateRequired,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
        Alert::DecryptError,
    ];
    let why = told(error);
    ALERTS.iter().any(|alert| why.ends_with(&rustls::Error::AlertReceived(*alert).to_string()))
}

/// The member's HTTP/2 said that it did not begin with the request.
fn refused(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
}
