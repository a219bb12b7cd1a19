//! The situations that Raft's paper and its implementations are known for: entries of earlier terms, conflicting tails,
//! learners, changes of membership at the start of a term, and what happens at each bound.

use bytes::Bytes;
use quorate_consensus::{
    Config, MembershipChange, Message, MessageKind, ProposeError, ReadOutcome, Restored, Role, StepError,
};
use quorate_ids::LogIndex;

use crate::network::{Network, id, members};
use crate::wire;

const MIB: usize = 1024 * 1024;

fn founding_with(voters: &[u64], set: impl Fn(&mut Config)) -> Network {
    let mut network = Network::default();
    for voter in voters {
        let mut config = Config::new(id(*voter), 1);
        set(&mut config);
        network.start(config, Restored::founding(members(voters, &[])));
    }
    network
}

/// One step of everything: readies, disks, one message. False when nothing moved.
fn step(network: &mut Network) -> bool {
    let mut moved = false;
    for member in network.members.keys().copied().collect::<Vec<_>>() {
        moved |= network.handle_readies(member);
        moved |= network.sync(member);
    }
    network.deliver_one() || moved
}

/// Ticks until `number` leads, and stops in that very moment: nothing of its term has reached anybody.
fn until_it_leads(network: &mut Network, number: u64) {
    for _ in 0..200 {
        network.members.values_mut().for_each(|member| member.consensus.tick());
        loop {
            if network.member(number).consensus.status().role == Role::Leader {
                return;
            }
            if !step(network) {
                break;
            }
        }
    }
    panic!("member {number} never leads");
}

#[test]
fn an_entry_of_an_earlier_term_on_a_majority_is_not_committed_before_one_of_the_leaders_own_term() {
    // One entry in each append, so that there is a moment between the old entry and the new one.
    let mut network = founding_with(&[1, 2, 3], |config| config.message_bytes_max = 1);
    network.elect(1);
    network.isolate(1);
    network.propose(1, "old");
    network.run();
    [1, 2, 3].into_iter().for_each(|member| network.restart(member));
    assert_eq!(network.member(1).consensus.status().last_index, LogIndex(3));
    assert_eq!(network.member(2).consensus.status().last_index, LogIndex(2), "only member 1 has the entry");
    network.heal();
    assert!(network.consensus(1).campaign());
    until_it_leads(&mut network, 1);
    let mut old_on_a_majority = 0;
    loop {
        let status = network.member(1).consensus.status();
        let have = status.progress.values().filter(|follower| follower.matched == LogIndex(3)).count();
        old_on_a_majority += usize::from(have > 0 && status.commit == LogIndex(2));
        assert_ne!(status.commit, LogIndex(3), "committed by counting copies of an earlier term's entry");
        if !step(&mut network) {
            break;
        }
    }
    assert!(old_on_a_majority > 0, "the moment that this is about came");
    assert_eq!(network.member(1).consensus.status().commit, LogIndex(4), "its own entry commits both");
    network.ticks(2);
    for member in network.members.values() {
        assert_eq!(member.commands, ["old"]);
    }
}

#[test]
fn a_tail_that_was_never_committed_gives_way_to_the_new_leaders_log() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.isolate(1);
    for lost in ["x", "y", "z"] {
        network.propose(1, lost);
    }
    network.run();
    network.ticks(60);
    let leader = network.leader().expect("one of the others leads");
    network.propose(leader, "a");
    network.run();
    network.heal();
    network.ticks(5);
    network.propose(leader, "b");
    network.ticks(2);
    let expected = network.member(leader).disk.entries.clone();
    assert_eq!(network.member(1).disk.entries, expected, "its disk has the leader's log and nothing else");
    assert_eq!(network.member(1).commands, ["a", "b"]);
    network.restart(1);
    network.ticks(5);
    assert_eq!(network.member(1).commands, ["a", "b"], "x, y and z do not come back with a restart");
}

#[test]
fn a_learner_does_not_count_until_it_is_promoted() {
    let mut network = Network::founding(&[1]);
    network.elect(1);
    network.joining(2);
    network.consensus(1).propose_membership(MembershipChange::AddLearner(id(2)), Bytes::new()).unwrap();
    network.run();
    network.member_mut(1).compact();
    network.ticks(3);
    assert!(!network.consensus(2).campaign(), "a learner does not stand for election");
    network.isolate(2);
    network.propose(1, "without the learner");
    network.run();
    assert_eq!(network.member(1).commands, ["without the learner"]);
    network.heal();
    network.ticks(3);
    assert_eq!(network.member(2).commands, ["without the learner"]);

    network.consensus(1).propose_membership(MembershipChange::Promote(id(2)), Bytes::new()).unwrap();
    network.ticks(3);
    assert_eq!(network.member(2).consensus.membership(), members(&[1, 2], &[]));
    network.isolate(2);
    network.propose(1, "needs both");
    network.run();
    assert_eq!(network.member(1).commands.len(), 1, "the promoted member counts");
    network.heal();
    network.ticks(3);
    assert_eq!(network.member(1).commands.len(), 2);
    assert_eq!(network.member(2).commands.len(), 2);
}

