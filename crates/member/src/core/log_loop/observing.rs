//! Events for whoever follows this member, and the log for whoever reads it.

use super::*;
use crate::event::{ConfigurationChange, Event, Peer};
use crate::log_view::{LogContent, LogEntry, LogView};

/// Bytes of entries in one answer about the log, about.
const LOG_VIEW_BYTES_MAX: usize = 1 << 20;

impl LogLoop {
    pub(super) fn is_observed(&self) -> bool {
        self.consensus.is_observed()
    }

    fn tell(&mut self, event: Event) {
        self.out.push(LogOutput::Event(event));
    }

    fn peer(&self, id: MemberId) -> Peer {
        match self.members.get(id) {
            Some(member) => Peer::of(member),
            None => Peer { id, ..Peer::default() },
        }
    }

    /// Tells what consensus observed since the last call.
    pub(super) fn tell_observations(&mut self) {
        if !self.is_observed() {
            return;
        }
        for observation in self.consensus.take_observations() {
            let leads = matches!(observation, Observation::Leader { .. });
            let event = self.event(observation);
            self.tell(event);
            if leads {
                self.tell_peers();
            }
        }
    }

    /// A new leader sends to everybody else.
    fn tell_peers(&mut self) {
        let me = self.config.identity.member;
        let others: Vec<Peer> = self.members.iter().filter(|member| member.id != me).map(Peer::of).collect();
        for peer in others {
            self.tell(Event::AddedPeer { peer });
        }
    }

    fn event(&self, observation: Observation) -> Event {
        match observation {
            Observation::ElectionTimeout { last_leader, again } => {
                Event::ElectionTimeout { last_leader: last_leader.map(|id| self.peer(id)), again }
            }
            Observation::Candidate { term } => Event::Candidate { term },
            Observation::VotesNeeded { needed } => Event::VotesNeeded { needed },
            Observation::VoteGranted { from, term, tally } => {
                Event::VoteGranted { from: self.peer(from), term, tally }
            }
            Observation::VoteRefused { from, term } => Event::VoteRefused { from: self.peer(from), term },
            Observation::ElectionWon { tally } => Event::ElectionWon { tally },
            Observation::Leader { term } => Event::Leader { term },
            Observation::Follower { leader } => Event::Follower { leader: leader.map(|id| self.peer(id)) },
            Observation::AppendRejected { peer, next } => {
                Event::AppendRejected { peer: self.peer(peer), next }
            }
            Observation::Pipelining { peer } => Event::Pipelining { peer: self.peer(peer) },
            Observation::PreviousMissing { previous, last } => Event::PreviousMissing { previous, last },
            Observation::PreviousDiffers { previous, ours, theirs } => {
                Event::PreviousDiffers { previous, ours, theirs }
            }
            Observation::Lost { count } => Event::Lost { count },
        }
    }

    /// As leader: this change is in the log now.
    pub(super) fn tell_proposed(&mut self, request: &MembershipRequest) {
        if !self.is_observed() {
            return;
        }
        let (change, id) = match request {
            MembershipRequest::Add { id, is_learner: true, .. } | MembershipRequest::Join { id, .. } => {
                (ConfigurationChange::AddLearner, *id)
            }
            MembershipRequest::Add { id, is_learner: false, .. } => (ConfigurationChange::AddVoter, *id),
            MembershipRequest::Promote { id } => (ConfigurationChange::Promote, *id),
            MembershipRequest::Demote { id, .. } => (ConfigurationChange::Demote, *id),
            MembershipRequest::Remove { id } => (ConfigurationChange::Remove, *id),
            MembershipRequest::Update { .. }
            | MembershipRequest::Publish { .. }
            | MembershipRequest::Meet { .. } => return,
        };
        let mut after = self.members.clone();
        if after.judge(request).is_err() {
            return;
        }
        let server = after.get(id).map_or_else(|| self.peer(id), Peer::of);
        let servers = after.iter().map(Peer::of).collect();
        self.tell_observations();
        self.tell(Event::UpdatingConfiguration { change, server, servers });
    }

    /// This change counts now; `before` is the member that it is about, as it was.
    pub(super) fn tell_judged(&mut self, request: &MembershipRequest, before: Option<Peer>) {
        if !self.is_observed() || !self.leads() {
            return;
        }
        let me = self.config.identity.member;
        match request {
            MembershipRequest::Add { id, .. } | MembershipRequest::Join { id, .. } if *id != me => {
                let peer = self.peer(*id);
                self.tell(Event::AddedPeer { peer });
            }
            MembershipRequest::Remove { id } if *id != me => {
                let peer = before.unwrap_or_else(|| self.peer(*id));
                self.tell(Event::RemovedPeer { peer, last: self.last_index });
            }
            _ => {}
        }
    }

    /// The member that a request is about, as long as events may tell of it.
    pub(super) fn peer_of(&self, request: &MembershipRequest) -> Option<Peer> {
        match request {
            MembershipRequest::Remove { id } if self.is_observed() => Some(self.peer(*id)),
            _ => None,
        }
    }

    pub(super) fn read_log(&mut self, seq: u64, from: LogIndex, entries_max: usize) {
        let entries = self.consensus.entries_from(from, entries_max, LOG_VIEW_BYTES_MAX);
        let view = LogView {
            first: self.consensus.status().first_index,
            last: self.last_index,
            committed: self.committed,
            entries: entries.iter().map(log_entry).collect(),
        };
        self.out.push(LogOutput::AnswerLog { seq, view });
    }
}

fn log_entry(entry: &Entry) -> LogEntry {
    let content = match envelope_of(entry) {
        None => LogContent::NewTerm,
        Some(Err(reason)) => LogContent::Unknown { reason },
        Some(Ok(envelope)) if envelope.model == quorate_models::ModelId::MEMBER => {
            match MembershipRequest::decode(&envelope.command) {
                Ok(request) => LogContent::Membership(request),
                Err(error) => LogContent::Unknown { reason: error.to_string() },
            }
        }
        Some(Ok(envelope)) => LogContent::Command { model: envelope.model, command: envelope.command },
    };
    LogEntry { index: entry.index, term: entry.term, content }
}
