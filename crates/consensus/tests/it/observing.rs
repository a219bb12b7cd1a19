//! What is told of elections and of followers that are brought up to date.

use quorate_consensus::{Config, Observation, Restored, Role};
use quorate_ids::LogIndex;

use crate::network::{Network, id, members};

fn observed(voters: &[u64]) -> Network {
    let mut network = Network::default();
    let membership = members(voters, &[]);
    for voter in voters {
        let config = Config { observe: true, ..Config::new(id(*voter), 1) };
        network.start(config, Restored::founding(membership.clone()));
    }
    network
}

fn told(network: &mut Network, number: u64) -> Vec<Observation> {
    network.consensus(number).take_observations()
}

#[test]
fn a_member_alone_tells_its_whole_election() {
    let mut network = observed(&[7]);
    network.ticks(25);
    let term = network.member(7).consensus.status().term;
    assert_eq!(
        told(&mut network, 7),
        [
            Observation::ElectionTimeout { last_leader: None, again: false },
            Observation::Candidate { term },
            Observation::VotesNeeded { needed: 1 },
            Observation::VoteGranted { from: id(7), term, tally: 1 },
            Observation::ElectionWon { tally: 1 },
            Observation::Leader { term },
        ]
    );
    network.ticks(5);
    assert_eq!(told(&mut network, 7), [], "nothing happens, nothing is told");
}

#[test]
fn three_members_tell_who_voted_and_whom_they_follow() {
    let mut network = observed(&[1, 2, 3]);
    network.elect(1);
    let term = network.member(1).consensus.status().term;
    let leader = told(&mut network, 1);
    assert_eq!(leader[0], Observation::Candidate { term });
    assert_eq!(leader[1], Observation::VotesNeeded { needed: 2 });
    assert_eq!(leader[2], Observation::VoteGranted { from: id(1), term, tally: 1 });
    assert!(matches!(leader[3], Observation::VoteGranted { tally: 2, .. }), "{leader:?}");
    assert_eq!(leader[4], Observation::ElectionWon { tally: 2 });
    assert_eq!(leader[5], Observation::Leader { term });
    assert!(leader.contains(&Observation::Pipelining { peer: id(2) }), "{leader:?}");
    let follower = told(&mut network, 2);
    assert_eq!(follower, [Observation::Follower { leader: Some(id(1)) }]);
}

#[test]
fn a_leader_that_dies_is_named_as_the_last_one() {
    let mut network = observed(&[1, 2, 3]);
    network.elect(1);
    for number in 1..=3 {
        told(&mut network, number);
    }
    network.isolate(1);
    network.ticks(60);
    let leader = network.leader().expect("a new one");
    let events = told(&mut network, leader);
    assert_eq!(events[0], Observation::ElectionTimeout { last_leader: Some(id(1)), again: false });
    assert_eq!(network.member(leader).consensus.status().role, Role::Leader);
}

#[test]
fn a_follower_that_lacks_entries_and_its_leader_tell_of_it() {
    let mut network = observed(&[1, 2, 3]);
    network.elect(1);
    network.isolate(3);
    for command in ["a", "b", "c"] {
        network.propose(1, command);
        network.run();
    }
    network.ticks(1);
    told(&mut network, 1);
    told(&mut network, 3);
    network.heal();
    // The next entry stands on ones that the third member never got.
    network.propose(1, "d");
    network.run();
    network.ticks(3);
    let last = network.member(1).consensus.status().last_index;
    assert_eq!(network.member(3).consensus.status().last_index, last);
    let follower = told(&mut network, 3);
    let missing = |event: &Observation| matches!(event, Observation::PreviousMissing { previous, last } if previous > last);
    assert!(follower.iter().any(missing), "{follower:?}");
    let leader = told(&mut network, 1);
    let rejected = |event: &Observation| matches!(event, Observation::AppendRejected { peer, next } if *peer == id(3) && *next <= last);
    let at = leader.iter().position(rejected).unwrap_or_else(|| panic!("{leader:?}"));
    assert!(leader[at..].contains(&Observation::Pipelining { peer: id(3) }), "{leader:?}");
}

#[test]
fn nobody_listens_and_nothing_is_kept() {
    let mut network = Network::founding(&[1]);
    network.ticks(25);
    assert_eq!(told(&mut network, 1), []);
}

#[test]
fn the_log_is_read_within_bounds_and_from_where_it_still_is() {
    let mut network = observed(&[1]);
    network.elect(1);
    for command in ["a", "b", "c", "d"] {
        network.propose(1, command);
        network.run();
    }
    let read = |network: &mut Network, from: u64, count: usize| -> Vec<u64> {
        let entries = network.consensus(1).entries_from(LogIndex(from), count, 1 << 20);
        entries.iter().map(|entry| entry.index.0).collect()
    };
    let last = network.member(1).consensus.status().last_index.0;
    assert_eq!(read(&mut network, 0, 100).last(), Some(&last));
    assert_eq!(read(&mut network, last - 1, 1), [last - 1]);
    assert_eq!(read(&mut network, last + 1, 5), [0_u64; 0]);
    assert_eq!(read(&mut network, u64::MAX, usize::MAX), [0_u64; 0]);
    network.member_mut(1).compact();
    assert_eq!(read(&mut network, 0, 100), [0_u64; 0], "it is compacted away");
}
