//! Run files: changes of rows, sorted by table and key. The layout is in `docs/formats/store.md`.
//!
//! A reader checks every block before it looks inside, and that keys ascend and values are well formed; it goes from
//! the first block to the footer and never seeks.

use std::sync::Arc;

use quorate_disk::{Disk, File, Mode};

use crate::config::RUN_BLOCK_BYTES;
use crate::fields::{Fields, put_bytes, put_varint};
use crate::front::Change;
use crate::paced::PacedFile;
use crate::rows::{PREFIX_BYTES_MAX, decode_value};
use crate::{KEY_BYTES_MAX, Pace, ROW_BYTES_MAX, StoreError, TableId};

const RUN_MAGIC: &[u8; 8] = b"QUORRUN\0";
const RUN_VERSION: u32 = 1;
const BLOCK_HEADER_BYTES: usize = 24;
const FOOTER_BLOCK: u32 = u32::MAX;
/// An entry is a table, at most four varints, a key and a value. The last one may start just below the limit.
const BLOCK_PAYLOAD_BYTES_MAX: usize =
    RUN_BLOCK_BYTES + 1 + 4 * 5 + KEY_BYTES_MAX + PREFIX_BYTES_MAX + ROW_BYTES_MAX;

/// What a manifest says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunInfo {
    pub(crate) number: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
}

/// Writes one run.
pub(crate) struct RunWriter {
    number: u64,
    out: PacedFile,
    payload: Vec<u8>,
    block_entries: u32,
    blocks: u32,
    entries: u64,
    tombstones: u64,
    first: Option<(TableId, Vec<u8>)>,
    last: (TableId, Vec<u8>),
}

impl RunWriter {
    pub(crate) fn create(disk: &dyn Disk, path: &str, number: u64) -> Result<Self, StoreError> {
        Ok(Self {
            number,
            out: PacedFile::create(disk, path)?,
            payload: Vec::with_capacity(RUN_BLOCK_BYTES * 2),
            block_entries: 0,
            blocks: 0,
            entries: 0,
            tombstones: 0,
            first: None,
            last: (TableId(0), Vec::new()),
        })
    }

