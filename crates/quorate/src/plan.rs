//! Settings that passed every check: what a server starts from.
//!
//! Invariants: a [`Plan`] is the only thing a server starts from, and only [`Config::check`] makes one; checking opens
//! no port and changes nothing on disk.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use quorate_faces::etcd3::AutoCompaction;
use quorate_member::JoinConfig;
use quorate_models::tree::HISTORY_EVENTS_MAX;
use quorate_tls::{Port, TlsError};

use crate::cluster::{self, Founder};
use crate::config::{ClientLimits, Config, InitialState, Storage};
use crate::tls::{self, Listen};
use crate::url::{Url, UrlError};

/// The longest election timeout.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(50_000);
/// Heartbeats that an election timeout has to hold.
pub const HEARTBEATS_PER_ELECTION_MIN: u32 = 5;
/// The largest request that may be allowed: what one frame between members holds, with room for its envelope.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Why settings can't be used. Settings are named as the flags are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{setting}: {text:?} is no usable URL: {reason}")]
    Url { setting: &'static str, text: String, reason: UrlError },
    #[error("{setting}: {text:?} is given twice")]
    UrlTwice { setting: &'static str, text: String },
    #[error("{setting}: at least one URL is needed")]
    NoUrl { setting: &'static str },
    #[error("{setting}: {url} needs a certificate: give {cert} and {key}, or {auto}")]
    NoCertificate { setting: &'static str, url: String, cert: String, key: String, auto: String },
    #[error(
        "initial-cluster: {url} has TLS, and nothing is there to check its certificate with: give \
         peer-trusted-ca-file, or peer-auto-tls"
    )]
    NoPeerCa { url: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{setting}: {text:?}: Unix sockets are not supported yet; use http:// or https://")]
    UnixNotSupportedYet { setting: &'static str, text: String },
    #[error("{setting}: a port other than 0 is needed, because the other members have to know it beforehand")]
    PortZero { setting: &'static str },
    #[error("name: a name is needed")]
    NoName,
    #[error("name: {0:?} holds a character that initial-cluster can't carry (',' or '=')")]
    BadName(String),
    #[error("initial-cluster: {0}")]
    Cluster(#[from] cluster::ClusterError),
    #[error("initial-cluster: there is no member named {name:?}; the names are: {}", .names.join(", "))]
    NameMissing { name: String, names: Vec<String> },
    #[error(
        "initial-cluster gives {name:?} the peer URLs {cluster}, but initial-advertise-peer-urls are {advertised}; \
         they have to be the same"
    )]
    UrlMismatch { name: String, cluster: String, advertised: String },
    #[error("heartbeat-interval: at least 1 ms is needed")]
    HeartbeatTooShort,
    #[error(
        "election-timeout of {election_ms} ms should be at least five times the heartbeat-interval of {heartbeat_ms} ms"
    )]
    ElectionTooShort { election_ms: u128, heartbeat_ms: u128 },
    #[error("election-timeout of {election_ms} ms is too long; at most 50000 ms are allowed")]
    ElectionTooLong { election_ms: u128 },
    #[error("max-request-bytes: must be from 1 to {REQUEST_BYTES_MAX}")]
    RequestBytes,
    #[error("max-txn-ops: must be at least 1")]
    TxnOps,
    #[error("watch-progress-notify-interval: must be above zero")]
    WatchProgress,
    #[error("v2-history-window: at most {HISTORY_EVENTS_MAX} events are possible")]
    HistoryWindow,
    #[error("snapshot-count: must be at least 1")]
    CheckpointEntries,
}

impl Config {
    /// Checks everything that can be checked without opening a socket or changing a file; it reads certificates. The
    /// founding members only count as long as the member has no data: afterwards its log knows the cluster.
    pub fn check(&self) -> Result<Plan, ConfigError> {
        self.check_name()?;
        self.check_times_and_sizes()?;
        let listen_client = listen("listen-client-urls", &self.listen_client_urls)?;
        let listen_peer = listen("listen-peer-urls", &self.listen_peer_urls)?;
        let advertise_client = match &self.advertise_client_urls {
            Some(urls) => Some(advertised("advertise-client-urls", urls)?),
            None => None,
        };
        let advertise_peer = match &self.advertise_peer_urls {
            Some(urls) => Some(advertised("initial-advertise-peer-urls", urls)?),
            None => None,
        };
        let cluster = match self.initial_cluster.as_deref().filter(|text| !text.trim().is_empty()) {
            Some(text) => Some(cluster::parse(text)?),
            None => None,
        };
        let listened_peer: Vec<Url> = listen_peer.iter().map(|(url, _)| url.clone()).collect();
        if let Some(founders) = cluster.as_ref().filter(|_| !self.has_data()) {
            let own = advertise_peer.as_ref().unwrap_or(&listened_peer);
            self.check_place_in(founders, own)?;
            let others = founders.iter().filter(|founder| founder.name != self.name);
            let others: Vec<&Url> = others.flat_map(|founder| &founder.peer_urls).collect();
            tls::check_dialling(&self.peer_tls, &others)?;
        }
        Ok(Plan {
            name: self.name.clone(),
            storage: self.storage.clone(),
            listen_client: Listen::check(
                Port::Client,
                "listen-client-urls",
                &listen_client,
                &self.client_tls,
            )?,
            listen_peer: Listen::check(Port::Peer, "listen-peer-urls", &listen_peer, &self.peer_tls)?,
            advertise_client,
            advertise_peer,
            cluster,
            initial_cluster_token: self.initial_cluster_token.clone(),
            initial_state: self.initial_state,
            heartbeat_interval: self.heartbeat_interval,
            election_timeout: self.election_timeout,
            pre_vote: self.pre_vote,
            request_bytes_max: self.request_bytes_max,
            txn_ops_max: self.txn_ops_max,
            strict_reconfig_check: self.strict_reconfig_check,
            learners_max: self.learners_max,
            promote_learners: self.promote_learners,
            join: self.join.clone(),
            checkpoint_entries: self.checkpoint_entries,
            quota_bytes: self.quota_bytes,
            auto_compaction: self.auto_compaction,
            metrics_extensive: self.metrics_extensive,
            enable_v2: self.enable_v2,
            v2_history_events: self.v2_history_events,
            client_cert_auth: self.client_tls.client_cert_auth,
            clients: self.clients.clone(),
            give_up_data: self.give_up_data,
            balsa_prefix: self.balsa_prefix.clone(),
        })
    }

    fn has_data(&self) -> bool {
        match &self.storage {
            Storage::Folder { data_dir, .. } => {
                // Certificates made at start are no data.
                let is_data = |entry: std::io::Result<std::fs::DirEntry>| {
                    entry.map_or(true, |entry| entry.file_name() != tls::MADE_FOLDER)
                };
                std::fs::read_dir(data_dir).is_ok_and(|mut entries| entries.any(is_data))
            }
            Storage::Memory => false,
        }
    }

    fn check_name(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::NoName);
        }
        if self.name.contains([',', '=']) {
            return Err(ConfigError::BadName(self.name.clone()));
        }
        Ok(())
    }

    fn check_times_and_sizes(&self) -> Result<(), ConfigError> {
        if self.heartbeat_interval < Duration::from_millis(1) {
            return Err(ConfigError::HeartbeatTooShort);
        }
        let (election_ms, heartbeat_ms) =
            (self.election_timeout.as_millis(), self.heartbeat_interval.as_millis());
        if election_ms < heartbeat_ms * u128::from(HEARTBEATS_PER_ELECTION_MIN) {
            return Err(ConfigError::ElectionTooShort { election_ms, heartbeat_ms });
        }
        if self.election_timeout > ELECTION_TIMEOUT_MAX {
            return Err(ConfigError::ElectionTooLong { election_ms });
        }
        if !(1..=REQUEST_BYTES_MAX).contains(&self.request_bytes_max) {
            return Err(ConfigError::RequestBytes);
        }
        if self.txn_ops_max == 0 {
            return Err(ConfigError::TxnOps);
        }
        if self.clients.watch_progress_interval.is_zero() {
            return Err(ConfigError::WatchProgress);
        }
        if self.checkpoint_entries == 0 {
            return Err(ConfigError::CheckpointEntries);
        }
        if self.v2_history_events.is_some_and(|events| events > HISTORY_EVENTS_MAX) {
            return Err(ConfigError::HistoryWindow);
        }
        Ok(())
    }

    /// The founding members have to know this one by its name and by the URLs that it advertises.
    fn check_place_in(&self, founders: &[Founder], own: &[Url]) -> Result<(), ConfigError> {
        let me = founders.iter().find(|founder| founder.name == self.name).ok_or_else(|| {
            ConfigError::NameMissing {
                name: self.name.clone(),
                names: founders.iter().map(|founder| founder.name.clone()).collect(),
            }
        })?;
        let listed: BTreeSet<&Url> = me.peer_urls.iter().collect();
        if listed != own.iter().collect::<BTreeSet<&Url>>() {
            return Err(ConfigError::UrlMismatch {
                name: self.name.clone(),
                cluster: join(&me.peer_urls),
                advertised: join(own),
            });
        }
        if own.iter().any(|url| matches!(url, Url::Tcp { port: 0, .. })) {
            return Err(ConfigError::PortZero { setting: "initial-advertise-peer-urls" });
        }
        Ok(())
    }
}

