//! Starting and stopping a member.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::time::Duration;

use quorate_disk::{Disk, RealDisk};
use quorate_ids::{Incarnation, LogIndex};
use quorate_models::Feeds;
use quorate_wal::Wal;
use tokio::sync::watch;

use super::background;
use super::folder_lock::FolderLock;
use super::inbox::Inbox;
use super::joiner;
use super::pool::Pool;
use super::pressure::Pressure;
use super::running::Running;
use super::threads::{self, Clock, Links};
use super::transport::{self, Transport};
use crate::config::{Config, InitialState, JoinConfig};
use crate::core::{
    CheckpointRule, Founding, LogInput, LogLoopConfig, OpenConfig, OpenError, PeerBook, Stages,
    complete_move, move_to, open, pending_move,
};
use crate::event::{Event, Peer};
use crate::handle::{Handle, Identity, Shared, Status, Visible, Waiting};
use crate::joining::JoinRefusal;
use crate::membership::{Member, MemberList, cluster_id, member_id};
use crate::metrics::Metrics;

/// Requests and frames that may wait for the log loop.
const INBOX_MAX: usize = 16 * 1024;
/// Threads that read cold bodies.
const READ_THREADS: usize = 2;

/// Why a member did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the initial cluster does not name this member: no entry {name}={urls}")]
    NotInCluster { name: String, urls: String },
    #[error(
        "the data folder belongs to member {found_member} ({found_name}) of cluster {found_cluster}, not to {name}: point each member at its own folder"
    )]
    OtherMember {
        found_name: String,
        found_member: quorate_ids::MemberId,
        found_cluster: quorate_ids::ClusterId,
        name: String,
    },
    #[error("no peer of the initial cluster told who the members are: {last}")]
    NoPeers { last: String },
    #[error("the cluster has no member with the peer URLs {urls}: add it first (member add), then start it")]
    NotAdded { urls: String },
    #[error(
        "member {member} was started with another data folder before, which is gone: remove it from the cluster and add it \
         again, then start it with this empty folder"
    )]
    Wiped { member: quorate_ids::MemberId },
    /// The cluster at `url` does not admit this member.
    #[error("the cluster at {url} does not admit this member: {refusal}")]
    JoinRefused { url: String, refusal: JoinRefusal },
    #[error("this data folder is in use by another process")]
    InUse,
}

/// What a member needs for a start, and again for each that follows behind the same ports.
pub struct Base {
    config: Config,
    listeners: Vec<transport::Bound>,
    wal_disk: Arc<dyn Disk>,
    disk: Arc<dyn Disk>,
    _lock: Option<FolderLock>,
}

/// Starts a member: binds its peer listeners, opens its data, starts its threads. Returns before a leader is known.
/// It may block for the disk, and for peers where it has to join a cluster.
pub fn start(mut config: Config) -> Result<Running, StartError> {
    let listeners = transport::bind(&config.listen_peer, &config.peer_tls)
        .map_err(|source| StartError::Io { what: "the peer port is not available".to_owned(), source })?;
    if config.advertise_peer_urls.is_empty() {
        config.advertise_peer_urls = listeners.iter().map(transport::Bound::url).collect();
    }
    if config.initial_cluster.is_empty() {
        let own = config.advertise_peer_urls.iter().map(|url| (config.name.clone(), url.clone()));
        config.initial_cluster = own.collect();
    }
    let (wal_disk, disk, lock) = disks(&config)?;
    if config.give_up_data {
        tracing::warn!("giving up this member's log and store, as asked: it returns as a new incarnation");
        give_up_data(&config, &wal_disk, &disk)?;
    }
    if let Some(join) = &config.join {
        join_by_request(&config, join, &wal_disk, &disk)?;
    }
    start_on(Base { config, listeners, wal_disk, disk, _lock: lock })
}

/// Opens the data and starts the threads.
pub fn start_on(base: Base) -> Result<Running, StartError> {
    let Base { config, wal_disk, disk, .. } = &base;
    let clock = Clock::start();
    let feeds = Feeds::new(config.feed_bytes_max);
    let open_config = open_config(config);
    let existed = holds_data(wal_disk, disk, &open_config.wal)?;
    let founding = founding(config, wal_disk, disk, &open_config)?;
    let stages = open(wal_disk, disk, open_config, founding.as_ref(), feeds.clone(), clock.now())?;
    check_owner(config, &stages)?;
    tell_initial(config, existed, &stages);
    if let Some(cut) = &stages.cut_tail {
        tracing::warn!(
            at = cut,
            "a torn tail of the log was cut: what was written when the member stopped was not acknowledged"
        );
    }
    let book = PeerBook::open(disk.clone())
        .map_err(|source| StartError::Io { what: "the peer book".to_owned(), source })?;
    run(base, stages, book, feeds, clock)
}

