//! The requests of this member's clients: taken in, proposed or forwarded, confirmed.

use super::*;

impl LogLoop {
    /// A request waits in the bounded queue where the log takes nothing for the moment: a client is better off with a
    /// late answer than with one that makes it ask again.
    pub(super) fn accept(&mut self, seq: u64, request: Request, now: Now) {
        let refusal = self
            .why_not_serving()
            .or_else(|| {
                (self.is_out_of_space() || self.refuses_for_space(&request)).then_some(RequestError::NoSpace)
            })
            .or_else(|| {
                (!self.proposals.accept(seq, request, now.monotonic)).then_some(RequestError::Overloaded)
            });
        if let Some(error) = refusal {
            self.out.push(LogOutput::Refuse { seq, error });
        }
    }

    /// What waited too long is given up.
    pub(super) fn expire_requests(&mut self, now: Now) {
        let limit = now.monotonic.0.saturating_sub(self.config.request_timeout_nanos);
        let (_, leader, _) = self.consensus.leadership();
        for (seq, never_sent) in self.proposals.expire(Monotonic(limit)) {
            let error = match leader {
                _ if !never_sent && !planted!(RefuseTheUnknown) => RequestError::TimedOut,
                Some(_) => RequestError::Overloaded,
                None => RequestError::NoLeader,
            };
            self.out.push(LogOutput::Refuse { seq, error });
        }
    }

    pub(super) fn accept_read(&mut self, read: Confirm) {
        match read {
            Confirm::Read { seq } if planted!(SkipReadRound) => {
                let read = ApplyInput::Reads { seqs: vec![seq], index: self.applied };
                return self.out.push(LogOutput::Apply(read));
            }
            Confirm::Lease(ask) if planted!(ConfirmLeaseAlone) && self.leads() => {
                let term = self.consensus.leadership().2;
                let asks = ApplyInput::Leases { asks: vec![ask], index: self.applied, term };
                return self.out.push(LogOutput::Apply(asks));
            }
            _ => {}
        }
        let refusal = match self.why_not_serving() {
            None if self.reads.accept(read) => return,
            None => RequestError::Overloaded,
            Some(refusal) => refusal,
        };
        self.refuse_read(read, refusal);
    }

    pub(super) fn refuse_read(&mut self, read: Confirm, error: RequestError) {
        match read {
            Confirm::Read { seq } => self.out.push(LogOutput::RefuseRead { seq, error }),
            Confirm::Lease(ask) if ask.asker.member == self.config.identity.member => {
                self.out.push(LogOutput::AnswerLease { seq: ask.asker.seq, outcome: Err(error) });
            }
            // A peer's question: it asks again.
            Confirm::Lease(_) => {}
        }
    }

    pub(super) fn why_not_serving(&self) -> Option<RequestError> {
        if self.giving_up.is_some() || self.given_up {
            return Some(RequestError::Moving);
        }
        if let Some(reason) = &self.failed {
            return Some(RequestError::Stopped { reason: reason.clone() });
        }
        (self.removed || self.leaving.is_some())
            .then(|| RequestError::Stopped { reason: "this member was removed from the cluster".to_owned() })
    }

    pub(super) fn is_lagging(&self) -> bool {
        self.front_tight
            || self.applying.len() as u64 > self.config.apply_lag_entries_max
            || self.applying_bytes > self.config.apply_lag_bytes_max
    }

    /// Nothing can be written: the log can't grow; or a checkpoint can't, and the fronts have no room to wait for it.
    pub(super) fn is_out_of_space(&self) -> bool {
        self.no_space || (self.store_no_space && self.front_tight)
    }

    pub(super) fn send_requests(&mut self, now: Now) {
        match self.consensus.leadership() {
            (Role::Leader, _, _) => self.propose_waiting(now),
            (Role::Follower, Some(leader), term) if !self.leader_is_full => {
                self.forward_waiting(leader, term)
            }
            _ => {}
        }
    }

