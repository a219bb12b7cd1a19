//! Random commands against [`crate::reference`]: answers, reads of every readable revision, events, history, and
//! that compaction's pace shows nowhere.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_ids::{Revision, Term};
use quorate_models::keys::{
    self, Command, Compare, CompareOp, CompareTarget, DeleteRange, Event, HistoryResume, KeyValue, Keys,
    KeysError, Move, Op, OpReply, Progress, Put, RangeEnd, RangeQuery, RangeReply, RangeResume, ReadStep,
    ReadTxn, Reply, SortOrder, SortTarget, Txn, TxnReply, finish_range, history_slice, load_value,
    range_slice,
};
use quorate_store::Store;

use crate::machine::Machine;
use crate::reference::{Answer, Change, Found, Kv, Reference};

#[derive(Clone, Debug)]
pub enum Doing {
    Apply(Command),
    /// Compacts to a revision this far back.
    CompactBack(u64),
    CompactStep(usize),
    /// As after a restart.
    Reopen,
    /// Bodies leave memory.
    Checkpoint,
    /// Bodies move.
    Rewrite,
    Read(RangeQuery, u64),
    /// A transaction that only reads, beside the log.
    ReadTxn(Txn),
}

fn key() -> impl Strategy<Value = Bytes> {
    let short = "[a-c]{1,2}".prop_map(Bytes::from);
    let long = "[a-c]".prop_map(|letter| Bytes::from(letter.repeat(1000)));
    prop_oneof![9 => short, 1 => long]
}

fn end() -> impl Strategy<Value = RangeEnd> {
    prop_oneof![3 => Just(RangeEnd::Single), 2 => key().prop_map(RangeEnd::Before), 1 => Just(RangeEnd::Unbounded)]
}

fn value() -> impl Strategy<Value = Bytes> {
    "[x-z]{0,3}".prop_map(Bytes::from)
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (key(), value(), prop_oneof![3 => Just(0i64), 2 => 1..4i64, 1 => Just(-5)], flags).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease))| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key(), end(), any::<bool>()).prop_map(|(key, end, prev_kv)| DeleteRange { key, end, prev_kv })
}

fn query() -> impl Strategy<Value = RangeQuery> {
    let order = prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let target = prop_oneof![
        4 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value)
    ];
    let bound = || prop_oneof![8 => Just(0u64), 1 => 1..40u64].prop_map(Revision);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let end = prop_oneof![end(), Just(RangeEnd::Unbounded)];
    (key(), end, 0..5u64, order, target, flags, [bound(), bound(), bound(), bound()]).prop_map(
        |(key, end, limit, sort_order, sort_target, (keys_only, count_only), bounds)| RangeQuery {
            limit,
            sort_order,
            sort_target,
            keys_only,
            count_only,
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
            ..RangeQuery::new(key, end)
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let op = prop_oneof![
        Just(CompareOp::Equal),
        Just(CompareOp::Greater),
        Just(CompareOp::Less),
        Just(CompareOp::NotEqual)
    ];
    let target = prop_oneof![
        (0..4i64).prop_map(CompareTarget::Version),
        (0..40i64).prop_map(CompareTarget::Create),
        (0..40i64).prop_map(CompareTarget::Mod),
        value().prop_map(CompareTarget::Value),
        (-1..4i64).prop_map(CompareTarget::Lease)
    ];
    (key(), end(), op, target).prop_map(|(key, end, op, target)| Compare { key, end, op, target })
}

fn range_op() -> impl Strategy<Value = Op> {
    (query(), prop_oneof![3 => Just(0u64), 1 => 0..30u64])
        .prop_map(|(query, revision)| Op::Range(RangeQuery { revision: Revision(revision), ..query }))
}

fn txn() -> impl Strategy<Value = Txn> {
    txn_of(prop_oneof![
        3 => put().prop_map(Op::Put),
        1 => delete().prop_map(Op::DeleteRange),
        1 => range_op()
    ])
}

fn txn_of(leaf: impl Strategy<Value = Op> + 'static) -> impl Strategy<Value = Txn> {
    let of = |op: BoxedStrategy<Op>| {
        (
            prop::collection::vec(compare(), 0..3),
            prop::collection::vec(op.clone(), 0..4),
            prop::collection::vec(op, 0..4),
        )
            .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
    };
    let nested = leaf
        .prop_recursive(3, 12, 3, move |op| of(op.boxed()).prop_map(|txn| Op::Txn(Box::new(txn))).boxed())
        .boxed();
    of(nested)
}

fn moving() -> impl Strategy<Value = Move> {
    let to = "[a-c]{0,1}".prop_map(Bytes::from);
    let count = prop_oneof![3 => Just(None), 1 => (0..4u64).prop_map(Some)];
    ("[a-c]{1,2}".prop_map(Bytes::from), to, any::<bool>(), count)
        .prop_map(|(from, to, replace, count)| Move { from, to, replace, count })
}

pub fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => put().prop_map(Command::Put),
        3 => delete().prop_map(Command::DeleteRange),
        4 => txn().prop_map(Command::Txn),
        1 => moving().prop_map(Command::Move),
        1 => (0..40u64).prop_map(|revision| Command::Compact { revision: Revision(revision) }),
        2 => (1..4i64, 1..100i64).prop_map(|(id, ttl_seconds)| Command::LeaseGrant { id, ttl_seconds }),
        1 => (1..4i64).prop_map(|id| Command::LeaseRevoke { id }),
        1 => (1..3u64, prop::collection::vec(1..4i64, 0..3))
            .prop_map(|(term, ids)| Command::LeaseExpire { term: Term(term), ids }),
        1 => (any::<bool>(), any::<u64>(), 1..3u8)
            .prop_map(|(activate, member, alarm)| Command::Alarm { activate, member, alarm }),
    ]
}

