//! All settings of the storage, from all sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::{self, ClientSettings};
use super::document::{self, Findings, Section, SettingsError, TYPO_LETTERS_MAX, distance};
use super::server::{self, ServerSettings};

/// The group that a daemon belongs to, if its configuration does not say.
const GROUP_DEFAULT: &str = "default_group";

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    json: String,
    variables: BTreeMap<String, String>,
    metadata: Option<String>,
}

impl Sources {
    /// The text of the daemon's configuration file.
    #[must_use]
    pub fn json(text: impl Into<String>) -> Self {
        Self { json: text.into(), ..Self::default() }
    }

    /// The daemon's configuration file.
    pub fn file(path: &Path) -> Result<Self, SettingsError> {
        std::fs::read_to_string(path).map(Self::json).map_err(|error| {
            let mut findings = Findings::default();
            findings
                .problem(path.display().to_string(), format!("cannot read the configuration file: {error}"));
            SettingsError { problems: findings.problems }
        })
    }

    /// The environment: variables whose names begin with `SNET_` beat the file. `SNET_PAYMENT_CHANNEL_STORAGE_TYPE`, and
    /// `SNET_PAYMENT_CHANNEL_STORAGE_SERVER_ID` for a field of a section (a point before the field will do too).
    #[must_use]
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables.into_iter().map(|(name, text)| (name.to_uppercase(), text));
        self.variables = ours.filter(|(name, _)| name.starts_with("SNET_")).collect();
        self
    }

    /// The organization's metadata, as JSON.
    #[must_use]
    pub fn metadata(mut self, text: impl Into<String>) -> Self {
        self.metadata = Some(text.into());
        self
    }
}

/// Where payment channels are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// `blockchain_enabled` is false: there are none.
    Unused,
    Memory,
    /// In the cluster that the client's settings name.
    Etcd,
}

/// The certificate files of `https://`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `payment_channel_cert_path`
    pub cert: Option<PathBuf>,
    /// `payment_channel_key_path`
    pub key: Option<PathBuf>,
    /// `payment_channel_ca_path`
    pub ca: Option<PathBuf>,
}

const CERT: &str = "payment_channel_cert_path";
const KEY: &str = "payment_channel_key_path";
const CA: &str = "payment_channel_ca_path";

impl TlsFiles {
    fn read(root: &mut Section<'_>, findings: &mut Findings) -> Self {
        let mut path = |name| root.text(name, findings).map(PathBuf::from);
        Self { cert: path(CERT), key: path(KEY), ca: path(CA) }
    }

    /// What an `https://` endpoint needs.
    pub(super) fn check_dialling(&self, field: &str, findings: &mut Findings) {
        if self.ca.is_none() {
            let reason =
                format!("{field} has https:// endpoints: name the CA file that their certificates lead to");
            findings.problem(CA, reason);
        }
        self.check_pair(findings);
        self.check_files(findings);
    }

    /// What a server with `schema: https` needs.
    pub(super) fn check_serving(&self, dials: bool, findings: &mut Findings) {
        const WHY: &str = "payment_channel_storage_server has the schema https";
        if self.cert.is_none() && self.key.is_none() {
            findings
                .problem(CERT, format!("{WHY}: name the server's certificate file, and its key in {KEY}"));
        }
        if dials && self.ca.is_none() {
            let reason =
                format!("{WHY}, and other members: name the CA file that their certificates lead to");
            findings.problem(CA, reason);
        }
        self.check_pair(findings);
        self.check_files(findings);
    }

    fn check_pair(&self, findings: &mut Findings) {
        match (&self.cert, &self.key) {
            (Some(_), None) => findings.problem(KEY, format!("{CERT} is given, so its key is needed too")),
            (None, Some(_)) => {
                findings.problem(CERT, format!("{KEY} is given, so its certificate is needed too"))
            }
            _ => {}
        }
    }

    fn check_files(&self, findings: &mut Findings) {
        for (field, path) in [(CERT, &self.cert), (KEY, &self.key), (CA, &self.ca)] {
            let Some(path) = path else { continue };
            if let Err(error) = std::fs::File::open(path)
                && !findings.problems.iter().any(|known| known.field == field)
            {
                findings.problem(field, format!("cannot read {}: {error}", path.display()));
            }
        }
    }
}

/// What all sources come to.
#[derive(Clone, Debug)]
pub struct Settings {
    pub storage: StorageKind,
    pub client: ClientSettings,
    pub server: ServerSettings,
    /// What is worth a line in the log: keys that are not known, mostly.
    pub notices: Vec<String>,
}

