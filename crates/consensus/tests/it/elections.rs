//! Elections and plain replication.

use quorate_consensus::Role;

use crate::network::Network;

#[test]
fn three_members_elect_a_leader_by_ticks_and_replicate() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.ticks(40);
    let leader = network.leader().expect("somebody leads");
    network.propose(leader, "a");
    network.propose(leader, "b");
    network.run();
    for member in network.members.values() {
        assert_eq!(member.commands, ["a", "b"]);
        assert_eq!(member.consensus.status().leader.unwrap().0, leader);
    }
}

#[test]
fn the_same_seed_gives_the_same_election() {
    let run = || {
        let mut network = Network::founding(&[1, 2, 3]);
        network.ticks(40);
        network.trace
    };
    assert_eq!(run(), run());
}

#[test]
fn a_single_member_leads_itself() {
    let mut network = Network::founding(&[7]);
    network.ticks(25);
    assert_eq!(network.member(7).consensus.status().role, Role::Leader);
    network.propose(7, "alone");
    network.run();
    assert_eq!(network.member(7).commands, ["alone"]);
}

#[test]
fn a_member_back_from_a_partition_does_not_disturb() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    let term = network.member(1).consensus.status().term;
    network.isolate(3);
    network.ticks(60);
    assert_eq!(network.member(3).consensus.status().term, term, "it asks, it does not raise its term");
    network.heal();
    network.ticks(5);
    assert_eq!(network.leader(), Some(1));
    assert_eq!(network.member(1).consensus.status().term, term);
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.isolate(1);
    network.ticks(21);
    assert_ne!(network.member(1).consensus.status().role, Role::Leader);
}
