//! The settings of a machine of an etcd 0.4 cluster, and the checks that are made before anything is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quorate_faces::etcd2::peer::ClusterSettings;
use quorate_models::tree::HISTORY_EVENTS_MAX;
use quorate_tls::Settings as TlsSettings;

use super::addresses::{Address, AddressError, peer_url};
use crate::{config, plan};

/// Certificate files of one port. With a certificate and its key the port has TLS; with a CA it demands certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether the port has TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.cert.is_some() && self.key.is_some()
    }

    fn settings(&self) -> TlsSettings {
        if !self.is_tls() {
            return TlsSettings::default();
        }
        TlsSettings {
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            trusted_ca_file: self.ca.clone(),
            client_cert_auth: self.ca.is_some(),
            ..TlsSettings::default()
        }
    }
}

/// The settings of a machine. [`Config::new`] has etcd 0.4's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// `HOST:PORT`, as clients reach it.
    pub addr: String,
    /// Where to listen for clients; on every address, if not set.
    pub bind_addr: Option<String>,
    /// `HOST:PORT`, as the other machines reach it.
    pub peer_addr: String,
    pub peer_bind_addr: Option<String>,
    /// Peer addresses of machines of the cluster to join; none: found one.
    pub peers: Vec<String>,
    /// URL at a discovery service.
    pub discovery: Option<String>,
    pub client_tls: TlsFiles,
    pub peer_tls: TlsFiles,
    /// Origins whose pages may call the client port.
    pub cors: Vec<String>,
    /// How often all peers are tried, and how long between two tries.
    pub join_attempts: u64,
    pub join_interval: Duration,
    pub checkpoint_entries: u64,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    /// What the cluster is founded with; afterwards `/v2/admin/config` has it.
    pub cluster: ClusterSettings,
    /// How long a client may take to send a request.
    pub read_timeout: Duration,
    /// Pass writes on to the leader instead of telling clients where it is.
    pub forward: bool,
    /// Events that the whole cluster keeps for watchers that begin in the past; `None`: as many as so far, 1,000 in a
    /// new cluster.
    pub history_events: Option<u64>,
}

/// Why settings can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("-{prefix}cert-file and -{prefix}key-file belong together: give both or none")]
    HalfACertificate { prefix: &'static str },
    #[error(
        "-{prefix}ca-file needs -{prefix}cert-file and -{prefix}key-file: without them the port has no TLS"
    )]
    CaAlone { prefix: &'static str },
    #[error(
        "-peer-ca-file is needed with -peer-cert-file: without it no machine could check that it talks to one of its \
         cluster"
    )]
    NoPeerCa,
    #[error("-peer-election-timeout: at least {min} ms are needed, at most {max} ms are possible")]
    ElectionTimeout { min: u128, max: u128 },
    #[error("-name: {0:?} holds a character that a machine's name can't have ('/', ',' or '=')")]
    Name(String),
    #[error("-name: a name is needed")]
    NoName,
    #[error("-history-window: at most {max} events are possible")]
    HistoryWindow { max: u64 },
    #[error("-max-retry-attempts: must be at least 1")]
    NoAttempts,
    #[error("{0}")]
    Member(#[from] plan::ConfigError),
}

/// The shortest election timeout: heartbeats a fifth of it apart are still whole milliseconds.
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(10);

