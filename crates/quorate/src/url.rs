//! Addresses as flags and member lists write them: `http://host:port`, `https://host:port`, `unix://path`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Url {
    Tcp {
        tls: bool,
        /// A name or an IP address, without brackets; empty for "every address".
        host: String,
        port: u16,
    },
    Unix {
        tls: bool,
        path: String,
    },
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it must start with http://, https://, unix:// or unixs://")]
    Scheme,
    #[error("it must have the form scheme://host:port")]
    HostPort,
    #[error("the port must be a number from 0 to 65535")]
    Port,
    #[error("it must not have a path, a query or a user")]
    Path,
    #[error("a host is needed that others can reach")]
    NoHost,
    #[error("to listen, an IP address or localhost is needed")]
    NotAnIp,
}

impl Url {
    /// Parses an address. A single slash at the end is let pass.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(UrlError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            "unix" | "unixs" if rest.is_empty() => return Err(UrlError::HostPort),
            "unix" => return Ok(Self::Unix { tls: false, path: rest.to_owned() }),
            "unixs" => return Ok(Self::Unix { tls: true, path: rest.to_owned() }),
            _ => return Err(UrlError::Scheme),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(UrlError::Path);
        }
        let (host, port) = authority.rsplit_once(':').ok_or(UrlError::HostPort)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .filter(|inner| matches!(inner.parse::<IpAddr>(), Ok(IpAddr::V6(_))))
                .ok_or(UrlError::HostPort)?,
            None if host.contains([':', ' ', '[', ']']) => return Err(UrlError::HostPort),
            None => host,
        };
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UrlError::Port);
        }
        let port = port.parse().map_err(|_| UrlError::Port)?;
        Ok(Self::Tcp { tls, host: host.to_ascii_lowercase(), port })
    }

    /// The socket address to listen on; `None` for a Unix socket. `localhost` is 127.0.0.1.
    pub fn listen_addr(&self) -> Result<Option<SocketAddr>, UrlError> {
        match self {
            Self::Unix { .. } => Ok(None),
            Self::Tcp { host, port, .. } if host == "localhost" => {
                Ok(Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port)))
            }
            Self::Tcp { host, port, .. } => {
                let ip: IpAddr = host.parse().map_err(|_| UrlError::NotAnIp)?;
                Ok(Some(SocketAddr::new(ip, *port)))
            }
        }
    }

    /// Checks that others can be told this address.
    pub fn check_advertised(&self) -> Result<(), UrlError> {
        match self {
            Self::Tcp { host, .. } if host.is_empty() => Err(UrlError::NoHost),
            _ => Ok(()),
        }
    }

    /// The host, if it names one.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } if !host.is_empty() => Some(host),
            _ => None,
        }
    }

    #[must_use]
    pub const fn is_tls(&self) -> bool {
        match self {
            Self::Tcp { tls, .. } | Self::Unix { tls, .. } => *tls,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls, host, port } => {
                let scheme = if *tls { "https" } else { "http" };
                if host.contains(':') {
                    write!(out, "{scheme}://[{host}]:{port}")
                } else {
                    write!(out, "{scheme}://{host}:{port}")
                }
            }
            Self::Unix { tls, path } => write!(out, "{}://{path}", if *tls { "unixs" } else { "unix" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print_alike() {
        for text in
            ["http://127.0.0.1:2379", "https://db.example:1", "http://[::1]:2380", "unix:///run/q.sock"]
        {
            assert_eq!(Url::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Url::parse("HTTP://LocalHost:2379/").expect("fine").to_string(), "http://localhost:2379");
    }

    #[test]
    fn malformed_addresses_say_what_is_wrong() {
        for (text, expected) in [
            ("", UrlError::Scheme),
            ("127.0.0.1:2379", UrlError::Scheme),
            ("ftp://a:1", UrlError::Scheme),
            ("http://a", UrlError::HostPort),
            ("http://a:", UrlError::Port),
            ("http://a:http", UrlError::Port),
            ("http://a:65536", UrlError::Port),
            ("http://a:+1", UrlError::Port),
            ("http://::1:2379", UrlError::HostPort),
            ("http://[nonsense]:1", UrlError::HostPort),
            ("http://a:1/path", UrlError::Path),
            ("http://user@a:1", UrlError::Path),
            ("unix://", UrlError::HostPort),
        ] {
            assert_eq!(Url::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn only_addresses_of_this_machine_can_be_listened_on() {
        let addr = |text: &str| Url::parse(text).expect(text).listen_addr();
        assert_eq!(addr("http://localhost:80"), Ok(Some("127.0.0.1:80".parse().expect("an address"))));
        assert_eq!(addr("http://[::]:80"), Ok(Some("[::]:80".parse().expect("an address"))));
        assert_eq!(addr("unix:///x"), Ok(None));
        assert_eq!(addr("http://db.example:80"), Err(UrlError::NotAnIp));
        assert_eq!(addr("http://:80"), Err(UrlError::NotAnIp));
        assert_eq!(Url::parse("http://:80").expect("parses").check_advertised(), Err(UrlError::NoHost));
    }
}
