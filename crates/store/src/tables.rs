//! The tables themselves: rows by key, the front that takes what changes, and an incremental hash of each table.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{LogIndex, Term};

use crate::checkpoint::{Frozen, FrozenFront};
use crate::config::{EXTRA_BYTES_MAX, SEGMENT_BLOCK_BYTES};
use crate::front::{Chunk, Extent, Front};
use crate::hash::row_hash;
use crate::record::{RECORD_HEADER_BYTES, encode_head, lengths, record_bytes, weight};
use crate::rows::{Rows, encode_value, known};
use crate::segment::{Segment, SegmentSource};
use crate::{BODY_BYTES_MAX, KEY_BYTES_MAX, Location, Owners, ROW_BYTES_MAX, Stamp, StoreConfig, TableId};

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

/// What a checkpoint says besides the tables.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CheckpointMeta {
    /// The tables hold every command up to this one (and, where `extra` says so, a part of the next).
    pub applied_index: LogIndex,
    pub applied_term: Term,
    /// The member's own: membership, cluster version, the cursor of a command that is half done. At most
    /// [`EXTRA_BYTES_MAX`].
    pub extra: Bytes,
}

/// All tables of one member.
pub struct Tables {
    pub(crate) config: StoreConfig,
    pub(crate) source: SegmentSource,
    pub(crate) rows: BTreeMap<TableId, Rows>,
    pub(crate) hashes: BTreeMap<TableId, u128>,
    /// Every segment that a location may name, by its number in the folder.
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) segment_next: u32,
    /// Outward segment numbers are greater than those in the folder by this. It is 0 until another generation takes
    /// this one's place: no location that was given out before then means anything afterwards.
    pub(crate) segment_base: u32,
    pub(crate) front: Front,
    /// Where the next record goes, if a segment is open for it.
    pub(crate) tail: Option<(u32, u32)>,
    pub(crate) frozen: Option<Arc<FrozenFront>>,
    pub(crate) cache: BodyCache,
    /// Where the records are now that were mended: their old places lead here for as long as the segments last.
    pub(crate) moved: BTreeMap<Location, Location>,
    stamp: Stamp,
    head: Vec<u8>,
    pub(crate) value: Vec<u8>,
    old: Vec<u8>,
}

impl Tables {
    pub(crate) fn new(config: StoreConfig, source: SegmentSource, segment_base: u32) -> Self {
        Self {
            cache: BodyCache::new(config.body_cache_bytes),
            config,
            source,
            rows: BTreeMap::new(),
            hashes: BTreeMap::new(),
            segments: BTreeMap::new(),
            segment_next: 0,
            segment_base,
            front: Front::default(),
            tail: None,
            frozen: None,
            moved: BTreeMap::new(),
            stamp: Stamp::default(),
            head: Vec::new(),
            value: Vec::new(),
            old: Vec::new(),
        }
    }

    /// Starts a command: records appended from here on carry its log index and count their places from 0.
    /// Continue a command (after `More`) with the same index without calling this again.
    pub fn begin(&mut self, index: LogIndex) {
        self.stamp = Stamp { index, place: 0 };
    }

