//! What can be wrong with TLS settings, and how a handshake fails.

use std::path::PathBuf;
use std::time::Duration;

/// Why TLS settings can't be used. Settings are named as the flags are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("{setting}: cannot read {}: {reason}", .path.display())]
    Unreadable { setting: String, path: PathBuf, reason: String },
    #[error("{setting}: {} holds no certificate; PEM with BEGIN CERTIFICATE is expected", .path.display())]
    NoCertificate { setting: String, path: PathBuf },
    #[error(
        "{setting}: {} holds no private key that can be used; PEM without a passphrase is expected", .path.display()
    )]
    NoKey { setting: String, path: PathBuf },
    #[error("{setting}: {}: {reason}", .path.display())]
    Unusable { setting: String, path: PathBuf, reason: String },
    #[error(
        "{}: this key does not belong to the certificate in {}; give the two files that were made together",
        .key.display(), .cert.display()
    )]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{given} is given without {missing}; a certificate and its key are needed together")]
    Half { given: String, missing: String },
    #[error("{demanding} needs {missing}: the CA that has to have signed the certificates")]
    NoCa { demanding: String, missing: String },
    #[error("{one} and {other} exclude each other; give one of them")]
    Exclusive { one: String, other: String },
    #[error("tls-min-version {min} is above tls-max-version {max}")]
    VersionsCrossed { min: String, max: String },
    #[error("{setting}: {text:?} is no TLS version: TLS1.2 or TLS1.3 is expected")]
    NoVersion { setting: &'static str, text: String },
    #[error("cipher-suites: {name:?} is none that is known here; the names are: {known}")]
    NoCipherSuite { name: String, known: String },
    #[error("cipher-suites: only those of TLS 1.2 can be chosen, and tls-min-version is TLS1.3")]
    CiphersOfTls13,
    #[error("self-signed-cert-validity: must be from 1 to 100 years")]
    Validity,
    #[error("cannot make a certificate for {setting}: {reason}")]
    NotMade { setting: String, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Why a connection did not become a TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("no TLS handshake within {0:?}")]
    Timeout(Duration),
    #[error("it closed the connection during the TLS handshake; perhaps it speaks plain text")]
    Closed,
    #[error("TLS handshake: {0}")]
    Failed(String),
}
