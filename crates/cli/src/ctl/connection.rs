//! Which cluster is spoken to, and how: options, then `QUORATE_...`, then etcdctl's variables, then defaults.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use quorate::client::{Client, ClientTls};

use quorate_settings::server::{Kind, Value};

const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";
const DIAL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// How to reach the cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Client addresses of members, separated by commas [default: 127.0.0.1:2379].
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    endpoints: Option<String>,
    /// CA certificates to check the members' certificates with; endpoints without a scheme are https:// then.
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Certificate to show to members.
    #[arg(long, global = true, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of the certificate.
    #[arg(id = "certificate-key", long = "key", global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Name that the members' certificates have to hold, rather than the endpoint's host.
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
    /// Don't check the members' certificates: anyone in between can read and change everything.
    #[arg(long, global = true)]
    insecure_skip_tls_verify: bool,
    /// Time for one connection [default: 2s].
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    dial_timeout: Option<Duration>,
    /// Time for a request, with all attempts [default: 5s].
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    command_timeout: Option<Duration>,
}

/// A length of time such as `300ms` or `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    match Kind::Duration.parse(text)? {
        Value::Duration(nanoseconds @ 1..) => Ok(Duration::from_nanos(nanoseconds.unsigned_abs())),
        _ => Err("must be above zero".to_owned()),
    }
}

/// A variable of the process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// The value behind an option: the variable's name, for errors, and its text.
pub fn variable(
    lookup: &dyn Fn(&str) -> Option<String>,
    ours: &str,
    theirs: &str,
) -> Option<(String, String)> {
    [format!("QUORATE_{ours}"), format!("ETCDCTL_{theirs}")]
        .into_iter()
        .find_map(|name| lookup(&name).map(|text| (name, text)))
}

/// Settings that are complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    endpoints: Vec<String>,
    tls: Option<ClientTls>,
    pub dial_timeout: Duration,
    command_timeout: Duration,
}