pub fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        12 => command().prop_map(Doing::Apply),
        1 => (0..6u64).prop_map(Doing::CompactBack),
        2 => (1..5usize).prop_map(Doing::CompactStep),
        1 => Just(Doing::Reopen),
        1 => Just(Doing::Checkpoint),
        1 => Just(Doing::Rewrite),
        3 => (query(), 0..8u64).prop_map(|(query, back)| Doing::Read(query, back)),
        3 => txn_of(range_op()).prop_map(Doing::ReadTxn),
    ]
}

fn kv(store: &Store, kv: &KeyValue) -> Kv {
    Kv {
        key: kv.key.clone(),
        create: kv.meta.create_revision.0,
        modified: kv.meta.mod_revision.0,
        version: kv.meta.version,
        lease: kv.meta.lease,
        value: load_value(store, &kv.value).expect("a value that is there"),
    }
}

fn kvs(store: &Store, found: &[KeyValue]) -> Vec<Kv> {
    found.iter().map(|found| kv(store, found)).collect()
}

fn found(store: &Store, reply: &RangeReply) -> Found {
    Found { kvs: kvs(store, &reply.kvs), count: reply.count, more: reply.more }
}

fn answer(store: &Store, reply: &Reply) -> Answer {
    match reply {
        Reply::Put(put) => Answer::Put(put.revision.0, put.previous.as_ref().map(|old| kv(store, old))),
        Reply::DeleteRange(reply) => {
            Answer::Delete(reply.revision.0, reply.deleted, kvs(store, &reply.previous))
        }
        Reply::Txn(reply) => txn_answer(store, reply),
        Reply::Move { revision, moved, replaced } => Answer::Moved(revision.0, *moved, *replaced),
        Reply::Compact { revision }
        | Reply::LeaseGrant { revision, .. }
        | Reply::LeaseRevoke { revision }
        | Reply::Alarm { revision } => Answer::Ok(revision.0),
        Reply::LeaseExpire { revision, expired } => Answer::Expired(revision.0, expired.clone()),
        Reply::Refused { revision, .. } => Answer::Refused(revision.0),
    }
}

