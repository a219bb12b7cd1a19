//! What the keys model's tables hold, byte by byte. `docs/formats/keys-tables.md` is the specification.
//!
//! Invariants: rows are as short as they can be, since all of them stay in memory; distances between revisions are
//! never negative (a version's creation and predecessor are never after it). The store checks every row's bytes
//! before it shows them, so a row that does not parse is a fault of this program: reading one panics, which fails
//! this member alone.

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_store::{KEY_BYTES_MAX, Tables};

use super::reply::{EventKind, KeyMeta};
use crate::tables::{HISTORY_KEYS, KEYS_META};
use crate::varint::{Reader, put_varint, unzigzag, zigzag};

/// A user's key is at most this long: a row of HISTORY_KEYS names it behind a revision.
pub const USER_KEY_BYTES_MAX: usize = KEY_BYTES_MAX - REV_BYTES;
/// Keys up to this length stand in their HISTORY rows; longer ones have a row of HISTORY_KEYS.
pub(super) const KEY_IN_ROW_BYTES_MAX: usize = 900;
pub(super) const REV_BYTES: usize = 12;
/// The revision of an empty store.
pub const REVISION_FIRST: Revision = Revision(1);

const META_REVISION: &[u8] = b"r";
const META_COMPACTED: &[u8] = b"c";

/// A change: the revision and its number within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rev {
    pub main: u64,
    pub sub: u32,
}

impl Rev {
    /// The change's key in HISTORY: orders as the changes do.
    pub(super) fn key(self) -> [u8; REV_BYTES] {
        let mut key = [0; REV_BYTES];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub(super) fn of_key(key: &[u8]) -> Self {
        let (main, sub) = key.split_at(8);
        Self {
            main: u64::from_be_bytes(main.try_into().expect("a HISTORY key has 12 bytes")),
            sub: u32::from_be_bytes(sub.try_into().expect("a HISTORY key has 12 bytes")),
        }
    }

    /// The first change that can come after this one.
    pub(super) fn next(self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => Self { main: self.main, sub },
            None => Self { main: self.main + 1, sub: 0 },
        }
    }
}

/// A key's current version: a row of KEYS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRow {
    pub rev: Rev,
    pub create: u64,
    pub version: u64,
    pub lease: i64,
    pub value_len: u32,
}

impl KeyRow {
    pub(super) fn meta(&self) -> KeyMeta {
        KeyMeta {
            create_revision: Revision(self.create),
            mod_revision: Revision(self.rev.main),
            version: self.version,
            lease: self.lease,
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        put_varint(out, self.rev.main);
        put_varint(out, self.rev.main - self.create);
        put_varint(out, self.version);
        let shape =
            u64::from(self.value_len) << 2 | u64::from(self.lease != 0) << 1 | u64::from(self.rev.sub != 0);
        put_varint(out, shape);
        if self.rev.sub != 0 {
            put_varint(out, u64::from(self.rev.sub));
        }
        if self.lease != 0 {
            put_varint(out, zigzag(self.lease));
        }
    }

    pub(super) fn read(row: &[u8]) -> Self {
        Self::parse(row).expect("a row of KEYS parses")
    }

    fn parse(row: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: row };
        let main = reader.varint()?;
        let create = main.checked_sub(reader.varint()?)?;
        let version = reader.varint()?;
        let shape = reader.varint()?;
        let sub = if shape & 1 != 0 { u32::try_from(reader.varint()?).ok()? } else { 0 };
        let lease = if shape & 2 != 0 { unzigzag(reader.varint()?) } else { 0 };
        let value_len = u32::try_from(shape >> 2).ok()?;
        reader.bytes.is_empty().then_some(Self { rev: Rev { main, sub }, create, version, lease, value_len })
    }
}

