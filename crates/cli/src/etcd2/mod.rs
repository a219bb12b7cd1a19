//! `quorate etcd2`: one machine of a cluster, with the command line, the variables and the files of etcd 0.4.

mod help;
pub mod table;
mod values;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use quorate::etcd2::{ClusterSettings, Config, Ended, Server, TlsFiles, wipe};
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use self::values::{SYSTEM_FILE, Values, split_list};
use crate::flags::{Notice, Severity};
use crate::logging::{self, Format};
use crate::print;
use crate::process::{self, StopSignals};

pub use help::{INTRODUCTION, page, text_of};

/// Runs the command. `chosen` says why it runs, where the program's name decided.
pub fn main(arguments: &[String], chosen: Option<Notice>) -> ExitCode {
    let variables = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let values = match Values::gather(arguments, variables, Path::new(SYSTEM_FILE)) {
        Ok(values) => values,
        // As etcd 0.4: the page, then what is wrong.
        Err(error) => {
            eprintln!("{}\n{error}", page());
            return ExitCode::FAILURE;
        }
    };
    if values.bool("help") || values.bool("h") {
        return print::text(&page());
    }
    if values.bool("version") {
        return print::line(&crate::version::text());
    }
    let settings = config(&values).and_then(|config| {
        config.check()?;
        Ok(config)
    });
    let config = match settings {
        Ok(config) => config,
        Err(error) => {
            eprintln!("quorate etcd2: {error:#}\nRun 'quorate etcd2 -help' for the flags.");
            return ExitCode::FAILURE;
        }
    };
    match run(&values, &config, chosen) {
        Ok(status) => status,
        Err(error) => {
            error!("the machine stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Less would refuse requests that come in two packets.
const READ_TIMEOUT_SECONDS_MIN: f64 = 0.1;

fn config(values: &Values) -> anyhow::Result<Config> {
    let name = match values.some_text("name") {
        Some(name) => name.to_owned(),
        None => host_name().context("-name: this host has no name; give the machine one")?,
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
            let listed =
                std::fs::read_to_string(path).with_context(|| format!("-peers-file: cannot read {path}"))?;
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

fn log_settings(values: &Values) -> logging::Settings {
    let wants_details = ["v", "vv", "vvv"].into_iter().any(|name| values.bool(name));
    logging::Settings {
        level: if wants_details { LevelFilter::DEBUG } else { LevelFilter::INFO },
        format: Format::Console,
        outputs: vec!["stderr".to_owned()],
        rotation: None,
    }
}

fn run(values: &Values, config: &Config, chosen: Option<Notice>) -> anyhow::Result<ExitCode> {
    if let Err(error) = logging::install(&log_settings(values)) {
        eprintln!("quorate etcd2: {error}");
        return Ok(ExitCode::FAILURE);
    }
    for notice in chosen.iter().chain(values.notices()) {
        match notice.severity {
            Severity::Info => info!("{}", notice.text),
            Severity::Warning => warn!("{}", notice.text),
        }
    }
    if values.bool("f") || values.bool("force") {
        warn!("starting afresh, as asked: what {} holds is removed", config.data_dir.display());
        wipe(&config.data_dir)?;
    }
    process::runtime()?.block_on(async {
        let mut signals = StopSignals::install()?;
        let starting = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || Server::start(&config))
        };
        let server = tokio::select! {
            started = starting => started.context("starting the machine")??,
            signal = signals.next() => {
                info!("received {signal} before the machine was part of a cluster; leaving");
                // Nothing was promised yet, and the thread that waits for the peers can't be told to stop.
                std::process::exit(0);
            }
        };
        info!(
            name = config.name,
            member = %server.member_id(),
            cluster = %server.cluster_id(),
            peers = ?server.peer_addrs(),
            clients = ?server.client_addrs(),
            "machine started"
        );
        serve(server, &mut signals).await
    })
}

async fn serve(server: Server, signals: &mut StopSignals) -> anyhow::Result<ExitCode> {
    let ended = tokio::select! {
        ended = async {
            match server.ready().await {
                Ok(()) => {
                    info!("ready to serve client requests");
                    process::notify_ready();
                    server.stopped().await
                }
                Err(ended) => ended,
            }
        } => ended,
        signal = signals.next() => {
            info!("received {signal}; stopping");
            let status = signals.stop_with(server.shutdown()).await;
            info!("stopped");
            return Ok(status);
        }
    };
    signals.stop_with(server.shutdown()).await;
    match ended {
        Ended::Removed => {
            info!("this machine was removed from its cluster; started again, it joins as a new one");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Failed { reason } => {
            error!("the member stopped: {reason}");
            Ok(ExitCode::FAILURE)
        }
    }
}