/// Whether a member started with these settings finds data of its own, or of the cluster that it is about to join. Else
/// its start will be its first.
pub fn has_data(config: &Config) -> Result<bool, StartError> {
    let (wal_disk, disk, _lock) = disks(config)?;
    holds_data(&wal_disk, &disk, &open_config(config).wal)
}

/// Whether the folder has a member's data, or is about to begin some.
fn holds_data(
    wal_disk: &Arc<dyn Disk>,
    disk: &Arc<dyn Disk>,
    wal: &quorate_wal::Config,
) -> Result<bool, StartError> {
    let log = Wal::exists(wal_disk.as_ref(), wal)
        .map_err(|source| StartError::Io { what: "the log's folder".to_owned(), source })?;
    Ok(log || pending_move(disk.as_ref()).map_err(OpenError::Joining)?.is_some())
}

/// A member without data asks to be admitted, and notes what it was told before anything else. One that was removed
/// while it was away comes back as a newcomer, where that is wished for.
fn join_by_request(
    config: &Config,
    join: &JoinConfig,
    wal_disk: &Arc<dyn Disk>,
    disk: &Arc<dyn Disk>,
) -> Result<(), StartError> {
    let open_config = open_config(config);
    if holds_data(wal_disk, disk, &open_config.wal)? {
        if !join.rejoin_if_removed || !was_removed(config, join, wal_disk, disk)? {
            return Ok(());
        }
        tracing::warn!("this member was removed from its cluster; it joins again as a newcomer");
        give_up_data(config, wal_disk, disk)?;
    }
    let offer = joiner::ask_to_join(config, join, Incarnation(random_u64()))?;
    move_to(disk.as_ref(), &offer)
        .map_err(|source| StartError::Io { what: "noting the cluster to join".to_owned(), source })
}

fn was_removed(
    config: &Config,
    join: &JoinConfig,
    wal_disk: &Arc<dyn Disk>,
    disk: &Arc<dyn Disk>,
) -> Result<bool, StartError> {
    let feeds = Feeds::new(config.feed_bytes_max);
    let now = Clock::start().now();
    let stages = open(wal_disk, disk, open_config(config), None, feeds, now)?;
    let me = stages.identity;
    if stages.members.was_removed(me.member) {
        return Ok(true);
    }
    drop(stages);
    joiner::peers_say_removed(config, join, me)
}

type Disks = (Arc<dyn Disk>, Arc<dyn Disk>, Option<FolderLock>);

fn disks(config: &Config) -> Result<Disks, StartError> {
    let Some(data_dir) = &config.data_dir else {
        let disk: Arc<dyn Disk> = Arc::new(config.memory.clone().unwrap_or_default());
        return Ok((disk.clone(), disk, None));
    };
    let real = |path: &PathBuf| -> Result<Arc<dyn Disk>, StartError> {
        let disk = RealDisk::new(path)
            .map_err(|source| StartError::Io { what: format!("the folder {}", path.display()), source })?;
        Ok(Arc::new(disk))
    };
    let disk = real(data_dir)?;
    let lock = FolderLock::take(data_dir)?;
    let wal_disk = config.wal_dir.as_ref().map_or_else(|| Ok(disk.clone()), real)?;
    Ok((wal_disk, disk, Some(lock)))
}

fn open_config(config: &Config) -> OpenConfig {
    const TICKS_PER_HEARTBEAT: u32 = 1;
    let tick = config.heartbeat_interval;
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let election_ticks = (config.election_timeout.as_nanos() / tick.as_nanos().max(1)).max(2);
    let start = random_u64();
    let placeholder = Identity {
        cluster: quorate_ids::ClusterId::ZERO,
        member: quorate_ids::MemberId(1),
        incarnation: Incarnation::ZERO,
    };
    let mut consensus = quorate_consensus::Config::new(placeholder.member, random_u64());
    consensus.election_timeout_ticks = usize::try_from(election_ticks).unwrap_or(usize::MAX);
    consensus.heartbeat_ticks = TICKS_PER_HEARTBEAT as usize;
    consensus.pre_vote = config.pre_vote;
    consensus.observe = config.observer.is_some();
    OpenConfig {
        wal: quorate_wal::Config {
            segment_size_bytes: config.wal_segment_bytes,
            ..quorate_wal::Config::default()
        },
        store: config.store.clone(),
        consensus,
        log_loop: LogLoopConfig {
            identity: placeholder,
            start,
            tick_nanos: nanos(tick),
            election_timeout_nanos: nanos(config.election_timeout),
            proposals_max: 16 * 1024,
            proposal_bytes_max: 64 * 1024 * 1024,
            reads_max: 64 * 1024,
            request_timeout_nanos: nanos(config.request_timeout()),
            apply_lag_entries_max: 5000,
            apply_lag_bytes_max: 64 * 1024 * 1024,
            log_retained_bytes: config.log_retained_bytes,
            learners_max: config.learners_max,
            promote_learners: config.promote_learners,
            hasten_start: config.pre_vote && config.hasten_start,
            strict_membership: config.strict_membership,
            kinds: crate::kinds::Kinds::default(),
        },
        checkpoint: CheckpointRule {
            front_bytes: config.store.front_bytes_max / 2,
            entries: config.checkpoint_entries,
            log_bytes: 2 * config.store.front_bytes_max,
            front_room_min: front_room_min(config),
        },
        // Memory that nobody limits does not get full.
        reserve_bytes: if config.data_dir.is_some() || config.memory.is_some() {
            config.reserve_bytes
        } else {
            0
        },
    }
}

