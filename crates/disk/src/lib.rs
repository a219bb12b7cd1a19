//! The one door to durable storage.
//!
//! Everything that Quorate keeps on disk goes through [`Disk`] and [`File`], so the simulator can own every byte.
//! Invariants that an implementation must keep:
//!
//! - Paths are relative to the data folder, with `/` between parts; no `..`, no absolute path.
//! - After [`File::sync_data`] (or a write to a file opened with [`Mode::sync`]) returned, the bytes and
//!   the file's length survive a crash. Before that any part of an unsynced write may be lost or torn.
//! - A new, renamed or removed name is durable only after [`Disk::sync_dir`] of its folder.
//! - Calls block. Whoever must not block runs them on a thread of its own.

mod memory;
mod real;

use std::io;
use std::sync::Arc;

pub use memory::MemoryDisk;
pub use real::RealDisk;

/// Alignment, in bytes, of offsets, lengths and buffers for files opened with [`Mode::direct`].
pub const DIRECT_ALIGN_BYTES: usize = 4096;

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Make the file if it is missing.
    pub create: bool,
    /// Fail if the file exists (implies `create`).
    pub create_new: bool,
    /// Open for reading only.
    pub read_only: bool,
    /// Bypass the page cache where the file system allows it; see [`File::is_direct`].
    pub direct: bool,
    /// Each write is durable when it returns (O_DSYNC).
    pub sync: bool,
}

/// A file's name (relative to the data folder) and length in bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub path: String,
    pub len: u64,
}

/// A folder tree on durable storage.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file. Parent folders are made when `create` is asked for.
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// The files directly inside `folder` ("" is the root), sorted by name; empty where it does not exist.
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes names in `folder` durable.
    fn sync_dir(&self, folder: &str) -> io::Result<()>;
    /// Bytes that may still be written, where known.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Dropping it closes it.
// `len` asks the disk and may fail: an `is_empty` beside it would only hide that.
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync {
    /// Fills `buf` from `offset`, or fails with `UnexpectedEof`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// As [`Self::read_at`] if that needs no wait for the device; `Ok(false)` where it would.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool>;
    /// Writes all of `data` at `offset`, growing the file where needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Reserves space so that writes below `len` cannot fail for want of it; the file reads as zeros there.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// True where reads and writes must be aligned to [`DIRECT_ALIGN_BYTES`].
    fn is_direct(&self) -> bool;
}

/// A zeroed byte buffer whose start is aligned to [`DIRECT_ALIGN_BYTES`].
pub struct AlignedBuf {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let storage = vec![0u8; len + DIRECT_ALIGN_BYTES];
        let start = storage.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
        assert!(start <= DIRECT_ALIGN_BYTES);
        Self { storage, start, len }
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}
