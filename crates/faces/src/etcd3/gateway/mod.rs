//! The JSON form of the gRPC interface, below `/v3/`: each request becomes a gRPC call within the process, and its answers
//! become JSON again.
//!
//! What JSON looks like follows etcd's gateway: fields by their names in `.proto` (camel case is taken, too), unknown ones
//! passed over, those with their default left out, 64-bit numbers as strings, bytes in base64. Calls that stream answer one
//! `{"result":...}` a line.

mod json;
mod paths;

use std::sync::{Arc, OnceLock};

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode};
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use serde_json::json;
use tokio::sync::mpsc;

use self::json::{Requests, Types};
use super::Thread;
use super::budget::Taken;
use super::call;
use super::errors::{Code, Status};
use super::grpc::{self, CallBody};
use super::methods::{Kind, Method};
use crate::listener::{Body, Outgoing, outgoing};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Headers with this prefix are metadata of the call.
const METADATA_PREFIX: &str = "grpc-metadata-";
/// Answers that wait for one client; the call is not listened to meanwhile.
const QUEUED_BYTES_MAX: usize = 256 * 1024;
/// What an answer takes in memory at a time, as a multiple of its message: as it came, decoded, and as JSON.
const ANSWER_COPIES: usize = 4;

/// The messages' descriptions, read when the first request needs them.
#[derive(Default)]
pub struct Gateway {
    pool: OnceLock<DescriptorPool>,
}

impl Gateway {
    /// What a request with this body at this path asks for, as a message; `None`: there is no such path.
    pub fn request(&self, path: &str, body: &[u8]) -> Option<Result<Bytes, Status>> {
        let types = self.types(paths::method_at(path)?);
        Some(json::message(types.input, body).map(|message| message.encode_to_vec().into()))
    }

    /// A body that asks for what `message` does at this path.
    pub fn body(&self, path: &str, message: Bytes) -> Option<Result<Vec<u8>, Status>> {
        Some(json::text(self.types(paths::method_at(path)?).input, message))
    }

    fn types(&self, method: Method) -> Types {
        let pool = self.pool.get_or_init(|| {
            DescriptorPool::decode(quorate_wire::DESCRIPTORS).expect("the build wrote these descriptors")
        });
        let entry = method.entry();
        let service = pool.get_service_by_name(entry.service).expect("each service is described");
        let mut methods = service.methods();
        let found = methods.find(|found| found.name() == entry.name).expect("each method is described");
        Types { input: found.input(), output: found.output() }
    }
}

