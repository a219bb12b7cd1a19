//! An inner node: up to 64 children, with the number of keys below each.
//!
//! What holds: `children.len() == separators.len() + 1` (a root may have neither); every key below child `i` is less
//! than separator `i` and not less than separator `i - 1`; all separators start with `prefix`; `heads[i]` is the eight
//! bytes of separator `i` after the prefix, zeros where it is shorter, as a big-endian number, so that heads order as
//! separators do or are equal; all children are pages or all are nodes.

use super::long::ALLOCATION_BYTES;
use super::page::common_len;

pub(super) const FANOUT: usize = 64;
/// A node with fewer children looks for a neighbour to join.
pub(super) const CHILDREN_FEW: usize = FANOUT / 4;
/// Two nodes join if they have no more children than this together.
pub(super) const CHILDREN_JOINED_MAX: usize = FANOUT * 3 / 4;

pub(super) enum Child {
    Page(u32),
    Node(Box<Node>),
}

pub(super) struct Node {
    prefix: Box<[u8]>,
    heads: [u64; FANOUT - 1],
    pub counts: [u64; FANOUT],
    separators: Vec<Box<[u8]>>,
    pub children: Vec<Child>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            prefix: Box::default(),
            heads: [0; FANOUT - 1],
            counts: [0; FANOUT],
            separators: Vec::with_capacity(FANOUT - 1),
            children: Vec::with_capacity(FANOUT),
        }
    }

    /// A node above `child` alone.
    pub(super) fn above(child: Child, count: u64) -> Self {
        let mut node = Self::new();
        node.children.push(child);
        node.counts[0] = count;
        node
    }

    pub(super) fn len(&self) -> usize {
        self.children.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == FANOUT
    }

    /// How many keys are below it.
    pub(super) fn total(&self) -> u64 {
        self.counts[..self.len()].iter().sum()
    }

    #[cfg(test)]
    pub(super) fn separators(&self) -> &[Box<[u8]>] {
        &self.separators
    }

    fn head(&self, key: &[u8]) -> u64 {
        let tail = &key[self.prefix.len()..];
        let mut head = [0; 8];
        let len = tail.len().min(8);
        head[..len].copy_from_slice(&tail[..len]);
        u64::from_be_bytes(head)
    }

    /// Which child `key` belongs below.
    pub(super) fn child_of(&self, key: &[u8]) -> usize {
        if !key.starts_with(&self.prefix) {
            return if key < &*self.prefix { 0 } else { self.separators.len() };
        }
        let head = self.head(key);
        let heads = &self.heads[..self.separators.len()];
        let low = heads.partition_point(|other| *other < head);
        let equal = heads[low..].iter().take_while(|other| **other == head).count();
        low + self.separators[low..low + equal].partition_point(|separator| **separator <= *key)
    }

    /// How many keys are below the children before `at`.
    pub(super) fn count_before(&self, at: usize) -> u64 {
        self.counts[..at].iter().sum()
    }

    /// Adds the last child; the heads are to be refreshed after the last one.
    pub(super) fn append(&mut self, separator: Box<[u8]>, child: Child, count: u64) {
        assert!(!self.is_full());
        self.counts[self.children.len()] = count;
        self.children.push(child);
        self.separators.push(separator);
    }

    /// Chooses the longest prefix there is, and all heads by it.
    pub(super) fn refresh_heads(&mut self) {
        self.prefix = match &self.separators[..] {
            [] => Box::default(),
            [first, .., last] => first[..common_len(first, last)].into(),
            [only] => only.clone(),
        };
        for at in 0..self.separators.len() {
            self.heads[at] = self.head(&self.separators[at]);
        }
    }

    fn refresh_head(&mut self, at: usize) {
        if self.separators[at].starts_with(&self.prefix) {
            self.heads[at] = self.head(&self.separators[at]);
        } else {
            self.refresh_heads();
        }
    }

    /// Replaces the separator between children `at` and `at + 1`.
    pub(super) fn set_separator(&mut self, at: usize, separator: Box<[u8]>) {
        self.separators[at] = separator;
        self.refresh_head(at);
    }

    /// Adds `child` behind child `at`, with the separator between the two. The node must not be full.
    pub(super) fn insert_after(&mut self, at: usize, separator: Box<[u8]>, child: Child, count: u64) {
        self.insert(at + 1, at, separator, child, count);
    }

    /// Adds `child` before child `at`, with the separator between the two. The node must not be full.
    pub(super) fn insert_before(&mut self, at: usize, separator: Box<[u8]>, child: Child, count: u64) {
        self.insert(at, at, separator, child, count);
    }

    fn insert(&mut self, at: usize, separator_at: usize, separator: Box<[u8]>, child: Child, count: u64) {
        let len = self.len();
        assert!(len < FANOUT, "a full node is split before anything is added below it");
        self.counts.copy_within(at..len, at + 1);
        self.counts[at] = count;
        self.children.insert(at, child);
        self.heads.copy_within(separator_at..len - 1, separator_at + 1);
        self.separators.insert(separator_at, separator);
        self.refresh_head(separator_at);
    }

    /// Takes out child `at`, and the separator before it (of the first child: the one behind it).
    pub(super) fn remove(&mut self, at: usize) -> (Option<Box<[u8]>>, Child) {
        let len = self.len();
        self.counts.copy_within(at + 1..len, at);
        let separator = (len > 1).then(|| {
            let separator_at = at.saturating_sub(1);
            self.heads.copy_within(separator_at + 1..len - 1, separator_at);
            self.separators.remove(separator_at)
        });
        (separator, self.children.remove(at))
    }

    /// Moves the children from `at` on to a new node. Returns it, and the separator between the two.
    pub(super) fn split_off(&mut self, at: usize) -> (Box<[u8]>, Self) {
        let mut right = Self::new();
        let len = self.len();
        right.children.extend(self.children.drain(at..));
        right.counts[..len - at].copy_from_slice(&self.counts[at..len]);
        right.separators.extend(self.separators.drain(at..));
        let between = self.separators.pop().expect("both sides of a split have a child");
        self.refresh_heads();
        right.refresh_heads();
        (between, right)
    }

    /// Appends the children of `right`. Together they must not be too many.
    pub(super) fn absorb(&mut self, separator: Box<[u8]>, mut right: Self) {
        let (left_len, right_len) = (self.len(), right.len());
        self.counts[left_len..left_len + right_len].copy_from_slice(&right.counts[..right_len]);
        self.separators.push(separator);
        self.separators.append(&mut right.separators);
        self.children.append(&mut right.children);
        self.refresh_heads();
    }

    /// Bytes of this node and all below it, without pages.
    pub(super) fn memory_bytes(&self) -> usize {
        let own = size_of::<Self>()
            + self.separators.capacity() * size_of::<Box<[u8]>>()
            + self.children.capacity() * size_of::<Child>()
            + self.prefix.len()
            + 4 * ALLOCATION_BYTES;
        let separators: usize = self.separators.iter().map(|key| key.len() + ALLOCATION_BYTES).sum();
        let below = self.children.iter().map(|child| match child {
            Child::Page(_) => 0,
            Child::Node(node) => node.memory_bytes(),
        });
        own + separators + below.sum::<usize>()
    }

    /// Panics unless separators, prefix and heads agree.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.children.len(), self.separators.len() + 1);
        assert!(self.children.len() <= FANOUT);
        assert!(self.separators.windows(2).all(|pair| pair[0] < pair[1]));
        for (at, separator) in self.separators.iter().enumerate() {
            assert!(separator.starts_with(&self.prefix));
            assert_eq!(self.heads[at], self.head(separator));
        }
        assert!(self.heads[..self.separators.len()].is_sorted());
        let pages = self.children.iter().filter(|child| matches!(child, Child::Page(_))).count();
        assert!(pages == 0 || pages == self.len());
    }
}
