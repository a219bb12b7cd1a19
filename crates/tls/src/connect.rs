//! The side that dials.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use crate::accept::{allowed, unusable, warn_if_not_valid};
use crate::allowed::{AllowedServers, Anyone};
use crate::explain::Names;
use crate::reload::Reloading;
use crate::{HandshakeError, Identity, Port, Settings, TlsError, ciphers, pem, provider};

/// Makes TLS connections of those that were dialled.
pub struct Connector {
    config: Reloading<ClientConfig>,
    names: Names,
}

impl fmt::Debug for Connector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connector").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that checks servers against the trusted CAs and shows `client_cert_file`, or else `identity`.
    /// Without trusted CAs it is refused, unless certificates are made at start: then any server is taken.
    pub fn new(
        port: Port,
        settings: &Settings,
        identity: Option<&Identity>,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let shown = settings.dialling_files(port).or_else(|| identity.cloned());
        let mut files = shown.as_ref().map(Identity::paths).unwrap_or_default();
        if !settings.is_self_signed() {
            files.extend(settings.trusted_ca_file.clone());
            files.extend(settings.crl_file.clone());
        }
        let names = Names {
            ca: settings.trusted_ca_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            own: shown.as_ref().map(Identity::shown).unwrap_or_default(),
            demanding: port.demanding(),
        };
        let settings = settings.clone();
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.to_vec()).collect();
        let make = move || client_config(port, &settings, shown.as_ref(), &alpn);
        Ok(Self { config: Reloading::new(files, make)?, names })
    }

    /// The handshake with the server called `host` (a name or an IP address, without brackets), which may take as long
    /// as `within`.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
        within: Duration,
    ) -> Result<TlsStream<S>, HandshakeError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| HandshakeError::Failed(format!("{host:?} is no host name")))?;
        let connector = tokio_rustls::TlsConnector::from(self.config.current());
        match tokio::time::timeout(within, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.names.handshake(&error)),
            Err(_) => Err(HandshakeError::Timeout(within)),
        }
    }

    /// What a TLS error on a connection means; `None` if it is none. With TLS 1.3 a server refuses a certificate only
    /// after the dialling side's handshake is over, so that its refusal comes with the first read.
    #[must_use]
    pub fn explain(&self, error: &io::Error) -> Option<String> {
        self.names.explain_io(error)
    }
}

fn client_config(
    port: Port,
    settings: &Settings,
    shown: Option<&Identity>,
    alpn: &[Vec<u8>],
) -> Result<ClientConfig, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let builder = ClientConfig::builder_with_provider(ciphers::limited_by(settings)?)
        .with_protocol_versions(&settings.versions.supported())
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(port, settings)?);
    let mut config = match shown {
        Some(identity) => {
            let key = identity.load()?;
            warn_if_not_valid(identity, &key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

fn server_verifier(port: Port, settings: &Settings) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    if settings.is_self_signed() {
        return Ok(Arc::new(Anyone { provider: provider() }));
    }
    let setting = port.setting("trusted-ca-file");
    let Some(path) = &settings.trusted_ca_file else {
        return Err(TlsError::NoCa { demanding: "dialling an https:// URL".to_owned(), missing: setting });
    };
    let roots = Arc::new(pem::roots(&setting, path)?);
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, provider());
    if let Some(crl) = &settings.crl_file {
        builder = builder.with_crls(pem::revoked(port.crl(), crl)?).allow_unknown_revocation_status();
    }
    let inner = builder.build().map_err(|error| unusable(port, settings, path, &error))?;
    let allowed = allowed(port, settings)?;
    Ok(if allowed.is_empty() { inner } else { Arc::new(AllowedServers { inner, allowed }) })
}