/// One change of one key: a row of HISTORY, without the user's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HistoryRow<'a> {
    pub kind: EventKind,
    /// The change of the same key before this one, where there was one above the compacted revision.
    pub previous: Option<Rev>,
    /// 0 for a delete, as are `version`, `lease` and `value_len`.
    pub create: u64,
    pub version: u64,
    pub lease: i64,
    pub value_len: u32,
    /// `None`: too long for the row; see [`history_key`].
    pub key: Option<&'a [u8]>,
}

const FLAG_DELETE: u8 = 1;
const FLAG_PREVIOUS: u8 = 2;
const FLAG_PREVIOUS_SUB: u8 = 4;
const FLAG_LEASE: u8 = 8;
const FLAG_LONG_KEY: u8 = 16;

impl<'a> HistoryRow<'a> {
    pub(super) fn of_put(row: &KeyRow, previous: Option<Rev>, key: &'a [u8]) -> Self {
        let KeyRow { create, version, lease, value_len, .. } = *row;
        let key = (key.len() <= KEY_IN_ROW_BYTES_MAX).then_some(key);
        Self { kind: EventKind::Put, previous, create, version, lease, value_len, key }
    }

    pub(super) fn of_delete(previous: Rev, key: &'a [u8]) -> Self {
        let key = (key.len() <= KEY_IN_ROW_BYTES_MAX).then_some(key);
        let kind = EventKind::Delete;
        Self { kind, previous: Some(previous), create: 0, version: 0, lease: 0, value_len: 0, key }
    }

    pub(super) fn meta(&self, rev: Rev) -> KeyMeta {
        KeyMeta {
            create_revision: Revision(self.create),
            mod_revision: Revision(rev.main),
            version: self.version,
            lease: self.lease,
        }
    }

    pub(super) fn write(&self, rev: Rev, out: &mut Vec<u8>) {
        out.clear();
        let mut flags = 0;
        if self.kind == EventKind::Delete {
            flags |= FLAG_DELETE;
        }
        if let Some(previous) = self.previous {
            flags |= FLAG_PREVIOUS | if previous.sub != 0 { FLAG_PREVIOUS_SUB } else { 0 };
        }
        if self.lease != 0 {
            flags |= FLAG_LEASE;
        }
        if self.key.is_none() {
            flags |= FLAG_LONG_KEY;
        }
        out.push(flags);
        if let Some(previous) = self.previous {
            put_varint(out, rev.main - previous.main);
            if previous.sub != 0 {
                put_varint(out, u64::from(previous.sub));
            }
        }
        if self.kind == EventKind::Put {
            put_varint(out, rev.main - self.create);
            put_varint(out, self.version);
            put_varint(out, u64::from(self.value_len));
            if self.lease != 0 {
                put_varint(out, zigzag(self.lease));
            }
        }
        out.extend_from_slice(self.key.unwrap_or_default());
    }

    pub(super) fn read(rev: Rev, row: &'a [u8]) -> Self {
        Self::parse(rev, row).expect("a row of HISTORY parses")
    }

    fn parse(rev: Rev, row: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { bytes: row };
        let flags = reader.byte()?;
        let mut previous = None;
        if flags & FLAG_PREVIOUS != 0 {
            let main = rev.main.checked_sub(reader.varint()?)?;
            let sub = if flags & FLAG_PREVIOUS_SUB != 0 { u32::try_from(reader.varint()?).ok()? } else { 0 };
            previous = Some(Rev { main, sub });
        }
        let (kind, mut create, mut version, mut lease, mut value_len) = (flags & FLAG_DELETE, 0, 0, 0, 0);
        if kind == 0 {
            create = rev.main.checked_sub(reader.varint()?)?;
            version = reader.varint()?;
            value_len = u32::try_from(reader.varint()?).ok()?;
            if flags & FLAG_LEASE != 0 {
                lease = unzigzag(reader.varint()?);
            }
        }
        let kind = if kind == 0 { EventKind::Put } else { EventKind::Delete };
        let key = (flags & FLAG_LONG_KEY == 0).then_some(reader.bytes);
        Some(Self { kind, previous, create, version, lease, value_len, key })
    }