#[test]
fn a_silent_voter_is_demoted_counts_no_more_and_learns_of_it_when_it_returns() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.isolate(3);
    network.consensus(1).propose_membership(MembershipChange::Demote(id(3)), Bytes::new()).unwrap();
    network.ticks(3);
    assert_eq!(network.member(2).consensus.membership(), members(&[1, 2], &[3]));
    assert!(
        network.consensus(1).propose_membership(MembershipChange::Demote(id(3)), Bytes::new()).is_err(),
        "a learner has no vote to lose"
    );
    // It stands for election all the while; nobody has to take note.
    network.ticks(60);
    assert_eq!(network.leader(), Some(1));
    network.propose(1, "without it");
    network.run();
    assert_eq!(network.member(2).commands, ["without it"]);
    network.heal();
    network.ticks(30);
    assert_eq!(network.leader(), Some(1));
    assert_eq!(network.member(3).consensus.membership(), members(&[1, 2], &[3]));
    assert_eq!(network.member(3).commands, ["without it"]);
    assert!(!network.consensus(3).campaign(), "it does not stand for election any more");
    // Of the two that vote both are needed.
    network.isolate(2);
    network.propose(1, "needs both");
    network.run();
    assert_eq!(network.member(3).commands.len(), 1, "a demoted member does not count");
    network.heal();
    network.ticks(3);
    network.consensus(1).propose_membership(MembershipChange::Promote(id(3)), Bytes::new()).unwrap();
    network.ticks(3);
    assert_eq!(network.member(3).consensus.membership(), members(&[1, 2, 3], &[]));
    network.restart(3);
    network.ticks(5);
    assert_eq!(network.member(3).commands, ["without it", "needs both"]);
}

#[test]
fn a_new_leader_changes_no_membership_before_it_has_applied_what_it_inherited() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    // Member 2 has the change; its acknowledgement is lost, so nobody knows whether the change is committed.
    network.cut.extend([(id(2), id(1)), (id(1), id(3)), (id(3), id(1))]);
    network.consensus(1).propose_membership(MembershipChange::AddLearner(id(4)), Bytes::new()).unwrap();
    network.run();
    network.heal();
    network.isolate(1);
    until_it_leads(&mut network, 2);
    assert_eq!(network.member(2).consensus.membership(), members(&[1, 2, 3], &[]));
    let second = MembershipChange::Remove(id(1));
    let refused = network.consensus(2).propose_membership(second, Bytes::new());
    assert_eq!(refused, Err(ProposeError::MembershipPending { until: LogIndex(3) }));
    network.run();
    assert_eq!(
        network.member(2).consensus.membership(),
        members(&[1, 2, 3], &[4]),
        "the inherited one first"
    );
    network.consensus(2).propose_membership(second, Bytes::new()).expect("now it may follow");
    network.run();
    assert_eq!(network.member(3).consensus.membership(), members(&[2, 3], &[4]));
}

#[test]
fn no_append_is_larger_than_its_bound_however_much_is_proposed_in_a_turn() {
    const BYTES_MAX: usize = 1000;
    let mut network = founding_with(&[1, 2, 3], |config| config.message_bytes_max = BYTES_MAX);
    network.elect(1);
    for _ in 0..30 {
        network.propose(1, &"x".repeat(100));
    }
    network.propose(1, &"y".repeat(3 * BYTES_MAX));
    let mut appends = 0;
    loop {
        for (_, _, bytes) in &network.in_flight {
            let message = Message::decode(bytes).unwrap();
            if message.kind() == MessageKind::Append && message.entries_count() > 0 {
                appends += 1;
                assert!(
                    message.entries_bytes() <= BYTES_MAX || message.entries_count() == 1,
                    "{message:?} has {} bytes",
                    message.entries_bytes()
                );
            }
        }
        if !step(&mut network) {
            break;
        }
    }
    assert!(appends > 0);
    for member in network.members.values() {
        assert_eq!(member.commands.len(), 31, "all of it arrives, in order");
        assert_eq!(member.commands[30].len(), 3 * BYTES_MAX);
    }
}

