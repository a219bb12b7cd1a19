//! A machine of `quorate etcd2` on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;

use crate::http;
use crate::ports::free_port;
use crate::process::Process;

const READY: &str = "ready to serve client requests";

/// How it is started, and its process while it runs.
#[derive(Debug)]
pub struct Machine {
    pub name: String,
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` as the others are told it.
    pub peer: String,
    /// Where it listens for the others.
    pub peer_listen: String,
    pub folder: PathBuf,
    binary: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Machine {
    /// One with data under `folder`, on free ports. Nothing is started.
    #[must_use]
    pub fn new(binary: &Path, folder: &Path, name: &str) -> Self {
        let peer = format!("127.0.0.1:{}", free_port());
        Self {
            name: name.to_owned(),
            client: format!("127.0.0.1:{}", free_port()),
            peer_listen: peer.clone(),
            peer,
            folder: folder.join(name),
            binary: binary.to_owned(),
            log: folder.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Starts it without waiting.
    pub fn start(&mut self, flags: &[&str]) -> anyhow::Result<&mut Process> {
        anyhow::ensure!(self.process.is_none(), "{} runs already", self.name);
        let mut command = Command::new(&self.binary);
        command.env_clear().args(["etcd2", "-name", &self.name, "-addr", &self.client]);
        command.args(["-bind-addr", "127.0.0.1", "-peer-addr", &self.peer]);
        command.args(["-peer-bind-addr", &self.peer_listen, "-data-dir"]).arg(&self.folder).args(flags);
        Ok(self.process.insert(Process::start(&mut command, &self.log)?))
    }

    /// Starts it, and waits until it serves.
    pub fn run(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        self.start(flags)?;
        self.wait_ready()
    }

    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let name = self.name.clone();
        self.process().wait_for_output(READY).with_context(|| format!("machine {name}"))
    }

    /// The process.
    ///
    /// # Panics
    /// When it was stopped.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Kills it with -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it with Ctrl-C and waits for its end.
    pub fn stop(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal("INT")?;
        process.wait(within)
    }

    /// Puts a value; status and body.
    pub fn put(&self, key: &str, value: &str) -> anyhow::Result<(u16, String)> {
        http::send(&self.client, "PUT", &format!("/v2/keys{key}"), &format!("value={value}"))
    }

    /// Gets from the client port.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        http::get(&self.client, path)
    }

    /// Gets from the peer port.
    pub fn get_peer(&self, path: &str) -> anyhow::Result<(u16, String)> {
        http::get(&self.peer, path)
    }

    /// Whether it has this value.
    #[must_use]
    pub fn holds(&self, key: &str, value: &str) -> bool {
        self.get(&format!("/v2/keys{key}"))
            .is_ok_and(|(status, body)| status == 200 && body.contains(&format!("\"value\":\"{value}\"")))
    }
}
