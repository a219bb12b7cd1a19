use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_ids::{ClusterId, Incarnation};
use quorate_store::{
    BodyError, CheckpointMeta, Identity, Owners, RewriteStep, StoreConfig, Unpaced, generation_folder,
};

use super::*;

const KEYS: TableId = TableId(0x10);
const HISTORY: TableId = TableId(0x11);
const NOW: Monotonic = Monotonic(1_000_000_000);

/// A store with versions of one key, all on disk, each under its place in the history; the last is the current one.
struct Subject {
    disk: MemoryDisk,
    store: Store,
}

impl Subject {
    fn new(member: u64, versions: u64) -> Self {
        let disk = MemoryDisk::new();
        let identity =
            Identity { cluster: ClusterId(7), member: MemberId(member), incarnation: Incarnation(member) };
        let config = StoreConfig { body_cache_bytes: 0, ..StoreConfig::default() };
        let store = Store::create(Arc::new(disk.clone()), config, identity, 0).expect("a new store");
        let subject = Self { disk, store };
        for version in 1..=versions {
            subject.put(version);
        }
        subject.checkpoint(versions);
        subject
    }

    fn put(&self, version: u64) {
        let mut tables = self.store.write();
        tables.begin(LogIndex(version));
        let history = version.to_be_bytes();
        let owners = Owners { first: (KEYS, b"key"), second: Some((HISTORY, &history)) };
        let at = tables.append(owners, &[&body(version)]);
        tables.put(KEYS, b"key", &history, Some(at));
        tables.put(HISTORY, &history, b"key", Some(at));
    }

    fn checkpoint(&self, index: u64) {
        let meta = CheckpointMeta { applied_index: LogIndex(index), ..CheckpointMeta::default() };
        let frozen = self.store.write().freeze(meta).expect("no front is frozen");
        self.store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
    }

    fn at(&self, version: u64) -> Location {
        let tables = self.store.read();
        tables.get(HISTORY, &version.to_be_bytes()).and_then(|entry| entry.body).expect("a version")
    }

    /// Flips a bit of a version's record, `within` bytes from its start; where it lies.
    fn damage(&self, version: u64, within: u64) -> Location {
        let at = self.at(version);
        let path = format!("{}/segment-{:08x}", generation_folder(0), at.segment);
        let file = self.disk.open(&path, Mode::default()).expect("the segment");
        let (mut byte, offset) = ([0], u64::from(at.offset) + within);
        file.read_at(&mut byte, offset).expect("a byte");
        file.write_at(&[byte[0] ^ 4], offset).expect("a byte");
        assert!(matches!(self.store.load(at), Err(BodyError::Corrupt { .. })), "the damage is seen");
        at
    }
}

fn body(version: u64) -> Vec<u8> {
    vec![version as u8; 400]
}

const IN_BODY: u64 = 100;
const IN_HEADER: u64 = 5;

fn mending(peers: &[u64]) -> Mending {
    let mut mending = Mending::default();
    mending.set_peers(peers.iter().copied().map(MemberId).collect());
    mending
}

/// Lets peers answer, and time pass where nobody is asked, until every record came to an end.
fn run(
    mending: &mut Mending,
    subject: &Subject,
    progress: Progress,
    answer: &mut dyn FnMut(MemberId, Frame) -> Option<Frame>,
) -> Vec<Ended> {
    let (mut now, mut ended, mut asks) = (NOW, progress.ended, VecDeque::from(progress.asks));
    for _ in 0..1_000 {
        if mending.jobs.is_empty() {
            return ended;
        }
        let progress = match asks.pop_front().map(|(to, frame)| (to, answer(to, frame))) {
            Some((from, Some(Frame::Record { request, record }))) => {
                mending.answered(from, request, record.as_ref(), &subject.store, now)
            }
            Some((_, other)) => {
                assert_eq!(other, None, "a peer answers with a record, or not at all");
                continue;
            }
            None => {
                now = now.plus(100_000_000);
                mending.tick(&subject.store, now)
            }
        };
        ended.extend(progress.ended);
        asks.extend(progress.asks);
    }
    panic!("mending goes on for ever");
}

