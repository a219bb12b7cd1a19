//! The ordered index of a table: byte keys to short rows, in memory, with order statistics.
//!
//! A B+ tree. Leaves are packed pages of 2 KiB ([`page`]) without pointers to one another; inner nodes ([`node`]) have
//! 64 children and the number of keys below each, which is what makes ranks and counts cheap. Keys and rows too long
//! for a page lie beside it ([`long`]). Any key may be stored, the empty one too; keys order as their bytes do.
//!
//! What holds between the parts:
//! - every page in [`pages`] is a child of exactly one node, and holds a key;
//! - every long entry is named by exactly one entry of a page;
//! - a node's counts are the numbers of keys below its children, and `len` is the root's total;
//! - all pages are equally deep.
//!
//! What it holds is decided by the calls made alone: no time, chance or address has a part in it.

mod builder;
mod leaves;
mod long;
mod node;
mod page;
mod pages;
mod stage;
#[cfg(test)]
mod tests;
mod tree;

use std::ops::ControlFlow;

pub use builder::Builder;
use leaves::Leaves;
use node::Node;
use tree::Scan;

/// A key was pushed to a [`Builder`] that is not greater than the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {position} of a sorted run is not greater than the key before it; the run is damaged or not sorted"
)]
pub struct OutOfOrder {
    /// How many keys were pushed before this one.
    pub position: usize,
}

/// Receives keys with their rows until it breaks; the slices are valid in the call only.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A map from keys to rows, in key order.
pub struct Ordered {
    root: Box<Node>,
    leaves: Leaves,
    len: usize,
}

impl Default for Ordered {
    fn default() -> Self {
        Self { root: Box::new(Node::new()), leaves: Leaves::default(), len: 0 }
    }
}

impl Ordered {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it holds. Walks the inner nodes: some 20 us for a million keys.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.root.memory_bytes() + self.leaves.memory_bytes()
    }

    /// The row of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let page = self.leaves.pages.get(tree::find_page(&self.root, key)?);
        let at = page.locate(key, &self.leaves.longs).ok()?;
        Some(page.entry(at, &self.leaves.longs).row)
    }

    /// Stores `row` under `key`. Returns whether it replaced a row, which `old` then holds; else `old` is empty.
    pub fn insert(&mut self, key: &[u8], row: &[u8], old: &mut Vec<u8>) -> bool {
        old.clear();
        let replaced = tree::insert(&mut self.root, &mut self.leaves, key, row, old);
        self.len += usize::from(!replaced);
        replaced
    }

    /// Removes `key`. Returns whether it was there; `old` then holds its row, else it is empty.
    pub fn remove(&mut self, key: &[u8], old: &mut Vec<u8>) -> bool {
        old.clear();
        let removed = tree::remove(&mut self.root, &mut self.leaves, key, old);
        self.len -= usize::from(removed);
        removed
    }

    /// How many keys are less than `key`.
    #[must_use]
    pub fn rank(&self, key: &[u8]) -> usize {
        tree::find(&self.root, key).map_or(0, |(handle, before)| {
            let at = self.leaves.pages.get(handle).locate(key, &self.leaves.longs);
            before as usize + at.unwrap_or_else(|at| at)
        })
    }

    /// How many keys are in `[from, to)`; no `to` means no upper bound.
    #[must_use]
    pub fn count(&self, from: &[u8], to: Option<&[u8]>) -> usize {
        let below_to = to.map_or(self.len(), |to| self.rank(to));
        below_to.saturating_sub(self.rank(from))
    }

    /// Visits the keys in `[from, to)` with their rows, ascending, until `visit` breaks.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) {
        self.walk(from, to, false, visit);
    }

    /// As [`Self::scan`], descending from the greatest key below `to`.
    pub fn scan_reverse(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) {
        self.walk(from, to, true, visit);
    }

    /// Builds an index in bulk from keys in strictly ascending order.
    pub fn from_sorted<K: AsRef<[u8]>, R: AsRef<[u8]>>(
        entries: impl IntoIterator<Item = (K, R)>,
    ) -> Result<Self, OutOfOrder> {
        let mut builder = Builder::new();
        for (key, row) in entries {
            builder.push(key.as_ref(), row.as_ref())?;
        }
        Ok(builder.finish())
    }

    fn walk(&self, from: &[u8], to: Option<&[u8]>, reverse: bool, visit: Visit<'_>) {
        let mut scan = Scan { leaves: &self.leaves, reverse, key: Vec::new() };
        // A break only says that the visitor has seen enough.
        let _ = scan.below(&self.root, Some(from), to, visit);
    }
}
