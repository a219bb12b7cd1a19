//! The files of a log: their names, how they are opened, how new ones are made.
//!
//! Invariants:
//! - A file has its final name only once it is written from end to end and synced, so its blocks are there whatever
//!   comes. Which place in the log it has says its header, not its name: recycling renames nothing.
//! - A file is used only after its name is durable.

use std::io;
use std::sync::Arc;

use quorate_disk::{AlignedBuf, Disk, File, Listed, Mode};

use crate::error::{Failure, is_no_space};
use crate::format::{BLOCK_BYTES, ENTRY_PREFIX_BYTES, SEGMENT_HEADER_BYTES, framed_bytes};
use crate::{Config, SEGMENT_RESERVE_BYTES, SEGMENT_SIZE_BYTES_MAX, WalError};

/// A prepared segment has this ending.
const SEGMENT_ENDING: &str = ".wal";
/// A segment that is being made has this one; a crash leaves it behind, and the next start removes it.
const UNFINISHED_ENDING: &str = ".new";
/// New segments are written in pieces of this size.
const PREPARE_WRITE_BYTES: usize = 256 << 10;

/// The folder of one log.
pub struct Folder {
    disk: Arc<dyn Disk>,
    config: Config,
}

/// What lies in the folder.
pub struct Listing {
    pub segments: Vec<Listed>,
    pub unfinished: Vec<Listed>,
    /// The number that the next new file gets.
    pub next_number: u64,
}

/// A segment's open file.
pub struct SegmentFile {
    pub path: String,
    pub len: u64,
    file: Arc<dyn File>,
    /// Each write is durable when it returns.
    durable_writes: bool,
    skip_sync: bool,
}

impl Folder {
    pub fn new(disk: Arc<dyn Disk>, config: Config) -> Result<Self, WalError> {
        check(&config)?;
        Ok(Self { disk, config })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    fn path(&self, number: u64, ending: &str) -> String {
        format!("{}/{number:016x}{ending}", self.config.folder)
    }

    pub fn list(&self) -> Result<Listing, WalError> {
        let folder = &self.config.folder;
        let mut listing = Listing { segments: Vec::new(), unfinished: Vec::new(), next_number: 1 };
        for listed in self.disk.list(folder).map_err(WalError::io("listing", folder))? {
            let name = listed.path.rsplit('/').next().unwrap_or_default();
            let (into, number) = if let Some(number) = number_in(name, SEGMENT_ENDING) {
                (&mut listing.segments, number)
            } else if let Some(number) = number_in(name, UNFINISHED_ENDING) {
                (&mut listing.unfinished, number)
            } else {
                return Err(WalError::Foreign { file: listed.path });
            };
            let Some(next) = number.checked_add(1) else {
                return Err(WalError::Foreign { file: listed.path });
            };
            listing.next_number = listing.next_number.max(next);
            into.push(listed);
        }
        Ok(listing)
    }

    /// Opens a prepared segment for reading and writing.
    pub fn open(&self, path: &str) -> Result<SegmentFile, WalError> {
        let skip_sync = self.skip_sync();
        let (file, durable_writes) =
            self.open_file(path, skip_sync).map_err(WalError::io("opening", path))?;
        let len = file.len().map_err(WalError::io("measuring", path))?;
        Ok(SegmentFile { path: path.to_owned(), len, file, durable_writes, skip_sync })
    }

    fn open_file(&self, path: &str, skip_sync: bool) -> io::Result<(Arc<dyn File>, bool)> {
        if self.config.direct {
            let file = self.disk.open(path, Mode { direct: true, sync: !skip_sync, ..Mode::default() })?;
            if file.is_direct() {
                return Ok((file, !skip_sync));
            }
        }
        Ok((self.disk.open(path, Mode::default())?, false))
    }

    fn skip_sync(&self) -> bool {
        #[cfg(feature = "mutants")]
        return self.config.skip_sync;
        #[cfg(not(feature = "mutants"))]
        false
    }

    /// Makes a segment: zeros from end to end, `header` in its first block. It is durable when this returns.
    pub fn prepare(&self, number: u64, header: Option<&[u8]>) -> Result<SegmentFile, WalError> {
        let unfinished = self.path(number, UNFINISHED_ENDING);
        let path = self.path(number, SEGMENT_ENDING);
        let made = self
            .write_new(&unfinished, header)
            .and_then(|()| self.disk.rename(&unfinished, &path))
            .and_then(|()| self.disk.sync_dir(&self.config.folder));
        if let Err(error) = made {
            // The error that counts is the first one; what cannot be removed now is found by the next start.
            let _ = self.disk.remove(&unfinished);
            let _ = self.disk.remove(&path);
            return Err(if is_no_space(&error) {
                let needed_bytes = self.config.segment_size_bytes;
                WalError::NoSpace { folder: self.config.folder.clone(), needed_bytes }
            } else {
                WalError::io("preparing", &path)(error)
            });
        }
        self.open(&path)
    }

    fn write_new(&self, path: &str, header: Option<&[u8]>) -> io::Result<()> {
        let size = self.config.segment_size_bytes;
        let mode = Mode { create_new: true, direct: self.config.direct, ..Mode::default() };
        let file = self.disk.open(path, mode)?;
        file.preallocate(size)?;
        let piece = usize::try_from(size).map_or(PREPARE_WRITE_BYTES, |size| size.min(PREPARE_WRITE_BYTES));
        let zeros = AlignedBuf::zeroed(piece);
        let mut offset = 0;
        while offset < size {
            let len = usize::try_from(size - offset).map_or(piece, |left| left.min(piece));
            file.write_at(&zeros[..len], offset)?;
            offset += len as u64;
        }
        if let Some(header) = header {
            file.write_at(header, 0)?;
        }
        file.sync_data()
    }

    pub fn remove(&self, path: &str) -> Result<(), WalError> {
        self.disk.remove(path).map_err(WalError::io("removing", path))
    }

    /// Makes the names in the log's folder durable.
    pub fn sync_names(&self) -> Result<(), WalError> {
        let folder = &self.config.folder;
        self.disk.sync_dir(folder).map_err(WalError::io("syncing folder", folder))
    }

    /// Makes the folder's own name durable, and the names of the folders around it.
    pub fn sync_names_above(&self) -> Result<(), WalError> {
        let mut folder = self.config.folder.as_str();
        while !folder.is_empty() {
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            self.disk.sync_dir(folder).map_err(WalError::io("syncing folder", folder))?;
        }
        Ok(())
    }
}

impl SegmentFile {
    /// Reads `len` bytes from the start.
    pub fn read(&self, len: usize) -> Result<AlignedBuf, WalError> {
        let mut buf = AlignedBuf::zeroed(len);
        self.file.read_at(&mut buf, 0).map_err(WalError::io("reading", &self.path))?;
        Ok(buf)
    }

