//! A cluster of `quorate server` processes on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;

use crate::http;
use crate::ports::free_port;
use crate::process::{Process, WAIT_MAX, wait_until};

const READY: &str = "ready to serve client requests";

/// One member: how it is started, and its process while it runs.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` for peers.
    pub peer: String,
    pub data_dir: PathBuf,
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

impl Member {
    /// Starts the member without waiting.
    pub fn start(&mut self) -> anyhow::Result<&mut Process> {
        anyhow::ensure!(self.process.is_none(), "{} runs already", self.name);
        let process = Process::start(self.command().args(&self.arguments), &self.log)?;
        Ok(self.process.insert(process))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("server").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Starts the member with other arguments after its own, where the last of repeated flags wins.
    pub fn start_with(&mut self, more: &[&str]) -> anyhow::Result<&mut Process> {
        anyhow::ensure!(self.process.is_none(), "{} runs already", self.name);
        let process = Process::start(self.command().args(&self.arguments).args(more), &self.log)?;
        Ok(self.process.insert(process))
    }

    /// Waits until the member says that it serves.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let name = self.name.clone();
        self.process().wait_for_output(READY).with_context(|| format!("member {name}"))
    }

    /// The process.
    ///
    /// # Panics
    /// When the member was stopped.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the member was started")
    }

    /// Kills the member with -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the member with SIGTERM and waits for its end.
    pub fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let mut process = self.process.take().context("the member does not run")?;
        process.signal("TERM")?;
        process.wait(within)
    }

    /// Waits until the member calls itself healthy.
    pub fn wait_healthy(&mut self) -> anyhow::Result<()> {
        let mut last = String::new();
        wait_until(&format!("member {} is healthy", self.name), || match http::get(&self.client, "/health") {
            Ok((200, body)) => body.contains("\"health\":\"true\""),
            Ok((_, body)) => {
                last = body;
                false
            }
            Err(_) => false,
        })
        .with_context(|| last)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The flags that put `https://` in front of this member's addresses, among `founders`.
    #[must_use]
    pub fn https(&self, founders: &[Self]) -> Vec<String> {
        let (client, peer) = (format!("https://{}", self.client), format!("https://{}", self.peer));
        let founders: Vec<String> =
            founders.iter().map(|member| format!("{}=https://{}", member.name, member.peer)).collect();
        let flags = [
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", founders.join(",")),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// The value of a metric without labels.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (status, page) = http::get(&self.client, "/metrics").ok()?;
        let line =
            page.lines().find(|line| line.split(' ').next() == Some(name)).filter(|_| status == 200)?;
        line.split(' ').nth(1)?.parse().ok()
    }
}

/// Members that were founded together.
#[derive(Debug)]
pub struct Cluster {
    pub members: Vec<Member>,
}

impl Cluster {
    /// Lays out `size` members with data under `folder`, on free ports. Nothing is started.
    pub fn plan(binary: &Path, folder: &Path, size: usize, flags: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let names: Vec<String> = (1..=size).map(|number| format!("m{number}")).collect();
        let peers: Vec<String> = names.iter().map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let founders: Vec<String> =
            names.iter().zip(&peers).map(|(name, peer)| format!("{name}=http://{peer}")).collect();
        let members = names
            .iter()
            .zip(&peers)
            .map(|(name, peer)| {
                let client = format!("127.0.0.1:{}", free_port());
                let data_dir = folder.join(name);
                let mut arguments: Vec<String> = [
                    ("--name", name.clone()),
                    ("--data-dir", data_dir.display().to_string()),
                    ("--listen-peer-urls", format!("http://{peer}")),
                    ("--initial-advertise-peer-urls", format!("http://{peer}")),
                    ("--listen-client-urls", format!("http://{client}")),
                    ("--advertise-client-urls", format!("http://{client}")),
                    ("--initial-cluster", founders.join(",")),
                ]
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect();
                arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
                Member {
                    name: name.clone(),
                    client,
                    peer: peer.clone(),
                    data_dir,
                    binary: binary.to_owned(),
                    arguments,
                    log: folder.join(format!("{name}.log")),
                    process: None,
                }
            })
            .collect();
        Ok(Self { members })
    }

    /// Lays out `size` members that snet-daemon configuration files describe.
    pub fn plan_snet(binary: &Path, folder: &Path, size: usize) -> anyhow::Result<Self> {
        let mut cluster = Self::plan(binary, folder, size, &[])?;
        let founders: Vec<String> =
            cluster.members.iter().map(|member| format!("{}={}", member.name, member.peer)).collect();
        for member in &mut cluster.members {
            let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
            let text = format!(
                r#"{{"payment_channel_storage_server": {{
                    "id": "{}", "schema": "http", "host": "127.0.0.1", "client_port": {}, "peer_port": {},
                    "token": "unique-token", "cluster": "{}", "startup_timeout": "1m", "data_dir": {:?},
                    "log_level": "info", "enabled": true
                }}}}"#,
                member.name,
                port(&member.client),
                port(&member.peer),
                founders.join(","),
                member.data_dir
            );
            let file = folder.join(format!("{}.json", member.name));
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            member.arguments = vec!["--snet-config".to_owned(), file.display().to_string()];
        }
        Ok(cluster)
    }

    /// Lays out and starts `size` members, and waits until all serve.
    pub fn start(binary: &Path, folder: &Path, size: usize) -> anyhow::Result<Self> {
        let mut cluster = Self::plan(binary, folder, size, &[])?;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Starts those that do not run, and waits until all serve.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if member.process.is_none() {
                member.start()?;
            }
        }
        self.members.iter_mut().try_for_each(Member::wait_ready)
    }

    /// All client addresses, comma-separated.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| member.client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Waits for a leader; its place in `members`.
    pub fn leader(&self) -> anyhow::Result<usize> {
        let mut leader = None;
        wait_until("a leader", || {
            leader = self.members.iter().position(|member| {
                member.process.is_some()
                    && member.metric("etcd_server_is_leader").is_some_and(|value| value > 0.0)
            });
            leader.is_some()
        })?;
        leader.context("no leader")
    }

    /// Stops all members with SIGTERM.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        for member in self.members.iter_mut().filter(|member| member.process.is_some()) {
            let status = member.terminate(WAIT_MAX)?;
            anyhow::ensure!(status.success(), "{} ended with {status}", member.name);
        }
        Ok(())
    }
}
