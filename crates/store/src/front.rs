//! The front: what was appended and changed since the last freeze, in memory.
//!
//! Invariants:
//!
//! - Bodies lie in *extents*, byte for byte as they will lie in their segments; a record's location is final when it
//!   is appended.
//! - An extent starts at a multiple of [`SEGMENT_BLOCK_BYTES`]: writing it never touches a block that is durable.
//! - Changes are kept in the order in which they were made; a checkpoint sorts them and the last one of a key wins.

use std::sync::Arc;

use quorate_disk::AlignedBuf;

use crate::config::{PIECE_BYTES, SEGMENT_BLOCK_BYTES, padded};
use crate::fields::Fields;
use crate::{KEY_BYTES_MAX, ROW_BYTES_MAX, TableId};

/// A piece of an extent, written to disk at once.
pub(crate) struct Chunk {
    /// Where in the segment it starts.
    pub(crate) start: u32,
    pub(crate) filled: usize,
    buf: AlignedBuf,
}

impl Chunk {
    fn new(start: u32) -> Self {
        Self { start, filled: 0, buf: AlignedBuf::zeroed(PIECE_BYTES) }
    }

    /// What is filled, padded with zeros to whole blocks.
    pub(crate) fn blocks(&self) -> &[u8] {
        &self.buf[..self.filled.next_multiple_of(SEGMENT_BLOCK_BYTES as usize)]
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.buf[..self.filled]
    }
}

/// A stretch of one segment, not yet durable.
#[derive(Clone)]
pub(crate) struct Extent {
    pub(crate) segment: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) records: u32,
    pub(crate) chunks: Vec<Arc<Chunk>>,
}

impl Extent {
    pub(crate) fn new(segment: u32, start: u32) -> Self {
        assert!(start >= SEGMENT_BLOCK_BYTES && start.is_multiple_of(SEGMENT_BLOCK_BYTES));
        Self { segment, start, end: start, records: 0, chunks: Vec::new() }
    }

    /// Where the next extent of the same segment starts.
    pub(crate) fn padded_end(&self) -> u32 {
        padded(self.end)
    }

    /// Appends bytes. Only the front's own extents grow: nobody else holds their last chunk yet.
    pub(crate) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.chunks.last().is_none_or(|chunk| chunk.filled == PIECE_BYTES) {
                self.chunks.push(Arc::new(Chunk::new(self.end)));
            }
            let last = self.chunks.last_mut().expect("pushed where missing");
            let chunk = Arc::get_mut(last).expect("a growing extent shares no chunk");
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - chunk.filled));
            chunk.buf[chunk.filled..chunk.filled + now.len()].copy_from_slice(now);
            chunk.filled += now.len();
            self.end += now.len() as u32;
            bytes = later;
        }
    }

    /// The chunk that holds the byte at `offset`.
    pub(crate) fn chunk_at(&self, offset: u32) -> Option<&Chunk> {
        let within = offset.checked_sub(self.start)?;
        self.chunks.get(within as usize / PIECE_BYTES).map(Arc::as_ref)
    }
}

const TOMBSTONE: u16 = u16::MAX;
const CHANGE_HEADER_BYTES: usize = 1 + 4 + 2;
const _: () = assert!(ROW_BYTES_MAX + crate::rows::PREFIX_BYTES_MAX < TOMBSTONE as usize);
const _: () = assert!(KEY_BYTES_MAX + ROW_BYTES_MAX + 64 < PIECE_BYTES);

/// A changed key and its new value; `None` where it was removed.
pub(crate) type Change<'a> = (TableId, &'a [u8], Option<&'a [u8]>);

/// All changes of rows since the last freeze, in order.
#[derive(Default)]
pub(crate) struct Changes {
    chunks: Vec<Vec<u8>>,
    count: usize,
    bytes: u64,
}

impl Changes {
    pub(crate) fn push(&mut self, table: TableId, key: &[u8], value: Option<&[u8]>) {
        let len = CHANGE_HEADER_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        if self.chunks.last().is_none_or(|chunk| chunk.len() + len > PIECE_BYTES) {
            self.chunks.push(Vec::with_capacity(PIECE_BYTES));
        }
        let chunk = self.chunks.last_mut().expect("pushed where missing");
        chunk.push(table.0);
        chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let value_len = value.map_or(TOMBSTONE, |value| value.len() as u16);
        chunk.extend_from_slice(&value_len.to_le_bytes());
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
        self.bytes += len as u64;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every changed key once, with its last value, by table and key.
    pub(crate) fn sorted(&self) -> Vec<Change<'_>> {
        let mut all = Vec::with_capacity(self.count);
        for chunk in &self.chunks {
            let mut fields = Fields::new(chunk);
            while !fields.rest().is_empty() {
                all.push(next_change(&mut fields).expect("written by `push`"));
            }
        }
        // Stable, so that the last change of a key is the last of its group.
        all.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let mut kept: Vec<Change<'_>> = Vec::with_capacity(all.len());
        for change in all {
            match kept.last_mut() {
                Some(last) if (last.0, last.1) == (change.0, change.1) => *last = change,
                _ => kept.push(change),
            }
        }
        kept
    }
}

fn next_change<'a>(fields: &mut Fields<'a>) -> Option<Change<'a>> {
    let table = TableId(fields.u8()?);
    let key_len = fields.u32()? as usize;
    let value_len = fields.u16()?;
    let key = fields.take(key_len)?;
    let value = if value_len == TOMBSTONE { None } else { Some(fields.take(value_len.into())?) };
    Some((table, key, value))
}

/// What is not frozen yet.
#[derive(Default)]
pub(crate) struct Front {
    /// At most one of each segment; only the last one grows.
    pub(crate) extents: Vec<Extent>,
    pub(crate) changes: Changes,
    /// Segments whose last live record was moved away: gone with the checkpoint of this front.
    pub(crate) vacated: Vec<u32>,
    /// The index was written anew: with the checkpoint of this front, all runs before this one go.
    pub(crate) runs_from: Option<u64>,
}

impl Front {
    pub(crate) fn bytes(&self) -> u64 {
        let bodies: u64 = self.extents.iter().map(|extent| u64::from(extent.end - extent.start)).sum();
        bodies + self.changes.bytes
    }
}