    pub(super) fn propose_waiting(&mut self, now: Now) {
        let me = self.config.identity.member;
        while let Some((mut term, model, mut command)) = self.expiries.pop_front() {
            if planted!(RevokeInALaterTerm) && model == quorate_models::ModelId::KEYS {
                term = self.consensus.leadership().2;
                command = crate::core::lease_keeper::LeaseKeeper::decided_in(term, &command);
            }
            // Nobody waits for it: its origin names no request.
            let origin = Origin { member: me, start: self.config.start, seq: 0 };
            let request = Request::Command { model, command: command.clone() };
            if term == self.consensus.leadership().2 && self.propose(origin, request, now).is_err() {
                self.expiries.push_front((term, model, command));
                break;
            }
        }
        while let Some((seq, request)) = self.proposals.next_waiting() {
            let origin = Origin { member: me, start: self.config.start, seq };
            match self.propose(origin, request, now) {
                Ok(term) => self.proposals.sent(seq, term),
                Err(ForwardRefusal::NotLeader | ForwardRefusal::Overloaded) => return,
                Err(ForwardRefusal::NoSpace) => self.refuse(seq, RequestError::NoSpace),
                Err(ForwardRefusal::TooNew) => self.refuse(seq, RequestError::TooNew),
                Err(ForwardRefusal::Membership(reason)) => self.refuse(seq, RequestError::Refused { reason }),
            }
        }
    }

    pub(super) fn refuse(&mut self, seq: u64, error: RequestError) {
        if self.proposals.settle(seq) {
            self.out.push(LogOutput::Refuse { seq, error });
        }
    }

    /// Puts a request into the log, as the leader of the current term.
    pub(super) fn propose(
        &mut self,
        origin: Origin,
        request: Request,
        now: Now,
    ) -> Result<Term, ForwardRefusal> {
        if self.is_out_of_space() || self.refuses_for_space(&request) {
            return Err(ForwardRefusal::NoSpace);
        }
        if self.is_lagging() {
            return Err(ForwardRefusal::Overloaded);
        }
        let mut proposed_change = None;
        let (model, command, change) = match request {
            Request::Command { model, command } => (model, command, None),
            Request::Membership(request) => {
                let request = self.step_of(request, now).map_err(ForwardRefusal::Membership)?;
                self.may_change(&request).map_err(ForwardRefusal::Membership)?;
                let parts = (quorate_models::ModelId::MEMBER, request.encode(), change_of(&request));
                proposed_change = Some(request);
                parts
            }
        };
        if !self.may_be_logged(model, &command) {
            return Err(ForwardRefusal::TooNew);
        }
        self.lead_time(self.consensus.leadership().2, now);
        let (cluster_time, mut wall_time) = self.stamper.stamp(now);
        if planted!(FollowWallClock) {
            wall_time = now.wall;
        }
        let data = Envelope { model, origin, cluster_time, wall_time, command }.encode();
        let proposed = match change {
            None => self.consensus.propose(data),
            Some(change) => self.consensus.propose_membership(change, data),
        };
        match proposed {
            Ok((_, term)) => {
                if let Some(request) = proposed_change {
                    self.tell_proposed(&request);
                }
                Ok(term)
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Transferring { .. }) => {
                Err(ForwardRefusal::NotLeader)
            }
            Err(ProposeError::MembershipPending { .. }) => {
                Err(ForwardRefusal::Membership(MembershipRefusal::InProgress))
            }
            Err(_) => Err(ForwardRefusal::Overloaded),
        }
    }

