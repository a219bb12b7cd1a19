//! The environment variables of a balsa node, checked: everything that is wrong is told at once, by its variable.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use quorate::TlsSettings;
use quorate::balsa::Settings;
use tracing::level_filters::LevelFilter;

/// What the variables come to.
#[derive(Debug)]
pub struct Environment {
    pub settings: Settings,
    pub log_level: LevelFilter,
}

/// Looks variables up, and keeps what is wrong with them.
struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    problems: Vec<String>,
}

impl Environment {
    /// Reads the variables that `lookup` knows; or says all that is wrong with them.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Vec<String>> {
        let mut r = Reader { lookup: &lookup, problems: Vec::new() };
        let (http_port, raft_port) = (r.port("HTTP_SERVER_PORT"), r.port("RAFT_SERVER_PORT"));
        let node_id = r.node_id();
        let volume_dir = r.needed("RAFT_VOLUME_DIR");
        let (http_ip, http_host) = r.host("HTTP");
        let (raft_ip, raft_host) = r.host("RAFT");
        let (http, raft) = (SocketAddr::new(http_ip, http_port), SocketAddr::new(raft_ip, raft_port));
        if http == raft && http_port != 0 {
            r.problem(format!(
                "HTTP_SERVER_PORT and RAFT_SERVER_PORT are both {http_port}: they have to differ"
            ));
        }
        let mut settings = Settings::new(&node_id, PathBuf::from(volume_dir), http, raft);
        settings.http_advertise = format!("{http_host}:{http_port}");
        settings.raft_advertise = format!("{raft_host}:{raft_port}");
        settings.join = r.join();
        r.bootstrap(!settings.join.is_empty());
        settings.voter = r.voter(!settings.join.is_empty());
        if let Some(prefix) = r.text("KEY_PREFIX") {
            settings.key_prefix = prefix;
        }
        settings.token = r.given("HTTP_TOKEN");
        settings.http_tls = r.tls("HTTP");
        settings.raft_tls = r.tls("RAFT");
        if settings.raft_tls.has_certificate() && settings.raft_tls.trusted_ca_file.is_none() {
            r.problem("RAFT_CERT_FILE needs RAFT_CA_FILE, with which the nodes check each other".to_owned());
        }
        settings.snapshot_entries = r.number("RAFT_SNAPSHOT_ENTRIES", settings.snapshot_entries, 1);
        let retained = u64::try_from(settings.log_retained_bytes).unwrap_or(u64::MAX);
        let retained = r.number("RAFT_LOG_RETAINED_BYTES", retained, 0);
        settings.log_retained_bytes = usize::try_from(retained).unwrap_or(usize::MAX);
        let log_level = r.log_level();
        if r.problems.is_empty()
            && let Err(error) = settings.check()
        {
            // Its settings have the names of other flags; what is left to go wrong is in the files that it reads.
            r.problem(error.to_string());
        }
        if r.problems.is_empty() { Ok(Self { settings, log_level }) } else { Err(r.problems) }
    }
}

