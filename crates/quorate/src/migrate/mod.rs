//! Moving what a stopped etcd holds into a folder that a member starts from.
//!
//! A member of a cluster of its own is founded beside the folder that is asked for, takes the tree through its log as it
//! takes everything, writes a checkpoint and stops; then the folder gets its name. Invariants: a folder of that name is
//! whole or not there, whenever the machine stops; what is there already is never changed, so a second run is refused;
//! the etcd's folder is only read.

mod commands;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_member::{Handle, ModelReply, RequestError};
use quorate_models::{ModelId, keys, tree};

pub use quorate_migrate::{Error as ReadError, Kind, Log, Node, Source, read};

use self::commands::Prepared;
use crate::etcd2::{Marker, MarkerError};
use crate::url::Url;

/// What the folder is to be started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `quorate etcd2`
    Etcd2,
    /// `quorate server`
    Server,
}

/// As what the tree is taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// The tree, with its indexes.
    Tree,
    /// A key of the v3 API for each file, with this before its path.
    Keys { prefix: String },
    /// Both.
    Both { prefix: String },
}

/// Where it goes.
#[derive(Clone, Debug)]
pub struct Target {
    pub data_dir: PathBuf,
    pub name: String,
    pub command: Command,
    /// Where the member's peers will reach it.
    pub peer_url: String,
    pub form: Form,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Nodes of the tree.
    pub nodes: usize,
    /// Keys of v3.
    pub keys: usize,
    /// Files that have no key because they had expired.
    pub expired: usize,
    /// Directories, which v3 does not have.
    pub directories: usize,
}

