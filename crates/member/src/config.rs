//! What a member is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_disk::MemoryDisk;
use quorate_store::StoreConfig;
use quorate_tls::{Acceptor, Connector};

use crate::event::Observer;
use crate::shell::PeerHttp;

/// A segment of the log, both fronts, and what the rewriting of a segment of the store takes at most.
const RESERVE_BYTES_DEFAULT: u64 = (16 + 2 * 16 + 32) << 20;

/// Whether a member without data founds its cluster or joins one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialState {
    #[default]
    New,
    Existing,
}

/// How a member without data asks to join a running cluster; see [`crate::joining`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinConfig {
    /// Peer URLs of members of the cluster, asked in this order. Its own are passed over.
    pub peers: Vec<String>,
    /// To become a voter once it has caught up; else it stays a learner.
    pub wants_vote: bool,
    /// How long to go on asking while no peer answers. Zero: each is asked once.
    pub patience: Duration,
    /// A member with data that was removed from its cluster gives its data up and joins as a newcomer.
    pub rejoin_if_removed: bool,
}

impl JoinConfig {
    /// Joins as a voter through these peers.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            peers: peers.into_iter().map(Into::into).collect(),
            wants_vote: true,
            patience: Duration::from_secs(30),
            rejoin_if_removed: false,
        }
    }
}

/// TLS between members. Nothing of it: plain text.
#[derive(Clone, Debug, Default)]
pub struct PeerTls {
    /// Listened on with TLS, besides [`Config::listen_peer`]; needs `acceptor`.
    pub listen: Vec<SocketAddr>,
    pub acceptor: Option<Arc<Acceptor>>,
    /// Dials the peers whose URLs start with `https://`.
    pub connector: Option<Arc<Connector>>,
}

/// The settings of one member. [`Config::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// `None`: in memory only.
    pub data_dir: Option<PathBuf>,
    /// Without a `data_dir`: the memory that is its disk, if the caller keeps it, or lets it get full. It has a reserve, too.
    pub memory: Option<MemoryDisk>,
    /// Where the log goes, if not into `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Port 0 takes any free port; see [`crate::Running::peer_addrs`].
    pub listen_peer: Vec<SocketAddr>,
    pub peer_tls: PeerTls,
    /// Serves HTTP/1 on the peer ports; without it only members are served there.
    pub peer_http: Option<PeerHttp>,
    pub advertise_peer_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    /// Name and peer URL; a name may stand more than once.
    pub initial_cluster: Vec<(String, String)>,
    pub initial_cluster_token: String,
    pub initial_state: InitialState,
    /// Asks a running cluster to be admitted, where this member has no data; it founds nothing then.
    pub join: Option<JoinConfig>,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// With `pre_vote`: a member that starts and reaches a majority does not wait out its first election timeout.
    pub hasten_start: bool,
    pub strict_membership: bool,
    pub learners_max: usize,
    /// Make every learner a voter once it has caught up.
    pub promote_learners: bool,
    /// A command is at most this long.
    pub request_bytes_max: usize,
    /// A checkpoint is cut after this many entries, or as many bytes as the store's front holds.
    pub checkpoint_entries: u64,
    /// Log kept for followers that lag, beyond what a checkpoint needs.
    pub log_retained_bytes: usize,
    pub wal_segment_bytes: u64,
    pub store: StoreConfig,
    /// Held on the disk, to be given free when it is full, so that it can be emptied. 0: nothing is.
    pub reserve_bytes: u64,
    /// Bytes of recent changes kept in memory for watchers.
    pub feed_bytes_max: usize,
    /// Background writing, in bytes a second.
    pub background_bytes_per_second: u64,
    /// On the operator's word: give up this member's log and store and start as a new incarnation.
    pub give_up_data: bool,
    /// Is told what happens, as far as it listens.
    pub observer: Option<Observer>,
}

impl Config {
    /// A member called `name` with the house's defaults: memory only, any free peer port, founding a cluster alone.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            data_dir: None,
            memory: None,
            wal_dir: None,
            listen_peer: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            peer_tls: PeerTls::default(),
            peer_http: None,
            advertise_peer_urls: Vec::new(),
            advertise_client_urls: Vec::new(),
            initial_cluster: Vec::new(),
            initial_cluster_token: "etcd-cluster".to_owned(),
            initial_state: InitialState::New,
            join: None,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            hasten_start: true,
            strict_membership: true,
            learners_max: 1,
            promote_learners: false,
            request_bytes_max: 1536 * 1024,
            checkpoint_entries: 100_000,
            log_retained_bytes: 16 * 1024 * 1024,
            wal_segment_bytes: quorate_wal::SEGMENT_SIZE_BYTES_DEFAULT,
            store: StoreConfig::default(),
            reserve_bytes: RESERVE_BYTES_DEFAULT,
            feed_bytes_max: 16 * 1024 * 1024,
            background_bytes_per_second: 50_000_000,
            give_up_data: false,
            observer: None,
        }
    }

    /// How long a request may take before its outcome is called unknown: as etcd, 5 s and two election timeouts.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }
}
