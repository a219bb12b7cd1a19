//! A failed handshake in words that say what to look at.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::HandshakeError;
use crate::allowed::NotAllowed;

/// What messages name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// The CA file that the other side is checked against.
    pub ca: String,
    /// The certificate that this side shows.
    pub own: String,
    /// The setting that demands certificates.
    pub demanding: String,
}

impl Names {
    pub(crate) fn handshake(&self, error: &io::Error) -> HandshakeError {
        match tls(error) {
            Some(error) => HandshakeError::Failed(self.explain(error)),
            None if is_close(error) => HandshakeError::Closed,
            None => HandshakeError::Failed(error.to_string()),
        }
    }

    /// What the TLS error inside `error` means, if there is one.
    pub(crate) fn explain_io(&self, error: &io::Error) -> Option<String> {
        tls(error).map(|error| self.explain(error))
    }

    fn explain(&self, error: &Error) -> String {
        match error {
            Error::InvalidCertificate(error) => self.certificate(error),
            Error::NoCertificatesPresented => {
                format!("it shows no certificate, and {} demands one", self.demanding)
            }
            Error::AlertReceived(alert) => self.alert(*alert),
            Error::InvalidMessage(_) => format!("it does not speak TLS ({error})"),
            Error::PeerIncompatible(_) => format!("it has no TLS version or cipher that we have ({error})"),
            _ => error.to_string(),
        }
    }

    fn certificate(&self, error: &CertificateError) -> String {
        match error {
            CertificateError::UnknownIssuer => {
                format!("its certificate was not signed by a CA in {}", self.ca)
            }
            CertificateError::BadSignature => {
                format!("its certificate carries a signature that no CA in {} has made", self.ca)
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("its certificate has expired ({error}); it needs a new one")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("its certificate is not valid yet ({error}); compare the clocks")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                format!(
                    "its certificate may not be used in this direction ({error}): see its extended key usage"
                )
            }
            CertificateError::Revoked => {
                "its certificate is refused: it has been revoked, and needs a new one".to_owned()
            }
            CertificateError::Other(other) if other.0.is::<NotAllowed>() => other.0.to_string(),
            _ => format!("its certificate is refused: {error}"),
        }
    }

    fn alert(&self, alert: AlertDescription) -> String {
        let own = if self.own.is_empty() { "(none)" } else { &self.own };
        match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => {
                format!("it refuses our certificate {own} ({alert:?}): does it trust our CA?")
            }
            AlertDescription::CertificateRevoked => format!("it refuses our certificate {own}: revoked"),
            AlertDescription::CertificateExpired => {
                format!("it refuses our certificate {own}: expired, or a clock is wrong")
            }
            AlertDescription::CertificateRequired => {
                "it demands a certificate, and none was shown".to_owned()
            }
            AlertDescription::ProtocolVersion => {
                "it speaks no TLS version that we speak, or it speaks plain text".to_owned()
            }
            other => format!("it broke the handshake off ({other:?})"),
        }
    }
}

fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