    #[must_use]
    pub fn get(&self, table: TableId, key: &[u8]) -> Option<Entry<'_>> {
        let (body, row) = self.rows.get(&table)?.get(key)?;
        Some(Entry { row, body: self.outward(body) })
    }

    /// How many keys `table` has.
    #[must_use]
    pub fn len(&self, table: TableId) -> u64 {
        self.rows.get(&table).map_or(0, Rows::len)
    }

    /// How many keys lie in `[from, to)`; `to` of `None` is the table's end. O(log n).
    #[must_use]
    pub fn count(&self, table: TableId, from: &[u8], to: Option<&[u8]>) -> u64 {
        self.rows.get(&table).map_or(0, |rows| rows.count(from, to))
    }

    /// Visits the keys of `[from, to)` in order until `visit` breaks.
    pub fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Entry<'_>) -> ControlFlow<()>,
    ) {
        let Some(rows) = self.rows.get(&table) else { return };
        rows.scan(from, to, &mut |key, body, row| visit(key, Entry { row, body: self.outward(body) }));
    }

    /// As [`Self::scan`], from the greatest key down.
    pub fn scan_reverse(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Entry<'_>) -> ControlFlow<()>,
    ) {
        let Some(rows) = self.rows.get(&table) else { return };
        rows.scan_reverse(from, to, &mut |key, body, row| {
            visit(key, Entry { row, body: self.outward(body) })
        });
    }

    /// Appends a record: `parts`, put together, are its body. The caller then puts a row under each owner.
    /// Owners' keys are at most [`KEY_BYTES_MAX`], the body at most [`BODY_BYTES_MAX`] long.
    pub fn append(&mut self, owners: Owners<'_>, parts: &[&[u8]]) -> Location {
        let at = self.append_stamped(self.stamp, owners, parts);
        self.stamp.place += 1;
        self.outward(Some(at)).expect("given")
    }

    /// Appends a record under a given stamp: a moved or mended record keeps its own.
    pub(crate) fn append_stamped(&mut self, stamp: Stamp, owners: Owners<'_>, parts: &[&[u8]]) -> Location {
        let second_len = owners.second.map_or(0, |(_, key)| key.len());
        assert!(
            owners.first.1.len() <= KEY_BYTES_MAX && second_len <= KEY_BYTES_MAX,
            "an owner's key is too long"
        );
        let body_len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(body_len <= BODY_BYTES_MAX, "a body of {body_len} bytes is too long for a record");
        let body_crc = parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));

        let (number, offset) = self.room_for(record_bytes(&owners, body_len));
        let at = Location { segment: number, offset, len: body_len as u32 };
        let segment = self.segments.get_mut(&number).expect("an open segment is known");
        segment.weight_total += weight(at);
        segment.weight_live += weight(at);

        let mut head = std::mem::take(&mut self.head);
        encode_head(&mut head, (segment.file.salt(), offset), stamp, &owners, body_len, body_crc);
        let extent = match self.front.extents.last_mut() {
            Some(last) if last.segment == number => last,
            _ => {
                self.front.extents.push(Extent::new(number, offset));
                self.front.extents.last_mut().expect("just pushed")
            }
        };
        assert_eq!(extent.end, offset, "records follow each other without a gap");
        extent.extend(&head);
        parts.iter().for_each(|part| extent.extend(part));
        extent.records += 1;
        self.tail = Some((number, extent.end));
        self.head = head;
        at
    }

    /// Where a record of `len` bytes goes: behind the last one, or into a new segment where it would not fit.
    fn room_for(&mut self, len: usize) -> (u32, u32) {
        if let Some((number, offset)) = self.tail
            && (offset == SEGMENT_BLOCK_BYTES
                || offset as usize + len <= self.config.segment_bytes_max as usize)
        {
            return (number, offset);
        }
        let number = self.segment_next;
        self.segment_next = number.checked_add(1).expect("four billion segments");
        self.segments.insert(number, Segment::new(self.source.segment(number)));
        self.tail = Some((number, SEGMENT_BLOCK_BYTES));
        (number, SEGMENT_BLOCK_BYTES)
    }

    /// Sets a row. `body` is the location of a record that names this table and key as an owner.
    pub fn put(&mut self, table: TableId, key: &[u8], row: &[u8], body: Option<Location>) {
        assert!(key.len() <= KEY_BYTES_MAX && row.len() <= ROW_BYTES_MAX, "key or row is too long");
        let inward = body.map(|at| self.inward(at).expect("a location of this generation"));
        let rows = self.rows.entry(table).or_default();
        let hash = self.hashes.entry(table).or_default();
        encode_value(&mut self.value, inward, row);
        if rows.insert(key, &self.value, &mut self.old) {
            *hash = hash.wrapping_sub(row_hash(key, known(&self.old).1));
        }
        *hash = hash.wrapping_add(row_hash(key, row));
        self.front.changes.push(table, key, Some(&self.value));
    }

    /// Removes a row; false if there was none. A body that no row needs any more is [`Self::retire`]d by the caller.
    pub fn remove(&mut self, table: TableId, key: &[u8]) -> bool {
        let Some(rows) = self.rows.get_mut(&table) else { return false };
        if !rows.remove(key, &mut self.old) {
            return false;
        }
        let hash = self.hashes.entry(table).or_default();
        *hash = hash.wrapping_sub(row_hash(key, known(&self.old).1));
        self.front.changes.push(table, key, None);
        true
    }

    /// Lets a row point at another record; its row bytes, and so the table's hash, stay.
    pub(crate) fn repoint(&mut self, table: TableId, key: &[u8], to: Location) {
        let rows = self.rows.get_mut(&table).expect("the caller found the row");
        let (_, row) = rows.get(key).expect("the caller found the row");
        encode_value(&mut self.value, Some(to), row);
        rows.insert(key, &self.value, &mut self.old);
        self.front.changes.push(table, key, Some(&self.value));
    }

    /// Does the row of `table` and `key` point at `at` (a location of the folder)?
    pub(crate) fn points_at(&self, table: TableId, key: &[u8], at: Location) -> bool {
        self.rows.get(&table).and_then(|rows| rows.get(key)).is_some_and(|(body, _)| body == Some(at))
    }

    /// Says that no row points at `body` any more, so that its space can come back.
    pub fn retire(&mut self, body: Location) {
        let Some(at) = self.inward(body) else { return };
        self.retire_inward(at);
    }

    pub(crate) fn retire_inward(&mut self, at: Location) {
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.weight_live = segment.weight_live.saturating_sub(weight(at));
        }
    }

    /// A body, if it is in memory.
    #[must_use]
    pub fn body(&self, at: Location) -> Body {
        match self.place(at).and_then(|at| self.resident_body(at)) {
            Some(bytes) => Body::Ready(bytes),
            None => Body::Cold,
        }
    }

    /// A multiset hash of `table`'s keys and rows (not of locations): equal tables have equal hashes.
    #[must_use]
    pub fn hash(&self, table: TableId) -> u128 {
        self.hashes.get(&table).copied().unwrap_or(0)
    }

    /// The same, computed anew from all rows: O(n). It equals [`Self::hash`] unless memory was damaged.
    #[must_use]
    pub fn rehash(&self, table: TableId) -> u128 {
        let mut hash = 0u128;
        self.scan(table, b"", None, &mut |key, entry| {
            hash = hash.wrapping_add(row_hash(key, entry.row));
            ControlFlow::Continue(())
        });
        hash
    }

    /// Bytes of memory that the index of `table` holds.
    #[must_use]
    pub fn index_bytes(&self, table: TableId) -> usize {
        self.rows.get(&table).map_or(0, Rows::memory_bytes)
    }

    /// The tables that were ever written to.
    pub fn table_ids(&self) -> impl Iterator<Item = TableId> + '_ {
        self.rows.keys().copied()
    }

    /// Bytes of all records that have a body, and of those that a row still needs.
    #[must_use]
    pub fn record_bytes(&self) -> (u64, u64) {
        let sum = |weight: fn(&Segment) -> u64| self.segments.values().map(weight).sum();
        (sum(|segment| segment.weight_total), sum(|segment| segment.weight_live))
    }

    /// Bytes in the front that fills.
    #[must_use]
    pub fn front_bytes(&self) -> u64 {
        self.front.bytes()
    }

    /// Bytes that may still be added before memory for fronts is used up. At 0 nothing more should be admitted; what
    /// is committed already is still taken.
    #[must_use]
    pub fn front_room(&self) -> u64 {
        let fronts_free = if self.frozen.is_some() { 1 } else { 2 };
        (fronts_free * self.config.front_bytes_max).saturating_sub(self.front.bytes())
    }

    /// Is it time to [`Self::freeze`]?
    #[must_use]
    pub fn wants_freeze(&self) -> bool {
        self.frozen.is_none() && self.front.bytes() >= self.config.front_bytes_max
    }

    /// Freezes the front for [`crate::Store::checkpoint`]; a new one starts. Call it between commands (or slices, if
    /// `meta.extra` holds the cursor). `None` while the front before is not durable yet. Takes microseconds.
    pub fn freeze(&mut self, meta: CheckpointMeta) -> Option<Frozen> {
        assert!(meta.extra.len() <= EXTRA_BYTES_MAX, "the extra part of a checkpoint is too long");
        if self.frozen.is_some() {
            return None;
        }
        let front = std::mem::take(&mut self.front);
        if let Some((number, _)) = self.tail {
            let last = front.extents.last();
            if let Some(last) = last.filter(|last| last.segment == number) {
                self.tail = Some((number, last.padded_end()));
            }
        }
        let frozen = Arc::new(FrozenFront {
            generation: self.source.generation(),
            meta,
            front,
            tables: self.rows.iter().map(|(&table, rows)| (table, (self.hash(table), rows.len()))).collect(),
            weights: self.segments.iter().map(|(&n, s)| (n, (s.weight_total, s.weight_live))).collect(),
            segment_next: self.segment_next,
        });
        self.frozen = Some(frozen.clone());
        Some(Frozen(frozen))
    }

    pub(crate) fn outward(&self, at: Option<Location>) -> Option<Location> {
        at.map(|at| Location { segment: at.segment + self.segment_base, ..at })
    }

    /// The location within the folder; `None` for one of a generation before.
    pub(crate) fn inward(&self, at: Location) -> Option<Location> {
        at.segment.checked_sub(self.segment_base).map(|segment| Location { segment, ..at })
    }

    /// Where the record is that was at `at` when the location was given out: as [`Self::inward`], but mended records
    /// are found in their new places.
    pub(crate) fn place(&self, at: Location) -> Option<Location> {
        let mut at = self.inward(at)?;
        while let Some(&to) = self.moved.get(&at) {
            at = to;
        }
        Some(at)
    }

    fn chunk_at(&self, segment: u32, offset: u32) -> Option<&Chunk> {
        let frozen = self.frozen.iter().flat_map(|frozen| &frozen.front.extents);
        let mut extents = self.front.extents.iter().chain(frozen);
        let within =
            |extent: &&Extent| extent.segment == segment && (extent.start..extent.end).contains(&offset);
        match extents.find(within) {
            Some(extent) => extent.chunk_at(offset),
            None => self.cache.chunk_at(segment, offset),
        }
    }

    /// Appends `len` bytes from `offset` on to `out`, if all are in memory.
    fn gather(&self, segment: u32, mut offset: u32, mut len: usize, out: &mut Vec<u8>) -> Option<()> {
        while len > 0 {
            let chunk = self.chunk_at(segment, offset)?;
            let rest = chunk.filled().get((offset - chunk.start) as usize..)?;
            let now = &rest[..rest.len().min(len)];
            if now.is_empty() {
                return None;
            }
            out.extend_from_slice(now);
            offset += now.len() as u32;
            len -= now.len();
        }
        Some(())
    }

    pub(crate) fn resident_body(&self, at: Location) -> Option<Bytes> {
        let mut header = Vec::with_capacity(RECORD_HEADER_BYTES);
        self.gather(at.segment, at.offset, RECORD_HEADER_BYTES, &mut header)?;
        let lengths = lengths(&header).filter(|lengths| lengths.body == at.len as usize)?;
        let mut body = Vec::with_capacity(lengths.body);
        self.gather(at.segment, at.offset + lengths.head as u32, lengths.body, &mut body)?;
        Some(Bytes::from(body))
    }

    /// The head (header and keys) of a record that is in memory.
    pub(crate) fn resident_head(&self, at: Location) -> Option<Vec<u8>> {
        let mut head = Vec::with_capacity(RECORD_HEADER_BYTES);
        self.gather(at.segment, at.offset, RECORD_HEADER_BYTES, &mut head)?;
        let rest = lengths(&head)?.head - RECORD_HEADER_BYTES;
        self.gather(at.segment, at.offset + RECORD_HEADER_BYTES as u32, rest, &mut head)?;
        Some(head)
    }
}

