//! A gRPC client that costs little: requests and answers are bytes on HTTP/2 streams, nothing in between.
//!
//! Invariants: an answer counts as one only if its status is 0 and it holds exactly one whole message; every byte
//! received is given back to flow control, so a long run never stalls on its own window.

use std::future::poll_fn;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Flow-control window of a connection and of each stream: no answer of a workload waits for a window update.
const WINDOW_BYTES: u32 = 4 << 20;
/// Largest answer that is accepted.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A gRPC message on the wire: one byte "compressed", four bytes length, the message.
const PREFIX_BYTES: usize = 5;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot connect to {endpoint}: {source}")]
    Connect { endpoint: String, source: std::io::Error },
    #[error("connection to {endpoint}: {source}")]
    Http2 { endpoint: String, source: h2::Error },
    #[error("{endpoint} answered with HTTP status {status}")]
    HttpStatus { endpoint: String, status: u16 },
    #[error("{endpoint} answered with gRPC status {code}: {message}")]
    Status { endpoint: String, code: u32, message: String },
    #[error("{endpoint} sent an answer that is no gRPC message: {what}")]
    Malformed { endpoint: String, what: &'static str },
}

/// The methods that workloads call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    Put,
    Range,
    Txn,
    Status,
    Watch,
    LeaseGrant,
    LeaseKeepAlive,
}

impl Rpc {
    const COUNT: usize = 7;
    const ALL: [Self; Self::COUNT] = [
        Self::Put,
        Self::Range,
        Self::Txn,
        Self::Status,
        Self::Watch,
        Self::LeaseGrant,
        Self::LeaseKeepAlive,
    ];

    fn path(self) -> &'static str {
        match self {
            Self::Put => "/etcdserverpb.KV/Put",
            Self::Range => "/etcdserverpb.KV/Range",
            Self::Txn => "/etcdserverpb.KV/Txn",
            Self::Status => "/etcdserverpb.Maintenance/Status",
            Self::Watch => "/etcdserverpb.Watch/Watch",
            Self::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
            Self::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
        }
    }
}

/// One HTTP/2 connection. Clones share it. Lives on the runtime thread that opened it.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    endpoint: String,
    uris: [Uri; Rpc::COUNT],
}

impl Connection {
    /// Connects to `endpoint` (`host:port`). Needs to run inside a [`tokio::task::LocalSet`].
    pub async fn open(endpoint: &str) -> Result<Self, CallError> {
        let connect = |source| CallError::Connect { endpoint: endpoint.to_owned(), source };
        let stream = TcpStream::connect(endpoint).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        Self::over(stream, endpoint).await
    }

