//! Runs the commands of a step: output into the step's log, a bound on time, nothing left behind.
//!
//! Invariants: every command is a process group of its own, and once [`Job::run`] has returned, or xtask was told to
//! end, no process of that group lives. What commands write goes under the target folder, temporary files included.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long one step may take: several times what it takes on two slow cores, and less than what CI allows a run.
const STEP_TIME_MAX: Duration = Duration::from_secs(60 * 60);
const POLL: Duration = Duration::from_millis(50);

/// The group of the command that runs now, for the end of xtask itself.
static RUNNING: Mutex<Option<Pid>> = Mutex::new(None);

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// The target folder that cargo uses.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// Whether this run is what decides over a change.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// A cargo command in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    // What cargo tells this program of itself would count as changed inputs of others' build scripts: crates that a plain
    // cargo has built would be built again, and again by the next plain cargo.
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| of_this_package(name)).for_each(|name| {
        command.env_remove(name);
    });
    if in_ci() {
        // Nothing there is built twice, and what a second build would use costs gigabytes of disk.
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Bytes that the file system of the target folder has left, where the system tells.
pub fn free_disk_bytes() -> Option<u64> {
    let disk = rustix::fs::statvfs(target()).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// Whether a program is on the search path.
pub fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// What a command prints, trimmed; an error where it fails.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", show(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", show(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// From now on, a signal that ends xtask ends the command that it runs too.
pub fn end_commands_with_us() -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    const EXIT_BY_SIGNAL: i32 = 128;
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // Held to the end: no command starts any more.
        let running = RUNNING.lock().expect("nobody panics with the lock");
        if let Some(group) = *running {
            let _ = kill_process_group(group, Signal::KILL);
        }
        std::process::exit(EXIT_BY_SIGNAL + signal);
    });
    Ok(())
}

/// One step's log and bounds.
pub struct Job {
    path: PathBuf,
    log: File,
    scratch: PathBuf,
    deadline: Instant,
}

impl Job {
    /// A job with an empty log `target/xtask/NAME.log` and an empty folder `NAME.tmp` beside it for temporary files.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let folder = target().join("xtask");
        let scratch = folder.join(format!("{name}.tmp"));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch)
                .with_context(|| format!("cannot empty {}", scratch.display()))?;
        }
        std::fs::create_dir(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        let path = folder.join(format!("{name}.log"));
        let _ = std::fs::remove_file(&path);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, log, scratch, deadline: Instant::now() + STEP_TIME_MAX })
    }

    /// Removes the temporary files; those of a failed step stay for whoever looks for the reason.
    pub fn passed(&self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }

    pub fn log_path(&self) -> &Path {
        &self.path
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// The last `lines` lines of the log that say more than which crate cargo came to.
    pub fn tail(&self, lines: usize) -> String {
        const PROGRESS: [&str; 5] =
            ["Compiling ", "Checking ", "Downloaded ", "Downloading ", "Documenting "];
        let text = self.text();
        let all: Vec<&str> = text
            .lines()
            .filter(|line| !PROGRESS.iter().any(|word| line.trim_start().starts_with(word)))
            .collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Writes a line into the log.
    pub fn note(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.log, "{line}").context("the step's log")
    }

    /// Runs a command to its end; an error where it fails or the step's time is over.
    pub fn run(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let shown = show(command);
        self.note(&format!("$ {shown}"))?;
        let status = self.run_group(command).with_context(|| shown.clone())?;
        anyhow::ensure!(status.success(), "{shown} ended with {status}");
        Ok(())
    }

    fn run_group(&mut self, command: &mut Command) -> anyhow::Result<ExitStatus> {
        use std::os::unix::process::CommandExt as _;
        let mut running = RUNNING.lock().expect("nobody panics with the lock");
        let child = command
            .env("TMPDIR", &self.scratch)
            .stdin(Stdio::null())
            .stdout(self.log.try_clone()?)
            .stderr(self.log.try_clone()?)
            .process_group(0)
            .spawn()
            .context("cannot be started")?;
        let group = Pid::from_child(&child);
        *running = Some(group);
        drop(running);
        let ended = wait(child, self.deadline);
        // Whatever the command started and did not end itself.
        let _ = kill_process_group(group, Signal::KILL);
        *RUNNING.lock().expect("nobody panics with the lock") = None;
        ended
    }
}

/// Waits for the end of `child`; past `deadline` its whole group is killed.
fn wait(mut child: Child, deadline: Instant) -> anyhow::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
            bail!("killed: the step took longer than {} minutes", STEP_TIME_MAX.as_secs() / 60);
        }
        std::thread::sleep(POLL);
    }
}

/// Processor time of all commands so far, where the system tells.
pub fn cpu_time() -> Option<Duration> {
    // Fields 16 and 17 of proc_pid_stat(5): time of waited-for children in user and kernel mode. The second field is
    // a name in brackets that may hold blanks.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}