impl Config {
    /// etcd 0.4's defaults but for the election timeout, which was 200 ms there: too short for a busy disk.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            data_dir: PathBuf::from(format!("{name}.etcd")),
            name,
            addr: "127.0.0.1:4001".to_owned(),
            bind_addr: None,
            peer_addr: "127.0.0.1:7001".to_owned(),
            peer_bind_addr: None,
            peers: Vec::new(),
            discovery: None,
            client_tls: TlsFiles::default(),
            peer_tls: TlsFiles::default(),
            cors: Vec::new(),
            join_attempts: 3,
            join_interval: Duration::from_secs(10),
            checkpoint_entries: 10_000,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(500),
            cluster: ClusterSettings::default(),
            read_timeout: Duration::from_secs(300),
            forward: false,
            history_events: None,
        }
    }

    /// Checks everything that can be checked without opening a socket or changing a file; it reads certificates.
    pub fn check(&self) -> Result<Plan, ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::NoName);
        }
        if self.name.contains(['/', ',', '=']) || self.name.starts_with('.') {
            return Err(ConfigError::Name(self.name.clone()));
        }
        if self.join_attempts == 0 {
            return Err(ConfigError::NoAttempts);
        }
        if self.history_events.is_some_and(|events| !(1..=HISTORY_EVENTS_MAX).contains(&events)) {
            return Err(ConfigError::HistoryWindow { max: HISTORY_EVENTS_MAX });
        }
        if !(ELECTION_TIMEOUT_MIN..=plan::ELECTION_TIMEOUT_MAX).contains(&self.election_timeout) {
            return Err(ConfigError::ElectionTimeout {
                min: ELECTION_TIMEOUT_MIN.as_millis(),
                max: plan::ELECTION_TIMEOUT_MAX.as_millis(),
            });
        }
        check_files("", &self.client_tls)?;
        check_files("peer-", &self.peer_tls)?;
        if self.peer_tls.is_tls() && self.peer_tls.ca.is_none() {
            return Err(ConfigError::NoPeerCa);
        }
        let tls = self.peer_tls.is_tls();
        let client = Address::advertised("addr", &self.addr)?;
        let peer = Address::advertised("peer-addr", &self.peer_addr)?;
        let listen_client = Address::listen("bind-addr", self.bind_addr.as_deref(), &client)?;
        let listen_peer = Address::listen("peer-bind-addr", self.peer_bind_addr.as_deref(), &peer)?;
        let (client_url, peer_url_own) = (client.url(self.client_tls.is_tls()), peer.url(tls));
        let peers =
            self.peers.iter().map(|text| peer_url("peers", text, tls)).collect::<Result<Vec<_>, _>>()?;
        let member = self.member(&client_url, &peer_url_own, listen_client, listen_peer).check()?;
        Ok(Plan {
            config: self.clone(),
            client_url,
            peers: peers.into_iter().filter(|url| *url != peer_url_own).collect(),
            peer_url: peer_url_own,
            member,
        })
    }

    fn member(
        &self,
        client_url: &str,
        peer_url: &str,
        listen_client: SocketAddr,
        listen_peer: SocketAddr,
    ) -> config::Config {
        let url = |tls: bool, addr: SocketAddr| format!("{}://{addr}", if tls { "https" } else { "http" });
        // More heartbeats than asked for do no harm; fewer than five in an election timeout cost leaders their place.
        let heartbeat =
            self.heartbeat_interval.min(self.election_timeout / plan::HEARTBEATS_PER_ELECTION_MIN);
        config::Config::new(self.name.clone())
            .data_dir(self.data_dir.clone())
            .listen_client_urls([url(self.client_tls.is_tls(), listen_client)])
            .listen_peer_urls([url(self.peer_tls.is_tls(), listen_peer)])
            .advertise_client_urls([client_url])
            .advertise_peer_urls([peer_url])
            .heartbeat_interval(heartbeat.max(Duration::from_millis(1)))
            .election_timeout(self.election_timeout)
            .checkpoint_entries(self.checkpoint_entries)
            .learners_max(STANDBYS_MAX)
            .initial_cluster_token(random_token())
            .client_tls(self.client_tls.settings())
            .peer_tls(self.peer_tls.settings())
    }
}

/// Machines without a vote, newcomers included.
const STANDBYS_MAX: usize = 64;

/// Sets clusters apart that are founded at the same addresses, one after the other. It only counts at a founding.
fn random_token() -> String {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher keys come from the operating system's generator.
    format!("{:016x}", std::collections::hash_map::RandomState::new().build_hasher().finish())
}

fn check_files(prefix: &'static str, files: &TlsFiles) -> Result<(), ConfigError> {
    if files.cert.is_some() != files.key.is_some() {
        return Err(ConfigError::HalfACertificate { prefix });
    }
    if files.ca.is_some() && !files.is_tls() {
        return Err(ConfigError::CaAlone { prefix });
    }
    Ok(())
}

/// Settings that passed every check.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) config: Config,
    pub(crate) client_url: String,
    pub(crate) peer_url: String,
    /// URLs of the peers to join through, without this machine's own.
    pub(crate) peers: Vec<String>,
    pub(crate) member: plan::Plan,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::new("m");
        change(&mut config);
        config.check().expect_err("refused").to_string()
    }

    #[test]
    fn the_defaults_are_etcds() {
        let plan = Config::new("m").check().expect("fine");
        assert_eq!(plan.client_url, "http://127.0.0.1:4001");
        assert_eq!(plan.peer_url, "http://127.0.0.1:7001");
        assert_eq!(plan.config.data_dir, PathBuf::from("m.etcd"));
    }

    #[test]
    fn a_list_of_peers_may_hold_this_machine_too() {
        let mut config = Config::new("m");
        config.peers = vec!["127.0.0.1:7001".to_owned(), "127.0.0.1:7002".to_owned()];
        assert_eq!(config.check().expect("fine").peers, ["http://127.0.0.1:7002"]);
    }

    #[test]
    fn heartbeats_are_at_least_five_in_an_election_timeout() {
        let mut config = Config::new("m");
        config.election_timeout = Duration::from_millis(200);
        assert_eq!(config.check().expect("fine").member.heartbeat_interval, Duration::from_millis(40));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let file = || Some(PathBuf::from("f"));
        assert_eq!(
            error(|c| c.name = "a/b".to_owned()),
            "-name: \"a/b\" holds a character that a machine's name can't have ('/', ',' or '=')"
        );
        assert!(
            error(|c| c.client_tls.cert = file()).starts_with("-cert-file and -key-file belong together")
        );
        assert!(error(|c| c.peer_tls.key = file()).starts_with("-peer-cert-file and -peer-key-file"));
        assert!(error(|c| c.client_tls.ca = file()).starts_with("-ca-file needs -cert-file"));
        assert!(
            error(|c| c.peer_tls = TlsFiles { ca: None, cert: file(), key: file() })
                .starts_with("-peer-ca-file is needed")
        );
        assert!(
            error(|c| c.election_timeout = Duration::from_millis(1)).starts_with("-peer-election-timeout")
        );
        assert!(error(|c| c.join_attempts = 0).starts_with("-max-retry-attempts"));
        assert!(error(|c| c.history_events = Some(HISTORY_EVENTS_MAX + 1)).starts_with("-history-window"));
    }
}