/// Settings that passed every check.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    pub(crate) listen_client: Listen,
    pub(crate) listen_peer: Listen,
    /// `None`: the addresses listened on.
    pub(crate) advertise_client: Option<Vec<Url>>,
    /// `None`: the addresses listened on.
    pub(crate) advertise_peer: Option<Vec<Url>>,
    /// `None`: this member alone.
    pub(crate) cluster: Option<Vec<Founder>>,
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
    pub(crate) client_cert_auth: bool,
    pub(crate) clients: ClientLimits,
    pub(crate) give_up_data: bool,
    pub(crate) balsa_prefix: Option<String>,
}

fn parse_all(setting: &'static str, texts: &[String]) -> Result<Vec<Url>, ConfigError> {
    if texts.is_empty() {
        return Err(ConfigError::NoUrl { setting });
    }
    let mut urls = Vec::new();
    for text in texts {
        let url =
            Url::parse(text).map_err(|reason| ConfigError::Url { setting, text: text.clone(), reason })?;
        if matches!(url, Url::Unix { .. }) {
            return Err(ConfigError::UnixNotSupportedYet { setting, text: text.clone() });
        }
        if urls.contains(&url) && !matches!(url, Url::Tcp { port: 0, .. }) {
            return Err(ConfigError::UrlTwice { setting, text: text.clone() });
        }
        urls.push(url);
    }
    Ok(urls)
}

