//! A running machine of an etcd 0.4 cluster: the member, its client port, what its peer port serves over HTTP.
//!
//! Invariant: a machine that starts for the first time takes no client before the tree lists it. So the n-th machine's
//! join is index n, whatever clients do.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quorate_faces::etcd2::{self, Dialect, Etcd2, peer};
use quorate_faces::listener::{self, Face, Handed, ListenConfig, ListenError, Serving};
use quorate_ids::{ClusterId, MemberId};
use quorate_member::{Handle, HttpConnection, JoinConfig, PeerHttp, Running, Stopped};

use super::config::{Config, ConfigError, Plan};
use super::discovery::{Discovery, DiscoveryError, Found};
use super::machines::{Background, Machine};
use super::marker::{self, Marker, MarkerError};
use crate::server::{listen_config, member_config};
use crate::tls;

/// What the data folder's marker says.
pub(crate) const PROTOCOL: &str = "etcd2";
/// What a stopped etcd 0.4 leaves in its data folder.
const FILES_OF_ETCD: [&str; 2] = ["conf", "log"];
/// Where every member of ours keeps its log, in its data folder.
const LOG_FOLDER: &str = "wal";

/// Why a machine did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("-peer-addr {url}: {source}")]
    Tls { url: String, source: quorate_tls::TlsError },
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error(
        "the data folder {folder} is of 'quorate {found}', not of 'quorate etcd2': point -data-dir at another one"
    )]
    OtherProtocol { folder: String, found: String },
    #[error("the data folder {folder} holds the data of an etcd 0.4: point -data-dir at an empty one")]
    DataOfEtcd { folder: String },
    #[error("cannot connect to existing cluster: {last}")]
    CannotConnect { last: String },
    #[error(
        "the new leader, must register itself to discovery service as required: {0}; or name machines with -peers"
    )]
    Discovery(#[from] DiscoveryError),
    #[error(transparent)]
    Member(quorate_member::StartError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("the member stopped before its cluster knew it: {reason}")]
    Stopped { reason: String },
}

impl From<quorate_member::StartError> for StartError {
    fn from(error: quorate_member::StartError) -> Self {
        match error {
            quorate_member::StartError::NoPeers { last } => Self::CannotConnect { last },
            error => Self::Member(error),
        }
    }
}

/// Why a machine is no longer running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was removed from its cluster. Started again, it joins as a newcomer.
    Removed,
    Failed {
        reason: String,
    },
}

/// A running machine. Dropped without [`Server::shutdown`], it stops at once and hands leadership to nobody.
pub struct Server {
    client_addrs: Vec<SocketAddr>,
    // The order matters where the server is dropped: first the ports, then what works on the member, then the member.
    serving: Serving,
    handed: Arc<Handed>,
    background: Background,
    member: Running,
}

