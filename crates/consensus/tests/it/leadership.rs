//! What a leader does and refuses: membership, hand-over, reads, restarts, acknowledgements that cannot be.

use bytes::Bytes;
use quorate_consensus::{
    Config, Consensus, MembershipChange, Message, ProposeError, ReadOutcome, Restored, Role, StartError,
    StepError,
};
use quorate_ids::LogIndex;

use crate::network::{Network, id, members};
use crate::wire;

#[test]
fn a_follower_names_the_leader_instead_of_forwarding() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    let refused = network.consensus(2).propose(Bytes::from_static(b"x"));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(id(1)) }));
}

#[test]
fn a_removed_leader_steps_down_when_its_removal_is_applied() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.consensus(1).propose_membership(MembershipChange::Remove(id(1)), Bytes::new()).unwrap();
    network.run();
    assert_eq!(network.member(1).consensus.status().role, Role::Follower);
    assert_eq!(network.member(1).consensus.membership(), members(&[2, 3], &[]));
    network.ticks(60);
    assert!(matches!(network.leader(), Some(2 | 3)), "the others elect one of them");
    assert!(!network.consensus(1).campaign(), "it is no voter any more");
}

#[test]
fn one_change_at_a_time_and_a_rejected_one_changes_nothing() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.members.values_mut().for_each(|member| member.rejects_membership = true);
    let add = MembershipChange::AddLearner(id(4));
    network.consensus(1).propose_membership(add, Bytes::new()).unwrap();
    let second = network.consensus(1).propose_membership(add, Bytes::new());
    assert!(matches!(second, Err(ProposeError::MembershipPending { .. })), "{second:?}");
    network.run();
    assert_eq!(network.member(2).consensus.membership(), members(&[1, 2, 3], &[]));
    assert!(network.consensus(1).propose_membership(add, Bytes::new()).is_ok(), "the next may follow");
}

#[test]
fn a_leader_with_a_stalled_disk_hands_on_what_it_could_not_persist() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    network.member_mut(1).stalled = true;
    network.propose(1, "a");
    network.consensus(1).transfer_leadership(id(2)).unwrap();
    let refused = network.consensus(1).propose(Bytes::from_static(b"b"));
    assert_eq!(refused, Err(ProposeError::Transferring { to: id(2) }));
    network.run();
    assert_eq!(network.member(2).consensus.status().role, Role::Leader);
    assert_eq!(network.member(2).commands, ["a"]);
    network.member_mut(1).stalled = false;
    network.ticks(2);
    assert_eq!(network.member(1).commands, ["a"], "it applies once its own disk has it");
}

#[test]
fn a_read_before_the_terms_first_commit_is_refused_and_any_member_may_read_after_it() {
    let mut network = Network::founding(&[1, 2, 3]);
    assert_eq!(network.consensus(2).read_index(1), ReadOutcome::NoLeader);
    network.elect(1);
    network.propose(1, "a");
    network.run();
    assert_eq!(network.consensus(1).read_index(1), ReadOutcome::Started);
    assert_eq!(network.consensus(2).read_index(1), ReadOutcome::Started, "the same number of another member");
    network.run();
    assert_eq!(network.member(1).reads, [(1, LogIndex(3))]);
    assert_eq!(network.member(2).reads, [(1, LogIndex(3))]);
    let mut alone = Network::founding(&[7]);
    assert!(alone.consensus(7).campaign());
    assert_eq!(
        alone.consensus(7).read_index(1),
        ReadOutcome::NoCommitInTerm,
        "its first entry is not durable"
    );
    alone.run();
    assert_eq!(alone.consensus(7).read_index(2), ReadOutcome::Started);
    alone.run();
    assert_eq!(alone.member(7).reads, [(2, LogIndex(2))], "the refused one is never answered");
}

#[test]
fn a_sole_voter_keeps_its_messages_until_its_vote_is_durable() {
    let disk = Restored::founding(members(&[1], &[2]));
    let mut leader = Consensus::new(Config::new(id(1), 1), disk).unwrap();
    assert!(leader.campaign());
    let ready = leader.ready().unwrap();
    assert_eq!(leader.status().role, Role::Leader);
    assert!(ready.messages.is_empty() && !ready.persisted_messages.is_empty() && ready.must_sync);
    leader.persisted(ready.number);
    while leader.ready().is_some() {}
    leader.propose(Bytes::from_static(b"x")).unwrap();
    assert!(leader.ready().unwrap().persisted_messages.is_empty(), "now they may leave at once");
}

#[test]
fn a_vote_survives_a_restart() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    let vote = network.member(2).consensus.status().vote;
    assert_eq!(vote, Some(id(1)));
    network.restart(2);
    assert_eq!(network.member(2).consensus.status().vote, vote);
}

#[test]
fn a_start_with_less_log_than_was_applied_or_committed_is_refused() {
    let start = |disk| Consensus::new(Config::new(id(1), 1), disk).err();
    let mut disk = Restored::founding(members(&[1, 2, 3], &[]));
    disk.applied = LogIndex(2);
    assert!(matches!(start(disk.clone()), Some(StartError::Restored(_))));
    disk.applied = LogIndex(1);
    disk.hard_state.commit = LogIndex(2);
    assert!(matches!(start(disk.clone()), Some(StartError::Restored(_))));
    disk.hard_state.commit = LogIndex(0);
    let started = Consensus::new(Config::new(id(1), 1), disk).unwrap();
    assert_eq!(started.status().commit, LogIndex(1), "what is applied is committed");
}

#[test]
fn an_acknowledgement_or_snapshot_that_cannot_be_is_refused() {
    let mut network = Network::founding(&[1, 2, 3]);
    network.elect(1);
    let (term, last) = (network.member(1).consensus.status().term.0, 2);
    let step = |network: &mut Network, to, bytes: Vec<u8>| {
        network.consensus(to).step(Message::decode(&bytes).unwrap())
    };
    let ack = step(&mut network, 1, wire::append_response(2, 1, term, last + 1, 0, None));
    assert!(matches!(ack, Err(StepError::AckBeyondLog { .. })), "{ack:?}");
    let commit = step(&mut network, 2, wire::heartbeat(8, 1, 2, term, last + 1, None));
    assert!(matches!(commit, Err(StepError::CommitBeyondLog { .. })), "{commit:?}");
    let conflict = step(&mut network, 2, wire::snapshot(1, 2, term, (last, term - 1), &[1, 2, 3], &[]));
    assert!(matches!(conflict, Err(StepError::SnapshotConflict { .. })), "{conflict:?}");
    let without = step(&mut network, 2, wire::snapshot(1, 2, term, (last + 5, term), &[1, 3], &[]));
    assert_eq!(without, Err(StepError::SnapshotWithoutMe { id: id(2) }));
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutants_do_what_they_are_named_for() {
    use quorate_consensus::Mutant;
    let mut network = Network::founding(&[1, 2, 3]);
    let config = Config { mutant: Mutant::ForgetVote, ..Config::new(id(2), 1) };
    network.start(config, network.member(2).disk.clone());
    let config = Config { mutant: Mutant::CommitWithoutQuorum, ..Config::new(id(1), 1) };
    network.start(config, network.member(1).disk.clone());
    network.elect(1);
    assert_eq!(network.member(2).disk.hard_state.vote, None, "the vote is lost on disk");
    network.isolate(1);
    network.propose(1, "a");
    network.run();
    assert_eq!(network.member(1).commands, ["a"], "committed by nobody else");
}
