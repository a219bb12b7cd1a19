//! The part of a URL that a peer connection needs.

/// `host:port` of `http://host:port[/]` or `https://host:port[/]`; `None` for anything else.
#[must_use]
pub fn host_and_port(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = authority.rsplit_once(':')?;
    let plain = !host.is_empty() && !authority.contains('/') && port.parse::<u16>().is_ok();
    plain.then(|| authority.to_owned())
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
}
