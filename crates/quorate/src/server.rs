//! A running member with its client ports: the composition of the member and the faces.
//!
//! Invariants: nothing here ends the process, installs a logger or touches anything global; two servers in one process
//! know nothing of each other; after [`Server::shutdown`], no thread, socket or file of the server is left. A member that
//! is joined to another cluster goes on there behind the same ports ([`crate::keeper`]).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_client::Client;
use quorate_faces::balsa::{self, Balsa};
use quorate_faces::etcd2::{self, Dialect, Etcd2};
use quorate_faces::etcd3::{self, Etcd3};
use quorate_faces::listener::{
    self, BodyBudget, Face, ListenConfig, ListenError, ListenTls, Serving, Switch,
};
use quorate_ids::{ClusterId, MemberId};
use quorate_member::{Handle, LastRequests, PeerTls, with_callers_log};

use crate::config::{Config, InitialState, Storage};
use crate::etcd2::{Marker, MarkerError};
use crate::keeper::{Keeper, Serves};
use crate::plan::{ConfigError, Plan};
use crate::tls;
use crate::url::Url;

/// Between two looks for a leader, while there is none.
const READY_RETRY: Duration = Duration::from_millis(50);

/// An interval of zero asks for no signs of life at all.
const KEEPALIVE_NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Why a server did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error(
        "data-dir: the folder {folder} is of 'quorate {found}', not of 'quorate server': name another one"
    )]
    OtherProtocol { folder: String, found: String },
    #[error(transparent)]
    Member(#[from] quorate_member::StartError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("can't start the thread that keeps the member: {0}")]
    Thread(std::io::Error),
}

/// A folder that another command's member marked as its own is not this one's to open.
fn check_folder(folder: Option<&Path>) -> Result<(), StartError> {
    let Some(folder) = folder else { return Ok(()) };
    match Marker::read(folder)? {
        None => Ok(()),
        Some(marker) => {
            Err(StartError::OtherProtocol { folder: folder.display().to_string(), found: marker.protocol })
        }
    }
}

/// The member stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the member stopped: {reason}")]
pub struct MemberStopped {
    pub reason: String,
    /// It was removed from its cluster, as somebody asked: no failure.
    pub removed: bool,
}

/// A running member. Dropped without [`Server::shutdown`], it stops at once and hands leadership to nobody.
pub struct Server {
    name: String,
    advertise_client_urls: Vec<String>,
    client_addrs: Vec<SocketAddr>,
    peer_addrs: Vec<SocketAddr>,
    // The order matters where the server is dropped: first the ports, then the member.
    serving: Serving,
    keeper: Keeper,
}

