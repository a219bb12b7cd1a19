//! Endpoints as daemons write them.

use quorate_client::Client;

use super::document::Findings;

/// Checks endpoints and gives each a scheme. As in the daemon, one with `https://` means that those without a scheme
/// have TLS too.
pub(super) fn normalize(field: &str, endpoints: &[String], findings: &mut Findings) -> Vec<String> {
    let tls = endpoints.iter().any(|endpoint| endpoint.to_lowercase().starts_with("https://"));
    let mut normal = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let full = match endpoint.split_once("://") {
            Some((scheme, rest)) => format!("{}://{rest}", scheme.to_lowercase()),
            None if tls => format!("https://{endpoint}"),
            None => format!("http://{endpoint}"),
        };
        // The client knows best what it can reach.
        match Client::new([&full]) {
            Ok(_) if normal.contains(&full) => {
                findings.notices.push(format!("{field}: {endpoint} is given twice"));
            }
            Ok(_) => normal.push(full),
            Err(error) => findings.problem(field, error.to_string()),
        }
    }
    normal
}
