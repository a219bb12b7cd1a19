//! A disk in memory: for memory-only members and for tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::{Disk, File, Listed, Mode};

#[derive(Default)]
struct Contents(RwLock<Vec<u8>>);

/// A folder tree in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    files: Arc<RwLock<BTreeMap<String, Arc<Contents>>>>,
    /// What all files together may have, if that is limited. Held then while one grows.
    capacity: Arc<Mutex<Option<u64>>>,
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisk").finish_non_exhaustive()
    }
}

impl MemoryDisk {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on all files together have at most so many bytes; what would make them larger finds the disk full.
    pub fn set_capacity(&self, bytes: u64) {
        *self.capacity.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    fn used_bytes(&self) -> u64 {
        let files = self.files.read().expect("memory disk lock");
        files.values().map(|contents| contents.0.read().expect("memory file lock").len() as u64).sum()
    }

    /// Lets `contents` have `len` bytes at least.
    fn grow(&self, contents: &Contents, len: usize) -> io::Result<()> {
        let has = || contents.0.read().expect("memory file lock").len();
        if len <= has() {
            return Ok(());
        }
        let limited = self.capacity.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = *limited;
        // Where there is no limit, files need not wait for each other.
        let _growing = capacity.is_some().then_some(limited);
        if capacity.is_some_and(|bytes| self.used_bytes() + len.saturating_sub(has()) as u64 > bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = contents.0.write().expect("memory file lock");
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Ok(())
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file"))
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut files = self.files.write().expect("memory disk lock");
        if let Some(found) = files.get(path) {
            if mode.create_new {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path}: exists")));
            }
            return Ok(Arc::new(MemoryFile { contents: found.clone(), disk: self.clone() }));
        }
        if !mode.create && !mode.create_new {
            return Err(not_found(path));
        }
        let contents = Arc::new(Contents::default());
        files.insert(path.to_owned(), contents.clone());
        Ok(Arc::new(MemoryFile { contents, disk: self.clone() }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let files = self.files.read().expect("memory disk lock");
        let inside = |path: &str| -> bool {
            let rest = if folder.is_empty() {
                Some(path)
            } else {
                path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'))
            };
            rest.is_some_and(|rest| !rest.contains('/'))
        };
        Ok(files
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(path, contents)| Listed {
                path: path.clone(),
                len: contents.0.read().expect("memory file lock").len() as u64,
            })
            .collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.write().expect("memory disk lock");
        let contents = files.remove(from).ok_or_else(|| not_found(from))?;
        files.insert(to.to_owned(), contents);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let removed = self.files.write().expect("memory disk lock").remove(path);
        removed.map(|_| ()).ok_or_else(|| not_found(path))
    }

    fn sync_dir(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let capacity = *self.capacity.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes())))
    }
}

struct MemoryFile {
    contents: Arc<Contents>,
    disk: MemoryDisk,
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.contents.0.read().expect("memory file lock");
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let found = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buf, offset).map(|()| true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start + data.len();
        self.disk.grow(&self.contents, end)?;
        let mut bytes = self.contents.0.write().expect("memory file lock");
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.0.read().expect("memory file lock").len() as u64)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.disk.grow(&self.contents, len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.contents.0.write().expect("memory file lock").resize(len, 0);
        Ok(())
    }

    fn is_direct(&self) -> bool {
        false
    }
}
