//! Commands over more records than one slice may touch.

use bytes::Bytes;
use quorate_ids::{ClusterTime, LogIndex, Revision, Term, WallTime};
use quorate_models::keys::{
    self, Command, Compare, CompareOp, CompareTarget, DeleteRange, HistoryResume, Keys, Move, Op, Progress,
    RangeEnd, RangeQuery, RangeResume, ReadStep, ReadTxn, Reply, Txn, history_slice, range_slice,
};
use quorate_models::{Cursor, SLICE_RECORDS_MAX, Stamps, Step};
use quorate_store::Store;

use crate::machine::{Machine, at, bytes, put};

const MANY: usize = 2 * SLICE_RECORDS_MAX + 100;

fn name(number: usize) -> String {
    format!("key/{number:06}")
}

/// `MANY` keys, at revisions 2 and up, in one lease each of two.
fn crowd(leased: bool) -> Machine {
    let mut machine = Machine::new();
    for id in [1, 2] {
        machine.apply(&Command::LeaseGrant { id, ttl_seconds: 60 });
    }
    for number in 0..MANY {
        let lease = if leased { 1 + (number % 2) as i64 } else { 0 };
        machine.apply(&Command::Put(keys::Put { lease, ..put(&name(number), "value") }));
    }
    machine
}

fn all() -> RangeQuery {
    RangeQuery::new(Bytes::new(), RangeEnd::Unbounded)
}

fn delete_all() -> DeleteRange {
    DeleteRange { key: Bytes::new(), end: RangeEnd::Unbounded, prev_kv: false }
}

#[test]
fn a_large_delete_shows_nothing_before_it_is_done_and_is_one_revision() {
    let mut machine = crowd(false);
    let before = machine.keys.revision();
    let count = RangeQuery { count_only: true, ..all() };
    let few = RangeQuery { limit: 5, ..all() };
    let mut looked = 0;
    let reply = machine.apply_with(&Command::DeleteRange(delete_all()), &mut |store, _| {
        looked += 1;
        let counted = keys::range(store, &count).expect("a count");
        assert_eq!((counted.count, counted.revision), (MANY as u64, before));
        let first = keys::range(store, &few).expect("a range");
        assert_eq!((first.kvs.len(), first.count, first.more), (5, MANY as u64, true));
        assert_eq!(first.kvs[0].key, bytes(&name(0)));
        let everything = keys::range(store, &all()).expect("a range");
        assert_eq!((everything.kvs.len(), everything.count), (MANY, MANY as u64));
    });
    assert!(looked >= 2, "it took {looked} pauses");
    let Reply::DeleteRange(reply) = reply else { panic!("a delete's reply") };
    assert_eq!((reply.revision, reply.deleted), (before.next(), MANY as u64));
    assert_eq!(machine.range(&count).count, 0);
    assert_eq!(machine.range(&at(count, before.0)).count, MANY as u64);
}

fn move_all() -> Move {
    Move { from: bytes("key/"), to: bytes("in/"), replace: true, count: Some(MANY as u64) }
}

#[test]
fn a_large_move_shows_nothing_before_it_is_done_and_is_one_revision() {
    let mut machine = Machine::cold();
    for number in 0..MANY {
        machine.put(&name(number), &format!("new {number}"));
    }
    for key in ["in/000003", "in/other", "beside"] {
        machine.put(key, "old");
    }
    machine.checkpoint();
    let before = machine.keys.revision();
    let under = |prefix: &str| RangeQuery::new(bytes(prefix), RangeEnd::of_prefix(prefix.as_bytes()));
    let mut looked = 0;
    let reply = machine.apply_with(&Command::Move(move_all()), &mut |store, keys| {
        looked += 1;
        let seen = |prefix| keys::range(store, &under(prefix)).expect("a range");
        assert_eq!((seen("in/").count, seen("in/").revision), (2, before));
        assert_eq!(seen("key/").count, MANY as u64);
        // As after a restart.
        *keys = Keys::open(&store.read());
    });
    assert!(looked >= 2 && machine.loaded > 0, "{looked} pauses, {} bodies from disk", machine.loaded);
    assert!(matches!(reply, Reply::Move { revision, .. } if revision == before.next()), "{reply:?}");
    let moved = machine.range(&under("in/"));
    assert_eq!((moved.count, machine.range(&under("key/")).count), (MANY as u64, 0));
    for (number, kv) in moved.kvs.iter().enumerate() {
        let value = keys::load_value(&machine.store, &kv.value).expect("a value");
        assert_eq!((&kv.key, &value), (&bytes(&format!("in/{number:06}")), &bytes(&format!("new {number}"))));
        assert_eq!((kv.meta.create_revision, kv.meta.version, kv.meta.lease), (before.next(), 1, 0));
    }
    assert_eq!(machine.range(&at(under("in/"), before.0)).count, 2, "the past is as it was");
    assert_eq!(machine.range(&RangeQuery::new(bytes("beside"), RangeEnd::Single)).count, 1);
}

