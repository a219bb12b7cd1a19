//! What the values of `quorate server` come to: the settings of a member and of its log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::logging::{self, Format, Rotation, RotationError};
use quorate::{
    ClientLimits, Config, ConfigError, InitialState, TlsError, TlsSettings, TlsVersion, TlsVersions,
};
use tracing::level_filters::LevelFilter;

use super::auto_compaction::{self, RetentionError};
use super::config_file::{self, FileError};
use super::environment::{self, BadVariable};
use super::values::{NotSupportedYet, Values};
use crate::{Notice, Severity};

/// The variable that names a configuration file where no flag does.
const FILE_VARIABLE: &str = "ETCD_CONFIG_FILE";

/// Why a member can't be started with what was given.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Variable(#[from] BadVariable),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    NotSupportedYet(#[from] NotSupportedYet),
    #[error("advertise-client-urls is required when listen-client-urls is set explicitly")]
    NotAdvertised,
    #[error(transparent)]
    Retention(#[from] RetentionError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Everything that one process needs to know.
#[derive(Debug)]
pub struct Settings {
    pub config: Config,
    pub log: logging::Settings,
    pub notices: Vec<Notice>,
}

impl Settings {
    /// Completes the flags from the environment, or replaces both by the configuration file, and checks the result.
    pub fn gather(
        mut values: Values,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let variables: Vec<(String, String)> = variables.into_iter().collect();
        let file = match values.text("config-file") {
            path if path.is_empty() => {
                let named = variables.iter().find(|(name, _)| name == FILE_VARIABLE);
                named.map(|(_, path)| path.clone()).unwrap_or_default()
            }
            path => path,
        };
        if file.is_empty() {
            environment::apply(&mut values, variables)?;
            return Self::of(&values);
        }
        let mut settings = Self::of(&config_file::read(Path::new(&file))?)?;
        settings.notices.push(Notice {
            severity: Severity::Info,
            text: format!("settings come from {file}; other flags and variables are ignored"),
        });
        Ok(settings)
    }

    /// The settings that the text of a configuration file stands for; `path` is how errors name it.
    pub fn in_text(text: &str, path: &Path) -> Result<Self, SettingsError> {
        Self::of(&config_file::parse(text, path)?)
    }

    fn of(values: &Values) -> Result<Self, SettingsError> {
        let mut notices = values.review()?;
        if values.is_given("log-rotation-config-json") && !values.bool("enable-log-rotation") {
            notices.push(Notice {
                severity: Severity::Warning,
                text: "--log-rotation-config-json has no effect without --enable-log-rotation".to_owned(),
            });
        }
        let config = config(values)?;
        config.check()?;
        Ok(Self { config, log: log_settings(values)?, notices })
    }
}

fn config(values: &Values) -> Result<Config, SettingsError> {
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
        .auto_compaction(auto_compaction::rule(
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
        return Err(SettingsError::NotAdvertised);
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
        json_gateway: values.bool("enable-grpc-gateway"),
    }
}

/// The TLS settings of the port whose flags start with `prefix`.
fn tls(values: &Values, prefix: &str) -> Result<TlsSettings, TlsError> {
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
        check_addresses: peer && !values.bool("peer-skip-client-san-verification"),
        crl_file: path(if peer { "crl-file" } else { "client-crl-file" }),
        cipher_suites: values.list("cipher-suites"),
        versions: TlsVersions {
            min: version("tls-min-version", TlsVersion::Tls12)?,
            max: version("tls-max-version", TlsVersion::Tls13)?,
        },
        self_signed_years: u32::try_from(values.uint("self-signed-cert-validity")).unwrap_or(u32::MAX),
    })
}

fn log_settings(values: &Values) -> Result<logging::Settings, RotationError> {
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
