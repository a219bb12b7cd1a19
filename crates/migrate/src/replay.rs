//! etcd's v2 store, as far as commands change it.
//!
//! Invariants: what the etcd of that time refused changes nothing here; each change takes exactly one index; the
//! children of a directory are the paths that begin with its own and a slash; `ends` has exactly the nodes that expire.
//!
//! Paths are in normal form without a slash at the end: the root is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::Node;

/// 2000-01-01: a node is not created to expire before that; such a moment stands for never.
const EXPIRES_MIN: u64 = 946_684_800_000_000_000;

/// How a key created in order is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameStyle {
    /// As before 2.2.
    Plain,
    /// 20 digits.
    Padded,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    dir: bool,
    value: Vec<u8>,
    created: u64,
    modified: u64,
    expires: Option<u64>,
}

/// What a write brings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub value: Vec<u8>,
    pub dir: bool,
    pub expires: Option<u64>,
    /// Keep the value that is there.
    pub refresh: bool,
}

/// What a file must be like. An empty value and an index of 0 ask for nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    pub value: Vec<u8>,
    pub index: u64,
}

/// See the module. Methods that change something say whether they did.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    nodes: BTreeMap<Vec<u8>, Known>,
    ends: BTreeSet<(u64, Vec<u8>)>,
    pub index: u64,
    /// Directories that can't be written themselves.
    fixed: Vec<&'static [u8]>,
}

/// The path that text means: under the root, without `.` and `..`.
pub(crate) fn clean(text: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in text.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().flat_map(|part| [b"/", *part].concat()).collect()
}

fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..slash]
}

impl Store {
    /// An empty one. `fixed` are directories that are there from the start, beside the root.
    pub fn new(fixed: &[&'static [u8]]) -> Self {
        let mut store = Self {
            nodes: BTreeMap::new(),
            ends: BTreeSet::new(),
            index: 0,
            fixed: [&[b"" as &[u8]], fixed].concat(),
        };
        for path in store.fixed.clone() {
            store.put(path.to_vec(), Known { dir: true, ..Known::default() });
        }
        store
    }

    /// Puts a node of a snapshot; directories come before what is in them.
    pub fn restore(
        &mut self,
        path: Vec<u8>,
        value: Option<Vec<u8>>,
        indexes: (u64, u64),
        expires: Option<u64>,
    ) {
        let (created, modified) = indexes;
        let dir = value.is_none();
        self.put(path, Known { dir, value: value.unwrap_or_default(), created, modified, expires });
    }

    fn put(&mut self, path: Vec<u8>, known: Known) {
        if let Some(expires) = known.expires {
            self.ends.insert((expires, path.clone()));
        }
        if let Some(old) = self.nodes.insert(path.clone(), known.clone())
            && old.expires != known.expires
            && let Some(expires) = old.expires
        {
            self.ends.remove(&(expires, path));
        }
    }

    pub fn is_there(&self, path: &[u8]) -> bool {
        self.nodes.contains_key(path)
    }

    /// A file's value.
    pub fn value(&self, path: &[u8]) -> Option<&[u8]> {
        self.nodes.get(path).filter(|known| !known.dir).map(|known| &known.value[..])
    }

    /// Paths of what is in a directory, at any depth.
    pub fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let from = [path, b"/"].concat();
        self.nodes
            .range::<Vec<u8>, _>((Bound::Included(&from), Bound::Unbounded))
            .map(|(at, _)| &at[..])
            .take_while(move |at| at.len() > path.len() && at.starts_with(path) && at[path.len()] == b'/')
    }

    /// Whether every directory on the way is one, or not there.
    fn can_hold(&self, path: &[u8]) -> bool {
        let mut at = parent(path);
        loop {
            if self.nodes.get(at).is_some_and(|known| !known.dir) {
                return false;
            }
            if at.is_empty() {
                return true;
            }
            at = parent(at);
        }
    }

    fn make(&mut self, path: Vec<u8>, write: Write) -> bool {
        let index = self.index + 1;
        let mut lacking: Vec<Vec<u8>> = Vec::new();
        let mut at = parent(&path);
        while !self.is_there(at) {
            lacking.push(at.to_vec());
            at = parent(at);
        }
        let made = Known { dir: true, created: index, modified: index, ..Known::default() };
        for directory in lacking {
            self.put(directory, made.clone());
        }
        let Write { value, dir, expires, .. } = write;
        let value = if dir { Vec::new() } else { value };
        let expires = expires.filter(|expires| *expires >= EXPIRES_MIN);
        self.put(path, Known { dir, value, expires, ..made });
        self.index = index;
        true
    }

