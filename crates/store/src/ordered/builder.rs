//! Building an index in bulk: pages are filled one after the other, then the nodes above them.

use super::leaves::Leaves;
use super::node::{Child, FANOUT, Node};
use super::page::{NewEntry, PAGE_BYTES, entry_bytes};
use super::stage::{Stage, separator};
use super::{Ordered, OutOfOrder};

/// Builds an [`Ordered`] from keys in strictly ascending order, without a search per key. Its pages are full.
#[derive(Default)]
pub struct Builder {
    leaves: Leaves,
    stage: Stage,
    /// The prefix that the staged entries share, and the bytes that they take in a page.
    prefix_len: usize,
    staged_bytes: usize,
    last_key: Vec<u8>,
    /// Pages written, each with the separator before it (the first: empty) and its number of keys.
    level: Level,
    len: usize,
}

impl Builder {
    /// A builder that has no keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next key. Refuses one that is not greater than the last; the builder is then unchanged.
    pub fn push(&mut self, key: &[u8], row: &[u8]) -> Result<(), OutOfOrder> {
        if self.len > 0 && *key <= *self.last_key {
            return Err(OutOfOrder { position: self.len });
        }
        let new = self.leaves.admit(key, row);
        self.stage.push(&new);
        self.measure(&new);
        let staged = self.stage.len();
        if self.staged_bytes > PAGE_BYTES {
            self.write(staged - 1);
            let separator = separator(&self.last_key, key);
            self.level.push((separator, Child::Page(0), 0));
            self.stage.clear();
            self.stage.push(&new);
            self.measure(&new);
        } else if self.len == 0 {
            self.level.push((Box::default(), Child::Page(0), 0));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.len += 1;
        Ok(())
    }

    /// Brings `staged_bytes` up to date after an entry was staged.
    fn measure(&mut self, new: &NewEntry<'_>) {
        let (staged, longs) = (self.stage.len(), &self.leaves.longs);
        let prefix_len = self.stage.prefix(&(0..staged), longs).len();
        if staged > 1 && prefix_len == self.prefix_len {
            self.staged_bytes += entry_bytes(new.key.len(), new.row.len(), new.long.is_some(), prefix_len);
        } else {
            self.prefix_len = prefix_len;
            self.staged_bytes = self.stage.page_bytes(0..staged, longs);
        }
    }

    /// Writes the first `count` staged entries as the page that is last in the level.
    fn write(&mut self, count: usize) {
        let handle = self.leaves.pages.add();
        self.stage.write(0..count, self.leaves.pages.get_mut(handle), &self.leaves.longs);
        let (_, child, keys) = self.level.last_mut().expect("a page is in the level before it is written");
        *child = Child::Page(handle);
        *keys = count as u64;
    }

    /// The index of all keys pushed.
    #[must_use]
    pub fn finish(mut self) -> Ordered {
        if self.len == 0 {
            return Ordered::new();
        }
        self.write(self.stage.len());
        let mut level = self.level;
        while level.len() > FANOUT {
            level = level_above(level);
        }
        let (_, root, _) = node_of(level);
        Ordered { root, leaves: self.leaves, len: self.len }
    }
}

type Level = Vec<(Box<[u8]>, Child, u64)>;

/// Nodes above all of a level, filled evenly.
fn level_above(level: Level) -> Level {
    let nodes = level.len().div_ceil(FANOUT);
    let total = level.len();
    let mut children = level.into_iter();
    (0..nodes)
        .map(|at| {
            let len = total * (at + 1) / nodes - total * at / nodes;
            let (separator, node, count) = node_of(children.by_ref().take(len).collect());
            (separator, Child::Node(node), count)
        })
        .collect()
}

/// A node above the given children, with the separator before it and its number of keys.
fn node_of(level: Level) -> (Box<[u8]>, Box<Node>, u64) {
    let mut children = level.into_iter();
    let (before, first, count) = children.next().expect("a node has a child");
    let mut node = Node::above(first, count);
    for (separator, child, count) in children {
        node.append(separator, child, count);
    }
    node.refresh_heads();
    let count = node.total();
    (before, Box::new(node), count)
}
