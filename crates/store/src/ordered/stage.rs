//! Where entries of one or two pages stand in a row while pages are written anew.

use std::ops::Range;

use super::long::LongEntries;
use super::page::{NewEntry, PAGE_BYTES, PREFIX_BYTES_MAX, Page, common_len, entry_bytes, fixed_bytes};

/// Entries in key order. Keys and rows that lie in pages are copied into `bytes`, one after the other; of a long entry
/// there is the handle.
#[derive(Default)]
pub(super) struct Stage {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    start: usize,
    key_len: usize,
    row_len: usize,
    long: Option<u32>,
}

impl Stage {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.items.capacity() * size_of::<Item>()
    }

    /// Appends entries `range` of a page.
    pub(super) fn gather(&mut self, page: &Page, range: Range<usize>, longs: &LongEntries) {
        for at in range {
            let entry = page.entry(at, longs);
            let key_len = page.prefix().len() + entry.suffix_len;
            let start = self.bytes.len();
            if entry.long.is_none() {
                self.bytes.extend_from_slice(page.prefix());
                page.extend_with_suffix(at, &entry, &mut self.bytes);
                self.bytes.extend_from_slice(entry.row);
            }
            self.items.push(Item { start, key_len, row_len: entry.row.len(), long: entry.long });
        }
    }

    pub(super) fn push(&mut self, new: &NewEntry<'_>) {
        let start = self.bytes.len();
        if new.long.is_none() {
            self.bytes.extend_from_slice(new.key);
            self.bytes.extend_from_slice(new.row);
        }
        self.items.push(Item { start, key_len: new.key.len(), row_len: new.row.len(), long: new.long });
    }

    fn entry<'a>(&'a self, at: usize, longs: &'a LongEntries) -> NewEntry<'a> {
        let item = &self.items[at];
        if let Some(handle) = item.long {
            let (key, row) = longs.get(handle);
            return NewEntry { key, row, long: item.long };
        }
        let (key, row) =
            self.bytes[item.start..item.start + item.key_len + item.row_len].split_at(item.key_len);
        NewEntry { key, row, long: None }
    }

    /// What the entries of `range`, at least one, share.
    pub(super) fn prefix<'a>(&'a self, range: &Range<usize>, longs: &'a LongEntries) -> &'a [u8] {
        let first = self.entry(range.start, longs).key;
        let last = self.entry(range.end - 1, longs).key;
        &first[..common_len(first, last).min(PREFIX_BYTES_MAX)]
    }

    fn item_bytes(&self, at: usize, prefix_len: usize) -> usize {
        let item = &self.items[at];
        entry_bytes(item.key_len, item.row_len, item.long.is_some(), prefix_len)
    }

    /// Bytes in use of a page that holds the entries of `range`, at least one.
    pub(super) fn page_bytes(&self, range: Range<usize>, longs: &LongEntries) -> usize {
        let prefix_len = self.prefix(&range, longs).len();
        let bytes: usize = range.map(|at| self.item_bytes(at, prefix_len)).sum();
        fixed_bytes(prefix_len) + bytes
    }

    /// Whether the entries of `range`, at least one, fit into one page.
    pub(super) fn fits(&self, range: Range<usize>, longs: &LongEntries) -> bool {
        self.page_bytes(range, longs) <= PAGE_BYTES
    }

    /// Where to cut, so that both sides have an entry and about as many bytes.
    pub(super) fn middle(&self, longs: &LongEntries) -> usize {
        let all = 0..self.items.len();
        let prefix_len = self.prefix(&all, longs).len();
        let total: usize = all.clone().map(|at| self.item_bytes(at, prefix_len)).sum();
        let mut left = 0;
        let cut = all
            .map(|at| {
                left += self.item_bytes(at, prefix_len);
                left
            })
            .position(|left| left * 2 >= total);
        cut.map_or(1, |cut| cut + 1).clamp(1, self.items.len() - 1)
    }

    /// Makes `page` hold the entries of `range`, which must fit.
    pub(super) fn write(&self, range: Range<usize>, page: &mut Page, longs: &LongEntries) {
        page.reset(self.prefix(&range, longs));
        for (to, at) in range.enumerate() {
            let written = page.try_insert_under_prefix(to, &self.entry(at, longs));
            assert!(written, "entries were measured before they were written");
        }
    }

    /// The shortest key that is greater than the entry before `cut` and not greater than the one at it.
    pub(super) fn separator(&self, cut: usize, longs: &LongEntries) -> Box<[u8]> {
        separator(self.entry(cut - 1, longs).key, self.entry(cut, longs).key)
    }
}

/// The shortest key `s` with `left < s <= right`; `left` is less than `right`.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Box<[u8]> {
    right[..=common_len(left, right)].into()
}
