//! What a member needs to know to start, as a program or a command line says it. [`crate::plan`] has the checks.

use std::path::PathBuf;
use std::time::Duration;

use quorate_faces::etcd3::{AutoCompaction, QUOTA_BYTES_DEFAULT};
use quorate_member::JoinConfig;
use quorate_tls::Settings as TlsSettings;

/// Where a member keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In a folder. The log may have a folder of its own, on another disk.
    Folder { data_dir: PathBuf, wal_dir: Option<PathBuf> },
    /// In memory only: when the member stops, its data is gone, and the cluster counts it as a new member.
    Memory,
}

/// Whether a member without data founds its cluster or joins one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialState {
    #[default]
    New,
    Existing,
}

/// How clients are dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Time between two progress notices to a watcher that wants them and sees no events.
    pub watch_progress_interval: Duration,
    /// An idle connection is asked for a sign of life this often; zero: never.
    pub keepalive_interval: Duration,
    /// It is closed if none comes within this time.
    pub keepalive_timeout: Duration,
    /// Requests that one connection may have open at a time; `None`: the listener's own bound.
    pub streams_max: Option<u32>,
    /// Listen with SO_REUSEPORT.
    pub reuse_port: bool,
    /// Serve the JSON form of etcd v3's calls, below `/v3/`.
    pub json_gateway: bool,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            watch_progress_interval: Duration::from_secs(600),
            keepalive_interval: Duration::from_secs(7200),
            keepalive_timeout: Duration::from_secs(20),
            streams_max: None,
            reuse_port: false,
            json_gateway: true,
        }
    }
}

/// The settings of a member. Made by [`Config::new`], changed by its methods, checked at the start.
///
/// ```
/// let config = quorate::Config::new("m1")
///     .memory_only()
///     .listen_client_urls(["http://127.0.0.1:0"])
///     .listen_peer_urls(["http://127.0.0.1:0"]);
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    pub(crate) listen_client_urls: Vec<String>,
    pub(crate) listen_peer_urls: Vec<String>,
    pub(crate) advertise_client_urls: Option<Vec<String>>,
    pub(crate) advertise_peer_urls: Option<Vec<String>>,
    pub(crate) initial_cluster: Option<String>,
    pub(crate) initial_cluster_token: String,
    pub(crate) initial_state: InitialState,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) pre_vote: bool,
    pub(crate) request_bytes_max: usize,
    pub(crate) txn_ops_max: usize,
    pub(crate) strict_reconfig_check: bool,
    pub(crate) learners_max: usize,
    pub(crate) promote_learners: bool,
    pub(crate) join: Option<JoinConfig>,
    pub(crate) checkpoint_entries: u64,
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) auto_compaction: AutoCompaction,
    pub(crate) metrics_extensive: bool,
    pub(crate) enable_v2: bool,
    pub(crate) v2_history_events: Option<u64>,
    pub(crate) clients: ClientLimits,
    pub(crate) client_tls: TlsSettings,
    pub(crate) peer_tls: TlsSettings,
    pub(crate) give_up_data: bool,
    pub(crate) balsa_prefix: Option<String>,
}

