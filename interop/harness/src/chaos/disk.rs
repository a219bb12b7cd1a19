//! Small disks: one that can be filled, and one that can be made to stand still.
//!
//! Both need a mount namespace of our own. The second also needs the system's loop devices and `fsfreeze`. A disk that
//! stands still goes on by itself after a while, whatever becomes of this process: nothing may wait for it for ever.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::tools::output;

const FULL_BYTES: &str = "640m";
const STUCK_BYTES: u64 = 1 << 30;
/// By then a frozen disk goes on.
pub const FROZEN_MAX: Duration = Duration::from_secs(8);

/// A disk in memory.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={FULL_BYTES}");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all that is left.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = std::fs::File::create(self.ballast()).context("the ballast")?;
        let mut piece = vec![0_u8; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                // What is left is smaller than that.
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(())
    }

    pub fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.ballast()).context("the ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// A disk in a file.
#[derive(Debug)]
pub struct FileDisk {
    at: PathBuf,
    /// What lets it go on by itself.
    watchdog: Option<Child>,
}

impl FileDisk {
    /// Fails where the system has no loop devices for us.
    pub fn mount(image: &Path, at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        std::fs::File::create(image)?.set_len(STUCK_BYTES)?;
        output(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))?;
        output(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        let mut disk = Self { at: at.to_owned(), watchdog: None };
        disk.freeze().context("it cannot be made to stand still")?;
        disk.thaw();
        Ok(disk)
    }

    pub fn freeze(&mut self) -> anyhow::Result<()> {
        // A group of its own, so that it outlives whoever ends ours.
        let watchdog = Command::new("sh")
            .args(["-c", &format!("sleep {}; exec fsfreeze -u \"$0\"", FROZEN_MAX.as_secs())])
            .arg(&self.at)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("what lets the disk go on")?;
        self.watchdog = Some(watchdog);
        output(Command::new("fsfreeze").arg("-f").arg(&self.at)).map(drop)
    }

    /// Lets the disk go on, if it does not yet.
    pub fn thaw(&mut self) {
        let _ = output(Command::new("fsfreeze").arg("-u").arg(&self.at));
        if let Some(mut watchdog) = self.watchdog.take() {
            // It would let a later standstill end early.
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.thaw();
        let _ = output(Command::new("umount").arg("-l").arg(&self.at));
    }
}
