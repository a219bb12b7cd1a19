//! `payment_channel_storage_server`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use quorate_tls::Settings as PortTls;

use super::document::{Findings, Section, SettingsError};
use super::settings::TlsFiles;
use crate::cluster::{self, Founder};
use crate::config::Config;
use crate::url::Url;

const SECTION: &str = "payment_channel_storage_server";

/// What a server logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

impl FromStr for LogLevel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_lowercase().as_str() {
            "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            _ => Err(()),
        }
    }
}

impl LogLevel {
    #[must_use]
    pub fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

/// The member that a daemon runs inside itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Whether it is to run.
    pub enabled: bool,
    /// The member's name.
    pub id: String,
    /// `https` rather than `http`, for clients and for peers.
    pub tls: bool,
    /// Where it listens, and what others are told.
    pub host: String,
    /// 0 takes a free one.
    pub client_port: u16,
    /// 0 takes a free one, where the member is alone.
    pub peer_port: u16,
    /// Keeps clusters apart that are founded with equal `cluster` texts.
    pub token: String,
    /// The founding members, with full URLs; `None`: this one alone.
    pub cluster: Option<String>,
    /// How long it may take until it serves.
    pub startup_timeout: Duration,
    pub data_dir: PathBuf,
    pub log_level: LogLevel,
    /// `stderr`, `stdout`, or files that are appended to.
    pub log_outputs: Vec<String>,
    pub tls_files: TlsFiles,
}

impl fmt::Display for ServerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.id, self.url(self.client_port))
    }
}

pub(super) fn read(
    section: &mut Section<'_>,
    there: bool,
    tls_files: &TlsFiles,
    findings: &mut Findings,
) -> ServerSettings {
    let text = |section: &mut Section<'_>, name, default: &str, findings: &mut Findings| {
        section.text(name, findings).unwrap_or_else(|| default.to_owned())
    };
    let mut settings = ServerSettings {
        // A section that does not say otherwise is there to be used.
        enabled: section.flag("enabled", findings).unwrap_or(there),
        id: text(section, "id", "storage-1", findings),
        tls: scheme(section, findings),
        host: text(section, "host", "127.0.0.1", findings),
        client_port: section.port("client_port", findings).unwrap_or(2379),
        peer_port: section.port("peer_port", findings).unwrap_or(2380),
        token: text(section, "token", "unique-token", findings),
        cluster: section.text("cluster", findings),
        startup_timeout: section.duration("startup_timeout", findings).unwrap_or(Duration::from_secs(60)),
        data_dir: PathBuf::from(text(section, "data_dir", "storage-data-dir-1.etcd", findings)),
        log_level: log_level(section, findings),
        log_outputs: section.list("log_outputs", findings).unwrap_or_else(|| vec!["stderr".to_owned()]),
        tls_files: tls_files.clone(),
    };
    section.report_unknown(findings, |_| true);
    settings.cluster = settings.full_cluster(findings);
    settings.check(findings);
    settings
}

/// `scheme`, which the documentation calls `schema`.
fn scheme(section: &mut Section<'_>, findings: &mut Findings) -> bool {
    let mut read = |name| section.text(name, findings).map(|text| text.to_lowercase());
    let (schema, scheme) = (read("schema"), read("scheme"));
    let field = section.name_of(if schema.is_some() { "schema" } else { "scheme" });
    if let (Some(one), Some(other)) = (&schema, &scheme)
        && one != other
    {
        findings.problem(&field, format!("it says {one} and scheme says {other}: keep one of the two"));
    }
    match schema.or(scheme).as_deref() {
        None | Some("http") => false,
        Some("https") => true,
        Some(other) => {
            findings.problem(field, format!("{other:?} is neither http nor https"));
            false
        }
    }
}

fn log_level(section: &mut Section<'_>, findings: &mut Findings) -> LogLevel {
    let Some(text) = section.text("log_level", findings) else { return LogLevel::default() };
    text.parse().unwrap_or_else(|()| {
        let reason = format!("{text:?} is no level: write error, warning, info or debug");
        findings.problem(section.name_of("log_level"), reason);
        LogLevel::default()
    })
}

impl ServerSettings {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn url(&self, port: u16) -> String {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{}://{host}:{port}", self.scheme())
    }