impl Config {
    /// The settings of etcd's defaults: client port 2379 and peer port 2380 on localhost, a cluster of one, data in
    /// `<name>.etcd`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            storage: Storage::Folder { data_dir: PathBuf::from(format!("{name}.etcd")), wal_dir: None },
            name,
            listen_client_urls: vec!["http://localhost:2379".to_owned()],
            listen_peer_urls: vec!["http://localhost:2380".to_owned()],
            advertise_client_urls: None,
            advertise_peer_urls: None,
            initial_cluster: None,
            initial_cluster_token: "etcd-cluster".to_owned(),
            initial_state: InitialState::New,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            request_bytes_max: 1_572_864,
            txn_ops_max: 128,
            strict_reconfig_check: true,
            learners_max: 1,
            promote_learners: false,
            join: None,
            checkpoint_entries: 100_000,
            quota_bytes: Some(QUOTA_BYTES_DEFAULT),
            auto_compaction: AutoCompaction::Off,
            metrics_extensive: false,
            enable_v2: false,
            v2_history_events: None,
            clients: ClientLimits::default(),
            client_tls: TlsSettings::default(),
            peer_tls: TlsSettings::default(),
            give_up_data: false,
            balsa_prefix: None,
        }
    }

    /// Keeps the data in this folder.
    #[must_use]
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.storage = Storage::Folder { data_dir: folder.into(), wal_dir: None };
        self
    }

    /// Keeps the write-ahead log in a folder of its own. Without effect on a memory-only member.
    #[must_use]
    pub fn wal_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        if let Storage::Folder { wal_dir, .. } = &mut self.storage {
            *wal_dir = Some(folder.into());
        }
        self
    }

    /// Keeps nothing on disk.
    #[must_use]
    pub fn memory_only(mut self) -> Self {
        self.storage = Storage::Memory;
        self
    }

    /// Where to listen for clients. Port 0 takes a free one.
    #[must_use]
    pub fn listen_client_urls(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.listen_client_urls = urls.into_iter().map(Into::into).collect();
        self
    }

    /// Where to listen for the other members. Port 0 takes a free one; only for a cluster of one.
    #[must_use]
    pub fn listen_peer_urls(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.listen_peer_urls = urls.into_iter().map(Into::into).collect();
        self
    }

    /// The client URLs that clients are told; those listened on, if not set.
    #[must_use]
    pub fn advertise_client_urls(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.advertise_client_urls = Some(urls.into_iter().map(Into::into).collect());
        self
    }

    /// The peer URLs that the other members are told; those listened on, if not set.
    #[must_use]
    pub fn advertise_peer_urls(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.advertise_peer_urls = Some(urls.into_iter().map(Into::into).collect());
        self
    }

    /// The founding members, `name=peer-url` separated by commas; this member alone, if not set.
    #[must_use]
    pub fn initial_cluster(mut self, members: impl Into<String>) -> Self {
        self.initial_cluster = Some(members.into());
        self
    }

    /// Keeps clusters apart that are founded with equal names and URLs.
    #[must_use]
    pub fn initial_cluster_token(mut self, token: impl Into<String>) -> Self {
        self.initial_cluster_token = token.into();
        self
    }

    /// Whether a member without data founds the cluster or joins one.
    #[must_use]
    pub fn initial_state(mut self, state: InitialState) -> Self {
        self.initial_state = state;
        self
    }

    /// Time between a leader's heartbeats.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// Time without a leader after which a member stands for election.
    #[must_use]
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.election_timeout = timeout;
        self
    }

    /// Whether members ask for votes tentatively first.
    #[must_use]
    pub fn pre_vote(mut self, on: bool) -> Self {
        self.pre_vote = on;
        self
    }

    /// Bytes that one request may have.
    #[must_use]
    pub fn request_bytes_max(mut self, bytes: usize) -> Self {
        self.request_bytes_max = bytes;
        self
    }

    /// Operations that one transaction may have.
    #[must_use]
    pub fn txn_ops_max(mut self, ops: usize) -> Self {
        self.txn_ops_max = ops;
        self
    }

    /// Whether membership changes that would cost the majority are refused.
    #[must_use]
    pub fn strict_reconfig_check(mut self, on: bool) -> Self {
        self.strict_reconfig_check = on;
        self
    }

    /// Learners that the cluster may have at a time.
    #[must_use]
    pub fn learners_max(mut self, learners: usize) -> Self {
        self.learners_max = learners;
        self
    }

    /// Whether learners become voters by themselves once they have caught up, while this member leads.
    #[must_use]
    pub fn promote_learners(mut self, on: bool) -> Self {
        self.promote_learners = on;
        self
    }

    /// Asks a running cluster to admit this member, where it has no data; it founds nothing then.
    #[must_use]
    pub fn join(mut self, join: JoinConfig) -> Self {
        self.join = Some(join);
        self
    }

    /// Entries after which a checkpoint is cut; it is cut earlier where much data has changed.
    #[must_use]
    pub fn checkpoint_entries(mut self, entries: u64) -> Self {
        self.checkpoint_entries = entries;
        self
    }

    /// Puts are refused while the data that something still needs has so many bytes; `None`: no limit. etcd's default,
    /// 2 GiB, if not set.
    #[must_use]
    pub fn quota_bytes(mut self, bytes: Option<u64>) -> Self {
        self.quota_bytes = bytes;
        self
    }

    /// What history is compacted without being asked for; nothing, if not set.
    #[must_use]
    pub fn auto_compaction(mut self, rule: AutoCompaction) -> Self {
        self.auto_compaction = rule;
        self
    }

    /// Whether the metrics tell how long each kind of call takes: many time series.
    #[must_use]
    pub fn metrics_extensive(mut self, on: bool) -> Self {
        self.metrics_extensive = on;
        self
    }

    /// Whether the client ports speak etcd's v2 API, too, as 2.x does.
    #[must_use]
    pub fn enable_v2(mut self, on: bool) -> Self {
        self.enable_v2 = on;
        self
    }

    /// Events that the whole cluster keeps for watchers of the v2 API that begin in the past; 0: as many as so far,
    /// 1,000 in a new cluster.
    #[must_use]
    pub fn v2_history_events(mut self, events: u64) -> Self {
        self.v2_history_events = Some(events).filter(|events| *events > 0);
        self
    }

    /// How clients are dealt with.
    #[must_use]
    pub fn client_limits(mut self, limits: ClientLimits) -> Self {
        self.clients = limits;
        self
    }

    /// TLS on the client URLs that start with `https://`.
    #[must_use]
    pub fn client_tls(mut self, settings: TlsSettings) -> Self {
        self.client_tls = settings;
        self
    }

    /// TLS on the peer URLs that start with `https://`, and to the peers that have such.
    #[must_use]
    pub fn peer_tls(mut self, settings: TlsSettings) -> Self {
        self.peer_tls = settings;
        self
    }

    /// The operator's word that damaged data may be given up; the member returns as a new incarnation.
    #[must_use]
    pub fn give_up_data(mut self, yes: bool) -> Self {
        self.give_up_data = yes;
        self
    }

    /// Whether the client ports serve balsa's endpoints, too, and with which prefix of its keys. `/readyz` stays etcd's.
    #[must_use]
    pub fn balsa(mut self, key_prefix: impl Into<String>) -> Self {
        self.balsa_prefix = Some(key_prefix.into());
        self
    }

    /// The member's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
