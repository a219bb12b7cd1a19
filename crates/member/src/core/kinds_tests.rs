//! A cluster whose members do not all run the same version: what not all of them know is in no log.

use bytes::Bytes;
use quorate_models::{ModelId, keys};

use super::LogInput;
use super::leaving_tests::{IDS, Two};
use super::tests::{TICK_NANOS, at};
use crate::handle::RequestError;
use crate::kinds::{Kinds, Level, Row};

const OLD: Level = Level::BASE;
const NEW: Level = Level(2);

/// As if the grant of a lease were a new kind.
static TABLE: [Row; 4] = [
    Row { model: ModelId::KEYS, first: 1, last: 4, version: 1, since: OLD },
    Row { model: ModelId::KEYS, first: 5, last: 5, version: 1, since: NEW },
    Row { model: ModelId::KEYS, first: 6, last: 10, version: 1, since: OLD },
    Row { model: ModelId::MEMBER, first: 1, last: 8, version: 1, since: OLD },
];

fn two_of(levels: [Level; 2]) -> Two {
    let mut two = Two::founded_with(|member, config| {
        let own = if member == IDS[0] { levels[0] } else { levels[1] };
        config.log_loop.kinds = Kinds { table: &TABLE, own };
    });
    two.until("a leader that committed in its term", |two| {
        two.leader().is_some_and(|at| two.committed(at) > 1)
    });
    for _ in 0..20 {
        two.tick();
    }
    two
}

fn ask(two: &mut Two, me: usize, seq: u64, command: Bytes) {
    let now = at(two.ticks * TICK_NANOS);
    two.members[me].log_loop.step(LogInput::Propose { seq, model: ModelId::KEYS, command }, now);
}

fn grant() -> Bytes {
    keys::encode(&keys::Command::LeaseGrant { id: 7, ttl_seconds: 60 })
}

fn revoke() -> Bytes {
    keys::encode(&keys::Command::LeaseRevoke { id: 7 })
}

#[test]
fn a_kind_that_one_member_does_not_know_is_refused_whoever_is_asked_and_whoever_leads() {
    for levels in [[OLD, NEW], [NEW, OLD]] {
        let mut two = two_of(levels);
        let before = two.committed(0);
        for me in [0, 1] {
            ask(&mut two, me, 10 + me as u64, grant());
            ask(&mut two, me, 20 + me as u64, revoke());
        }
        two.until("what both know goes on", |two| [0, 1].iter().all(|me| two.committed(*me) >= before + 2));
        two.until("the others are refused", |two| two.refused.len() == 2);
        let mut refused = two.refused.clone();
        refused.sort_by_key(|(me, ..)| *me);
        assert_eq!(refused, [(0, 10, RequestError::TooNew), (1, 11, RequestError::TooNew)]);
        for _ in 0..50 {
            two.tick();
        }
        assert_eq!(two.committed(0), before + 2, "nothing else is in the log");
        assert!(two.members.iter().all(|member| member.log_loop.status().failed.is_none()));
    }
}

#[test]
fn a_kind_that_all_know_is_taken_and_not_while_it_is_not_known_who_runs_what() {
    let mut two = two_of([NEW, NEW]);
    let leader = two.leader().expect("a leader");
    let before = two.committed(leader);
    ask(&mut two, 1 - leader, 1, grant());
    two.until("it is committed", |two| two.committed(leader) == before + 1);
    assert_eq!(two.refused, []);
    // The other one may come back with an older program.
    let now = at(two.ticks * TICK_NANOS);
    two.members[leader].log_loop.step(LogInput::Unreachable { to: IDS[1 - leader] }, now);
    ask(&mut two, leader, 2, grant());
    two.until("it is refused", |two| two.refused == [(leader, 2, RequestError::TooNew)]);
    // It says its level again and again.
    for _ in 0..100 {
        two.tick();
    }
    ask(&mut two, leader, 3, grant());
    two.until("it is committed", |two| two.committed(leader) == before + 2);
}
