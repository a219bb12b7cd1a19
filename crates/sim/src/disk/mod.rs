//! A hostile disk in memory, under virtual time.
//!
//! Calls return at once and take effect in the member's own view. What they would have cost is added to a cursor of
//! virtual time: the world calls [`SimDisk::begin`] before a stage's step and [`SimDisk::busy_until`] after it, and
//! hands the step's outputs on at that time. A crash before that time treats the calls as in flight or as never made,
//! by the times at which each was issued and completed.
//!
//! Invariants: see `state` for what survives a crash; what the disk does depends on its seed and on the calls alone;
//! with [`DiskFaults::default`] it breaks no promise of [`quorate_disk`].

mod faults;
mod image;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_disk::{DIRECT_ALIGN_BYTES, Disk, File, Listed, Mode};

use crate::rng::{Ppm, Rng};
pub use faults::{DiskCounts, DiskFaults, Latency};
use state::{Change, Inode, InodeId, NameChange, Names, SECTOR_BYTES, parent};

/// How a member's run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process dies; the operating system still writes what it was given.
    Process,
    /// The machine dies: whatever was not synced may be gone.
    Power,
}

/// Which bytes of a file rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    AnyByte,
    /// One that is not zero.
    WrittenByte,
}

/// A bit at rest.
#[derive(Clone, Debug)]
pub struct Spot {
    pub path: String,
    inode: InodeId,
    pub offset: u64,
    bit: u8,
}

struct State {
    rng: Rng,
    latency: Latency,
    faults: DiskFaults,
    /// Bytes that the device holds, whatever the faults of the moment are.
    capacity_bytes: u64,
    counts: DiskCounts,
    /// Virtual time at which the next call of the current step is issued.
    cursor: u64,
    /// Calls before this time take `slow_factor` times as long.
    slow_until: u64,
    slow_factor: u64,
    /// No call completes before this time.
    stuck_until: u64,
    allow_direct: bool,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    names: Names,
    /// Handles opened before the last crash are dead.
    epoch: u64,
    /// A name or handle went since inodes were last collected.
    garbage: bool,
    /// Calls that may not be complete yet: when each was issued, and when it completes.
    under_way: Vec<(u64, u64)>,
    /// What a killed process had asked for is complete at this time.
    quiet_at: u64,
}

