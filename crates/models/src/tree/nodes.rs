//! Finding nodes in the tables.

use std::ops::ControlFlow;

use quorate_ids::TreeIndex;
use quorate_store::{Body, Location, Tables};

use super::path::Path;
use super::reply::{Node, TreeError, Value};
use super::rows::{DirId, NodeRow, after_number, node_key, read_parent};
use crate::tables::{TREE, TREE_DIRS};

/// A node, and the key under which TREE has it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub key: Vec<u8>,
    pub row: NodeRow,
    pub body: Option<Location>,
}

impl Found {
    pub(super) fn node(&self, tables: &Tables, path: Path) -> Node {
        let value = if self.row.dir.is_some() { Value::Absent } else { value_at(tables, self.body) };
        node_of(path, &self.row, value)
    }
}

pub(super) fn node_of(path: Path, row: &NodeRow, value: Value) -> Node {
    Node {
        path,
        dir: row.dir.is_some(),
        value,
        created: TreeIndex(row.created),
        modified: TreeIndex(row.modified),
        expiration: row.lifetime.map(|lifetime| lifetime.expiration),
    }
}

/// A file's value if it is in memory, else where it lies. An empty value has no record.
pub(super) fn value_at(tables: &Tables, body: Option<Location>) -> Value {
    match body.map(|at| (at, tables.body(at))) {
        None => Value::Here(bytes::Bytes::new()),
        Some((_, Body::Ready(value))) => Value::Here(value),
        Some((at, Body::Cold)) => Value::At(at),
    }
}

/// The root: it was never made.
pub(super) fn root_row() -> NodeRow {
    NodeRow { created: 0, modified: 0, dir: Some(DirId::ROOT), lifetime: None }
}

pub(super) fn look_up(tables: &Tables, dir: DirId, name: &[u8]) -> Option<Found> {
    let key = node_key(dir, name);
    let entry = tables.get(TREE, &key)?;
    let (row, body) = (NodeRow::read(entry.row), entry.body);
    Some(Found { key, row, body })
}

/// The node at `path`. The root has an empty key.
pub(super) fn find(tables: &Tables, path: &Path) -> Result<Found, TreeError> {
    let mut found = Found { key: Vec::new(), row: root_row(), body: None };
    for (at, name) in path.parts().enumerate() {
        let Some(dir) = found.row.dir else { return Err(TreeError::NotDirectory { path: path.prefix(at) }) };
        found =
            look_up(tables, dir, name).ok_or_else(|| TreeError::NotFound { path: path.prefix(at + 1) })?;
    }
    Ok(found)
}

/// How far the directories on the way to `path` exist: the last that does, and how many parts lead to it.
pub(super) fn find_directories(tables: &Tables, path: &Path) -> Result<(DirId, usize), TreeError> {
    let (mut dir, mut depth) = (DirId::ROOT, 0);
    for name in path.parts() {
        let Some(found) = look_up(tables, dir, name) else { break };
        depth += 1;
        dir = found.row.dir.ok_or_else(|| TreeError::NotDirectory { path: path.prefix(depth) })?;
    }
    Ok((dir, depth))
}

pub(super) fn is_empty_dir(tables: &Tables, dir: DirId) -> bool {
    let end = after_number(dir.0);
    tables.count(TREE, &dir.key(), end.as_ref().map(|end| &end[..])) == 0
}

/// The path of the directory with this number.
pub(super) fn path_of(tables: &Tables, dir: DirId) -> Path {
    let mut names = Vec::new();
    let mut at = dir;
    while at != DirId::ROOT {
        let end = after_number(at.0);
        let mut found = None;
        tables.scan(TREE_DIRS, &at.key(), end.as_ref().map(|end| &end[..]), &mut |key, entry| {
            found = Some((key[8..].to_vec(), read_parent(entry.row)));
            ControlFlow::Break(())
        });
        let (name, parent) = found.expect("a directory has a row of TREE_DIRS");
        names.push(name);
        at = parent;
    }
    names.iter().rev().fold(Path::root(), |path, name| path.child_known(name))
}
