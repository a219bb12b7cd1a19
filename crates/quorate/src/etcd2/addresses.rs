//! Addresses as etcd 0.4's flags write them: `HOST:PORT`, without a scheme.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// Why a text is no address. Settings are named as the flags are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("-{setting}: {text:?} must have the form HOST:PORT, without http:// and without a path")]
    Malformed { setting: &'static str, text: String },
    #[error("-{setting}: {text:?}: the port must be a number from 1 to 65535")]
    Port { setting: &'static str, text: String },
    #[error("-{setting}: {text:?}: IP required can't use a port only")]
    PortOnly { setting: &'static str, text: String },
    #[error("-{setting}: {text:?}: a host is needed that others can reach")]
    NoHost { setting: &'static str, text: String },
    #[error("-{setting}: the host of {text:?} is not known: {reason}")]
    UnknownHost { setting: &'static str, text: String, reason: String },
    #[error(
        "-{setting}: {text} has {found}, but this machine's peer port {wanted}: all machines must agree on it"
    )]
    Scheme { setting: &'static str, text: String, found: &'static str, wanted: &'static str },
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads an address that others are told.
    pub fn advertised(setting: &'static str, text: &str) -> Result<Self, AddressError> {
        let (host, port) = split(setting, text)?;
        let port = port.ok_or_else(|| AddressError::Malformed { setting, text: text.to_owned() })?;
        if host.is_empty() {
            return Err(AddressError::NoHost { setting, text: text.to_owned() });
        }
        Ok(Self { host, port })
    }

    /// Where to listen: on every address where nothing is said; a host alone takes the port that others are told.
    pub fn listen(
        setting: &'static str,
        text: Option<&str>,
        advertised: &Self,
    ) -> Result<SocketAddr, AddressError> {
        let Some(text) = text else {
            return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, advertised.port)));
        };
        let (host, port) = split(setting, text)?;
        if host.is_empty() {
            return Err(AddressError::PortOnly { setting, text: text.to_owned() });
        }
        let port = port.unwrap_or(advertised.port);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        let unknown = |reason: String| AddressError::UnknownHost { setting, text: text.to_owned(), reason };
        let mut found =
            (host.as_str(), port).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
        found.next().ok_or_else(|| unknown("it has no address".to_owned()))
    }

    pub fn url(&self, tls: bool) -> String {
        let scheme = if tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => format!("{scheme}://[{}]:{}", self.host, self.port),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// The URL of a peer that `setting` lists. A scheme may stand before it, if it is the right one.
pub(crate) fn peer_url(setting: &'static str, text: &str, tls: bool) -> Result<String, AddressError> {
    let (wanted, other) = if tls { ("https://", "http://") } else { ("http://", "https://") };
    if text.starts_with(other) {
        let named = |tls| if tls { "TLS" } else { "none" };
        return Err(AddressError::Scheme {
            setting,
            text: text.to_owned(),
            found: named(!tls),
            wanted: if tls { "has" } else { "has none" },
        });
    }
    let bare = text.strip_prefix(wanted).unwrap_or(text);
    Ok(Address::advertised(setting, bare.strip_suffix('/').unwrap_or(bare))?.url(tls))
}

/// Host without brackets, and port if there is one.
fn split(setting: &'static str, text: &str) -> Result<(String, Option<u16>), AddressError> {
    let malformed = || AddressError::Malformed { setting, text: text.to_owned() };
    let text_trimmed = text.trim();
    if text_trimmed.is_empty() || text_trimmed.contains(['/', '?', '#', '@', ' ', ',']) {
        return Err(malformed());
    }
    let (host, port) = if let Some(rest) = text_trimmed.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(malformed)?;
        if !matches!(host.parse(), Ok(IpAddr::V6(_))) {
            return Err(malformed());
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(malformed()),
        }
    } else if matches!(text_trimmed.parse(), Ok(IpAddr::V6(_))) {
        (text_trimmed, None)
    } else {
        match text_trimmed.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(malformed()),
            Some((host, port)) => (host, Some(port)),
            None => (text_trimmed, None),
        }
    };
    let port = match port {
        None => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            match digits.parse() {
                Ok(0) | Err(_) => return Err(AddressError::Port { setting, text: text.to_owned() }),
                Ok(port) => Some(port),
            }
        }
        Some(_) => return Err(AddressError::Port { setting, text: text.to_owned() }),
    };
    Ok((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertised(text: &str) -> Result<String, String> {
        Address::advertised("addr", text).map(|a| a.url(false)).map_err(|error| error.to_string())
    }

    fn listen(text: Option<&str>) -> Result<String, String> {
        let addr = Address { host: "10.0.0.1".to_owned(), port: 4001 };
        Address::listen("bind-addr", text, &addr).map(|a| a.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_others_are_told() {
        assert_eq!(advertised("127.0.0.1:4001"), Ok("http://127.0.0.1:4001".to_owned()));
        assert_eq!(advertised("Node1.example:80"), Ok("http://node1.example:80".to_owned()));
        assert_eq!(advertised("[::1]:4001"), Ok("http://[::1]:4001".to_owned()));
        for (text, expected) in [
            (
                "http://h:1",
                "-addr: \"http://h:1\" must have the form HOST:PORT, without http:// and without a path",
            ),
            ("h", "-addr: \"h\" must have the form HOST:PORT, without http:// and without a path"),
            (":4001", "-addr: \":4001\": a host is needed that others can reach"),
            ("h:0", "-addr: \"h:0\": the port must be a number from 1 to 65535"),
            ("h:70000", "-addr: \"h:70000\": the port must be a number from 1 to 65535"),
            ("h:+1", "-addr: \"h:+1\": the port must be a number from 1 to 65535"),
            ("a:1:2", "-addr: \"a:1:2\" must have the form HOST:PORT, without http:// and without a path"),
        ] {
            assert_eq!(advertised(text), Err(expected.to_owned()));
        }
    }

    #[test]
    fn where_to_listen() {
        assert_eq!(listen(None), Ok("0.0.0.0:4001".to_owned()));
        assert_eq!(
            listen(Some("0.0.0.0")),
            Ok("0.0.0.0:4001".to_owned()),
            "a host alone takes the port of -addr"
        );
        assert_eq!(listen(Some("127.0.0.1:9")), Ok("127.0.0.1:9".to_owned()));
        assert_eq!(listen(Some("::1")), Ok("[::1]:4001".to_owned()));
        assert_eq!(
            listen(Some(":4010")),
            Err("-bind-addr: \":4010\": IP required can't use a port only".to_owned())
        );
    }

    #[test]
    fn peers_may_have_a_scheme_if_it_is_the_right_one() {
        assert_eq!(peer_url("peers", "h:1", true), Ok("https://h:1".to_owned()));
        assert_eq!(peer_url("peers", "http://h:1/", false), Ok("http://h:1".to_owned()));
        assert_eq!(
            peer_url("peers", "https://h:1", false).expect_err("refused").to_string(),
            "-peers: https://h:1 has TLS, but this machine's peer port has none: all machines must agree on it"
        );
        assert!(peer_url("peers", "h", false).is_err());
    }
}
