//! A balsa node: a member that founds a cluster of its own or joins one by request, with balsa's face on its HTTP port.
//!
//! Invariants: the HTTP port stays open while the node moves to another cluster; nothing here ends the process, installs
//! a logger or touches anything global; after [`Node::shutdown`] no thread, socket or file of the node is left.

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_faces::balsa::{self as face, Balsa, Console};
use quorate_faces::listener::{self, Face, Serving, Switch};
use quorate_member::{Handle, JoinConfig, LastRequests, Running, Stopped, observer};
use quorate_tls::Settings as TlsSettings;
use tokio::task::JoinHandle as Task;

use crate::config::Config;
use crate::plan::{ConfigError, Plan};
use crate::server::{self, StartError};
use crate::tls;

pub use quorate_faces::balsa::{Quiet, Sink};

/// Events that may wait for the console.
const EVENTS_WAITING_MAX: usize = 4096;
/// Learners that a cluster may have: nodes that join at the same time are learners all.
const LEARNERS_MAX: usize = 16;
/// How long a node asks to be admitted while no peer answers.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to make the node's addresses known.
const PUBLISH_RETRY: Duration = Duration::from_millis(200);
/// In the volume: what keeps this founding apart from any other.
const TOKEN_FILE: &str = "founding";

/// What a node is started with. [`Settings::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// No two nodes of a cluster have the same.
    pub node_id: String,
    pub volume_dir: PathBuf,
    pub http_addr: SocketAddr,
    /// `host:port` that clients are told.
    pub http_advertise: String,
    pub raft_addr: SocketAddr,
    /// `host:port` that the other nodes are told.
    pub raft_advertise: String,
    /// `host:port` of raft listeners of a running cluster. Not empty: a node without data asks these to admit it,
    /// instead of founding a cluster of its own.
    pub join: Vec<String>,
    /// A node that joins becomes a voter; else it stays a learner.
    pub voter: bool,
    /// Stands before every key.
    pub key_prefix: String,
    /// What requests have to show. With one, etcd's clients are not served on the port: they could not show it.
    pub token: Option<String>,
    /// With a certificate, the port has TLS.
    pub http_tls: TlsSettings,
    pub raft_tls: TlsSettings,
    /// A checkpoint is cut after this many entries, at the latest.
    pub snapshot_entries: u64,
    /// Log kept for nodes that lag, beyond what a checkpoint needs.
    pub log_retained_bytes: usize,
}

impl Settings {
    /// A node on this machine alone.
    #[must_use]
    pub fn new(node_id: &str, volume_dir: impl Into<PathBuf>, http: SocketAddr, raft: SocketAddr) -> Self {
        Self {
            node_id: node_id.to_owned(),
            volume_dir: volume_dir.into(),
            http_addr: http,
            http_advertise: http.to_string(),
            raft_addr: raft,
            raft_advertise: raft.to_string(),
            join: Vec::new(),
            voter: true,
            key_prefix: face::Config::default().prefix,
            token: None,
            http_tls: TlsSettings::default(),
            raft_tls: TlsSettings::default(),
            snapshot_entries: 100_000,
            log_retained_bytes: 16 << 20,
        }
    }

    fn config(&self, token: &str) -> Config {
        let scheme = |tls: &TlsSettings| if tls.has_certificate() { "https" } else { "http" };
        let (http, raft) = (scheme(&self.http_tls), scheme(&self.raft_tls));
        Config::new(&self.node_id)
            .data_dir(&self.volume_dir)
            .listen_client_urls([format!("{http}://{}", self.http_addr)])
            .advertise_client_urls([format!("{http}://{}", self.http_advertise)])
            .listen_peer_urls([format!("{raft}://{}", self.raft_addr)])
            .advertise_peer_urls([format!("{raft}://{}", self.raft_advertise)])
            .initial_cluster_token(token)
            .checkpoint_entries(self.snapshot_entries)
            .learners_max(LEARNERS_MAX)
            .client_tls(self.http_tls.clone())
            .peer_tls(self.raft_tls.clone())
    }

