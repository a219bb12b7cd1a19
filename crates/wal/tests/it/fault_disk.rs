//! A disk in memory that keeps what was not synced apart, and loses it as a real one may.
//!
//! A crash keeps each 512-byte sector of each unsynced write or loses it, alone, and keeps any prefix of the
//! unsynced changes to names. The power can also fail at the n-th change of the disk, a limit on space can be set,
//! and bits can be flipped.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_disk::{DIRECT_ALIGN_BYTES, Disk, File, Listed, Mode};

pub const SECTOR_BYTES: usize = 512;

/// Random numbers from a seed, for what a crash keeps.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// One write that no sync followed.
#[derive(Clone, Debug)]
pub struct Unsynced {
    pub path: String,
    pub offset: usize,
    pub data: Vec<u8>,
}

#[derive(Clone, Default)]
struct Contents {
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
}

#[derive(Clone, Default)]
struct Inner {
    direct: bool,
    contents: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    next_id: u64,
    /// Changes that still succeed; the one after is half done and fails, like everything later.
    changes_left: Option<u64>,
    power_is_gone: bool,
    changes: u64,
    space_bytes: Option<u64>,
    writes: u64,
    syncs: u64,
}

#[derive(Clone)]
pub struct FaultDisk(Arc<Mutex<Inner>>);

fn power_failed() -> io::Error {
    io::Error::other("the power failed")
}

impl Inner {
    /// Counts one change of the disk, and fails where the power is gone.
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match &mut self.changes_left {
            Some(0) => {
                self.power_is_gone = true;
                Err(power_failed())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|id| self.contents[id].visible.len() as u64).sum()
    }