impl Reader<'_> {
    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// A variable that is set, be it to nothing.
    fn text(&mut self, name: &str) -> Option<String> {
        match (self.lookup)(name)?.into_string() {
            Ok(text) => Some(text),
            Err(text) => {
                self.problem(format!("{name}: {text:?} is not valid UTF-8"));
                None
            }
        }
    }

    /// A variable that is set to something.
    fn given(&mut self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty())
    }

    fn needed(&mut self, name: &str) -> String {
        match self.given(name) {
            Some(text) => text,
            None => {
                self.problem(format!("{name} is not set"));
                String::new()
            }
        }
    }

    fn port(&mut self, name: &str) -> u16 {
        let text = self.needed(name);
        if text.is_empty() {
            return 0;
        }
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits.then(|| text.parse().ok()).flatten().filter(|port| *port > 0);
        port.unwrap_or_else(|| {
            self.problem(format!("{name}: {text:?} is no port: a number from 1 to 65535"));
            0
        })
    }

    fn node_id(&mut self) -> String {
        let name = self.needed("RAFT_NODE_ID");
        if name.chars().any(|c| c.is_control() || matches!(c, ',' | '=')) {
            self.problem(format!("RAFT_NODE_ID: {name:?} must not hold ',', '=' or control characters"));
        }
        name
    }

    /// The address to listen on, and the host that others are told.
    fn host(&mut self, of: &str) -> (IpAddr, String) {
        let (bind, advertise) = (format!("{of}_BIND_ADDR"), format!("{of}_ADVERTISE_ADDR"));
        let ip = match self.given(&bind).as_deref() {
            None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(text) => text.parse().unwrap_or_else(|_| {
                self.problem(format!("{bind}: {text:?} is no IP address"));
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            }),
        };
        let written = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        match self.given(&advertise) {
            Some(host) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
                let ports = host.contains(':') && !host.starts_with('[');
                if !host.bytes().all(plain) || ports {
                    self.problem(format!(
                        "{advertise}: {host:?} is no host: a name or an IP address, without a port"
                    ));
                }
                (ip, host)
            }
            None => {
                if ip.is_unspecified() {
                    self.problem(format!(
                        "{bind} is {ip}, every address: {advertise} has to say where others reach this node"
                    ));
                }
                (ip, written)
            }
        }
    }

    fn join(&mut self) -> Vec<String> {
        let Some(text) = self.given("RAFT_JOIN") else { return Vec::new() };
        let mut peers = Vec::new();
        for peer in text.split(',').map(str::trim).filter(|peer| !peer.is_empty()) {
            let good = peer.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && !host.contains(['/', '@', '?', '#', ' '])
                    && port.bytes().all(|byte| byte.is_ascii_digit())
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if good {
                peers.push(peer.to_owned());
            } else {
                self.problem(format!("RAFT_JOIN: {peer:?} does not have the form host:port"));
            }
        }
        if peers.is_empty() && self.problems.is_empty() {
            self.problem(format!("RAFT_JOIN: {text:?} names nobody"));
        }
        peers
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        match self.given(name)?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" => Some(false),
            other => {
                self.problem(format!("{name}: {other:?} is neither true nor false"));
                None
            }
        }
    }

    fn bootstrap(&mut self, joins: bool) {
        match self.flag("RAFT_BOOTSTRAP") {
            Some(true) if joins => self.problem(
                "RAFT_BOOTSTRAP=true founds a cluster, and RAFT_JOIN joins one: give one of them".to_owned(),
            ),
            Some(false) if !joins => self.problem(
                "RAFT_BOOTSTRAP=false founds no cluster: RAFT_JOIN has to say which one to join".to_owned(),
            ),
            _ => {}
        }
    }

    fn voter(&mut self, joins: bool) -> bool {
        let voter = self.flag("RAFT_VOTER");
        if voter.is_some() && !joins {
            self.problem("RAFT_VOTER belongs to RAFT_JOIN".to_owned());
        }
        voter.unwrap_or(true)
    }

    fn number(&mut self, name: &str, default: u64, least: u64) -> u64 {
        let Some(text) = self.given(name) else { return default };
        text.parse().ok().filter(|number| *number >= least).unwrap_or_else(|| {
            self.problem(format!("{name}: {text:?} is no number of at least {least}"));
            default
        })
    }

    fn tls(&mut self, of: &str) -> TlsSettings {
        let names = ["CERT_FILE", "KEY_FILE", "CA_FILE"].map(|what| format!("{of}_{what}"));
        let [cert, key, ca] = names.each_ref().map(|name| self.given(name).map(PathBuf::from));
        match (&cert, &key) {
            (Some(_), None) => self.problem(format!("{} needs {}", names[0], names[1])),
            (None, Some(_)) => self.problem(format!("{} needs {}", names[1], names[0])),
            (None, None) if ca.is_some() => {
                self.problem(format!("{} needs {} and {}", names[2], names[0], names[1]));
            }
            _ => {}
        }
        let client_cert_auth = ca.is_some();
        TlsSettings {
            cert_file: cert,
            key_file: key,
            trusted_ca_file: ca,
            client_cert_auth,
            ..Default::default()
        }
    }

    fn log_level(&mut self) -> LevelFilter {
        match self.given("LOG_LEVEL").as_deref() {
            None | Some("error") => LevelFilter::ERROR,
            Some("warn") => LevelFilter::WARN,
            Some("debug") => LevelFilter::DEBUG,
            Some("info") => LevelFilter::INFO,
            Some(other) => {
                self.problem(format!("LOG_LEVEL: {other:?} is none of debug, info, warn, error"));
                LevelFilter::WARN
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: [(&str, &str); 4] = [
        ("HTTP_SERVER_PORT", "8000"),
        ("RAFT_SERVER_PORT", "9000"),
        ("RAFT_NODE_ID", "n1"),
        ("RAFT_VOLUME_DIR", "/tmp/no/such/node1"),
    ];

    fn read(more: &[(&str, &str)]) -> Result<Environment, Vec<String>> {
        // The last one of a name counts.
        let all: Vec<(&str, &str)> = FOUR.iter().chain(more).copied().collect();
        Environment::read(|name| {
            let found = all.iter().rev().find(|(known, _)| *known == name)?;
            Some(found.1.into())
        })
    }

    fn problems(more: &[(&str, &str)]) -> String {
        read(more).expect_err("refused").join("\n")
    }

    #[test]
    fn four_variables_are_enough() {
        let Environment { settings, log_level } = read(&[]).expect("fine");
        assert_eq!(settings.node_id, "n1");
        assert_eq!(settings.http_addr.to_string(), "127.0.0.1:8000");
        assert_eq!(settings.raft_advertise, "127.0.0.1:9000");
        assert_eq!(settings.key_prefix, "balsa/");
        assert!(settings.join.is_empty() && settings.token.is_none());
        assert_eq!(log_level, LevelFilter::ERROR);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let all = Environment::read(|_| None).expect_err("nothing is set");
        let expected = ["HTTP_SERVER_PORT", "RAFT_SERVER_PORT", "RAFT_NODE_ID", "RAFT_VOLUME_DIR"]
            .map(|name| format!("{name} is not set"));
        assert_eq!(all, expected);
        let two = problems(&[("HTTP_SERVER_PORT", "eighty"), ("RAFT_SERVER_PORT", "70000")]);
        assert!(two.contains("HTTP_SERVER_PORT: \"eighty\" is no port"), "{two}");
        assert!(two.contains("RAFT_SERVER_PORT: \"70000\" is no port"), "{two}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_variable() {
        for (variable, text, expected) in [
            ("HTTP_SERVER_PORT", "0", "HTTP_SERVER_PORT: \"0\" is no port"),
            ("HTTP_SERVER_PORT", "+80", "HTTP_SERVER_PORT: \"+80\" is no port"),
            ("RAFT_SERVER_PORT", "8000", "they have to differ"),
            ("RAFT_NODE_ID", "", "RAFT_NODE_ID is not set"),
            ("RAFT_NODE_ID", "a=b", "must not hold"),
            ("RAFT_BIND_ADDR", "here", "RAFT_BIND_ADDR: \"here\" is no IP address"),
            ("RAFT_BIND_ADDR", "0.0.0.0", "RAFT_ADVERTISE_ADDR has to say"),
            ("HTTP_ADVERTISE_ADDR", "host:80", "without a port"),
            ("RAFT_JOIN", "127.0.0.1", "does not have the form host:port"),
            ("RAFT_JOIN", ",", "names nobody"),
            ("RAFT_BOOTSTRAP", "false", "RAFT_JOIN has to say"),
            ("RAFT_BOOTSTRAP", "perhaps", "neither true nor false"),
            ("RAFT_VOTER", "false", "RAFT_VOTER belongs to RAFT_JOIN"),
            ("HTTP_CERT_FILE", "/a", "HTTP_CERT_FILE needs HTTP_KEY_FILE"),
            ("RAFT_CA_FILE", "/a", "RAFT_CA_FILE needs RAFT_CERT_FILE and RAFT_KEY_FILE"),
            ("RAFT_SNAPSHOT_ENTRIES", "0", "no number of at least 1"),
            ("LOG_LEVEL", "loud", "none of debug, info, warn, error"),
        ] {
            let told = problems(&[(variable, text)]);
            assert!(told.contains(expected), "{variable}={text}: {told}");
        }
        let both = problems(&[("RAFT_JOIN", "h:1"), ("RAFT_BOOTSTRAP", "true")]);
        assert!(both.contains("give one of them"), "{both}");
    }

    #[test]
    fn a_node_that_joins_from_elsewhere() {
        let more = [
            ("RAFT_JOIN", "n1.example:9000, 10.0.0.2:9000"),
            ("RAFT_BIND_ADDR", "0.0.0.0"),
            ("RAFT_ADVERTISE_ADDR", "n3.example"),
            ("RAFT_VOTER", "false"),
            ("KEY_PREFIX", ""),
        ];
        let settings = read(&more).expect("fine").settings;
        assert_eq!(settings.join, ["n1.example:9000", "10.0.0.2:9000"]);
        assert_eq!(settings.raft_addr.to_string(), "0.0.0.0:9000");
        assert_eq!(settings.raft_advertise, "n3.example:9000");
        assert!(!settings.voter);
        assert_eq!(settings.key_prefix, "");
    }
}