#[test]
fn a_leader_takes_no_more_than_it_may_hold_uncommitted_until_some_of_it_is_committed() {
    let mut network = founding_with(&[1, 2, 3], |config| config.uncommitted_bytes_max = 4 * MIB);
    network.elect(1);
    network.isolate(1);
    let mebibyte = Bytes::from(vec![7; MIB]);
    for _ in 0..4 {
        network.consensus(1).propose(mebibyte.clone()).unwrap();
    }
    let refused = network.consensus(1).propose(Bytes::from_static(b"x"));
    assert_eq!(refused, Err(ProposeError::UncommittedFull { bytes: 4 * MIB }));
    network.heal();
    network.ticks(3);
    assert_eq!(network.member(2).commands.len(), 4);
    network.consensus(1).propose(mebibyte).expect("there is room again");
}

#[test]
fn a_full_log_takes_nothing_until_it_is_compacted() {
    let set = |config: &mut Config| (config.uncommitted_bytes_max, config.log_bytes_max) = (4 * MIB, 4 * MIB);
    let mut network = founding_with(&[1], set);
    network.elect(1);
    let mebibyte = Bytes::from(vec![7; MIB]);
    for _ in 0..3 {
        network.consensus(1).propose(mebibyte.clone()).unwrap();
        network.run();
    }
    let refused = network.consensus(1).propose(mebibyte.clone());
    assert!(matches!(refused, Err(ProposeError::LogFull { bytes }) if bytes > 3 * MIB), "{refused:?}");
    network.member_mut(1).compact();
    network.consensus(1).propose(mebibyte).expect("there is room again");
}

#[test]
fn reads_share_a_bounded_number_of_rounds() {
    let mut network = founding_with(&[1, 2, 3], |config| config.reads_pending_max = 2);
    network.elect(1);
    network.isolate(1);
    assert_eq!(network.consensus(1).read_index(1), ReadOutcome::Started);
    assert_eq!(network.consensus(1).read_index(2), ReadOutcome::Started);
    network.run();
    assert_eq!(network.consensus(1).read_index(3), ReadOutcome::Full);
    network.heal();
    network.ticks(2);
    assert_eq!(
        network.member(1).reads,
        [(1, LogIndex(2)), (2, LogIndex(2))],
        "the refused one is never answered"
    );
    assert_eq!(network.consensus(1).read_index(4), ReadOutcome::Started);
}

#[test]
fn votes_that_come_before_they_were_asked_for_do_not_make_a_leader() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.member_mut(1).stalled = true;
    assert!(network.consensus(1).campaign());
    let granted =
        |kind, from, term| Message::decode(&wire::vote_response(kind, from, 1, term, false, (0, 0))).unwrap();
    network.consensus(1).step(granted(6, 2, 2)).expect("its log is durable: it may stand");
    let status = network.member(1).consensus.status();
    assert_eq!((status.role, status.term.0), (Role::Candidate, 2));
    let early = network.consensus(1).step(granted(4, 3, 2));
    assert_eq!(early, Err(StepError::CannotStand), "its own vote is not durable, so it has asked nobody");
    network.run();
    assert_eq!(network.member(1).consensus.status().role, Role::Candidate);
    network.member_mut(1).stalled = false;
    network.run();
    assert_eq!(network.member(1).consensus.status().role, Role::Leader);
}

fn acks(network: &Network) -> usize {
    network.trace.iter().filter(|line| line.contains("AppendResponse")).count()
}

#[test]
fn that_a_follower_has_heard_of_a_commit_is_not_acknowledged() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.ticks(2);
    let before = acks(&network);
    network.propose(1, "a");
    network.run();
    assert_eq!(acks(&network), before + 2, "one of each follower, for the entry");
    let heard = |number: u64| network.member(number).consensus.status().commit;
    assert_eq!((heard(2), heard(3)), (heard(1), heard(1)));
}

#[test]
fn an_acknowledgement_that_was_lost_is_repeated_where_the_leader_asks_again() {
    let mut network = Network::founding(&[1, 2]);
    network.elect(1);
    let committed = network.member(1).consensus.status().commit;
    network.cut.insert((id(2), id(1)));
    network.propose(1, "a");
    network.run();
    assert_eq!(network.member(1).consensus.status().commit, committed);
    network.heal();
    network.ticks(3);
    assert_eq!(network.member(1).consensus.status().commit, committed.next());
}
