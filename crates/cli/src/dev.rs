//! `quorate dev`: a cluster of three members in one process, to try things out.
//!
//! Invariant: one table of ports ([`ports`]) says which port is whose; `--port-base` shifts all of them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use quorate::etcd2::Beside;
use quorate::{Config, Server};
use tracing::info;
use tracing::level_filters::LevelFilter;

use crate::logging::{self, Format};
use crate::print;
use crate::process::{self, StopSignals};

pub const USAGE: &str = "\
Run a cluster of three members in this process. Started again, it finds its data again.

Usage: quorate dev [flags]

Flags:
  --data-dir FOLDER   where the members keep their data (default ./quorate-dev)
  --port-base N       first port of the table below (default 2379)
  --log-level LEVEL   debug, info, warn or error (default warn)

Ports, with the default base:
  member    clients    peers     etcd 0.4
  m1        2379       2380      2381
  m2        2389       2390      2391
  m3        2399       2400      2401
";

const MEMBERS: u16 = 3;
const PORT_BASE_DEFAULT: u16 = 2379;
/// Room between two members' ports.
const PORT_STRIDE: u16 = 10;

/// One row of the table of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    client: u16,
    peer: u16,
    /// For clients of etcd 0.4.
    etcd2: u16,
}

/// The ports of member `number`, counted from 0; `None` where they would pass 65535.
fn ports(base: u16, number: u16) -> Option<Ports> {
    let client = base.checked_add(number * PORT_STRIDE)?;
    Some(Ports { client, peer: client.checked_add(1)?, etcd2: client.checked_add(2)? })
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    data_dir: PathBuf,
    port_base: u16,
    level: LevelFilter,
}

/// Runs the command.
pub fn main(arguments: &[String]) -> ExitCode {
    if arguments.iter().any(|argument| matches!(argument.as_str(), "-h" | "-help" | "--help")) {
        return print::text(USAGE);
    }
    let options = match Options::read(arguments) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("quorate dev: {reason}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("quorate dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut options =
            Self { data_dir: "quorate-dev".into(), port_base: PORT_BASE_DEFAULT, level: LevelFilter::WARN };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let body = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let body = body.ok_or_else(|| format!("{argument:?} is not a valid flag"))?;
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if !matches!(name, "data-dir" | "port-base" | "log-level") {
                return Err(format!("flag provided but not defined: -{name}"));
            }
            let value = inline
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?;
            match name {
                "data-dir" => options.data_dir = value.into(),
                "port-base" => options.port_base = port_base(&value)?,
                _ => {
                    options.level = value
                        .parse()
                        .map_err(|_| format!("--log-level {value:?} is none of debug, info, warn, error"))?;
                }
            }
        }
        Ok(options)
    }
}

fn port_base(text: &str) -> Result<u16, String> {
    let highest = u16::MAX - (MEMBERS - 1) * PORT_STRIDE - 2;
    text.parse()
        .ok()
        .filter(|base| (1..=highest).contains(base))
        .ok_or_else(|| format!("--port-base {text:?} must be a number from 1 to {highest}"))
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    logging::install(&logging::Settings {
        level: options.level,
        format: Format::Console,
        outputs: vec!["stderr".to_owned()],
        rotation: None,
    })?;
    let table: Vec<Ports> = (0..MEMBERS).filter_map(|number| ports(options.port_base, number)).collect();
    check_free(&table, options.port_base)?;
    std::fs::create_dir_all(&options.data_dir).with_context(|| {
        format!("cannot create {}; choose another folder with --data-dir", options.data_dir.display())
    })?;
    process::raise_open_files();
    process::runtime()?.block_on(async {
        let mut signals = StopSignals::install()?;
        let mut servers = Vec::new();
        let mut beside = Vec::new();
        for (config, ports) in configs(options, &table).into_iter().zip(&table) {
            let name = config.name().to_owned();
            let server = Server::start(config).with_context(|| format!("cannot start {name}"))?;
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.etcd2));
            let port = Beside::start(&server.handle(), &name, addr);
            beside.push(port.with_context(|| format!("cannot serve etcd 0.4's clients of {name}"))?);
            servers.push(server);
        }
        let ready = async {
            for server in &servers {
                server.ready().await?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ready = ready => {
                ready?;
                // Who started it may not read on; it runs all the same.
                let _ = print::text(&welcome(options, &table));
                info!("ready to serve client requests");
                signals.next().await;
            }
            _ = signals.next() => {}
        }
        eprintln!("stopping; the data stays in {}", options.data_dir.display());
        let stop = async {
            let closed = tokio::task::spawn_blocking(|| beside.into_iter().for_each(Beside::stop));
            // It only ends early with a panic, which was reported where it happened.
            let _ = closed.await;
            for server in servers {
                server.shutdown().await;
            }
        };
        Ok(signals.stop_with(stop).await)
    })
}