/// One member's disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk. `allow_direct` false: a file system that refuses O_DIRECT.
    #[must_use]
    pub fn new(rng: Rng, latency: Latency, allow_direct: bool) -> Self {
        let state = State {
            rng,
            latency,
            faults: DiskFaults::default(),
            capacity_bytes: u64::MAX,
            counts: DiskCounts::default(),
            cursor: 0,
            slow_until: 0,
            slow_factor: 1,
            stuck_until: 0,
            allow_direct,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: Names::default(),
            epoch: 0,
            garbage: false,
            under_way: Vec::new(),
            quiet_at: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A stage starts a step at this virtual time (nanoseconds).
    pub fn begin(&self, now: u64) {
        let mut state = self.lock();
        state.cursor = now;
    }

    /// When the calls made since [`Self::begin`] are all complete.
    #[must_use]
    pub fn busy_until(&self) -> u64 {
        self.lock().cursor
    }

    /// Folds what is durable at `now` into the durable images. `now` must not lie after any crash to come.
    pub fn settle(&self, now: u64) {
        let mut state = self.lock();
        state.under_way.retain(|(_, done)| *done > now);
        state.garbage |= state.names.settle(now);
        for inode in state.inodes.values_mut() {
            inode.settle(now);
        }
        if state.garbage {
            state.collect();
        }
    }

    /// The member dies at `at`. Open handles are dead from here on.
    pub fn crash(&self, at: u64, kind: CrashKind) {
        let mut state = self.lock();
        let State { inodes, rng, counts, names, under_way, quiet_at, .. } = &mut *state;
        counts.crashes += 1;
        let begun = under_way.drain(..).filter(|(issued, _)| *issued < at);
        let quiet = begun.map(|(_, done)| done).fold(at, u64::max);
        *quiet_at = if kind == CrashKind::Process { quiet } else { at };
        match kind {
            CrashKind::Process => {
                names.process_killed(at);
                inodes.values_mut().for_each(|inode| inode.process_killed(at));
            }
            CrashKind::Power => {
                counts.names_lost += names.power_loss(at, rng);
                for inode in inodes.values_mut() {
                    let (lost, torn) = inode.power_loss(at, rng);
                    counts.writes_lost += lost;
                    counts.writes_torn += torn;
                }
            }
        }
        inodes.values_mut().for_each(|inode| inode.handles = 0);
        state.epoch += 1;
        state.collect();
    }

    /// When the process that was killed last is gone: not before the call that it was in is complete. The next process
    /// starts after that, as everywhere.
    #[must_use]
    pub fn quiet_at(&self) -> u64 {
        self.lock().quiet_at
    }

    /// Every file is gone: a new disk in the same machine.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.names = Names::default();
        state.inodes.clear();
        state.epoch += 1;
    }

    /// The device holds so much from now on, whatever faults come and go.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity_bytes = bytes;
    }

    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.lock().capacity_bytes
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    #[must_use]
    pub fn faults(&self) -> DiskFaults {
        self.lock().faults
    }

    /// Calls issued before `until` take `factor` times as long.
    pub fn set_slow(&self, factor: u64, until: u64) {
        let mut state = self.lock();
        (state.slow_factor, state.slow_until) = (factor.max(1), until);
    }

    /// Calls issued before `until` complete only then.
    pub fn set_stuck(&self, until: u64) {
        self.lock().stuck_until = until;
    }

    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.lock().counts
    }

    /// Files, with or without a name.
    /// Every file by its name, and its length.
    #[must_use]
    pub fn listing(&self) -> Vec<(String, u64)> {
        let state = self.lock();
        let len = |inode| state.inodes.get(inode).map_or(0, |inode| inode.view.len());
        state.names.view.names.iter().map(|(path, inode)| (path.clone(), len(inode))).collect()
    }

    #[must_use]
    /// What lies in each folder: files, and bytes of them.
    pub fn folders(&self) -> BTreeMap<String, (u64, u64)> {
        let state = self.lock();
        let mut folders: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (path, inode) in &state.names.view.names {
            let kind: String = path.chars().take_while(|c| !matches!(c, '-' | '.')).collect();
            let folder = path.rsplit_once('/').map_or(kind, |(folder, name)| {
                format!("{folder}/{}", name.split_once('-').map_or("", |(kind, _)| kind))
            });
            let (files, bytes) = folders.entry(folder).or_default();
            *files += 1;
            *bytes += state.inodes[inode].view.len();
        }
        folders
    }

    pub fn files(&self) -> usize {
        self.lock().inodes.len()
    }

    /// Bytes in files, as the device counts them.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// Flips a bit at rest in a file whose path `wanted` accepts; says which file and offset, if one was found.
    pub fn rot(&self, what: Rot, wanted: &dyn Fn(&str) -> bool) -> Option<(String, u64)> {
        let spot = self.spot(what, wanted)?;
        self.flip(&spot).then_some((spot.path, spot.offset))
    }

    /// Chooses a bit at rest in a file whose path `wanted` accepts.
    pub fn spot(&self, what: Rot, wanted: &dyn Fn(&str) -> bool) -> Option<Spot> {
        let mut state = self.lock();
        let State { names, inodes, rng, .. } = &mut *state;
        let found: Vec<(&String, InodeId)> =
            names.view.names.iter().filter(|(p, _)| wanted(p)).map(|(p, i)| (p, *i)).collect();
        if found.is_empty() {
            return None;
        }
        let (path, inode) = *rng.pick(&found);
        let view = &inodes.get(&inode)?.view;
        if view.len() == 0 {
            return None;
        }
        let (mut offset, bit) = (rng.below(view.len()), rng.below(8) as u8);
        if what == Rot::WrittenByte {
            // Most of a file is reserved ahead, and zero.
            offset = view.written(&mut |count| rng.below(count))?;
        }
        Some(Spot { path: path.clone(), inode, offset, bit })
    }

    /// Flips the bit; false where its file is gone or has another name by now, or nothing was ever written there.
    pub fn flip(&self, spot: &Spot) -> bool {
        let mut state = self.lock();
        let State { names, inodes, counts, .. } = &mut *state;
        if names.view.names.get(&spot.path) != Some(&spot.inode) {
            return false;
        }
        let Some(inode) = inodes.get_mut(&spot.inode) else { return false };
        if !inode.view.flip(spot.offset, spot.bit) {
            return false;
        }
        inode.durable.flip(spot.offset, spot.bit);
        counts.bits_flipped += 1;
        true
    }
}

impl State {
    /// Adds what a call over `len` bytes costs; returns when it was issued and when it completes.
    fn spend(&mut self, base: u64, len: usize) -> (u64, u64) {
        let issued = self.cursor;
        let mut nanos = base + self.latency.kib_nanos * (len as u64).div_ceil(1024);
        nanos += self.rng.below(nanos / 2 + 1);
        if issued < self.slow_until {
            nanos *= self.slow_factor;
            self.counts.slow += 1;
        }
        let mut done = issued + nanos;
        if issued < self.stuck_until {
            done = done.max(self.stuck_until);
            self.counts.slow += 1;
        }
        self.cursor = done;
        self.under_way.push((issued, done));
        (issued, done)
    }

