//! What a simulated device holds: the view of the running member, the image that survives a crash, and between them
//! the calls that are not durable yet, each with the virtual times at which it was issued and completed.
//!
//! Invariants:
//!
//! - `view` of a file = `durable` + every call of `pending`, in order.
//! - A write leaves `pending` into `durable` once a sync that was issued after it completed (or, for a file opened with
//!   `Mode::sync`, once the write itself completed), and every call before it left too.
//! - After a crash at time `c`, a call issued at or after `c` never happened; a call that was not durable at `c` was
//!   kept, lost or torn at sectors, whatever became of others.

use std::collections::{BTreeMap, BTreeSet};

use super::image::Image;
use crate::rng::Rng;

/// What a device writes atomically.
pub(super) const SECTOR_BYTES: u64 = 512;

/// A file system commits its journal about this often.
const WRITE_BACK_NANOS: u64 = 5_000_000_000;

pub(super) type InodeId = u64;

/// One call that changes a file.
pub(super) enum Change {
    Write { data: Vec<u8>, offset: u64 },
    SetLen(u64),
}

pub(super) struct Pending {
    pub change: Change,
    pub issued_at: u64,
    /// When this change became durable by a sync (of its own or a later one); `u64::MAX`: not synced yet.
    pub durable_at: u64,
    /// A sync failed after this write: the device dropped it, and no later sync brings it back. It stays in the page
    /// cache until the machine restarts.
    pub doomed: bool,
}

#[derive(Default)]
pub(super) struct Inode {
    pub view: Image,
    pub durable: Image,
    pub pending: Vec<Pending>,
    pub handles: u64,
}

impl Inode {
    /// Moves what is durable at `now` from the front of `pending` into the durable image.
    pub(super) fn settle(&mut self, now: u64) {
        let settled = self.pending.iter().take_while(|p| p.durable_at <= now).count();
        for done in self.pending.drain(..settled) {
            apply(&mut self.durable, &done.change);
        }
    }

    pub(super) fn change(&mut self, change: Change, issued_at: u64, durable_at: u64) {
        apply(&mut self.view, &change);
        self.pending.push(Pending { change, issued_at, durable_at, doomed: false });
    }

    /// A sync that completes at `completes_at` makes everything before it durable.
    pub(super) fn synced(&mut self, completes_at: u64) {
        for p in &mut self.pending {
            if !p.doomed {
                p.durable_at = p.durable_at.min(completes_at);
            }
        }
    }

    /// What a failed sync leaves: the device may have dropped any write that was not durable.
    pub(super) fn sync_failed(&mut self, rng: &mut Rng) {
        for p in &mut self.pending {
            if p.durable_at == u64::MAX && rng.one_in(2) {
                p.doomed = true;
            }
        }
    }

    /// A power loss at `at`; returns how many writes were lost and torn.
    pub(super) fn power_loss(&mut self, at: u64, rng: &mut Rng) -> (u64, u64) {
        let (mut lost, mut torn) = (0, 0);
        for p in std::mem::take(&mut self.pending) {
            if p.issued_at >= at || p.doomed {
                continue;
            }
            if p.durable_at <= at {
                apply(&mut self.durable, &p.change);
                continue;
            }
            match (rng.below(3), p.change) {
                (0, change) => apply(&mut self.durable, &change),
                (1, Change::Write { data, offset }) if sectors(offset, data.len()).count() > 1 => {
                    torn += 1;
                    tear(&mut self.durable, &data, offset, rng);
                }
                _ => lost += 1,
            }
        }
        self.view = self.durable.clone();
        (lost, torn)
    }

    /// The process died at `at`, the machine did not: what it had written is in the page cache, still unsynced.
    pub(super) fn process_killed(&mut self, at: u64) {
        self.pending.retain(|p| p.issued_at < at);
        self.view = self.durable.clone();
        for p in &self.pending {
            apply(&mut self.view, &p.change);
        }
    }
}

fn apply(image: &mut Image, change: &Change) {
    match change {
        Change::Write { data, offset } => image.write(data, *offset),
        Change::SetLen(len) => image.set_len(*len),
    }
}

/// The sectors of a write: range in the data, place in the file.
fn sectors(offset: u64, len: usize) -> impl Iterator<Item = (std::ops::Range<usize>, u64)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let take = ((SECTOR_BYTES - at % SECTOR_BYTES) as usize).min(len - done);
        done += take;
        Some((done - take..done, at))
    })
}

/// Writes some sectors of `data`: a part from the start, a part from the end, or a random choice.
fn tear(image: &mut Image, data: &[u8], offset: u64, rng: &mut Rng) {
    let count = sectors(offset, data.len()).count() as u64;
    let cut = rng.between(1, count - 1);
    let how = rng.below(3);
    for (i, (range, at)) in sectors(offset, data.len()).enumerate() {
        let keep = match how {
            0 => (i as u64) < cut,
            1 => (i as u64) >= cut,
            _ => rng.one_in(2),
        };
        if keep {
            image.write(&data[range], at);
        }
    }
}

