//! Ordered tables: the one place where models keep their state.
//!
//! A table maps a key to a *row* (short bytes, held in memory) and, where there is one, to a *body* (any bytes, held
//! in an append-only segment). Invariants:
//!
//! - A body is never changed. A record is appended once, under one or two owners (table and key), and is alive while
//!   an owner's row points at it.
//! - Rows change only inside `apply`, one command at a time, under the write lock; readers hold the read lock briefly
//!   and resume by key.
//! - What two members hold at one applied index is equal, table by table; [`Tables::hash`] says so in O(1).

#![forbid(unsafe_code)]

pub mod ordered;
mod tables;

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use quorate_ids::LogIndex;

pub use tables::{Body, Entry, Tables};

/// A row is at most this long.
pub const ROW_BYTES_MAX: usize = 1024;
/// A key of a table is at most this long.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// A table's number. Models own ranges of them; see `quorate_models`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u8);

/// Which command wrote a record, and which of that command's records it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub index: LogIndex,
    pub place: u32,
}

/// Where a body lies: segment, offset of its record in it, and the body's length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

/// Who a record belongs to: a row of one table and, where the same body serves two tables, of a second.
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    pub first: (TableId, &'a [u8]),
    pub second: Option<(TableId, &'a [u8])>,
}

/// Why a body could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    #[error("segment {segment:08x} at offset {offset}: the record's checksum does not match; it was not served")]
    Corrupt { segment: u32, offset: u32 },
    #[error("segment {segment:08x} is gone; the reader was too slow, read again")]
    Gone { segment: u32 },
    #[error("segment {segment:08x} at offset {offset}: {error}")]
    Io { segment: u32, offset: u32, error: Arc<std::io::Error> },
}

/// The tables of one member, shared between the apply stage and readers. Clones share them.
#[derive(Clone)]
pub struct Store {
    tables: Arc<RwLock<Tables>>,
}

impl Store {
    /// Empty tables whose bodies stay in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { tables: Arc::new(RwLock::new(Tables::new())) }
    }

    /// Locks for reading. Hold it for at most a few hundred keys or 50 us, then resume by key.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Locks for writing: the apply stage alone, for one slice of a command.
    pub fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads a body, waiting for the disk where it must. Never call it with a lock of [`Self::read`] held.
    pub fn load(&self, at: Location) -> Result<Bytes, BodyError> {
        match self.read().body(at) {
            Body::Ready(bytes) => Ok(bytes),
            Body::Cold => Err(BodyError::Gone { segment: at.segment }),
        }
    }
}
