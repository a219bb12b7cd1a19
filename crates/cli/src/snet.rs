//! `quorate server --snet-config`: the member that an snet-daemon's configuration describes, as a process of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use quorate::snet::{EmbeddedServer, Settings, Sources};
use tracing::{error, info, warn};

use crate::logging::{self, Format};
use crate::process::{self, StopSignals};
use quorate_settings::server::{self as flags, Values};

const FLAG: &str = "snet-config";
const VARIABLE: &str = "QUORATE_SNET_CONFIG";

/// The configuration file, where one is given.
pub fn file(values: &Values) -> Option<PathBuf> {
    let named = Some(values.text(FLAG)).filter(|text| !text.is_empty());
    named.map(PathBuf::from).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from))
}

/// Runs the member.
pub fn main(file: &Path, values: &Values) -> ExitCode {
    let refuse = |what: &str| {
        eprintln!("quorate server: {what}");
        ExitCode::FAILURE
    };
    if let Some(other) = flags::all().find(|flag| flag.name != FLAG && values.is_given(flag.name)) {
        return refuse(&format!(
            "--{} can't be given together with --{FLAG}: the member is as {} describes it",
            other.name,
            file.display()
        ));
    }
    let read =
        Sources::file(file).and_then(|sources| Settings::read(&sources.variables(process::variables())));
    let settings = match read {
        Ok(settings) => settings,
        Err(error) => return refuse(&format!("{} can't be used:\n{error}", file.display())),
    };
    if !settings.server.enabled {
        return refuse(&format!(
            "{}: payment_channel_storage_server is not there or not enabled; set its enabled to true",
            file.display()
        ));
    }
    let log = logging::Settings {
        level: settings.server.log_level.filter(),
        format: Format::Console,
        outputs: settings.server.log_outputs.clone(),
        rotation: None,
    };
    if let Err(error) = logging::install(&log) {
        return refuse(&error.to_string());
    }
    match run(&settings) {
        Ok(status) => status,
        Err(error) => {
            error!("the member stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    for notice in &settings.notices {
        warn!("{notice}");
    }
    let log = tracing::dispatcher::get_default(Clone::clone);
    process::raise_open_files();
    process::runtime()?.block_on(async {
        let mut signals = StopSignals::install()?;
        let server = tokio::select! {
            started = EmbeddedServer::start_with_log(&settings.server, log) => started?,
            signal = signals.next() => {
                info!("received {signal} before the member served; stopping");
                return Ok(ExitCode::SUCCESS);
            }
        };
        info!("ready to serve client requests");
        process::notify_ready();
        tokio::select! {
            signal = signals.next() => info!("received {signal}; stopping"),
            stopped = server.stopped() => {
                signals.stop_with(server.stop()).await;
                if stopped.removed {
                    info!("{stopped}");
                    return Ok(ExitCode::SUCCESS);
                }
                error!("{stopped}");
                return Ok(ExitCode::FAILURE);
            }
        }
        let status = signals.stop_with(server.stop()).await;
        info!("stopped");
        Ok(status)
    })
}