    /// What this change did to the number of keys.
    pub(super) fn keys_added(&self) -> i64 {
        match self.kind {
            EventKind::Put => i64::from(self.version == 1),
            EventKind::Delete => -1,
        }
    }
}

/// The key of HISTORY_KEYS that names a long user key.
pub(super) fn long_key(rev: Rev, key: &[u8]) -> Vec<u8> {
    let mut long = Vec::with_capacity(REV_BYTES + key.len());
    long.extend_from_slice(&rev.key());
    long.extend_from_slice(key);
    long
}

/// The user's key of a change, wherever it stands.
pub(super) fn history_key(tables: &Tables, rev: Rev, row: &HistoryRow<'_>) -> Bytes {
    if let Some(key) = row.key {
        return Bytes::copy_from_slice(key);
    }
    let mut found = None;
    tables.scan(HISTORY_KEYS, &rev.key(), Some(&rev.next().key()), &mut |key, _| {
        found = Some(Bytes::copy_from_slice(&key[REV_BYTES..]));
        std::ops::ControlFlow::Break(())
    });
    found.expect("a long key has a row of HISTORY_KEYS")
}

/// A tombstone: a row of GRAVEYARD.
pub(super) fn write_grave(rev: Rev, out: &mut Vec<u8>) {
    out.clear();
    put_varint(out, rev.main);
    put_varint(out, u64::from(rev.sub));
}

pub(super) fn read_grave(row: &[u8]) -> Rev {
    let mut reader = Reader { bytes: row };
    let rev = reader.varint().zip(reader.varint().and_then(|sub| u32::try_from(sub).ok()));
    let (main, sub) = rev.expect("a row of GRAVEYARD parses");
    Rev { main, sub }
}

fn read_revision(tables: &Tables, key: &[u8]) -> Option<Revision> {
    let entry = tables.get(KEYS_META, key)?;
    Some(Revision(Reader { bytes: entry.row }.varint().expect("a row of KEYS_META parses")))
}

fn write_revision(tables: &mut Tables, key: &[u8], revision: Revision, scratch: &mut Vec<u8>) {
    scratch.clear();
    put_varint(scratch, revision.0);
    tables.put(KEYS_META, key, scratch, None);
}

/// The newest revision that readers may see.
#[must_use]
pub fn current_revision(tables: &Tables) -> Revision {
    read_revision(tables, META_REVISION).unwrap_or(REVISION_FIRST)
}

/// The revision of the last compaction, 0 before the first: reads below it are refused.
#[must_use]
pub fn compacted_revision(tables: &Tables) -> Revision {
    read_revision(tables, META_COMPACTED).unwrap_or(Revision::ZERO)
}

pub(super) fn set_current_revision(tables: &mut Tables, revision: Revision, scratch: &mut Vec<u8>) {
    write_revision(tables, META_REVISION, revision, scratch);
}

pub(super) fn set_compacted_revision(tables: &mut Tables, revision: Revision, scratch: &mut Vec<u8>) {
    write_revision(tables, META_COMPACTED, revision, scratch);
}

/// A record's body does not have the shape that this model writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {len} bytes does not hold a key and a value; the record belongs to another table")]
pub struct BodyShapeError {
    pub len: usize,
}

/// Cuts key and value out of a record's body, without a copy.
pub fn value_of_body(body: &Bytes) -> Result<(Bytes, Bytes), BodyShapeError> {
    let mut reader = Reader { bytes: body };
    let error = BodyShapeError { len: body.len() };
    let key_len = reader.varint().and_then(|len| usize::try_from(len).ok()).ok_or(error)?;
    let start = body.len() - reader.bytes.len();
    if key_len > reader.bytes.len() {
        return Err(error);
    }
    Ok((body.slice(start..start + key_len), body.slice(start + key_len..)))
}