/// One change of a folder.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { path: String, inode: InodeId },
    Rename { from: String, to: String },
    Unlink { path: String },
    Folder { path: String },
}

pub(super) struct PendingName {
    pub change: NameChange,
    pub issued_at: u64,
    pub durable_at: u64,
}

impl PendingName {
    /// The folder whose sync makes the change durable.
    fn folder(&self) -> &str {
        match &self.change {
            NameChange::Link { path, .. } | NameChange::Unlink { path } | NameChange::Folder { path } => {
                parent(path)
            }
            NameChange::Rename { to, .. } => parent(to),
        }
    }
}

/// The folder that `path` lies in; "" is the root.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A folder tree at one moment.
#[derive(Clone, Default)]
pub(super) struct Tree {
    pub names: BTreeMap<String, InodeId>,
    pub folders: BTreeSet<String>,
}

impl Tree {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link { path, inode } => {
                self.names.insert(path.clone(), *inode);
            }
            NameChange::Rename { from, to } => {
                if let Some(inode) = self.names.remove(from) {
                    self.names.insert(to.clone(), inode);
                }
            }
            NameChange::Unlink { path } => {
                self.names.remove(path);
            }
            NameChange::Folder { path } => {
                self.folders.insert(path.clone());
            }
        }
    }

    /// Drops what lies in folders that do not exist.
    fn prune(&mut self) -> u64 {
        let before = self.names.len() + self.folders.len();
        loop {
            let orphan = |path: &String, folders: &BTreeSet<String>| {
                let folder = parent(path);
                !folder.is_empty() && !folders.contains(folder)
            };
            let folders: BTreeSet<String> =
                self.folders.iter().filter(|f| !orphan(f, &self.folders)).cloned().collect();
            let done = folders.len() == self.folders.len();
            self.folders = folders;
            if done {
                self.names.retain(|path, _| !orphan(path, &self.folders));
                return (before - self.names.len() - self.folders.len()) as u64;
            }
        }
    }
}

/// Names in view, durable names, and the changes between.
#[derive(Default)]
pub(super) struct Names {
    pub view: Tree,
    durable: Tree,
    pending: Vec<PendingName>,
}

impl Names {
    pub(super) fn change(&mut self, change: NameChange, issued_at: u64) {
        self.view.apply(&change);
        self.pending.push(PendingName { change, issued_at, durable_at: u64::MAX });
    }

    /// A sync of `folder` that completes at `completes_at`.
    pub(super) fn synced(&mut self, folder: &str, completes_at: u64) {
        for p in &mut self.pending {
            if p.folder() == folder {
                p.durable_at = p.durable_at.min(completes_at);
            }
        }
    }

    /// Folds what is durable at `now` into the durable tree, as far as no earlier change is still open. True where
    /// anything was. What nobody synced is written back by the file system after [`WRITE_BACK_NANOS`].
    pub(super) fn settle(&mut self, now: u64) -> bool {
        let durable = |p: &PendingName| p.durable_at.min(p.issued_at + WRITE_BACK_NANOS) <= now;
        let settled = self.pending.iter().take_while(|p| durable(p)).count();
        for p in self.pending.drain(..settled) {
            self.durable.apply(&p.change);
        }
        settled > 0
    }

    /// A power loss at `at`: in each folder the changes up to some point survive, at least those that were synced.
    /// Returns how many names were lost or came back.
    pub(super) fn power_loss(&mut self, at: u64, rng: &mut Rng) -> u64 {
        let pending: Vec<PendingName> = std::mem::take(&mut self.pending);
        let mut cut: BTreeMap<String, bool> = BTreeMap::new();
        let mut lost = 0;
        for p in pending.into_iter().filter(|p| p.issued_at < at) {
            let durable = p.durable_at <= at;
            let cut = cut.entry(p.folder().to_owned()).or_insert(false);
            if !durable && !*cut {
                *cut = rng.one_in(2);
            }
            if durable || !*cut {
                self.durable.apply(&p.change);
            } else {
                lost += 1;
            }
        }
        lost += self.durable.prune();
        self.view = self.durable.clone();
        lost
    }

    pub(super) fn process_killed(&mut self, at: u64) {
        self.pending.retain(|p| p.issued_at < at);
        self.view = self.durable.clone();
        for p in &self.pending {
            self.view.apply(&p.change);
        }
    }

    /// The inodes that some name, durable or not, still leads to.
    pub(super) fn needed(&self) -> BTreeSet<InodeId> {
        let linked = self.pending.iter().filter_map(|p| match p.change {
            NameChange::Link { inode, .. } => Some(inode),
            _ => None,
        });
        self.view.names.values().chain(self.durable.names.values()).copied().chain(linked).collect()
    }
}
