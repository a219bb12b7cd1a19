//! Where a member listens: `host:port`, `http://host:port`, `https://host:port` or `unix:///path`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use tokio::io::DuplexStream;

use crate::error::Error;

/// Client ports that are not named.
const PORT_DEFAULT: u16 = 2379;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    /// A member in this process.
    Local(Dial),
}

/// Opens a connection to a member in this process.
#[derive(Clone)]
pub(crate) struct Dial(pub Arc<dyn Fn() -> io::Result<DuplexStream> + Send + Sync>);

impl PartialEq for Dial {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Dial {}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// One parsed endpoint. It is shown as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub text: String,
    pub address: Address,
    pub tls: bool,
    /// What requests name as their scheme and authority.
    pub origin: Uri,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Endpoint {
    /// A member in this process, shown as `name`.
    pub fn local(name: String, dial: Dial) -> Self {
        let origin = Uri::from_static("http://localhost");
        Self { text: name, address: Address::Local(dial), tls: false, origin }
    }

    /// Parses an endpoint. Without a scheme it is TLS exactly where the client has TLS settings.
    pub fn parse(text: &str, tls_default: bool) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::config(format!(
                "{text:?} is no endpoint: {why}; write host:port, http://host:port, https://host:port or unix:///path"
            ))
        };
        let text = text.trim();
        let (tls, rest) = match text.split_once("://") {
            None => (tls_default, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme @ ("unix" | "unixs"), path)) => {
                if path.is_empty() {
                    return Err(bad("the path of the socket is missing"));
                }
                let tls = scheme == "unixs";
                let origin = Uri::from_static(if tls { "https://localhost" } else { "http://localhost" });
                return Ok(Self { text: text.to_owned(), address: Address::Unix(path.into()), tls, origin });
            }
            Some((scheme, _)) => return Err(bad(&format!("{scheme:?} is not a scheme known here"))),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("it holds more than a host and a port"));
        }
        let (host, port) = split_port(rest).ok_or_else(|| bad("its port is no number from 1 to 65535"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() {
            return Err(bad("the host is missing"));
        }
        let scheme = if tls { "https" } else { "http" };
        let authority =
            if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        let origin =
            Uri::from_str(&format!("{scheme}://{authority}")).map_err(|_| bad("the host is no name"))?;
        let address = Address::Tcp { host: bare.to_owned(), port };
        Ok(Self { text: text.to_owned(), address, tls, origin })
    }
}

/// Host and port; `None` where the port is no port.
fn split_port(text: &str) -> Option<(&str, u16)> {
    let bracket = text.rfind(']');
    match text.rfind(':') {
        Some(colon) if bracket.is_none_or(|bracket| colon > bracket) => {
            let port = text[colon + 1..].parse().ok().filter(|port| *port != 0)?;
            Some((&text[..colon], port))
        }
        _ => Some((text, PORT_DEFAULT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_an_endpoint() {
        for (text, host, port, tls) in [
            ("127.0.0.1:2379", "127.0.0.1", 2379, false),
            ("http://h:1/", "h", 1, false),
            ("https://h", "h", 2379, true),
            ("[::1]:7", "::1", 7, false),
            ("https://[::1]", "::1", 2379, true),
        ] {
            let endpoint = Endpoint::parse(text, false).expect(text);
            assert_eq!(endpoint.address, Address::Tcp { host: host.to_owned(), port }, "{text}");
            assert_eq!(endpoint.tls, tls, "{text}");
        }
        assert!(Endpoint::parse("h:1", true).expect("fine").tls);
        assert_eq!(
            Endpoint::parse("unix:///a/b", false).expect("fine").address,
            Address::Unix("/a/b".into())
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in
            ["", ":1", "h:0", "h:x", "h:70000", "ftp://h:1", "http://h:1/path", "unix://", "http://a b:1"]
        {
            assert!(Endpoint::parse(text, false).is_err(), "{text}");
        }
    }
}