    /// Checks the settings as they are now, also those that a program has changed: the error names each field that can't
    /// be used, and what to do.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut findings = Findings::default();
        self.full_cluster(&mut findings);
        self.check(&mut findings);
        findings.problems()
    }

    fn check(&self, findings: &mut Findings) {
        self.check_addresses(findings);
        let blanks = [
            ("id", self.id.trim().is_empty()),
            ("token", self.token.is_empty()),
            ("data_dir", self.data_dir.as_os_str().is_empty()),
            ("log_outputs", self.log_outputs.iter().all(|output| output.is_empty())),
        ];
        for (name, _) in blanks.iter().filter(|(_, blank)| *blank) {
            findings.problem(
                format!("{SECTION}.{name}"),
                "it is empty: give it, or leave it out for its default",
            );
        }
        if self.startup_timeout.is_zero() {
            findings.problem(
                format!("{SECTION}.startup_timeout"),
                "it is zero, and no server starts in no time: write one such as 1m",
            );
        }
        if self.tls && self.enabled {
            let alone = self.cluster.as_deref().is_none_or(|cluster| !cluster.contains(','));
            self.tls_files.check_serving(!alone, findings);
        }
        if findings.problems.is_empty()
            && self.enabled
            && let Err(error) = self.config().check()
        {
            findings.problem(SECTION, error.to_string());
        }
    }

    fn check_addresses(&self, findings: &mut Findings) {
        let field = |name: &str| format!("{SECTION}.{name}");
        if self.id.contains([',', '=']) {
            findings.problem(field("id"), "it must not hold ',' or '=', which cluster uses");
        }
        let listens = Url::parse(&self.url(self.client_port)).and_then(|url| url.listen_addr());
        if listens.is_err() {
            let reason = format!("{:?} can't be listened on: write an IP address or localhost", self.host);
            findings.problem(field("host"), reason);
        }
        if self.client_port == self.peer_port && self.client_port != 0 {
            let reason = format!("{} is the client_port too: write another free port", self.peer_port);
            findings.problem(field("peer_port"), reason);
        }
    }

    /// The founding members with full URLs, once all is well with them.
    fn full_cluster(&self, findings: &mut Findings) -> Option<String> {
        let text = self.cluster.as_deref()?;
        let field = format!("{SECTION}.cluster");
        let full: Vec<String> = text.split(',').map(|pair| self.full_pair(pair.trim())).collect();
        let full = full.join(",");
        let founders = match cluster::parse(&full) {
            Ok(founders) => founders,
            Err(error) => {
                let reason = format!("{error}: write id=host:peer_port for each member, separated by commas");
                findings.problem(field, reason);
                return None;
            }
        };
        if let Some(twice) = founders.iter().find(|founder| founder.peer_urls.len() > 1) {
            findings.problem(field, format!("the id {} is given twice: each member has its own", twice.name));
            return None;
        }
        let Some(own) = founders.iter().find(|founder| founder.name == self.id) else {
            let names: Vec<&str> = founders.iter().map(|founder| &founder.name[..]).collect();
            let reason = format!(
                "there is no {} in it, which is this server's id: it has {}",
                self.id,
                names.join(", ")
            );
            findings.problem(field, reason);
            return None;
        };
        if self.peer_port == 0 {
            if founders.len() > 1 {
                let reason =
                    "0 takes any free port, and the other members have to know it: write the one in cluster";
                findings.problem(format!("{SECTION}.peer_port"), reason);
            }
            return None;
        }
        self.check_own(own, findings);
        Some(full)
    }

    fn full_pair(&self, pair: &str) -> String {
        match pair.split_once('=') {
            Some((id, address)) if !address.contains("://") && !address.trim().is_empty() => {
                format!("{}={}://{}", id.trim(), self.scheme(), address.trim())
            }
            _ => pair.to_owned(),
        }
    }

    /// What the cluster says of this member has to be where it listens.
    fn check_own(&self, own: &Founder, findings: &mut Findings) {
        let Some(said) = own.peer_urls.first() else { return };
        let same = match (said, Url::parse(&self.url(self.peer_port))) {
            (Url::Tcp { tls, host, port }, Ok(Url::Tcp { host: listened, .. })) => {
                let local =
                    |host: &str| if host == "localhost" { "127.0.0.1".to_owned() } else { host.to_owned() };
                let everywhere = matches!(&listened[..], "0.0.0.0" | "::");
                *tls == self.tls && *port == self.peer_port && (everywhere || local(host) == local(&listened))
            }
            _ => true,
        };
        if !same {
            let reason = format!(
                "it says that {} is at {said}, but schema, host and peer_port say {}: make them the same",
                self.id,
                self.url(self.peer_port)
            );
            findings.problem(format!("{SECTION}.cluster"), reason);
        }
    }

    /// The member's settings.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new(&self.id)
            .data_dir(&self.data_dir)
            .listen_client_urls([self.url(self.client_port)])
            .listen_peer_urls([self.url(self.peer_port)])
            .initial_cluster_token(&self.token);
        if let Some(text) = &self.cluster {
            config = config.initial_cluster(text);
            let founders = cluster::parse(text).unwrap_or_default();
            if let Some(own) = founders.into_iter().find(|founder| founder.name == self.id) {
                if let Some(Url::Tcp { host, .. }) = own.peer_urls.first()
                    && self.client_port != 0
                {
                    let advertised = Self { host: host.clone(), ..self.clone() };
                    config = config.advertise_client_urls([advertised.url(self.client_port)]);
                }
                config = config.advertise_peer_urls(own.peer_urls.iter().map(ToString::to_string));
            }
        }
        if self.tls {
            let files = PortTls {
                cert_file: self.tls_files.cert.clone(),
                key_file: self.tls_files.key.clone(),
                trusted_ca_file: self.tls_files.ca.clone(),
                ..PortTls::default()
            };
            config = config.client_tls(files.clone()).peer_tls(files);
        }
        config
    }
}
