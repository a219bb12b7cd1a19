//! etcd's v2 API over HTTP, in the two dialects that its clients know: that of etcd 0.4, where followers redirect to
//! the leader, and that of 2.x, which later servers speak beside v3.
//!
//! [`params`] turns a request into a wish, [`json`] and [`errors`] write what comes back; both are pure. No write is
//! answered before it is committed and applied here.

mod auth;
mod cluster;
mod cors;
mod errors;
mod first_version;
mod form;
#[doc(hidden)]
pub mod fuzzing;
mod go_time;
mod json;
mod keys;
mod locks;
mod members;
mod params;
pub mod peer;
mod routes;
mod speed;
mod stats;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use quorate_member::{Handle, RequestError, Visible};
use quorate_models::{ModelId, tree};
use tokio::sync::Semaphore;

use self::errors::Error;
use crate::listener::{Answering, Body, BodyBudget, Face, Stopping, ThreadFace};

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
    /// Indices that a tree leaves out which was never changed. Clients that list and then watch take an index of 0 for
    /// "from now on", so it must not be the index of anything: etcd 2.x never shows it.
    pub begins_after: u64,
    /// Goes into the ids of members that are added.
    pub initial_cluster_token: String,
    /// A request is at most this long once it is a command.
    pub request_bytes_max: usize,
    /// How long a client may take to send a request.
    pub request_timeout: Duration,
    /// A client that says nothing of itself is the user that its certificate names.
    pub client_cert_auth: bool,
    /// The memory for what clients send.
    pub bodies: BodyBudget,
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
            begins_after: 0,
            initial_cluster_token: "etcd-cluster".to_owned(),
            request_bytes_max: 1536 * 1024,
            request_timeout: Duration::from_secs(300),
            client_cert_auth: false,
            bodies: BodyBudget::default(),
        }
    }
}

/// Large answers that are put together at a time, those of all clients together.
const LARGE_READS_MAX: usize = 8;
/// Between two tries to set what the whole cluster shares.
const SETTING_RETRY: Duration = Duration::from_millis(500);

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
    large_reads: Arc<Semaphore>,
    passwords: auth::Passwords,
    reads: AtomicU64,
    failed_reads: AtomicU64,
    /// The watchers of each net thread.
    watchers: Mutex<Vec<Weak<watch::Watchers>>>,
    /// The tasks that one face has once are running.
    tasks_started: AtomicBool,
}

impl Shared {
    fn count_read(&self, found: bool) {
        let counter = if found { &self.reads } else { &self.failed_reads };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many watch now.
    fn watching(&self) -> usize {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.iter().filter_map(Weak::upgrade).map(|watchers| watchers.len()).sum()
    }

    /// The command with which a tree that was never changed leaves out its first indices, where it is to.
    fn beginning(&self) -> Option<tree::Command> {
        let index = self.config.begins_after;
        let begins = index > 0 && tree::current_index(&self.handle.store().read()).0 == 0;
        begins.then_some(tree::Command::Begin { index: quorate_ids::TreeIndex(index) })
    }

    /// Lets the tree begin, once there is a leader.
    async fn begin(self: Arc<Self>) {
        while let Some(command) = self.beginning() {
            match self.handle.propose(ModelId::TREE, tree::encode(&command)).await {
                Ok(_) | Err(RequestError::Stopped { .. }) => return,
                // A second one changes nothing.
                Err(_) => tokio::time::sleep(SETTING_RETRY).await,
            }
        }
    }

    /// Sees to it that history keeps as many events as it was asked for.
    async fn keep_history(self: Arc<Self>, events: u64) {
        while tree::history_window(&self.handle.store().read()) != events {
            let command = tree::encode(&tree::Command::SetHistoryWindow { events });
            match self.handle.propose(ModelId::TREE, command).await {
                Ok(applied) => {
                    if let quorate_member::ModelReply::Tree(tree::Reply::Refused { error, .. }) =
                        applied.reply
                    {
                        tracing::error!(events, %error, "history keeps as many events as before");
                        return;
                    }
                }
                Err(RequestError::Stopped { .. }) => return,
                // No leader yet; the same again changes nothing.
                Err(_) => tokio::time::sleep(SETTING_RETRY).await,
            }
        }
    }
}

impl Etcd2 {
    #[must_use]
    pub fn new(handle: Handle, config: Config) -> Self {
        let shared = Shared {
            cors: cors::Cors::new(config.dialect, &config.cors_origins),
            handle,
            config,
            started: SystemTime::now(),
            leadership: cluster::Leadership::default(),
            large_reads: Arc::new(Semaphore::new(LARGE_READS_MAX)),
            passwords: auth::Passwords::new(),
            reads: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
            watchers: Mutex::default(),
            tasks_started: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Face for Etcd2 {
    fn on_thread(&self, stopping: &Stopping) -> Arc<dyn ThreadFace> {
        let shared = Arc::clone(&self.shared);
        if !shared.tasks_started.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(&shared).begin());
            if let Some(events) = shared.config.history_events {
                tokio::spawn(Arc::clone(&shared).keep_history(events));
            }
        }
        let watchers = Arc::new(watch::Watchers::default());
        shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&watchers));
        tokio::spawn(Arc::clone(&watchers).run(shared.handle.clone(), shared.handle.visible()));
        let visible = shared.handle.visible();
        Arc::new(OnThread(Arc::new(Thread { shared, visible, watchers, stopping: stopping.clone() })))
    }
}

/// What one net thread has.
struct Thread {
    shared: Arc<Shared>,
    visible: tokio::sync::watch::Receiver<Visible>,
    watchers: Arc<watch::Watchers>,
    stopping: Stopping,
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

/// Text; what is empty is of no type, as servers in Go have it.
fn text(body: impl Into<bytes::Bytes>) -> Response<Body> {
    let body = body.into();
    let is_empty = body.is_empty();
    let mut response = reply(StatusCode::OK, TEXT, body);
    if is_empty {
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

fn not_found() -> Response<Body> {
    reply(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
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
        let (mut head, body) = request.into_parts();
        // Held until the answer is there: so long its body, or what was made of it, is in memory.
        head.extensions.insert(self.shared.config.bodies.share());
        let allowed = self.shared.cors.headers(&head.headers);
        let mut response = if head.method == Method::OPTIONS && self.shared.cors.is_on() {
            Response::new(Body::empty())
        } else {
            let dialect = self.dialect();
            let answer = match dialect {
                Dialect::V04 => self.route_04(&head, body).await,
                Dialect::V2 => self.route_2(&head, body).await,
            };
            answer.unwrap_or_else(|error| error.response(dialect))
        };
        response.headers_mut().extend(allowed.unwrap_or_default());
        response
    }
}
