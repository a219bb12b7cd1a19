//! etcd's rules, one by one.

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_models::keys::{
    Command, Compare, CompareOp, CompareTarget, DecodeError, KeysError, Op, Put, PutReply, RangeEnd,
    RangeQuery, Reply, TXN_DEPTH_MAX, Txn, USER_KEY_BYTES_MAX, decode, encode, load_value,
};

use crate::machine::{Machine, at, bytes, put};

#[test]
fn a_store_starts_at_revision_1_and_each_put_makes_one_more() {
    let mut machine = Machine::new();
    assert_eq!(machine.keys.revision(), Revision(1));
    assert_eq!(machine.put("a", "1"), Reply::Put(PutReply { revision: Revision(2), previous: None }));
    assert_eq!(machine.put("a", "2"), Reply::Put(PutReply { revision: Revision(3), previous: None }));
    let reply = machine.range(&RangeQuery::point(bytes("a")));
    let meta = reply.kvs[0].meta;
    assert_eq!((meta.create_revision, meta.mod_revision, meta.version), (Revision(2), Revision(3), 2));
    assert_eq!(load_value(&machine.store, &reply.kvs[0].value), Ok(bytes("2")));
    let old = machine.range(&at(RangeQuery::point(bytes("a")), 2));
    assert_eq!(load_value(&machine.store, &old.kvs[0].value), Ok(bytes("1")));
    assert_eq!((old.revision, old.count), (Revision(3), 1));
}

#[test]
fn a_delete_that_finds_nothing_makes_no_revision() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    let Reply::DeleteRange(reply) = machine.delete("b", RangeEnd::Unbounded) else {
        panic!("a delete's reply")
    };
    assert_eq!((reply.revision, reply.deleted), (Revision(2), 0));
    let Reply::DeleteRange(reply) = machine.delete("a", RangeEnd::Single) else { panic!("a delete's reply") };
    assert_eq!((reply.revision, reply.deleted, reply.previous.len()), (Revision(3), 1, 1));
}

#[test]
fn compaction_refuses_the_future_and_what_is_compacted_and_keeps_its_own_revision_readable() {
    let mut machine = Machine::new();
    for value in ["1", "2", "3"] {
        machine.put("a", value);
    }
    let compact = |revision| Command::Compact { revision: Revision(revision) };
    let refused = |error| Reply::Refused { revision: Revision(4), error };
    let future = KeysError::FutureRevision { asked: Revision(5), current: Revision(4) };
    assert_eq!(machine.apply(&compact(5)), refused(future));
    assert_eq!(machine.apply(&compact(3)), Reply::Compact { revision: Revision(4) });
    let compacted = KeysError::Compacted { asked: Revision(3), oldest: Revision(3) };
    assert_eq!(machine.apply(&compact(3)), refused(compacted));
    machine.compact_fully();
    let old = machine.range(&at(RangeQuery::point(bytes("a")), 3));
    assert_eq!(load_value(&machine.store, &old.kvs[0].value), Ok(bytes("2")));
    let gone = quorate_models::keys::range(&machine.store, &at(RangeQuery::point(bytes("a")), 2));
    assert_eq!(gone, Err(KeysError::Compacted { asked: Revision(2), oldest: Revision(3) }));
}

fn value_compare(key: &str, end: RangeEnd, value: &str) -> Compare {
    Compare { key: bytes(key), end, op: CompareOp::Equal, target: CompareTarget::Value(bytes(value)) }
}

#[test]
fn a_compare_of_cold_values_loads_them_before_anything_changes() {
    let mut machine = Machine::cold();
    for key in ["a", "b", "c"] {
        machine.put(key, "same");
    }
    machine.checkpoint();
    let txn = |end, value| Txn {
        compare: vec![value_compare("a", end, value)],
        success: vec![Op::Put(Put { ignore_value: true, value: Bytes::new(), ..put("b", "") })],
        failure: vec![],
    };
    let Reply::Txn(reply) = machine.apply(&Command::Txn(txn(RangeEnd::Unbounded, "same"))) else {
        panic!("a txn")
    };
    assert!(reply.succeeded);
    assert_eq!(machine.loaded, 3, "each body once: that of b is compared and kept");
    let kept = machine.range(&RangeQuery::point(bytes("b")));
    assert_eq!(load_value(&machine.store, &kept.kvs[0].value), Ok(bytes("same")));
    assert_eq!(kept.kvs[0].meta.version, 2);
    let Reply::Txn(reply) = machine.apply(&Command::Txn(txn(RangeEnd::Unbounded, "other"))) else {
        panic!("a txn")
    };
    assert!(!reply.succeeded);
}

