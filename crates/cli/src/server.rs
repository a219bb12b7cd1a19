//! `quorate server`: one member, configured by flags, environment or file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use quorate::{ClientLimits, Config, InitialState, Server, TlsSettings, TlsVersion, TlsVersions};
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use crate::flags::{self, Notice, Reading, Severity, Values};
use crate::logging::{self, Format, Rotation};
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
    let settings = match Settings::gather(flag_values) {
        Ok(mut settings) => {
            settings.notices.extend(chosen);
            settings
        }
        Err(error) => {
            eprintln!("quorate server: {error:#}\n{}", flags::USAGE_HINT);
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

/// Everything that one process needs to know.
#[derive(Debug)]
struct Settings {
    config: Config,
    log: logging::Settings,
    notices: Vec<Notice>,
}

impl Settings {
    /// Completes the flags from the environment, or replaces both by the configuration file, and checks the result.
    fn gather(mut values: Values) -> anyhow::Result<Self> {
        let file = match values.text("config-file") {
            path if path.is_empty() => std::env::var("ETCD_CONFIG_FILE").unwrap_or_default(),
            path => path,
        };
        if file.is_empty() {
            flags::apply_environment(&mut values, utf8_environment())?;
        } else {
            values = flags::read_config_file(Path::new(&file))?;
        }
        let mut notices = values.review()?;
        if !file.is_empty() {
            notices.push(Notice {
                severity: Severity::Info,
                text: format!("settings come from {file}; other flags and variables are ignored"),
            });
        }
        if values.is_given("log-rotation-config-json") && !values.bool("enable-log-rotation") {
            notices.push(Notice {
                severity: Severity::Warning,
                text: "--log-rotation-config-json has no effect without --enable-log-rotation".to_owned(),
            });
        }
        let config = config(&values)?;
        config.check()?;
        Ok(Self { config, log: log_settings(&values)?, notices })
    }
}

fn utf8_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
}

fn config(values: &Values) -> anyhow::Result<Config> {
    let size = |name: &str| usize::try_from(values.uint(name)).unwrap_or(usize::MAX);
    let mut config = Config::new(values.text("name"))
        .listen_client_urls(values.list("listen-client-urls"))
        .listen_peer_urls(values.list("listen-peer-urls"))
        .advertise_peer_urls(values.list("initial-advertise-peer-urls"))
        .initial_cluster(values.text("initial-cluster"))
        .initial_cluster_token(values.text("initial-cluster-token"))
        .heartbeat_interval(Duration::from_millis(values.uint("heartbeat-interval")))
        .election_timeout(Duration::from_millis(values.uint("election-timeout")))
        .pre_vote(values.bool("pre-vote"))
        .request_bytes_max(size("max-request-bytes"))
        .txn_ops_max(size("max-txn-ops"))
        .strict_reconfig_check(values.bool("strict-reconfig-check"))
        .learners_max(usize::try_from(values.int("max-learners")).unwrap_or(0))
        .checkpoint_entries(values.uint("snapshot-count"))
        .auto_compaction(crate::auto_compaction::rule(
            &values.text("auto-compaction-mode"),
            &values.text("auto-compaction-retention"),
        )?)
        .metrics_extensive(values.text("metrics") == "extensive")
        .enable_v2(values.bool("enable-v2"))
        .v2_history_events(values.uint("v2-history-window"))
        .client_limits(client_limits(values))
        .client_tls(tls(values, "")?)
        .peer_tls(tls(values, "peer-")?)
        .promote_learners(values.bool("promote-learners"))
        .give_up_data(values.bool("give-up-data"));
    // 0 is etcd's default, which a new configuration has already; what is below means none.
    let quota = values.int("quota-backend-bytes");
    if quota != 0 {
        config = config.quota_bytes(u64::try_from(quota).ok());
    }
    // As in etcd: who says where to listen also says what to tell clients, because the two often differ.
    if values.is_given("listen-client-urls") && !values.is_given("advertise-client-urls") {
        anyhow::bail!("advertise-client-urls is required when listen-client-urls is set explicitly");
    }
    config = config.advertise_client_urls(values.list("advertise-client-urls"));
    if values.text("initial-cluster-state") == "existing" {
        config = config.initial_state(InitialState::Existing);
    }
    let data_dir = values.text("data-dir");
    if !data_dir.is_empty() {
        config = config.data_dir(data_dir);
    }
    let wal_dir = values.text("wal-dir");
    if !wal_dir.is_empty() {
        config = config.wal_dir(wal_dir);
    }
    Ok(config)
}

fn client_limits(values: &Values) -> ClientLimits {
    let streams = values.uint("max-concurrent-streams");
    ClientLimits {
        watch_progress_interval: values.duration("watch-progress-notify-interval"),
        keepalive_interval: values.duration("grpc-keepalive-interval"),
        keepalive_timeout: values.duration("grpc-keepalive-timeout"),
        // etcd's default is no bound at all; the listener has one of its own.
        streams_max: u32::try_from(streams).ok().filter(|&streams| streams != u32::MAX),
        reuse_port: values.bool("socket-reuse-port"),
    }
}

/// The TLS settings of the port whose flags start with `prefix`.
fn tls(values: &Values, prefix: &str) -> anyhow::Result<TlsSettings> {
    let peer = !prefix.is_empty();
    let path = |name: &str| {
        let text = values.text(&format!("{prefix}{name}"));
        (!text.is_empty()).then(|| PathBuf::from(text))
    };
    let version = |setting: &'static str, default| match values.text(setting) {
        text if text.is_empty() => Ok(default),
        text => TlsVersion::parse(setting, &text),
    };
    Ok(TlsSettings {
        cert_file: path("cert-file"),
        key_file: path("key-file"),
        client_cert_file: path("client-cert-file").filter(|_| peer),
        client_key_file: path("client-key-file").filter(|_| peer),
        trusted_ca_file: path("trusted-ca-file"),
        client_cert_auth: values.bool(&format!("{prefix}client-cert-auth")),
        auto: values.bool(&format!("{prefix}auto-tls")),
        allowed_common_names: if peer { values.list("peer-cert-allowed-cn") } else { Vec::new() },
        allowed_hostnames: values.list(if peer {
            "peer-cert-allowed-hostname"
        } else {
            "client-cert-allowed-hostname"
        }),
        crl_file: path(if peer { "crl-file" } else { "client-crl-file" }),
        cipher_suites: values.list("cipher-suites"),
        versions: TlsVersions {
            min: version("tls-min-version", TlsVersion::Tls12)?,
            max: version("tls-max-version", TlsVersion::Tls13)?,
        },
        self_signed_years: u32::try_from(values.uint("self-signed-cert-validity")).unwrap_or(u32::MAX),
    })
}

fn log_settings(values: &Values) -> anyhow::Result<logging::Settings> {
    let level = match values.text("log-level").as_str() {
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "panic" | "fatal" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let format = if values.text("log-format") == "console" { Format::Console } else { Format::Json };
    let outputs = values.list("log-outputs");
    let rotation = match values.bool("enable-log-rotation") {
        true => Some(Rotation::parse(&values.text("log-rotation-config-json"), &outputs)?),
        false => None,
    };
    Ok(logging::Settings { level, format, outputs, rotation })
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