    fn change_name(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.name_changes.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Link(path, id) => drop(names.insert(path.clone(), *id)),
        NameChange::Unlink(path) => drop(names.remove(path)),
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl FaultDisk {
    pub fn new(direct: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner { direct, ..Inner::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("fault disk lock")
    }

    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// A disk of its own with the same contents, all of them durable.
    pub fn copy(&self) -> Self {
        let disk = Self(Arc::new(Mutex::new(self.lock().clone())));
        disk.settle();
        disk
    }

    fn settle(&self) {
        let mut inner = self.lock();
        for contents in inner.contents.values_mut() {
            contents.durable = contents.visible.clone();
            contents.unsynced.clear();
        }
        inner.durable_names = inner.names.clone();
        inner.name_changes.clear();
        inner.changes_left = None;
        inner.power_is_gone = false;
    }

    /// What is left after a crash: the dice decide about each sector of each unsynced write, and about how many of
    /// the unsynced changes to names survive.
    pub fn crashed(&self, dice: &mut Dice) -> Self {
        let mut inner = self.lock().clone();
        for contents in inner.contents.values_mut() {
            let mut left = std::mem::take(&mut contents.durable);
            if left.len() < contents.visible.len() && dice.below(2) == 0 {
                left.resize(contents.visible.len(), 0);
            }
            // Sometimes all or nothing, so that the usual crashes are tried as often as the odd ones.
            let style = dice.below(4);
            for (offset, data) in contents.unsynced.drain(..) {
                for (at, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    let keep = match style {
                        0 => true,
                        1 => false,
                        _ => dice.below(2) == 0,
                    };
                    if keep {
                        put(&mut left, offset + at * SECTOR_BYTES, sector);
                    }
                }
            }
            contents.visible = left.clone();
            contents.durable = left;
        }
        let kept = dice.below(inner.name_changes.len() as u64 + 1) as usize;
        let mut names = inner.durable_names.clone();
        inner.name_changes.drain(..).take(kept).for_each(|change| apply(&mut names, &change));
        inner.durable_names = names.clone();
        inner.names = names;
        inner.changes_left = None;
        inner.power_is_gone = false;
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Only what is durable.
    pub fn durable(&self) -> Self {
        let mut inner = self.lock().clone();
        for contents in inner.contents.values_mut() {
            contents.visible = contents.durable.clone();
            contents.unsynced.clear();
        }
        inner.names = inner.durable_names.clone();
        inner.name_changes.clear();
        inner.changes_left = None;
        inner.power_is_gone = false;
        Self(Arc::new(Mutex::new(inner)))
    }

    pub fn unsynced(&self) -> Vec<Unsynced> {
        let inner = self.lock();
        let of = |(path, id): (&String, &u64)| {
            let writes = inner.contents[id].unsynced.iter();
            writes
                .map(|(offset, data)| Unsynced { path: path.clone(), offset: *offset, data: data.clone() })
                .collect::<Vec<_>>()
        };
        inner.names.iter().flat_map(of).collect()
    }

    pub fn fail_after_changes(&self, changes: u64) {
        self.lock().changes_left = Some(changes);
    }

    pub fn mend(&self) {
        let mut inner = self.lock();
        inner.changes_left = None;
        inner.power_is_gone = false;
    }

    pub fn limit_space(&self, bytes: Option<u64>) {
        self.lock().space_bytes = bytes;
    }

    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Writes and syncs so far.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.writes, inner.syncs)
    }

    pub fn paths(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let inner = self.lock();
        inner.contents[&inner.names[path]].visible.clone()
    }

    /// Changes bytes behind everybody's back.
    pub fn patch(&self, path: &str, offset: usize, data: &[u8]) {
        let mut inner = self.lock();
        let id = inner.names[path];
        let contents = inner.contents.get_mut(&id).expect("a linked file has contents");
        put(&mut contents.visible, offset, data);
        put(&mut contents.durable, offset, data);
    }

    pub fn flip(&self, path: &str, offset: usize, mask: u8) {
        let byte = self.bytes(path)[offset];
        self.patch(path, offset, &[byte ^ mask]);
    }

    /// Replaces a file, or makes it.
    pub fn replace(&self, path: &str, data: &[u8]) {
        let mut inner = self.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        let contents = Contents { visible: data.to_vec(), durable: data.to_vec(), unsynced: Vec::new() };
        inner.contents.insert(id, contents);
        inner.names.insert(path.to_owned(), id);
        inner.durable_names.insert(path.to_owned(), id);
    }

    pub fn lose(&self, path: &str) {
        let mut inner = self.lock();
        inner.names.remove(path);
        inner.durable_names.remove(path);
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut inner = self.lock();
        let id = match inner.names.get(path) {
            Some(_) if mode.create_new => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(id) => *id,
            None if mode.create || mode.create_new => {
                inner.change()?;
                inner.next_id += 1;
                let id = inner.next_id;
                inner.contents.insert(id, Contents::default());
                inner.change_name(NameChange::Link(path.to_owned(), id));
                id
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let direct = inner.direct && mode.direct;
        Ok(Arc::new(FaultFile { disk: self.clone(), id, direct, sync: mode.sync }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let inner = self.lock();
        let inside = |path: &String| {
            path.strip_prefix(folder)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| !rest.contains('/'))
        };
        let listed = |(path, id): (&String, &u64)| Listed {
            path: path.clone(),
            len: inner.contents[id].visible.len() as u64,
        };
        Ok(inner.names.iter().filter(|(path, _)| inside(path)).map(listed).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let id = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.change_name(NameChange::Link(to.to_owned(), id));
        inner.change_name(NameChange::Unlink(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        inner.change_name(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _folder: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        inner.durable_names = inner.names.clone();
        inner.name_changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.lock();
        Ok(inner.space_bytes.map_or(u64::MAX, |space| space.saturating_sub(inner.used_bytes())))
    }
}

struct FaultFile {
    disk: FaultDisk,
    id: u64,
    direct: bool,
    sync: bool,
}

impl FaultFile {
    fn with<T>(&self, run: impl FnOnce(&mut Contents) -> T) -> T {
        run(self.disk.lock().contents.get_mut(&self.id).expect("an open file has contents"))
    }

    fn check_aligned(&self, address: usize, len: usize, offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let aligned = [address, len, offset].iter().all(|n| n.is_multiple_of(DIRECT_ALIGN_BYTES));
        if self.direct && !aligned { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    fn flush(&self) {
        self.with(|contents| {
            contents.durable = contents.visible.clone();
            contents.unsynced.clear();
        });
    }
}

impl File for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_aligned(buf.as_ptr() as usize, buf.len(), offset)?;
        self.with(|contents| {
            let start = offset as usize;
            let found = contents.visible.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(found);
            Ok(())
        })
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buf, offset).map(|()| true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check_aligned(data.as_ptr() as usize, data.len(), offset)?;
        let done = {
            let mut inner = self.disk.lock();
            inner.writes += 1;
            if inner.power_is_gone {
                return Err(power_failed());
            }
            inner.change()
        };
        // The write during which the power fails is on its way, so a crash may keep any part of it.
        self.with(|contents| {
            put(&mut contents.visible, offset as usize, data);
            contents.unsynced.push((offset as usize, data.to_vec()));
        });
        done?;
        if self.sync {
            self.disk.lock().syncs += 1;
            self.flush();
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.syncs += 1;
        inner.change()?;
        drop(inner);
        self.flush();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|contents| contents.visible.len() as u64))
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.change()?;
        let more = len.saturating_sub(inner.contents[&self.id].visible.len() as u64);
        if inner.space_bytes.is_some_and(|space| inner.used_bytes() + more > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        drop(inner);
        self.with(|contents| {
            let len = contents.visible.len().max(len as usize);
            contents.visible.resize(len, 0);
        });
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.lock().change()?;
        self.with(|contents| contents.visible.resize(len as usize, 0));
        Ok(())
    }

    fn is_direct(&self) -> bool {
        self.direct
    }
}
