//! A leaf page: a sorted run of entries in 2 KiB.
//!
//! ```text
//! 0      2           4      6           7  8        8+prefix
//! count  heap_start  dead   prefix_len  0  prefix   slots ...   free   ... heap
//! ```
//!
//! Numbers are u16, little-endian. The prefix is common to all keys of the page and is stored once; what is left of a
//! key is its *suffix*. A slot is 4 bytes: the offset of the entry in the heap, and the *head*, which is the first two
//! bytes of the suffix (zeros where it is shorter) as a number that orders as they do. An entry is the suffix's length, the row's length, the suffix from its
//! third byte on, and the row; or, where key and row are too long for that, a mark and a handle of [`LongEntries`],
//! which then holds the whole key and row.
//!
//! What holds: slots are in key order; `8 + prefix_len + 4 * count <= heap_start`; `dead` is the number of bytes in
//! the heap that no slot refers to.

use std::cmp::Ordering;
use std::ops::Range;

use super::long::LongEntries;

pub(super) const PAGE_BYTES: usize = 2048;
/// Key and row together, up to which an entry lies in its page.
pub(super) const INLINE_BYTES_MAX: usize = 384;
/// The longest prefix that a page factors out; its length is one byte.
pub(super) const PREFIX_BYTES_MAX: usize = 255;

const HEADER_BYTES: usize = 8;
const SLOT_BYTES: usize = 4;
const HEAD_BYTES: usize = 2;
/// A page with more slots is searched by halving, not by counting.
const SLOTS_COUNTED_MAX: usize = 96;
const LONG_ENTRY_BYTES: usize = 5;
/// A length below this takes one byte, any other that can occur takes two.
const LENGTH_TWO_BYTES: usize = 0xc0;
const LONG_MARK: u8 = 0xff;

// No two-byte length starts as the mark does; and a page has room for several entries of any size, on which the
// splitting of pages relies.
const _: () = assert!(INLINE_BYTES_MAX < 0x3f00 && INLINE_BYTES_MAX * 4 < PAGE_BYTES - PREFIX_BYTES_MAX);

pub(super) struct Page([u8; PAGE_BYTES]);

/// An entry to be written.
#[derive(Clone, Copy)]
pub(super) struct NewEntry<'a> {
    pub key: &'a [u8],
    pub row: &'a [u8],
    /// Where key and row lie, if not in the page.
    pub long: Option<u32>,
}

/// An entry as it lies in a page.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub suffix_len: usize,
    /// The suffix from its third byte on.
    pub rest: &'a [u8],
    pub row: &'a [u8],
    pub long: Option<u32>,
}

/// Bytes that an entry takes in a page whose prefix is `prefix_len` long, its slot included.
pub(super) fn entry_bytes(key_len: usize, row_len: usize, long: bool, prefix_len: usize) -> usize {
    let suffix_len = key_len - prefix_len;
    SLOT_BYTES
        + if long {
            LONG_ENTRY_BYTES
        } else {
            length_bytes(suffix_len) + length_bytes(row_len) + suffix_len.saturating_sub(HEAD_BYTES) + row_len
        }
}

/// Bytes of a page without entries.
pub(super) fn fixed_bytes(prefix_len: usize) -> usize {
    HEADER_BYTES + prefix_len
}

/// How many leading bytes `a` and `b` share.
pub(super) fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn length_bytes(length: usize) -> usize {
    if length < LENGTH_TWO_BYTES { 1 } else { 2 }
}

fn head_of(suffix: &[u8]) -> u16 {
    match suffix {
        [] => 0,
        [first] => u16::from_be_bytes([*first, 0]),
        [first, second, ..] => u16::from_be_bytes([*first, *second]),
    }
}

fn rest_of(suffix: &[u8]) -> &[u8] {
    suffix.get(HEAD_BYTES..).unwrap_or_default()
}

impl Page {
    pub(super) const EMPTY: Self = {
        let mut bytes = [0; PAGE_BYTES];
        let heap_start = (PAGE_BYTES as u16).to_le_bytes();
        bytes[2] = heap_start[0];
        bytes[3] = heap_start[1];
        Self(bytes)
    };

