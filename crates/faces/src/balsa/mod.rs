//! balsa's face: a key-value store and its cluster by plain HTTP, simple enough for curl.
//!
//! Each endpoint takes any method, with its parameters in the query or in a form ([`parameters`]). What it answers is
//! JSON but for a key's value, which comes as it is. Its keys are keys of the keys model under a prefix, so that etcd's
//! clients see them, too. [`console`] tells people what goes on, in the lines that balsa's users know.
//!
//! Invariants: a `/set` is answered only after its command is committed and applied; nothing that a client sends ends the
//! process; a parameter that an endpoint does not know is refused, so that no slip of the pen passes for a request.

mod answer;
mod console;
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod log;
mod members;
mod parameters;
mod snapshot;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use quorate_member::Handle;

use crate::listener::{Answering, Body, BodyBudget, Face, Share, Stopping, ThreadFace, whole};

pub use answer::Answer;
pub use console::{Console, Quiet, Sink};
use parameters::Parameters;

/// What may be set.
#[derive(Clone)]
pub struct Config {
    /// Stands before every key.
    pub prefix: String,
    /// What requests have to show, all but the looks at this node's health.
    pub token: Option<String>,
    /// A command is at most this long.
    pub request_bytes_max: usize,
    /// No time to live is shorter than one and a half of these.
    pub election_timeout: Duration,
    /// The scheme of the nodes' raft addresses.
    pub raft_https: bool,
    /// Whether `/healthz` and `/readyz` are this face's, or are left to another one on the port.
    pub takes_readyz: bool,
    pub console: Arc<Console>,
    /// The memory for what clients send.
    pub bodies: BodyBudget,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prefix: "balsa/".to_owned(),
            token: None,
            request_bytes_max: 1536 * 1024,
            election_timeout: Duration::from_secs(1),
            raft_https: false,
            takes_readyz: true,
            console: Arc::new(Console::new(Arc::new(Quiet), String::new())),
            bodies: BodyBudget::default(),
        }
    }
}

/// How long a client may take to send a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest body: a snapshot that is to be restored.
const BODY_BYTES_MAX: usize = 64 << 20;

/// The face. Register it before etcd3's: both have `/readyz`, and this one takes nothing that etcd's clients ask for
/// otherwise.
pub struct Balsa {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    config: Config,
    lease_ids: AtomicU64,
    /// See [`Shared::round_began`].
    round_began: Mutex<Option<Instant>>,
}

impl Balsa {
    #[must_use]
    pub fn new(handle: Handle, config: Config) -> Self {
        // Far from those of etcd3's face on the same member, which begins to count in the same moment.
        const OWN_RANGE: u64 = 1 << 47;
        let lease_ids = AtomicU64::new(crate::etcd3::first_lease_id(handle.identity().member) ^ OWN_RANGE);
        let round_began = Mutex::new(None);
        Self { shared: Arc::new(Shared { handle, config, lease_ids, round_began }) }
    }
}

impl Face for Balsa {
    fn on_thread(&self, _: &Stopping) -> Arc<dyn ThreadFace> {
        Arc::new(OnThread(Arc::clone(&self.shared)))
    }
}

struct OnThread(Arc<Shared>);

impl ThreadFace for OnThread {
    fn takes(&self, path: &str) -> bool {
        Endpoint::at(path).is_some_and(|endpoint| self.0.config.takes_readyz || !endpoint.is_open())
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.answer(request).await })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Join,
    Set,
    Get,
    Keys,
    Remove,
    Leave,
    Status,
    Members,
    Leader,
    Log,
    Snapshot,
    Transfer,
    Healthz,
    Readyz,
}

impl Endpoint {
    fn at(path: &str) -> Option<Self> {
        // balsa's router takes a path as it is; people add slashes all the same.
        Some(match path.strip_suffix('/').unwrap_or(path) {
            "/join" => Self::Join,
            "/set" => Self::Set,
            "/get" => Self::Get,
            "/keys" => Self::Keys,
            "/remove" => Self::Remove,
            "/leave" => Self::Leave,
            "/status" => Self::Status,
            "/members" => Self::Members,
            "/leader" => Self::Leader,
            "/log" => Self::Log,
            "/snapshot" => Self::Snapshot,
            "/transfer" => Self::Transfer,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            _ => return None,
        })
    }

