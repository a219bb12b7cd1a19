//! `payment_channel_storage_client`.

use std::time::Duration;

use super::document::{Findings, Section, SettingsError};
use super::endpoints;
use super::settings::TlsFiles;

const CONNECTION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:2379";

/// How the storage is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// How long one connection may take.
    pub connection_timeout: Duration,
    /// How long one request may take, with all attempts.
    pub request_timeout: Duration,
    /// Each with its scheme.
    pub endpoints: Vec<String>,
    /// Whether the daemon changes the endpoints when its organization does: it listens for that, and calls
    /// `set_endpoints` of the storage.
    pub hot_reload: bool,
    /// What `https://` endpoints are checked with, and what is shown to them.
    pub tls: TlsFiles,
}

impl ClientSettings {
    /// Checks the settings as they are now, also those that a program has changed: the error names each field that can't
    /// be used, and what to do.
    pub fn validate(&self) -> Result<(), SettingsError> {
        const SECTION: &str = "payment_channel_storage_client";
        let mut findings = Findings::default();
        let field = |name: &str| format!("{SECTION}.{name}");
        for (name, timeout) in
            [("connection_timeout", self.connection_timeout), ("request_timeout", self.request_timeout)]
        {
            if timeout.is_zero() {
                findings
                    .problem(field(name), "it is zero, and nothing is done in no time: write one such as 5s");
            }
        }
        if self.endpoints.is_empty() {
            findings.problem(field("endpoints"), "there is none: write one such as http://127.0.0.1:2379");
        }
        let endpoints = endpoints::normalize(&field("endpoints"), &self.endpoints, &mut findings);
        if endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
            self.tls.check_dialling(&field("endpoints"), &mut findings);
        }
        findings.problems()
    }
}

/// What one source says.
#[derive(Debug, Default)]
pub(super) struct Said {
    connection_timeout: Option<Duration>,
    request_timeout: Option<Duration>,
    endpoints: Option<(String, Vec<String>)>,
    hot_reload: Option<bool>,
}

/// Reads the section, of the configuration or of the metadata.
pub(super) fn read(section: &mut Section<'_>, findings: &mut Findings) -> Said {
    let field = section.name_of("endpoints");
    let said = Said {
        connection_timeout: section.duration("connection_timeout", findings),
        request_timeout: section.duration("request_timeout", findings),
        endpoints: section.list("endpoints", findings).map(|endpoints| (field, endpoints)),
        hot_reload: section.flag("hot_reload", findings),
    };
    section.report_unknown(findings, |_| true);
    said
}

/// Configuration beats metadata, metadata beats the defaults.
pub(super) fn merge(
    configuration: Said,
    metadata: Said,
    tls: &TlsFiles,
    findings: &mut Findings,
) -> ClientSettings {
    let (field, endpoints) = configuration.endpoints.or(metadata.endpoints).unwrap_or_else(|| {
        ("payment_channel_storage_client.endpoints".to_owned(), vec![ENDPOINT_DEFAULT.to_owned()])
    });
    let settings = ClientSettings {
        connection_timeout: configuration
            .connection_timeout
            .or(metadata.connection_timeout)
            .unwrap_or(CONNECTION_TIMEOUT_DEFAULT),
        request_timeout: configuration
            .request_timeout
            .or(metadata.request_timeout)
            .unwrap_or(REQUEST_TIMEOUT_DEFAULT),
        endpoints: endpoints::normalize(&field, &endpoints, findings),
        hot_reload: configuration.hot_reload.unwrap_or(false),
        tls: tls.clone(),
    };
    if settings.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        tls.check_dialling(&field, findings);
    }
    settings
}