fn listen(setting: &'static str, texts: &[String]) -> Result<Vec<(Url, SocketAddr)>, ConfigError> {
    parse_all(setting, texts)?
        .into_iter()
        .map(|url| match url.listen_addr() {
            Ok(Some(addr)) => Ok((url, addr)),
            Ok(None) => Err(ConfigError::UnixNotSupportedYet { setting, text: url.to_string() }),
            Err(reason) => Err(ConfigError::Url { setting, text: url.to_string(), reason }),
        })
        .collect()
}

fn advertised(setting: &'static str, texts: &[String]) -> Result<Vec<Url>, ConfigError> {
    let urls = parse_all(setting, texts)?;
    for url in &urls {
        url.check_advertised().map_err(|reason| ConfigError::Url {
            setting,
            text: url.to_string(),
            reason,
        })?;
    }
    Ok(urls)
}

fn join(urls: &[Url]) -> String {
    urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Config {
        Config::new("m1")
            .listen_peer_urls(["http://127.0.0.1:2380"])
            .initial_cluster("m1=http://127.0.0.1:2380,m2=http://127.0.0.1:2480,m3=http://127.0.0.1:2580")
    }

    fn error(config: Config) -> String {
        config.check().expect_err("refused").to_string()
    }

    #[test]
    fn defaults_and_a_cluster_of_three_pass() {
        let alone = Config::new("default").check().expect("the defaults are fine");
        assert!(alone.cluster.is_none());
        assert_eq!(alone.storage, Storage::Folder { data_dir: "default.etcd".into(), wal_dir: None });
        let plan = three().check().expect("fine");
        assert_eq!(plan.cluster.map(|founders| founders.len()), Some(3));
    }

    #[test]
    fn a_member_that_its_cluster_does_not_know_is_refused() {
        let mut other = three();
        other.name = "m4".to_owned();
        assert_eq!(
            error(other),
            "initial-cluster: there is no member named \"m4\"; the names are: m1, m2, m3"
        );
        let moved = three().advertise_peer_urls(["http://10.0.0.1:2380"]);
        assert_eq!(
            error(moved),
            "initial-cluster gives \"m1\" the peer URLs http://127.0.0.1:2380, but initial-advertise-peer-urls are \
             http://10.0.0.1:2380; they have to be the same"
        );
    }

    #[test]
    fn founding_members_no_longer_count_once_there_is_data() {
        let folder = tempfile::tempdir().expect("a folder");
        let moved = three().data_dir(folder.path()).advertise_peer_urls(["http://10.0.0.1:2380"]);
        assert!(matches!(moved.check(), Err(ConfigError::UrlMismatch { .. })));
        std::fs::write(folder.path().join("member"), b"data").expect("written");
        assert!(moved.check().is_ok());
    }

    #[test]
    fn urls_that_cannot_work_are_refused_by_the_name_of_their_setting() {
        for (config, expected) in [
            (
                Config::new("a").listen_client_urls(["127.0.0.1:1"]),
                "listen-client-urls: \"127.0.0.1:1\" is no usable URL",
            ),
            (
                Config::new("a").listen_peer_urls(["http://example:1"]),
                "listen-peer-urls: \"http://example:1\" is no usable",
            ),
            (
                Config::new("a").listen_peer_urls(Vec::<String>::new()),
                "listen-peer-urls: at least one URL is needed",
            ),
            (
                Config::new("a").listen_client_urls(["https://127.0.0.1:1"]),
                "listen-client-urls: https://127.0.0.1:1 needs a certificate: give cert-file and key-file, or auto-tls",
            ),
            (
                Config::new("a").listen_peer_urls(["https://127.0.0.1:1"]),
                "listen-peer-urls: https://127.0.0.1:1 needs a certificate: give peer-cert-file and peer-key-file, or \
                 peer-auto-tls",
            ),
            (
                three().initial_cluster("m1=http://127.0.0.1:2380,m2=https://127.0.0.1:2480"),
                "initial-cluster: https://127.0.0.1:2480 has TLS, and nothing is there to check its certificate with",
            ),
            (
                Config::new("a").listen_client_urls(["unix:///a"]),
                "listen-client-urls: \"unix:///a\": Unix sockets",
            ),
            (
                Config::new("a").advertise_client_urls(["http://:1"]),
                "advertise-client-urls: \"http://:1\" is no usable URL",
            ),
            (
                Config::new("a").listen_client_urls(["http://127.0.0.1:1", "http://127.0.0.1:1/"]),
                "listen-client-urls: \"http://127.0.0.1:1/\" is given twice",
            ),
        ] {
            let error = error(config);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn election_timeout_has_etcds_bounds() {
        let with = |heartbeat, election| {
            Config::new("a")
                .heartbeat_interval(Duration::from_millis(heartbeat))
                .election_timeout(Duration::from_millis(election))
                .check()
        };
        assert!(with(100, 500).is_ok());
        assert!(with(100, 50_000).is_ok());
        assert_eq!(
            with(100, 499).err(),
            Some(ConfigError::ElectionTooShort { election_ms: 499, heartbeat_ms: 100 })
        );
        assert_eq!(with(100, 50_001).err(), Some(ConfigError::ElectionTooLong { election_ms: 50_001 }));
        assert_eq!(with(0, 1000).err(), Some(ConfigError::HeartbeatTooShort));
    }

    #[test]
    fn members_of_one_cluster_need_ports_that_the_others_can_know() {
        let config = Config::new("m1")
            .listen_peer_urls(["http://127.0.0.1:0"])
            .initial_cluster("m1=http://127.0.0.1:0,m2=http://127.0.0.1:2480");
        assert!(error(config).contains("a port other than 0 is needed"));
    }
}
