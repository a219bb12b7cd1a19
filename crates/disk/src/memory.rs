//! A disk in memory: for memory-only members and for tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, RwLock};

use crate::{Disk, File, Listed, Mode};

#[derive(Default)]
struct Contents(RwLock<Vec<u8>>);

/// A folder tree in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    files: Arc<RwLock<BTreeMap<String, Arc<Contents>>>>,
}

impl MemoryDisk {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
            return Ok(Arc::new(MemoryFile { contents: found.clone() }));
        }
        if !mode.create && !mode.create_new {
            return Err(not_found(path));
        }
        let contents = Arc::new(Contents::default());
        files.insert(path.to_owned(), contents.clone());
        Ok(Arc::new(MemoryFile { contents }))
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
        Ok(u64::MAX)
    }
}

struct MemoryFile {
    contents: Arc<Contents>,
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
        let mut bytes = self.contents.0.write().expect("memory file lock");
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
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
        let mut bytes = self.contents.0.write().expect("memory file lock");
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Ok(())
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
