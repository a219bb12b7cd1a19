//! etcd v3, as its clients know it: gRPC services and the HTTP endpoints beside them, on one port.
//!
//! Calls come as bytes and go as bytes: [`methods`] finds a call by its path, [`grpc`] frames messages, [`requests`]
//! turns them into commands and queries, [`answers`] turns what the model says into messages. [`gateway`] makes such calls
//! of JSON.

mod alarms;
mod answers;
mod auto_compaction;
mod budget;
mod call;
mod cluster;
mod elections;
pub mod errors;
pub mod gateway;
pub mod grpc;
mod health;
mod http;
mod kv;
mod lease;
mod locks;
mod maintenance;
mod methods;
mod metrics;
mod process;
mod queues;
mod quota;
pub mod requests;
mod txn_keys;
mod waits;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::http::Request;
use hyper::body::Incoming;
use quorate_ids::Revision;
use quorate_member::{Handle, Visible};
use quorate_wire::etcdserverpb as pb;

use crate::listener::{Answering, Face, Stopping, ThreadFace};

pub use auto_compaction::AutoCompaction;
pub(crate) use lease::first_id as first_lease_id;
pub use quota::QUOTA_BYTES_DEFAULT;

/// The version of etcd whose interface this is.
pub const ETCD_VERSION: &str = "3.7.1";
/// The cluster's version: without a patch number, as etcd tells it.
pub const ETCD_CLUSTER_VERSION: &str = "3.7.0";

/// What may be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// A request is at most this long once it is a command.
    pub request_bytes_max: usize,
    /// Operations in a branch of a transaction, and its compares.
    pub txn_ops_max: usize,
    /// Goes into the ids of members that are added.
    pub initial_cluster_token: String,
    /// Streams that ask for a leader end after three of these without one.
    pub election_timeout: Duration,
    /// How often a watcher that wants it hears how far it is.
    pub watch_progress_interval: Duration,
    /// Events that wait for one stream; a slower client reads from history.
    pub watch_queue_bytes_max: usize,
    /// Watchers of one stream.
    pub stream_watchers_max: usize,
    /// How long a client may take to send a unary request.
    pub request_timeout: Duration,
    /// Puts are refused while the live data has so many bytes; 0: no limit.
    pub quota_bytes: u64,
    pub auto_compaction: AutoCompaction,
    /// Count how long each call takes, too: many time series.
    pub metrics_extensive: bool,
    /// Serve the JSON form of the calls below `/v3/`.
    pub json_gateway: bool,
    /// Bytes that answers hold in memory at a time, those of all clients together; a call beyond is refused.
    pub answer_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            request_bytes_max: 1536 * 1024,
            txn_ops_max: 128,
            initial_cluster_token: "etcd-cluster".to_owned(),
            election_timeout: Duration::from_millis(1000),
            watch_progress_interval: Duration::from_secs(600),
            watch_queue_bytes_max: 4 << 20,
            stream_watchers_max: 1 << 18,
            request_timeout: Duration::from_secs(60),
            quota_bytes: 0,
            auto_compaction: AutoCompaction::Off,
            metrics_extensive: false,
            json_gateway: true,
            answer_bytes_max: 256 << 20,
        }
    }
}

/// Bytes that a message may have beyond a command's: etcd's allowance.
const MESSAGE_EXTRA_BYTES: usize = 512 * 1024;

impl Config {
    fn message_bytes_max(&self) -> usize {
        self.request_bytes_max.saturating_add(MESSAGE_EXTRA_BYTES)
    }
}

/// The face. Register it with [`crate::listener::serve`].
pub struct Etcd3 {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    config: Config,
    metrics: metrics::Metrics,
    alarms: alarms::Alarms,
    lease_ids: AtomicU64,
    answer_bytes: budget::Budget,
    gateway: gateway::Gateway,
    /// The quota's alarm is being raised.
    raising: AtomicBool,
    /// The tasks that one face has once are running.
    tasks_started: AtomicBool,
}

impl Etcd3 {
    #[must_use]
    pub fn new(handle: Handle, config: Config) -> Self {
        let lease_ids = AtomicU64::new(lease::first_id(handle.identity().member));
        let metrics = metrics::Metrics::new(&handle, &config);
        let answer_bytes = budget::Budget::new(config.answer_bytes_max);
        let shared = Shared {
            handle,
            config,
            metrics,
            alarms: alarms::Alarms::default(),
            lease_ids,
            answer_bytes,
            gateway: gateway::Gateway::default(),
            raising: AtomicBool::new(false),
            tasks_started: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Shared {
    /// What runs beside all calls, once: in the runtime of the first net thread.
    fn start_tasks(self: &Arc<Self>) {
        if self.config.auto_compaction != AutoCompaction::Off {
            tokio::spawn(auto_compaction::run(Arc::clone(self)));
        }
        if self.config.quota_bytes > 0 {
            tokio::spawn(quota::run(Arc::clone(self)));
        }
    }
}

impl Face for Etcd3 {
    fn on_thread(&self, stopping: &Stopping) -> Arc<dyn ThreadFace> {
        let shared = Arc::clone(&self.shared);
        let visible = shared.handle.visible();
        if !shared.tasks_started.swap(true, Ordering::Relaxed) {
            shared.start_tasks();
        }
        let hub = watch::Hub::start(&shared);
        let waits = waits::Waits::start(&shared.handle);
        Arc::new(OnThread(Arc::new(Thread { shared, visible, hub, waits, stopping: stopping.clone() })))
    }
}

/// What one net thread has.
struct Thread {
    shared: Arc<Shared>,
    visible: tokio::sync::watch::Receiver<Visible>,
    hub: Arc<watch::Hub>,
    waits: Arc<waits::Waits>,
    stopping: Stopping,
}

struct OnThread(Arc<Thread>);

impl ThreadFace for OnThread {
    fn takes(&self, _path: &str) -> bool {
        true
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        let thread = Arc::clone(&self.0);
        if grpc::is_grpc(request.headers()) {
            Box::pin(call::answer(thread, request.map(grpc::CallBody::Client)))
        } else {
            Box::pin(http::answer(thread, request))
        }
    }
}

impl Thread {
    fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// The header of an answer at `revision`.
    fn header(&self, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: answers::signed(revision), ..self.header_without_revision() }
    }

    /// The header of the cluster service's answers.
    fn header_without_revision(&self) -> pb::ResponseHeader {
        let identity = self.handle().identity();
        let term = self.visible.borrow().term;
        pb::ResponseHeader {
            cluster_id: identity.cluster.0,
            member_id: identity.member.0,
            revision: 0,
            raft_term: term.0,
        }
    }

    /// A header that tells the newest revision.
    fn header_now(&self) -> pb::ResponseHeader {
        let revision = quorate_models::keys::current_revision(&self.handle().store().read());
        self.header(revision)
    }
}
