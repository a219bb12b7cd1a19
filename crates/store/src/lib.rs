//! Ordered tables: the one place where models keep their state.
//!
//! A table maps a key to a *row* (short bytes, held in memory) and, where there is one, to a *body* (any bytes, held
//! in an append-only segment). Invariants:
//!
//! - A body is never changed. A record is appended once, under one or two owners (table and key), and is alive while
//!   an owner's row points at it.
//! - Rows change only inside `apply`, one command at a time, under the write lock; readers hold the read lock briefly
//!   and resume by key. A location may be put only in the lock hold in which it was read or appended: records move.
//! - What is appended and changed is in the *front*, in memory, until a checkpoint has made it durable.
//! - What two members hold at one applied index is equal, table by table; [`Tables::hash`] says so in O(1).
//! - Locks are taken in this order: the keeper's (background work), the durable manifest's, the tables'. No disk is
//!   waited for with a lock of the last two held.
//!
//! The files are described in `docs/formats/store.md`.

#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod error;
mod fields;
mod front;
mod hash;
mod manifest;
mod mend;
pub mod mutants;
mod open;
pub mod ordered;
mod paced;
mod pins;
mod read;
mod record;
mod rewrite;
mod rows;
mod run;
mod runs;
mod scan;
mod segment;
mod suspects;
mod tables;
mod transfer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quorate_disk::Disk;
use quorate_ids::LogIndex;

use checkpoint::Keeper;
pub use checkpoint::{Durable, Frozen};
pub use config::{
    BODY_BYTES_MAX, EXTRA_BYTES_MAX, Identity, KEY_BYTES_MAX, PIECE_BYTES, Pace, ROW_BYTES_MAX, StoreConfig,
    Unpaced, generation_folder,
};
pub use error::{BodyError, OpenError, RecordName, StoreError};
use manifest::Manifest;
pub use mend::{MendError, Verified, Wanted};
pub use open::Opened;
pub use pins::Pin;
use pins::Pins;
pub use record::FetchedRecord;
pub use rewrite::{DamagedRecord, RewriteStep};
pub use runs::MergeStep;
use suspects::Suspects;
pub use tables::{Body, CheckpointMeta, Entry, Tables};
pub use transfer::{Chunk, Export, ExportFile, Incoming, IncomingError};

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

/// The tables of one member, shared between the apply stage, readers and background work. Clones share them.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    keeper: Mutex<Keeper>,
    durable: RwLock<Arc<Manifest>>,
    tables: RwLock<Tables>,
    pins: Arc<Pins>,
    suspects: Mutex<Suspects>,
}

impl Store {
    fn assemble(disk: Arc<dyn Disk>, tables: Tables, manifest: Manifest) -> Self {
        let shared = Shared {
            disk,
            keeper: Mutex::new(Keeper::new(&manifest)),
            durable: RwLock::new(Arc::new(manifest)),
            tables: RwLock::new(tables),
            pins: Arc::default(),
            suspects: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Locks for reading. Hold it for at most a few hundred keys or 50 us, then resume by key.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.shared.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks for writing: the apply stage, for one slice of a command.
    pub fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.shared.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps every file that a location read from now on can name. Take it before reading rows.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.shared.pins.pin()
    }

    /// Bytes in the front that fills; see [`Tables::front_bytes`].
    #[must_use]
    pub fn front_bytes(&self) -> u64 {
        self.read().front_bytes()
    }

    /// Bytes that may still be admitted; see [`Tables::front_room`].
    #[must_use]
    pub fn front_room(&self) -> u64 {
        self.read().front_room()
    }

    /// True where the next checkpoint gives a segment up.
    #[must_use]
    pub fn has_vacated(&self) -> bool {
        !self.read().front.vacated.is_empty()
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable(&self) -> Arc<Manifest> {
        self.shared.durable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn durable_mut(&self) -> RwLockWriteGuard<'_, Arc<Manifest>> {
        self.shared.durable.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> &dyn Disk {
        self.shared.disk.as_ref()
    }

    fn shared_disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    fn pins(&self) -> &Arc<Pins> {
        &self.shared.pins
    }
}
