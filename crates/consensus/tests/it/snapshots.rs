//! Followers that need what the leader's log no longer has.

use quorate_ids::LogIndex;

use crate::network::{Network, id};

#[test]
fn a_lagging_follower_gets_a_snapshot_and_then_the_log() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.isolate(3);
    network.propose(1, "a");
    network.run();
    let mut restarted = Network::founding(&[1]);
    restarted.elect(1);
    restarted.propose(1, "x");
    restarted.run();
    restarted.restart(1);
    restarted.ticks(25);
    assert_eq!(
        restarted.member(1).commands,
        ["x"],
        "committed entries after the checkpoint are applied again"
    );
    network.member_mut(1).compact();
    network.propose(1, "b");
    network.run();
    network.heal();
    network.ticks(2);
    let third = network.member(3);
    assert_eq!(third.commands, ["b"], "a came with the snapshot");
    assert_eq!(third.disk.compacted.0, LogIndex(3));
    assert_eq!(third.consensus.status().commit, network.member(1).consensus.status().commit);
}

#[test]
fn a_joiner_waits_for_a_snapshot_that_knows_it() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.joining(4);
    let change = quorate_consensus::MembershipChange::AddLearner(id(4));
    network.consensus(1).propose_membership(change, "four".into()).unwrap();
    network.run();
    network.ticks(2);
    assert!(network.member(1).snapshots_wanted.contains(&id(4)), "no snapshot to offer yet");
    assert!(network.member(4).consensus.membership().is_empty());
    network.member_mut(1).compact();
    network.ticks(2);
    assert!(network.member(4).consensus.membership().is_learner(id(4)));
    network.propose(1, "a");
    network.run();
    assert_eq!(network.member(4).commands, ["a"]);
}

#[test]
fn a_snapshot_stepped_a_term_later_is_installed_and_answered_to_the_new_leader() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.isolate(3);
    network.propose(1, "a");
    network.run();
    network.member_mut(1).compact();
    network.member_mut(2).compact();
    network.member_mut(3).hold_snapshots = true;
    network.heal();
    network.ticks(2);
    let held = network.member_mut(3).held.pop().expect("its data is being fetched");
    network.consensus(1).transfer_leadership(id(2)).unwrap();
    network.run();
    assert_eq!(network.leader(), Some(2));
    network.consensus(3).step(held.clone()).unwrap();
    network.run();
    assert_eq!(network.member(3).disk.compacted.0, LogIndex(3));
    network.propose(2, "b");
    network.ticks(2);
    assert_eq!(network.member(3).commands, ["b"]);
    network.consensus(3).step(held).unwrap();
    let ready = network.consensus(3).ready();
    assert!(ready.is_none_or(|ready| ready.snapshot.is_none()), "the second time it is no news");
}
