//! Entries of the log: the envelope, and the command in it.

use bytes::Bytes;
use quorate_ids::{ClusterTime, MemberId, Revision, Term, TreeIndex, WallTime};
use quorate_member::envelope::{Envelope, Origin};
use quorate_models::{Command, ModelId, keys, tree};

use crate::Outcome;

/// Decodes an entry, and its command.
pub fn log_entry(input: &[u8]) -> Outcome {
    let bytes = Bytes::copy_from_slice(input);
    let Ok(envelope) = Envelope::decode(&bytes) else { return Outcome::Refused };
    assert_eq!(envelope.encode(), bytes, "an envelope has one encoding");
    Outcome::taken_if(command(envelope.model, &envelope.command))
}

/// Decodes a command; true where it is one.
pub fn command(model: ModelId, bytes: &Bytes) -> bool {
    let Ok(command) = Command::decode(model, bytes) else { return false };
    let encoded = match &command {
        Command::Keys(command) => keys::encode(command),
        Command::Tree(command) => tree::encode(command),
    };
    let again = Command::decode(model, &encoded).expect("an encoded command");
    // Commands have no equality across models; their encodings have.
    let encoded_again = match &again {
        Command::Keys(command) => keys::encode(command),
        Command::Tree(command) => tree::encode(command),
    };
    assert_eq!(encoded, encoded_again, "a command decodes to another one than was encoded");
    true
}

fn envelope(model: ModelId, command: Bytes) -> Vec<u8> {
    let origin = Origin { member: MemberId(7), start: 8, seq: 9 };
    let (cluster_time, wall_time) = (ClusterTime(10), WallTime(11));
    Envelope { model, origin, cluster_time, wall_time, command }.encode().to_vec()
}

/// A transaction with everything that one can have.
pub fn sample_txn() -> keys::Txn {
    let key = || Bytes::from_static(b"key");
    let put = keys::Put {
        key: key(),
        value: Bytes::from_static(b"value"),
        lease: -3,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let range = keys::RangeQuery {
        key: key(),
        end: keys::RangeEnd::Unbounded,
        limit: 10,
        revision: Revision(4),
        sort_order: keys::SortOrder::Descend,
        sort_target: keys::SortTarget::Value,
        keys_only: true,
        count_only: false,
        min_mod_revision: Revision(1),
        max_mod_revision: Revision(300),
        min_create_revision: Revision(0),
        max_create_revision: Revision(u64::MAX),
    };
    let delete = keys::DeleteRange {
        key: key(),
        end: keys::RangeEnd::Before(Bytes::from_static(b"l")),
        prev_kv: true,
    };
    let compare =
        |target| keys::Compare { key: key(), end: keys::RangeEnd::Single, op: keys::CompareOp::Less, target };
    let nested = keys::Txn {
        compare: vec![compare(keys::CompareTarget::Value(key()))],
        success: vec![keys::Op::DeleteRange(delete.clone())],
        failure: Vec::new(),
    };
    keys::Txn {
        compare: vec![compare(keys::CompareTarget::Version(3)), compare(keys::CompareTarget::Lease(-1))],
        success: vec![keys::Op::Put(put), keys::Op::Range(range), keys::Op::Txn(Box::new(nested))],
        failure: vec![keys::Op::DeleteRange(delete)],
    }
}

/// A directory and a file in it.
fn imported_nodes() -> Vec<tree::ImportedNode> {
    let path = |text: &str| tree::Path::clean(text.as_bytes()).expect("a path");
    let directory = tree::ImportedNode {
        path: path("/a"),
        value: None,
        created: TreeIndex(4),
        modified: TreeIndex(4),
        expiration: None,
    };
    let file = tree::ImportedNode {
        path: path("/a/b"),
        value: Some(Bytes::from_static(b"v")),
        modified: TreeIndex(300),
        expiration: Some(WallTime(1 << 60)),
        ..directory.clone()
    };
    vec![directory, file]
}

/// An entry for each kind of command.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let txn = sample_txn();
    let keys::Op::Put(put) = txn.success[0].clone() else { unreachable!("the sample starts with a put") };
    let keys::Op::DeleteRange(delete) = txn.failure[0].clone() else { unreachable!("the sample deletes") };
    let of_keys = [
        ("put", keys::Command::Put(put)),
        ("delete", keys::Command::DeleteRange(delete)),
        ("txn", keys::Command::Txn(txn)),
        (
            "move",
            keys::Command::Move(keys::Move {
                from: Bytes::from_static(b"new/"),
                to: Bytes::from_static(b"in/"),
                replace: true,
                count: Some(300),
            }),
        ),
        ("compact", keys::Command::Compact { revision: Revision(9) }),
        ("grant", keys::Command::LeaseGrant { id: -7, ttl_seconds: 60 }),
        ("revoke", keys::Command::LeaseRevoke { id: 7 }),
        ("expire", keys::Command::LeaseExpire { term: Term(2), ids: vec![1, -2, i64::MAX] }),
        ("alarm", keys::Command::Alarm { activate: true, member: 5, alarm: 1 }),
    ];
    let path = || tree::Path::clean(b"/a/b").expect("a path");
    let write =
        || tree::Write { ttl_seconds: Some(5), ..tree::Write::file(path(), Bytes::from_static(b"v")) };
    let conditions =
        || tree::Conditions { value: Some(Bytes::from_static(b"old")), index: Some(TreeIndex(4)) };
    let of_tree = [
        ("set", tree::Command::Set(write())),
        ("create", tree::Command::Create(write())),
        ("in-order", tree::Command::CreateInOrder { write: write(), style: tree::NameStyle::Padded }),
        ("update", tree::Command::Update(write())),
        ("swap", tree::Command::CompareAndSwap { write: write(), conditions: conditions() }),
        ("delete", tree::Command::Delete { path: path(), dir: true, recursive: true }),
        ("compare-and-delete", tree::Command::CompareAndDelete { path: path(), conditions: conditions() }),
        ("expire", tree::Command::Expire { term: Term(3), nodes_max: 10 }),
        ("begin", tree::Command::Begin { index: TreeIndex(5) }),
        ("window", tree::Command::SetHistoryWindow { events: 1000 }),
        ("import", tree::Command::Import { nodes: imported_nodes() }),
        ("end-import", tree::Command::EndImport { index: TreeIndex(300) }),
    ];
    let keys =
        of_keys.iter().map(|(name, c)| (format!("keys-{name}"), envelope(ModelId::KEYS, keys::encode(c))));
    let tree =
        of_tree.iter().map(|(name, c)| (format!("tree-{name}"), envelope(ModelId::TREE, tree::encode(c))));
    keys.chain(tree).collect()
}