fn answer_of(peer: &Store, question: Frame) -> Option<Frame> {
    let Frame::RecordRequest { request, table, key, index, place } = question else {
        panic!("a question for a record")
    };
    Some(answer(peer, request, table, &key, index, place))
}

#[test]
fn a_record_reads_back_as_written_and_a_cut_one_is_refused() {
    let record = FetchedRecord {
        stamp: Stamp { index: LogIndex(5), place: 6 },
        first: (TableId(1), b"key".to_vec()),
        second: Some((TableId(2), b"other".to_vec())),
        row: b"row".to_vec(),
        body: Bytes::from_static(b"body"),
    };
    let bytes = encode_record(&record);
    assert_eq!(decode_record(&bytes), Some(record));
    for keep in 0..bytes.len() {
        assert_eq!(decode_record(&bytes.slice(..keep)), None);
    }
}

#[test]
fn a_current_and_a_superseded_version_are_mended_and_old_places_lead_to_the_new_ones() {
    for within in [IN_BODY, IN_HEADER] {
        let (subject, peer) = (Subject::new(1, 3), Subject::new(2, 3));
        let mut mending = mending(&[2]);
        for version in [1, 3] {
            let at = subject.damage(version, within);
            let progress = mending.begin(at, &subject.store, NOW);
            let ended = run(&mut mending, &subject, progress, &mut |_, ask| answer_of(&peer.store, ask));
            assert_eq!(ended, [(at, Mended::Done)], "version {version}, {within} bytes within");
            assert_eq!(subject.store.load(at).expect("mended"), body(version));
            assert_ne!(subject.at(version), at);
            assert_eq!(subject.store.load(subject.at(version)).expect("mended"), body(version));
        }
    }
}

#[test]
fn a_peer_that_forgot_the_history_of_a_current_version_is_asked_for_the_key() {
    let (subject, peer) = (Subject::new(1, 1), Subject::new(2, 1));
    let at = subject.damage(1, IN_BODY);
    peer.store.write().remove(HISTORY, &1u64.to_be_bytes());
    let mut mending = mending(&[2]);
    let progress = mending.begin(at, &subject.store, NOW);
    let ended = run(&mut mending, &subject, progress, &mut |_, ask| answer_of(&peer.store, ask));
    assert_eq!(ended, [(at, Mended::Done)]);
}

#[test]
fn a_peer_that_is_ahead_has_the_version_in_its_history() {
    let (subject, peer) = (Subject::new(1, 1), Subject::new(2, 2));
    let at = subject.damage(1, IN_BODY);
    let mut mending = mending(&[2]);
    let progress = mending.begin(at, &subject.store, NOW);
    let ended = run(&mut mending, &subject, progress, &mut |_, ask| answer_of(&peer.store, ask));
    assert_eq!(ended, [(at, Mended::Done)]);
    assert_eq!(subject.store.load(at).expect("mended"), body(1));
}

#[test]
fn a_key_that_is_overwritten_while_its_record_is_asked_for_keeps_its_old_version() {
    let (subject, peer) = (Subject::new(1, 1), Subject::new(2, 1));
    let at = subject.damage(1, IN_BODY);
    let mut mending = mending(&[2]);
    let progress = mending.begin(at, &subject.store, NOW);
    subject.put(2);
    let ended = run(&mut mending, &subject, progress, &mut |_, ask| answer_of(&peer.store, ask));
    assert_eq!(ended, [(at, Mended::Done)]);
    assert_eq!(subject.store.load(subject.at(1)).expect("mended"), body(1));
}