impl Connection {
    /// Completes the options from the environment.
    pub fn resolve(&self, lookup: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Settings> {
        let text = |name: &str| variable(lookup, name, name).map(|(_, text)| text);
        let time = |given: Option<Duration>, name: &str, default| match given {
            Some(given) => Ok(given),
            None => variable(lookup, name, name).map_or(Ok(default), |(variable, text)| {
                duration(&text).map_err(anyhow::Error::msg).with_context(|| format!("{variable}={text}"))
            }),
        };
        if let Some(name) = ["ETCDCTL_USER", "ETCDCTL_PASSWORD"].iter().find(|name| lookup(name).is_some()) {
            bail!("{name} is set, and users with passwords are not supported yet");
        }
        let endpoints = self.endpoints.clone().or_else(|| text("ENDPOINTS"));
        let endpoints = endpoints.as_deref().unwrap_or(ENDPOINT_DEFAULT);
        Ok(Settings {
            endpoints: endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect(),
            tls: self.tls(lookup)?,
            dial_timeout: time(self.dial_timeout, "DIAL_TIMEOUT", DIAL_TIMEOUT_DEFAULT)?,
            command_timeout: time(self.command_timeout, "COMMAND_TIMEOUT", COMMAND_TIMEOUT_DEFAULT)?,
        })
    }

    /// `None` where nothing says anything of TLS.
    fn tls(&self, lookup: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<ClientTls>> {
        let text = |name: &str| variable(lookup, name, name).map(|(_, text)| text);
        let path =
            |given: &Option<PathBuf>, name: &str| given.clone().or_else(|| text(name).map(PathBuf::from));
        let (ca, cert, key) =
            (path(&self.cacert, "CACERT"), path(&self.cert, "CERT"), path(&self.key, "KEY"));
        let trust_anyone = self.insecure_skip_tls_verify
            || match variable(lookup, "INSECURE_SKIP_TLS_VERIFY", "INSECURE_SKIP_TLS_VERIFY") {
                None => false,
                Some((name, text)) => match Kind::Bool.parse(&text) {
                    Ok(value) => value == Value::Bool(true),
                    Err(why) => bail!("{name}={text}: {why}"),
                },
            };
        if ca.is_none() && cert.is_none() && key.is_none() && !trust_anyone {
            return Ok(None);
        }
        let mut tls = ClientTls::new();
        if let Some(ca) = ca {
            tls = tls.ca_file(ca);
        }
        match (cert, key) {
            (Some(cert), Some(key)) => tls = tls.certificate_files(cert, key),
            (None, None) => {}
            (Some(_), None) => bail!("--cert needs --key, the key of the certificate"),
            (None, Some(_)) => bail!("--key needs --cert, the certificate of the key"),
        }
        if let Some(name) = self.server_name.clone().or_else(|| text("SERVER_NAME")) {
            tls = tls.server_name(name);
        }
        Ok(Some(if trust_anyone { tls.insecure_trust_anyone() } else { tls }))
    }
}

impl Settings {
    /// A client; nothing is connected yet.
    pub fn client(&self) -> anyhow::Result<Client> {
        let builder = Client::builder(self.endpoints.iter().cloned())
            .connect_timeout(self.dial_timeout)
            .request_timeout(self.command_timeout);
        let builder = match &self.tls {
            Some(tls) => builder.tls(tls.clone()),
            None => builder,
        };
        Ok(builder.build()?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connection: Connection,
    }

    fn resolve(options: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(options))?;
        let variables: Vec<(String, String)> =
            variables.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
        line.connection.resolve(&|wanted| {
            variables.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.clone())
        })
    }

    #[test]
    fn an_option_wins_over_our_variable_and_that_over_etcdctls() {
        let both = [("ETCDCTL_ENDPOINTS", "a:1"), ("QUORATE_ENDPOINTS", "b:1,c:1")];
        assert_eq!(resolve(&[], &[]).expect("fine").endpoints, ["127.0.0.1:2379"]);
        assert_eq!(resolve(&[], &both[..1]).expect("fine").endpoints, ["a:1"]);
        assert_eq!(resolve(&[], &both).expect("fine").endpoints, ["b:1", "c:1"]);
        assert_eq!(resolve(&["--endpoints", "d:1"], &both).expect("fine").endpoints, ["d:1"]);
        let timed =
            resolve(&["--dial-timeout=1m30s"], &[("ETCDCTL_COMMAND_TIMEOUT", "250ms")]).expect("fine");
        assert_eq!(timed.dial_timeout, Duration::from_secs(90));
        assert_eq!(timed.command_timeout, Duration::from_millis(250));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (options, variables, expected) in [
            (&["--cert", "c.pem"][..], &[][..], "--cert needs --key"),
            (&[], &[("ETCDCTL_KEY", "k.pem")], "--key needs --cert"),
            (&[], &[("QUORATE_DIAL_TIMEOUT", "soon")], "QUORATE_DIAL_TIMEOUT=soon: must be a length of time"),
            (&["--command-timeout=0s"], &[], "must be above zero"),
            (&[], &[("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "maybe")], "must be true or false"),
            (&[], &[("ETCDCTL_USER", "root:pw")], "ETCDCTL_USER is set, and users with passwords"),
        ] {
            let error = format!("{:#}", resolve(options, variables).expect_err(expected));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn any_option_of_tls_turns_it_on() {
        assert_eq!(resolve(&[], &[]).expect("fine").tls, None);
        assert_eq!(
            resolve(&["--cacert=ca.pem"], &[]).expect("fine").tls,
            Some(ClientTls::new().ca_file("ca.pem"))
        );
        let variables = [("ETCDCTL_CACERT", "ca.pem"), ("ETCDCTL_CERT", "c.pem"), ("ETCDCTL_KEY", "k.pem")];
        assert_eq!(
            resolve(&[], &variables).expect("fine").tls,
            Some(ClientTls::new().ca_file("ca.pem").certificate_files("c.pem", "k.pem"))
        );
    }
}
