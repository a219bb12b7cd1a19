//! The clients that work during a run, and what they say in the end.
//!
//! Go's clientv3 reads, writes, compares and watches, with a history that is judged; another process of it holds locks,
//! leads, keeps leases; etcdctl and Python's etcd3 put keys of which each acknowledged one must be there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use quorate_interop::Cluster;

use crate::tools::{Contention, Tools};

/// What a member logs that shows what it knows, having heard of no leader since its start.
const SHOWN_ALONE: &str = "shows what it knows without a leader";

pub struct Clients {
    history: History,
    contention: Contention,
    etcdctl: Option<Etcdctl>,
    python: Option<Child>,
    acknowledged: PathBuf,
}

impl Clients {
    pub fn start(tools: &Tools, scratch: &Path, cluster: &Cluster) -> anyhow::Result<Self> {
        let endpoints = cluster.endpoints();
        let acknowledged = scratch.join("acknowledged");
        let history = History::start(tools, &endpoints, &scratch.join("history"))?;
        let contention = tools.start_contention(&endpoints)?;
        let python = tools
            .python
            .as_ref()
            .map(|python| {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/chaos_load.py");
                Command::new(python)
                    .arg(script)
                    .args([&endpoints, &acknowledged.display().to_string()])
                    .stdin(Stdio::piped())
                    .spawn()
                    .context("Python's load")
            })
            .transpose()?;
        let etcdctl = tools.etcdctl.is_some().then(|| Etcdctl::start(tools, &endpoints, &acknowledged));
        Ok(Self { history, contention, etcdctl, python, acknowledged })
    }

    /// Calls that each member answered so far, of clients that talk to it alone.
    pub fn answered(&self) -> Vec<u64> {
        self.history.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error where the history's client has ended.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.history.child.try_wait()? {
            Some(status) => anyhow::bail!("the client of the history ended with {status}"),
            None => Ok(()),
        }
    }

    /// Ends the clients; lists what they say is wrong. A member that came back and heard of nobody may have shown less than
    /// before, as often as it says so.
    pub fn judge(mut self, tools: &Tools, cluster: &Cluster) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(etcdctl) = self.etcdctl.take() {
            match etcdctl.finish() {
                Ok(told) => println!("{told}"),
                Err(error) => wrong.push(format!("etcdctl: {error:#}")),
            }
        }
        if let Some(mut python) = self.python.take() {
            drop(python.stdin.take());
            match python.wait() {
                Ok(status) if status.success() => {}
                ended => wrong.push(format!("Python's load: {ended:?}")),
            }
        }
        let alone: Vec<usize> =
            cluster.members.iter().map(|member| member.logged().matches(SHOWN_ALONE).count()).collect();
        match self.history.finish(&alone) {
            Ok(told) => println!("{}", told.trim_end()),
            Err(error) => wrong.push(format!("{error:#}")),
        }
        match self.contention.finish() {
            Ok(told) => println!("{}", told.trim_end()),
            Err(error) => wrong.push(format!("locks, leases and elections: {error:#}")),
        }
        let listed = self.acknowledged.display().to_string();
        let verify = ["verify", "-endpoints", &cluster.endpoints(), "-in", &listed];
        if self.acknowledged.is_file() {
            match tools.go(&verify) {
                Ok(told) => println!("{}", told.trim_end()),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        wrong
    }
}

/// The client whose history is judged.
struct History {
    child: Child,
    answered: Arc<Mutex<Vec<u64>>>,
    reader: Option<JoinHandle<String>>,
}

impl History {
    fn start(tools: &Tools, endpoints: &str, kept: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(tools.go.as_ref().context("no Go client")?)
            .args(["chaos", "-endpoints", endpoints, "-out"])
            .arg(kept)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the client of the history")?;
        let out = BufReader::new(child.stdout.take().context("standard output")?);
        let answered = Arc::new(Mutex::new(vec![0; endpoints.split(',').count()]));
        let noted = Arc::clone(&answered);
        let reader = std::thread::spawn(move || {
            let mut rest = String::new();
            for line in out.lines().map_while(Result::ok) {
                match line.strip_prefix("answered ") {
                    Some(numbers) => {
                        let numbers = numbers.split(' ').map(|number| number.parse().unwrap_or(0)).collect();
                        *noted.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
                    }
                    None => rest.push_str(&format!("{line}\n")),
                }
            }
            rest
        });
        Ok(Self { child, answered, reader: Some(reader) })
    }

    fn finish(&mut self, alone: &[usize]) -> anyhow::Result<String> {
        let mut stdin = self.child.stdin.take().context("finished once")?;
        let told: Vec<String> = alone.iter().map(usize::to_string).collect();
        // Where it has ended already, its status says more.
        let _ = writeln!(stdin, "alone {}", told.join(" "));
        drop(stdin);
        let status = self.child.wait()?;
        let reader = self.reader.take().context("read once")?;
        let text = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        ensure!(status.success(), "the client of the history ended with {status}:\n{text}");
        Ok(text)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts by etcdctl, one after the other.
struct Etcdctl {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<String>>,
}

impl Etcdctl {
    fn start(tools: &Tools, endpoints: &str, acknowledged: &Path) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (end, tools) = (Arc::clone(&ended), tools.clone());
        let (endpoints, acknowledged) = (endpoints.to_owned(), acknowledged.to_owned());
        let thread = std::thread::spawn(move || puts(&tools, &endpoints, &acknowledged, &end));
        Self { ended, thread }
    }

    fn finish(self) -> anyhow::Result<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("its thread panicked"))?
    }
}

fn puts(tools: &Tools, endpoints: &str, acknowledged: &Path, end: &AtomicBool) -> anyhow::Result<String> {
    const PAUSE: Duration = Duration::from_millis(300);
    let (mut done, mut failed) = (0, 0);
    let mut list = std::fs::OpenOptions::new().create(true).append(true).open(acknowledged)?;
    while !end.load(Ordering::Relaxed) {
        let key = format!("load/etcdctl/{}", done + failed);
        if tools.etcdctl(endpoints, &["put", &key, &format!("value of {key}")]).is_ok() {
            done += 1;
            // One write each: Python appends to the same file.
            list.write_all(format!("{key}\n").as_bytes())?;
        } else {
            failed += 1;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(format!("etcdctl: {done} puts acknowledged, {failed} without an answer"))
}
