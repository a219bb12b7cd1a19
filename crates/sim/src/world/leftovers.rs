//! What lies on a member's disk that nothing needs.
//!
//! Invariant: some time after everything came to rest, a member's data folder holds what its manifest names and the small files
//! that `docs/formats` names, and nothing else: no segment that was given up, no file in the making, no part of a snapshot
//! that was never installed, no store of before. The log keeps its segments to use them again, so only their names count.

use quorate_store::generation_folder;

use super::{SECOND, World};
use crate::oracle::{Checked, Violation, ensure};

/// What is left behind is removed within this time.
const LEFT_NANOS_MAX: u64 = 60 * SECOND;
/// The small files of a data folder.
const SMALL: &[&str] = &["reserve", "peers", "joining"];

impl World {
    /// True once no disk holds anything that is not needed.
    pub(super) fn is_tidy(&mut self) -> Result<bool, Violation> {
        let now = self.events.now();
        if now < self.look_for_leftovers_at {
            return Ok(false);
        }
        self.look_for_leftovers_at = now + SECOND;
        let since = *self.at_rest_since.get_or_insert(now);
        for member in 0..self.machines.len() {
            let left = self.leftovers(member);
            if !left.is_empty() {
                self.judge_leftovers(member, &left, now - since)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn judge_leftovers(&self, member: usize, left: &[String], nanos: u64) -> Checked {
        let seconds = LEFT_NANOS_MAX / SECOND;
        ensure!(
            nanos <= LEFT_NANOS_MAX,
            "member {member} leaves behind on its disk, for {seconds} s: {}",
            left.join(", ")
        );
        Ok(())
    }

    fn leftovers(&self, member: usize) -> Vec<String> {
        let machine = &self.machines[member];
        let counts = self.operator.is_none() || self.is_member(member);
        let Some(running) = machine.running.as_ref().filter(|_| counts) else { return Vec::new() };
        let export = running.stages.store.export();
        let folder = generation_folder(export.generation());
        let mut named: Vec<String> = SMALL.iter().map(|name| (*name).to_owned()).collect();
        let store = export.files().into_iter().map(|file| file.name);
        let store = store.chain(["manifest".to_owned(), "manifest.copy".to_owned()]);
        named.extend(store.map(|name| format!("{folder}/{name}")));
        let is_log = |path: &str| path.starts_with("wal/") && path.ends_with(".wal");
        let files = machine.disk.listing().into_iter();
        let left = files.filter(|(path, _)| !is_log(path) && !named.contains(path));
        left.map(|(path, len)| format!("{path} ({len} bytes)")).collect()
    }
}
