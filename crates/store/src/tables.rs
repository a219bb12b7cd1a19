//! The tables themselves: rows by key, bodies by location, and an incremental hash of each table.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use quorate_ids::LogIndex;

use crate::{KEY_BYTES_MAX, Location, Owners, ROW_BYTES_MAX, Stamp, TableId};

/// A row and where its body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub row: &'a [u8],
    pub body: Option<Location>,
}

/// A body, if it is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Ready(Bytes),
    /// On disk: [`crate::Store::load`] reads it.
    Cold,
}

type Rows = BTreeMap<Vec<u8>, (Vec<u8>, Option<Location>)>;

/// All tables of one member.
pub struct Tables {
    rows: BTreeMap<TableId, Rows>,
    hashes: BTreeMap<TableId, u128>,
    bodies: Vec<Bytes>,
    stamp: Stamp,
}

impl Tables {
    pub(crate) fn new() -> Self {
        Self { rows: BTreeMap::new(), hashes: BTreeMap::new(), bodies: Vec::new(), stamp: Stamp::default() }
    }

    /// Starts a command: records appended from here on carry its log index and count their places from 0.
    /// Continue a command (after `More`) with the same index without calling this again.
    pub fn begin(&mut self, index: LogIndex) {
        self.stamp = Stamp { index, place: 0 };
    }

    #[must_use]
    pub fn get(&self, table: TableId, key: &[u8]) -> Option<Entry<'_>> {
        let (row, body) = self.rows.get(&table)?.get(key)?;
        Some(Entry { row, body: *body })
    }

    /// How many keys `table` has.
    #[must_use]
    pub fn len(&self, table: TableId) -> u64 {
        self.rows.get(&table).map_or(0, |rows| rows.len() as u64)
    }

    /// How many keys lie in `[from, to)`; `to` of `None` is the table's end. O(log n).
    #[must_use]
    pub fn count(&self, table: TableId, from: &[u8], to: Option<&[u8]>) -> u64 {
        self.between(table, from, to).count() as u64
    }

    fn between<'a>(
        &'a self,
        table: TableId,
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a (Vec<u8>, Option<Location>))> {
        // `BTreeMap::range` panics on a reversed range; an empty one is what is meant.
        let to = to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.max(from)));
        let rows = self.rows.get(&table).into_iter();
        rows.flat_map(move |rows| rows.range::<[u8], _>((Bound::Included(from), to)))
    }

    /// Visits the keys of `[from, to)` in order until `visit` breaks.
    pub fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Entry<'_>) -> ControlFlow<()>,
    ) {
        for (key, (row, body)) in self.between(table, from, to) {
            if visit(key, Entry { row, body: *body }).is_break() {
                return;
            }
        }
    }

    /// As [`Self::scan`], from the greatest key down.
    pub fn scan_reverse(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Entry<'_>) -> ControlFlow<()>,
    ) {
        for (key, (row, body)) in self.between(table, from, to).rev() {
            if visit(key, Entry { row, body: *body }).is_break() {
                return;
            }
        }
    }

    /// Appends a record: `parts`, put together, are its body. The caller then puts a row under each owner.
    pub fn append(&mut self, owners: Owners<'_>, parts: &[&[u8]]) -> Location {
        assert!(owners.first.1.len() <= KEY_BYTES_MAX);
        let body = Bytes::from(parts.concat());
        let location =
            Location { segment: 0, offset: u32::try_from(self.bodies.len()).expect("bodies"), len: body.len() as u32 };
        self.bodies.push(body);
        self.stamp.place += 1;
        location
    }

    /// Sets a row. `body` is the location of a record that names this table and key as an owner.
    pub fn put(&mut self, table: TableId, key: &[u8], row: &[u8], body: Option<Location>) {
        assert!(key.len() <= KEY_BYTES_MAX && row.len() <= ROW_BYTES_MAX);
        let old = self.rows.entry(table).or_default().insert(key.to_vec(), (row.to_vec(), body));
        let hash = self.hashes.entry(table).or_default();
        if let Some((old, _)) = old {
            *hash = hash.wrapping_sub(row_hash(key, &old));
        }
        *hash = hash.wrapping_add(row_hash(key, row));
    }

    /// Removes a row; false if there was none. A body that no row needs any more is [`Self::retire`]d by the caller.
    pub fn remove(&mut self, table: TableId, key: &[u8]) -> bool {
        let Some((old, _)) = self.rows.get_mut(&table).and_then(|rows| rows.remove(key)) else { return false };
        let hash = self.hashes.entry(table).or_default();
        *hash = hash.wrapping_sub(row_hash(key, &old));
        true
    }

    /// Says that no row points at `body` any more, so that its space can come back.
    pub fn retire(&mut self, body: Location) {
        let _ = body;
    }

    /// A body, if it is in memory.
    #[must_use]
    pub fn body(&self, at: Location) -> Body {
        self.bodies.get(at.offset as usize).map_or(Body::Cold, |bytes| Body::Ready(bytes.clone()))
    }

    /// A multiset hash of `table`'s keys and rows (not of locations): equal tables have equal hashes.
    #[must_use]
    pub fn hash(&self, table: TableId) -> u128 {
        self.hashes.get(&table).copied().unwrap_or(0)
    }
}

/// 128 bits from two differently seeded CRC and multiply mixes. It detects divergence; it resists no adversary.
fn row_hash(key: &[u8], row: &[u8]) -> u128 {
    let a = crc32c::crc32c_append(crc32c::crc32c(key), row);
    let b = crc32c::crc32c_append(crc32c::crc32c_append(key.len() as u32 ^ 0x9e37_79b9, row), key);
    let mixed = (u64::from(a) << 32 | u64::from(b)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = mixed ^ (mixed >> 29);
    (u128::from(mixed) << 64) | u128::from(mixed.wrapping_mul(0xc4ce_b9fe_1a85_ec53) ^ (mixed >> 32))
}