/// The bodies of the last durable fronts: they were written past the page cache, and are likely to be read.
pub(crate) struct BodyCache {
    bytes_max: u64,
    bytes: u64,
    chunks: BTreeMap<(u32, u32), Arc<Chunk>>,
    oldest: VecDeque<(u32, u32)>,
}

impl BodyCache {
    fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, chunks: BTreeMap::new(), oldest: VecDeque::new() }
    }

    fn chunk_at(&self, segment: u32, offset: u32) -> Option<&Chunk> {
        let (&(found, start), chunk) = self.chunks.range(..=(segment, offset)).next_back()?;
        let inside = found == segment && ((offset - start) as usize) < chunk.filled;
        inside.then_some(chunk.as_ref())
    }

    /// Takes the chunks of `extent` and lets the oldest go.
    pub(crate) fn add(&mut self, extent: &Extent) {
        for chunk in &extent.chunks {
            self.bytes += chunk.blocks().len() as u64;
            self.chunks.insert((extent.segment, chunk.start), chunk.clone());
            self.oldest.push_back((extent.segment, chunk.start));
        }
        while self.bytes > self.bytes_max {
            let Some(key) = self.oldest.pop_front() else { return };
            let chunk = self.chunks.remove(&key).expect("every chunk is queued once");
            self.bytes -= chunk.blocks().len() as u64;
        }
    }
}
