//! Another tree becomes this one: its nodes come in any number of commands, and appear with the last.
//!
//! Invariants: only a tree that never changed imports, and until the import ends nothing else changes it and readers
//! find it empty; a refused command of an import leaves no node; while it lasts, TREE_VALUES has exactly the values that
//! were imported, so that no two files claim the index that made a value; when it ends they go, as those of any event
//! that history does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use quorate_ids::{ClusterTime, WallTime};
use quorate_store::{BODY_BYTES_MAX, Owners, Tables};

use super::change::Change;
use super::command::ImportedNode;
use super::nodes::find;
use super::path::Path;
use super::reply::ImportFault;
use super::rows::{DirId, Lifetime, NodeRow, ValueState, node_key, write_parent};
use crate::Stamps;
use crate::tables::{TREE_DIRS, TREE_VALUES};

/// Whether these nodes can be imported after those that were.
pub(super) fn check(tables: &Tables, nodes: &[ImportedNode]) -> Result<(), ImportFault> {
    // Of this command: paths, and whether they are directories.
    let mut here: BTreeMap<&Path, bool> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for node in nodes {
        let path = || node.path.clone();
        let is_directory = |path: &Path| {
            here.get(path)
                .copied()
                .unwrap_or_else(|| find(tables, path).is_ok_and(|found| found.row.dir.is_some()))
        };
        let Some(parent) = node.path.parent() else { return Err(ImportFault::Exists { path: path() }) };
        if here.contains_key(&node.path) || find(tables, &node.path).is_ok() {
            return Err(ImportFault::Exists { path: path() });
        }
        if !is_directory(&parent) {
            return Err(ImportFault::NoDirectory { path: path() });
        }
        let (created, modified) = (node.created, node.modified);
        if created > modified {
            return Err(ImportFault::Indexes { path: path(), created, modified });
        }
        if let Some(value) = node.value.as_ref().filter(|value| !value.is_empty()) {
            if value.len() > BODY_BYTES_MAX {
                return Err(ImportFault::ValueTooLong {
                    path: path(),
                    len: value.len(),
                    max: BODY_BYTES_MAX,
                });
            }
            let is_taken =
                !taken.insert(modified) || tables.get(TREE_VALUES, &modified.0.to_be_bytes()).is_some();
            if is_taken {
                return Err(ImportFault::IndexTaken { path: path(), index: modified });
            }
        }
        here.insert(&node.path, node.value.is_none());
    }
    Ok(())
}

/// When a node ends that the other tree shows to expire at `expiration`.
fn lifetime(expiration: WallTime, stamps: &Stamps) -> Lifetime {
    let left = expiration.0.saturating_sub(stamps.wall_time.0);
    Lifetime { deadline: ClusterTime(stamps.cluster_time.0.saturating_add(left)), expiration }
}

impl Change<'_> {
    /// Writes a node that [`check`] has accepted.
    pub(super) fn import(&mut self, node: &ImportedNode, stamps: &Stamps) {
        let parent = node.path.parent().expect("the root is not imported");
        let parent = find(self.tables, &parent).ok().and_then(|found| found.row.dir).expect("it was checked");
        let key = node_key(parent, node.path.name());
        let (created, modified) = (node.created.0, node.modified.0);
        let lifetime = node.expiration.map(|expiration| lifetime(expiration, stamps));
        let row = NodeRow { created, modified, dir: None, lifetime };
        match &node.value {
            None => {
                let dir = DirId(self.state.next_dir);
                self.state.next_dir += 1;
                write_parent(parent, self.scratch);
                self.tables.put(TREE_DIRS, &node_key(dir, node.path.name()), self.scratch, None);
                self.put_row(&key, &NodeRow { dir: Some(dir), ..row }, None);
            }
            Some(value) if value.is_empty() => self.put_row(&key, &row, None),
            Some(value) => {
                let made_by = modified.to_be_bytes();
                let owners =
                    Owners { first: (crate::tables::TREE, &key), second: Some((TREE_VALUES, &made_by)) };
                let body = self.tables.append(owners, &[value]);
                self.put_value(modified, ValueState::Current, body);
                self.put_row(&key, &row, Some(body));
            }
        }
        self.state.importing = self.state.importing.max(Some(modified));
    }
}

/// Lets go of the values' second owner, up to `budget` of them; whether all are gone.
pub(super) fn forget_values(tables: &mut Tables, budget: &mut usize) -> bool {
    let mut keys = Vec::new();
    tables.scan(TREE_VALUES, &[], None, &mut |key, _| {
        if keys.len() == *budget {
            return ControlFlow::Break(());
        }
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    });
    *budget -= keys.len();
    for key in &keys {
        tables.remove(TREE_VALUES, key);
    }
    tables.len(TREE_VALUES) == 0
}
