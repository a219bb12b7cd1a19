//! What happens in a member, for people who follow it: elections, changes of the configuration, replication.
//!
//! Invariants: only what happened is told; a member that nobody observes makes no events; an observer never holds the
//! member up: what finds no room is counted, and the count is told in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use quorate_ids::{LogIndex, MemberId, Term};

use crate::membership::Member;

/// A member of the cluster, as an event names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub id: MemberId,
    /// Empty until it is known.
    pub name: String,
    /// `host:port` of its first peer URL; empty where it has none.
    pub address: String,
    pub is_learner: bool,
    /// A learner that will be a voter once it has caught up.
    pub wants_vote: bool,
}

impl Peer {
    pub(crate) fn of(member: &Member) -> Self {
        let url = member.peer_urls.first().map_or("", String::as_str);
        let address = url.split_once("://").map_or(url, |(_, address)| address);
        Self {
            id: member.id,
            name: member.name.clone(),
            address: address.to_owned(),
            is_learner: member.is_learner,
            wants_vote: member.wants_vote,
        }
    }
}

/// What a change of the configuration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigurationChange {
    AddVoter,
    AddLearner,
    Promote,
    Demote,
    Remove,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What the member's data held when it was opened. Nobody: it was new.
    InitialConfiguration {
        index: LogIndex,
        servers: Vec<Peer>,
    },
    /// This member follows: nobody yet, or this leader.
    Follower {
        leader: Option<Peer>,
    },
    /// No leader was heard of in time (`again`: nor did the last election give one).
    ElectionTimeout {
        last_leader: Option<Peer>,
        again: bool,
    },
    /// This member stands for election.
    Candidate {
        term: Term,
    },
    VotesNeeded {
        needed: usize,
    },
    VoteGranted {
        from: Peer,
        term: Term,
        tally: usize,
    },
    VoteRefused {
        from: Peer,
        term: Term,
    },
    ElectionWon {
        tally: usize,
    },
    Leader {
        term: Term,
    },
    /// As leader: a change entered the log, and the servers once it counts.
    UpdatingConfiguration {
        change: ConfigurationChange,
        server: Peer,
        servers: Vec<Peer>,
    },
    /// As leader: from now on entries are sent to this member.
    AddedPeer {
        peer: Peer,
    },
    /// As leader: no entries are sent to this member any more.
    RemovedPeer {
        peer: Peer,
        last: LogIndex,
    },
    /// As leader: a member lacks what the entries sent to it stand on; it is sent older ones, from `next` on.
    AppendRejected {
        peer: Peer,
        next: LogIndex,
    },
    /// As leader: a member's log agrees, and entries are sent ahead of its acknowledgements.
    Pipelining {
        peer: Peer,
    },
    /// As follower: the leader's entries stand on one that this log does not reach to.
    PreviousMissing {
        previous: LogIndex,
        last: LogIndex,
    },
    /// As follower: the leader's entries stand on one of another term.
    PreviousDiffers {
        previous: LogIndex,
        ours: Term,
        theirs: Term,
    },
    /// So many events were left out here.
    Lost {
        count: u64,
    },
}

/// The member's end: given to it with [`crate::Config::observer`].
#[derive(Clone, Debug)]
pub struct Observer {
    sender: SyncSender<Event>,
    lost: Arc<AtomicU64>,
}

/// The other end.
#[derive(Debug)]
pub struct Events {
    receiver: Receiver<Event>,
    lost: Arc<AtomicU64>,
}

/// An observer and its events, of which at most `waiting_max` wait.
#[must_use]
pub fn observer(waiting_max: usize) -> (Observer, Events) {
    let (sender, receiver) = sync_channel(waiting_max);
    let lost = Arc::new(AtomicU64::new(0));
    (Observer { sender, lost: lost.clone() }, Events { receiver, lost })
}

impl Observer {
    /// Hands an event over, for whoever follows.
    pub fn tell(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Events {
    /// Waits for the next event. `None`: every member that this observer was given to is gone.
    pub fn wait(&self) -> Option<Event> {
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => self.receiver.recv().ok(),
            // They are told before what still waits: the queue was full of older ones, and order among all is lost.
            count => Some(Event::Lost { count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_the_member_is_not_held_up() {
        let (observer, events) = observer(2);
        for needed in 1..=5 {
            observer.tell(Event::VotesNeeded { needed });
        }
        assert_eq!(events.wait(), Some(Event::Lost { count: 3 }));
        assert_eq!(events.wait(), Some(Event::VotesNeeded { needed: 1 }));
        assert_eq!(events.wait(), Some(Event::VotesNeeded { needed: 2 }));
        drop(observer);
        assert_eq!(events.wait(), None);
    }
}