    /// Checks everything that can be checked without opening a socket or changing a file.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.config("checked").check().map(|_| ())
    }
}

/// How a node ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was removed from its cluster.
    Removed,
    Failed {
        reason: String,
    },
}

/// A running node. Dropped without [`Node::shutdown`], it stops at once and hands leadership to nobody.
pub struct Node {
    plan: Plan,
    face: face::Config,
    serves_etcd: bool,
    client_urls: Vec<String>,
    switch: Switch,
    // The order matters where the node is dropped: first the port, then the member, then its console.
    serving: Serving,
    member: Option<Running>,
    /// While it moves to another cluster there is no member.
    moving: Option<Task<Result<Running, quorate_member::StartError>>>,
    published: bool,
    console: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node: opens its data, or founds or joins a cluster; binds its ports. Returns before a leader is known.
    /// It may block for the disk, and for other nodes where it has to ask them.
    pub fn start(settings: &Settings, sink: Arc<dyn Sink>) -> Result<Self, StartError> {
        settings.check()?;
        let token = founding_token(&settings.volume_dir).map_err(|source| {
            let what = format!("the folder {}", settings.volume_dir.display());
            quorate_member::StartError::Io { what, source }
        })?;
        let plan = settings.config(&token).check()?;
        let client_tls = tls::client(&plan).map_err(ConfigError::from)?;
        let peer_tls = tls::peers(&plan).map_err(ConfigError::from)?;
        let raft_https = settings.raft_tls.has_certificate();
        let console = Arc::new(Console::new(sink, settings.raft_advertise.clone()));
        let (observer, events) = observer(EVENTS_WAITING_MAX);
        let shown = Arc::clone(&console);
        let follow = std::thread::Builder::new().name("quorate-console".to_owned());
        let follow = follow.spawn(move || shown.follow(&events)).map_err(|source| {
            quorate_member::StartError::Io { what: "starting the console".to_owned(), source }
        })?;
        let mut config = server::member_config(&plan, peer_tls);
        config.observer = Some(observer);
        // People are to see an election as Raft tells it: first nobody is heard of for a while.
        config.hasten_start = false;
        config.log_retained_bytes = settings.log_retained_bytes;
        if !settings.join.is_empty() {
            let scheme = if raft_https { "https" } else { "http" };
            let peers = settings.join.iter().map(|address| format!("{scheme}://{address}"));
            let join = JoinConfig::new(peers);
            config.join = Some(JoinConfig { wants_vote: settings.voter, patience: JOIN_PATIENCE, ..join });
        }
        let member = quorate_member::start(config)?;
        let face = face::Config {
            prefix: settings.key_prefix.clone(),
            token: settings.token.clone(),
            raft_https,
            console,
            ..face::Config::default()
        };
        let serves_etcd = settings.token.is_none();
        let switch = Switch::new(faces(&member.handle(), &plan, &face, serves_etcd));
        let listen = server::listen_config(&plan, client_tls);
        let serving = listener::serve(listen, vec![Arc::new(switch.clone())])?;
        let client_urls: Vec<String> =
            plan.advertise_client.iter().flatten().map(ToString::to_string).collect();
        Ok(Self {
            plan,
            face,
            serves_etcd,
            client_urls,
            switch,
            serving,
            member: Some(member),
            moving: None,
            published: false,
            console: Some(follow),
        })
    }

    /// Where requests are taken; the real port where 0 was asked for.
    #[must_use]
    pub fn http_addrs(&self) -> &[SocketAddr] {
        self.serving.addrs()
    }