    /// Whoever looks after processes has no token.
    fn is_open(self) -> bool {
        matches!(self, Self::Healthz | Self::Readyz)
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let Some(endpoint) = Endpoint::at(request.uri().path()) else {
            return Answer::error(StatusCode::NOT_FOUND, "404 page not found").into_response();
        };
        match self.serve(endpoint, request).await {
            Ok(answer) | Err(answer) => answer.into_response(),
        }
    }

    async fn serve(
        self: &Arc<Self>,
        endpoint: Endpoint,
        request: Request<Incoming>,
    ) -> Result<Answer, Answer> {
        let (head, body) = request.into_parts();
        let mut parameters = Parameters::default();
        parameters.add(head.uri.query().unwrap_or("").as_bytes())?;
        if !endpoint.is_open() && !self.may_pass(&head.headers, &parameters) {
            return Err(Answer::unauthorized());
        }
        let is_form = parameters::is_form(&head.headers)?;
        // Held until the answer is there: so long the body, or what was made of it, is in memory.
        let share = self.config.bodies.share();
        let body = self.read(body, is_form, &share).await?;
        if is_form {
            parameters.add_form(&body)?;
        }
        if !endpoint.is_open() && !self.may_pass(&head.headers, &parameters) {
            return Err(Answer::unauthorized());
        }
        match endpoint {
            Endpoint::Join => self.join(&parameters).await,
            Endpoint::Set => self.set(&parameters).await,
            Endpoint::Get => self.get(&parameters).await,
            Endpoint::Keys => self.keys(&parameters).await,
            Endpoint::Remove if parameters.has("key") => self.remove_key(&parameters).await,
            Endpoint::Remove | Endpoint::Leave => {
                self.remove_node(&parameters, endpoint == Endpoint::Leave).await
            }
            Endpoint::Status => self.status(&parameters),
            Endpoint::Members => self.members(&parameters),
            Endpoint::Leader => self.leader(&parameters),
            Endpoint::Log => self.log(&parameters).await,
            Endpoint::Snapshot => self.snapshot(&parameters, if is_form { Bytes::new() } else { body }).await,
            Endpoint::Transfer => self.transfer(&parameters).await,
            Endpoint::Healthz => self.healthz(),
            Endpoint::Readyz => self.readyz().await,
        }
    }

    /// Whether the request shows the token, if there is one.
    fn may_pass(&self, headers: &http::HeaderMap, parameters: &Parameters) -> bool {
        let Some(token) = &self.config.token else { return true };
        let shown = headers
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .or_else(|| parameters.get("token"));
        // In a form the token is seen only once the body was read.
        match shown {
            Some(shown) => same(shown, token.as_bytes()),
            None => parameters::has_form(headers) && !parameters.holds_form(),
        }
    }

    async fn read(&self, body: Incoming, is_form: bool, share: &Share) -> Result<Bytes, Answer> {
        // A form may write each byte as three.
        let form_bytes_max = self.config.request_bytes_max.saturating_mul(3);
        let bytes_max = if is_form { form_bytes_max } else { BODY_BYTES_MAX };
        match tokio::time::timeout(BODY_TIMEOUT, whole(body, bytes_max, share)).await {
            Ok(read) => read.map_err(Answer::from),
            Err(_) => Err(Answer::error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        }
    }

    fn next_lease_id(&self) -> i64 {
        loop {
            let id = self.lease_ids.fetch_add(1, Ordering::Relaxed) & (i64::MAX as u64);
            if id != 0 {
                return id as i64;
            }
        }
    }
}

/// Compares in a time that does not tell how much of it is right.
fn same(shown: &[u8], token: &[u8]) -> bool {
    shown.len() == token.len() && shown.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
