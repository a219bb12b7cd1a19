//! The TLS settings of one port, as etcd names them, and what they come to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::sign::CertifiedKey;

use crate::made::{self, SelfSigned};
use crate::pem;
use crate::{TlsError, accept, ciphers};

/// Which port settings are for: it decides how they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Client,
    Peer,
}

impl Port {
    /// The name of a setting on this port.
    #[must_use]
    pub fn setting(self, name: &str) -> String {
        match (self, name) {
            (Self::Client, name) => name.to_owned(),
            (Self::Peer, name) => format!("peer-{name}"),
        }
    }

    /// The setting that demands certificates of those who connect.
    #[must_use]
    pub fn demanding(self) -> String {
        self.setting("client-cert-auth")
    }

    /// The setting that names revoked certificates.
    #[must_use]
    pub fn crl(self) -> &'static str {
        match self {
            Self::Client => "client-crl-file",
            Self::Peer => "peer-crl-file",
        }
    }

    pub(crate) fn cert_names(self, what: &str) -> String {
        match self {
            Self::Client => format!("client-cert-allowed-{what}"),
            Self::Peer => format!("peer-cert-allowed-{what}"),
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// Reads `TLS1.2` or `TLS1.3`; `setting` is named in the error.
    pub fn parse(setting: &'static str, text: &str) -> Result<Self, TlsError> {
        match text {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            _ => Err(TlsError::NoVersion { setting, text: text.to_owned() }),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        })
    }
}

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub min: Version,
    pub max: Version,
}

impl Default for Versions {
    fn default() -> Self {
        Self { min: Version::Tls12, max: Version::Tls13 }
    }
}

impl Versions {
    pub(crate) fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        [(Version::Tls12, &rustls::version::TLS12), (Version::Tls13, &rustls::version::TLS13)]
            .into_iter()
            .filter(|(version, _)| (self.min..=self.max).contains(version))
            .map(|(_, supported)| supported)
            .collect()
    }
}

/// The TLS settings of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM, the port's own certificate first, then those between it and its CA.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// What is shown when this side dials; `cert_file` if not set.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    /// The CA certificates that the other side's certificate is checked against. Where it is set, whoever connects has
    /// to show a certificate, as in etcd.
    pub trusted_ca_file: Option<PathBuf>,
    /// Demands a certificate of whoever connects.
    pub client_cert_auth: bool,
    /// Without a certificate of its own the port makes one at start. On the peer port nobody's certificate is checked
    /// then: it encrypts, and keeps no one out.
    pub auto: bool,
    /// If not empty: common names of which the other side's certificate has to have one.
    pub allowed_common_names: Vec<String>,
    /// If not empty: host names of which the other side's certificate has to be valid for one.
    pub allowed_hostnames: Vec<String>,
    /// Whoever connects has to come from a host that its certificate is for, if that names any; checked of peers alone.
    pub check_addresses: bool,
    /// Revoked certificates, PEM or DER: whoever shows one of them is refused.
    pub crl_file: Option<PathBuf>,
    pub versions: Versions,
    /// If not empty: the cipher suites of TLS 1.2 that are offered, by their IANA names. TLS 1.3 has its own, which all
    /// are offered unless some of them are named.
    pub cipher_suites: Vec<String>,
    /// How long certificates are valid that are made at start.
    pub self_signed_years: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            client_cert_file: None,
            client_key_file: None,
            trusted_ca_file: None,
            client_cert_auth: false,
            auto: false,
            allowed_common_names: Vec::new(),
            allowed_hostnames: Vec::new(),
            check_addresses: false,
            crl_file: None,
            versions: Versions::default(),
            cipher_suites: Vec::new(),
            self_signed_years: 1,
        }
    }
}

