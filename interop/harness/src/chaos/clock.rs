//! Wall clocks that can be moved, by libfaketime, which each member has loaded before itself.
//!
//! Only the wall clock is moved: a monotonic clock that jumps is no fault that a system has.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use quorate_interop::Member;

#[derive(Debug)]
pub struct Clocks {
    files: Vec<PathBuf>,
}

impl Clocks {
    /// Gives each member a clock, whose offset is in a file below `folder`.
    pub fn new(library: &Path, folder: &Path, members: &mut [Member]) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for member in members {
            let file = folder.join(format!("{}.clock", member.name));
            for (name, value) in [
                ("LD_PRELOAD", library.display().to_string()),
                ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
                // How long an offset is kept before the file is looked at again: seconds.
                ("FAKETIME_CACHE_DURATION", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
                ("FAKETIME_DONT_RESET", "1".to_owned()),
                ("NO_FAKE_STAT", "1".to_owned()),
            ] {
                member.environment.push((name.to_owned(), value));
            }
            files.push(file);
        }
        let clocks = Self { files };
        (0..clocks.files.len()).try_for_each(|place| clocks.set(place, 0))?;
        Ok(clocks)
    }

    /// Moves a clock: it is that many seconds from the machine's.
    pub fn set(&self, place: usize, seconds: i64) -> anyhow::Result<()> {
        // Never half written.
        let (file, new) = (&self.files[place], self.files[place].with_extension("new"));
        std::fs::write(&new, format!("{seconds:+}s\n")).context("a clock")?;
        std::fs::rename(new, file).context("a clock")
    }
}
