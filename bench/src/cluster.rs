//! Three members of one system on this machine: started, watched, stopped, killed.
//!
//! Invariant: a process that was started here is dead when its [`Cluster`] is dropped; no other is ever touched.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use prost::Message as _;
use quorate_wire::etcdserverpb::{RangeRequest, StatusRequest, StatusResponse};
use serde::Serialize;
use tokio::task::LocalSet;

use crate::client::{Connection, Rpc, framed};
use crate::usage;
use crate::workload::key;

const MEMBERS: usize = 3;
/// How long anything may take that is awaited here.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Between two attempts: what a time to serve is good to.
const POLL: Duration = Duration::from_millis(2);
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// A program that serves etcd v3.
#[derive(Clone, Debug)]
pub struct System {
    pub name: &'static str,
    pub program: PathBuf,
    /// What comes before the flags.
    pub leading: Vec<String>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: String,
    peer: String,
    child: Option<Child>,
}

/// The members of one system.
#[derive(Debug)]
pub struct Cluster {
    system: System,
    folder: PathBuf,
    members: Vec<Member>,
}

/// What all members use, summed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Footprint {
    pub resident_bytes: u64,
    pub allocated_bytes: u64,
}

/// How a member is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM, then awaited.
    Stop,
    /// SIGKILL.
    Kill,
}

impl Cluster {
    /// Founds a cluster with its data below `folder`, which must not exist, and waits until all members serve.
    pub fn start(system: &System, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.parent().context("a folder needs a parent")?)?;
        std::fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let ports = free_addresses(2 * MEMBERS)?;
        let members = (0..MEMBERS)
            .map(|number| Member {
                name: format!("m{}", number + 1),
                client: ports[2 * number].clone(),
                peer: ports[2 * number + 1].clone(),
                child: None,
            })
            .collect();
        let mut cluster = Self { system: system.clone(), folder: folder.to_owned(), members };
        for number in 0..MEMBERS {
            cluster.start_member(number)?;
        }
        cluster.wait_serving()?;
        Ok(cluster)
    }

    fn start_member(&mut self, number: usize) -> anyhow::Result<()> {
        let all: Vec<String> =
            self.members.iter().map(|member| format!("{}=http://{}", member.name, member.peer)).collect();
        let member = &mut self.members[number];
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", member.name)))?;
        let child = Command::new(&self.system.program)
            .args(&self.system.leading)
            .args(["--name", &member.name, "--initial-cluster", &all.join(",")])
            .arg("--data-dir")
            .arg(self.folder.join(&member.name))
            .args(["--listen-peer-urls", &format!("http://{}", member.peer)])
            .args(["--initial-advertise-peer-urls", &format!("http://{}", member.peer)])
            .args(["--listen-client-urls", &format!("http://{}", member.client)])
            .args(["--advertise-client-urls", &format!("http://{}", member.client)])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.system.program.display()))?;
        member.child = Some(child);
        Ok(())
    }

    /// Client addresses, the leader's first: one client talks to the leader, whatever the system.
    pub fn endpoints(&self) -> anyhow::Result<Vec<String>> {
        let mut leader_first = Vec::new();
        for member in &self.members {
            let request = framed(&StatusRequest {});
            let answer = call(&member.client, Rpc::Status, &request)?;
            let status = StatusResponse::decode(answer)?;
            let leads = status.header.is_some_and(|header| header.member_id == status.leader);
            leader_first.insert(if leads { 0 } else { leader_first.len() }, member.client.clone());
        }
        Ok(leader_first)
    }

    /// Waits until every member answers a linearizable read.
    fn wait_serving(&mut self) -> anyhow::Result<()> {
        (0..self.members.len()).try_for_each(|number| self.wait_member_serving(number))
    }

    fn wait_member_serving(&mut self, number: usize) -> anyhow::Result<()> {
        let request = framed(&RangeRequest { key: key(0), ..RangeRequest::default() });
        let deadline = Instant::now() + WAIT_MAX;
        let member = &mut self.members[number];
        loop {
            if call(&member.client, Rpc::Range, &request).is_ok() {
                return Ok(());
            }
            if let Some(status) = member.child.as_mut().context("the member does not run")?.try_wait()? {
                bail!(
                    "{} {} ended with {status}; its log is in {}",
                    self.system.name,
                    member.name,
                    self.folder.display()
                );
            }
            if Instant::now() > deadline {
                bail!("{} {} does not serve after {WAIT_MAX:?}", self.system.name, member.name);
            }
            std::thread::sleep(POLL);
        }
    }

    fn end_member(&mut self, number: usize, end: End) -> anyhow::Result<()> {
        let Some(child) = &mut self.members[number].child else { return Ok(()) };
        match end {
            End::Kill => child.kill()?,
            End::Stop => {
                let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
                anyhow::ensure!(status.success(), "kill -TERM failed");
            }
        }
        let deadline = Instant::now() + WAIT_MAX;
        while child.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "a member still runs {WAIT_MAX:?} after {end:?}");
            std::thread::sleep(POLL);
        }
        self.members[number].child = None;
        Ok(())
    }

    /// Ends the member at a client address, starts it again; the time from the start until it serves.
    pub fn restart_one(&mut self, client: &str, end: End) -> anyhow::Result<Duration> {
        let number = self.members.iter().position(|member| member.client == client);
        let number = number.context("no such member")?;
        self.end_member(number, end)?;
        let start = Instant::now();
        self.start_member(number)?;
        self.wait_member_serving(number)?;
        Ok(start.elapsed())
    }

    /// Ends all members, then starts all; the time from the start until all serve.
    pub fn restart_all(&mut self, end: End) -> anyhow::Result<Duration> {
        for number in 0..self.members.len() {
            self.end_member(number, end)?;
        }
        let start = Instant::now();
        for number in 0..self.members.len() {
            self.start_member(number)?;
        }
        self.wait_serving()?;
        Ok(start.elapsed())
    }

    /// CPU time of all members since each one's start.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.pids().map(usage::cpu_time).sum()
    }

    pub fn footprint(&self) -> anyhow::Result<Footprint> {
        let resident_bytes = self.pids().map(usage::resident_bytes).sum::<anyhow::Result<u64>>()?;
        let folders = self.members.iter().map(|member| self.folder.join(&member.name));
        let allocated_bytes =
            folders.map(|folder| usage::allocated_bytes(&folder)).sum::<anyhow::Result<u64>>()?;
        Ok(Footprint { resident_bytes, allocated_bytes })
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter_map(|member| member.child.as_ref()).map(Child::id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(child) = &mut member.child {
                // An error means that it is dead already.
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}

/// One call on a connection of its own.
fn call(endpoint: &str, rpc: Rpc, request: &bytes::Bytes) -> anyhow::Result<bytes::Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let attempt = async {
            let mut connection = Connection::open(endpoint).await?;
            connection.unary(rpc, request.clone()).await
        };
        Ok(tokio::time::timeout(ATTEMPT_MAX, attempt).await??)
    })
}

/// Addresses whose ports are free now, all different.
fn free_addresses(count: usize) -> anyhow::Result<Vec<String>> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}