impl Settings {
    /// Whether there is a certificate to serve with.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.cert_file.is_some() || self.auto
    }

    /// Whether the certificate is one made at start.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.auto && self.cert_file.is_none()
    }

    /// Whether whoever connects has to show a certificate. A port with a certificate made at start demands none.
    #[must_use]
    pub fn demands_certificates(&self) -> bool {
        !self.is_self_signed() && (self.client_cert_auth || self.trusted_ca_file.is_some())
    }

    /// Checks the settings and the files that they name, without changing anything.
    pub fn check(&self, port: Port) -> Result<(), TlsError> {
        for (cert, cert_name, key, key_name) in [
            (&self.cert_file, "cert-file", &self.key_file, "key-file"),
            (&self.client_cert_file, "client-cert-file", &self.client_key_file, "client-key-file"),
        ] {
            let half = |given: &str, missing: &str| {
                Err(TlsError::Half { given: self.name(port, given), missing: self.name(port, missing) })
            };
            match (cert, key) {
                (Some(_), None) => return half(cert_name, key_name),
                (None, Some(_)) => return half(key_name, cert_name),
                _ => {}
            }
        }
        if self.versions.min > self.versions.max {
            let Versions { min, max } = self.versions;
            return Err(TlsError::VersionsCrossed { min: min.to_string(), max: max.to_string() });
        }
        ciphers::limited_by(self)?;
        if self.crl_file.is_some() {
            if !self.demands_certificates() {
                return Err(TlsError::NoCa {
                    demanding: port.crl().to_owned(),
                    missing: port.setting("trusted-ca-file"),
                });
            }
            accept::client_verifier(port, self)?;
        }
        if !(1..=100).contains(&self.self_signed_years) {
            return Err(TlsError::Validity);
        }
        if self.client_cert_auth && self.cert_file.is_some() && self.trusted_ca_file.is_none() {
            return Err(TlsError::NoCa {
                demanding: port.demanding(),
                missing: port.setting("trusted-ca-file"),
            });
        }
        if !self.allowed_common_names.is_empty() && !self.allowed_hostnames.is_empty() {
            return Err(TlsError::Exclusive {
                one: port.cert_names("cn"),
                other: port.cert_names("hostname"),
            });
        }
        for (names, what) in [(&self.allowed_common_names, "cn"), (&self.allowed_hostnames, "hostname")] {
            if !names.is_empty() && !self.demands_certificates() {
                return Err(TlsError::NoCa {
                    demanding: port.cert_names(what),
                    missing: port.setting("trusted-ca-file"),
                });
            }
        }
        if let Some(path) = &self.trusted_ca_file {
            pem::roots(&port.setting("trusted-ca-file"), path)?;
        }
        for identity in [self.own_files(port), self.dialling_files(port)].into_iter().flatten() {
            identity.load()?;
        }
        Ok(())
    }

    fn name(&self, port: Port, name: &str) -> String {
        port.setting(name)
    }

    fn own_files(&self, port: Port) -> Option<Identity> {
        let (cert, key) = (self.cert_file.clone()?, self.key_file.clone()?);
        Some(Identity::files(port.setting("cert-file"), port.setting("key-file"), cert, key))
    }

    /// What this side shows when it dials; `None`: nothing of its own.
    pub(crate) fn dialling_files(&self, port: Port) -> Option<Identity> {
        let (cert, key) = (self.client_cert_file.clone()?, self.client_key_file.clone()?);
        Some(Identity::files(port.setting("client-cert-file"), port.setting("client-key-file"), cert, key))
    }

    /// The port's certificate and key: from the files, or made (or found again) in `folder`, for `hosts`. Without a
    /// folder a made one lives in memory.
    pub fn identity(
        &self,
        port: Port,
        folder: Option<&Path>,
        hosts: &[String],
    ) -> Result<Option<Identity>, TlsError> {
        if let Some(files) = self.own_files(port) {
            return Ok(Some(files));
        }
        if !self.auto {
            return Ok(None);
        }
        let setting = port.setting("auto-tls");
        let identity = match folder {
            Some(folder) => {
                let (cert, key) = made::in_folder(&setting, folder, hosts, self.self_signed_years)?;
                Identity::files(setting.clone(), setting, cert, key)
            }
            None => Identity {
                cert_setting: setting.clone(),
                key_setting: setting.clone(),
                source: Source::Made(made::make(&setting, hosts, self.self_signed_years)?),
            },
        };
        Ok(Some(identity))
    }
}

/// A certificate with its key, and where both come from.
#[derive(Clone, Debug)]
pub struct Identity {
    cert_setting: String,
    key_setting: String,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Files { cert: PathBuf, key: PathBuf },
    Made(SelfSigned),
}

impl Identity {
    /// A certificate and its key in files, named in errors by their settings.
    #[must_use]
    pub fn files(cert_setting: String, key_setting: String, cert: PathBuf, key: PathBuf) -> Self {
        Self { cert_setting, key_setting, source: Source::Files { cert, key } }
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match &self.source {
            Source::Files { cert, key } => vec![cert.clone(), key.clone()],
            Source::Made(_) => Vec::new(),
        }
    }

    /// How the certificate is named in messages.
    pub(crate) fn shown(&self) -> String {
        match &self.source {
            Source::Files { cert, .. } => cert.display().to_string(),
            Source::Made(_) => "made at start".to_owned(),
        }
    }

    /// Reads both, and checks that they belong together.
    pub(crate) fn load(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        match &self.source {
            Source::Files { cert, key } => pem::identity(&self.cert_setting, cert, &self.key_setting, key),
            Source::Made(made) => pem::made_identity(&self.cert_setting, made),
        }
        .map(Arc::new)
    }
}
