//! `quorate etcd2`: one machine of a cluster, with the command line, the variables and the files of etcd 0.4.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use quorate::etcd2::{Config, Ended, Server, wipe};
use quorate_settings::etcd2::{SYSTEM_FILE, Values, log, machine, page};
use quorate_settings::{Notice, Severity};
use tracing::{error, info, warn};

use crate::logging;
use crate::print;
use crate::process::{self, StopSignals};

/// Runs the command. `chosen` says why it runs, where the program's name decided.
pub fn main(arguments: &[String], chosen: Option<Notice>) -> ExitCode {
    let values = match Values::gather(arguments, process::variables(), Path::new(SYSTEM_FILE)) {
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
    values.older_names().iter().for_each(|older| eprintln!("{older}"));
    let config = match machine(&values) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("quorate etcd2: {error}\nRun 'quorate etcd2 -help' for the flags.");
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

fn run(values: &Values, config: &Config, chosen: Option<Notice>) -> anyhow::Result<ExitCode> {
    if let Err(error) = logging::install(&log(values)) {
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
    process::raise_open_files();
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