    pub(crate) fn push(&mut self, change: Change<'_>, pace: &mut dyn Pace) -> Result<(), StoreError> {
        let (table, key, value) = change;
        let ascending = self.first.is_none() || (self.last.0, self.last.1.as_slice()) < (table, key);
        assert!(ascending, "a run's keys ascend");
        let shared = if self.block_entries == 0 || self.last.0 != table {
            0
        } else {
            self.last.1.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        self.payload.push(table.0);
        put_varint(&mut self.payload, shared as u32);
        put_varint(&mut self.payload, (key.len() - shared) as u32);
        put_varint(&mut self.payload, value.map_or(0, |value| value.len() as u32 + 1));
        self.payload.extend_from_slice(&key[shared..]);
        self.payload.extend_from_slice(value.unwrap_or_default());
        self.block_entries += 1;
        self.entries += 1;
        self.tombstones += u64::from(value.is_none());
        if self.first.is_none() {
            self.first = Some((table, key.to_vec()));
        }
        self.last.0 = table;
        self.last.1.truncate(shared);
        self.last.1.extend_from_slice(&key[shared..]);
        if self.payload.len() >= RUN_BLOCK_BYTES {
            self.close_block(pace)?;
        }
        Ok(())
    }

    fn close_block(&mut self, pace: &mut dyn Pace) -> Result<(), StoreError> {
        let block = encode_block(self.number, self.blocks, self.block_entries, &self.payload);
        self.out.push(&block, pace)?;
        self.payload.clear();
        self.blocks =
            self.blocks.checked_add(1).filter(|&n| n < FOOTER_BLOCK).expect("fewer than 4 billion blocks");
        self.block_entries = 0;
        Ok(())
    }

    pub(crate) fn finish(mut self, pace: &mut dyn Pace) -> Result<RunInfo, StoreError> {
        if self.block_entries > 0 {
            self.close_block(pace)?;
        }
        let mut footer = Vec::new();
        footer.extend_from_slice(RUN_MAGIC);
        footer.extend_from_slice(&RUN_VERSION.to_le_bytes());
        footer.extend_from_slice(&self.blocks.to_le_bytes());
        footer.extend_from_slice(&self.entries.to_le_bytes());
        footer.extend_from_slice(&self.tombstones.to_le_bytes());
        let first = self.first.take().unwrap_or((TableId(0), Vec::new()));
        for (table, key) in [&first, &self.last] {
            footer.push(table.0);
            put_bytes(&mut footer, key);
        }
        self.out.push(&encode_block(self.number, FOOTER_BLOCK, 0, &footer), pace)?;
        let (len, crc) = self.out.finish(pace)?;
        Ok(RunInfo { number: self.number, len, crc, entries: self.entries, tombstones: self.tombstones })
    }
}

fn encode_block(run: u64, block: u32, entries: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK_HEADER_BYTES + payload.len());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&run.to_le_bytes());
    out.extend_from_slice(&block.to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads one run from its first key to its footer.
pub(crate) struct RunReader {
    file: Arc<dyn File>,
    path: String,
    info: RunInfo,
    /// Where the next block starts.
    offset: u64,
    block: Vec<u8>,
    blocks: u32,
    at: usize,
    left: u32,
    entries: u64,
    tombstones: u64,
    first: Option<(TableId, Vec<u8>)>,
    table: TableId,
    key: Vec<u8>,
    /// Where in `block` the value is; `None` for a tombstone.
    value: Option<(usize, usize)>,
}

impl RunReader {
    pub(crate) fn open(disk: &dyn Disk, path: &str, info: RunInfo) -> Result<Self, StoreError> {
        let mode = Mode { read_only: true, ..Mode::default() };
        let file = disk.open(path, mode).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                StoreError::corrupt(path, 0, "the manifest names this file; it is missing")
            }
            _ => StoreError::io(path, e),
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
            info,
            offset: 0,
            block: Vec::new(),
            blocks: 0,
            at: 0,
            left: 0,
            entries: 0,
            tombstones: 0,
            first: None,
            table: TableId(0),
            key: Vec::new(),
            value: None,
        })
    }

    pub(crate) fn current(&self) -> Change<'_> {
        (self.table, &self.key, self.value.map(|(from, to)| &self.block[from..to]))
    }

    fn corrupt(&self, what: &'static str) -> StoreError {
        StoreError::corrupt(&self.path, self.offset.saturating_sub(self.block.len() as u64), what)
    }

    /// Goes to the next entry; false behind the last one, once the footer was found in order.
    pub(crate) fn advance(&mut self) -> Result<bool, StoreError> {
        while self.left == 0 {
            if self.at != self.block.len() {
                return Err(self.corrupt("a run's block has bytes behind its last entry"));
            }
            let (number, entries) = self.read_block()?;
            if number == FOOTER_BLOCK {
                self.check_footer(entries)?;
                return Ok(false);
            }
            if number != self.blocks || entries == 0 {
                return Err(self.corrupt("a run's blocks are out of order"));
            }
            self.blocks += 1;
            self.left = entries;
        }
        self.parse_entry().ok_or_else(|| self.corrupt("a run's entry is malformed"))?;
        self.left -= 1;
        self.entries += 1;
        self.tombstones += u64::from(self.value.is_none());
        Ok(true)
    }

    fn read_block(&mut self) -> Result<(u32, u32), StoreError> {
        let offset = self.offset;
        let read = |buf: &mut [u8], at: u64| {
            self.file.read_at(buf, at).map_err(|e| StoreError::reading(&self.path, at, e))
        };
        let damaged = |what| StoreError::corrupt(&self.path, offset, what);
        let mut header = [0u8; BLOCK_HEADER_BYTES];
        read(&mut header, offset)?;
        let mut fields = Fields::new(&header);
        let mut field = || fields.u32().expect("the header is long enough");
        let (crc, len) = (field(), field() as usize);
        let run = u64::from(field()) | u64::from(field()) << 32;
        let (number, entries) = (field(), field());
        let end = offset + (BLOCK_HEADER_BYTES + len) as u64;
        if len > BLOCK_PAYLOAD_BYTES_MAX || end > self.info.len {
            return Err(damaged("a run's block is longer than can be"));
        }
        let mut payload = std::mem::take(&mut self.block);
        payload.resize(len, 0);
        read(&mut payload, offset + BLOCK_HEADER_BYTES as u64)?;
        if crc32c::crc32c_append(crc32c::crc32c(&header[4..]), &payload) != crc {
            return Err(damaged("a run's block does not match its checksum"));
        }
        if run != self.info.number {
            return Err(damaged("the block belongs to another run"));
        }
        self.block = payload;
        self.offset = end;
        self.at = 0;
        // The first entry of a block is complete in itself.
        Ok((number, entries))
    }

    fn parse_entry(&mut self) -> Option<()> {
        let mut fields = Fields::new(self.block.get(self.at..)?);
        let table = TableId(fields.u8()?);
        let (shared, rest) = (fields.varint()? as usize, fields.varint()? as usize);
        let value_len = fields.varint()?;
        let suffix = fields.take(rest)?;
        let starts_block = self.at == 0;
        let shares_none = starts_block || table != self.table;
        if shared > self.key.len() || (shares_none && shared != 0) || shared + rest > KEY_BYTES_MAX {
            return None;
        }
        // Ascending: a greater table, or, after the shared bytes, a greater rest.
        let is_first = self.first.is_none();
        let ascends = table > self.table || (table == self.table && self.key[shared..] < *suffix);
        if !is_first && !ascends {
            return None;
        }
        self.table = table;
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        if is_first {
            self.first = Some((table, self.key.clone()));
        }
        let from = self.block.len() - fields.rest().len();
        self.value = match value_len {
            0 => None,
            _ => {
                let value = fields.take(value_len as usize - 1)?;
                decode_value(value)?;
                Some((from, from + value.len()))
            }
        };
        self.at = self.block.len() - fields.rest().len();
        Some(())
    }

    fn check_footer(&self, entries: u32) -> Result<(), StoreError> {
        let mut fields = Fields::new(&self.block);
        let known = (|| {
            let magic = fields.take(8)? == RUN_MAGIC && fields.u32()? == RUN_VERSION;
            let counts = fields.u32()? == self.blocks
                && fields.u64()? == self.entries
                && fields.u64()? == self.tombstones
                && entries == 0;
            let first = (TableId(fields.u8()?), fields.bytes()?);
            let last = (TableId(fields.u8()?), fields.bytes()?);
            let keys = match &self.first {
                None => true,
                Some((table, key)) => first == (*table, key) && last == (self.table, &self.key),
            };
            Some(magic && counts && keys && fields.rest().is_empty())
        })();
        let expected = (self.info.entries, self.info.tombstones, self.info.len);
        if known != Some(true) || expected != (self.entries, self.tombstones, self.offset) {
            return Err(self.corrupt("a run's footer does not fit its blocks or the manifest"));
        }
        Ok(())
    }
}

