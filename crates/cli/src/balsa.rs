//! `quorate balsa`: one node of a balsa cluster, configured by environment variables alone.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use quorate::balsa::{Ended, Node, Sink};
use quorate_settings::balsa::Environment;
use tracing::{error, info};

use crate::logging::{self, Format};
use crate::print;
use crate::process::{self, StopSignals};
use crate::version;

pub const USAGE: &str = "\
Run one node of a balsa cluster. It takes no flags; these environment variables are read:

  HTTP_SERVER_PORT    port for clients (needed)
  RAFT_SERVER_PORT    port for the other nodes (needed)
  RAFT_NODE_ID        the node's name, unique in its cluster (needed)
  RAFT_VOLUME_DIR     the folder for its data (needed)

With these alone a node without data founds a cluster of its own and leads it, until it is joined to another:
  curl \"http://localhost:8000/join?nodeId=n2&raftPort=9001\"

  HTTP_BIND_ADDR      IP address for clients (default 127.0.0.1)
  HTTP_ADVERTISE_ADDR host that clients are told (default: the bind address)
  RAFT_BIND_ADDR      IP address for the other nodes (default 127.0.0.1)
  RAFT_ADVERTISE_ADDR host that the other nodes are told (default: the bind address)
  RAFT_JOIN           host:port of raft ports of a running cluster, separated by commas: a node without data
                      asks these to admit it
  RAFT_BOOTSTRAP      true: found a cluster (default without RAFT_JOIN); false: only join
  RAFT_VOTER          with RAFT_JOIN: false stays a learner (default true)
  KEY_PREFIX          stands before every key, for clients of etcd (default balsa/; may be empty)
  HTTP_TOKEN          what requests have to show as 'Authorization: Bearer TOKEN' or as the parameter token;
                      clients of etcd are not served then
  HTTP_CERT_FILE, HTTP_KEY_FILE   TLS on the port for clients
  HTTP_CA_FILE                    and demands certificates of them
  RAFT_CERT_FILE, RAFT_KEY_FILE, RAFT_CA_FILE   TLS between nodes, which all show certificates
  RAFT_SNAPSHOT_ENTRIES    log entries after which a snapshot is taken (default 100000)
  RAFT_LOG_RETAINED_BYTES  log kept for nodes that lag (default 16777216)
  LOG_LEVEL           debug, info, warn or error, of the lines beside raft's own (default error)

Flags:
  --help, --version
";

/// Runs the command.
pub fn main(arguments: &[String]) -> ExitCode {
    match arguments.first().map(String::as_str) {
        None => {}
        Some("-h" | "-help" | "--help") => {
            return print::text(USAGE);
        }
        Some("-version" | "--version") => {
            return print::line(&version::text());
        }
        Some(other) => {
            eprintln!("quorate balsa: {other:?} is not known: it takes environment variables, see --help");
            return ExitCode::from(2);
        }
    }
    let environment = match Environment::read(|name| std::env::var_os(name)) {
        Ok(environment) => environment,
        Err(problems) => {
            for problem in problems {
                eprintln!("quorate balsa: {problem}");
            }
            eprintln!("quorate balsa --help explains the variables");
            return ExitCode::FAILURE;
        }
    };
    match run(&environment) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("quorate balsa: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The terminal that the process was started on. A line that can't be written must not stop the node.
struct Terminal;

impl Sink for Terminal {
    fn out(&self, line: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    fn log(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

fn run(environment: &Environment) -> anyhow::Result<ExitCode> {
    let outputs = vec!["stderr".to_owned()];
    logging::install(&logging::Settings {
        level: environment.log_level,
        format: Format::Console,
        outputs,
        rotation: None,
    })?;
    process::raise_open_files();
    process::runtime()?.block_on(async {
        let mut signals = StopSignals::install()?;
        let settings = environment.settings.clone();
        // It may ask other nodes to admit it, for a while; a signal ends that.
        let starting = tokio::task::spawn_blocking(move || Node::start(&settings, Arc::new(Terminal)));
        let mut node = tokio::select! {
            started = starting => started.context("the start failed")??,
            signal = signals.next() => {
                info!("received {signal} before the node had started");
                // A thread that waits for other nodes is not waited for.
                std::process::exit(0);
            }
        };
        info!(http = ?node.http_addrs(), "node started");
        process::notify_ready();
        let ended = tokio::select! {
            ended = node.run() => ended,
            signal = signals.next() => {
                info!("received {signal}; stopping");
                return Ok(signals.stop_with(node.shutdown()).await);
            }
        };
        signals.stop_with(node.shutdown()).await;
        Ok(match ended {
            Ended::Removed => {
                let name = &environment.settings.node_id;
                eprintln!("{name} was removed from its cluster. To join again, it needs an empty volume.");
                ExitCode::SUCCESS
            }
            Ended::Failed { reason } => {
                error!("the node stopped: {reason}");
                ExitCode::FAILURE
            }
        })
    })
}
