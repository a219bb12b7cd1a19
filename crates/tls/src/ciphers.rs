//! Which cipher suites are offered, by the names that etcd's flag takes.

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;

use crate::{Settings, TlsError, Version, provider};

/// Go's older names lack what the newer ones and IANA's end with.
const OLDER_ENDING: &str = "CHACHA20_POLY1305";
const NEWER_ENDING: &str = "CHACHA20_POLY1305_SHA256";

/// A suite's IANA name.
fn name(suite: SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
}

fn is_of_tls13(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

/// The provider with the suites that the settings name, in the provider's order; with all where they name none.
pub(crate) fn limited_by(settings: &Settings) -> Result<Arc<CryptoProvider>, TlsError> {
    let all = provider();
    if settings.cipher_suites.is_empty() {
        return Ok(all);
    }
    if settings.versions.min == Version::Tls13 {
        return Err(TlsError::CiphersOfTls13);
    }
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    for given in &settings.cipher_suites {
        let wanted = match given.strip_suffix(OLDER_ENDING) {
            Some(start) => format!("{start}{NEWER_ENDING}"),
            None => given.clone(),
        };
        let found = all.cipher_suites.iter().find(|suite| name(**suite) == wanted);
        let found = found.ok_or_else(|| TlsError::NoCipherSuite {
            name: given.clone(),
            known: all.cipher_suites.iter().map(|suite| name(*suite)).collect::<Vec<_>>().join(", "),
        })?;
        chosen.push(*found);
    }
    let tls13_is_chosen = chosen.iter().any(|suite| is_of_tls13(*suite));
    let mut limited: CryptoProvider = CryptoProvider::clone(&all);
    limited.cipher_suites.retain(|suite| chosen.contains(suite) || (!tls13_is_chosen && is_of_tls13(*suite)));
    Ok(Arc::new(limited))
}
