//! Certificates made at start: self-signed, kept in a folder, found again at the next start.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::TlsError;
use crate::pem::{Validity, validity};

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const YEAR_DAYS: i64 = 365;

/// A self-signed certificate with its key, as PEM.
#[derive(Clone)]
pub struct SelfSigned {
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        out.debug_struct("SelfSigned").finish_non_exhaustive()
    }
}

/// Makes a certificate for `hosts` (names and IP addresses), for both directions, valid from now for `years`.
pub(crate) fn make(setting: &str, hosts: &[String], years: u32) -> Result<SelfSigned, TlsError> {
    let failed = |error: rcgen::Error| TlsError::NotMade {
        setting: setting.to_owned(),
        reason: format!("for {}: {error}", hosts.join(", ")),
    };
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(failed)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "quorate");
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = time::OffsetDateTime::from(SystemTime::now());
    params.not_before = now;
    params.not_after = now.saturating_add(time::Duration::days(YEAR_DAYS * i64::from(years)));
    let key = KeyPair::generate().map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok(SelfSigned { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// The certificate of an earlier start in `folder`, or a new one where there is none or it has expired.
pub(crate) fn in_folder(
    setting: &str,
    folder: &Path,
    hosts: &[String],
    years: u32,
) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (folder.join(CERT_FILE), folder.join(KEY_FILE));
    if cert.exists() && key.exists() {
        let found = CertificateDer::from_pem_file(&cert).map(|certificate| validity(&certificate));
        match found {
            Ok(Validity::Expired) => {
                tracing::warn!(cert = %cert.display(), "the certificate made at an earlier start has expired; making a new one");
            }
            Ok(_) => return Ok((cert, key)),
            Err(error) => {
                return Err(TlsError::Unusable {
                    setting: setting.to_owned(),
                    path: cert,
                    reason: format!(
                        "no certificate of an earlier start ({error}); remove it to get a new one"
                    ),
                });
            }
        }
    }
    let made = make(setting, hosts, years)?;
    let failed = |error: std::io::Error| TlsError::NotMade {
        setting: setting.to_owned(),
        reason: format!("in {}: {error}", folder.display()),
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    // The key first: a crash in between leaves a key without a certificate, which the next start replaces.
    write(&key, &made.key_pem, 0o600).map_err(failed)?;
    write(&cert, &made.cert_pem, 0o644).map_err(failed)?;
    tracing::info!(cert = %cert.display(), hosts = hosts.join(","), years, "made a self-signed certificate");
    Ok((cert, key))
}

/// Replaces a file as a whole.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}
