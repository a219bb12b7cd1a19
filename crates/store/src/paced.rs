//! Background writing: aligned pieces, each followed by a sync and a word to the pace.

use std::sync::Arc;

use quorate_disk::{AlignedBuf, DIRECT_ALIGN_BYTES, Disk, File, Mode};

use crate::config::{PIECE_BYTES, PREALLOCATE_BYTES};
use crate::{Pace, StoreError};

/// Writes whole blocks at `offset`, syncs, and tells the pace.
pub(crate) fn write_piece(
    file: &dyn File,
    path: &str,
    blocks: &[u8],
    offset: u64,
    pace: &mut dyn Pace,
) -> Result<(), StoreError> {
    assert!(
        blocks.len().is_multiple_of(DIRECT_ALIGN_BYTES) && offset.is_multiple_of(DIRECT_ALIGN_BYTES as u64)
    );
    file.write_at(blocks, offset).map_err(|e| StoreError::io(path, e))?;
    if !crate::mutants::planted!(SkipSync) {
        file.sync_data().map_err(|e| StoreError::io(path, e))?;
    }
    pace.wrote(blocks.len(), file.is_direct());
    Ok(())
}

/// Reserves space up to at least `end`, a step ahead where there is as much.
pub(crate) fn reserve(file: &dyn File, path: &str, end: u64) -> Result<(), StoreError> {
    let want = end.next_multiple_of(PREALLOCATE_BYTES);
    let len = file.len().map_err(|e| StoreError::io(path, e))?;
    if len >= end {
        return Ok(());
    }
    match file.preallocate(want).map_err(|e| StoreError::io(path, e)) {
        Err(StoreError::NoSpace { .. }) if end < want => {
            file.preallocate(end).map_err(|e| StoreError::io(path, e))
        }
        other => other,
    }
}

/// A file written from its start to its end.
pub(crate) struct PacedFile {
    file: Arc<dyn File>,
    path: String,
    buf: AlignedBuf,
    filled: usize,
    flushed: u64,
    crc: u32,
}

impl PacedFile {
    /// Starts `path` anew: what an attempt before left there is gone.
    pub(crate) fn create(disk: &dyn Disk, path: &str) -> Result<Self, StoreError> {
        let mode = Mode { create: true, direct: true, ..Mode::default() };
        let file = disk.open(path, mode).map_err(|e| StoreError::io(path, e))?;
        file.truncate(0).map_err(|e| StoreError::io(path, e))?;
        let buf = AlignedBuf::zeroed(PIECE_BYTES);
        Ok(Self { file, path: path.to_owned(), buf, filled: 0, flushed: 0, crc: 0 })
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8], pace: &mut dyn Pace) -> Result<(), StoreError> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.filled));
            self.buf[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == PIECE_BYTES {
                self.flush(pace)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, pace: &mut dyn Pace) -> Result<(), StoreError> {
        let blocks = self.filled.next_multiple_of(DIRECT_ALIGN_BYTES);
        self.buf[self.filled..blocks].fill(0);
        reserve(self.file.as_ref(), &self.path, self.flushed + blocks as u64)?;
        write_piece(self.file.as_ref(), &self.path, &self.buf[..blocks], self.flushed, pace)?;
        self.flushed += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes the rest. Length and checksum of all that was pushed; the file may be longer, its rest means nothing.
    pub(crate) fn finish(mut self, pace: &mut dyn Pace) -> Result<(u64, u32), StoreError> {
        if self.filled > 0 {
            self.flush(pace)?;
        }
        // What was reserved too much goes back. Nothing relies on it but the disk's space, which a crash must not take again.
        let used = self.flushed.next_multiple_of(DIRECT_ALIGN_BYTES as u64);
        let cut = self.file.truncate(used).and_then(|()| self.file.sync_data());
        cut.map_err(|e| StoreError::io(&self.path, e))?;
        Ok((self.flushed, self.crc))
    }
}