    /// Keeps the node known under its name and address, and goes along where it is joined to another cluster; returns
    /// when it stops by itself. To be awaited all the time; it may be dropped and called again.
    pub async fn run(&mut self) -> Ended {
        loop {
            if let Some(moving) = &mut self.moving {
                let moved = moving.await;
                self.moving = None;
                match moved {
                    Ok(Ok(member)) => self.go_on_as(member),
                    Ok(Err(error)) => return Ended::Failed { reason: error.to_string() },
                    Err(error) => return Ended::Failed { reason: error.to_string() },
                }
            }
            let Some(member) = &self.member else {
                return Ended::Failed { reason: "it stopped while it moved to another cluster".to_owned() };
            };
            let why = tokio::select! {
                why = stopped(member) => why,
                () = publish(member, &self.plan.name, &self.client_urls), if !self.published => {
                    self.published = true;
                    continue;
                }
            };
            match why {
                Stopped::Absorbed => {
                    let member = self.member.take();
                    self.moving = member.map(|member| tokio::task::spawn_blocking(|| member.resume()));
                }
                Stopped::Removed => return Ended::Removed,
                Stopped::Failed { reason } => return Ended::Failed { reason },
                Stopped::Asked => return Ended::Failed { reason: "it was asked to stop".to_owned() },
            }
        }
    }

    fn go_on_as(&mut self, member: Running) {
        self.switch.replace(faces(&member.handle(), &self.plan, &self.face, self.serves_etcd));
        self.member = Some(member);
        self.published = false;
    }

    /// Stops cleanly: hands leadership on if this node leads and another can take it, lets running requests finish,
    /// closes ports and files.
    pub async fn shutdown(mut self) {
        if let Some(moving) = self.moving.take()
            && let Ok(Ok(member)) = moving.await
        {
            self.member = Some(member);
        }
        let stop = move || {
            let Self { serving, member, switch, console, .. } = self;
            let mut last = member.as_ref().map(|member| member.handle().last_requests());
            serving.stop_while(|| last.iter_mut().for_each(LastRequests::look));
            switch.replace(Vec::new());
            if let Some(member) = member {
                member.stop();
            }
            // It ends with the last of the member's observers; a console that hangs is not waited for at exit.
            drop(console);
        };
        if let Err(error) = tokio::task::spawn_blocking(stop).await {
            tracing::error!(%error, "stopping the node failed");
        }
    }
}

fn faces(handle: &Handle, plan: &Plan, face: &face::Config, serves_etcd: bool) -> Vec<Arc<dyn Face>> {
    let mut faces: Vec<Arc<dyn Face>> = vec![Arc::new(Balsa::new(handle.clone(), face.clone()))];
    if serves_etcd {
        faces.extend(server::faces(handle, plan));
    }
    faces
}

async fn stopped(member: &Running) -> Stopped {
    let mut stopped = member.stopped();
    match stopped.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or(Stopped::Asked),
        Err(_) => Stopped::Failed { reason: "its threads ended".to_owned() },
    }
}

async fn publish(member: &Running, name: &str, client_urls: &[String]) {
    while member.publish(name, client_urls).await.is_err() {
        tokio::time::sleep(PUBLISH_RETRY).await;
    }
}

/// The token with which this volume founds its cluster: new for each empty volume, so that a node that was wiped never
/// founds the cluster anew that it once was of. It stays until the founding is complete, whatever crashes.
fn founding_token(volume: &Path) -> std::io::Result<String> {
    let path = volume.join(TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(token) if !token.is_empty() => return Ok(token),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::create_dir_all(volume)?;
    // The standard library's hasher keys come from the operating system's generator.
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    let token = format!("{:016x}{:016x}", random(), random());
    let new = volume.join(format!("{TOKEN_FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(volume)?.sync_all()?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_volume_gets_a_token_of_its_own_and_keeps_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("a/b"), folder.path().join("c"));
        let token = founding_token(&one).expect("made");
        assert_eq!(founding_token(&one).expect("read"), token);
        assert_ne!(founding_token(&other).expect("made"), token);
        std::fs::remove_dir_all(&one).expect("wiped");
        assert_ne!(founding_token(&one).expect("made"), token);
    }
}
