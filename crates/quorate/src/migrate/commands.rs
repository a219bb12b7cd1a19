//! What a member is asked for, so that it has what an etcd had.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_ids::{TreeIndex, WallTime};
use quorate_migrate::{Node, Source};
use quorate_models::keys::{self, Op, Put, Txn};
use quorate_models::tree::{self, IMPORTED_PER_COMMAND_MAX, ImportedNode, Path};

use super::{COMMAND_BYTES_MAX, Form, MigrateError, Written};

/// Commands are about so long: several of them are one write of the log.
const CHUNK_BYTES: usize = 256 << 10;
const PUTS_PER_COMMAND_MAX: usize = 100;
/// What a node or a key takes in a command besides path and value.
const OVERHEAD_BYTES: usize = 64;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// As long as etcd lets a lease live.
const TTL_SECONDS_MAX: u64 = 9_000_000_000;
/// Where the cluster kept its own notes in the tree.
const OF_THE_CLUSTER: &[u8] = b"/_etcd";

/// Everything that a member is asked for.
pub(super) struct Prepared {
    tree: Option<(Vec<Vec<ImportedNode>>, TreeIndex)>,
    pub keys: Vec<keys::Command>,
    pub written: Written,
}

impl Prepared {
    /// `now`: nanoseconds since 1970.
    pub fn new(source: &Source, form: &Form, now: u64) -> Result<Self, MigrateError> {
        let mut prepared = Self { tree: None, keys: Vec::new(), written: Written::default() };
        if let Form::Tree | Form::Both { .. } = form {
            let nodes = source.nodes.iter().map(imported).collect::<Result<Vec<_>, _>>()?;
            prepared.written.nodes = nodes.len();
            let chunks = chunks(nodes, IMPORTED_PER_COMMAND_MAX, |node| {
                node.path.as_bytes().len() + node.value.as_ref().map_or(0, Bytes::len)
            });
            prepared.tree = Some((chunks, TreeIndex(source.index)));
        }
        if let Form::Keys { prefix } | Form::Both { prefix } = form {
            prepared.add_keys(&source.nodes, prefix.as_bytes(), now);
        }
        Ok(prepared)
    }

    pub fn tree_commands(&self) -> impl Iterator<Item = tree::Command> + '_ {
        let imports = self.tree.iter().flat_map(|(chunks, _)| chunks);
        let imports = imports.map(|nodes| tree::Command::Import { nodes: nodes.clone() });
        let end = self.tree.iter().map(|(_, index)| tree::Command::EndImport { index: *index });
        imports.chain(end)
    }

    /// A key for each file that has not expired; what expires, its directory's end included, gets a lease of its own.
    fn add_keys(&mut self, nodes: &[Node], prefix: &[u8], now: u64) {
        // Of directories: the earliest end on the way to them.
        let mut ends: BTreeMap<&[u8], u64> = BTreeMap::new();
        let mut puts = Vec::new();
        for node in nodes {
            let slash = node.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let above = ends.get(&node.path[..slash]).copied();
            let expires = [above, node.expires].into_iter().flatten().min();
            let Some(value) = &node.value else {
                self.written.directories += 1;
                if let Some(expires) = expires {
                    ends.insert(&node.path, expires);
                }
                continue;
            };
            if node.path.strip_prefix(OF_THE_CLUSTER).is_some_and(|rest| rest.starts_with(b"/")) {
                continue;
            }
            let mut lease = 0;
            if let Some(expires) = expires {
                let left = expires.saturating_sub(now).div_ceil(NANOS_PER_SECOND);
                if left == 0 {
                    self.written.expired += 1;
                    continue;
                }
                lease = self.keys.len() as i64 + 1;
                let ttl_seconds = left.min(TTL_SECONDS_MAX) as i64;
                self.keys.push(keys::Command::LeaseGrant { id: lease, ttl_seconds });
            }
            puts.push(Put {
                key: [prefix, &node.path].concat().into(),
                value: value.clone().into(),
                lease,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            });
        }
        self.written.keys = puts.len();
        for puts in chunks(puts, PUTS_PER_COMMAND_MAX, |put| put.key.len() + put.value.len()) {
            let success = puts.into_iter().map(Op::Put).collect();
            self.keys.push(keys::Command::Txn(Txn { compare: Vec::new(), success, failure: Vec::new() }));
        }
    }
}