    fn error(&mut self, chance: Ppm) -> io::Result<()> {
        if self.faults.error_budget > 0 && self.rng.chance(chance) {
            self.faults.error_budget -= 1;
            self.counts.errors += 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    fn damage(&mut self, path: &str, chance: Ppm) -> bool {
        let spared = self.faults.damage_spares.iter().any(|prefix| path.starts_with(prefix));
        let hit = !spared && self.faults.damage_budget > 0 && self.rng.chance(chance);
        self.faults.damage_budget -= u32::from(hit);
        hit
    }

    fn used_bytes(&self) -> u64 {
        self.inodes.values().map(|inode| inode.view.len()).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.faults.capacity_bytes.min(self.capacity_bytes).saturating_sub(self.used_bytes())
    }

    /// How far a file of `len` bytes may grow towards `want`.
    fn room(&self, len: u64, want: u64) -> u64 {
        let free = self.free_bytes();
        want.min(len.saturating_add(free)).max(len)
    }

    fn collect(&mut self) {
        self.garbage = false;
        let needed = self.names.needed();
        self.inodes.retain(|id, inode| inode.handles > 0 || needed.contains(id));
    }

    fn full(&mut self) -> io::Error {
        self.counts.full += 1;
        io::Error::from_raw_os_error(28)
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file"))
}

fn checked(path: &str) -> io::Result<()> {
    let plain =
        !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path}: not a plain path")))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        checked(path)?;
        let mut state = self.lock();
        let (issued, _) = state.spend(2_000, 0);
        let found = state.names.view.names.get(path).copied();
        let inode = match found {
            Some(_) if mode.create_new => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path}: exists")));
            }
            Some(inode) => inode,
            None if mode.create || mode.create_new => {
                let mut folders: Vec<&str> = Vec::new();
                let mut folder = parent(path);
                while !folder.is_empty() && !state.names.view.folders.contains(folder) {
                    folders.push(folder);
                    folder = parent(folder);
                }
                for folder in folders.into_iter().rev() {
                    state.names.change(NameChange::Folder { path: folder.to_owned() }, issued);
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.names.change(NameChange::Link { path: path.to_owned(), inode }, issued);
                inode
            }
            None => return Err(not_found(path)),
        };
        state.inodes.get_mut(&inode).expect("a named inode exists").handles += 1;
        let (epoch, direct) = (state.epoch, mode.direct && state.allow_direct);
        let read_only = mode.read_only;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
            epoch,
            direct,
            sync: mode.sync,
            read_only,
        }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let state = self.lock();
        let view = &state.names.view.names;
        Ok(view
            .iter()
            .filter(|(path, _)| parent(path) == folder)
            .map(|(path, inode)| Listed { path: path.clone(), len: state.inodes[inode].view.len() })
            .collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        checked(to)?;
        let mut state = self.lock();
        let (issued, _) = state.spend(2_000, 0);
        if !state.names.view.names.contains_key(from) {
            return Err(not_found(from));
        }
        if !parent(to).is_empty() && !state.names.view.folders.contains(parent(to)) {
            return Err(not_found(parent(to)));
        }
        state.names.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned() }, issued);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        let (issued, _) = state.spend(2_000, 0);
        if !state.names.view.names.contains_key(path) {
            return Err(not_found(path));
        }
        state.names.change(NameChange::Unlink { path: path.to_owned() }, issued);
        Ok(())
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !folder.is_empty() && !state.names.view.folders.contains(folder) {
            return Err(not_found(folder));
        }
        let sync_nanos = state.latency.sync_nanos;
        let (_, done) = state.spend(sync_nanos, 0);
        let chance = state.faults.sync_error;
        state.error(chance)?;
        state.counts.syncs += 1;
        state.names.synced(folder, done);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().free_bytes())
    }
}

