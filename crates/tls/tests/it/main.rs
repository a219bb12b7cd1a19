//! TLS from outside: certificates in files, two ends of a pipe.

mod files;
mod handshake;
mod reload;
mod revoked;

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_tls::{Acceptor, Connector, HandshakeError, Identity, Port, Settings, TlsError};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(5);

/// A CA that signs certificates into a folder.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    folder: PathBuf,
}

impl Ca {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).expect("signed").pem()).expect("written");
        Self { issuer: Issuer::new(params, key), file, folder: folder.to_owned() }
    }

    /// Signs a certificate for localhost and 127.0.0.1, changed by `change`, into `<name>.pem` and `<name>-key.pem`.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let (cert_file, key_file) =
            (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}-key.pem")));
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        std::fs::write(&cert_file, cert.pem()).expect("written");
        (cert_file, key_file)
    }

    fn plain(&self, name: &str) -> (PathBuf, PathBuf) {
        self.sign(name, |_| {})
    }
}

fn expired(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
}

/// Settings that serve a certificate.
fn serving((cert, key): &(PathBuf, PathBuf)) -> Settings {
    Settings { cert_file: Some(cert.clone()), key_file: Some(key.clone()), ..Settings::default() }
}

/// Settings that trust a CA and show a certificate, if any.
fn dialling(ca: &Ca, shown: Option<&(PathBuf, PathBuf)>) -> Settings {
    Settings {
        cert_file: shown.map(|(cert, _)| cert.clone()),
        key_file: shown.map(|(_, key)| key.clone()),
        trusted_ca_file: Some(ca.file.clone()),
        ..Settings::default()
    }
}

fn identity(settings: &Settings) -> Option<Identity> {
    settings.identity(Port::Peer, None, &[]).expect("an identity")
}

fn acceptor(settings: &Settings) -> Result<Acceptor, TlsError> {
    settings.check(Port::Peer)?;
    Acceptor::new(Port::Peer, settings, &identity(settings).expect("a certificate"), &[])
}

fn connector(settings: &Settings) -> Result<Connector, TlsError> {
    Connector::new(Port::Peer, settings, identity(settings).as_ref(), &[])
}

/// What each side says of a connection: nothing, or why it failed.
#[derive(Debug)]
struct Outcome {
    server: Result<(), String>,
    client: Result<(), String>,
}

impl Outcome {
    #[track_caller]
    fn fine(self) {
        assert!(self.server.is_ok() && self.client.is_ok(), "{self:?}");
    }

    #[track_caller]
    fn refused(self, by_server: &str, by_client: &str) {
        let (server, client) = (self.server.expect_err("server"), self.client.expect_err("client"));
        assert!(server.contains(by_server), "the server says: {server}");
        assert!(client.contains(by_client), "the client says: {client}");
    }
}

/// Connects both to each other; a byte goes both ways.
async fn meet(acceptor: &Acceptor, connector: &Connector) -> Outcome {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let text = |error: HandshakeError| error.to_string();
    let server = async {
        let mut stream = acceptor.accept(theirs, PATIENCE).await.map_err(text)?;
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        stream.write_u8(byte).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())
    };
    let client = async {
        let mut stream = connector.connect("127.0.0.1", ours, PATIENCE).await.map_err(text)?;
        let explain = |error: std::io::Error| connector.explain(&error).unwrap_or_else(|| error.to_string());
        stream.write_u8(7).await.map_err(explain)?;
        stream.flush().await.map_err(explain)?;
        let byte = stream.read_u8().await.map_err(explain)?;
        assert_eq!(byte, 7);
        Ok(())
    };
    let (server, client) = tokio::join!(server, client);
    Outcome { server, client }
}
