//! Copying a namespace, and checking that a copy is one.
//!
//! Both walk the source and the target side by side, in the order of their keys, a page at a time. Keys that die with a
//! lease belong to whoever keeps that lease alive: they are neither copied nor compared.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

use crate::atomic::{AtomicStorage, Commit, Entry, Write};
use crate::error::{StorageError, shown};

/// Keys of one read.
const PAGE_KEYS: usize = 500;
/// Keys and bytes of one write, below what any server takes; a larger value goes alone.
const BATCH_KEYS_MAX: usize = 100;
const BATCH_BYTES_MAX: usize = 512 << 10;

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Keys that were written, because they were missing or different.
    pub written: usize,
    /// Keys that were there already.
    pub equal: usize,
    /// Keys that were deleted, because the source does not have them.
    pub deleted: usize,
}

/// How a key differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The target does not have it.
    Missing,
    /// The target has it with another value.
    Different,
    /// Only the target has it.
    Extra,
}

/// A key that source and target do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub key: Bytes,
    pub kind: DifferenceKind,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DifferenceKind::Missing => "is missing in the target",
            DifferenceKind::Different => "has another value in the target",
            DifferenceKind::Extra => "is in the target only",
        };
        write!(f, "{} {what}", shown(&self.key))
    }
}

/// Why a copy was not made, or is none.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("the target holds keys already ({}): clear it, or allow what is there to be replaced", shown(.key))]
    TargetNotEmpty { key: Bytes },
    #[error("source and target differ: {first}, and {more} keys more; nothing was switched")]
    NotEqual { first: Difference, more: usize },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// One side of the walk.
struct Cursor<'a> {
    storage: &'a dyn AtomicStorage,
    entries: VecDeque<Entry>,
    after: Option<Bytes>,
    more: bool,
}

impl<'a> Cursor<'a> {
    fn new(storage: &'a dyn AtomicStorage) -> Self {
        Self { storage, entries: VecDeque::new(), after: None, more: true }
    }

    /// Makes sure that the next entry is at hand, if there is one.
    async fn fill(&mut self) -> Result<(), StorageError> {
        while self.entries.is_empty() && self.more {
            let page = self.storage.page(b"", self.after.as_deref(), PAGE_KEYS).await?;
            self.more = page.more;
            if let Some(last) = page.entries.last() {
                self.after = Some(last.key.clone());
            }
            self.entries.extend(page.entries.into_iter().filter(|entry| entry.lease == 0));
        }
        Ok(())
    }
}

/// A key of either side or of both.
enum Step {
    Equal,
    Write(DifferenceKind, Entry),
    Delete(Bytes),
}

async fn step(from: &mut Cursor<'_>, to: &mut Cursor<'_>) -> Result<Option<Step>, StorageError> {
    from.fill().await?;
    to.fill().await?;
    let order = match (from.entries.front(), to.entries.front()) {
        (None, None) => return Ok(None),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(source), Some(target)) => source.key.cmp(&target.key),
    };
    let source = if order.is_le() { from.entries.pop_front() } else { None };
    let target = if order.is_ge() { to.entries.pop_front() } else { None };
    Ok(match (source, target) {
        (Some(source), Some(target)) if source.value == target.value => Some(Step::Equal),
        (Some(source), Some(_)) => Some(Step::Write(DifferenceKind::Different, source)),
        (Some(source), None) => Some(Step::Write(DifferenceKind::Missing, source)),
        (None, Some(target)) => Some(Step::Delete(target.key)),
        (None, None) => None,
    })
}

/// Copies all keys of `from` to `to`; take [`crate::Prefixed`] for a part. The target has to be empty, unless `replace`:
/// then it is made equal to the source, and what only it has is deleted. An interrupted copy is ended with `replace`.
///
/// What is written to the source meanwhile may be missed: copy again, or see [`crate::Switch`].
pub async fn copy_namespace(
    from: &dyn AtomicStorage,
    to: &dyn AtomicStorage,
    replace: bool,
) -> Result<Copied, CopyError> {
    if !replace && let Some(found) = to.page(b"", None, 1).await?.entries.into_iter().next() {
        return Err(CopyError::TargetNotEmpty { key: found.key });
    }
    let (mut source, mut target) = (Cursor::new(from), Cursor::new(to));
    let (mut copied, mut batch, mut batch_bytes) = (Copied::default(), Vec::new(), 0);
    while let Some(step) = step(&mut source, &mut target).await? {
        let (write, bytes) = match step {
            Step::Equal => {
                copied.equal += 1;
                continue;
            }
            Step::Write(_, entry) => {
                copied.written += 1;
                (Write::put(&entry.key, &entry.value), entry.key.len() + entry.value.len())
            }
            Step::Delete(key) => {
                copied.deleted += 1;
                (Write::delete(&key), key.len())
            }
        };
        if batch.len() >= BATCH_KEYS_MAX || (batch_bytes + bytes > BATCH_BYTES_MAX && !batch.is_empty()) {
            send(to, std::mem::take(&mut batch)).await?;
            batch_bytes = 0;
        }
        batch.push(write);
        batch_bytes += bytes;
    }
    send(to, batch).await?;
    Ok(copied)
}

async fn send(to: &dyn AtomicStorage, batch: Vec<Write>) -> Result<(), StorageError> {
    if batch.is_empty() {
        return Ok(());
    }
    // The same values twice are the same values.
    to.commit(Commit::new(vec![], batch).repeatable()).await.map(drop)
}

/// Compares all keys and values; the first `limit` differences. With none, the target is a copy.
pub async fn verify_copy(
    from: &dyn AtomicStorage,
    to: &dyn AtomicStorage,
    limit: usize,
) -> Result<Vec<Difference>, StorageError> {
    let (mut source, mut target) = (Cursor::new(from), Cursor::new(to));
    let mut found = Vec::new();
    while found.len() < limit {
        match step(&mut source, &mut target).await? {
            None => break,
            Some(Step::Equal) => {}
            Some(Step::Write(kind, entry)) => found.push(Difference { key: entry.key, kind }),
            Some(Step::Delete(key)) => found.push(Difference { key, kind: DifferenceKind::Extra }),
        }
    }
    Ok(found)
}
