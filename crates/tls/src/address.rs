//! Whether a certificate is for the address that its connection comes from: etcd's check of the peers that connect.
//!
//! What counts are the subject alternative names. A certificate that has none passes, as in etcd: its CA vouches for it
//! wherever it comes from. An address passes that stands in the certificate, or that one of its names leads to; for a
//! name with a wildcard the name that the address leads to has to fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// How long names are looked up.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// The certificate of whoever connects is for other hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its certificate is for {names}, and it comes from {from}")]
pub struct AddressError {
    from: IpAddr,
    names: String,
}

/// The hosts that a certificate is for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

impl Hosts {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut hosts = Self::default();
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return hosts };
        let Ok(Some(alternative)) = parsed.subject_alternative_name() else { return hosts };
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(name) => hosts.names.push((*name).to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => hosts.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        hosts
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.names.is_empty()
    }

    /// All of them, for people.
    fn listed(&self) -> String {
        let addresses = self.addresses.iter().map(ToString::to_string);
        addresses.chain(self.names.iter().cloned()).collect::<Vec<_>>().join(", ")
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).to_canonical())
}

/// Checks a certificate that was shown by whoever connected from `from`.
pub(crate) async fn check(certificate: &CertificateDer<'_>, from: IpAddr) -> Result<(), AddressError> {
    let from = from.to_canonical();
    let hosts = Hosts::of(certificate);
    if hosts.is_empty() || hosts.addresses.contains(&from) {
        return Ok(());
    }
    if tokio::time::timeout(LOOK_UP_TIMEOUT, lead_to(&hosts.names, from)).await.unwrap_or(false) {
        return Ok(());
    }
    Err(AddressError { from, names: hosts.listed() })
}

/// Whether one of `names` leads to the address, or, where it has a wildcard, fits the name of the address.
async fn lead_to(names: &[String], from: IpAddr) -> bool {
    let (wild, plain): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| name.starts_with("*."));
    for name in plain {
        // A name that leads nowhere is not the one; the others may be.
        let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await else { continue };
        if found.any(|address| address.ip().to_canonical() == from) {
            return true;
        }
    }
    if wild.is_empty() {
        return false;
    }
    let looked_up = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&from)).await;
    let Ok(Ok(name)) = looked_up else { return false };
    wild.into_iter().any(|pattern| fits(pattern, &name))
}

/// Whether a name is what `*.rest` stands for: one label, and the rest.
fn fits(pattern: &str, name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let (Some(rest), Some((label, rest_of_name))) = (pattern.strip_prefix("*."), name.split_once('.')) else {
        return false;
    };
    !label.is_empty() && !rest.is_empty() && rest == rest_of_name
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(hosts: &[&str]) -> CertificateDer<'static> {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>();
        let params = CertificateParams::new(hosts).expect("parameters");
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").der().clone()
    }

    async fn checked(hosts: &[&str], from: &str) -> Result<(), String> {
        let from = from.parse().expect("an address");
        check(&certificate(hosts), from).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn addresses_and_names_that_lead_there_pass_and_others_are_named() {
        assert_eq!(checked(&["127.0.0.1"], "127.0.0.1").await, Ok(()));
        assert_eq!(checked(&["127.0.0.1"], "::ffff:127.0.0.1").await, Ok(()), "one address in two notations");
        assert_eq!(checked(&["::1", "10.0.0.1"], "::1").await, Ok(()));
        assert_eq!(checked(&["10.0.0.1", "localhost"], "127.0.0.1").await, Ok(()), "the name leads there");
        assert_eq!(checked(&[], "192.0.2.1").await, Ok(()), "a certificate without hosts is for all");
        assert_eq!(
            checked(&["10.0.0.1", "no-such-host.invalid"], "127.0.0.1").await,
            Err("its certificate is for 10.0.0.1, no-such-host.invalid, and it comes from 127.0.0.1"
                .to_owned())
        );
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(fits("*.example.org", "m1.Example.org."));
        for (pattern, name) in [
            ("*.example.org", "a.m1.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", "m1.example.com"),
            ("*.", "m1."),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
