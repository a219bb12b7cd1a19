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
    /// What is run; another one may be put here between two runs.
    pub binary: PathBuf,
    /// What the process finds in its environment, besides the search path.
    pub environment: Vec<(String, String)>,
    /// A command and its arguments that run the binary, if it is not run by itself.
    launcher: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

/// Where a member lives.
#[derive(Clone, Debug)]
pub struct Home {
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` at which the other members reach it.
    pub peer: String,
    /// `host:port` at which it listens for them, which may be behind something that changes the traffic.
    pub peer_listen: String,
    pub data_dir: PathBuf,
    /// A command and its arguments in front of the binary; empty: none.
    pub launcher: Vec<String>,
}

impl Home {
    /// On free ports of this machine, with its data in `data_dir`.
    #[must_use]
    pub fn on_free_ports(data_dir: PathBuf) -> Self {
        let peer = format!("127.0.0.1:{}", free_port());
        Self {
            client: format!("127.0.0.1:{}", free_port()),
            peer_listen: peer.clone(),
            peer,
            data_dir,
            launcher: Vec::new(),
        }
    }
}

impl Member {
    /// Starts the member without waiting.
    pub fn start(&mut self) -> anyhow::Result<&mut Process> {
        anyhow::ensure!(self.process.is_none(), "{} runs already", self.name);
        let process = Process::start(self.command().args(&self.arguments), &self.log)?;
        Ok(self.process.insert(process))
    }

    fn command(&self) -> Command {
        let mut command = match self.launcher.split_first() {
            Some((launcher, arguments)) => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.arg("server").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
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

    /// The id of the process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// All that its processes have logged so far.
    #[must_use]
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
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
        let homes: Vec<Home> =
            (1..=size).map(|number| Home::on_free_ports(folder.join(format!("m{number}")))).collect();
        Self::plan_at(binary, folder, &homes, flags)
    }

    /// Lays out a member for each home; what they log goes to `folder`. Nothing is started.
    pub fn plan_at(binary: &Path, folder: &Path, homes: &[Home], flags: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let names: Vec<String> = (1..=homes.len()).map(|number| format!("m{number}")).collect();
        let founders: Vec<String> =
            names.iter().zip(homes).map(|(name, home)| format!("{name}=http://{}", home.peer)).collect();
        let members = names
            .iter()
            .zip(homes)
            .map(|(name, home)| {
                let mut arguments: Vec<String> = [
                    ("--name", name.clone()),
                    ("--data-dir", home.data_dir.display().to_string()),
                    ("--listen-peer-urls", format!("http://{}", home.peer_listen)),
                    ("--initial-advertise-peer-urls", format!("http://{}", home.peer)),
                    ("--listen-client-urls", format!("http://{}", home.client)),
                    ("--advertise-client-urls", format!("http://{}", home.client)),
                    ("--initial-cluster", founders.join(",")),
                ]
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect();
                arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
                Member {
                    name: name.clone(),
                    client: home.client.clone(),
                    peer: home.peer.clone(),
                    data_dir: home.data_dir.clone(),
                    binary: binary.to_owned(),
                    environment: Vec::new(),
                    launcher: home.launcher.clone(),
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
