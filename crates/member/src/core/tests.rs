//! A member's data after crashes at bad moments; snapshots offered too late, and what is committed while one is installed.

use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{EntryKind, Message};
use quorate_disk::{Disk, MemoryDisk};
use quorate_ids::{ClusterId, ClusterTime, Incarnation, LogIndex, MemberId, Monotonic, Term, WallTime};
use quorate_models::{Feeds, ModelId, keys};
use quorate_store::StoreConfig;
use quorate_wal::{Record, Wal};

use super::{
    ApplyInput, CheckpointRule, Founding, LogInput, LogLoop, LogLoopConfig, LogOutput, LogWriter, Now,
    OpenConfig, OpenError, Stages, TransferInput, open,
};
use crate::envelope::{Envelope, Origin};
use crate::frame::{Frame, SnapshotPoint};
use crate::handle::Identity;
use crate::membership::{Member, MemberList, MembershipRequest};

pub(super) const TICK_NANOS: u64 = 10_000_000;

pub(super) fn identity() -> Identity {
    Identity { cluster: ClusterId(7), member: MemberId(1), incarnation: Incarnation(9) }
}

pub(super) fn founding(members: u64) -> Founding {
    let members = (1..=members).map(|id| Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://m{id}:2380")],
        ..Member::default()
    });
    Founding::Found { identity: identity(), members: MemberList::founded_by(members) }
}

pub(super) fn config() -> OpenConfig {
    OpenConfig {
        wal: quorate_wal::Config {
            segment_size_bytes: 1 << 20,
            payload_bytes_max: 256 << 10,
            direct: false,
            ..quorate_wal::Config::default()
        },
        store: StoreConfig::default(),
        consensus: quorate_consensus::Config::new(MemberId(1), 1),
        log_loop: LogLoopConfig {
            identity: identity(),
            start: 1,
            tick_nanos: TICK_NANOS,
            election_timeout_nanos: 10 * TICK_NANOS,
            proposals_max: 10,
            proposal_bytes_max: 1 << 20,
            reads_max: 10,
            request_timeout_nanos: 1_000_000_000,
            apply_lag_entries_max: 100,
            apply_lag_bytes_max: 1 << 20,
            log_retained_bytes: 0,
            learners_max: 1,
            promote_learners: false,
            hasten_start: false,
            strict_membership: true,
            kinds: crate::kinds::Kinds::default(),
        },
        checkpoint: CheckpointRule {
            front_bytes: 1 << 20,
            entries: 100,
            log_bytes: 1 << 20,
            front_room_min: 1 << 20,
        },
        reserve_bytes: 0,
    }
}

/// A small put, encoded.
pub(super) fn put() -> Bytes {
    keys::encode(&keys::Command::Put(keys::Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        lease: 0,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }))
}

pub(super) fn at(nanos: u64) -> Now {
    Now { monotonic: Monotonic(nanos), wall: WallTime(nanos) }
}

pub(super) fn opened(disk: &Arc<dyn Disk>, founding: Option<&Founding>) -> Result<Stages, OpenError> {
    open(disk, disk, config(), founding, Feeds::new(0), at(0))
}

fn wal_identity() -> quorate_wal::Identity {
    let Identity { cluster, member, incarnation } = identity();
    quorate_wal::Identity { cluster, member, incarnation }
}

#[test]
fn a_founding_that_a_crash_cut_short_goes_on_at_the_next_start() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(Wal::create(disk.clone(), config().wal, wal_identity(), 1).expect("a log without a founding"));
    assert!(opened(&disk, None).is_err(), "nothing says what it founds");
    let stages = opened(&disk, Some(&founding(3))).expect("the founding goes on");
    assert_eq!(stages.apply.applied_index(), LogIndex(1));
    drop(stages);
    let again = opened(&disk, None).expect("now it is founded");
    assert_eq!(again.members.iter().count(), 3);
}

#[test]
fn a_lone_founding_that_a_crash_cut_short_is_listed_under_the_incarnation_of_its_log() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(Wal::create(disk.clone(), config().wal, wal_identity(), 1).expect("a log without a founding"));
    // The next start draws another incarnation; whoever joins later would refuse a founder that is not what it says.
    let again = Identity { incarnation: Incarnation(10), ..identity() };
    let me = Member { id: again.member, incarnation: again.incarnation, ..Member::default() };
    let founding = Founding::Found { identity: again, members: MemberList::founded_by([me]) };
    let stages = opened(&disk, Some(&founding)).expect("the founding goes on");
    assert_eq!(stages.identity, identity());
    let listed = stages.members.get(identity().member).expect("it lists itself");
    assert_eq!(listed.incarnation, identity().incarnation);
}

