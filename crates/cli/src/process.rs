//! What a serving process does whatever it serves: it waits for signals, says when it is ready, and stops cleanly.

use std::future::Future;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, info, warn};

/// The signals that ask the process to end.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes the signals over. Needs a tokio runtime.
    pub fn install() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
        })
    }

    /// Waits for the next of them, and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Runs a clean stop to its end; another signal ends the process at once.
    pub async fn stop_with(&mut self, stop: impl Future<Output = ()>) -> ExitCode {
        tokio::select! {
            () = stop => ExitCode::SUCCESS,
            name = self.next() => {
                warn!("received {name} again; leaving at once");
                std::process::exit(1);
            }
        }
    }
}

/// The runtime of the main thread; members bring their own threads.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the main runtime")
}

/// Lifts this process's limit on open files to what it may have, as etcd's runtime does: what a shell gives by default is
/// for programs that fear `select`, and too little for a server's clients.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        debug!(open_files = shown(limit.maximum), "the limit on open files is what it may be");
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!(
            from = shown(limit.current),
            to = shown(limit.maximum),
            "raised the limit on open files to the hard one"
        ),
        Err(error) => debug!(
            open_files = shown(limit.current),
            hard = shown(limit.maximum),
            %error,
            "the limit on open files stays as it was"
        ),
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// Tells systemd that the service is up, if it asked to be told.
pub fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    match send_ready(&path) {
        Ok(()) => info!("told systemd that the member is ready"),
        Err(error) => warn!("cannot tell systemd at {}: {error}", path.display()),
    }
}

fn send_ready(path: &std::ffi::OsStr) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(b"READY=1", &address)?;
        }
        None => {
            socket.send_to(b"READY=1", path)?;
        }
    }
    Ok(())
}

/// The environment, without what is not UTF-8.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
}