impl Server {
    /// Starts a member: checks its settings, opens its data, binds its ports and starts its threads. Returns before a
    /// leader is known; see [`Server::ready`]. It may block for the disk.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let plan = config.check()?;
        let client_tls = tls::client(&plan).map_err(ConfigError::from)?;
        let peer_tls = tls::peers(&plan).map_err(ConfigError::from)?;
        let member_config = member_config(&plan, peer_tls);
        check_folder(member_config.data_dir.as_deref())?;
        let member = quorate_member::start(member_config)?;
        let switch = Switch::new(faces(&member.handle(), &plan));
        let serving = listener::serve(listen_config(&plan, client_tls), vec![Arc::new(switch.clone())])?;
        let client_addrs = serving.addrs().to_vec();
        let advertise_client_urls = match &plan.advertise_client {
            Some(urls) => urls.iter().map(ToString::to_string).collect(),
            None => tls::urls(&client_addrs, &plan.listen_client),
        };
        let (name, peer_addrs) = (plan.name.clone(), member.peer_addrs());
        let serves = Serves { switch, plan, advertise_client_urls: advertise_client_urls.clone() };
        let keeper = Keeper::start(member, serves).map_err(StartError::Thread)?;
        Ok(Self { name, advertise_client_urls, client_addrs, peer_addrs, serving, keeper })
    }

    /// Waits until this member serves: a leader is known, this member has applied all that was acknowledged before,
    /// and the cluster knows its name and client URLs. Needs a tokio runtime with its timer.
    pub async fn ready(&self) -> Result<(), MemberStopped> {
        let ended = self.keeper.ended();
        loop {
            let handle = self.keeper.handle();
            let outcome = match handle.read_index().await {
                Ok(_) => handle.publish(&self.name, &self.advertise_client_urls).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(_) if ended.borrow().is_some() => return Err(self.stopped().await),
                // No leader yet, a change of it, or a member that moves: published again, the same names and URLs change
                // nothing.
                Err(_) => tokio::time::sleep(READY_RETRY).await,
            }
        }
    }

    /// Waits until the member stops by itself, for good; returns why. One that is joined to another cluster goes on.
    pub async fn stopped(&self) -> MemberStopped {
        let gone = || MemberStopped { reason: "its threads ended".to_owned(), removed: false };
        match self.keeper.ended().wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Where clients are listened for; the real ports where 0 was asked for.
    #[must_use]
    pub fn client_addrs(&self) -> &[SocketAddr] {
        &self.client_addrs
    }

    /// Where the other members are listened for; the real ports where 0 was asked for.
    #[must_use]
    pub fn peer_addrs(&self) -> &[SocketAddr] {
        &self.peer_addrs
    }

    #[must_use]
    pub fn member_id(&self) -> MemberId {
        self.keeper.handle().identity().member
    }

    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.keeper.handle().identity().cluster
    }

    /// A client of this member, without a socket in between: everything that a client over the network can do, on the
    /// runtime of the caller. It does not keep the member running; after [`Server::shutdown`] its requests fail.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = quorate::Config::new("m1").memory_only()
    /// #     .listen_client_urls(["http://127.0.0.1:0"]).listen_peer_urls(["http://127.0.0.1:0"]);
    /// let server = quorate::Server::start(config)?;
    /// server.ready().await?;
    /// let client = server.client();
    /// client.put("greeting", "hello").await?;
    /// assert_eq!(client.get("greeting").await?.expect("just written").value, "hello");
    /// server.shutdown().await;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn client(&self) -> Client {
        let port = self.serving.local();
        Client::in_process(self.name.clone(), move || port.connect())
    }

    /// The member's parts as faces use them: for programs that bring a protocol of their own. See [`Server::client`]
    /// for reading and writing keys. After the member was joined to another cluster it is another one.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.keeper.handle()
    }

    /// Stops cleanly: hands leadership on if this member leads and another can take it, lets running requests finish,
    /// closes ports and files. Takes a bounded time, with or without a majority: where no leader is there, requests that
    /// need one are not waited for.
    pub async fn shutdown(self) {
        let (done, ended) = tokio::sync::oneshot::channel();
        let stop = move || {
            let Self { serving, keeper, .. } = self;
            let member = keeper.release();
            let mut last = member.as_ref().map(|member| member.handle().last_requests());
            serving.stop_while(|| last.iter_mut().for_each(LastRequests::look));
            if let Some(member) = member {
                member.stop();
            }
            let _ = done.send(());
        };
        // A thread of its own, because stopping waits for threads and the host's runtime must not be held up.
        match std::thread::Builder::new().name("quorate-stop".to_owned()).spawn(with_callers_log(stop)) {
            Ok(_) => {
                let _ = ended.await;
            }
            // The closure was dropped, and with it the server: it has stopped, if less politely.
            Err(error) => tracing::error!(%error, "cannot start the thread that stops the member"),
        }
    }
}