    /// Speaks HTTP/2 over `io`.
    pub async fn over<T>(io: T, endpoint: &str) -> Result<Self, CallError>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let http2 = |source| CallError::Http2 { endpoint: endpoint.to_owned(), source };
        let (sender, driver) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake::<T, Bytes>(io)
            .await
            .map_err(http2)?;
        // A broken connection is seen by the calls on it.
        tokio::task::spawn_local(async move { driver.await.ok() });
        let uri = |method: Rpc| {
            Uri::builder()
                .scheme("http")
                .authority(endpoint)
                .path_and_query(method.path())
                .build()
                .map_err(|_| CallError::Malformed { endpoint: endpoint.to_owned(), what: "not host:port" })
        };
        let mut uris: [Uri; Rpc::COUNT] = Default::default();
        for method in Rpc::ALL {
            uris[method as usize] = uri(method)?;
        }
        Ok(Self { sender, endpoint: endpoint.to_owned(), uris })
    }

    /// One request, one answer. `request` comes from [`framed`]; the answer is the message without its prefix.
    pub async fn unary(&mut self, method: Rpc, request: Bytes) -> Result<Bytes, CallError> {
        let (response, mut stream) = self.start(method).await?;
        stream.send_data(request, true).map_err(|source| self.broken(source))?;
        let (headers, mut body) = self.response_head(response).await?;
        if headers.contains_key("grpc-status") {
            // An error without a body has its status in the headers.
            self.check_status(&headers)?;
        }
        let mut answer = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|source| self.broken(source))?;
            // A failure here means that the stream is over; then the next poll says so.
            body.flow_control().release_capacity(chunk.len()).ok();
            if answer.is_empty() && joined.is_empty() {
                answer = chunk;
                continue;
            }
            if joined.is_empty() {
                joined.put(std::mem::take(&mut answer));
            }
            if joined.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(self.malformed("larger than 64 MiB"));
            }
            joined.put(chunk);
        }
        let trailers = body.trailers().await.map_err(|source| self.broken(source))?;
        self.check_status(&trailers.ok_or_else(|| self.malformed("no trailers"))?)?;
        if !joined.is_empty() {
            answer = joined.freeze();
        }
        let length = message_length(&answer).ok_or_else(|| self.malformed("no whole prefix"))?;
        answer.advance(PREFIX_BYTES);
        if answer.len() != length {
            return Err(self.malformed("not exactly one message"));
        }
        Ok(answer)
    }

    /// Opens a stream with its first request, and waits until it is answered in part.
    pub async fn stream(&mut self, method: Rpc, request: Bytes) -> Result<Stream, CallError> {
        let (response, mut requests) = self.start(method).await?;
        requests.send_data(request, false).map_err(|source| self.broken(source))?;
        let (headers, answers) = self.response_head(response).await?;
        if headers.contains_key("grpc-status") {
            self.check_status(&headers)?;
        }
        Ok(Stream { connection: self.clone(), requests, answers, received: BytesMut::new() })
    }

    async fn start(&mut self, method: Rpc) -> Result<(ResponseFuture, h2::SendStream<Bytes>), CallError> {
        let ready = poll_fn(|context| self.sender.poll_ready(context)).await;
        ready.map_err(|source| self.broken(source))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uris[method as usize].clone();
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.sender.send_request(request, false).map_err(|source| self.broken(source))
    }

    async fn response_head(&self, response: ResponseFuture) -> Result<(HeaderMap, RecvStream), CallError> {
        let (head, body) = response.await.map_err(|source| self.broken(source))?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(CallError::HttpStatus {
                endpoint: self.endpoint.clone(),
                status: head.status.as_u16(),
            });
        }
        Ok((head.headers, body))
    }

    fn check_status(&self, headers: &HeaderMap) -> Result<(), CallError> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let code = text("grpc-status").and_then(|code| code.parse().ok());
        match code.ok_or_else(|| self.malformed("no grpc-status"))? {
            0 => Ok(()),
            code => Err(CallError::Status {
                endpoint: self.endpoint.clone(),
                code,
                message: text("grpc-message").unwrap_or_default().to_owned(),
            }),
        }
    }

    fn broken(&self, source: h2::Error) -> CallError {
        CallError::Http2 { endpoint: self.endpoint.clone(), source }
    }

    fn malformed(&self, what: &'static str) -> CallError {
        CallError::Malformed { endpoint: self.endpoint.clone(), what }
    }
}

/// A call that goes on: requests and answers as they come.
pub struct Stream {
    connection: Connection,
    requests: h2::SendStream<Bytes>,
    answers: RecvStream,
    received: BytesMut,
}

impl Stream {
    /// One more request.
    pub fn send(&mut self, request: Bytes) -> Result<(), CallError> {
        self.requests.send_data(request, false).map_err(|source| self.connection.broken(source))
    }

    /// The next answer; the end of the stream is an error.
    pub async fn next(&mut self) -> Result<Bytes, CallError> {
        loop {
            if let Some(length) = message_length(&self.received)
                && self.received.len() >= PREFIX_BYTES + length
            {
                self.received.advance(PREFIX_BYTES);
                return Ok(self.received.split_to(length).freeze());
            }
            match self.answers.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(|source| self.connection.broken(source))?;
                    // A failure here means that the stream is over; then the next poll says so.
                    self.answers.flow_control().release_capacity(chunk.len()).ok();
                    self.received.extend_from_slice(&chunk);
                }
                None => {
                    let trailers = self.answers.trailers().await;
                    let trailers = trailers.map_err(|source| self.connection.broken(source))?;
                    self.connection.check_status(&trailers.unwrap_or_default())?;
                    return Err(self.connection.malformed("the stream ended"));
                }
            }
        }
    }
}

/// A message with its gRPC prefix.
pub fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a request is far below 4 GiB"));
    message.encode(&mut frame).expect("the frame has room for the message");
    frame.freeze()
}

/// The length that a prefix announces; none while the prefix is not whole.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    usize::try_from(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]])).ok()
}
