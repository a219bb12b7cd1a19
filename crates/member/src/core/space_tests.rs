//! Disks get full: what is refused, by whom, and what the leader keeps for those that refuse entries.

use bytes::Bytes;
use quorate_consensus::Membership;
use quorate_ids::LogIndex;
use quorate_models::{ModelId, keys};

use super::leaving_tests::{IDS, Two};
use super::tests::{TICK_NANOS, at, put};
use super::{LogInput, LogOutput};
use crate::frame::{SnapshotPoint, Space};
use crate::handle::RequestError;

fn delete() -> Bytes {
    let (key, end) = (Bytes::from_static(b"k"), keys::RangeEnd::Single);
    keys::encode(&keys::Command::DeleteRange(keys::DeleteRange { key, end, prev_kv: false }))
}

fn ask(two: &mut Two, me: usize, seq: u64, command: Bytes) {
    let now = at(two.ticks * TICK_NANOS);
    two.members[me].log_loop.step(LogInput::Propose { seq, model: ModelId::KEYS, command }, now);
}

fn has_space(two: &mut Two, me: usize, space: Space) {
    let now = at(two.ticks * TICK_NANOS);
    two.members[me].log_loop.step(LogInput::StoreSpace(space), now);
    (0..20).for_each(|_| two.tick());
}

#[test]
fn a_full_disk_refuses_puts_at_every_member_and_takes_deletes() {
    let (mut two, leader, follower) = Two::settled();
    // Of two, the one that has space is no majority.
    for (full, seq) in [(leader, 10), (follower, 20)] {
        has_space(&mut two, full, Space::Short);
        let before = two.committed(leader);
        for me in [leader, follower] {
            ask(&mut two, me, seq + 1, put());
            ask(&mut two, me, seq + 2, delete());
        }
        (0..20).for_each(|_| two.tick());
        let mut refused = std::mem::take(&mut two.refused);
        refused.sort_by_key(|(me, ..)| *me);
        assert_eq!(refused, [0, 1].map(|me| (me, seq + 1, RequestError::NoSpace)));
        assert_eq!(two.committed(leader), before + 2, "deletes went through");
        has_space(&mut two, full, Space::Enough);
        ask(&mut two, follower, seq + 3, put());
        (0..20).for_each(|_| two.tick());
        assert_eq!((two.committed(leader), two.refused.len()), (before + 3, 0), "puts are taken again");
    }
}

#[test]
fn a_member_that_lacks_room_for_its_snapshot_counts_as_full_until_it_caught_up() {
    let (mut two, leader, follower) = Two::settled();
    let next = LogIndex(two.committed(leader) + 1);
    let point = SnapshotPoint { index: next, term: two.members[leader].log_loop.status().term };
    let now = at(two.ticks * TICK_NANOS);
    two.members[follower].log_loop.step(LogInput::SnapshotHasNoRoom { point, bytes: 2, room: 1 }, now);
    (0..20).for_each(|_| two.tick());
    assert!(two.members[follower].log_loop.status().no_space);
    ask(&mut two, leader, 1, put());
    (0..20).for_each(|_| two.tick());
    assert_eq!(std::mem::take(&mut two.refused), [(leader, 1, RequestError::NoSpace)]);
    // Here the log brings what the snapshot would have.
    ask(&mut two, leader, 2, delete());
    (0..20).for_each(|_| two.tick());
    assert!(!two.members[follower].log_loop.status().no_space);
    ask(&mut two, leader, 3, put());
    (0..20).for_each(|_| two.tick());
    assert_eq!(two.refused, []);
}

/// What of the log goes when the leader's next checkpoint is durable.
fn released(two: &mut Two, leader: usize) -> Option<LogIndex> {
    ask(two, leader, 9, delete());
    (0..5).for_each(|_| two.tick());
    let status = two.members[leader].log_loop.status();
    let point = SnapshotPoint { index: status.applied, term: status.term };
    let membership = Membership { voters: IDS.to_vec(), learners: Vec::new() };
    let now = at(two.ticks * TICK_NANOS);
    two.members[leader].log_loop.step(LogInput::Checkpointed { point, membership }, now);
    let outputs = two.members[leader].log_loop.turn(now);
    outputs.iter().find_map(|output| match output {
        LogOutput::Write(batch) => batch.release,
        _ => None,
    })
}

#[test]
fn for_a_member_that_takes_no_entries_the_leader_keeps_no_log_beyond_its_checkpoint() {
    let mut two = Two::founded_with(|_, config| config.log_loop.log_retained_bytes = 1 << 20);
    two.until("a leader that committed in its term", |two| {
        two.leader().is_some_and(|at| two.committed(at) > 1)
    });
    let leader = two.leader().expect("a leader");
    (0..20).for_each(|_| two.tick());
    let kept = released(&mut two, leader);
    assert!(kept.is_none_or(|through| through <= LogIndex(1)), "what little there is stays: {kept:?}");
    let mut two = Two::founded_with(|_, config| config.log_loop.log_retained_bytes = 1 << 20);
    two.until("a leader that committed in its term", |two| {
        two.leader().is_some_and(|at| two.committed(at) > 1)
    });
    let leader = two.leader().expect("a leader");
    has_space(&mut two, 1 - leader, Space::Last);
    let kept = released(&mut two, leader);
    assert_eq!(kept, Some(LogIndex(two.committed(leader))), "it can only be helped by a snapshot");
}