#[test]
fn compares_with_missing_keys_are_false_for_values_and_compare_zeros_else() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    let mut succeeds = |end: RangeEnd, op, target| {
        let compare = Compare { key: bytes("missing"), end, op, target };
        let txn = Txn { compare: vec![compare], success: vec![], failure: vec![] };
        match machine.apply(&Command::Txn(txn)) {
            Reply::Txn(reply) => reply.succeeded,
            other => panic!("{other:?}"),
        }
    };
    for end in
        [RangeEnd::Single, RangeEnd::Unbounded, RangeEnd::Before(bytes("n")), RangeEnd::Before(bytes("a"))]
    {
        assert!(!succeeds(end.clone(), CompareOp::NotEqual, CompareTarget::Value(bytes("x"))));
        assert!(succeeds(end.clone(), CompareOp::Equal, CompareTarget::Version(0)));
        assert!(succeeds(end.clone(), CompareOp::Less, CompareTarget::Create(1)));
        assert!(succeeds(end.clone(), CompareOp::Greater, CompareTarget::Mod(-1)));
        assert!(!succeeds(end, CompareOp::NotEqual, CompareTarget::Lease(0)));
    }
    assert_eq!(machine.keys.revision(), Revision(2), "a transaction that changes nothing makes no revision");
}

#[test]
fn a_refused_operation_refuses_the_whole_transaction_but_only_on_the_path_that_is_taken() {
    let mut machine = Machine::new();
    machine.put("a", "1");
    let bad = Op::Put(Put { lease: 77, ..put("b", "1") });
    let missing = Op::Put(Put { ignore_lease: true, ..put("missing", "1") });
    let future = Op::Range(RangeQuery { revision: Revision(3), ..RangeQuery::point(bytes("a")) });
    for (op, error) in [
        (bad.clone(), KeysError::LeaseNotFound { id: 77 }),
        (missing, KeysError::KeyNotFound),
        (future, KeysError::FutureRevision { asked: Revision(3), current: Revision(2) }),
    ] {
        let nested = Txn { compare: vec![], success: vec![op], failure: vec![] };
        let success = vec![Op::Put(put("c", "1")), Op::Txn(Box::new(nested))];
        let txn = Txn { compare: vec![], success, failure: vec![] };
        let refused = Reply::Refused { revision: Revision(2), error };
        assert_eq!(machine.apply(&Command::Txn(txn)), refused);
    }
    assert_eq!(machine.range(&RangeQuery::new(Bytes::new(), RangeEnd::Unbounded)).count, 1);
    let txn = Txn { compare: vec![], success: vec![Op::Put(put("c", "1"))], failure: vec![bad] };
    assert!(matches!(machine.apply(&Command::Txn(txn)), Reply::Txn(_)));
}

#[test]
fn keys_and_values_beyond_what_a_record_holds_are_refused() {
    let mut machine = Machine::new();
    let longest = "k".repeat(USER_KEY_BYTES_MAX);
    assert!(matches!(machine.put(&longest, "v"), Reply::Put(_)));
    machine.put(&longest, "w");
    machine.delete(&longest, RangeEnd::Single);
    assert_eq!(machine.range(&at(RangeQuery::point(bytes(&longest)), 3)).count, 1);
    let (len, max) = (USER_KEY_BYTES_MAX + 1, USER_KEY_BYTES_MAX);
    let refused = Reply::Refused { revision: Revision(4), error: KeysError::KeyTooLong { len, max } };
    assert_eq!(machine.put(&"k".repeat(len), "v"), refused);
}

#[test]
fn a_transaction_nested_too_deep_does_not_decode() {
    let nest = |depth| {
        let mut txn = Txn { compare: vec![], success: vec![], failure: vec![] };
        for _ in 1..depth {
            txn = Txn { compare: vec![], success: vec![Op::Txn(Box::new(txn))], failure: vec![] };
        }
        Command::Txn(txn)
    };
    assert!(decode(&encode(&nest(TXN_DEPTH_MAX))).is_ok());
    assert_eq!(decode(&encode(&nest(TXN_DEPTH_MAX + 1))), Err(DecodeError::TooDeep));
}

#[test]
fn a_key_of_the_longest_length_can_be_leased() {
    let mut machine = Machine::new();
    machine.apply(&Command::LeaseGrant { id: 1, ttl_seconds: 60 });
    let longest = "k".repeat(USER_KEY_BYTES_MAX);
    machine.apply(&Command::Put(Put { lease: 1, ..put(&longest, "v") }));
    assert_eq!(machine.apply(&Command::LeaseRevoke { id: 1 }), Reply::LeaseRevoke { revision: Revision(3) });
}