/// In order, in lists of at most so many and of about [`CHUNK_BYTES`].
fn chunks<T>(items: Vec<T>, count_max: usize, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut all = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for item in items {
        let more = OVERHEAD_BYTES + bytes_of(&item);
        if !chunk.is_empty() && (chunk.len() == count_max || bytes + more > CHUNK_BYTES) {
            all.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += more;
        chunk.push(item);
    }
    if !chunk.is_empty() {
        all.push(chunk);
    }
    all
}

fn imported(node: &Node) -> Result<ImportedNode, MigrateError> {
    let refused =
        |why: String| MigrateError::Node { path: String::from_utf8_lossy(&node.path).into_owned(), why };
    let path = Path::clean(&node.path).map_err(|error| refused(error.to_string()))?;
    let value = node.value.clone().map(Bytes::from);
    let bytes = OVERHEAD_BYTES + path.as_bytes().len() + value.as_ref().map_or(0, Bytes::len);
    if bytes > COMMAND_BYTES_MAX {
        return Err(refused(format!("it has {bytes} bytes; at most {COMMAND_BYTES_MAX} are possible")));
    }
    Ok(ImportedNode {
        path,
        value,
        created: TreeIndex(node.created),
        modified: TreeIndex(node.modified),
        expiration: node.expires.map(WallTime),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_migrate::{Kind, Log};

    fn node(path: &str, value: Option<&str>, expires: Option<u64>) -> Node {
        let value = value.map(|value| value.as_bytes().to_vec());
        Node { path: path.into(), value, created: 1, modified: 2, expires }
    }

    fn source(nodes: Vec<Node>) -> Source {
        Source { kind: Kind::V2, nodes, index: 9, log: Log::default(), notes: Vec::new() }
    }

    const SECOND: u64 = NANOS_PER_SECOND;

    #[test]
    fn keys_are_files_with_leases_of_what_is_left_to_them_and_to_their_directories() {
        let nodes = vec![
            node("/a", Some("1"), None),
            node("/b", None, Some(20 * SECOND)),
            node("/b/c", Some("2"), Some(90 * SECOND)),
            node("/d", Some("3"), Some(10 * SECOND)),
            node("/e", Some("4"), Some(11 * SECOND + 1)),
            node("/_etcd/machines/m", Some("5"), None),
            node("/_hidden", Some("6"), None),
        ];
        let form = Form::Keys { prefix: "v2".to_owned() };
        let prepared = Prepared::new(&source(nodes), &form, 10 * SECOND).expect("fine");
        assert_eq!(prepared.tree_commands().count(), 0);
        assert_eq!(prepared.written, Written { nodes: 0, keys: 4, expired: 1, directories: 1 });
        let [
            keys::Command::LeaseGrant { id: 1, ttl_seconds: 10 },
            keys::Command::LeaseGrant { id: 2, ttl_seconds: 2 },
            keys::Command::Txn(txn),
        ] = &prepared.keys[..]
        else {
            panic!("{:?}", prepared.keys)
        };
        let puts: Vec<(&[u8], i64)> = txn
            .success
            .iter()
            .map(|op| match op {
                Op::Put(put) => (&put.key[..], put.lease),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(puts, [(&b"v2/a"[..], 0), (b"v2/b/c", 1), (b"v2/e", 2), (b"v2/_hidden", 0)]);
    }

    #[test]
    fn commands_are_bounded_in_nodes_and_bytes_and_the_end_comes_last() {
        let small = (0..2500).map(|n| node(&format!("/{n}"), Some("x"), None)).collect();
        let prepared = Prepared::new(&source(small), &Form::Tree, 0).expect("fine");
        let counts: Vec<usize> = prepared
            .tree_commands()
            .map(|command| match command {
                tree::Command::Import { nodes } => nodes.len(),
                tree::Command::EndImport { index } => index.0 as usize,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(counts, [1000, 1000, 500, 9]);
        let large = vec![node("/a", Some(&"x".repeat(CHUNK_BYTES)), None), node("/b", Some("y"), None)];
        let prepared = Prepared::new(&source(large), &Form::Tree, 0).expect("fine");
        assert_eq!(prepared.tree_commands().count(), 3, "each in a command of its own");
        let huge = vec![node("/huge", Some(&"x".repeat(COMMAND_BYTES_MAX)), None)];
        let told = Prepared::new(&source(huge), &Form::Tree, 0).err().expect("refused").to_string();
        assert!(told.starts_with("/huge can't be taken over: it has"), "{told}");
    }
}
