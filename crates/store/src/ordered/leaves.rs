//! The leaf pages of an index and what lies beside them; how a full page gets room and a thin one is merged.
//!
//! A full page first hands entries to a neighbour; only where both are full is there a new page. A key beyond the end
//! of a full page starts a page of its own, so that keys that come in order leave full pages behind.

use super::long::LongEntries;
use super::node::{Child, Node};
use super::page::{INLINE_BYTES_MAX, NewEntry, PAGE_BYTES, Page};
use super::pages::Pages;
use super::stage::Stage;

/// A full page hands entries over only to a neighbour with at most this many bytes in use. More would move entries too
/// often, less would leave pages emptier.
const SHARE_BYTES_MAX: usize = PAGE_BYTES * 3 / 4;
/// A page with fewer bytes in use looks for a neighbour to merge with.
const MERGE_BYTES_MIN: usize = PAGE_BYTES * 9 / 16;
/// Two pages merge if they have at most this many bytes in use together, so that the next insert need not split again.
const MERGED_BYTES_MAX: usize = PAGE_BYTES * 15 / 16;

#[derive(Default)]
pub(super) struct Leaves {
    pub pages: Pages,
    pub longs: LongEntries,
    stage: Stage,
}

impl Leaves {
    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.memory_bytes() + self.longs.memory_bytes() + self.stage.memory_bytes()
    }

    /// Says how `key` and `row` are to be stored, and stores them here if they are too long for a page.
    pub(super) fn admit<'a>(&mut self, key: &'a [u8], row: &'a [u8]) -> NewEntry<'a> {
        let long = (key.len() + row.len() > INLINE_BYTES_MAX).then(|| self.longs.add(key, row));
        NewEntry { key, row, long }
    }

    /// Removes an entry with what belongs to it; its row goes to `old`.
    fn take(&mut self, page: u32, at: usize, old: &mut Vec<u8>) {
        let entry = self.pages.get(page).entry(at, &self.longs);
        old.extend_from_slice(entry.row);
        let long = entry.long;
        self.pages.get_mut(page).remove(at);
        if let Some(handle) = long {
            self.longs.remove(handle);
        }
    }

    /// Stores `row` under `key` in page `at` of `node`, which must not be full. Returns whether it replaced a row.
    pub(super) fn insert(
        &mut self,
        node: &mut Node,
        at: usize,
        key: &[u8],
        row: &[u8],
        old: &mut Vec<u8>,
    ) -> bool {
        let handle = page_of(node, at);
        let located = self.pages.get(handle).locate(key, &self.longs);
        let to = match located {
            Ok(to) => {
                let before = self.pages.get(handle).entry(to, &self.longs);
                if before.long.is_none() && before.row.len() == row.len() {
                    old.extend_from_slice(before.row);
                    assert!(self.pages.get_mut(handle).try_overwrite(to, row), "rows of equal length");
                    return true;
                }
                self.take(handle, to, old);
                node.counts[at] -= 1;
                to
            }
            Err(to) => to,
        };
        let new = self.admit(key, row);
        let page = self.pages.get_mut(handle);
        if page.try_insert(to, &new) {
            node.counts[at] = page.count() as u64;
        } else {
            self.make_room(node, at, to, &new);
        }
        located.is_ok()
    }

    /// Inserts an entry before entry `to` of page `at`, for which that page has no room as it is.
    fn make_room(&mut self, node: &mut Node, at: usize, to: usize, new: &NewEntry<'_>) {
        let handle = page_of(node, at);
        let page = self.pages.get(handle);
        let (first, last) = (to == 0, to == page.count());
        // Only a page with dead bytes, or one whose prefix does not fit the key, may have room once written anew.
        if first || last || page.has_dead_bytes() {
            self.stage.clear();
            self.gather_with(handle, to, new);
            if self.stage.fits(0..self.stage.len(), &self.longs) {
                return self.write(node, at, 0..self.stage.len());
            }
        }
        if first || last {
            self.place_beside(node, at, first, new);
        } else if !self.share(node, at, to, new) {
            // All keys have the page's prefix, and no entry is longer than a quarter of a page: both halves fit.
            self.stage.clear();
            self.gather_with(handle, to, new);
            let cut = self.stage.middle(&self.longs);
            let right = self.pages.add();
            node.insert_after(at, self.stage.separator(cut, &self.longs), Child::Page(right), 0);
            self.write(node, at, 0..cut);
            self.write(node, at + 1, cut..self.stage.len());
        }
    }

    /// Puts an entry that is less (`first`) or greater than all of page `at` into the page beside it, a new one if
    /// that has no room. The stage holds the entries of page `at` and the new one.
    fn place_beside(&mut self, node: &mut Node, at: usize, first: bool, new: &NewEntry<'_>) {
        let cut = if first { 1 } else { self.stage.len() - 1 };
        let separator = self.stage.separator(cut, &self.longs);
        let beside =
            if first { at.checked_sub(1) } else { Some(at + 1).filter(|beside| *beside < node.len()) };
        if let Some(beside) = beside {
            let page = self.pages.get_mut(page_of(node, beside));
            let to = if first { page.count() } else { 0 };
            if page.try_insert(to, new) {
                node.counts[beside] = page.count() as u64;
                return node.set_separator(at.min(beside), separator);
            }
        }
        let handle = self.pages.add();
        let alone = self.pages.get_mut(handle).try_insert(0, new);
        assert!(alone, "an empty page has room for any entry");
        if first {
            node.insert_before(at, separator, Child::Page(handle), 1);
        } else {
            node.insert_after(at, separator, Child::Page(handle), 1);
        }
    }

    /// Spreads the entries of page `at` and the new one evenly over that page and its emptier neighbour. Returns
    /// false, with nothing changed, if the neighbours are too full for that.
    fn share(&mut self, node: &mut Node, at: usize, to: usize, new: &NewEntry<'_>) -> bool {
        let live_bytes = |beside: usize| self.pages.get(page_of(node, beside)).live_bytes();
        let left = at.checked_sub(1).map(|left| (live_bytes(left), left));
        let right = Some(at + 1).filter(|right| *right < node.len()).map(|right| (live_bytes(right), right));
        let Some((_, beside)) =
            left.into_iter().chain(right).min().filter(|(live, _)| *live <= SHARE_BYTES_MAX)
        else {
            return false;
        };
        let (handle, other) = (page_of(node, at), page_of(node, beside));
        let other_count = self.pages.get(other).count();
        self.stage.clear();
        if beside < at {
            self.stage.gather(self.pages.get(other), 0..other_count, &self.longs);
        }
        self.gather_with(handle, to, new);
        if beside > at {
            self.stage.gather(self.pages.get(other), 0..other_count, &self.longs);
        }
        let (cut, end) = (self.stage.middle(&self.longs), self.stage.len());
        if !self.stage.fits(0..cut, &self.longs) || !self.stage.fits(cut..end, &self.longs) {
            return false;
        }
        let left = at.min(beside);
        self.write(node, left, 0..cut);
        self.write(node, left + 1, cut..end);
        node.set_separator(left, self.stage.separator(cut, &self.longs));
        true
    }

    /// Appends the entries of a page to the stage, the new one before entry `to`.
    fn gather_with(&mut self, handle: u32, to: usize, new: &NewEntry<'_>) {
        let page = self.pages.get(handle);
        self.stage.gather(page, 0..to, &self.longs);
        self.stage.push(new);
        self.stage.gather(page, to..page.count(), &self.longs);
    }

    /// Makes page `at` of `node` hold entries `range` of the stage.
    fn write(&mut self, node: &mut Node, at: usize, range: std::ops::Range<usize>) {
        node.counts[at] = range.len() as u64;
        self.stage.write(range, self.pages.get_mut(page_of(node, at)), &self.longs);
    }

    /// Removes `key` from page `at` of `node`. Returns none if it is not there; else the page that is free now, if any.
    pub(super) fn remove(
        &mut self,
        node: &mut Node,
        at: usize,
        key: &[u8],
        old: &mut Vec<u8>,
    ) -> Option<Option<u32>> {
        let handle = page_of(node, at);
        let from = self.pages.get(handle).locate(key, &self.longs).ok()?;
        self.take(handle, from, old);
        node.counts[at] -= 1;
        let page = self.pages.get(handle);
        if page.count() == 0 {
            node.remove(at);
            return Some(Some(handle));
        }
        if page.live_bytes() >= MERGE_BYTES_MIN {
            return Some(None);
        }
        Some(self.merge(node, at))
    }

    /// Merges page `at` with a neighbour if they are thin enough together. Returns the page that is free then.
    fn merge(&mut self, node: &mut Node, at: usize) -> Option<u32> {
        for left in [at.checked_sub(1), Some(at)].into_iter().flatten() {
            if left + 1 >= node.len() {
                continue;
            }
            let pages = [page_of(node, left), page_of(node, left + 1)].map(|handle| self.pages.get(handle));
            if pages.iter().map(|page| page.live_bytes()).sum::<usize>() > MERGED_BYTES_MAX {
                continue;
            }
            self.stage.clear();
            for page in pages {
                self.stage.gather(page, 0..page.count(), &self.longs);
            }
            let end = self.stage.len();
            if self.stage.fits(0..end, &self.longs) {
                self.write(node, left, 0..end);
                let freed = page_of(node, left + 1);
                node.remove(left + 1);
                return Some(freed);
            }
        }
        None
    }
}

/// The page that is child `at` of a node whose children are pages.
pub(super) fn page_of(node: &Node, at: usize) -> u32 {
    match &node.children[at] {
        Child::Page(handle) => *handle,
        Child::Node(_) => unreachable!("all children of a node are of one kind"),
    }
}

/// The first key of a page that has one.
pub(super) fn first_key(page: &Page, longs: &LongEntries) -> Vec<u8> {
    let mut key = Vec::new();
    page.key_into(0, longs, &mut key);
    key
}
