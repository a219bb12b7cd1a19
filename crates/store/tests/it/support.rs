//! A store under test beside a plain map that says what it must hold.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quorate_disk::Disk;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_store::{
    CheckpointMeta, Durable, Entry, Identity, Location, Owners, Store, StoreConfig, StoreError, TableId,
    Unpaced,
};

pub const KEYS: TableId = TableId(0x10);
pub const HISTORY: TableId = TableId(0x11);

pub fn identity(member: u64) -> Identity {
    Identity { cluster: ClusterId(7), member: MemberId(member), incarnation: Incarnation(member * 31) }
}

/// Small bounds, so that few records fill a front, a segment, a run tier.
pub fn small() -> StoreConfig {
    StoreConfig {
        front_bytes_max: 256 * 1024,
        segment_bytes_max: 64 * 1024,
        body_cache_bytes: 16 * 1024,
        ..StoreConfig::default()
    }
}

/// What a table must hold: row and body by key.
pub type Rows = BTreeMap<Vec<u8>, (Vec<u8>, Option<Bytes>)>;

/// A store and what it must hold.
pub struct Subject {
    pub store: Store,
    pub index: u64,
    pub expected: BTreeMap<TableId, Rows>,
}

impl Subject {
    pub fn create(disk: Arc<dyn Disk>, config: StoreConfig) -> Self {
        let store = Store::create(disk, config, identity(1), 0).expect("a new store");
        Self { store, index: 0, expected: BTreeMap::new() }
    }

    /// Puts a row with a body under one key of `table`.
    pub fn put(&mut self, table: TableId, key: &[u8], row: &[u8], body: &[u8]) {
        self.index += 1;
        let mut tables = self.store.write();
        tables.begin(LogIndex(self.index));
        let old = tables.get(table, key).and_then(|entry| entry.body);
        let at = tables.append(Owners { first: (table, key), second: None }, &[body]);
        tables.put(table, key, row, Some(at));
        old.into_iter().for_each(|old| tables.retire(old));
        let value = (row.to_vec(), Some(Bytes::copy_from_slice(body)));
        self.expected.entry(table).or_default().insert(key.to_vec(), value);
    }

    /// As the keys model does: one record, owned by the key and by its place in the history.
    pub fn put_version(&mut self, key: &[u8], body: &[u8]) {
        self.index += 1;
        let revision = self.index.to_be_bytes();
        let mut tables = self.store.write();
        tables.begin(LogIndex(self.index));
        let owners = Owners { first: (KEYS, key), second: Some((HISTORY, &revision)) };
        let at = tables.append(owners, &[&body[..body.len() / 2], &body[body.len() / 2..]]);
        tables.put(KEYS, key, &revision, Some(at));
        tables.put(HISTORY, &revision, key, Some(at));
        let body = Some(Bytes::copy_from_slice(body));
        self.expected.entry(KEYS).or_default().insert(key.to_vec(), (revision.to_vec(), body.clone()));
        self.expected.entry(HISTORY).or_default().insert(revision.to_vec(), (key.to_vec(), body));
    }

    /// A row without a body.
    pub fn put_row(&mut self, table: TableId, key: &[u8], row: &[u8]) {
        self.index += 1;
        let mut tables = self.store.write();
        tables.begin(LogIndex(self.index));
        let old = tables.get(table, key).and_then(|entry| entry.body);
        tables.put(table, key, row, None);
        old.into_iter().for_each(|old| tables.retire(old));
        self.expected.entry(table).or_default().insert(key.to_vec(), (row.to_vec(), None));
    }

    pub fn remove(&mut self, table: TableId, key: &[u8]) {
        self.index += 1;
        let mut tables = self.store.write();
        tables.begin(LogIndex(self.index));
        let old = tables.get(table, key).and_then(|entry| entry.body);
        let removed = tables.remove(table, key);
        old.into_iter().for_each(|old| tables.retire(old));
        let expected = self.expected.entry(table).or_default().remove(key);
        assert_eq!(removed, expected.is_some());
    }

    pub fn meta(&self) -> CheckpointMeta {
        CheckpointMeta {
            applied_index: LogIndex(self.index),
            applied_term: Term(3),
            extra: Bytes::from(format!("extra of {}", self.index)),
        }
    }

    pub fn try_checkpoint(&mut self) -> Result<Durable, StoreError> {
        let meta = self.meta();
        let frozen = self.store.write().freeze(meta).expect("no front is frozen yet");
        self.store.checkpoint(&frozen, &mut Unpaced)
    }

    pub fn checkpoint(&mut self) -> Durable {
        self.try_checkpoint().expect("a checkpoint")
    }

    pub fn check(&self) {
        check(&self.store, &self.expected);
    }
}

/// The store holds exactly `expected`, by scans, counts, hashes and bodies.
pub fn check(store: &Store, expected: &BTreeMap<TableId, Rows>) {
    let all: Vec<TableId> = store.read().table_ids().collect();
    for table in all.into_iter().chain(expected.keys().copied()) {
        let empty = Rows::new();
        let rows = expected.get(&table).unwrap_or(&empty);
        let found = rows_of(store, table);
        assert_eq!(found.len(), rows.len(), "rows of {table:?}");
        assert_eq!(store.read().len(table), rows.len() as u64);
        assert_eq!(store.read().count(table, b"", None), rows.len() as u64);
        assert_eq!(store.read().hash(table), store.read().rehash(table));
        for ((key, row, at), (expected_key, (expected_row, body))) in found.iter().zip(rows) {
            assert_eq!((key, row), (expected_key, expected_row));
            let loaded = at.map(|at| store.load(at).expect("a body"));
            assert_eq!(&loaded, body, "body of {key:?}");
        }
    }
}

pub fn rows_of(store: &Store, table: TableId) -> Vec<(Vec<u8>, Vec<u8>, Option<Location>)> {
    let mut found = Vec::new();
    store.read().scan(table, b"", None, &mut |key, Entry { row, body }| {
        found.push((key.to_vec(), row.to_vec(), body));
        ControlFlow::Continue(())
    });
    found
}

/// `len` bytes that differ with `seed`.
pub fn body(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
