//! Entries too long for a page: the whole key and row, by handle.

use std::collections::BTreeSet;

type LongEntry = (Box<[u8]>, Box<[u8]>);

/// What an allocation costs beyond its bytes, about.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// The slab of long entries. A freed handle is used again, the lowest first; free handles at the end are given back.
#[derive(Default)]
pub(super) struct LongEntries {
    entries: Vec<Option<LongEntry>>,
    free: BTreeSet<u32>,
    held_bytes: usize,
}

impl LongEntries {
    pub(super) fn get(&self, handle: u32) -> (&[u8], &[u8]) {
        let (key, row) =
            self.entries[handle as usize].as_ref().expect("a page names only entries that are there");
        (key, row)
    }

    pub(super) fn add(&mut self, key: &[u8], row: &[u8]) -> u32 {
        self.held_bytes += held_bytes(key, row);
        let entry = Some((key.into(), row.into()));
        if let Some(handle) = self.free.pop_first() {
            self.entries[handle as usize] = entry;
            return handle;
        }
        let handle = u32::try_from(self.entries.len()).expect("fewer than 2^32 long entries fit in memory");
        self.entries.push(entry);
        handle
    }

    pub(super) fn remove(&mut self, handle: u32) {
        let (key, row) =
            self.entries[handle as usize].take().expect("a page names only entries that are there");
        self.held_bytes -= held_bytes(&key, &row);
        self.free.insert(handle);
        while self.entries.last().is_some_and(Option::is_none) {
            self.entries.pop();
            self.free.pop_last();
        }
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.held_bytes
            + self.entries.capacity() * size_of::<Option<LongEntry>>()
            + self.free.len() * size_of::<u64>()
    }
}

fn held_bytes(key: &[u8], row: &[u8]) -> usize {
    key.len() + row.len() + 2 * ALLOCATION_BYTES
}