/// An open file of a [`SimDisk`].
struct SimFile {
    disk: SimDisk,
    /// Its name when it was opened.
    path: String,
    inode: InodeId,
    epoch: u64,
    direct: bool,
    sync: bool,
    read_only: bool,
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.epoch == self.epoch {
            Ok(state)
        } else {
            Err(io::Error::other("the machine crashed since this file was opened"))
        }
    }

    fn lock_to_write(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.read_only {
            return Err(io::Error::from_raw_os_error(9));
        }
        self.lock()
    }

    fn aligned(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let align = DIRECT_ALIGN_BYTES;
        let odd = buf.as_ptr().align_offset(align) != 0
            || !buf.len().is_multiple_of(align)
            || !offset.is_multiple_of(align as u64);
        if self.direct && odd { Err(io::Error::from_raw_os_error(22)) } else { Ok(()) }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.epoch == self.epoch
            && let Some(inode) = state.inodes.get_mut(&self.inode)
        {
            inode.handles = inode.handles.saturating_sub(1);
            state.garbage = true;
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.aligned(buf, offset)?;
        let mut state = self.lock()?;
        let read_nanos = state.latency.read_nanos;
        state.spend(read_nanos, buf.len());
        state.counts.reads += 1;
        let chance = state.faults.read_error;
        state.error(chance)?;
        let faults = state.faults;
        let len = state.inodes[&self.inode].view.len();
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buf.is_empty() {
            return Ok(());
        }
        if state.damage(&self.path, faults.stale_read) {
            state.counts.stale_reads += 1;
            state.inodes[&self.inode].durable.read(buf, offset);
            return Ok(());
        }
        let mut from = offset;
        if state.damage(&self.path, faults.misdirected_read) {
            state.counts.misdirected_reads += 1;
            from = state.rng.below(len - buf.len() as u64 + 1) / SECTOR_BYTES * SECTOR_BYTES;
        }
        state.inodes[&self.inode].view.read(buf, from);
        if state.damage(&self.path, faults.read_flip) {
            state.counts.bits_flipped += 1;
            let (at, bit) = (state.rng.below(buf.len() as u64) as usize, state.rng.below(8));
            buf[at] ^= 1 << bit;
        }
        Ok(())
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        let cold = self.lock()?.rng.one_in(2);
        if cold { Ok(false) } else { self.read_at(buf, offset).map(|()| true) }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.aligned(data, offset)?;
        let mut state = self.lock_to_write()?;
        let Latency { write_nanos, sync_nanos, .. } = state.latency;
        let (issued, done) =
            state.spend(if self.sync { write_nanos + sync_nanos } else { write_nanos }, data.len());
        state.counts.writes += 1;
        let chance = state.faults.write_error;
        let refused = state.error(chance);
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let len = state.inodes[&self.inode].view.len();
        let durable_at = if self.sync { done } else { u64::MAX };
        if end > len && state.room(len, end) < end {
            return Err(state.full());
        }
        let mut at = offset;
        let chance = state.faults.misdirected_write;
        if state.damage(&self.path, chance) {
            state.counts.misdirected_writes += 1;
            at = state.rng.below(len.max(1)) / DIRECT_ALIGN_BYTES as u64 * DIRECT_ALIGN_BYTES as u64;
        }
        // A write that failed may have happened in part.
        let keep = match &refused {
            Ok(()) => data.len(),
            Err(_) => {
                state.rng.below(data.len() as u64 + 1) as usize / SECTOR_BYTES as usize
                    * SECTOR_BYTES as usize
            }
        };
        let durable_at = if refused.is_ok() { durable_at } else { u64::MAX };
        let inode = state.inodes.get_mut(&self.inode).expect("an open inode exists");
        if keep > 0 {
            inode.change(Change::Write { data: data[..keep].to_vec(), offset: at }, issued, durable_at);
        }
        refused
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock()?;
        let sync_nanos = state.latency.sync_nanos;
        let (_, done) = state.spend(sync_nanos, 0);
        state.counts.syncs += 1;
        let chance = state.faults.sync_error;
        let refused = state.error(chance);
        let State { inodes, rng, .. } = &mut *state;
        let inode = inodes.get_mut(&self.inode).expect("an open inode exists");
        match &refused {
            Ok(()) => inode.synced(done),
            Err(_) => inode.sync_failed(rng),
        }
        refused
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock()?.inodes[&self.inode].view.len())
    }

    fn preallocate(&self, want: u64) -> io::Result<()> {
        let mut state = self.lock_to_write()?;
        let write_nanos = state.latency.write_nanos;
        let (issued, _) = state.spend(write_nanos, 0);
        let len = state.inodes[&self.inode].view.len();
        if want <= len {
            return Ok(());
        }
        let mut room = state.room(len, want);
        let short = room < want;
        if short {
            // Some file systems keep what they found before they ran out.
            room = if state.rng.one_in(2) { room } else { len };
        }
        if room > len {
            let inode = state.inodes.get_mut(&self.inode).expect("an open inode exists");
            inode.change(Change::SetLen(room), issued, u64::MAX);
        }
        if short { Err(state.full()) } else { Ok(()) }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock_to_write()?;
        let write_nanos = state.latency.write_nanos;
        let (issued, _) = state.spend(write_nanos, 0);
        let old = state.inodes[&self.inode].view.len();
        if len > old && state.room(old, len) < len {
            return Err(state.full());
        }
        let inode = state.inodes.get_mut(&self.inode).expect("an open inode exists");
        inode.change(Change::SetLen(len), issued, u64::MAX);
        Ok(())
    }

    fn is_direct(&self) -> bool {
        self.direct
    }
}

#[cfg(test)]
mod tests;