impl Server {
    /// Starts a machine: checks its settings, finds its cluster, opens its data, binds its ports. A machine that starts
    /// for the first time blocks until its cluster knows it; with data it returns before a leader is known.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let plan = config.check()?;
        let client_tls = tls::client(&plan.member).map_err(|source| tls_failed(&plan.client_url, source))?;
        let peer_tls = tls::peers(&plan.member).map_err(|source| tls_failed(&plan.peer_url, source))?;
        let remembered = marked(&config.data_dir)?;
        check_free(&plan)?;
        let connector = peer_tls.connector.clone();
        let mut member_config = member_config(&plan.member, peer_tls);
        let is_new = !quorate_member::has_data(&member_config)?;
        let discovery = match &config.discovery {
            Some(url) => Discovery::new(url, &config.name, &plan.peer_url).map(Some),
            None => Ok(None),
        };
        let (mut peers, discovery) = discover(&plan, discovery, is_new)?;
        if !is_new {
            peers.extend(remembered);
        }
        if !peers.is_empty() {
            let attempts = u32::try_from(config.join_attempts).unwrap_or(u32::MAX);
            member_config.join = Some(JoinConfig {
                // Whether there is room for its vote is the leader's business.
                wants_vote: false,
                patience: config.join_interval.saturating_mul(attempts),
                rejoin_if_removed: true,
                ..JoinConfig::new(peers.iter().cloned())
            });
        }
        let slot: Arc<OnceLock<Arc<Handed>>> = Arc::default();
        member_config.peer_http = Some(handing_to(Arc::clone(&slot)));
        let member = quorate_member::start(member_config)?;
        let handle = member.handle();
        let handed = Arc::new(handed(&plan, &handle));
        let _ = slot.set(Arc::clone(&handed));
        let background = Background::start(Machine {
            handle: handle.clone(),
            name: config.name.clone(),
            client_url: plan.client_url.clone(),
            peer_url: plan.peer_url.clone(),
            peers,
            data_dir: config.data_dir.clone(),
            tls: connector,
            founded: config.cluster.raised(),
            discovery,
        });
        let background = background.map_err(|source| StartError::Io {
            what: "starting a thread of the machine".to_owned(),
            source,
        })?;
        if is_new {
            wait_until_known(&background, &member)?;
        }
        let listen = listen_config(&plan.member, client_tls);
        let serving = listener::serve(listen, vec![client_face(&plan, &handle)])?;
        Ok(Self { client_addrs: serving.addrs().to_vec(), serving, handed, background, member })
    }

    /// Waits until a leader is known and the tree lists this machine.
    pub async fn ready(&self) -> Result<(), Ended> {
        let mut known = self.background.known();
        tokio::select! {
            _ = known.wait_for(|known| *known) => Ok(()),
            ended = self.stopped() => Err(ended),
        }
    }

    /// Waits until the machine stops by itself; returns why.
    pub async fn stopped(&self) -> Ended {
        let mut stopped = self.member.stopped();
        match stopped.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Stopped::Removed)) => Ended::Removed,
            Ok(Some(Stopped::Failed { reason })) => Ended::Failed { reason: reason.clone() },
            Ok(Some(other)) => Ended::Failed { reason: format!("{other:?}") },
            Ok(None) | Err(_) => Ended::Failed { reason: "its threads ended".to_owned() },
        }
    }

    #[must_use]
    pub fn client_addrs(&self) -> &[SocketAddr] {
        &self.client_addrs
    }

    #[must_use]
    pub fn peer_addrs(&self) -> Vec<SocketAddr> {
        self.member.peer_addrs()
    }

    #[must_use]
    pub fn member_id(&self) -> MemberId {
        self.member.handle().identity().member
    }

    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.member.handle().identity().cluster
    }

    /// Stops cleanly: hands leadership on if this machine leads and another can take it, lets running requests finish,
    /// closes ports and files. Takes a bounded time, with or without a majority.
    pub async fn shutdown(self) {
        let (done, ended) = tokio::sync::oneshot::channel();
        let stop = move || {
            let Self { serving, handed, background, member, .. } = self;
            handed.stop();
            let mut last = member.handle().last_requests();
            serving.stop_while(|| last.look());
            drop(background);
            member.stop();
            let _ = done.send(());
        };
        // A thread of its own, because stopping waits for threads and the host's runtime must not be held up.
        match std::thread::Builder::new().name("quorate-stop".to_owned()).spawn(stop) {
            Ok(_) => {
                let _ = ended.await;
            }
            // The closure was dropped, and with it the server: it has stopped, if less politely.
            Err(error) => tracing::error!(%error, "cannot start the thread that stops the machine"),
        }
    }
}

fn tls_failed(url: &str, source: quorate_tls::TlsError) -> StartError {
    StartError::Tls { url: url.to_owned(), source }
}

/// Checks whose data folder it is, and marks a new one. Returns the peers that are remembered there.
fn marked(folder: &Path) -> Result<Vec<String>, StartError> {
    match Marker::read(folder)? {
        Some(marker) if marker.protocol == PROTOCOL => Ok(marker.peers),
        Some(marker) => {
            Err(StartError::OtherProtocol { folder: folder.display().to_string(), found: marker.protocol })
        }
        None if is_of_etcd(folder) => Err(StartError::DataOfEtcd { folder: folder.display().to_string() }),
        // Ours has its marker before its data.
        None if folder.join(LOG_FOLDER).is_dir() => Err(StartError::OtherProtocol {
            folder: folder.display().to_string(),
            found: "server".to_owned(),
        }),
        None => {
            Marker::new(PROTOCOL).write(folder)?;
            Ok(Vec::new())
        }
    }
}