/// Why nothing was moved. There is no new folder then.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("{folder} holds something already; nothing was changed there: name a folder that is not there", folder = .0.display())]
    NotEmpty(PathBuf),
    #[error("another migration to {folder} is under way", folder = .0.display())]
    UnderWay(PathBuf),
    #[error(
        "{folder} is in the way, and no migration left it there: remove it, or name another folder",
        folder = .0.display()
    )]
    InTheWay(PathBuf),
    #[error("the name {0:?} is not possible: it is empty, or has a '/', ',' or '='")]
    Name(String),
    #[error("the peer URL {url:?} is not usable: {reason}")]
    PeerUrl { url: String, reason: String },
    #[error("{what} {path}: {source}", path = .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error("{path} can't be taken over: {why}")]
    Node { path: String, why: String },
    #[error("the new member did not start: {0}")]
    Start(#[from] quorate_member::StartError),
    #[error("the new member did not take it: {0}")]
    Request(#[from] RequestError),
    #[error("the new member refused it: {reason}")]
    Refused { reason: String },
}

impl MigrateError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// A file that says what a half-made folder is; whoever makes it holds a lock on it.
const UNDER_WAY: &str = "migrating";
/// How long the new member may take to lead itself, and between two looks.
const LEADS_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Room for an envelope within an entry of the log.
const COMMAND_BYTES_MAX: usize = (4 << 20) - (16 << 10);

/// Checks what can be checked without writing.
pub fn check(target: &Target) -> Result<(), MigrateError> {
    if target.name.is_empty() || target.name.contains(['/', ',', '=']) {
        return Err(MigrateError::Name(target.name.clone()));
    }
    let unusable = |reason: String| MigrateError::PeerUrl { url: target.peer_url.clone(), reason };
    Url::parse(&target.peer_url).map_err(|error| unusable(error.to_string()))?;
    match std::fs::read_dir(&target.data_dir) {
        Ok(mut listed) => match listed.next() {
            None => Ok(()),
            Some(_) => Err(MigrateError::NotEmpty(target.data_dir.clone())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(MigrateError::io("reading", &target.data_dir)(error)),
    }
}

/// Moves it. Blocks until the new folder is durable.
pub fn migrate(source: &Source, target: &Target) -> Result<Written, MigrateError> {
    check(target)?;
    let prepared = Prepared::new(source, &target.form, now())?;
    let beside = beside(&target.data_dir)?;
    let under_way = clear(&beside)?;
    fill(&beside, target, &prepared)?;
    if target.command == Command::Etcd2 {
        Marker::new(crate::etcd2::PROTOCOL).write(&beside)?;
    }
    std::fs::remove_file(beside.join(UNDER_WAY)).map_err(MigrateError::io("finishing", &beside))?;
    sync(&beside)?;
    std::fs::rename(&beside, &target.data_dir).map_err(MigrateError::io("naming", &target.data_dir))?;
    sync(parent(&target.data_dir))?;
    drop(under_way);
    Ok(prepared.written)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn parent(folder: &Path) -> &Path {
    folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(folder: &Path) -> Result<(), MigrateError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(MigrateError::io("syncing", folder))
}

/// Where the folder is made before it gets its name.
fn beside(folder: &Path) -> Result<PathBuf, MigrateError> {
    let Some(name) = folder.file_name() else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it has no name of its own");
        return Err(MigrateError::io("making", folder)(error));
    };
    let mut name = name.to_owned();
    name.push(".migrating");
    std::fs::create_dir_all(parent(folder)).map_err(MigrateError::io("making", parent(folder)))?;
    Ok(parent(folder).join(name))
}

/// Makes an empty folder, in place of what an earlier migration left when it was stopped.
fn clear(folder: &Path) -> Result<File, MigrateError> {
    let io = |what| MigrateError::io(what, folder);
    let mark = folder.join(UNDER_WAY);
    if folder.exists() && !mark.is_file() {
        return Err(MigrateError::InTheWay(folder.to_owned()));
    }
    std::fs::create_dir_all(folder).map_err(io("making"))?;
    let file = File::create(&mark).map_err(io("marking"))?;
    if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
        return Err(MigrateError::UnderWay(folder.to_owned()));
    }
    for entry in std::fs::read_dir(folder).map_err(io("clearing"))? {
        let path = entry.map_err(io("clearing"))?.path();
        if path != mark {
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
                .map_err(io("clearing"))?;
        }
    }
    Ok(file)
}

/// Founds a member in `folder` and lets it take everything.
fn fill(folder: &Path, target: &Target, prepared: &Prepared) -> Result<(), MigrateError> {
    let mut config = quorate_member::Config::new(target.name.clone());
    config.data_dir = Some(folder.to_owned());
    config.listen_peer = vec![([127, 0, 0, 1], 0).into()];
    config.advertise_peer_urls = vec![target.peer_url.clone()];
    config.request_bytes_max = COMMAND_BYTES_MAX;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(MigrateError::io("starting a runtime for", folder))?;
    let member = quorate_member::start(config)?;
    let handle = member.handle();
    let taken = runtime.block_on(async {
        leads(&handle).await?;
        for command in prepared.tree_commands() {
            take(&handle, ModelId::TREE, tree::encode(&command)).await?;
        }
        for command in &prepared.keys {
            take(&handle, ModelId::KEYS, keys::encode(command)).await?;
        }
        handle.checkpoint().await?;
        Ok(())
    });
    member.stop();
    taken
}

async fn leads(handle: &Handle) -> Result<(), MigrateError> {
    let deadline = tokio::time::Instant::now() + LEADS_WITHIN;
    loop {
        match handle.read_index().await {
            Ok(_) => return Ok(()),
            Err(error @ RequestError::Stopped { .. }) => return Err(error.into()),
            Err(error) if tokio::time::Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn take(handle: &Handle, model: ModelId, command: Bytes) -> Result<(), MigrateError> {
    let reply = loop {
        match handle.propose(model, command.clone()).await {
            Ok(applied) => break applied.reply,
            // Nothing happened: a checkpoint has to make room first.
            Err(RequestError::Overloaded) => tokio::time::sleep(LOOK).await,
            Err(error) => return Err(error.into()),
        }
    };
    let reason = match reply {
        ModelReply::Tree(tree::Reply::Refused { error, .. }) => error.to_string(),
        ModelReply::Keys(keys::Reply::Refused { error, .. }) => format!("{error:?}"),
        _ => return Ok(()),
    };
    Err(MigrateError::Refused { reason })
}
