//! A disk in memory that crashes at a given operation, loses or tears what was not synced, and can be full.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_disk::{Disk, File, Listed, Mode};

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Len(usize),
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum NameChange {
    Create { path: String, inode: usize },
    Rename { from: String, to: String, inode: usize },
    Remove { path: String },
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    operations: u64,
    crash_at: Option<u64>,
    bytes_max: Option<u64>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change, keep: usize) {
    match change {
        Change::Len(len) => bytes.resize(*len, 0),
        Change::Write { offset, data } => {
            let data = &data[..keep.min(data.len())];
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Create { path, inode } => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Rename { from, to, inode } => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        NameChange::Remove { path } => {
            names.remove(path);
        }
    }
}

impl State {
    /// Counts a changing operation; an error from the crash on. The operation of the crash itself may have happened.
    fn count(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.crash_at {
            Some(at) if self.operations > at => Err(io::Error::other("the machine is gone")),
            _ => Ok(()),
        }
    }

    fn grow(&self, inode: usize, len: usize) -> io::Result<()> {
        let used: usize = self.names.values().map(|&n| self.inodes[n].now.len()).sum();
        let more = len.saturating_sub(self.inodes[inode].now.len());
        if self.bytes_max.is_some_and(|max| (used + more) as u64 > max) && more > 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn change(&mut self, inode: usize, change: Change) {
        apply(&mut self.inodes[inode].now, &change, usize::MAX);
        self.inodes[inode].unsynced.push(change);
    }
}

#[derive(Clone, Default)]
pub struct FaultDisk(Arc<Mutex<State>>);

impl FaultDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with it held")
    }

    /// From now on `operations` changes succeed; then the machine is gone.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
    }

    pub fn has_crashed(&self) -> bool {
        let state = self.state();
        state.crash_at.is_some_and(|at| state.operations > at)
    }

    pub fn limit(&self, bytes_max: Option<u64>) {
        self.state().bytes_max = bytes_max;
    }

    pub fn used_bytes(&self) -> u64 {
        let state = self.state();
        state.names.values().map(|&n| state.inodes[n].now.len() as u64).sum()
    }

    /// What a machine finds that starts again: of all that was not synced some is there, some is not, some is torn.
    pub fn after_crash(&self, seed: u64) -> Self {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % below
        };
        let mut state = self.state().clone();
        for change in std::mem::take(&mut state.unsynced_names) {
            if draw(2) == 0 {
                apply_name(&mut state.durable_names, &change);
            }
        }
        state.names = state.durable_names.clone();
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.unsynced) {
                match (draw(3), &change) {
                    (0, _) => {}
                    (1, Change::Write { data, .. }) => {
                        let keep = draw(data.len() as u64 + 1) as usize;
                        apply(&mut inode.durable, &change, keep);
                    }
                    _ => apply(&mut inode.durable, &change, usize::MAX),
                }
            }
            inode.now = inode.durable.clone();
        }
        (state.crash_at, state.bytes_max) = (None, None);
        Self(Arc::new(Mutex::new(state)))
    }
}

fn missing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk for FaultDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let inode = match state.names.get(path) {
            Some(_) if mode.create_new => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            Some(&inode) => inode,
            None if mode.create || mode.create_new => {
                state.count()?;
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                state.names.insert(path.to_owned(), inode);
                state.unsynced_names.push(NameChange::Create { path: path.to_owned(), inode });
                inode
            }
            None => return Err(missing()),
        };
        Ok(Arc::new(FaultFile { disk: self.clone(), inode }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let state = self.state();
        let inside = |path: &str| path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).is_some();
        let listed = state.names.iter().filter(|(path, _)| inside(path));
        Ok(listed
            .map(|(path, &n)| Listed { path: path.clone(), len: state.inodes[n].now.len() as u64 })
            .collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let counted = state.count();
        let inode = *state.names.get(from).ok_or_else(missing)?;
        let change = NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode };
        apply_name(&mut state.names, &change);
        state.unsynced_names.push(change);
        counted
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        let counted = state.count();
        state.names.remove(path).ok_or_else(missing)?;
        state.unsynced_names.push(NameChange::Remove { path: path.to_owned() });
        counted
    }

    fn sync_dir(&self, _folder: &str) -> io::Result<()> {
        let mut state = self.state();
        state.count()?;
        state.unsynced_names.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct FaultFile {
    disk: FaultDisk,
    inode: usize,
}

impl File for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let bytes = &state.inodes[self.inode].now;
        let found = bytes.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Nothing is ever in a cache: a reader must be able to wait.
    fn try_read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let counted = state.count();
        state.grow(self.inode, offset as usize + data.len())?;
        if !self.disk.gone(&state) || counted.is_ok() {
            state.change(self.inode, Change::Write { offset: offset as usize, data: data.to_vec() });
        }
        counted
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.count()?;
        let inode = &mut state.inodes[self.inode];
        for change in std::mem::take(&mut inode.unsynced) {
            apply(&mut inode.durable, &change, usize::MAX);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].now.len() as u64)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.count()?;
        state.grow(self.inode, len as usize)?;
        if (state.inodes[self.inode].now.len() as u64) < len {
            state.change(self.inode, Change::Len(len as usize));
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.count()?;
        state.change(self.inode, Change::Len(len as usize));
        Ok(())
    }

    fn is_direct(&self) -> bool {
        true
    }
}

impl FaultDisk {
    /// Past the operation of the crash itself, nothing happens any more.
    fn gone(&self, state: &State) -> bool {
        state.crash_at.is_some_and(|at| state.operations > at + 1)
    }
}