fn is_of_etcd(folder: &Path) -> bool {
    FILES_OF_ETCD.iter().all(|name| folder.join(name).is_file())
}

/// Removes what a machine of ours left in its data folder, so that the next start is its first.
pub fn wipe(folder: &Path) -> Result<(), StartError> {
    marked(folder)?;
    let failed = |source| StartError::Io { what: format!("clearing {}", folder.display()), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // Whoever runs on this folder holds the lock: it stays, and so it is noticed.
        // The marker stays, too: where this is cut short, what is left is still known for what it is.
        if name == "lock" || name == tls::MADE_FOLDER || name == marker::FILE {
            continue;
        }
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
            .map_err(failed)?;
    }
    Ok(())
}

/// A port that is taken has to be known before the cluster knows this machine.
fn check_free(plan: &Plan) -> Result<(), StartError> {
    for addr in plan.member.listen_client.plain.iter().chain(&plan.member.listen_client.tls) {
        TcpListener::bind(addr).map_err(|error| ListenError::Bind { addr: *addr, error })?;
    }
    Ok(())
}

/// The peers to join through: those that a discovery service knows, and those that were named.
fn discover(
    plan: &Plan,
    discovery: Result<Option<Discovery>, DiscoveryError>,
    is_new: bool,
) -> Result<(Vec<String>, Option<Discovery>), StartError> {
    let named = plan.peers.clone();
    let discovery = match discovery {
        Ok(None) => return Ok((named, None)),
        Ok(Some(discovery)) => discovery,
        Err(error) if named.is_empty() && is_new => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "going on without discovery");
            return Ok((named, None));
        }
    };
    if !is_new {
        return Ok((named, Some(discovery)));
    }
    match on_own_thread(discovery.find())? {
        Ok(Found::First) => Ok((named, Some(discovery))),
        Ok(Found::Peers(peers)) => Ok((peers.into_iter().chain(named).collect(), Some(discovery))),
        Err(error) if named.is_empty() => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "going on with -peers alone");
            Ok((named, Some(discovery)))
        }
    }
}

/// Waits for `work` on a thread with a runtime of its own: the caller may be inside one.
fn on_own_thread<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Io { what: "discovery".to_owned(), source })?;
    Ok(std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let outcome = runtime.block_on(work);
            runtime.shutdown_background();
            outcome
        });
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }))
}

/// Connections to the peer port that speak HTTP go to the face, once it is there.
fn handing_to(slot: Arc<OnceLock<Arc<Handed>>>) -> PeerHttp {
    PeerHttp(Arc::new(move |connection: HttpConnection| {
        let handed = slot.get().cloned();
        Box::pin(async move {
            if let Some(handed) = handed {
                handed.serve(connection.stream, connection.first.to_vec(), connection.from).await;
            }
        })
    }))
}

fn handed(plan: &Plan, handle: &Handle) -> Handed {
    let config = peer::Config {
        name: plan.config.name.clone(),
        client_url: plan.client_url.clone(),
        founded: plan.config.cluster.raised(),
    };
    let face: Arc<dyn Face> = Arc::new(peer::Peer::new(handle.clone(), config));
    Handed::new(ListenConfig::new(Vec::new()), vec![face])
}

fn client_face(plan: &Plan, handle: &Handle) -> Arc<dyn Face> {
    let config = etcd2::Config {
        forward: plan.config.forward,
        history_events: plan.config.history_events,
        cors_origins: plan.config.cors.clone(),
        request_bytes_max: plan.member.request_bytes_max,
        request_timeout: plan.config.read_timeout,
        ..etcd2::Config::new(Dialect::V04, plan.config.name.clone())
    };
    Arc::new(Etcd2::new(handle.clone(), config))
}

/// Between two looks at whether the member is still there.
const LOOK: Duration = Duration::from_millis(20);

fn wait_until_known(background: &Background, member: &Running) -> Result<(), StartError> {
    let (known, stopped) = (background.known(), member.stopped());
    while !*known.borrow() {
        if let Some(why) = &*stopped.borrow() {
            return Err(StartError::Stopped { reason: format!("{why:?}") });
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
