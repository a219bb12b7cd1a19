//! Ranges of keys, and which of them a key lies in: a treap by (start, end) whose nodes know the greatest end below
//! them.
//!
//! Invariants: by priority a heap, by (start, end) a search tree; a node's `max_end` is the greatest end in its
//! subtree; a node holds at least one watcher. Priorities come from a counter, so equal histories give equal trees.

use std::cmp::Ordering;

use bytes::Bytes;

use super::set::WatchId;

const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Intervals {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: Option<u32>,
    inserted: u64,
}

struct Node {
    start: Bytes,
    end: End,
    max_end: End,
    priority: u64,
    left: u32,
    right: u32,
    watchers: Vec<WatchId>,
}

/// The end of a range, exclusive; `None` has no end.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct End(pub Option<Bytes>);

impl Ord for End {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => a.cmp(b),
            (None, None) => Ordering::Equal,
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
        }
    }
}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl End {
    fn is_above(&self, key: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|end| key < &**end)
    }
}

/// Spreads a counter over 64 bits (splitmix64).
fn priority(counter: u64) -> u64 {
    let mut mixed = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Intervals {
    fn root(&self) -> u32 {
        self.root.unwrap_or(NONE)
    }

    fn order(&self, node: u32, start: &[u8], end: &End) -> Ordering {
        let node = &self.nodes[node as usize];
        start.cmp(&node.start[..]).then_with(|| end.cmp(&node.end))
    }

    fn find(&self, start: &[u8], end: &End) -> Option<u32> {
        let mut at = self.root();
        while at != NONE {
            match self.order(at, start, end) {
                Ordering::Equal => return Some(at),
                Ordering::Less => at = self.nodes[at as usize].left,
                Ordering::Greater => at = self.nodes[at as usize].right,
            }
        }
        None
    }

    pub(super) fn add(&mut self, start: Bytes, end: Option<Bytes>, id: WatchId) {
        let end = End(end);
        if let Some(at) = self.find(&start, &end) {
            return self.nodes[at as usize].watchers.push(id);
        }
        self.inserted += 1;
        let node = Node {
            max_end: end.clone(),
            priority: priority(self.inserted),
            left: NONE,
            right: NONE,
            watchers: vec![id],
            start,
            end,
        };
        let new = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 ranges")
            }
        };
        self.root = Some(self.insert(self.root(), new));
    }

    /// Whether the watcher was there.
    pub(super) fn remove(&mut self, start: &[u8], end: Option<Bytes>, id: WatchId) -> bool {
        let end = End(end);
        let Some(at) = self.find(start, &end) else { return false };
        let watchers = &mut self.nodes[at as usize].watchers;
        let Some(place) = watchers.iter().position(|watcher| *watcher == id) else { return false };
        watchers.swap_remove(place);
        if watchers.is_empty() {
            let root = self.cut(self.root(), start, &end);
            self.root = (root != NONE).then_some(root);
            self.free.push(at);
        }
        true
    }

    /// Calls `visit` with the watchers of each range that `key` lies in.
    pub(super) fn covering(&self, key: &[u8], visit: &mut dyn FnMut(&[WatchId])) {
        self.covering_below(self.root(), key, visit);
    }

    fn covering_below(&self, at: u32, key: &[u8], visit: &mut dyn FnMut(&[WatchId])) {
        if at == NONE {
            return;
        }
        let node = &self.nodes[at as usize];
        if !node.max_end.is_above(key) {
            return;
        }
        self.covering_below(node.left, key, visit);
        if &node.start[..] <= key {
            if node.end.is_above(key) {
                visit(&node.watchers);
            }
            self.covering_below(node.right, key, visit);
        }
    }

    /// Recomputes a node's `max_end` from its children.
    fn update(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let mut max_end = &node.end;
        for child in [node.left, node.right] {
            if child != NONE {
                max_end = max_end.max(&self.nodes[child as usize].max_end);
            }
        }
        let max_end = max_end.clone();
        self.nodes[at as usize].max_end = max_end;
    }

    fn insert(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE {
            return new;
        }
        let (start, end) = (self.nodes[new as usize].start.clone(), self.nodes[new as usize].end.clone());
        if self.nodes[new as usize].priority > self.nodes[at as usize].priority {
            let (left, right) = self.split(at, &start, &end);
            self.nodes[new as usize].left = left;
            self.nodes[new as usize].right = right;
            self.update(new);
            return new;
        }
        if self.order(at, &start, &end).is_lt() {
            self.nodes[at as usize].left = self.insert(self.nodes[at as usize].left, new);
        } else {
            self.nodes[at as usize].right = self.insert(self.nodes[at as usize].right, new);
        }
        self.update(at);
        at
    }

    /// Splits a subtree into what is below (start, end) and the rest.
    fn split(&mut self, at: u32, start: &[u8], end: &End) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        let halves = if self.order(at, start, end).is_lt() {
            let (left, right) = self.split(self.nodes[at as usize].left, start, end);
            self.nodes[at as usize].left = right;
            (left, at)
        } else {
            let (left, right) = self.split(self.nodes[at as usize].right, start, end);
            self.nodes[at as usize].right = left;
            (at, right)
        };
        self.update(at);
        halves
    }

    /// Joins two subtrees; all of `left` is below all of `right`.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE {
            return right;
        }
        if right == NONE {
            return left;
        }
        let top = if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            self.nodes[left as usize].right = self.join(self.nodes[left as usize].right, right);
            left
        } else {
            self.nodes[right as usize].left = self.join(left, self.nodes[right as usize].left);
            right
        };
        self.update(top);
        top
    }

    /// Takes the node (start, end) out of a subtree.
    fn cut(&mut self, at: u32, start: &[u8], end: &End) -> u32 {
        if at == NONE {
            return NONE;
        }
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        match self.order(at, start, end) {
            Ordering::Equal => return self.join(left, right),
            Ordering::Less => self.nodes[at as usize].left = self.cut(left, start, end),
            Ordering::Greater => self.nodes[at as usize].right = self.cut(right, start, end),
        }
        self.update(at);
        at
    }
}
