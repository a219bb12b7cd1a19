//! The side that is connected to.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::server::TlsStream;

use crate::address;
use crate::allowed::{Allowed, AllowedClients};
use crate::explain::Names;
use crate::pem::{self, Validity};
use crate::reload::Reloading;
use crate::{AddressError, HandshakeError, Identity, Port, Settings, Stream, TlsError, ciphers, provider};

/// What a refused side may still send: pieces, and time.
const LINGER_READS_MAX: usize = 64;
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes TLS connections of those that a port accepted.
pub struct Acceptor {
    config: Reloading<ServerConfig>,
    names: Names,
    checks_addresses: bool,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Acceptor").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// An acceptor that shows `identity`, and offers the protocols `alpn`, best first.
    pub fn new(
        port: Port,
        settings: &Settings,
        identity: &Identity,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let demands = settings.demands_certificates();
        let mut files = identity.paths();
        let ca = settings.trusted_ca_file.clone().filter(|_| demands);
        files.extend(ca.clone());
        files.extend(settings.crl_file.clone().filter(|_| demands));
        let names = Names {
            ca: ca.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            own: identity.shown(),
            demanding: if settings.client_cert_auth {
                port.demanding()
            } else {
                port.setting("trusted-ca-file")
            },
        };
        let checks_addresses = demands && settings.check_addresses;
        let (settings, identity) = (settings.clone(), identity.clone());
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.to_vec()).collect();
        let make = move || server_config(port, &settings, &identity, &alpn);
        Ok(Self { config: Reloading::new(files, make)?, names, checks_addresses })
    }

    /// The handshake, which may take as long as `within`. Who is refused is told why before the connection ends.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        within: Duration,
    ) -> Result<TlsStream<S>, HandshakeError> {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.current());
        match tokio::time::timeout(within, acceptor.accept(stream).into_fallible()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, stream))) => {
                linger(stream).await;
                Err(self.names.handshake(&error))
            }
            Err(_) => Err(HandshakeError::Timeout(within)),
        }
    }

    /// Where the settings ask for it: whether the certificate that was shown is for the address that its connection
    /// comes from. Names in it are looked up, for a few seconds at most.
    pub async fn check_address<S>(&self, stream: &Stream<S>, from: IpAddr) -> Result<(), AddressError> {
        let Stream::Tls(stream) = stream else { return Ok(()) };
        match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            Some(certificate) if self.checks_addresses => address::check(certificate, from).await,
            _ => Ok(()),
        }
    }
}

/// The common names in the certificate that the other side has shown, which the handshake has checked; none where it
/// showed none.
#[must_use]
pub fn common_names_of<S>(stream: &TlsStream<S>) -> Vec<String> {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    shown.map(pem::common_names).unwrap_or_default()
}

/// Ends a connection whose handshake failed, and takes what the other side still sends, within bounds: closing on
/// unread bytes would reset the connection and could cost the other side the reason.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let rest = async {
        stream.shutdown().await?;
        let mut sent = [0; 1024];
        for _ in 0..LINGER_READS_MAX {
            if stream.read(&mut sent).await? == 0 {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // What fails here, or takes long, is a connection that is over.
    let _ = tokio::time::timeout(LINGER_TIMEOUT, rest).await;
}

fn server_config(
    port: Port,
    settings: &Settings,
    identity: &Identity,
    alpn: &[Vec<u8>],
) -> Result<ServerConfig, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let key = identity.load()?;
    warn_if_not_valid(identity, &key);
    let builder = ServerConfig::builder_with_provider(ciphers::limited_by(settings)?)
        .with_protocol_versions(&settings.versions.supported())
        .map_err(setup)?;
    let demands = settings.demands_certificates();
    let builder = if demands {
        builder.with_client_cert_verifier(client_verifier(port, settings)?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.to_vec();
    if demands {
        // A resumed session would skip the check of the certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

pub(crate) fn warn_if_not_valid(identity: &Identity, key: &rustls::sign::CertifiedKey) {
    let Some(certificate) = key.cert.first() else { return };
    let cert = identity.shown();
    match pem::validity(certificate) {
        Validity::Valid => {}
        Validity::Expired => tracing::warn!(cert, "this certificate has expired: others will refuse it"),
        Validity::NotYet => tracing::warn!(cert, "this certificate is not valid yet: others will refuse it"),
    }
}

pub(crate) fn client_verifier(
    port: Port,
    settings: &Settings,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let setting = port.setting("trusted-ca-file");
    let Some(path) = &settings.trusted_ca_file else {
        return Err(TlsError::NoCa { demanding: port.demanding(), missing: setting });
    };
    let roots = Arc::new(pem::roots(&setting, path)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(crl) = &settings.crl_file {
        // Certificates of CAs that have no list are not on any.
        builder = builder.with_crls(pem::revoked(port.crl(), crl)?).allow_unknown_revocation_status();
    }
    let inner = builder.build().map_err(|error| unusable(port, settings, path, &error))?;
    let allowed = allowed(port, settings)?;
    Ok(if allowed.is_empty() { inner } else { Arc::new(AllowedClients { inner, allowed }) })
}

/// Which of the files a verifier could not be made from.
pub(crate) fn unusable(port: Port, settings: &Settings, ca: &Path, error: &VerifierBuilderError) -> TlsError {
    let (setting, path) = match (error, &settings.crl_file) {
        (VerifierBuilderError::InvalidCrl(_), Some(crl)) => (port.crl().to_owned(), crl.clone()),
        _ => (port.setting("trusted-ca-file"), ca.to_owned()),
    };
    TlsError::Unusable { setting, path, reason: error.to_string() }
}

pub(crate) fn allowed(port: Port, settings: &Settings) -> Result<Allowed, TlsError> {
    let hostnames = settings.allowed_hostnames.iter().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| {
            TlsError::Setup(format!("{}: {name:?} is no host name", port.cert_names("hostname")))
        })
    });
    Ok(Allowed {
        common_names: settings.allowed_common_names.clone(),
        hostnames: hostnames.collect::<Result<_, _>>()?,
    })
}
