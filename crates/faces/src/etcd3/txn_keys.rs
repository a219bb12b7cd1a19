//! Which keys one branch of a transaction changes, and whether it would change one twice.
//!
//! Invariants: the branches of a nested transaction exclude each other, so both may put one key; any other two puts of
//! a key, and a put of a key that is deleted, clash. The ranges of [`Ranges`] are disjoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use quorate_models::keys::{DeleteRange, Op, RangeEnd};

/// A key would be changed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate;

/// Refuses a branch that changes a key twice.
pub fn check(ops: &[Op]) -> Result<(), Duplicate> {
    changes(ops).map(|_| ())
}

#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Ranges,
}

fn changes(ops: &[Op]) -> Result<Changes<'_>, Duplicate> {
    let mut all = Changes::default();
    for op in ops {
        if let Op::DeleteRange(delete) = op {
            all.deletes.add_delete(delete);
        }
    }
    for op in ops {
        let Op::Txn(nested) = op else { continue };
        let success = changes(&nested.success)?;
        let failure = changes(&nested.failure)?;
        for key in &success.puts {
            all.put(key)?;
        }
        for key in failure.puts.difference(&success.puts) {
            all.put(key)?;
        }
        // What is in both was put once already, and is safe from deletes then.
        for (from, to) in success.deletes.0.into_iter().chain(failure.deletes.0) {
            all.deletes.add(from, to);
        }
    }
    for op in ops {
        if let Op::Put(put) = op {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}

impl<'a> Changes<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), Duplicate> {
        if self.deletes.contain(key) || !self.puts.insert(key) { Err(Duplicate) } else { Ok(()) }
    }
}

/// Start to end; `None` has no end.
#[derive(Default)]
struct Ranges(BTreeMap<Bytes, Option<Bytes>>);

impl Ranges {
    fn add_delete(&mut self, delete: &DeleteRange) {
        let to = match &delete.end {
            RangeEnd::Single => Some(Bytes::from([&delete.key[..], b"\0"].concat())),
            RangeEnd::Before(end) if *end <= delete.key => return,
            RangeEnd::Before(end) => Some(end.clone()),
            RangeEnd::Unbounded => None,
        };
        self.add(delete.key.clone(), to);
    }

    /// Adds a range and merges those that touch it.
    fn add(&mut self, mut from: Bytes, mut to: Option<Bytes>) {
        if let Some((before, end)) = self.0.range(..=from.clone()).next_back()
            && end.as_ref().is_none_or(|end| *end >= from)
        {
            from = before.clone();
        }
        let upper = to.clone().map_or(Bound::Unbounded, Bound::Included);
        let touched: Vec<_> =
            self.0.range((Bound::Included(from.clone()), upper)).map(|(start, _)| start.clone()).collect();
        for start in touched {
            if let Some(end) = self.0.remove(&start) {
                to = match (to, end) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    _ => None,
                };
            }
        }
        self.0.insert(from, to);
    }

    fn contain(&self, key: &[u8]) -> bool {
        let at_or_before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        at_or_before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < &end[..]))
    }
}
