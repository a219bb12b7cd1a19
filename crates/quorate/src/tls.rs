//! TLS on a member's two ports: what its URLs and settings come to.
//!
//! Invariant: a port whose URL starts with `https://` never serves plain text, and one with `http://` never TLS.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use quorate_faces::listener::{ALPN, ListenTls};
use quorate_member::PeerTls;
use quorate_tls::{Acceptor, Connector, Identity, Port, Settings, TlsError};

use crate::config::Storage;
use crate::plan::{ConfigError, Plan};
use crate::url::Url;

/// The folder of certificates made at start, in the data folder, as in etcd.
pub(crate) const MADE_FOLDER: &str = "fixtures";

/// Where a port listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listen {
    pub plain: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub settings: Settings,
}

impl Listen {
    /// Sorts the addresses of a port, and checks that those with TLS have what they need.
    pub(crate) fn check(
        port: Port,
        setting: &'static str,
        urls: &[(Url, SocketAddr)],
        settings: &Settings,
    ) -> Result<Self, ConfigError> {
        let of = |tls| urls.iter().filter(move |(url, _)| url.is_tls() == tls);
        if let Some((url, _)) = of(true).next().filter(|_| !settings.has_certificate()) {
            return Err(ConfigError::NoCertificate {
                setting,
                url: url.to_string(),
                cert: port.setting("cert-file"),
                key: port.setting("key-file"),
                auto: port.setting("auto-tls"),
            });
        }
        // What an http:// port is given and does not use is not looked at; peers may be dialled with it all the same.
        if port == Port::Peer || of(true).next().is_some() {
            settings.check(port)?;
        }
        let addrs = |tls| of(tls).map(|(_, addr)| *addr).collect();
        Ok(Self { plain: addrs(false), tls: addrs(true), settings: settings.clone() })
    }

    /// Logs what of the settings has no effect, and what has less than it may seem.
    fn notice(&self, port: Port) {
        let (cert, auto) = (port.setting("cert-file"), port.setting("auto-tls"));
        for addr in &self.plain {
            if self.settings.has_certificate() {
                tracing::warn!(%addr, "this port is plain text (http://): {cert} and {auto} are not used on it");
            }
            if self.settings.client_cert_auth {
                tracing::warn!(%addr, "this port is plain text (http://): {} is not used on it", port.demanding());
            }
            if self.settings.crl_file.is_some() {
                tracing::warn!(%addr, "this port is plain text (http://): {} is not used on it", port.crl());
            }
            if !self.settings.cipher_suites.is_empty() {
                tracing::warn!(%addr, "this port is plain text (http://): cipher-suites is not used on it");
            }
        }
        if self.settings.auto && !self.settings.is_self_signed() {
            tracing::warn!("{auto} is ignored, because {cert} is given");
        }
        if self.settings.is_self_signed() && port == Port::Peer && !self.tls.is_empty() {
            tracing::warn!(
                "{auto} encrypts what peers say and checks nobody: whoever reaches the peer port is taken for a peer"
            );
        }
    }
}

/// Peers at `https://` URLs can only be dialled by who can check them.
pub(crate) fn check_dialling(settings: &Settings, peers: &[&Url]) -> Result<(), ConfigError> {
    match peers.iter().find(|url| url.is_tls()) {
        Some(url) if settings.trusted_ca_file.is_none() && !settings.is_self_signed() => {
            Err(ConfigError::NoPeerCa { url: url.to_string() })
        }
        _ => Ok(()),
    }
}

/// TLS of the client port; `None` where it has none.
pub(crate) fn client(plan: &Plan) -> Result<Option<ListenTls>, TlsError> {
    let listen = &plan.listen_client;
    listen.notice(Port::Client);
    if listen.tls.is_empty() {
        return Ok(None);
    }
    let identity = identity(plan, Port::Client, listen, plan.advertise_client.as_deref())?;
    let identity = identity.ok_or_else(|| missing(Port::Client))?;
    let acceptor = Acceptor::new(Port::Client, &listen.settings, &identity, &ALPN)?;
    Ok(Some(ListenTls { addrs: listen.tls.clone(), acceptor: Arc::new(acceptor) }))
}

/// TLS between this member and its peers, in both directions.
pub(crate) fn peers(plan: &Plan) -> Result<PeerTls, TlsError> {
    let listen = &plan.listen_peer;
    listen.notice(Port::Peer);
    let settings = &listen.settings;
    let listens = !listen.tls.is_empty();
    let identity = match settings.cert_file.is_some() || listens {
        true => identity(plan, Port::Peer, listen, plan.advertise_peer.as_deref())?,
        false => None,
    };
    let acceptor = match (&identity, listens) {
        (Some(identity), true) => Some(Arc::new(Acceptor::new(Port::Peer, settings, identity, &[])?)),
        (None, true) => return Err(missing(Port::Peer)),
        (_, false) => None,
    };
    let can_check = settings.trusted_ca_file.is_some() || settings.is_self_signed();
    let connector = match can_check {
        true => Some(Arc::new(Connector::new(Port::Peer, settings, identity.as_ref(), &[])?)),
        false => None,
    };
    Ok(PeerTls { listen: listen.tls.clone(), acceptor, connector })
}

fn missing(port: Port) -> TlsError {
    TlsError::Setup(format!("{} is missing", port.setting("cert-file")))
}

fn identity(
    plan: &Plan,
    port: Port,
    listen: &Listen,
    advertised: Option<&[Url]>,
) -> Result<Option<Identity>, TlsError> {
    let folder: Option<PathBuf> = match &plan.storage {
        Storage::Folder { data_dir, .. } => {
            Some(data_dir.join(MADE_FOLDER).join(if port == Port::Peer { "peer" } else { "client" }))
        }
        Storage::Memory => None,
    };
    // A certificate made at start is for every name under which the member may be called.
    let mut hosts: BTreeSet<String> = ["localhost".to_owned(), "127.0.0.1".to_owned()].into();
    hosts.extend(
        listen.tls.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()),
    );
    hosts.extend(advertised.unwrap_or_default().iter().filter_map(|url| url.host().map(str::to_owned)));
    let hosts: Vec<String> = hosts.into_iter().collect();
    listen.settings.identity(port, folder.as_deref(), &hosts)
}

/// The URLs of a port that was bound: the plain addresses come first.
pub(crate) fn urls(addrs: &[SocketAddr], listen: &Listen) -> Vec<String> {
    let scheme = |place| if place < listen.plain.len() { "http" } else { "https" };
    addrs.iter().enumerate().map(|(place, addr)| format!("{}://{addr}", scheme(place))).collect()
}
