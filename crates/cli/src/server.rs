//! `quorate server`: one member, configured by flags, environment or file.

use std::process::ExitCode;

use quorate::Server;
use quorate_settings::server::{self as flags, Reading, Settings};
use quorate_settings::{Notice, Severity};
use tracing::{error, info, warn};

use crate::logging;
use crate::print;
use crate::process::{self, StopSignals};
use crate::snet;
use crate::version;

/// Runs the command. `chosen` says why it runs, where the program's name decided.
pub fn main(arguments: &[String], chosen: Option<Notice>) -> ExitCode {
    let flag_values = match flags::read(arguments) {
        Ok(Reading::Help) => {
            return print::text(&flags::page());
        }
        Ok(Reading::Values(values)) => values,
        Err(error) => {
            eprintln!("quorate server: {error}\n{}", flags::USAGE_HINT);
            return ExitCode::from(error.exit_status());
        }
    };
    if flag_values.bool("version") {
        return print::line(&version::text());
    }
    if let Some(file) = snet::file(&flag_values) {
        return snet::main(&file, &flag_values);
    }
    let settings = match Settings::gather(flag_values, process::variables()) {
        Ok(mut settings) => {
            settings.notices.extend(chosen);
            settings
        }
        Err(error) => {
            eprintln!("quorate server: {error}\n{}", flags::USAGE_HINT);
            return ExitCode::FAILURE;
        }
    };
    match run(settings) {
        Ok(status) => status,
        Err(error) => {
            error!("the member stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    if let Err(error) = logging::install(&settings.log) {
        eprintln!("quorate server: {error}");
        return Ok(ExitCode::FAILURE);
    }
    for notice in &settings.notices {
        match notice.severity {
            Severity::Info => info!("{}", notice.text),
            Severity::Warning => warn!("{}", notice.text),
        }
    }
    let name = settings.config.name().to_owned();
    process::raise_open_files();
    process::runtime()?.block_on(async {
        let mut signals = StopSignals::install()?;
        let server = Server::start(settings.config)?;
        info!(
            name,
            member = %server.member_id(),
            cluster = %server.cluster_id(),
            peers = ?server.peer_addrs(),
            clients = ?server.client_addrs(),
            "member started"
        );
        tokio::select! {
            ready = server.ready() => {
                ready?;
                info!("ready to serve client requests");
                process::notify_ready();
            }
            signal = signals.next() => {
                info!("received {signal} before a leader was known; stopping");
                return Ok(signals.stop_with(server.shutdown()).await);
            }
        }
        tokio::select! {
            signal = signals.next() => info!("received {signal}; stopping"),
            stopped = server.stopped() => {
                if stopped.removed {
                    info!("{stopped}");
                } else {
                    error!("{stopped}");
                }
                signals.stop_with(server.shutdown()).await;
                // As etcd's: who restarts what failed must not restart a member that was removed.
                return Ok(if stopped.removed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
        let status = signals.stop_with(server.shutdown()).await;
        info!("stopped");
        Ok(status)
    })
}