    fn u16_at(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn set_u16(&mut self, at: usize, value: usize) {
        debug_assert!(value <= PAGE_BYTES);
        self.0[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }

    pub(super) fn count(&self) -> usize {
        self.u16_at(0)
    }

    fn heap_start(&self) -> usize {
        self.u16_at(2)
    }

    fn dead(&self) -> usize {
        self.u16_at(4)
    }

    pub(super) fn has_dead_bytes(&self) -> bool {
        self.dead() > 0
    }

    fn prefix_len(&self) -> usize {
        usize::from(self.0[6])
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.0[HEADER_BYTES..HEADER_BYTES + self.prefix_len()]
    }

    fn slots_start(&self) -> usize {
        HEADER_BYTES + self.prefix_len()
    }

    fn slots_end(&self) -> usize {
        self.slots_start() + SLOT_BYTES * self.count()
    }

    fn slot(&self, at: usize) -> (u16, usize) {
        let start = self.slots_start() + SLOT_BYTES * at;
        let slot = &self.0[start..start + SLOT_BYTES];
        (u16::from_le_bytes([slot[2], slot[3]]), usize::from(u16::from_le_bytes([slot[0], slot[1]])))
    }

    /// Bytes in use: all but the free and the dead ones.
    pub(super) fn live_bytes(&self) -> usize {
        self.slots_end() + (PAGE_BYTES - self.heap_start()) - self.dead()
    }

    /// Makes it a page without entries for keys that start with `prefix`.
    pub(super) fn reset(&mut self, prefix: &[u8]) {
        self.0[..HEADER_BYTES].copy_from_slice(&Self::EMPTY.0[..HEADER_BYTES]);
        self.0[6] = u8::try_from(prefix.len()).expect("no prefix is longer than PREFIX_BYTES_MAX");
        self.0[HEADER_BYTES..HEADER_BYTES + prefix.len()].copy_from_slice(prefix);
    }

    fn length_at(&self, at: &mut usize) -> usize {
        let first = usize::from(self.0[*at]);
        *at += 1;
        if first < LENGTH_TWO_BYTES {
            return first;
        }
        let second = usize::from(self.0[*at]);
        *at += 1;
        (first - LENGTH_TWO_BYTES) << 8 | second
    }

    fn set_length(&mut self, at: &mut usize, length: usize) {
        if length < LENGTH_TWO_BYTES {
            self.0[*at] = length as u8;
        } else {
            self.0[*at] = (LENGTH_TWO_BYTES | length >> 8) as u8;
            *at += 1;
            self.0[*at] = (length & 0xff) as u8;
        }
        *at += 1;
    }

    fn long_at(&self, offset: usize) -> Option<u32> {
        (self.0[offset] == LONG_MARK).then(|| {
            let handle = &self.0[offset + 1..offset + LONG_ENTRY_BYTES];
            u32::from_le_bytes([handle[0], handle[1], handle[2], handle[3]])
        })
    }

    /// The suffix's length, and where in the page its rest and its row lie.
    fn inline_at(&self, offset: usize) -> (usize, Range<usize>, Range<usize>) {
        let mut at = offset;
        let suffix_len = self.length_at(&mut at);
        let row_len = self.length_at(&mut at);
        let row_start = at + suffix_len.saturating_sub(HEAD_BYTES);
        (suffix_len, at..row_start, row_start..row_start + row_len)
    }

    pub(super) fn entry<'a>(&'a self, at: usize, longs: &'a LongEntries) -> Entry<'a> {
        let (_, offset) = self.slot(at);
        if let Some(handle) = self.long_at(offset) {
            let (key, row) = longs.get(handle);
            let suffix = &key[self.prefix_len()..];
            return Entry { suffix_len: suffix.len(), rest: rest_of(suffix), row, long: Some(handle) };
        }
        let (suffix_len, rest, row) = self.inline_at(offset);
        Entry { suffix_len, rest: &self.0[rest], row: &self.0[row], long: None }
    }

    /// Appends the suffix of the entry at `at` to `key`.
    pub(super) fn extend_with_suffix(&self, at: usize, entry: &Entry<'_>, key: &mut Vec<u8>) {
        let head = self.slot(at).0.to_be_bytes();
        key.extend_from_slice(&head[..entry.suffix_len.min(HEAD_BYTES)]);
        key.extend_from_slice(entry.rest);
    }

    /// Puts the key at `at` into `key`.
    pub(super) fn key_into(&self, at: usize, longs: &LongEntries, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.prefix());
        self.extend_with_suffix(at, &self.entry(at, longs), key);
    }

    /// Where `key` is, or where it would have to be inserted.
    pub(super) fn locate(&self, key: &[u8], longs: &LongEntries) -> Result<usize, usize> {
        let Some(suffix) = key.strip_prefix(self.prefix()) else {
            return Err(if key < self.prefix() { 0 } else { self.count() });
        };
        let (mut low, mut high) = self.slots_with_head(head_of(suffix));
        let rest = rest_of(suffix);
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = self.entry(middle, longs);
            // With equal heads, a suffix shorter than its head is a prefix of the other.
            let order = if entry.suffix_len.min(suffix.len()) < HEAD_BYTES {
                entry.suffix_len.cmp(&suffix.len())
            } else {
                entry.rest.cmp(rest)
            };
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The slots with this head: the first one, and the one behind the last.
    fn slots_with_head(&self, head: u16) -> (usize, usize) {
        let (slots, _) = self.0[self.slots_start()..self.slots_end()].as_chunks::<SLOT_BYTES>();
        let head_at = |slot: &[u8; SLOT_BYTES]| u16::from_le_bytes([slot[2], slot[3]]);
        if slots.len() > SLOTS_COUNTED_MAX {
            let low = slots.partition_point(|slot| head_at(slot) < head);
            return (low, low + slots[low..].partition_point(|slot| head_at(slot) == head));
        }
        // Without branches, and so that the cache lines of the slots are fetched at the same time.
        let (mut less, mut equal) = (0, 0);
        for slot in slots {
            less += u32::from(head_at(slot) < head);
            equal += u32::from(head_at(slot) == head);
        }
        (less as usize, (less + equal) as usize)
    }

    /// Inserts an entry at `at` if its key has the page's prefix and the free space is enough.
    #[must_use]
    pub(super) fn try_insert(&mut self, at: usize, new: &NewEntry<'_>) -> bool {
        if self.count() == 0 {
            self.reset(&new.key[..new.key.len().min(PREFIX_BYTES_MAX)]);
        }
        self.try_insert_under_prefix(at, new)
    }

    /// As [`Self::try_insert`], but an empty page keeps the prefix that it was given.
    #[must_use]
    pub(super) fn try_insert_under_prefix(&mut self, at: usize, new: &NewEntry<'_>) -> bool {
        let Some(suffix) = new.key.strip_prefix(self.prefix()) else { return false };
        let bytes = entry_bytes(new.key.len(), new.row.len(), new.long.is_some(), self.prefix_len());
        let slots_end = self.slots_end();
        if slots_end + bytes > self.heap_start() {
            return false;
        }
        let offset = self.heap_start() - (bytes - SLOT_BYTES);
        if let Some(handle) = new.long {
            self.0[offset] = LONG_MARK;
            self.0[offset + 1..offset + LONG_ENTRY_BYTES].copy_from_slice(&handle.to_le_bytes());
        } else {
            let mut to = offset;
            self.set_length(&mut to, suffix.len());
            self.set_length(&mut to, new.row.len());
            let rest = rest_of(suffix);
            self.0[to..to + rest.len()].copy_from_slice(rest);
            to += rest.len();
            self.0[to..to + new.row.len()].copy_from_slice(new.row);
        }
        let slot = self.slots_start() + SLOT_BYTES * at;
        self.0.copy_within(slot..slots_end, slot + SLOT_BYTES);
        self.0[slot..slot + 2].copy_from_slice(&(offset as u16).to_le_bytes());
        self.0[slot + 2..slot + 4].copy_from_slice(&head_of(suffix).to_le_bytes());
        self.set_u16(0, self.count() + 1);
        self.set_u16(2, offset);
        true
    }

    /// Writes `row` over the row at `at` if that lies in the page and is as long.
    #[must_use]
    pub(super) fn try_overwrite(&mut self, at: usize, row: &[u8]) -> bool {
        let (_, offset) = self.slot(at);
        if self.long_at(offset).is_some() {
            return false;
        }
        let (_, _, place) = self.inline_at(offset);
        let fits = place.len() == row.len();
        if fits {
            self.0[place].copy_from_slice(row);
        }
        fits
    }

    /// Removes the entry at `at`; what it has outside the page is the caller's to free.
    pub(super) fn remove(&mut self, at: usize) {
        let (_, offset) = self.slot(at);
        let end = match self.long_at(offset) {
            Some(_) => offset + LONG_ENTRY_BYTES,
            None => self.inline_at(offset).2.end,
        };
        let slot = self.slots_start() + SLOT_BYTES * at;
        let slots_end = self.slots_end();
        self.0.copy_within(slot + SLOT_BYTES..slots_end, slot);
        self.set_u16(0, self.count() - 1);
        if offset == self.heap_start() {
            self.set_u16(2, end);
        } else {
            self.set_u16(4, self.dead() + (end - offset));
        }
    }

    /// Panics unless the page is sound. Whether its keys are in order is the index's check.
    #[cfg(test)]
    pub(super) fn check(&self, longs: &LongEntries) {
        assert!(self.slots_end() <= self.heap_start() && self.heap_start() <= PAGE_BYTES);
        let mut used: Vec<Range<usize>> = (0..self.count())
            .map(|at| {
                let (_, offset) = self.slot(at);
                let entry = self.entry(at, longs);
                let key_len = self.prefix_len() + entry.suffix_len;
                let long = entry.long.is_some();
                assert_eq!(long, key_len + entry.row.len() > INLINE_BYTES_MAX);
                let bytes = entry_bytes(key_len, entry.row.len(), long, self.prefix_len());
                offset..offset + bytes - SLOT_BYTES
            })
            .collect();
        used.sort_by_key(|range| range.start);
        assert!(used.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(used.first().is_none_or(|first| first.start >= self.heap_start()));
        let in_use: usize = used.iter().map(ExactSizeIterator::len).sum();
        assert_eq!(in_use + self.dead(), PAGE_BYTES - self.heap_start());
    }
}
