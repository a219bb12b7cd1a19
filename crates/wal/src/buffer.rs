//! The one buffer that batches are built in: what the last block of the active segment holds, and new records behind.
//!
//! Invariants:
//! - `bytes[..filled]` are the segment's bytes from `block_start`, which is a multiple of the block size.
//! - Between batches `filled` is less than a block: only the unfinished last block is kept.

use quorate_disk::AlignedBuf;

use crate::format::BLOCK_BYTES;

pub struct TailBuffer {
    bytes: AlignedBuf,
    filled: usize,
    /// Offset in the segment of `bytes[0]`.
    block_start: u64,
}

impl TailBuffer {
    /// Goes on at `offset` of a segment, whose unfinished block so far holds `block`.
    pub fn new(offset: u64, block: &[u8]) -> Self {
        let mut bytes = AlignedBuf::zeroed(BLOCK_BYTES);
        bytes[..block.len()].copy_from_slice(block);
        let block_start = offset - block.len() as u64;
        assert!(block_start.is_multiple_of(BLOCK_BYTES as u64) && block.len() < BLOCK_BYTES);
        Self { bytes, filled: block.len(), block_start }
    }

    /// Goes on at the start of a block of another segment. Keeps the memory.
    pub fn restart(&mut self, block_start: u64) {
        assert!(block_start.is_multiple_of(BLOCK_BYTES as u64));
        self.filled = 0;
        self.block_start = block_start;
    }

    /// Where in the segment the next record goes.
    pub fn offset(&self) -> u64 {
        self.block_start + self.filled as u64
    }

    /// Makes room for `more` bytes, so that building a batch allocates at most once.
    pub fn reserve(&mut self, more: usize) {
        let needed = (self.filled + more).next_multiple_of(BLOCK_BYTES);
        if needed > self.bytes.len() {
            let mut grown = AlignedBuf::zeroed(needed.next_power_of_two());
            grown[..self.filled].copy_from_slice(&self.bytes[..self.filled]);
            self.bytes = grown;
        }
    }

    /// The next `len` bytes, for the caller to fill whole.
    pub fn extend(&mut self, len: usize) -> &mut [u8] {
        self.reserve(len);
        let start = self.filled;
        self.filled += len;
        &mut self.bytes[start..start + len]
    }

    /// What is to be written now, and at which offset: whole blocks, zeros behind the last record.
    pub fn blocks(&mut self) -> (u64, &[u8]) {
        let end = self.filled.next_multiple_of(BLOCK_BYTES);
        let filled = self.filled;
        self.bytes[filled..end].fill(0);
        (self.block_start, &self.bytes[..end])
    }

    /// After the blocks were written: keeps only the unfinished last one.
    pub fn settle(&mut self) {
        let whole = self.filled - self.filled % BLOCK_BYTES;
        self.bytes.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        self.block_start += whole as u64;
    }
}