/// Several runs read as one: of each key the newest entry, by table and key.
pub(crate) struct Merge {
    /// From the newest to the oldest.
    readers: Vec<RunReader>,
    /// Readers that stand at an entry, by that entry and then by age; the next one is the last.
    order: Vec<usize>,
    /// The reader whose entry [`Self::advance`] came to.
    current: Option<usize>,
}

impl Merge {
    /// `readers` from the oldest run to the newest.
    pub(crate) fn new(mut readers: Vec<RunReader>) -> Result<Self, StoreError> {
        readers.reverse();
        let mut merge = Self { order: Vec::with_capacity(readers.len()), readers, current: None };
        for index in 0..merge.readers.len() {
            merge.step(index)?;
        }
        Ok(merge)
    }

    /// Advances a reader that is not in `order` and puts it where it belongs.
    fn step(&mut self, index: usize) -> Result<(), StoreError> {
        if !self.readers[index].advance()? {
            return Ok(());
        }
        let rank = |reader: usize| {
            let (table, key, _) = self.readers[reader].current();
            (table, key, reader)
        };
        let at = self.order.partition_point(|&other| rank(other) > rank(index));
        self.order.insert(at, index);
        Ok(())
    }

    /// Goes to the next key; false behind the last one.
    pub(crate) fn advance(&mut self) -> Result<bool, StoreError> {
        if let Some(done) = self.current.take() {
            // Older entries of the same key lie right behind it.
            while let Some(&next) = self.order.last() {
                let (ours, theirs) = (self.readers[done].current(), self.readers[next].current());
                if (ours.0, ours.1) != (theirs.0, theirs.1) {
                    break;
                }
                self.order.pop();
                self.step(next)?;
            }
            self.step(done)?;
        }
        self.current = self.order.pop();
        Ok(self.current.is_some())
    }

    pub(crate) fn current(&self) -> Change<'_> {
        self.readers[self.current.expect("`advance` said true")].current()
    }
}