/// Whether requests at this path are the gateway's.
pub(super) fn takes(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

/// Answers a request below `/v3/`.
pub(super) async fn answer(thread: Arc<Thread>, request: Request<Incoming>) -> Response<Body> {
    respond(thread, request).await.unwrap_or_else(|status| refusal(&status))
}

async fn respond(thread: Arc<Thread>, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let Some(method) = paths::method_at(request.uri().path()) else {
        return Err(Status::new(Code::NotFound, "Not Found"));
    };
    if request.method() != Verb::POST {
        return Err(Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    let types = thread.shared.gateway.types(method);
    let kind = method.entry().kind;
    let head = call_head(method, request.headers());
    let bytes_max = json::bytes_max(thread.shared.config.message_bytes_max());
    let mut requests = Requests::new(request.into_body(), types.input, kind == Kind::Bidi, bytes_max);

    let first = tokio::time::timeout(thread.shared.config.request_timeout, requests.next()).await;
    let first = first
        .map_err(|_| Status::new(Code::DeadlineExceeded, "the request did not come whole in time"))??;
    // One, so that a call that takes no more is not sent more.
    let (sender, receiver) = mpsc::channel(1);
    let sent = sender.try_send(first.unwrap_or_else(|| grpc::framed(&())));
    debug_assert!(sent.is_ok(), "the channel is empty and open");
    let sender = (kind == Kind::Bidi).then_some(sender);
    let response = call::answer(Arc::clone(&thread), head.map(|()| CallBody::Gateway(receiver))).await;
    let mut answers = Answers::new(thread, response);

    let Some(first) = answers.next().await? else {
        return Err(Status::new(Code::Internal, "the call ended without an answer"));
    };
    if kind == Kind::Unary {
        let text = json::text(types.output, first.message)?;
        // Whatever goes wrong behind its message is the call's outcome.
        return match answers.next().await? {
            None => Ok(whole(StatusCode::OK, text)),
            Some(_) => Err(Status::new(Code::Internal, "the call has more than one answer")),
        };
    }
    let (outgoing, body) = outgoing();
    let streaming = Streaming { output: types.output, requests, sender, answers, outgoing };
    tokio::spawn(streaming.run(first));
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// A gRPC request without its messages: what HTTP headers say for it.
fn call_head(method: Method, headers: &HeaderMap) -> Request<()> {
    let mut head = Request::new(());
    *head.uri_mut() = ::http::Uri::from_static(method.entry().path);
    for (name, value) in headers {
        let metadata = name.as_str().strip_prefix(METADATA_PREFIX);
        let metadata = metadata.or_else(|| (name.as_str() == "grpc-timeout").then_some("grpc-timeout"));
        if let Some(Ok(name)) = metadata.map(|name| HeaderName::from_bytes(name.as_bytes())) {
            head.headers_mut().append(name, value.clone());
        }
    }
    head
}

/// A message of an answer, and its share of the memory for answers.
struct Answer {
    message: Bytes,
    _taken: Taken,
}

/// What a call answers, message by message.
struct Answers {
    thread: Arc<Thread>,
    body: Body,
    /// What came of the next message, prefix included, and what was taken for it.
    buffer: BytesMut,
    taken: Option<Taken>,
    /// Once it is known, from headers or trailers.
    status: Option<Result<(), Status>>,
}

impl Answers {
    fn new(thread: Arc<Thread>, response: Response<Body>) -> Self {
        let status = grpc::status_of(response.headers());
        Self { thread, body: response.into_body(), buffer: BytesMut::new(), taken: None, status }
    }

    /// The next message; `None` at the end of a call that went well.
    async fn next(&mut self) -> Result<Option<Answer>, Status> {
        loop {
            if let Some(answer) = self.take()? {
                return Ok(Some(answer));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.status = frame.trailers_ref().and_then(grpc::status_of),
                },
                Some(Err(broken)) => return Err(Status::with(Code::Unavailable, broken.to_string())),
                None => {
                    let unknown = || Err(Status::new(Code::Internal, "the call ended without a status"));
                    return self.status.take().unwrap_or_else(unknown).map(|()| None);
                }
            }
        }
    }

    fn take(&mut self) -> Result<Option<Answer>, Status> {
        let Some(prefix) = self.buffer.first_chunk::<{ grpc::PREFIX_BYTES }>() else { return Ok(None) };
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let taken = match self.taken.take() {
            Some(taken) => taken,
            None => self.thread.shared.answer_bytes.take(len.saturating_mul(ANSWER_COPIES))?,
        };
        if self.buffer.len() < grpc::PREFIX_BYTES + len {
            self.taken = Some(taken);
            return Ok(None);
        }
        self.buffer.advance(grpc::PREFIX_BYTES);
        Ok(Some(Answer { message: self.buffer.split_to(len).freeze(), _taken: taken }))
    }
}

/// A call whose answers go to the client as they come.
struct Streaming {
    output: prost_reflect::MessageDescriptor,
    requests: Requests<Incoming>,
    /// Where further requests go; `None`: there are no more.
    sender: Option<mpsc::Sender<Bytes>>,
    answers: Answers,
    outgoing: Outgoing,
}

impl Streaming {
    async fn run(mut self, first: Answer) {
        match self.stream(first).await {
            Ok(()) => self.outgoing.close(),
            Err(status) => {
                let line = json!({ "error": error_of(&status, true) });
                self.outgoing.push(format!("{line}\n").into());
                self.outgoing.close();
            }
        }
    }

    /// Ends with the call, or when the client is gone.
    async fn stream(&mut self, first: Answer) -> Result<(), Status> {
        self.push(first)?;
        // A request that the call has not taken yet.
        let mut waiting: Option<Bytes> = None;
        loop {
            let sender = self.sender.clone();
            let room = async {
                match &sender {
                    Some(sender) => sender.reserve().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = self.answers.next() => {
                    let Some(answer) = answer? else { return Ok(()) };
                    self.push(answer)?;
                    if !self.outgoing.below(QUEUED_BYTES_MAX).await {
                        return Ok(());
                    }
                }
                request = self.requests.next(), if waiting.is_none() && self.sender.is_some() => {
                    waiting = request?;
                    if waiting.is_none() {
                        self.sender = None;
                    }
                }
                room = room, if waiting.is_some() => match (room, waiting.take()) {
                    (Ok(room), Some(request)) => room.send(request),
                    // The call ends; its status comes as an answer.
                    _ => self.sender = None,
                },
                () = self.outgoing.gone() => return Ok(()),
            }
        }
    }

    fn push(&self, answer: Answer) -> Result<(), Status> {
        let text = json::text(self.output.clone(), answer.message)?;
        let mut line = Vec::with_capacity(text.len() + 12);
        line.extend_from_slice(b"{\"result\":");
        line.extend_from_slice(&text);
        line.extend_from_slice(b"}\n");
        self.outgoing.push(line.into());
        Ok(())
    }
}

fn whole(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::whole(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn refusal(status: &Status) -> Response<Body> {
    whole(http_status(status.code), error_of(status, false).to_string().into_bytes())
}

/// A failure as clients of any etcd find it: newer ones tell `code` and `message`; older ones `error` as well, and in
/// streams codes of gRPC and HTTP.
fn error_of(status: &Status, in_stream: bool) -> serde_json::Value {
    let (code, message) = (status.code as u16, &status.message);
    if !in_stream {
        return json!({ "error": message, "code": code, "message": message });
    }
    let http = http_status(status.code);
    json!({
        "code": code,
        "message": message,
        "grpc_code": code,
        "http_code": http.as_u16(),
        "http_status": http.canonical_reason().unwrap_or_default(),
    })
}

/// The mapping that grpc-gateway defines.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Canceled => StatusCode::from_u16(499).expect("a number of three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::super::methods::{METHODS, at_path};
    use super::*;

    #[test]
    fn every_method_is_described() {
        let gateway = Gateway::default();
        for entry in METHODS {
            let method = at_path(entry.path).expect("it is in the table");
            let _ = gateway.types(method);
        }
    }

    #[test]
    fn a_call_has_the_metadata_of_its_request_and_nothing_else_of_it() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-metadata-hasleader", HeaderValue::from_static("true"));
        headers.insert("grpc-timeout", HeaderValue::from_static("5S"));
        headers.insert("host", HeaderValue::from_static("here"));
        let head = call_head(Method::Range, &headers);
        assert_eq!(head.uri().path(), "/etcdserverpb.KV/Range");
        assert_eq!(head.headers().len(), 2);
        assert_eq!(
            (&head.headers()["hasleader"], &head.headers()["grpc-timeout"]),
            (&HeaderValue::from_static("true"), &HeaderValue::from_static("5S"))
        );
    }
}
