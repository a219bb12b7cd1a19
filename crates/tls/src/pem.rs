//! Certificates, keys and CAs out of PEM files.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::made::SelfSigned;
use crate::{TlsError, provider};

const PEM_START: &[u8] = b"-----BEGIN ";
/// A file longer than this is no certificate or key.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed =
        |reason: String| TlsError::Unreadable { setting: setting.to_owned(), path: path.to_owned(), reason };
    let len = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if len > FILE_BYTES_MAX {
        return Err(failed(format!("it has {len} bytes, more than any certificate or key")));
    }
    std::fs::read(path).map_err(|error| failed(error.to_string()))
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(setting, path)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|error| {
        TlsError::Unusable { setting: setting.to_owned(), path: path.to_owned(), reason: error.to_string() }
    })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { setting: setting.to_owned(), path: path.to_owned() });
    }
    Ok(chain)
}

/// The CA certificates of a file.
pub(crate) fn roots(setting: &str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable {
            setting: setting.to_owned(),
            path: path.to_owned(),
            reason: format!("no usable CA certificate: {error}"),
        })?;
    }
    Ok(roots)
}

/// The lists of revoked certificates of a file, in PEM or DER.
pub(crate) fn revoked(
    setting: &str,
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(setting, path)?;
    let unusable =
        |reason: String| TlsError::Unusable { setting: setting.to_owned(), path: path.to_owned(), reason };
    if !bytes.windows(PEM_START.len()).any(|part| part == PEM_START) {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if lists.is_empty() {
        return Err(unusable("it holds no list of revoked certificates (BEGIN X509 CRL)".to_owned()));
    }
    Ok(lists)
}

/// A certificate and its key; they have to belong together.
pub(crate) fn identity(
    cert_setting: &str,
    cert: &Path,
    key_setting: &str,
    key: &Path,
) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(cert_setting, cert)?;
    let key_bytes = read(key_setting, key)?;
    let no_key = || TlsError::NoKey { setting: key_setting.to_owned(), path: key.to_owned() };
    let private = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|_| no_key())?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() },
        Error::InvalidCertificate(error) => TlsError::Unusable {
            setting: cert_setting.to_owned(),
            path: cert.to_owned(),
            reason: format!("no usable certificate: {error}"),
        },
        _ => no_key(),
    })
}

pub(crate) fn made_identity(setting: &str, made: &SelfSigned) -> Result<CertifiedKey, TlsError> {
    let failed = |reason: String| TlsError::NotMade { setting: setting.to_owned(), reason };
    let certificate = CertificateDer::from_pem_slice(made.cert_pem.as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).map_err(|error| failed(error.to_string()))?;
    CertifiedKey::from_der(vec![certificate], key, &provider()).map_err(|error| failed(error.to_string()))
}

/// Where now is, relative to a certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    NotYet,
    Valid,
    Expired,
}

/// Whether a certificate is valid now; one that can't be read counts as expired.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Validity {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, parsed)) if now < parsed.validity().not_before.timestamp() => Validity::NotYet,
        Ok((_, parsed)) if now <= parsed.validity().not_after.timestamp() => Validity::Valid,
        _ => Validity::Expired,
    }
}

/// The common names of a certificate's subject.
pub(crate) fn common_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned)).collect()
}