fn txn_answer(store: &Store, reply: &TxnReply) -> Answer {
    let answers = reply.responses.iter().map(|reply| match reply {
        OpReply::Range(reply) => Answer::Range(reply.revision.0, found(store, reply)),
        OpReply::Put(put) => answer(store, &Reply::Put(put.clone())),
        OpReply::DeleteRange(delete) => answer(store, &Reply::DeleteRange(delete.clone())),
        OpReply::Txn(txn) => txn_answer(store, txn),
    });
    Answer::Txn(0, reply.succeeded, answers.collect())
}

fn change(store: &Store, event: &Event) -> Change {
    Change {
        kind: event.kind,
        key: event.kv.key.clone(),
        now: (event.kind == keys::EventKind::Put).then(|| kv(store, &event.kv)),
        before: event.previous.as_ref().map(|before| kv(store, before)),
    }
}

/// A range in slices of one row, which is where resuming can go wrong.
fn range_slowly(store: &Store, query: &RangeQuery, at: Revision, budget: usize) -> RangeReply {
    let mut resume = RangeResume::default();
    while range_slice(&store.read(), query, at, &mut resume, budget).expect("readable") == Progress::More {}
    finish_range(query, resume, keys::current_revision(&store.read()), &mut |value| load_value(store, value))
        .expect("values")
}

/// A read-only transaction beside the log, in slices; `between` runs between them.
pub fn read_txn_slowly(
    store: &Store,
    txn: &Txn,
    budget: usize,
    between: &mut dyn FnMut(),
) -> Result<TxnReply, KeysError> {
    let mut reading = ReadTxn::start(&store.read(), txn);
    loop {
        let step = reading.step(&store.read(), budget)?;
        match step {
            ReadStep::Done(reply) => return Ok(reply),
            ReadStep::More => {}
            ReadStep::Need(bodies) => {
                assert!(!bodies.is_empty(), "a need names bodies");
                for at in bodies {
                    reading.loaded(at, store.load(at).expect("a body"));
                }
            }
        }
        between();
    }
}

/// It answers what the command in the log would answer.
fn check_read_txn(machine: &Machine, reference: &Reference, txn: &Txn) {
    let wanted = reference.clone().apply(&Command::Txn(txn.clone()), machine.term);
    for budget in [1, 2, 1000] {
        let answered = match read_txn_slowly(&machine.store, txn, budget, &mut || {}) {
            Ok(reply) => txn_answer(&machine.store, &reply),
            Err(_) => Answer::Refused(reference.revision()),
        };
        assert_eq!(answered, wanted, "{txn:?} in slices of {budget}");
    }
}

fn check_history(machine: &Machine, reference: &Reference, budget: usize) {
    let from = reference.compacted.max(2);
    let tables = machine.store.read();
    let mut resume = HistoryResume::from(Revision(from));
    let mut changes: Vec<(u64, Change)> = Vec::new();
    while resume.revision().0 <= reference.revision() {
        let slice = history_slice(&tables, &mut resume, Revision(u64::MAX - 1), budget).expect("readable");
        for part in slice {
            let part_changes =
                part.events().iter().map(|event| (part.revision.0, change(&machine.store, event)));
            changes.extend(part_changes);
        }
    }
    let mut wanted = Vec::new();
    for (revision, list) in reference.changes.range(from..) {
        let compacted = *revision == reference.compacted;
        // Compaction keeps the newest version of a key at its own revision, and what came before is forgotten.
        for change in list {
            let before = change.before.clone().filter(|_| !compacted);
            wanted.push((*revision, Change { before, ..change.clone() }));
        }
    }
    assert_eq!(changes, wanted);
}

fn check_everything(machine: &Machine, reference: &Reference) {
    let everything = RangeQuery::new(Bytes::new(), RangeEnd::Unbounded);
    for revision in reference.compacted.max(1)..=reference.revision() {
        let query = RangeQuery { revision: Revision(revision), ..everything.clone() };
        let reply = machine.range(&query);
        assert_eq!(
            found(&machine.store, &reply),
            reference.range(&query).expect("readable"),
            "at {revision}"
        );
    }
    check_history(machine, reference, 2);
}