#[test]
fn entries_of_a_newer_term_than_the_hard_state_are_what_a_torn_batch_leaves() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(opened(&disk, Some(&founding(3))).expect("a founding"));
    let (mut wal, _) = Wal::open(disk.clone(), config().wal, None).expect("its log");
    let payload = bytes::Bytes::copy_from_slice(&[EntryKind::Empty.code()]);
    // The hard state of term 4 stood after this entry in the batch.
    wal.append(&[Record::Entry { index: LogIndex(2), term: Term(4), payload }]).expect("an append");
    drop(wal);
    let mut stages = opened(&disk, Some(&founding(3))).expect("it starts");
    let said = stages.log_loop.turn(at(0)).into_iter().find_map(|output| match output {
        LogOutput::Status(status) => Some((status.term, status.last_index)),
        _ => None,
    });
    assert_eq!(said, Some((Term(4), LogIndex(2))));
}

#[test]
fn a_member_that_was_started_again_alone_shows_only_after_a_while_what_it_knows_to_be_committed() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(opened(&disk, Some(&founding(3))).expect("a founding"));
    let (mut wal, _) = Wal::open(disk.clone(), config().wal, None).expect("its log");
    let entry = |index| {
        let payload = bytes::Bytes::copy_from_slice(&[EntryKind::Empty.code()]);
        Record::Entry { index: LogIndex(index), term: Term(1), payload }
    };
    let hard_state = quorate_wal::HardState { term: Term(1), vote: MemberId::ZERO, commit: LogIndex(3) };
    // An earlier run may have applied, and shown, the fourth entry, too.
    wal.append(&[entry(2), entry(3), entry(4), Record::HardState(hard_state)]).expect("an append");
    drop(wal);
    let mut stages = opened(&disk, None).expect("it starts");
    let mut shows_from = None;
    for tick in 0..200 {
        let now = at(tick * TICK_NANOS);
        for output in stages.log_loop.turn(now) {
            match output {
                LogOutput::Apply(input) => stages.apply.step(input),
                LogOutput::Write(batch) => {
                    let written = stages.log_writer.step(batch);
                    stages.log_loop.step(written, now);
                }
                LogOutput::Status(status) if status.replayed => {
                    shows_from.get_or_insert((status.applied, tick));
                }
                _ => {}
            }
        }
        for output in stages.apply.work(now) {
            if let super::ApplyOutput::Applied { index } = output {
                stages.log_loop.step(LogInput::Applied { index }, now);
            }
        }
    }
    assert_eq!(shows_from, Some((LogIndex(3), 100)), "ten election timeouts of ten ticks");
}

/// Ticks a member that hears of nobody until it asks for votes; returns what it asks with.
fn a_message(stages: &mut Stages) -> Message {
    for tick in 1..100 {
        for output in stages.log_loop.turn(at(tick * TICK_NANOS)) {
            if let LogOutput::Send { frame, .. } = output
                && let Ok(Frame::Raft(bytes)) = Frame::decode(frame)
            {
                return Message::decode(&bytes).expect("its own message");
            }
        }
    }
    panic!("a member without a leader asked nobody for a vote")
}

#[test]
fn a_snapshot_that_comes_after_the_log_caught_up_is_dropped_and_its_sender_told() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut stages = opened(&disk, Some(&founding(3))).expect("a founding");
    let message = a_message(&mut stages);
    let (from, point) = (MemberId(2), SnapshotPoint { index: LogIndex(1), term: Term(1) });
    stages.log_loop.awaits_snapshot(from, point, message);
    stages.log_loop.step(LogInput::SnapshotFetched { from, point, generation: 2 }, at(0));
    let outputs = stages.log_loop.turn(at(0));
    let dropped =
        |output: &LogOutput| matches!(output, LogOutput::Transfer(TransferInput::Discard { generation: 2 }));
    assert!(outputs.iter().any(dropped), "{outputs:?}");
    let told = outputs.iter().any(|output| match output {
        LogOutput::Send { to, frame, .. } if *to == from => {
            let told = Frame::decode(frame.clone()).expect("a frame");
            told == Frame::SnapshotStatus { point, installed: true }
        }
        _ => false,
    });
    assert!(told, "{outputs:?}");
}

