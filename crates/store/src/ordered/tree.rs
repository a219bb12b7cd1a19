//! The walk through inner nodes: inserts, removals, ranks and scans.
//!
//! On its way down an insert splits every full node that it meets, so that a node always has room for the one child
//! that a level below may add. A removal joins thin nodes on its way back.

use std::ops::ControlFlow;

use super::Visit;
use super::leaves::{Leaves, first_key};
use super::node::{CHILDREN_FEW, CHILDREN_JOINED_MAX, Child, FANOUT, Node};

/// Stores `row` under `key`. Returns whether it replaced a row, which is appended to `old`.
pub(super) fn insert(
    root: &mut Box<Node>,
    leaves: &mut Leaves,
    key: &[u8],
    row: &[u8],
    old: &mut Vec<u8>,
) -> bool {
    if root.children.is_empty() {
        let handle = leaves.pages.add();
        **root = Node::above(Child::Page(handle), 0);
    } else if root.is_full() {
        let count = root.total();
        let below = std::mem::replace(root, Box::new(Node::new()));
        **root = Node::above(Child::Node(below), count);
    }
    insert_below(root, leaves, key, row, old)
}

fn insert_below(node: &mut Node, leaves: &mut Leaves, key: &[u8], row: &[u8], old: &mut Vec<u8>) -> bool {
    let mut at = node.child_of(key);
    if split_if_full(node, at, key) {
        at = node.child_of(key);
    }
    let replaced = match &mut node.children[at] {
        Child::Page(_) => return leaves.insert(node, at, key, row, old),
        Child::Node(below) => insert_below(below, leaves, key, row, old),
    };
    node.counts[at] += u64::from(!replaced);
    replaced
}

/// Splits node `at` below `node` if it is full: in halves, but behind the third quarter where `key` goes to its end, as
/// keys that come in order do.
fn split_if_full(node: &mut Node, at: usize, key: &[u8]) -> bool {
    let Child::Node(below) = &mut node.children[at] else { return false };
    if !below.is_full() {
        return false;
    }
    let cut = if below.child_of(key) == FANOUT - 1 { FANOUT * 3 / 4 } else { FANOUT / 2 };
    let (separator, right) = below.split_off(cut);
    node.counts[at] = below.total();
    let count = right.total();
    node.insert_after(at, separator, Child::Node(Box::new(right)), count);
    true
}

/// Removes `key`. Returns whether it was there; its row is then appended to `old`.
pub(super) fn remove(root: &mut Box<Node>, leaves: &mut Leaves, key: &[u8], old: &mut Vec<u8>) -> bool {
    if root.children.is_empty() {
        return false;
    }
    let Some(freed) = remove_below(root, leaves, key, old) else { return false };
    while let [Child::Node(_)] = &root.children[..] {
        let Some(Child::Node(only)) = root.children.pop() else { unreachable!("it was there just now") };
        *root = only;
    }
    if let Some(hole) = freed {
        fill(root, leaves, hole);
    }
    true
}

fn remove_below(node: &mut Node, leaves: &mut Leaves, key: &[u8], old: &mut Vec<u8>) -> Option<Option<u32>> {
    let at = node.child_of(key);
    let (freed, len) = match &mut node.children[at] {
        Child::Page(_) => return leaves.remove(node, at, key, old),
        Child::Node(below) => (remove_below(below, leaves, key, old)?, below.len()),
    };
    node.counts[at] -= 1;
    if len == 0 {
        node.remove(at);
    } else if len < CHILDREN_FEW {
        join(node, at);
    }
    Some(freed)
}

/// Joins node `at` below `node` with a neighbour if they have few children together.
fn join(node: &mut Node, at: usize) {
    for left in [at.checked_sub(1), Some(at)].into_iter().flatten() {
        let (len, right_len) = match node.children.get(left..left + 2) {
            Some([Child::Node(left), Child::Node(right)]) => (left.len(), right.len()),
            _ => continue,
        };
        if len + right_len > CHILDREN_JOINED_MAX {
            continue;
        }
        let moved = node.counts[left + 1];
        let (Some(separator), Child::Node(right)) = node.remove(left + 1) else {
            unreachable!("two nodes have a separator between them")
        };
        if let Child::Node(left) = &mut node.children[left] {
            left.absorb(separator, *right);
        }
        node.counts[left] += moved;
        return;
    }
}

/// Moves the last page into the place of the freed page `hole`.
fn fill(root: &mut Node, leaves: &mut Leaves, hole: u32) {
    let last = (leaves.pages.len() - 1) as u32;
    if hole != last {
        let key = first_key(leaves.pages.get(last), &leaves.longs);
        let mut node = root;
        loop {
            let at = node.child_of(&key);
            match &mut node.children[at] {
                Child::Node(below) => node = below,
                Child::Page(handle) => {
                    assert_eq!(*handle, last, "a page is found by its keys");
                    *handle = hole;
                    break;
                }
            }
        }
    }
    leaves.pages.swap_remove(hole);
}

/// The page that `key` is in, if it is anywhere, and how many keys are in the pages before it.
pub(super) fn find(root: &Node, key: &[u8]) -> Option<(u32, u64)> {
    let (mut node, mut before) = (root, 0);
    if node.children.is_empty() {
        return None;
    }
    loop {
        let at = node.child_of(key);
        before += node.count_before(at);
        match &node.children[at] {
            Child::Page(handle) => return Some((*handle, before)),
            Child::Node(below) => node = below,
        }
    }
}

/// The page that `key` is in, if it is anywhere.
pub(super) fn find_page(root: &Node, key: &[u8]) -> Option<u32> {
    let mut node = root;
    if node.children.is_empty() {
        return None;
    }
    loop {
        match &node.children[node.child_of(key)] {
            Child::Page(handle) => return Some(*handle),
            Child::Node(below) => node = below,
        }
    }
}

/// A walk over the keys in `[from, to)`, either bound open where it is none.
pub(super) struct Scan<'a> {
    pub leaves: &'a Leaves,
    pub reverse: bool,
    pub key: Vec<u8>,
}

impl Scan<'_> {
    pub(super) fn below(
        &mut self,
        node: &Node,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> ControlFlow<()> {
        let Some(last) = node.len().checked_sub(1) else { return ControlFlow::Continue(()) };
        let low = from.map_or(0, |from| node.child_of(from));
        let high = to.map_or(last, |to| node.child_of(to));
        for step in 0..(high + 1).saturating_sub(low) {
            let at = if self.reverse { high - step } else { low + step };
            let from = from.filter(|_| at == low);
            let to = to.filter(|_| at == high);
            match &node.children[at] {
                Child::Node(below) => self.below(below, from, to, visit)?,
                Child::Page(handle) => self.page(*handle, from, to, visit)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn page(
        &mut self,
        handle: u32,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> ControlFlow<()> {
        let longs = &self.leaves.longs;
        let page = self.leaves.pages.get(handle);
        let place = |key| page.locate(key, longs).unwrap_or_else(|place| place);
        let low = from.map_or(0, place);
        let high = to.map_or(page.count(), place);
        let prefix_len = page.prefix().len();
        self.key.clear();
        self.key.extend_from_slice(page.prefix());
        for step in 0..high.saturating_sub(low) {
            let at = if self.reverse { high - 1 - step } else { low + step };
            let entry = page.entry(at, longs);
            self.key.truncate(prefix_len);
            page.extend_with_suffix(at, &entry, &mut self.key);
            visit(&self.key, entry.row)?;
        }
        ControlFlow::Continue(())
    }
}
