//! What happens inside consensus, told to whoever follows it: elections as they go, and how followers are brought up to
//! date. Nothing here decides anything.
//!
//! Invariants: without [`crate::Config::observe`] nothing is noted and nothing is compared; an observation is made from
//! the state before a call and after it, so that none tells what did not happen; at most [`OBSERVATIONS_MAX`] wait, and
//! how many were left out is told.

use quorate_ids::{LogIndex, MemberId, Term};
use raft::{GetEntriesContext, ProgressState, StateRole, Storage};

use crate::consensus::Consensus;
use crate::entry::{Entry, member};
use crate::message::{Message, MessageKind};

/// Observations that may wait to be taken.
pub const OBSERVATIONS_MAX: usize = 4096;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// No leader was heard of for an election timeout (`again`: nor did the last election give one).
    ElectionTimeout {
        last_leader: Option<MemberId>,
        again: bool,
    },
    /// This member stands for election.
    Candidate {
        term: Term,
    },
    /// Votes that a candidate needs.
    VotesNeeded {
        needed: usize,
    },
    /// A vote for this member, with all that it has now. Its own is the first.
    VoteGranted {
        from: MemberId,
        term: Term,
        tally: usize,
    },
    /// A vote that this candidate asked for and did not get.
    VoteRefused {
        from: MemberId,
        term: Term,
    },
    ElectionWon {
        tally: usize,
    },
    Leader {
        term: Term,
    },
    /// This member follows: nobody yet, or a leader that it did not follow before.
    Follower {
        leader: Option<MemberId>,
    },
    /// As leader: a follower lacks what the entries sent to it stand on; it is sent older ones, from `next` on.
    AppendRejected {
        peer: MemberId,
        next: LogIndex,
    },
    /// As leader: a follower's log agrees, and entries are sent ahead of its acknowledgements.
    Pipelining {
        peer: MemberId,
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
    /// So many observations were left out here.
    Lost {
        count: u64,
    },
}

/// Observations that wait to be taken.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    waiting: Vec<Observation>,
    lost: u64,
    /// Whom this member follows is told with the first entries from there: its log holds none yet.
    held: bool,
}

/// What is compared with what is after a call.
pub(crate) struct Before {
    state: StateRole,
    term: u64,
    leader: u64,
    granted: usize,
    /// The voter whose answer the call brings, and whether it is a yes.
    vote: Option<(MemberId, bool)>,
    /// The follower whose answer the call brings.
    follower: Option<(MemberId, ProgressState, u64)>,
    refusal: Option<Observation>,
    /// The call is about a heartbeat.
    heartbeat: bool,
    /// The call is about entries or a snapshot from a leader.
    entries: bool,
}