fn configs(options: &Options, table: &[Ports]) -> Vec<Config> {
    let name = |number: usize| format!("m{}", number + 1);
    let founders: Vec<String> = table
        .iter()
        .enumerate()
        .map(|(number, ports)| format!("{}=http://127.0.0.1:{}", name(number), ports.peer))
        .collect();
    table
        .iter()
        .enumerate()
        .map(|(number, ports)| {
            Config::new(name(number))
                .data_dir(options.data_dir.join(name(number)))
                .listen_client_urls([format!("http://127.0.0.1:{}", ports.client)])
                .listen_peer_urls([format!("http://127.0.0.1:{}", ports.peer)])
                .initial_cluster(founders.join(","))
                .initial_cluster_token("quorate-dev")
                .balsa("balsa/")
        })
        .collect()
}

/// Says at once which port is taken and which flag helps, instead of failing halfway.
fn check_free(table: &[Ports], base: u16) -> anyhow::Result<()> {
    for (number, ports) in table.iter().enumerate() {
        for (port, role) in [(ports.client, "client"), (ports.peer, "peer"), (ports.etcd2, "etcd 0.4")] {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            TcpListener::bind(addr).with_context(|| {
                format!(
                    "port {port}, the {role} port of m{}, can't be used; shift all ports with --port-base (now {base})",
                    number + 1
                )
            })?;
        }
    }
    Ok(())
}

fn welcome(options: &Options, table: &[Ports]) -> String {
    let mut text = String::from(
        "A cluster of three is running.\n\n  member    clients                  peers             etcd 0.4\n",
    );
    for (number, ports) in table.iter().enumerate() {
        let _ = writeln!(
            text,
            "  m{:<8} {:<24} {:<17} http://127.0.0.1:{}",
            number + 1,
            format!("http://127.0.0.1:{}", ports.client),
            format!("127.0.0.1:{}", ports.peer),
            ports.etcd2
        );
    }
    let _ = write!(text, "\nData: {}\nTry, one line for each:\n", options.data_dir.display());
    for (name, command) in to_try(table) {
        let _ = writeln!(text, "  {name:<10}{command}");
    }
    text.push_str("\nCtrl-C stops it; started again, it finds its data again.\n");
    text
}

/// For each protocol its name, and a line that works as it is.
fn to_try(table: &[Ports]) -> [(&'static str, String); 4] {
    let endpoints: Vec<String> = table.iter().map(|ports| format!("127.0.0.1:{}", ports.client)).collect();
    let endpoints = endpoints.join(",");
    let Ports { client, etcd2, .. } = table[0];
    [
        ("etcd 3", format!("ETCDCTL_API=3 etcdctl --endpoints {endpoints} put greeting hello")),
        ("etcd 0.4", format!("curl -L http://127.0.0.1:{etcd2}/v2/keys/greeting -XPUT -d value=hello")),
        ("balsa", format!("curl 'http://127.0.0.1:{client}/set?key=greeting&value=hello'")),
        ("quorate", format!("quorate ctl --endpoints {endpoints} get balsa/greeting")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Options, String> {
        Options::read(&arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_their_mistakes() {
        let options = read(&["--port-base", "3000", "-data-dir=/d"]).expect("fine");
        assert_eq!((options.port_base, options.data_dir), (3000, PathBuf::from("/d")));
        for bad in
            [&["--port-base", "0"][..], &["--port-base=65530"], &["--port-base"], &["--nodes=5"], &["x"]]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_usage_shows_the_table_of_ports_as_it_is() {
        for number in 0..MEMBERS {
            let Ports { client, peer, etcd2 } = ports(PORT_BASE_DEFAULT, number).expect("in range");
            let row = format!("m{}        {client}       {peer}      {etcd2}", number + 1);
            assert!(USAGE.contains(&row), "{row}");
        }
        assert_eq!(port_base("65513"), Ok(65_513));
        assert!(port_base("65514").is_err());
        assert!(ports(65_513, MEMBERS - 1).is_some());
    }

    #[test]
    fn a_busy_port_names_the_flag_to_change() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let error = check_free(&[Ports { client: port, peer: port, etcd2: port }], port)
            .expect_err("busy")
            .to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port-base"), "{error}");
    }
}
