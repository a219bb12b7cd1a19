//! The command line, the variables and the files of etcd 0.4, and the machine that they describe.

mod help;
pub mod table;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use quorate::etcd2::{ClusterSettings, Config, ConfigError, TlsFiles};
use quorate::logging::{self, Format};
use tracing::level_filters::LevelFilter;

pub use help::{INTRODUCTION, page, text_of};
pub use values::{SYSTEM_FILE, ValueError, Values};

use values::split_list;

/// Why a machine can't be started with what was given.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("-name: this host has no name; give the machine one")]
    NoName,
    #[error("-peers-file: cannot read {}: {source}", .path.display())]
    PeersFile { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Less would refuse requests that come in two packets.
const READ_TIMEOUT_SECONDS_MIN: f64 = 0.1;

/// The machine that the values describe, checked.
pub fn machine(values: &Values) -> Result<Config, MachineError> {
    let name = match values.some_text("name") {
        Some(name) => name.to_owned(),
        None => host_name().ok_or(MachineError::NoName)?,
    };
    let text = |name: &str| values.some_text(name).map(str::to_owned);
    let mut config = Config::new(name);
    if let Some(folder) = values.some_text("data-dir") {
        config.data_dir = folder.into();
    }
    values.text("addr").clone_into(&mut config.addr);
    values.text("peer-addr").clone_into(&mut config.peer_addr);
    config.bind_addr = text("bind-addr");
    config.peer_bind_addr = text("peer-bind-addr");
    config.peers = match values.some_text("peers-file") {
        Some(path) => {
            let listed = std::fs::read_to_string(path)
                .map_err(|source| MachineError::PeersFile { path: path.into(), source })?;
            split_list(&listed)
        }
        None => values.list("peers"),
    };
    config.discovery = text("discovery");
    config.client_tls = files(values, "");
    config.peer_tls = files(values, "peer-");
    config.cors = values.list("cors");
    config.join_attempts = values.count("max-retry-attempts");
    config.join_interval = Duration::from_secs_f64(values.seconds("retry-interval"));
    config.checkpoint_entries = values.count("snapshot-count").max(1);
    config.heartbeat_interval = Duration::from_millis(values.count("peer-heartbeat-interval"));
    config.election_timeout = Duration::from_millis(values.count("peer-election-timeout"));
    config.cluster = ClusterSettings {
        active_size: values.count("cluster-active-size"),
        promote_delay_seconds: values.seconds("cluster-remove-delay"),
        sync_interval_seconds: values.seconds("cluster-sync-interval"),
    };
    config.forward = values.bool("forward");
    config.history_events = Some(values.count("history-window")).filter(|events| *events > 0);
    config.read_timeout =
        Duration::from_secs_f64(values.seconds("http-read-timeout").max(READ_TIMEOUT_SECONDS_MIN));
    config.check()?;
    Ok(config)
}

fn files(values: &Values, prefix: &str) -> TlsFiles {
    let path = |name: &str| values.some_text(&format!("{prefix}{name}")).map(Into::into);
    TlsFiles { ca: path("ca-file"), cert: path("cert-file"), key: path("key-file") }
}

/// The host's name, if it has one.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Where the machine logs to, and how much.
#[must_use]
pub fn log(values: &Values) -> logging::Settings {
    let wants_details = ["v", "vv", "vvv"].into_iter().any(|name| values.bool(name));
    logging::Settings {
        level: if wants_details { LevelFilter::DEBUG } else { LevelFilter::INFO },
        format: Format::Console,
        outputs: vec!["stderr".to_owned()],
        rotation: None,
    }
}
