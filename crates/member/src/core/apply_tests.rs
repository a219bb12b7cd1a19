//! Commands whose records are damaged: they wait until those are mended, all of them.

use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{Entry, EntryKind};
use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_ids::{ClusterTime, LogIndex, Monotonic, Term, WallTime};
use quorate_models::keys::{self, Command, Compare, CompareOp, CompareTarget, Op, Put, RangeEnd, Txn};
use quorate_models::tables::KEYS;
use quorate_models::{Feeds, ModelId};
use quorate_store::{Location, StoreConfig, Unpaced};

use super::reserve::no_reserve;
use super::tests::{at, config, founding};
use super::{
    ApplyInput, ApplyOutput, CheckpointOutput, CheckpointStage, Committed, Mended, OpenConfig, Stages, open,
};
use crate::envelope::{Envelope, Origin};

/// A member with two values, both on disk alone.
struct Subject {
    disk: MemoryDisk,
    stages: Stages,
}

fn entry(index: u64, command: &Command) -> Committed {
    let envelope = Envelope {
        model: ModelId::KEYS,
        origin: Origin::default(),
        cluster_time: ClusterTime(index),
        wall_time: WallTime(index),
        command: keys::encode(command),
    };
    let data = envelope.encode();
    let entry = Entry { index: LogIndex(index), term: Term(1), kind: EntryKind::Command, data };
    Committed { entry, verdict: None }
}

fn put(key: &'static str) -> Command {
    Command::Put(Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(&[7; 300]),
        lease: 0,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    })
}

/// Compares both values.
fn compare_both() -> Command {
    let compare = |key: &'static str| Compare {
        key: Bytes::from_static(key.as_bytes()),
        end: RangeEnd::Single,
        op: CompareOp::Equal,
        target: CompareTarget::Value(Bytes::from_static(&[7; 300])),
    };
    Command::Txn(Txn { compare: vec![compare("a"), compare("b")], success: Vec::new(), failure: Vec::new() })
}

impl Subject {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = StoreConfig { body_cache_bytes: 0, ..StoreConfig::default() };
        let config = OpenConfig { store, ..config() };
        let stages =
            open(&shared, &shared, config, Some(&founding(3)), Feeds::new(0), at(0)).expect("an open");
        let mut subject = Self { disk, stages };
        subject.apply(vec![entry(2, &put("a")), entry(3, &put("b"))]);
        subject.checkpoint();
        subject
    }

    fn apply(&mut self, entries: Vec<Committed>) -> Vec<ApplyOutput> {
        self.stages.apply.step(ApplyInput::Entries(entries));
        self.work(0)
    }

    fn work(&mut self, now: u64) -> Vec<ApplyOutput> {
        let mut out = self.stages.apply.work(at(now));
        while self.stages.apply.has_work() {
            out.extend(self.stages.apply.work(at(now)));
        }
        out
    }

    fn checkpoint(&mut self) {
        self.stages.apply.step(ApplyInput::CheckpointNow);
        for output in self.work(0) {
            if let ApplyOutput::Checkpoint { frozen, point, membership } = output {
                let mut stage = CheckpointStage::new(self.stages.store.clone(), no_reserve(), no_reserve());
                let input = super::CheckpointInput { frozen, point, membership };
                let output = stage.step(input, &mut Unpaced);
                assert!(matches!(output, CheckpointOutput::Durable { .. }), "{output:?}");
                self.stages.apply.checkpoint_done(Some(point.index));
            }
        }
    }

    fn damage(&self, key: &str) -> Location {
        let store = &self.stages.store;
        let at = store.read().get(KEYS, key.as_bytes()).and_then(|entry| entry.body).expect("a value");
        let path = format!("{}/segment-{:08x}", quorate_store::generation_folder(1), at.segment);
        let file = self.disk.open(&path, Mode::default()).expect("the segment");
        let (mut byte, offset) = ([0], u64::from(at.offset) + 100);
        file.read_at(&mut byte, offset).expect("a byte");
        file.write_at(&[byte[0] ^ 1], offset).expect("a byte");
        at
    }

    fn mend_from(&mut self, peer: &Self, key: &str, place: Location) {
        let good = peer.stages.store.record(KEYS, key.as_bytes(), None).expect("a read").expect("a record");
        let mended = self.stages.store.mend(KEYS, key.as_bytes(), place, &good).expect("it fits");
        assert!(mended.is_some());
        self.stages.apply.mended(place, Mended::Done);
    }
}