#[test]
fn a_leader_that_has_all_from_a_snapshot_goes_on_with_the_clusters_time() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let Stages { mut log_loop, mut log_writer, members, .. } =
        opened(&disk, Some(&founding(1))).expect("a founding");
    let hour = 3_600_000_000_000;
    let stamps = (ClusterTime(hour), WallTime(2 * hour));
    let point = SnapshotPoint { index: LogIndex(1), term: Term(1) };
    log_loop.step(LogInput::Installed { point, members, stamps }, at(0));
    let publish =
        MembershipRequest::Publish { id: identity().member, name: "n".to_owned(), client_urls: Vec::new() };
    log_loop.step(LogInput::ChangeMembership { seq: 1, request: publish }, at(0));
    let mut stamped = None;
    for tick in 1..100 {
        for output in log_loop.turn(at(tick * TICK_NANOS)) {
            let LogOutput::Write(batch) = output else { continue };
            let commands = batch.entries.iter().filter(|entry| entry.kind == EntryKind::Command);
            for entry in commands {
                let envelope = Envelope::decode(&entry.data).expect("an envelope");
                stamped.get_or_insert((envelope.cluster_time, envelope.wall_time));
            }
            let written = log_writer.step(batch);
            log_loop.step(written, at(tick * TICK_NANOS));
        }
    }
    let (cluster_time, wall_time) = stamped.expect("the publication is in the log");
    assert!(cluster_time >= stamps.0 && wall_time >= stamps.1, "{cluster_time:?} {wall_time:?}");
}

/// A message of member 2 in term 5 to member 1, as `docs/formats/raft-messages.md` has it; numbers below 128 only.
fn from_a_leader(kind: u8, body: &[u8]) -> LogInput {
    let mut bytes = vec![1, kind];
    bytes.extend(2_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(5);
    bytes.extend(body);
    let frame = Frame::Raft(bytes::Bytes::from(bytes)).encode();
    LogInput::Frame { from: MemberId(2), frame }
}

/// Lets the log loop and its writer go on until neither has anything to do; returns what the apply stage is to do.
fn settle(log_loop: &mut LogLoop, log_writer: &mut LogWriter) -> Vec<ApplyInput> {
    let mut to_apply = Vec::new();
    loop {
        let mut written = None;
        for output in log_loop.turn(at(0)) {
            match output {
                LogOutput::Write(batch) => written = Some(log_writer.step(batch)),
                LogOutput::Apply(input) => to_apply.push(input),
                _ => {}
            }
        }
        let Some(written) = written else { return to_apply };
        log_loop.step(written, at(0));
    }
}

#[test]
fn what_is_committed_while_a_snapshot_is_installed_is_judged_from_the_snapshots_member_list() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let Stages { mut log_loop, mut log_writer, members, .. } =
        opened(&disk, Some(&founding(3))).expect("a founding");
    // The leader let member 77 in before its snapshot, and member 77 said its name after it.
    let point = SnapshotPoint { index: LogIndex(10), term: Term(5) };
    let mut snapshot = vec![10, 5, 3];
    [1_u64, 2, 3].iter().for_each(|voter| snapshot.extend(voter.to_le_bytes()));
    snapshot.push(1);
    snapshot.extend(77_u64.to_le_bytes());
    log_loop.step(from_a_leader(7, &snapshot), at(0));
    settle(&mut log_loop, &mut log_writer);
    log_loop.step(LogInput::SnapshotFetched { from: MemberId(2), point, generation: 2 }, at(0));
    let to_apply = settle(&mut log_loop, &mut log_writer);
    assert!(matches!(to_apply[..], [.., ApplyInput::Install { .. }]), "{to_apply:?}");

    let publish =
        MembershipRequest::Publish { id: MemberId(77), name: "late".to_owned(), client_urls: Vec::new() };
    let envelope = Envelope {
        model: ModelId::MEMBER,
        origin: Origin { member: MemberId(2), start: 1, seq: 1 },
        cluster_time: ClusterTime(1),
        wall_time: WallTime(1),
        command: publish.encode(),
    };
    let command = envelope.encode();
    let mut append = vec![10, 5, 11, 1, 1, 5, u8::try_from(command.len()).expect("a short command")];
    append.extend(&command);
    log_loop.step(from_a_leader(1, &append), at(0));
    let meanwhile = settle(&mut log_loop, &mut log_writer);
    assert!(!meanwhile.iter().any(|input| matches!(input, ApplyInput::Entries(_))), "{meanwhile:?}");

    let late = Member { id: MemberId(77), is_learner: true, ..Member::default() };
    let members = MemberList::founded_by(members.iter().cloned().chain([late]));
    let stamps = (ClusterTime(1), WallTime(1));
    log_loop.step(LogInput::Installed { point, members, stamps }, at(0));
    let afterwards = settle(&mut log_loop, &mut log_writer);
    let [ApplyInput::Entries(committed)] = &afterwards[..] else { panic!("{afterwards:?}") };
    let verdict = committed[0].verdict.as_ref().expect("a verdict on a request to the member list");
    assert_eq!(verdict.outcome, Ok(()));
    assert_eq!(verdict.members.get(MemberId(77)).map(|late| late.name.as_str()), Some("late"));
}
