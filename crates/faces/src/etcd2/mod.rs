//! etcd's v2 API over HTTP, in the two dialects that its clients know: that of etcd 0.4, where followers redirect to
//! the leader, and that of 2.x, which later servers speak beside v3.
//!
//! [`params`] turns a request into a wish, [`json`] and [`errors`] write what comes back; both are pure. No write is
//! answered before it is committed and applied here.

mod cluster;
mod cors;
pub mod errors;
pub mod form;
mod go_time;
pub mod json;
mod members;
pub mod params;
mod stats;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use quorate_member::Handle;

use self::errors::Error;
use crate::listener::{Answering, Body, Face, ThreadFace};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The version of etcd 0.4 whose interface this is, as it tells it.
pub const VERSION_04: &str = "etcd 0.3.0+git";

/// Which servers' clients are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// etcd 0.4 and before: everything on the client port.
    V04,
    /// etcd 2.x, and 3.x with `--enable-v2`: `/v2` on a port where another face has the rest.
    V2,
}

/// What may be set.
#[derive(Clone, Debug)]
pub struct Config {
    pub dialect: Dialect,
    /// This machine's name.
    pub name: String,
    /// Carry requests to the leader rather than redirect clients to it. 2.x always does.
    pub forward: bool,
    /// Web origins that may call; `*`: all.
    pub cors_origins: Vec<String>,
    /// Events that are kept for watchers that start in the past; `None`: as many as the tree keeps by itself.
    pub history_events: Option<u64>,
    /// Goes into the ids of members that are added.
    pub initial_cluster_token: String,
    /// A request is at most this long once it is a command.
    pub request_bytes_max: usize,
}

impl Config {
    /// The defaults of a dialect.
    #[must_use]
    pub fn new(dialect: Dialect, name: impl Into<String>) -> Self {
        Self {
            dialect,
            name: name.into(),
            forward: dialect == Dialect::V2,
            cors_origins: match dialect {
                Dialect::V04 => Vec::new(),
                Dialect::V2 => vec!["*".to_owned()],
            },
            history_events: None,
            initial_cluster_token: "etcd-cluster".to_owned(),
            request_bytes_max: 1536 * 1024,
        }
    }
}

/// The face. Register it with [`crate::listener::serve`]; in 2.x's dialect, before the face that has the other paths.
pub struct Etcd2 {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    config: Config,
    cors: cors::Cors,
    started: SystemTime,
    leadership: cluster::Leadership,
}

impl Etcd2 {
    #[must_use]
    pub fn new(handle: Handle, config: Config) -> Self {
        let cors = cors::Cors::new(config.dialect, &config.cors_origins);
        let leadership = cluster::Leadership::default();
        let shared = Shared { handle, config, cors, started: SystemTime::now(), leadership };
        Self { shared: Arc::new(shared) }
    }
}

impl Face for Etcd2 {
    fn on_thread(&self) -> Arc<dyn ThreadFace> {
        let shared = Arc::clone(&self.shared);
        Arc::new(OnThread(Arc::new(Thread { shared })))
    }
}

/// What one net thread has.
struct Thread {
    shared: Arc<Shared>,
}

struct OnThread(Arc<Thread>);

impl ThreadFace for OnThread {
    fn takes(&self, path: &str) -> bool {
        match self.0.dialect() {
            Dialect::V04 => true,
            Dialect::V2 => path == "/v2" || path.starts_with("/v2/"),
        }
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        let thread = Arc::clone(&self.0);
        Box::pin(async move { thread.answer(request).await })
    }
}

/// What a request comes to.
type Answer = Result<Response<Body>, Error>;

fn reply(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(body: impl Into<bytes::Bytes>) -> Response<Body> {
    reply(StatusCode::OK, TEXT, body)
}

fn not_found() -> Response<Body> {
    reply(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

/// A failure in the form that 2.x has beside the keys.
fn said(status: StatusCode, message: &str) -> Response<Body> {
    let mut body = String::from("{\"message\":");
    json::string(&mut body, message.as_bytes());
    body.push('}');
    reply(status, JSON, body)
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // What is no header value, a URL with a line's end in it for one, is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

impl Thread {
    fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    fn dialect(&self) -> Dialect {
        self.shared.config.dialect
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let allowed = self.shared.cors.headers(&head.headers);
        let mut response = if head.method == Method::OPTIONS && self.shared.cors.is_on() {
            Response::new(Body::empty())
        } else {
            let dialect = self.dialect();
            self.route(&head, body).await.unwrap_or_else(|error| error.response(dialect))
        };
        if let Some(allowed) = allowed {
            response.headers_mut().extend(allowed);
        }
        response
    }

    async fn route(self: &Arc<Self>, head: &request::Parts, body: Incoming) -> Answer {
        match self.dialect() {
            Dialect::V04 => self.route_04(head).await,
            Dialect::V2 => self.route_2(head, body).await,
        }
    }

    async fn route_04(&self, head: &request::Parts) -> Answer {
        if !is_read(&head.method) {
            return Ok(not_found());
        }
        match head.uri.path() {
            "/version" => Ok(text(VERSION_04)),
            "/v1/leader" | "/v2/leader" => self.leader_text(),
            "/v1/machines" | "/v1/peers" | "/v2/machines" | "/v2/peers" => Ok(self.machines_text()),
            "/v1/stats/self" | "/v2/stats/self" => Ok(self.self_stats()),
            "/v1/stats/leader" | "/v2/stats/leader" => self.leader_stats(head),
            _ => Ok(not_found()),
        }
    }

    async fn route_2(&self, head: &request::Parts, body: Incoming) -> Answer {
        let path = head.uri.path();
        let get = head.method == Method::GET;
        match path {
            "/v2/machines" if is_read(&head.method) => Ok(self.machines_text()),
            "/v2/machines" => Ok(not_allowed("GET,HEAD")),
            "/v2/stats/self" if get => Ok(self.self_stats()),
            "/v2/stats/leader" if get => self.leader_stats(head),
            "/v2/stats/self" | "/v2/stats/leader" => Ok(not_allowed("GET")),
            _ if path == "/v2/members" || path.starts_with("/v2/members/") => {
                Ok(self.members(head, body).await)
            }
            _ if path.starts_with("/v2/auth/") => Ok(auth(head)),
            _ => Ok(not_found()),
        }
    }

    /// Sends a client to another machine with the same request.
    fn redirect(to: &str, head: &request::Parts) -> Response<Body> {
        let asked = head.uri.path_and_query().map_or("/", |asked| asked.as_str());
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        if let Ok(location) = HeaderValue::from_str(&format!("{}{asked}", to.trim_end_matches('/'))) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// There are no users of the v2 API: it says that authentication is off, and refuses everything else.
fn auth(head: &request::Parts) -> Response<Body> {
    if head.uri.path() == "/v2/auth/enable" && head.method == Method::GET {
        return reply(StatusCode::OK, JSON, "{\"enabled\":false}\n");
    }
    said(
        StatusCode::NOT_IMPLEMENTED,
        "auth: users, roles and authentication of the v2 API are not supported; it is open to every client",
    )
}