#[test]
fn a_move_that_is_not_whole_or_in_the_way_changes_nothing() {
    let mut machine = Machine::new();
    for key in ["new/1", "new/2", "in/1"] {
        machine.put(key, "v");
    }
    let before = (machine.hashes(), machine.keys.revision());
    let moving =
        |from: &str, to: &str, replace, count| Move { from: bytes(from), to: bytes(to), replace, count };
    for (refused, error) in [
        (moving("new/", "in/", true, Some(3)), keys::KeysError::MoveIncomplete { found: 2, wanted: 3 }),
        (moving("new/", "in/", false, Some(2)), keys::KeysError::MoveOntoKeys { count: 1 }),
        (moving("new/", "new/in/", true, None), keys::KeysError::MoveIntoItself),
        (moving("new/", "longer/", true, None), keys::KeysError::MoveIntoItself),
        (moving("", "", true, None), keys::KeysError::MoveIntoItself),
    ] {
        let reply = machine.apply(&Command::Move(refused.clone()));
        assert_eq!(reply, Reply::Refused { revision: before.1, error }, "{refused:?}");
        assert_eq!((machine.hashes(), machine.keys.revision()), before);
    }
    // What lies under the prefix that it moves to is not cleared with the rest of it.
    let reply = machine.apply(&Command::Move(moving("new/", "", true, Some(2))));
    assert_eq!(reply, Reply::Move { revision: before.1.next(), moved: 2, replaced: 1 });
    let all: Vec<_> = machine.range(&all()).kvs.into_iter().map(|kv| kv.key).collect();
    assert_eq!(all, [bytes("1"), bytes("2")]);
}

/// Applies `command`, with a new model over the tables and an otherwise lost cursor after each slice.
fn apply_with_restarts(machine: &mut Machine, command: &Command) -> Reply {
    machine.index += 1;
    let stamps = Stamps {
        index: LogIndex(machine.index),
        term: Term(machine.term),
        cluster_time: ClusterTime(0),
        wall_time: WallTime(0),
    };
    machine.store.write().begin(stamps.index);
    let mut state = Vec::new();
    loop {
        let mut cursor = Cursor { state, ..Cursor::default() };
        machine.keys = Keys::open(&machine.store.read());
        match machine.keys.apply(&mut machine.store.write(), command, &stamps, &mut cursor) {
            Step::Done(reply) => {
                machine.events.extend(machine.keys.take_events());
                return reply;
            }
            Step::More => state = cursor.state,
            Step::Need(_) => panic!("all bodies are in memory"),
        }
    }
}

fn mixed_txn() -> Txn {
    let absent = Compare {
        key: bytes("zz"),
        end: RangeEnd::Single,
        op: CompareOp::Equal,
        target: CompareTarget::Create(0),
    };
    let nested = Txn {
        // Judged before the delete that stands in front of it.
        compare: vec![Compare {
            key: bytes(&name(0)),
            end: RangeEnd::Single,
            op: CompareOp::Greater,
            target: CompareTarget::Version(0),
        }],
        success: vec![Op::Put(put("zz/nested", "1")), Op::Range(all())],
        failure: vec![Op::Put(put("zz/wrong", "1"))],
    };
    Txn {
        compare: vec![absent],
        success: vec![
            Op::Put(put("zz", "1")),
            Op::Range(all()),
            Op::DeleteRange(DeleteRange {
                key: bytes("key/"),
                end: RangeEnd::Before(bytes("key0")),
                prev_kv: true,
            }),
            Op::Txn(Box::new(nested)),
        ],
        failure: vec![],
    }
}

#[test]
fn restarts_between_slices_change_nothing_that_members_compare() {
    for command in [
        Command::DeleteRange(delete_all()),
        Command::LeaseRevoke { id: 1 },
        Command::LeaseExpire { term: Term(1), ids: vec![2, 7, 1] },
        Command::Txn(mixed_txn()),
        Command::Move(move_all()),
    ] {
        let mut steady = crowd(true);
        let mut restarted = crowd(true);
        steady.apply(&command);
        assert!(steady.slices > 1, "{command:?} takes slices");
        apply_with_restarts(&mut restarted, &command);
        assert_eq!(steady.hashes(), restarted.hashes(), "{command:?}");
        let hash = |machine: &Machine| keys::hash_kv(&machine.store, Revision(0)).expect("a hash");
        assert_eq!(hash(&steady), hash(&restarted));
        let changes = |machine: &Machine| -> Vec<_> {
            let from = machine.keys.revision();
            history(&machine.store, from).into_iter().map(|event| (event.kind, event.kv.key)).collect()
        };
        assert_eq!(changes(&steady), changes(&restarted));
        let lost = restarted.events.last().expect("a revision");
        assert!(lost.events.is_none(), "events from before a restart are only in history");
    }
}