    /// What only the leader can judge before a membership request enters the log.
    pub(super) fn may_change(&self, request: &MembershipRequest) -> Result<(), MembershipRefusal> {
        self.members.check(request)?;
        let status = self.consensus.status();
        let learners = self.membership.learners.len();
        let active = |id: &MemberId| {
            *id == self.config.identity.member
                || status.progress.get(id).is_some_and(|follower| follower.recent_active)
        };
        match request {
            MembershipRequest::Add { is_learner: true, .. } if learners >= self.config.learners_max => {
                Err(MembershipRefusal::TooManyLearners)
            }
            // One member becomes two with a member that can't have started yet: there is no other way to grow.
            MembershipRequest::Add { is_learner: false, .. } if self.membership.voters.len() == 1 => Ok(()),
            MembershipRequest::Add { is_learner: false, .. } if self.config.strict_membership => {
                let started = self.membership.voters.iter().filter(|id| active(id)).count();
                let quorum_after = quorum(self.membership.voters.len() + 1);
                if started < quorum_after { Err(MembershipRefusal::NotEnoughStarted) } else { Ok(()) }
            }
            MembershipRequest::Remove { id } | MembershipRequest::Demote { id, .. }
                if self.membership.is_voter(*id) =>
            {
                if self.membership.voters.len() == 1 {
                    return Err(MembershipRefusal::LastVoter);
                }
                let rest = self.membership.voters.iter().filter(|voter| *voter != id);
                let started = rest.filter(|voter| active(voter)).count();
                let quorum_after = quorum(self.membership.voters.len() - 1);
                let too_few = self.config.strict_membership && started < quorum_after;
                if too_few { Err(MembershipRefusal::NotEnoughStarted) } else { Ok(()) }
            }
            MembershipRequest::Promote { id } => {
                let matched = status.progress.get(id).map_or(0, |learner| learner.matched.0);
                let ready = matched as f64 >= status.last_index.0 as f64 * 0.9 || planted!(PromoteTooEarly);
                if ready { Ok(()) } else { Err(MembershipRefusal::LearnerNotReady) }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn forward_waiting(&mut self, leader: MemberId, term: Term) {
        const FRAME_REQUESTS_MAX: usize = 1024;
        const FRAME_REQUEST_BYTES: usize = 1024 * 1024;
        loop {
            let (mut requests, mut bytes) = (Vec::new(), 0);
            while requests.len() < FRAME_REQUESTS_MAX && bytes < FRAME_REQUEST_BYTES {
                let Some((seq, request)) = self.proposals.next_waiting() else { break };
                if !self.may_be_passed_on(leader, &request) {
                    self.refuse(seq, RequestError::TooNew);
                    continue;
                }
                self.proposals.sent(seq, term);
                let body = match request {
                    Request::Command { model, command } => ForwardedBody::Command { model, command },
                    Request::Membership(request) => ForwardedBody::Membership { request: request.encode() },
                };
                bytes += match &body {
                    ForwardedBody::Command { command, .. } => command.len(),
                    ForwardedBody::Membership { request } => request.len(),
                };
                requests.push(Forwarded { start: self.config.start, seq, body });
            }
            if requests.is_empty() {
                return;
            }
            if planted!(ForwardTwice) && requests[0].seq.is_multiple_of(16) {
                self.send(leader, Lane::Entries, &Frame::Forward { term, requests: requests.clone() });
            }
            self.send(leader, Lane::Entries, &Frame::Forward { term, requests });
        }
    }

    pub(super) fn read_round(&mut self, now: Now) {
        let patience = self.config.election_timeout_nanos / 2;
        self.reads.give_up_round(Some(Monotonic(now.monotonic.0.saturating_sub(patience))));
        if self.reads.wants_round() {
            let token = self.reads.begin(now.monotonic);
            if self.consensus.read_index(token) != ReadOutcome::Started {
                self.reads.give_up_round(None);
            }
        }
    }

    pub(super) fn round_answered(&mut self, token: u64, index: LogIndex) {
        let (role, leader, term) = self.consensus.leadership();
        let (mut seqs, mut asks) = (Vec::new(), Vec::new());
        for read in self.reads.answered(token) {
            match read {
                Confirm::Read { seq } => seqs.push(seq),
                Confirm::Lease(ask) => asks.push(ask),
            }
        }
        if !seqs.is_empty() {
            self.out.push(LogOutput::Apply(ApplyInput::Reads { seqs, index }));
        }
        if asks.is_empty() {
            return;
        }
        match leader {
            _ if role == Role::Leader => {
                self.out.push(LogOutput::Apply(ApplyInput::Leases { asks, index, term }))
            }
            Some(leader) => {
                let mine = asks.iter().filter(|ask| ask.asker.member == self.config.identity.member);
                let asks = mine.map(|ask| (ask.asker.start, ask.asker.seq, ask.lease, ask.renew)).collect();
                self.send(leader, Lane::Control, &Frame::LeaseAsks { asks });
            }
            None => {}
        }
    }
}