    pub fn create(&mut self, path: Vec<u8>, write: Write) -> bool {
        !self.fixed.contains(&&path[..])
            && self.can_hold(&path)
            && !self.is_there(&path)
            && self.make(path, write)
    }

    /// Creates a node that is called by the index that it takes.
    pub fn create_in_order(&mut self, directory: &[u8], style: NameStyle, write: Write) -> bool {
        let index = self.index + 1;
        let name = match style {
            NameStyle::Plain => format!("/{index}"),
            NameStyle::Padded => format!("/{index:020}"),
        };
        self.create([directory, name.as_bytes()].concat(), write)
    }

    pub fn set(&mut self, path: Vec<u8>, write: Write) -> bool {
        let old = self.nodes.get(&path);
        if self.fixed.contains(&&path[..])
            || !self.can_hold(&path)
            || old.is_some_and(|old| old.dir)
            || (write.refresh && old.is_none())
        {
            return false;
        }
        let value = match old {
            Some(old) if write.refresh => old.value.clone(),
            _ => write.value,
        };
        self.make(path, Write { value, ..write })
    }

    /// Changes value and end of a file that is there; of a directory, its end alone.
    pub fn update(&mut self, path: &[u8], write: Write) -> bool {
        let known = self.nodes.get(path).filter(|_| !self.fixed.contains(&path));
        let Some(known) = known.filter(|known| !known.dir || write.refresh || write.value.is_empty()) else {
            return false;
        };
        let mut known = known.clone();
        self.index += 1;
        if !known.dir {
            known.modified = self.index;
            if !write.refresh {
                known.value = write.value;
            }
        }
        known.expires = write.expires;
        self.put(path.to_vec(), known);
        true
    }

    fn fits(&self, path: &[u8], conditions: &Conditions) -> bool {
        self.nodes.get(path).is_some_and(|known| {
            !known.dir
                && (conditions.value.is_empty() || conditions.value == known.value)
                && (conditions.index == 0 || conditions.index == known.modified)
        })
    }

    pub fn compare_and_swap(&mut self, path: &[u8], conditions: &Conditions, write: Write) -> bool {
        self.fits(path, conditions) && self.update(path, write)
    }

    pub fn compare_and_delete(&mut self, path: &[u8], conditions: &Conditions) -> bool {
        self.fits(path, conditions) && self.delete(path, false, false)
    }

    pub fn delete(&mut self, path: &[u8], dir: bool, recursive: bool) -> bool {
        let Some(known) = self.nodes.get(path).filter(|_| !self.fixed.contains(&path)) else { return false };
        let is_empty = || self.below(path).next().is_none();
        if known.dir && !recursive && !(dir && is_empty()) {
            return false;
        }
        self.index += 1;
        self.remove(path);
        true
    }

    fn remove(&mut self, path: &[u8]) {
        let gone: Vec<Vec<u8>> = std::iter::once(path).chain(self.below(path)).map(<[u8]>::to_vec).collect();
        for path in gone {
            let known = self.nodes.remove(&path).expect("it was there a moment ago");
            if let Some(expires) = known.expires {
                self.ends.remove(&(expires, path));
            }
        }
    }

    /// Ends what expired until then.
    pub fn expire(&mut self, until: u64) {
        while let Some((_, path)) = self.ends.first().filter(|(expires, _)| *expires <= until).cloned() {
            self.index += 1;
            self.remove(&path);
        }
    }

    /// What is in a directory, with paths from there on; nothing of what `leaves_out` says.
    pub fn nodes(&self, directory: &[u8], leaves_out: impl Fn(&[u8]) -> bool) -> Vec<Node> {
        let paths = self.below(directory).filter(|path| !leaves_out(&path[directory.len()..]));
        paths
            .map(|path| {
                let known = &self.nodes[path];
                Node {
                    path: path[directory.len()..].to_vec(),
                    value: (!known.dir).then(|| known.value.clone()),
                    created: known.created,
                    modified: known.modified,
                    expires: known.expires,
                }
            })
            .collect()
    }
}
