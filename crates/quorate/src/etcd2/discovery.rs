//! etcd 0.4's discovery: machines of a new cluster write their peer URLs under a URL that they share. The first one
//! founds the cluster, the others join it.
//!
//! The protocol: put the peer URL under the machine's name; create `_state`; who creates it is the first; everybody else
//! lists who is there.

use std::path::Path;
use std::time::Duration;

use quorate_faces::etcd2::peer::percent_encoded;
use quorate_tls::{Connector, Port, Settings, TlsError};
use serde_json::Value;

use super::web::{Answer, Ask, WebError};

/// How long a registration lasts, in seconds: a week.
const REGISTRATION_SECONDS: u64 = 604_800;
/// It is renewed this often.
pub(crate) const RENEWAL: Duration = Duration::from_secs(REGISTRATION_SECONDS / 8);

/// Where systems keep the CA certificates that they trust.
const SYSTEM_CAS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Why discovery did not find a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    #[error("-discovery: {0:?} must be an http:// or https:// URL")]
    Url(String),
    #[error("discovery: {0}")]
    Web(#[from] WebError),
    #[error("discovery: {url} answered with status {status}: {text}")]
    Status { url: String, status: u16, text: String },
    #[error("discovery: {url} answered with something else than a list of machines")]
    NoList { url: String },
    #[error("Discovery found an initialized cluster but no reachable peers are registered.")]
    NoPeers,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a machine is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is the first: found the cluster.
    First,
    /// Join through one of these.
    Peers(Vec<String>),
}

/// One machine's view of a discovery URL.
pub(crate) struct Discovery {
    base: String,
    name: String,
    peer_url: String,
    tls: Option<Connector>,
}

impl Discovery {
    pub fn new(url: &str, name: &str, peer_url: &str) -> Result<Self, DiscoveryError> {
        let base = url.trim_end_matches('/').to_owned();
        let tls = match base.split_once("://") {
            Some(("http", rest)) if !rest.is_empty() => None,
            Some(("https", rest)) if !rest.is_empty() => Some(system_connector()?),
            _ => return Err(DiscoveryError::Url(url.to_owned())),
        };
        Ok(Self { base, name: name.to_owned(), peer_url: peer_url.to_owned(), tls })
    }

    /// Registers this machine and finds out what it is to do.
    pub async fn find(&self) -> Result<Found, DiscoveryError> {
        self.register().await?;
        let state = format!("{}/_state?prevExist=false", self.base);
        let answer = self.send(Ask::put_form(&state, "value", "started")).await?;
        match answer.status {
            200 | 201 => return Ok(Found::First),
            412 => {}
            _ => return Err(self.unexpected(&state, &answer)),
        }
        let answer = self.send(Ask::get(&self.base)).await?;
        if answer.status != 200 {
            return Err(self.unexpected(&self.base, &answer));
        }
        let peers = self.others(&answer).ok_or_else(|| DiscoveryError::NoList { url: self.base.clone() })?;
        if peers.is_empty() { Err(DiscoveryError::NoPeers) } else { Ok(Found::Peers(peers)) }
    }

    /// Says that this machine is there; to be repeated every [`RENEWAL`].
    pub async fn register(&self) -> Result<(), DiscoveryError> {
        let url = format!("{}/{}?ttl={REGISTRATION_SECONDS}", self.base, percent_encoded(&self.name));
        let answer = self.send(Ask::put_form(&url, "value", &self.peer_url)).await?;
        match answer.status {
            200 | 201 => Ok(()),
            _ => Err(self.unexpected(&url, &answer)),
        }
    }

    async fn send(&self, ask: Ask) -> Result<Answer, WebError> {
        ask.send(self.tls.as_ref()).await
    }

    fn unexpected(&self, url: &str, answer: &Answer) -> DiscoveryError {
        DiscoveryError::Status { url: url.to_owned(), status: answer.status, text: answer.text() }
    }

    /// The peer URLs of the other machines, as the directory lists them.
    fn others(&self, answer: &Answer) -> Option<Vec<String>> {
        let answer: Value = serde_json::from_slice(&answer.body).ok()?;
        let node = answer.get("node")?;
        let Some(nodes) = node.get("nodes") else { return Some(Vec::new()) };
        let mut urls = Vec::new();
        for node in nodes.as_array()? {
            let name = node.get("key")?.as_str()?.rsplit('/').next()?;
            if name == self.name || name.starts_with('_') {
                continue;
            }
            urls.push(node.get("value")?.as_str()?.to_owned());
        }
        Some(urls)
    }
}

fn system_connector() -> Result<Connector, DiscoveryError> {
    let found = SYSTEM_CAS.iter().find(|path| Path::new(path).exists());
    let Some(path) = found else {
        let text = format!(
            "-discovery: https:// needs the system's CA certificates, and there are none at {}",
            SYSTEM_CAS.join(", ")
        );
        return Err(TlsError::Setup(text).into());
    };
    let settings = Settings { trusted_ca_file: Some(path.into()), ..Settings::default() };
    Ok(Connector::new(Port::Client, &settings, None, &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery() -> Discovery {
        Discovery::new("http://h:1/v2/keys/_etcd/registry/t/", "m1", "http://127.0.0.1:7001").expect("a URL")
    }

    fn others(body: &str) -> Option<Vec<String>> {
        discovery().others(&Answer { status: 200, body: body.to_owned().into() })
    }

    #[test]
    fn the_others_are_all_but_this_machine_and_what_is_hidden() {
        let body = r#"{"action":"get","node":{"key":"/_etcd/registry/t","dir":true,"nodes":[
            {"key":"/_etcd/registry/t/m1","value":"http://127.0.0.1:7001"},
            {"key":"/_etcd/registry/t/m2","value":"http://127.0.0.1:7002"},
            {"key":"/_etcd/registry/t/_state","value":"started"}]}}"#;
        assert_eq!(others(body), Some(vec!["http://127.0.0.1:7002".to_owned()]));
        assert_eq!(others(r#"{"action":"get","node":{"key":"/t","dir":true}}"#), Some(Vec::new()));
        for odd in ["", "[]", r#"{"node":{"nodes":3}}"#, r#"{"node":{"nodes":[{"key":"/a"}]}}"#] {
            assert_eq!(others(odd), None, "{odd}");
        }
    }

    #[test]
    fn only_urls_of_the_web_are_taken() {
        for bad in ["", "h:1", "ftp://h/x", "http://"] {
            assert!(matches!(Discovery::new(bad, "m", "u"), Err(DiscoveryError::Url(_))), "{bad}");
        }
    }
}
