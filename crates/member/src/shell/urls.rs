//! The parts of a URL that a peer connection needs.

/// `host:port` of `http://host:port[/]` or `https://host:port[/]`; `None` for anything else.
#[must_use]
pub fn host_and_port(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = authority.rsplit_once(':')?;
    let plain = !host.is_empty() && !authority.contains('/') && port.parse::<u16>().is_ok();
    plain.then(|| authority.to_owned())
}

/// Whether the peer at this URL has TLS.
#[must_use]
pub fn is_tls(url: &str) -> bool {
    url.starts_with("https://")
}

/// The host of `host:port`, without the brackets of an IPv6 address: what a certificate is for.
#[must_use]
pub fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_with_a_port_is_taken() {
        assert_eq!(host_and_port("http://127.0.0.1:2380"), Some("127.0.0.1:2380".to_owned()));
        assert_eq!(host_and_port("http://[::1]:2380/"), Some("[::1]:2380".to_owned()));
        for wrong in ["127.0.0.1:2380", "http://host", "http://:2380", "http://a:b", "http://a:1/path", ""] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_host_is_what_a_certificate_names() {
        assert_eq!(host("127.0.0.1:2380"), "127.0.0.1");
        assert_eq!(host("[::1]:2380"), "::1");
        assert_eq!(host("db.example:2380"), "db.example");
        assert!(is_tls("https://a:1") && !is_tls("http://a:1"));
    }
}
