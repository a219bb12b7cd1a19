//! The ordered index of a table: byte keys to short rows, in memory, with order statistics.
//!
//! Any key may be stored, the empty one too; keys order as their bytes do. Equal contents reached by any path answer
//! equally; nothing in here depends on time, chance or addresses.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// A key was pushed to a [`Builder`] that is not greater than the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {position} of a sorted run is not greater than the key before it; the run is damaged or not sorted"
)]
pub struct OutOfOrder {
    /// How many keys were pushed before this one.
    pub position: usize,
}

/// A map from keys to rows, in key order.
#[derive(Default)]
pub struct Ordered {
    rows: BTreeMap<Box<[u8]>, Box<[u8]>>,
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
        self.rows.len()
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.rows.iter().map(|(key, row)| key.len() + row.len() + 64).sum()
    }

    /// The row of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.rows.get(key).map(AsRef::as_ref)
    }

    /// Stores `row` under `key`. Returns whether it replaced a row, which `old` then holds; else `old` is empty.
    pub fn insert(&mut self, key: &[u8], row: &[u8], old: &mut Vec<u8>) -> bool {
        old.clear();
        let replaced = self.rows.insert(key.into(), row.into());
        old.extend_from_slice(replaced.as_deref().unwrap_or_default());
        replaced.is_some()
    }

    /// Removes `key`. Returns whether it was there; `old` then holds its row, else it is empty.
    pub fn remove(&mut self, key: &[u8], old: &mut Vec<u8>) -> bool {
        old.clear();
        let removed = self.rows.remove(key);
        old.extend_from_slice(removed.as_deref().unwrap_or_default());
        removed.is_some()
    }

    /// How many keys are less than `key`.
    #[must_use]
    pub fn rank(&self, key: &[u8]) -> usize {
        self.rows.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(key))).count()
    }

    /// How many keys are in `[from, to)`; no `to` means no upper bound.
    #[must_use]
    pub fn count(&self, from: &[u8], to: Option<&[u8]>) -> usize {
        let below_to = to.map_or(self.len(), |to| self.rank(to));
        below_to.saturating_sub(self.rank(from))
    }

    /// Visits the keys in `[from, to)` with their rows, ascending, until `visit` breaks.
    pub fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        for (key, row) in self.range(from, to) {
            if visit(key, row).is_break() {
                return;
            }
        }
    }

    /// As [`Self::scan`], descending from the greatest key below `to`.
    pub fn scan_reverse(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        for (key, row) in self.range(from, to).rev() {
            if visit(key, row).is_break() {
                return;
            }
        }
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

    /// Panics unless all that must hold between the parts holds.
    #[cfg(test)]
    fn check(&self) {
        assert_eq!(self.rank(b""), 0);
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let from = to.map_or(from, |to| from.min(to));
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range::<[u8], _>((Bound::Included(from), upper)).map(|(key, row)| (&**key, &**row))
    }
}

/// Builds an [`Ordered`] from keys in strictly ascending order, without a search per key.
#[derive(Default)]
pub struct Builder {
    index: Ordered,
}

impl Builder {
    /// A builder that has no keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next key. Refuses one that is not greater than the last; the builder is then unchanged.
    pub fn push(&mut self, key: &[u8], row: &[u8]) -> Result<(), OutOfOrder> {
        if self.index.rows.last_key_value().is_some_and(|(last, _)| **last >= *key) {
            return Err(OutOfOrder { position: self.index.len() });
        }
        self.index.rows.insert(key.into(), row.into());
        Ok(())
    }

    /// The index of all keys pushed.
    #[must_use]
    pub fn finish(self) -> Ordered {
        self.index
    }
}