fn to_mend(outputs: &[ApplyOutput]) -> Vec<Location> {
    let place = |output: &ApplyOutput| match output {
        ApplyOutput::Mend(at) => Some(*at),
        _ => None,
    };
    outputs.iter().filter_map(place).collect()
}

fn failed(outputs: &[ApplyOutput]) -> bool {
    outputs.iter().any(|output| matches!(output, ApplyOutput::Failed { .. }))
}

#[test]
fn a_command_waits_until_all_of_its_damaged_records_are_mended() {
    let (mut subject, peer) = (Subject::new(), Subject::new());
    let (a, b) = (subject.damage("a"), subject.damage("b"));
    let outputs = subject.apply(vec![entry(4, &compare_both())]);
    assert_eq!(to_mend(&outputs), [a, b]);
    assert!(!failed(&outputs) && !subject.stages.apply.has_work());
    subject.mend_from(&peer, "b", b);
    assert_eq!(to_mend(&subject.work(1)), []);
    assert_eq!(subject.stages.apply.applied_index(), LogIndex(3), "one of them is damaged still");
    subject.mend_from(&peer, "a", a);
    let outputs = subject.work(2);
    assert!(!failed(&outputs), "{outputs:?}");
    assert_eq!(subject.stages.apply.applied_index(), LogIndex(4));
}

#[test]
fn a_record_that_is_damaged_after_the_first_was_mended_is_mended_too() {
    let (mut subject, peer) = (Subject::new(), Subject::new());
    let a = subject.damage("a");
    assert_eq!(to_mend(&subject.apply(vec![entry(4, &compare_both())])), [a]);
    let other = subject.damage("b");
    subject.mend_from(&peer, "a", a);
    let outputs = subject.work(1);
    assert!(!failed(&outputs), "{outputs:?}");
    // The second value was read before it was damaged, or is asked for now.
    for place in to_mend(&outputs) {
        assert_eq!(place, other);
        subject.mend_from(&peer, "b", place);
    }
    assert!(!failed(&subject.work(2)));
    assert_eq!(subject.stages.apply.applied_index(), LogIndex(4));
}

#[test]
fn a_record_that_is_handed_over_in_vain_is_handed_over_again_and_a_lost_one_stops_the_member() {
    let mut subject = Subject::new();
    let a = subject.damage("a");
    assert_eq!(to_mend(&subject.apply(vec![entry(4, &compare_both())])), [a]);
    subject.stages.apply.mended(a, Mended::Busy);
    let again = subject.stages.apply.next_work().expect("it wants to go on");
    assert!(again > Monotonic(0));
    assert_eq!(to_mend(&subject.stages.apply.work(at(again.0))), [a]);
    subject.stages.apply.mended(a, Mended::Lost);
    let outputs = subject.work(again.0);
    assert!(failed(&outputs), "{outputs:?}");
    assert_eq!(subject.stages.apply.applied_index(), LogIndex(3));
}

/// Writes its large value only where there is no key `a`.
fn large_and_in_vain() -> Command {
    let absent = Compare {
        key: Bytes::from_static(b"a"),
        end: RangeEnd::Single,
        op: CompareOp::Equal,
        target: CompareTarget::Create(0),
    };
    let Command::Put(put) = put("large") else { unreachable!() };
    let put = Put { value: Bytes::from(vec![7; 200 << 10]), ..put };
    Command::Txn(Txn { compare: vec![absent], success: vec![Op::Put(put)], failure: Vec::new() })
}

#[test]
fn entries_that_change_nothing_make_a_checkpoint_too_so_that_their_log_can_go() {
    let mut subject = Subject::new();
    let is_cut = |outputs: &[ApplyOutput]| {
        outputs.iter().any(|output| matches!(output, ApplyOutput::Checkpoint { .. }))
    };
    for index in 4..9 {
        let outputs = subject.apply(vec![entry(index, &large_and_in_vain())]);
        assert!(!is_cut(&outputs), "a mebibyte is not reached at index {index}");
    }
    assert!(is_cut(&subject.apply(vec![entry(9, &large_and_in_vain())])));
}