#[test]
fn a_silent_peer_is_asked_again_and_the_record_is_not_lost_meanwhile() {
    let (subject, peer) = (Subject::new(1, 1), Subject::new(3, 1));
    let at = subject.damage(1, IN_BODY);
    let mut mending = mending(&[2, 3]);
    let progress = mending.begin(at, &subject.store, NOW);
    let empty = Subject::new(2, 0);
    let mut asked = 0;
    let ended = run(&mut mending, &subject, progress, &mut |to, ask| {
        asked += u32::from(to == MemberId(3));
        match to {
            MemberId(2) => answer_of(&empty.store, ask),
            _ if asked < 4 => None,
            _ => answer_of(&peer.store, ask),
        }
    });
    assert_eq!((ended, asked), (vec![(at, Mended::Done)], 4));
}

#[test]
fn a_record_that_no_peer_has_is_lost_and_one_that_nobody_needs_is_not() {
    let (subject, empty) = (Subject::new(1, 1), Subject::new(2, 0));
    let at = subject.damage(1, IN_BODY);
    let mut mending = mending(&[2, 3]);
    let progress = mending.begin(at, &subject.store, NOW);
    assert!(mending.begin(at, &subject.store, NOW).asks.is_empty(), "it is asked for already");
    let ended = run(&mut mending, &subject, progress, &mut |_, ask| answer_of(&empty.store, ask));
    assert_eq!(ended, [(at, Mended::Lost)]);
    // Nobody answers at all.
    let progress = mending.begin(at, &subject.store, NOW);
    let ended = run(&mut mending, &subject, progress, &mut |_, _| None);
    assert_eq!(ended, [(at, Mended::Lost)]);
    subject.store.write().remove(KEYS, b"key");
    subject.store.write().remove(HISTORY, &1u64.to_be_bytes());
    let progress = mending.begin(at, &subject.store, NOW);
    assert_eq!(progress.ended, [(at, Mended::Done)]);
}

#[test]
fn a_segment_does_not_wait_for_a_damaged_record_that_nobody_needs_any_more() {
    let subject = Subject::new(1, 3);
    let at = subject.damage(2, IN_BODY);
    assert!(subject.store.condemn(&format!("segment-{:08x}", at.segment)));
    let rewrite = || loop {
        match subject.store.rewrite_step(1 << 20).expect("a step") {
            RewriteStep::More { .. } => {}
            end => return end,
        }
    };
    match rewrite() {
        RewriteStep::Damaged { records, .. } => assert_eq!(records[0].at, at),
        other => panic!("{other:?}"),
    }
    assert_eq!(rewrite(), RewriteStep::Idle, "it waits for the record");
    subject.store.write().remove(HISTORY, &2u64.to_be_bytes());
    let progress = mending(&[2]).begin(at, &subject.store, NOW);
    assert_eq!(progress.ended, [(at, Mended::Done)]);
    assert_eq!(rewrite(), RewriteStep::Vacated { segment: at.segment });
}

#[test]
fn before_the_first_list_of_members_a_record_waits() {
    let (subject, peer) = (Subject::new(1, 1), Subject::new(2, 1));
    let at = subject.damage(1, IN_BODY);
    let mut mending = Mending::default();
    let begun = mending.begin(at, &subject.store, NOW);
    assert!(begun.asks.is_empty() && begun.ended.is_empty());
    let late = NOW.plus(10 * JOB_NANOS_MAX);
    let ticked = mending.tick(&subject.store, late);
    assert!(ticked.asks.is_empty() && ticked.ended.is_empty());
    mending.set_peers(vec![MemberId(2)]);
    let progress = mending.tick(&subject.store, late);
    let ended = run(&mut mending, &subject, progress, &mut |_, ask| answer_of(&peer.store, ask));
    assert_eq!(ended, [(at, Mended::Done)]);
}

#[test]
fn what_is_beyond_the_bound_is_refused() {
    let subject = Subject::new(1, 1);
    let mut mending = Mending::default();
    for offset in 0..RECORDS_UNDER_WAY_MAX as u32 {
        let at = Location { segment: 99, offset, len: 1 };
        assert!(mending.begin(at, &subject.store, NOW).ended.is_empty());
    }
    let at = subject.damage(1, IN_BODY);
    assert_eq!(mending.begin(at, &subject.store, NOW).ended, [(at, Mended::Busy)]);
}