fn history(store: &Store, from: Revision) -> Vec<keys::Event> {
    let mut resume = HistoryResume::from(from);
    let mut events = Vec::new();
    loop {
        let slice = history_slice(&store.read(), &mut resume, Revision(u64::MAX - 1), 1000).expect("history");
        if slice.is_empty() {
            return events;
        }
        let last = slice.last().is_some_and(|part| part.complete);
        assert!(last || slice.len() == 1, "only a revision that is alone comes in parts");
        slice.iter().for_each(|part| events.extend_from_slice(part.events()));
    }
}

#[test]
fn a_large_transaction_reads_its_own_writes_and_judges_all_compares_first() {
    let mut machine = crowd(true);
    let before = machine.keys.revision();
    let reply = machine.apply(&Command::Txn(mixed_txn()));
    let Reply::Txn(reply) = reply else { panic!("a transaction's reply") };
    assert!(reply.succeeded);
    assert_eq!(reply.revision, before.next());
    let keys::OpReply::Range(range) = &reply.responses[1] else { panic!("a range's reply") };
    assert_eq!((range.count, range.kvs.len()), (MANY as u64 + 1, MANY + 1));
    let keys::OpReply::DeleteRange(delete) = &reply.responses[2] else { panic!("a delete's reply") };
    assert_eq!((delete.deleted, delete.previous.len()), (MANY as u64, MANY));
    let keys::OpReply::Txn(nested) = &reply.responses[3] else { panic!("a transaction's reply") };
    assert!(nested.succeeded);
    let keys::OpReply::Range(range) = &nested.responses[1] else { panic!("a range's reply") };
    assert_eq!(
        range.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(),
        [bytes("zz"), bytes("zz/nested")]
    );
    let (tables, history) = (machine.store.read(), history(&machine.store, before.next()));
    assert_eq!(history.len(), MANY + 2);
    assert!(keys::lease_keys(&tables, 1, None, 1).is_empty(), "deleted keys leave their lease");
}

#[test]
fn a_pinned_read_sees_its_revision_whatever_is_written_between_its_slices() {
    for backwards in [false, true] {
        let mut machine = Machine::new();
        for number in 0..200 {
            machine.put(&name(number), "old");
        }
        let pinned = machine.keys.revision();
        let mut query = RangeQuery { limit: 150, ..all() };
        if backwards {
            query.sort_order = keys::SortOrder::Descend;
        }
        let wanted = machine.range(&query);
        let mut resume = RangeResume::default();
        let mut round = 0;
        loop {
            let progress =
                range_slice(&machine.store.read(), &query, pinned, &mut resume, 7).expect("readable");
            if progress == Progress::Done {
                break;
            }
            round += 1;
            // Overwrites, deletes, recreates and creates keys on both sides of where the reader stands.
            for number in [round * 5 % 200, (round * 31 + 7) % 200] {
                machine.put(&name(number), "new");
                machine.delete(&name((number + 3) % 200), RangeEnd::Single);
                machine.put(&format!("{}/new", name(number)), "new");
            }
        }
        let got: Vec<_> = resume.kvs.iter().map(|kv| (kv.key.clone(), kv.meta)).collect();
        let wanted_kvs: Vec<_> = wanted.kvs.iter().map(|kv| (kv.key.clone(), kv.meta)).collect();
        assert_eq!(got, wanted_kvs);
        assert_eq!((resume.count, resume.more), (200, true));
    }
}

