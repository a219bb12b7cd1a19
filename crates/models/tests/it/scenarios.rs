//! etcd's rules, one by one.

use quorate_ids::Revision;
use quorate_models::keys::{Command, KeysError, PutReply, RangeEnd, RangeQuery, Reply, load_value};

use crate::machine::{Machine, at, bytes};

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