pub fn check(doings: Vec<Doing>) {
    let mut machine = Machine::cold();
    // The same commands on a member that never forgets: it must not differ.
    let mut other = Machine::new();
    let mut reference = Reference::new();
    for doing in doings {
        match doing {
            Doing::Apply(command) => apply_all(&mut machine, &mut other, &mut reference, &command),
            Doing::CompactBack(back) => {
                let revision = Revision(reference.revision().saturating_sub(back));
                apply_all(&mut machine, &mut other, &mut reference, &Command::Compact { revision });
            }
            Doing::CompactStep(budget) => {
                machine.keys.compact_step(&mut machine.store.write(), budget);
            }
            Doing::Reopen => machine.keys = Keys::open(&machine.store.read()),
            Doing::Checkpoint => machine.checkpoint(),
            Doing::Rewrite => machine.rewrite(),
            Doing::ReadTxn(txn) => check_read_txn(&machine, &reference, &txn),
            Doing::Read(query, back) => {
                let at = Revision(reference.revision().saturating_sub(back).max(1).max(reference.compacted));
                let query = RangeQuery { revision: at, ..query };
                let wanted = reference.range(&query).expect("readable");
                for budget in [1, 2, 1000] {
                    let reply = range_slowly(&machine.store, &query, at, budget);
                    assert_eq!(found(&machine.store, &reply), wanted, "{query:?} in slices of {budget}");
                }
            }
        }
        assert_eq!(machine.hashes(), other.hashes(), "a member's pace shows");
    }
    check_everything(&machine, &reference);
    machine.compact_fully();
    check_everything(&machine, &reference);
    check_events(&machine, &reference);
    let hash = |machine: &Machine| keys::hash_kv(&machine.store, Revision(0)).expect("a hash").hash;
    assert_eq!(hash(&machine), hash(&other));
}

fn apply_all(machine: &mut Machine, other: &mut Machine, reference: &mut Reference, command: &Command) {
    let reply = machine.apply(command);
    other.apply(command);
    let wanted = reference.apply(command, machine.term);
    assert_eq!(answer(&machine.store, &reply), wanted, "{command:?}");
    if let Reply::Txn(reply) = reply {
        assert_eq!(reply.revision.0, reference.revision());
    }
    assert_eq!(machine.keys.revision().0, reference.revision());
    assert_eq!(machine.keys.compacted().0, reference.compacted);
}

/// What came live. (A previous value may have been forgotten since: only its meta is compared.)
fn check_events(machine: &Machine, reference: &Reference) {
    let mut live = Vec::new();
    for events in &machine.events {
        for event in events.events() {
            let kind = event.kind;
            let previous = event.previous.as_ref().map(|kv| (kv.meta.mod_revision.0, kv.meta.version));
            live.push((events.revision.0, kind, event.kv.key.clone(), previous));
        }
    }
    let wanted: Vec<_> = reference
        .changes
        .iter()
        .flat_map(|(revision, list)| list.iter().map(|change| (*revision, change.clone())))
        .map(|(revision, change)| {
            let previous = change.before.map(|kv| (kv.modified, kv.version));
            (revision, change.kind, change.key, previous)
        })
        .collect();
    assert_eq!(live, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_reads_and_compactions_agree_with_the_reference(doings in prop::collection::vec(doing(), 1..60)) {
        check(doings);
    }

    #[test]
    fn random_bytes_never_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(command) = keys::decode(&bytes) {
            prop_assert_eq!(keys::decode(&keys::encode(&command)), Ok(command));
        }
    }

    #[test]
    fn a_command_with_damaged_bytes_never_panics_the_decoder(
        command in command(), cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bit in 0..8u8
    ) {
        let whole = keys::encode(&command);
        prop_assert_eq!(keys::decode(&whole), Ok(command));
        let short = whole.slice(..cut.index(whole.len()));
        prop_assert!(keys::decode(&short).is_err(), "a command cut short is no command");
        let mut flipped = whole.to_vec();
        flipped[flip.index(whole.len())] ^= 1 << bit;
        if let Ok(command) = keys::decode(&Bytes::from(flipped)) {
            prop_assert_eq!(keys::decode(&keys::encode(&command)), Ok(command));
        }
    }
}