pub(crate) fn member_config(plan: &Plan, peer_tls: PeerTls) -> quorate_member::Config {
    let text = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut config = quorate_member::Config::new(plan.name.clone());
    if let Storage::Folder { data_dir, wal_dir } = &plan.storage {
        config.data_dir = Some(data_dir.clone());
        config.wal_dir.clone_from(wal_dir);
    }
    config.listen_peer.clone_from(&plan.listen_peer.plain);
    config.peer_tls = peer_tls;
    config.advertise_peer_urls = plan.advertise_peer.as_deref().map(text).unwrap_or_default();
    config.advertise_client_urls = plan.advertise_client.as_deref().map(text).unwrap_or_default();
    config.initial_cluster = plan
        .cluster
        .iter()
        .flatten()
        .flat_map(|founder| founder.peer_urls.iter().map(|url| (founder.name.clone(), url.to_string())))
        .collect();
    config.initial_cluster_token.clone_from(&plan.initial_cluster_token);
    config.initial_state = match plan.initial_state {
        InitialState::New => quorate_member::InitialState::New,
        InitialState::Existing => quorate_member::InitialState::Existing,
    };
    config.heartbeat_interval = plan.heartbeat_interval;
    config.election_timeout = plan.election_timeout;
    config.pre_vote = plan.pre_vote;
    config.strict_membership = plan.strict_reconfig_check;
    config.learners_max = plan.learners_max;
    config.promote_learners = plan.promote_learners;
    config.join.clone_from(&plan.join);
    config.request_bytes_max = plan.request_bytes_max;
    config.checkpoint_entries = plan.checkpoint_entries;
    config.give_up_data = plan.give_up_data;
    config
}

pub(crate) fn listen_config(plan: &Plan, tls: Option<ListenTls>) -> ListenConfig {
    let mut config = ListenConfig::new(plan.listen_client.plain.clone());
    config.tls = tls;
    config.reuse_port = plan.clients.reuse_port;
    config.keepalive_interval = match plan.clients.keepalive_interval {
        Duration::ZERO => KEEPALIVE_NEVER,
        interval => interval,
    };
    config.keepalive_timeout = plan.clients.keepalive_timeout;
    if let Some(streams) = plan.clients.streams_max {
        config.streams_max = streams;
    }
    config
}

/// etcd 2.x and 3.4 keep their members and version in the tree of clients: alone, etcd 3.4 has taken three indices for them
/// before its first client comes.
const V2_BEGINS_AFTER: u64 = 3;

pub(crate) fn faces(handle: &Handle, plan: &Plan) -> Vec<Arc<dyn Face>> {
    let config = etcd3::Config {
        request_bytes_max: plan.request_bytes_max,
        txn_ops_max: plan.txn_ops_max,
        initial_cluster_token: plan.initial_cluster_token.clone(),
        election_timeout: plan.election_timeout,
        watch_progress_interval: plan.clients.watch_progress_interval,
        quota_bytes: plan.quota_bytes.unwrap_or(0),
        auto_compaction: plan.auto_compaction,
        metrics_extensive: plan.metrics_extensive,
        json_gateway: plan.clients.json_gateway,
        ..etcd3::Config::default()
    };
    let mut faces: Vec<Arc<dyn Face>> = Vec::new();
    // One for all of them: it bounds what the member holds.
    let bodies = BodyBudget::default();
    // These take their own paths alone; etcd3 takes the rest.
    if plan.enable_v2 {
        let config = etcd2::Config {
            initial_cluster_token: plan.initial_cluster_token.clone(),
            request_bytes_max: plan.request_bytes_max,
            history_events: plan.v2_history_events,
            client_cert_auth: plan.client_cert_auth,
            begins_after: V2_BEGINS_AFTER,
            bodies: bodies.clone(),
            ..etcd2::Config::new(Dialect::V2, plan.name.clone())
        };
        faces.push(Arc::new(Etcd2::new(handle.clone(), config)));
    }
    if let Some(prefix) = &plan.balsa_prefix {
        let config = balsa::Config {
            prefix: prefix.clone(),
            request_bytes_max: plan.request_bytes_max,
            election_timeout: plan.election_timeout,
            raft_https: !plan.listen_peer.tls.is_empty(),
            takes_readyz: false,
            bodies,
            ..balsa::Config::default()
        };
        faces.push(Arc::new(Balsa::new(handle.clone(), config)));
    }
    faces.push(Arc::new(Etcd3::new(handle.clone(), config)));
    faces
}