fn random_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher keys come from the operating system's generator.
    let one = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let two = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (one ^ two.rotate_left(32)).max(1)
}

/// With less room than this in the fronts writes are refused.
fn front_room_min(config: &Config) -> u64 {
    config.store.front_bytes_max / 2
}

/// Removes the log and every generation of the store; the peer book stays.
fn give_up_data(config: &Config, wal_disk: &Arc<dyn Disk>, disk: &Arc<dyn Disk>) -> Result<(), StartError> {
    Wal::remove(wal_disk.clone(), open_config(config).wal).map_err(OpenError::from)?;
    complete_move(disk.as_ref()).map_err(OpenError::Joining)?;
    let Some(data_dir) = &config.data_dir else { return Ok(()) };
    let failed = |source| StartError::Io { what: format!("giving up {}", data_dir.display()), source };
    for entry in std::fs::read_dir(data_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_store = entry.file_name().to_str().is_some_and(|name| name.starts_with("store-"));
        if is_store {
            std::fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Tells an observer what the folder held, or is about to: nobody where it is new.
fn tell_initial(config: &Config, existed: bool, stages: &Stages) {
    let Some(observer) = &config.observer else { return };
    let (index, servers) = match existed {
        true => (stages.store.durable_index(), stages.members.iter().map(Peer::of).collect()),
        false => (LogIndex::ZERO, Vec::new()),
    };
    observer.tell(Event::InitialConfiguration { index, servers });
}

/// What an empty folder becomes; `None` where there is data, or where there is nothing to go by.
fn founding(
    config: &Config,
    wal_disk: &Arc<dyn Disk>,
    disk: &Arc<dyn Disk>,
    open: &OpenConfig,
) -> Result<Option<Founding>, StartError> {
    let exists = holds_data(wal_disk, disk, &open.wal)?;
    let incarnation = Incarnation(random_u64());
    if config.initial_state == InitialState::Existing {
        if !exists {
            // Noted before anything is begun: a crash on the way leaves a folder that goes on from there.
            let offer = joiner::ask_who_we_are(config, incarnation)?;
            move_to(disk.as_ref(), &offer)
                .map_err(|source| StartError::Io { what: "noting the cluster to join".to_owned(), source })?;
        }
        return Ok(None);
    }
    let mut members: Vec<Member> = Vec::new();
    for (name, url) in &config.initial_cluster {
        match members.iter_mut().find(|member| member.name == *name) {
            Some(member) => member.peer_urls.push(url.clone()),
            None => {
                members.push(Member { name: name.clone(), peer_urls: vec![url.clone()], ..Member::default() })
            }
        }
    }
    for member in &mut members {
        member.id = member_id(&member.peer_urls, &config.initial_cluster_token, None);
    }
    if let [alone] = &mut members[..] {
        // Several founders do not know each other's, and all must begin with the same list.
        alone.incarnation = incarnation;
    }
    let me = members.iter().find(|member| member.name == config.name);
    let Some(me) = me.map(|member| member.id) else {
        if exists {
            return Ok(None);
        }
        return Err(StartError::NotInCluster {
            name: config.name.clone(),
            urls: config.advertise_peer_urls.join(","),
        });
    };
    let cluster = cluster_id(members.iter().map(|member| member.id));
    let identity = Identity { cluster, member: me, incarnation };
    Ok(Some(Founding::Found { identity, members: MemberList::founded_by(members) }))
}

/// Refuses a folder that another member of the cluster, or a member of another cluster, left behind.
fn check_owner(config: &Config, stages: &Stages) -> Result<(), StartError> {
    let Some(owner) = stages.members.get(stages.identity.member) else { return Ok(()) };
    let taken = stages.members.iter().any(|member| member.id != owner.id && member.name == config.name);
    let shares_url = owner.peer_urls.iter().any(|url| config.advertise_peer_urls.contains(url));
    // A member whose addresses moved keeps its name, and so do the members around it.
    let known = |name: &String| stages.members.iter().any(|member| member.name == *name);
    let moved = owner.name == config.name && config.initial_cluster.iter().all(|(name, _)| known(name));
    if !taken && (shares_url || moved) {
        return Ok(());
    }
    Err(StartError::OtherMember {
        found_name: owner.name.clone(),
        found_member: stages.identity.member,
        found_cluster: stages.identity.cluster,
        name: config.name.clone(),
    })
}

fn run(
    base: Base,
    stages: Stages,
    book: PeerBook,
    feeds: Feeds,
    clock: Clock,
) -> Result<Running, StartError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| StartError::Io { what, source }
    };
    let config = &base.config;
    let listeners: Vec<transport::Bound> = base
        .listeners
        .iter()
        .map(transport::Bound::again)
        .collect::<Result<_, _>>()
        .map_err(io("the peer port"))?;
    let peer_addrs: Vec<SocketAddr> = listeners.iter().map(|bound| bound.addr).collect();
    let metrics = Arc::new(Metrics::new());
    let inbox = Arc::new(Inbox::new(INBOX_MAX));
    let tls = config.peer_tls.connector.clone();
    let http = config.peer_http.clone();
    let met = book.all();
    let transport = Transport::start(
        stages.identity,
        (&stages.members, book),
        listeners,
        tls,
        http,
        inbox.clone(),
        metrics.clone(),
    )
    .map_err(io("starting the peer thread"))?;
    for (member, incarnation) in met {
        inbox.report(LogInput::Met { member, incarnation });
    }
    transport.set_members(&stages.members);
    let visible = watch::Sender::new(Visible::default());
    let shared = Arc::new(Shared {
        identity: stages.identity,
        store: stages.store.clone(),
        feeds,
        metrics,
        inbox,
        pool: Pool::start("quorate-read", READ_THREADS).map_err(io("starting the read threads"))?,
        transfer: Arc::new(Inbox::new(INBOX_MAX)),
        sequence: AtomicU64::new(1),
        waiting: Mutex::new(Waiting::default()),
        status: RwLock::new(Status::default()),
        members: RwLock::new(Arc::new(stages.members.to_vec())),
        member_list: RwLock::new(Arc::new(stages.members.clone())),
        visible,
        replayed: watch::Sender::new(false),
        mended: tokio::sync::broadcast::Sender::new(crate::handle::MENDED_KEPT),
        request_timeout: config.request_timeout(),
        request_bytes_max: config.request_bytes_max,
        election_timeout: config.election_timeout,
        connector: config.peer_tls.connector.clone(),
        hosting: AtomicUsize::new(0),
    });
    transport.serve_newcomers(Handle { shared: shared.clone() });
    if let crate::core::ApplyOutput::Visible { index, revision, term } = stages.apply.visible() {
        shared.visible.send_replace(Visible { index, revision, term });
    }
    let (stopped_sender, stopped) = watch::channel(None);
    let links = Arc::new(Links {
        shared: shared.clone(),
        clock,
        apply: Arc::new(Inbox::new(usize::MAX)),
        transfer: shared.transfer.clone(),
        transport,
        stopping: AtomicBool::new(false),
        may_stop: AtomicBool::new(false),
        stopped: stopped_sender,
        background_bytes_per_second: config.background_bytes_per_second,
        pressure: Pressure::new(config.store.front_bytes_max, front_room_min(config)),
        disk: base.disk.clone(),
        observer: config.observer.clone(),
    });
    let (batches, to_write) = mpsc::channel();
    let (fronts, to_checkpoint) = mpsc::channel();
    let Stages { log_loop, log_writer, apply, checkpoint, transfer, .. } = stages;
    let mut running = Running {
        handle: Handle { shared },
        links: Some(links.clone()),
        threads: Vec::new(),
        peer_addrs,
        stopped,
        stop_patience: 2 * config.election_timeout + Duration::from_millis(500),
        again: None,
    };
    let failed = || io("starting a member thread");
    running.threads.extend([
        threads::spawn("quorate-wal", &links, move |l| threads::run_writer(l, log_writer, &to_write))
            .map_err(failed())?,
        threads::spawn("quorate-store", &links, move |l| {
            background::run_checkpoints(l, checkpoint, &to_checkpoint)
        })
        .map_err(failed())?,
        threads::spawn("quorate-xfer", &links, move |l| threads::run_transfers(l, transfer))
            .map_err(failed())?,
        threads::spawn("quorate-apply", &links, move |l| threads::run_apply(l, apply, &fronts))
            .map_err(failed())?,
        threads::spawn("quorate-log", &links, move |l| threads::run_log(l, log_loop, &batches))
            .map_err(failed())?,
    ]);
    running.again = Some(base);
    Ok(running)
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