    /// Writes whole blocks; they are durable when this returns.
    pub fn write(&self, blocks: &[u8], offset: u64) -> Result<(), Failure> {
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES) && offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(offset + blocks.len() as u64 <= self.len);
        self.file.write_at(blocks, offset).map_err(|e| Failure::new(&self.path, "writing", &e))?;
        if self.durable_writes { Ok(()) } else { self.sync() }
    }

    /// True where a write is durable when it returns and goes past the page cache.
    pub fn has_durable_writes(&self) -> bool {
        self.durable_writes
    }

    /// Makes what the file holds durable, also what an earlier process wrote.
    pub fn sync(&self) -> Result<(), Failure> {
        if self.skip_sync {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| Failure::new(&self.path, "syncing", &e))
    }
}

fn number_in(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// The least size of a segment that takes an entry with a payload of `payload_bytes_max`.
fn segment_size_bytes_min(payload_bytes_max: u64) -> Option<u64> {
    let fixed = SEGMENT_HEADER_BYTES + framed_bytes(ENTRY_PREFIX_BYTES + 7);
    payload_bytes_max.checked_add(fixed as u64 + SEGMENT_RESERVE_BYTES)
}

fn check(config: &Config) -> Result<(), WalError> {
    let Config { segment_size_bytes, payload_bytes_max, .. } = *config;
    let refuse = |what: String| Err(WalError::InvalidConfig { what });
    if config.folder.is_empty() {
        return refuse("the log needs a folder of its own".to_owned());
    }
    if !segment_size_bytes.is_multiple_of(BLOCK_BYTES as u64) || segment_size_bytes > SEGMENT_SIZE_BYTES_MAX {
        return refuse(format!(
            "segment_size_bytes is {segment_size_bytes}; it must be a multiple of {BLOCK_BYTES} and at most \
             {SEGMENT_SIZE_BYTES_MAX}"
        ));
    }
    if config.spare_segments_max == 0 {
        return refuse(
            "spare_segments_max is 0; without a spare a full disk could not be emptied".to_owned(),
        );
    }
    match segment_size_bytes_min(payload_bytes_max) {
        Some(min) if segment_size_bytes >= min => Ok(()),
        _ => refuse(format!(
            "segment_size_bytes is {segment_size_bytes}, too small for an entry of payload_bytes_max \
             {payload_bytes_max}"
        )),
    }
}