impl Settings {
    /// Checks the settings as they are now, also those that a program has changed: those of the client where there is a
    /// cluster, those of the server where it is enabled.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut problems = Vec::new();
        if self.storage == StorageKind::Etcd {
            problems.extend(self.client.validate().err().into_iter().flat_map(|error| error.problems));
        }
        if self.server.enabled {
            problems.extend(self.server.validate().err().into_iter().flat_map(|error| error.problems));
        }
        if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }) }
    }

    /// Reads and checks everything; the error names each field that can't be used, and what to do.
    pub fn read(sources: &Sources) -> Result<Self, SettingsError> {
        let mut findings = Findings::default();
        let document = document::parse("the configuration", &sources.json, &mut findings);
        let mut root = Section::root(document, &sources.variables);
        let enabled = root.flag("blockchain_enabled", &mut findings).unwrap_or(true);
        let group = root.text("daemon_group_name", &mut findings).unwrap_or_else(|| GROUP_DEFAULT.to_owned());
        let kind = root.text("payment_channel_storage_type", &mut findings);
        let tls = TlsFiles::read(&mut root, &mut findings);
        let (mut client, _) = root.section("payment_channel_storage_client", &mut findings);
        let client = client::read(&mut client, &mut findings);
        let (mut server, there) = root.section("payment_channel_storage_server", &mut findings);
        let server = server::read(&mut server, there, &tls, &mut findings);
        root.report_unknown(&mut findings, is_meant_for_storage);
        report_unknown_variables(&sources.variables, &mut findings);
        let (metadata_kind, metadata_client) = match &sources.metadata {
            Some(text) => metadata(text, &group, &mut findings),
            None => (None, client::Said::default()),
        };
        let client = client::merge(client, metadata_client, &tls, &mut findings);
        let storage = storage_kind(enabled, kind.or(metadata_kind), &mut findings);
        let Findings { problems, notices } = findings;
        if problems.is_empty() {
            Ok(Self { storage, client, server, notices })
        } else {
            Err(SettingsError { problems })
        }
    }
}

fn storage_kind(enabled: bool, text: Option<String>, findings: &mut Findings) -> StorageKind {
    let kind = match text.as_deref() {
        None | Some("etcd") => StorageKind::Etcd,
        Some("memory") => StorageKind::Memory,
        Some(other) => {
            let reason = format!(
                "{other:?} is neither \"etcd\" nor \"memory\": write one of the two, because payments would be lost in \
                 the wrong one"
            );
            findings.problem("payment_channel_storage_type", reason);
            StorageKind::Etcd
        }
    };
    if enabled { kind } else { StorageKind::Unused }
}

/// The document is the whole daemon's; these are the keys of it that can only be meant for the storage.
fn is_meant_for_storage(name: &str) -> bool {
    const OURS: [&str; 6] = [
        "payment_channel_storage_type",
        "payment_channel_storage_client",
        "payment_channel_storage_server",
        CERT,
        KEY,
        CA,
    ];
    name.starts_with("payment_channel_") || OURS.iter().any(|ours| distance(ours, name) <= TYPO_LETTERS_MAX)
}

fn report_unknown_variables(variables: &BTreeMap<String, String>, findings: &mut Findings) {
    const FIELDS: [&str; 19] = [
        "TYPE",
        "CLIENT.CONNECTION_TIMEOUT",
        "CLIENT.REQUEST_TIMEOUT",
        "CLIENT.ENDPOINTS",
        "CLIENT.HOT_RELOAD",
        "SERVER.ID",
        "SERVER.SCHEME",
        "SERVER.SCHEMA",
        "SERVER.HOST",
        "SERVER.CLIENT_PORT",
        "SERVER.PEER_PORT",
        "SERVER.TOKEN",
        "SERVER.CLUSTER",
        "SERVER.STARTUP_TIMEOUT",
        "SERVER.DATA_DIR",
        "SERVER.LOG_LEVEL",
        "SERVER.LOG_OUTPUTS",
        "SERVER.ENABLED",
        "SERVER",
    ];
    for name in variables.keys() {
        let Some(field) = name.strip_prefix("SNET_PAYMENT_CHANNEL_STORAGE_") else { continue };
        let known = FIELDS.iter().any(|known| *known == field || known.replace('.', "_") == field);
        if !known || field == "SERVER" {
            findings.notices.push(format!("the variable {name} is not known and has no effect"));
        }
    }
}

/// What the organization's metadata says for a group.
fn metadata(text: &str, group: &str, findings: &mut Findings) -> (Option<String>, client::Said) {
    const WHAT: &str = "the organization metadata";
    let nothing = (None, client::Said::default());
    let problems = findings.problems.len();
    let document = document::parse(WHAT, text, findings);
    if findings.problems.len() > problems {
        return nothing;
    }
    let groups = match document.get("groups") {
        Some(Value::Array(groups)) => groups.as_slice(),
        None => &[],
        Some(_) => {
            findings.problem(WHAT, "groups is no list");
            return nothing;
        }
    };
    let named = |found: &&Value| found.get("group_name").and_then(Value::as_str) == Some(group);
    let Some(Value::Object(found)) = groups.iter().find(named) else {
        let reason = format!(
            "group name {group} in config is invalid, there was no group found with this name in the metadata"
        );
        findings.problem("daemon_group_name", reason);
        return nothing;
    };
    let path = format!("{WHAT}, groups[{group}]");
    let fields = found.iter().map(|(key, value)| (key.to_lowercase(), value.clone())).collect();
    let mut found = Section::apart(path, fields);
    let (mut payment, _) = found.section("payment", findings);
    let kind = payment.text("payment_channel_storage_type", findings);
    let (mut client, _) = payment.section("payment_channel_storage_client", findings);
    (kind, client::read(&mut client, findings))
}