impl Consensus {
    /// Whether observations are made.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.config.observe
    }

    /// What happened since the last call, in order.
    pub fn take_observations(&mut self) -> Vec<Observation> {
        let mut waiting = std::mem::take(&mut self.observed.waiting);
        let lost = std::mem::take(&mut self.observed.lost);
        if lost > 0 {
            waiting.push(Observation::Lost { count: lost });
        }
        waiting
    }

    fn note(&mut self, observation: Observation) {
        if self.observed.waiting.len() < OBSERVATIONS_MAX {
            self.observed.waiting.push(observation);
        } else {
            self.observed.lost += 1;
        }
    }

    /// To be called before a call that may change something, with the message that it is about.
    pub(crate) fn before(&self, message: Option<&Message>) -> Option<Before> {
        if !self.config.observe {
            return None;
        }
        let raft = &self.node.raft;
        let (mut vote, mut follower, mut refusal) = (None, None, None);
        if let Some(message) = message {
            let m = message.raft();
            match message.kind() {
                MessageKind::RequestVoteResponse
                    if raft.state == StateRole::Candidate && m.term == raft.term =>
                {
                    vote = Some((message.from(), !m.reject));
                }
                MessageKind::AppendResponse if raft.state == StateRole::Leader => {
                    let progress = raft.prs().get(m.from);
                    follower = progress.map(|pr| (message.from(), pr.state, pr.next_idx));
                }
                MessageKind::Append if m.term >= raft.term => refusal = self.missing(m.index, m.log_term),
                _ => {}
            }
        }
        let granted = raft.prs().tally_votes().0;
        let kind = message.map(Message::kind);
        Some(Before {
            state: raft.state,
            term: raft.term,
            leader: raft.leader_id,
            granted,
            vote,
            follower,
            refusal,
            heartbeat: kind == Some(MessageKind::Heartbeat),
            entries: matches!(kind, Some(MessageKind::Append | MessageKind::Snapshot)),
        })
    }

    /// Why entries that stand on this one can't be appended, if so.
    fn missing(&self, previous: u64, log_term: u64) -> Option<Observation> {
        let raft_log = &self.node.raft.raft_log;
        let last = raft_log.last_index();
        if previous > last {
            return Some(Observation::PreviousMissing { previous: LogIndex(previous), last: LogIndex(last) });
        }
        let ours = raft_log.term(previous).ok()?;
        (previous > raft_log.committed && ours != log_term).then_some(Observation::PreviousDiffers {
            previous: LogIndex(previous),
            ours: Term(ours),
            theirs: Term(log_term),
        })
    }

    /// To be called after the call. `timed_out`: it was a tick with which an election timeout ended.
    pub(crate) fn compare(&mut self, before: Option<Before>, timed_out: bool) {
        let Some(before) = before else { return };
        if let Some(refusal) = before.refusal {
            self.note(refusal);
        }
        self.compare_follower(&before);
        let raft = &self.node.raft;
        let (state, term, leader) = (raft.state, Term(raft.term), raft.leader_id);
        if timed_out && state != StateRole::Follower {
            let again = before.state != StateRole::Follower;
            self.note(Observation::ElectionTimeout { last_leader: member(before.leader), again });
        }
        let mut tally = before.granted;
        if term.0 > before.term && matches!(state, StateRole::Candidate | StateRole::Leader) {
            self.note(Observation::Candidate { term });
            let needed = self.membership().voters.len() / 2 + 1;
            self.note(Observation::VotesNeeded { needed });
            tally = 1;
            self.note(Observation::VoteGranted { from: self.config.id, term, tally });
        }
        if let Some((from, yes)) = before.vote {
            // A winner has counted, and forgotten, all votes.
            let counted = state == StateRole::Leader || self.node.raft.prs().tally_votes().0 > before.granted;
            if !yes {
                self.note(Observation::VoteRefused { from, term });
            } else if counted {
                tally = before.granted + 1;
                self.note(Observation::VoteGranted { from, term, tally });
            }
        }
        match state {
            StateRole::Leader if before.state != StateRole::Leader => {
                self.note(Observation::ElectionWon { tally });
                self.note(Observation::Leader { term });
            }
            StateRole::Follower
                if before.state != StateRole::Follower || (leader != before.leader && leader != 0) =>
            {
                // A newcomer: why its leader has to send older entries comes first.
                let log = &self.node.raft.raft_log;
                self.observed.held = before.heartbeat && leader != 0 && log.last_index() < log.first_index();
                if !self.observed.held {
                    self.note(Observation::Follower { leader: member(leader) });
                }
            }
            StateRole::Follower if self.observed.held && before.entries => {
                self.observed.held = false;
                self.note(Observation::Follower { leader: member(leader) });
            }
            _ => {}
        }
    }

    fn compare_follower(&mut self, before: &Before) {
        let Some((peer, state, next)) = before.follower else { return };
        let Some(now) = self.node.raft.prs().get(peer.0) else { return };
        let (state_now, next_now) = (now.state, now.next_idx);
        if next_now < next {
            self.note(Observation::AppendRejected { peer, next: LogIndex(next_now) });
        }
        if state != ProgressState::Replicate && state_now == ProgressState::Replicate {
            self.note(Observation::Pipelining { peer });
        }
    }

    /// Entries from `from` on, as far as they are still in memory: at most `entries_max`, of about `bytes_max` bytes.
    #[must_use]
    pub fn entries_from(&self, from: LogIndex, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let log = self.node.store();
        let low = from.0.max(log.compacted().0 + 1);
        let high = (log.last() + 1).min(low.saturating_add(entries_max as u64));
        if low >= high {
            return Vec::new();
        }
        let found = log.entries(low, high, Some(bytes_max as u64), GetEntriesContext::empty(false));
        found.unwrap_or_default().iter().map(Entry::from_raft).collect()
    }
}
