//! The fronts of the leader are full: requests wait until a checkpoint makes room.

use quorate_models::{ModelId, keys};

use super::LogInput;
use super::leaving_tests::Two;
use super::tests::{TICK_NANOS, at, config};
use crate::handle::RequestError;

fn ask(two: &mut Two, me: usize, seq: u64) {
    let command = keys::encode(&keys::Command::LeaseRevoke { id: 7 });
    let now = at(two.ticks * TICK_NANOS);
    two.members[me].log_loop.step(LogInput::Propose { seq, model: ModelId::KEYS, command }, now);
}

fn fronts_are_tight(two: &mut Two, me: usize, tight: bool) {
    let now = at(two.ticks * TICK_NANOS);
    two.members[me].log_loop.step(LogInput::FrontTight(tight), now);
}

fn ticks(two: &mut Two, ticks: u64) {
    for _ in 0..ticks {
        two.tick();
    }
}

#[test]
fn requests_at_every_member_wait_for_room_and_are_done_once() {
    let (mut two, leader, follower) = Two::settled();
    let before = two.committed(leader);
    fronts_are_tight(&mut two, leader, true);
    for seq in 1..=5 {
        ask(&mut two, leader, seq);
        ask(&mut two, follower, 10 + seq);
    }
    ticks(&mut two, 50);
    assert_eq!((two.committed(leader), two.refused.len()), (before, 0));
    fronts_are_tight(&mut two, leader, false);
    ticks(&mut two, 50);
    assert_eq!((two.committed(leader), two.refused.len()), (before + 10, 0));
}

#[test]
fn a_queue_that_is_full_answers_at_once() {
    let (mut two, leader, follower) = Two::settled();
    fronts_are_tight(&mut two, leader, true);
    let room = config().log_loop.proposals_max as u64;
    for me in [leader, follower] {
        for seq in 0..room + 2 {
            ask(&mut two, me, 1 + seq);
        }
        two.tick();
        let refused = std::mem::take(&mut two.refused);
        assert_eq!(refused, [room + 1, room + 2].map(|seq| (me, seq, RequestError::Overloaded)));
    }
}

#[test]
fn what_waits_longer_than_a_request_may_is_refused_and_never_done() {
    let (mut two, leader, follower) = Two::settled();
    let before = two.committed(leader);
    fronts_are_tight(&mut two, leader, true);
    ask(&mut two, leader, 1);
    ask(&mut two, follower, 2);
    ticks(&mut two, config().log_loop.request_timeout_nanos / TICK_NANOS + 5);
    let mut refused = two.refused.clone();
    refused.sort_by_key(|(_, seq, _)| *seq);
    assert_eq!(refused, [(leader, 1, RequestError::Overloaded), (follower, 2, RequestError::Overloaded)]);
    fronts_are_tight(&mut two, leader, false);
    ticks(&mut two, 50);
    assert_eq!(two.committed(leader), before);
}

#[test]
fn reads_at_a_member_that_takes_no_entries_for_now_are_answered() {
    let (mut two, leader, follower) = Two::settled();
    for lagging in [follower, leader] {
        fronts_are_tight(&mut two, lagging, true);
        let now = at(two.ticks * TICK_NANOS);
        two.members[follower].log_loop.step(LogInput::Read { seq: 1 }, now);
        // A round that was lost would be tried again after half an election timeout.
        ticks(&mut two, 3);
        assert_eq!(std::mem::take(&mut two.read), [(follower, 1)]);
        fronts_are_tight(&mut two, lagging, false);
    }
}