#[test]
fn a_read_only_transaction_sees_its_revision_whatever_is_written_between_its_slices() {
    let mut machine = Machine::cold();
    for number in 0..200 {
        machine.put(&name(number), "old");
    }
    machine.checkpoint();
    let pinned = machine.keys.revision();
    let compare = |target| keys::Compare {
        key: bytes("key"),
        end: RangeEnd::Unbounded,
        op: keys::CompareOp::Equal,
        target,
    };
    let by_value = RangeQuery { sort_target: keys::SortTarget::Value, ..all() };
    let nested = Txn {
        compare: vec![compare(keys::CompareTarget::Version(1))],
        success: vec![Op::Range(by_value)],
        failure: vec![],
    };
    let txn = Txn {
        compare: vec![compare(keys::CompareTarget::Value(bytes("old")))],
        success: vec![Op::Range(all()), Op::Txn(Box::new(nested))],
        failure: vec![],
    };
    let _pin = machine.store.pin();
    let (mut round, mut needed) = (0, 0);
    let mut reading = ReadTxn::start(&machine.store.read(), &txn);
    let reply = loop {
        let step = reading.step(&machine.store.read(), 7).expect("readable");
        match step {
            ReadStep::Done(reply) => break reply,
            ReadStep::More => {}
            ReadStep::Need(bodies) => {
                // A slice visits seven rows of each of two tables: keys, and those deleted since.
                assert!((1..=14).contains(&bodies.len()), "{} bodies for a slice of 7", bodies.len());
                needed += bodies.len();
                for at in bodies {
                    reading.loaded(at, machine.store.load(at).expect("a body"));
                }
            }
        }
        round += 1;
        machine.put(&name(round * 5 % 200), "new");
        machine.delete(&name((round * 31 + 7) % 200), RangeEnd::Single);
    };
    assert!(needed >= 400, "values are compared and sorted from the disk: {needed}");
    assert!(reply.succeeded);
    assert_eq!(reply.revision, pinned);
    let [keys::OpReply::Range(plain), keys::OpReply::Txn(nested)] = &reply.responses[..] else {
        panic!("{reply:?}")
    };
    let [keys::OpReply::Range(sorted)] = &nested.responses[..] else { panic!("{nested:?}") };
    for range in [plain, sorted] {
        assert_eq!((range.count, range.kvs.len()), (200, 200));
        assert!(range.kvs.iter().all(|kv| kv.meta.version == 1 && kv.meta.mod_revision <= pinned));
    }
}

#[test]
fn a_read_whose_revision_is_compacted_between_its_slices_says_so() {
    let mut machine = Machine::new();
    for number in 0..20 {
        machine.put(&name(number), "value");
    }
    let pinned = machine.keys.revision();
    let mut resume = RangeResume::default();
    let slice = |machine: &Machine, resume: &mut RangeResume| {
        range_slice(&machine.store.read(), &all(), pinned, resume, 7)
    };
    assert_eq!(slice(&machine, &mut resume), Ok(Progress::More));
    machine.put("more", "value");
    machine.apply(&Command::Compact { revision: pinned.next() });
    let compacted = keys::KeysError::Compacted { asked: pinned, oldest: pinned.next() };
    assert_eq!(slice(&machine, &mut resume), Err(compacted));
}

#[test]
fn one_key_overwritten_very_often_is_followed_back_in_slices() {
    let mut machine = Machine::new();
    machine.put("a", "first");
    machine.put("b", "first");
    let pinned = machine.keys.revision();
    for _ in 0..500 {
        machine.put("a", "again");
    }
    let mut resume = RangeResume::default();
    let mut slices = 1;
    while range_slice(&machine.store.read(), &all(), pinned, &mut resume, 10).expect("readable")
        == Progress::More
    {
        slices += 1;
        machine.put("a", "again");
    }
    assert!(slices > 50, "500 links, 10 a slice");
    assert_eq!(resume.kvs.iter().map(|kv| kv.meta.version).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn compaction_of_everything_leaves_nothing_behind() {
    let mut machine = crowd(false);
    machine.delete("key/0000", RangeEnd::Before(bytes("key/0001")));
    let long = "x".repeat(2000);
    for value in ["1", "2", "3"] {
        machine.put(&long, value);
    }
    machine.delete(&long, RangeEnd::Single);
    machine.put("last", "value");
    machine.apply(&Command::Compact { revision: machine.keys.revision() });
    machine.compact_fully();
    let tables = machine.store.read();
    // Changes of the compacted revision itself can still be watched.
    assert_eq!(tables.len(quorate_models::tables::HISTORY), 1);
    assert_eq!(tables.len(quorate_models::tables::GRAVEYARD), 0);
    assert_eq!(tables.len(quorate_models::tables::HISTORY_KEYS), 0);
}

#[test]
fn the_revision_does_not_go_back_where_a_deletion_was_last_and_all_of_it_is_compacted() {
    let mut machine = Machine::cold();
    for key in ["a", "b"] {
        machine.put(key, "value");
    }
    machine.delete("a", RangeEnd::Unbounded);
    let last = machine.keys.revision();
    machine.apply(&Command::Compact { revision: last });
    machine.compact_fully();
    machine.checkpoint();
    let reopened = Keys::open(&machine.store.read());
    assert_eq!(reopened.revision(), last, "as after a restart");
    machine.keys = reopened;
    let Reply::Put(reply) = machine.put("c", "value") else { panic!("a put's reply") };
    assert_eq!(reply.revision, last.next());
}
