//! One child process whose standard error is a file that can be read while it runs.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long anything may take that is awaited here, on a slow machine with much else to do.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where this process's part of the log file starts.
    log_start: usize,
}

impl Process {
    /// Starts `command`, with its output appended to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log).context("the log file")?;
        let log_start = usize::try_from(file.metadata()?.len())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned(), log_start })
    }

    /// What this process has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Waits until the output holds `text`; an error if the process ends before.
    pub fn wait_for_output(&mut self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        while !self.output().contains(text) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the process ended with {status} before it said {text:?}:\n{}", self.output());
            }
            if Instant::now() > deadline {
                bail!("the process did not say {text:?} within {WAIT_MAX:?}:\n{}", self.output());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What the process has in memory, in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Kills the process as a crash would (SIGKILL), and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        anyhow::ensure!(status.success(), "kill -{name} failed");
        Ok(())
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the process still runs after {within:?}:\n{}", self.output());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `condition` holds, or says what was waited for.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !condition() {
        if Instant::now() > deadline {
            bail!("{what}: not within {WAIT_MAX:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
