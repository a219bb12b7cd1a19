//! A hash over the whole key space at one revision: equal on members that agree. A paced scan, apart from the tables'
//! own incremental hashes.

use quorate_ids::Revision;
use quorate_store::Store;

use super::command::{RangeEnd, RangeQuery};
use super::query::{Progress, RANGE_SLICE_KEYS, RangeResume, load_value, range_slice, resolve_revision};
use super::reply::KeysError;
use super::rows::{compacted_revision, current_revision};

/// What a [`HashScan`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysHash {
    /// CRC-32C over key, create and mod revision, version, lease and value of each key, in order.
    pub hash: u32,
    /// The revision that was hashed.
    pub hash_revision: Revision,
    pub compact_revision: Revision,
    /// The store's newest revision when the scan started.
    pub revision: Revision,
}

/// A hash in the making. The caller paces it: [`HashScan::step`] reads at most [`RANGE_SLICE_KEYS`] keys.
pub struct HashScan {
    query: RangeQuery,
    resume: RangeResume,
    result: KeysHash,
}

impl HashScan {
    /// Pins `revision` (0: the newest).
    pub fn start(store: &Store, revision: Revision) -> Result<Self, KeysError> {
        let tables = store.read();
        let result = KeysHash {
            hash: 0,
            hash_revision: resolve_revision(&tables, revision)?,
            compact_revision: compacted_revision(&tables),
            revision: current_revision(&tables),
        };
        let query = RangeQuery::new(bytes::Bytes::new(), RangeEnd::Unbounded);
        Ok(Self { query, resume: RangeResume::default(), result })
    }

    /// Hashes some more keys. Reads the disk where it must: never call it with the store's lock held.
    pub fn step(&mut self, store: &Store) -> Result<Progress, KeysError> {
        let _pin = store.pin();
        let at = self.result.hash_revision;
        let progress = range_slice(&store.read(), &self.query, at, &mut self.resume, RANGE_SLICE_KEYS)?;
        for kv in self.resume.take_found() {
            let value = load_value(store, &kv.value)?;
            let mut head = [0; 48];
            let numbers = [
                kv.key.len() as u64,
                kv.meta.create_revision.0,
                kv.meta.mod_revision.0,
                kv.meta.version,
                kv.meta.lease as u64,
                value.len() as u64,
            ];
            for (place, number) in head.chunks_exact_mut(8).zip(numbers) {
                place.copy_from_slice(&number.to_le_bytes());
            }
            for part in [&head[..], &kv.key, &value] {
                self.result.hash = crc32c::crc32c_append(self.result.hash, part);
            }
        }
        Ok(progress)
    }

    /// The result; meaningful after [`Progress::Done`].
    #[must_use]
    pub fn result(&self) -> KeysHash {
        self.result
    }
}

/// The whole hash at `revision` (0: the newest), without a pause.
pub fn hash_kv(store: &Store, revision: Revision) -> Result<KeysHash, KeysError> {
    let mut scan = HashScan::start(store, revision)?;
    while scan.step(store)? == Progress::More {}
    Ok(scan.result())
}
