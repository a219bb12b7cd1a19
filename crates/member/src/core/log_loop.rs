//! The log loop: consensus, peers and ticks. It never waits for a disk and never runs `apply`.
//!
//! Invariants:
//!
//! - One batch is with the log writer at a time; what arrives meanwhile is the next. Messages that promise durability
//!   leave only once the batch that makes them true is written.
//! - Entries go to the apply stage in order, without a gap, and only after they are committed.
//! - Membership requests are judged here when they are committed, from the list as of that place in the log.

use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Consensus, Entry, EntryKind, Membership, MembershipChange, MembershipEntry, Message, ProposeError,
    ReadOutcome, ReplicationState, Role,
};
use quorate_ids::{ClusterTime, LogIndex, MemberId, Monotonic, Term, WallTime};

use super::clock::Stamper;
use super::offers::Offers;
use super::proposals::{Proposals, Request};
use super::reads::Reads;
use super::{
    ApplyInput, Committed, LeaseAnswer, LeaseAsk, LogBatch, LogInput, LogOutput, Now, TransferInput, Verdict,
};
use crate::envelope::{Envelope, Origin};
use crate::frame::{ForwardRefusal, Forwarded, ForwardedBody, Frame, Lane, SnapshotPoint};
use crate::handle::{Identity, MembershipRefusal, RequestError, Status};
use crate::membership::{MemberList, MembershipRequest};

/// Bounds and times of the log loop.
#[derive(Clone, Debug)]
pub struct LogLoopConfig {
    pub identity: Identity,
    /// New at every start of the member.
    pub start: u64,
    pub tick_nanos: u64,
    pub election_timeout_nanos: u64,
    /// Requests of this member's clients whose outcome is not known yet.
    pub proposals_max: usize,
    pub proposal_bytes_max: usize,
    pub reads_max: usize,
    /// After this long a request is given up; its client has gone by then.
    pub request_timeout_nanos: u64,
    /// Committed entries that may wait for the apply stage before the member takes no more.
    pub apply_lag_entries_max: u64,
    pub apply_lag_bytes_max: usize,
    /// Bytes of log that stay in memory and on disk beyond what a checkpoint needs, for followers that lag.
    pub log_retained_bytes: usize,
    pub learners_max: usize,
    /// Refuse membership changes that would leave too few started members.
    pub strict_membership: bool,
}

/// What waits for a quorum to confirm the leader.
#[derive(Clone, Copy, Debug)]
enum Confirm {
    Read { seq: u64 },
    Lease(LeaseAsk),
}

/// What became durable with a batch, for consensus.
#[derive(Debug, Default)]
struct AfterWrite {
    ready_number: Option<u64>,
    messages: Vec<Message>,
    install: Option<(SnapshotPoint, u64)>,
}

struct InFlight {
    number: u64,
    since: Monotonic,
    after: AfterWrite,
}

/// A snapshot message that waits for the files it stands for.
struct Fetching {
    from: MemberId,
    point: SnapshotPoint,
    message: Message,
}

/// See the module.
pub struct LogLoop {
    config: LogLoopConfig,
    consensus: Consensus,
    members: MemberList,
    membership: Membership,
    stamper: Stamper,
    proposals: Proposals,
    reads: Reads<Confirm>,
    /// Expiries of leases that wait to be proposed.
    expiries: std::collections::VecDeque<(Term, Bytes)>,
    next_tick: Monotonic,
    batch: LogBatch,
    batch_needs_write: bool,
    after: AfterWrite,
    in_flight: Option<InFlight>,
    batches: u64,
    /// Handed to the apply stage and not reported back: entries, with bytes.
    applying: std::collections::VecDeque<(LogIndex, usize)>,
    applying_bytes: usize,
    applied: LogIndex,
    committed: LogIndex,
    last_index: LogIndex,
    fetching: Option<Fetching>,
    /// Stepped into consensus; if its next ready does not take it, it was stale.
    fetched: Option<(SnapshotPoint, u64)>,
    offers: Offers,
    /// The generation that the apply stage switches to.
    installing: Option<u64>,
    transfer_since: Option<Monotonic>,
    no_space: bool,
    failed: Option<String>,
    stopping: bool,
    removed: bool,
    said: Status,
    out: Vec<LogOutput>,
}

impl LogLoop {
    #[must_use]
    pub fn new(
        config: LogLoopConfig,
        consensus: Consensus,
        members: MemberList,
        membership: Membership,
        stamps: (ClusterTime, WallTime),
        now: Now,
    ) -> Self {
        let (applied, last_index) = (consensus.status().applied, consensus.status().last_index);
        let mut this = Self {
            proposals: Proposals::new(config.proposals_max, config.proposal_bytes_max),
            reads: Reads::new(config.start, config.reads_max),
            expiries: std::collections::VecDeque::new(),
            stamper: Stamper::new(stamps.0, stamps.1),
            next_tick: now.monotonic.plus(config.tick_nanos),
            config,
            consensus,
            members,
            membership,
            batch: LogBatch::default(),
            batch_needs_write: false,
            after: AfterWrite::default(),
            in_flight: None,
            batches: 0,
            applying: std::collections::VecDeque::new(),
            applying_bytes: 0,
            applied,
            committed: applied,
            last_index,
            fetching: None,
            fetched: None,
            offers: Offers::default(),
            installing: None,
            transfer_since: None,
            no_space: false,
            failed: None,
            stopping: false,
            removed: false,
            said: Status::default(),
            out: Vec::new(),
        };
        this.out.push(LogOutput::Members(Arc::new(this.members.clone())));
        this
    }

    /// When the loop wants its next turn even if nothing arrives.
    #[must_use]
    pub fn next_turn(&self) -> Monotonic {
        self.next_tick
    }

    #[must_use]
    pub fn status(&self) -> &Status {
        &self.said
    }

    /// Takes one input in. Cheap: the work is done in [`Self::turn`].
    pub fn step(&mut self, input: LogInput, now: Now) {
        match input {
            LogInput::Propose { seq, model, command } => {
                self.accept(seq, Request::Command { model, command }, now)
            }
            LogInput::ChangeMembership { seq, request } => {
                self.accept(seq, Request::Membership(request), now)
            }
            LogInput::Read { seq } => self.accept_read(Confirm::Read { seq }),
            LogInput::AskLease { seq, lease, renew } => {
                let asker = Origin { member: self.config.identity.member, start: self.config.start, seq };
                self.accept_read(Confirm::Lease(LeaseAsk { asker, lease, renew }));
            }
            LogInput::Expire { term, command } => self.expiries.push_back((term, command)),
            LogInput::TransferLeadership { to } => self.hand_over_to(to, now),
            LogInput::Frame { from, frame } => self.frame(from, frame, now),
            LogInput::Unreachable { to } => self.consensus.report_unreachable(to),
            LogInput::Written { number } => self.written(number),
            LogInput::NoSpace => self.no_space = true,
            LogInput::Applied { index } => self.applied(index),
            LogInput::Checkpointed { point, membership } => self.checkpointed(point, membership),
            LogInput::SnapshotFetched { from, point, generation } => {
                self.snapshot_fetched(from, point, generation)
            }
            LogInput::SnapshotFailed { from, point } => self.snapshot_failed(from, point),
            LogInput::Installed { point, members } => self.installed(point, members),
            LogInput::Failed { reason } => self.fail(reason),
            LogInput::Stop => self.stopping = true,
        }
    }

    /// Does everything that the inputs since the last turn ask for.
    pub fn turn(&mut self, now: Now) -> Vec<LogOutput> {
        if self.failed.is_none() && !self.removed {
            self.tick(now);
            self.watch_the_disk(now);
            self.send_requests(now);
            self.read_round(now);
            self.drain_consensus(now);
            self.flush(now);
        }
        self.say_status();
        std::mem::take(&mut self.out)
    }

    // ---- requests of this member's clients ----

    fn accept(&mut self, seq: u64, request: Request, now: Now) {
        let refusal = self.why_not_serving().or_else(|| {
            if self.no_space {
                Some(RequestError::NoSpace)
            } else if self.is_lagging() {
                Some(RequestError::Overloaded)
            } else {
                None
            }
        });
        let refusal = refusal.or_else(|| {
            (!self.proposals.accept(seq, request, now.monotonic)).then_some(RequestError::Overloaded)
        });
        if let Some(error) = refusal {
            self.out.push(LogOutput::Refuse { seq, error });
        }
    }

    fn accept_read(&mut self, read: Confirm) {
        let refusal = match self.why_not_serving() {
            None if self.reads.accept(read) => return,
            None => RequestError::Overloaded,
            Some(refusal) => refusal,
        };
        self.refuse_read(read, refusal);
    }

    fn refuse_read(&mut self, read: Confirm, error: RequestError) {
        match read {
            Confirm::Read { seq } => self.out.push(LogOutput::RefuseRead { seq, error }),
            Confirm::Lease(ask) if ask.asker.member == self.config.identity.member => {
                self.out.push(LogOutput::AnswerLease { seq: ask.asker.seq, outcome: Err(error) });
            }
            // A peer's question: it asks again.
            Confirm::Lease(_) => {}
        }
    }

    fn why_not_serving(&self) -> Option<RequestError> {
        if let Some(reason) = &self.failed {
            return Some(RequestError::Stopped { reason: reason.clone() });
        }
        self.removed
            .then(|| RequestError::Stopped { reason: "this member was removed from the cluster".to_owned() })
    }

    fn is_lagging(&self) -> bool {
        self.applying.len() as u64 > self.config.apply_lag_entries_max
            || self.applying_bytes > self.config.apply_lag_bytes_max
    }

    fn send_requests(&mut self, now: Now) {
        match self.consensus.leadership() {
            (Role::Leader, _, _) => self.propose_waiting(now),
            (Role::Follower, Some(leader), term) => self.forward_waiting(leader, term),
            _ => {}
        }
    }

    fn propose_waiting(&mut self, now: Now) {
        let me = self.config.identity.member;
        while let Some((term, command)) = self.expiries.pop_front() {
            // Nobody waits for it: its origin names no request.
            let origin = Origin { member: me, start: self.config.start, seq: 0 };
            let request = Request::Command { model: quorate_models::ModelId::KEYS, command: command.clone() };
            if term == self.consensus.leadership().2 && self.propose(origin, request, now).is_err() {
                self.expiries.push_front((term, command));
                break;
            }
        }
        while let Some((seq, request)) = self.proposals.next_waiting() {
            let origin = Origin { member: me, start: self.config.start, seq };
            match self.propose(origin, request, now) {
                Ok(term) => self.proposals.sent(seq, term),
                Err(ForwardRefusal::NotLeader | ForwardRefusal::Overloaded) => return,
                Err(ForwardRefusal::NoSpace) => self.refuse(seq, RequestError::NoSpace),
                Err(ForwardRefusal::Membership(reason)) => self.refuse(seq, RequestError::Refused { reason }),
            }
        }
    }

    fn refuse(&mut self, seq: u64, error: RequestError) {
        if self.proposals.settle(seq) {
            self.out.push(LogOutput::Refuse { seq, error });
        }
    }

    /// Puts a request into the log, as the leader of the current term.
    fn propose(&mut self, origin: Origin, request: Request, now: Now) -> Result<Term, ForwardRefusal> {
        if self.no_space {
            return Err(ForwardRefusal::NoSpace);
        }
        if self.is_lagging() {
            return Err(ForwardRefusal::Overloaded);
        }
        let (model, command, change) = match request {
            Request::Command { model, command } => (model, command, None),
            Request::Membership(request) => {
                self.may_change(&request).map_err(ForwardRefusal::Membership)?;
                (quorate_models::ModelId::MEMBER, request.encode(), change_of(&request))
            }
        };
        let (cluster_time, wall_time) = self.stamper.stamp(now);
        let data = Envelope { model, origin, cluster_time, wall_time, command }.encode();
        let proposed = match change {
            None => self.consensus.propose(data),
            Some(change) => self.consensus.propose_membership(change, data),
        };
        match proposed {
            Ok((_, term)) => Ok(term),
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
    fn may_change(&self, request: &MembershipRequest) -> Result<(), MembershipRefusal> {
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
            MembershipRequest::Add { is_learner: false, .. } if self.config.strict_membership => {
                let started = self.membership.voters.iter().filter(|id| active(id)).count();
                let quorum_after = quorum(self.membership.voters.len() + 1);
                if started < quorum_after { Err(MembershipRefusal::NotEnoughStarted) } else { Ok(()) }
            }
            MembershipRequest::Remove { id } if self.membership.is_voter(*id) => {
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
                let ready = matched as f64 >= status.last_index.0 as f64 * 0.9;
                if ready { Ok(()) } else { Err(MembershipRefusal::LearnerNotReady) }
            }
            _ => Ok(()),
        }
    }

    fn forward_waiting(&mut self, leader: MemberId, term: Term) {
        const FRAME_REQUESTS_MAX: usize = 1024;
        const FRAME_REQUEST_BYTES: usize = 1024 * 1024;
        loop {
            let (mut requests, mut bytes) = (Vec::new(), 0);
            while requests.len() < FRAME_REQUESTS_MAX && bytes < FRAME_REQUEST_BYTES {
                let Some((seq, request)) = self.proposals.next_waiting() else { break };
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
            self.send(leader, Lane::Entries, &Frame::Forward { term, requests });
        }
    }

    fn read_round(&mut self, now: Now) {
        let patience = self.config.election_timeout_nanos / 2;
        self.reads.give_up_round(Some(Monotonic(now.monotonic.0.saturating_sub(patience))));
        if self.reads.wants_round() {
            let token = self.reads.begin(now.monotonic);
            if self.consensus.read_index(token) != ReadOutcome::Started {
                self.reads.give_up_round(None);
            }
        }
    }

    fn round_answered(&mut self, token: u64, index: LogIndex) {
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

    // ---- frames ----

    fn frame(&mut self, from: MemberId, frame: Bytes, now: Now) {
        if self.failed.is_some() || self.removed {
            return;
        }
        let frame = match Frame::decode(frame) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!(peer = %from, %error, "a frame of a peer was dropped");
                return;
            }
        };
        match frame {
            Frame::Raft(bytes) => self.raft_message(from, &bytes),
            Frame::Forward { term, requests } => self.forwarded(from, term, requests, now),
            Frame::ForwardRefused { start, term, seqs, reason } => {
                if start == self.config.start {
                    self.forward_refused(term, seqs, reason);
                }
            }
            Frame::SnapshotStatus { point, installed } => {
                self.out.push(LogOutput::Transfer(TransferInput::Close { to: from, point }));
                self.consensus.report_snapshot(from, installed);
            }
            Frame::LeaseAsks { asks } => {
                for (start, seq, lease, renew) in asks {
                    let asker = Origin { member: from, start, seq };
                    self.accept_read(Confirm::Lease(LeaseAsk { asker, lease, renew }));
                }
            }
            Frame::LeaseAnswers { start, answers } => {
                let answers = answers.into_iter().filter(|_| start == self.config.start);
                self.out.extend(answers.map(|(seq, alive)| LogOutput::AnswerLease {
                    seq,
                    outcome: Ok(alive.map_or(LeaseAnswer::Missing, |(ttl_seconds, remaining_nanos)| {
                        LeaseAnswer::Alive { ttl_seconds, remaining_nanos }
                    })),
                }));
            }
            Frame::SnapshotOpen { .. }
            | Frame::SnapshotManifest { .. }
            | Frame::SnapshotGone { .. }
            | Frame::ChunkRequest { .. }
            | Frame::Chunk { .. }
            | Frame::RecordRequest { .. }
            | Frame::Record { .. } => {
                if matches!(frame, Frame::SnapshotOpen { .. } | Frame::ChunkRequest { .. }) {
                    self.offers.heard(from, now.monotonic);
                }
                self.out.push(LogOutput::Transfer(TransferInput::Frame { from, frame }));
            }
            Frame::Hashes { .. } | Frame::Members { .. } | Frame::Hello(_) | Frame::Refused { .. } => {
                tracing::warn!(peer = %from, "a frame that has no place here was dropped");
            }
        }
    }

    fn raft_message(&mut self, from: MemberId, bytes: &Bytes) {
        let message = match Message::decode_shared(bytes) {
            Ok(message) if message.from() == from => message,
            Ok(message) => {
                tracing::warn!(peer = %from, claimed = %message.from(), "a message under another member's id was dropped");
                return;
            }
            Err(error) => {
                tracing::warn!(peer = %from, %error, "a consensus message was dropped");
                return;
            }
        };
        if message.entries_bytes() > 0 && self.is_lagging() {
            // The leader sends it again; until then the apply stage catches up.
            return;
        }
        match message.is_snapshot() {
            Some(point) => {
                let point = SnapshotPoint { index: point.index, term: point.term };
                self.snapshot_offered(from, point, message);
            }
            None => self.step_message(message),
        }
    }

    fn step_message(&mut self, message: Message) {
        if let Err(error) = self.consensus.step(message) {
            tracing::debug!(%error, "a consensus message was refused");
        }
    }

    fn forwarded(&mut self, from: MemberId, term: Term, requests: Vec<Forwarded>, now: Now) {
        let (role, _, now_in) = self.consensus.leadership();
        let leads = role == Role::Leader && now_in == term;
        let mut refused: Vec<(ForwardRefusal, u64, Vec<u64>)> = Vec::new();
        for Forwarded { start, seq, body } in requests {
            let request = match body {
                ForwardedBody::Command { model, command } => Some(Request::Command { model, command }),
                ForwardedBody::Membership { request } => {
                    MembershipRequest::decode(&request).ok().map(Request::Membership)
                }
            };
            let Some(request) = request else {
                tracing::warn!(peer = %from, "a forwarded membership request that makes no sense was dropped");
                continue;
            };
            let origin = Origin { member: from, start, seq };
            let proposed =
                if leads { self.propose(origin, request, now) } else { Err(ForwardRefusal::NotLeader) };
            if let Err(reason) = proposed {
                match refused.iter_mut().find(|(r, s, _)| *r == reason && *s == start) {
                    Some((_, _, seqs)) => seqs.push(seq),
                    None => refused.push((reason, start, vec![seq])),
                }
            }
        }
        for (reason, start, seqs) in refused {
            self.send(from, Lane::Entries, &Frame::ForwardRefused { start, term, seqs, reason });
        }
    }

    fn forward_refused(&mut self, term: Term, seqs: Vec<u64>, reason: ForwardRefusal) {
        for seq in seqs {
            match reason {
                ForwardRefusal::NotLeader => {
                    self.proposals.returned(seq, term);
                }
                ForwardRefusal::Overloaded => self.refuse(seq, RequestError::Overloaded),
                ForwardRefusal::NoSpace => self.refuse(seq, RequestError::NoSpace),
                ForwardRefusal::Membership(reason) => self.refuse(seq, RequestError::Refused { reason }),
            }
        }
    }

    fn send(&mut self, to: MemberId, lane: Lane, frame: &Frame) {
        self.out.push(LogOutput::Send { to, lane, frame: frame.encode() });
    }

    fn send_messages(&mut self, messages: Vec<Message>) {
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let lane = if message.entries_bytes() > 0 { Lane::Entries } else { Lane::Control };
            self.send(message.to(), lane, &Frame::Raft(Bytes::from(bytes)));
        }
    }

    // ---- time ----

    fn tick(&mut self, now: Now) {
        const TICKS_CAUGHT_UP_MAX: u32 = 3;
        let mut ticks = 0;
        while now.monotonic >= self.next_tick {
            self.next_tick = self.next_tick.plus(self.config.tick_nanos);
            ticks += 1;
            if ticks > TICKS_CAUGHT_UP_MAX {
                // The member itself was held up: time that it slept through proves nothing about its peers.
                self.next_tick = now.monotonic.plus(self.config.tick_nanos);
                break;
            }
            if self.leads() || !self.disk_is_stalled(now) {
                self.consensus.tick();
            }
        }
        if ticks > 0 {
            let limit = now.monotonic.0.saturating_sub(self.config.request_timeout_nanos);
            for (seq, never_sent) in self.proposals.expire(Monotonic(limit)) {
                let error = if never_sent { RequestError::NoLeader } else { RequestError::TimedOut };
                self.out.push(LogOutput::Refuse { seq, error });
            }
            self.renew_offers(now);
        }
    }

    fn renew_offers(&mut self, now: Now) {
        if !self.leads() {
            return;
        }
        let status = self.consensus.status();
        let open =
            status.progress.iter().filter(|(_, follower)| follower.state == ReplicationState::Snapshot);
        for silent in self.offers.silent(open.map(|(id, _)| *id), now.monotonic) {
            tracing::info!(to = %silent, "a follower does not fetch its snapshot; it is offered one anew");
            self.consensus.report_snapshot(silent, false);
        }
    }

    fn disk_is_stalled(&self, now: Now) -> bool {
        let patience = self.config.election_timeout_nanos / 2;
        self.in_flight.as_ref().is_some_and(|write| now.monotonic.since(write.since) > patience)
    }

    /// A leader whose disk stalls, or that is to stop, hands leadership to the follower that is furthest.
    fn watch_the_disk(&mut self, now: Now) {
        if !self.leads() {
            self.transfer_since = None;
            if self.stopping {
                self.out.push(LogOutput::MayStop);
            }
            return;
        }
        if !self.stopping && !self.disk_is_stalled(now) {
            return;
        }
        let recently = self
            .transfer_since
            .is_some_and(|since| now.monotonic.since(since) < self.config.election_timeout_nanos);
        if recently {
            return;
        }
        let status = self.consensus.status();
        let candidates = status.progress.iter().filter(|(id, follower)| {
            **id != self.config.identity.member && self.membership.is_voter(**id) && follower.recent_active
        });
        match candidates.max_by_key(|(_, follower)| follower.matched).map(|(id, _)| *id) {
            Some(to) => {
                tracing::info!(%to, stopping = self.stopping, "handing leadership on");
                self.hand_over_to(to, now);
            }
            None if self.stopping => self.out.push(LogOutput::MayStop),
            None => {}
        }
    }

    fn hand_over_to(&mut self, to: MemberId, now: Now) {
        self.transfer_since = Some(now.monotonic);
        if let Err(error) = self.consensus.transfer_leadership(to) {
            tracing::debug!(%to, %error, "leadership was not handed on");
        }
    }

    // ---- consensus and the log ----

    fn drain_consensus(&mut self, now: Now) {
        while let Some(ready) = self.consensus.ready() {
            if let Some(role) = ready.role_change {
                self.role_changed(role.role, role.leader, role.term, now);
            }
            self.send_messages(ready.messages);
            if let Some(point) = ready.snapshot {
                self.snapshot_accepted(
                    SnapshotPoint { index: point.index, term: point.term },
                    point.membership,
                );
            }
            self.batch_needs_write |= ready.must_sync || !ready.entries.is_empty();
            for entry in &ready.entries {
                if let Ok(envelope) = envelope_of(entry).transpose()
                    && let Some(envelope) = envelope
                {
                    self.stamper.seen(envelope.cluster_time, envelope.wall_time);
                }
            }
            if let Some(last) = ready.entries.last() {
                self.last_index = last.index;
            }
            append_entries(&mut self.batch.entries, ready.entries);
            if ready.hard_state.is_some() {
                self.batch.hard_state = ready.hard_state;
            }
            self.after.ready_number = Some(ready.number);
            self.after.messages.extend(ready.persisted_messages);
            self.commit(ready.committed);
            for (token, index) in ready.reads {
                self.round_answered(token, index);
            }
            if !ready.snapshots_wanted.is_empty() {
                self.out.push(LogOutput::Apply(ApplyInput::CheckpointNow));
            }
            if self.failed.is_some() {
                return;
            }
            self.flush(now);
        }
        if let Some((point, generation)) = self.fetched.take() {
            tracing::info!(index = %point.index, "a fetched snapshot is not needed any more");
            self.out.push(LogOutput::Transfer(TransferInput::Discard { generation }));
        }
    }

    fn leads(&self) -> bool {
        self.consensus.leadership().0 == Role::Leader
    }

    /// Hands the batch to the writer if it is free. A batch that needs no write is settled at once.
    fn flush(&mut self, now: Now) {
        if self.in_flight.is_some() {
            return;
        }
        let release_alone = self.batch.release.is_some() && self.after.ready_number.is_none();
        if !self.batch_needs_write && self.batch.restart.is_none() && !release_alone {
            self.settle_unwritten();
            return;
        }
        self.batches += 1;
        let mut batch = std::mem::take(&mut self.batch);
        batch.number = self.batches;
        self.batch_needs_write = false;
        let after = std::mem::take(&mut self.after);
        self.in_flight = Some(InFlight { number: self.batches, since: now.monotonic, after });
        self.out.push(LogOutput::Write(batch));
    }

    /// A commit index alone may ride with the next batch: losing it in a crash loses nothing.
    fn settle_unwritten(&mut self) {
        let after = std::mem::take(&mut self.after);
        self.settle(after);
    }

    fn settle(&mut self, after: AfterWrite) {
        if let Some(number) = after.ready_number {
            self.consensus.persisted(number);
        }
        self.send_messages(after.messages);
        if let Some((point, generation)) = after.install {
            self.out.push(LogOutput::Apply(ApplyInput::Install { point, generation }));
        }
    }

    fn written(&mut self, number: u64) {
        let write = self.in_flight.take().expect("a write that was started");
        assert_eq!(write.number, number, "writes come back in order");
        self.no_space = false;
        self.settle(write.after);
    }

    fn role_changed(&mut self, role: Role, leader: Option<MemberId>, term: Term, now: Now) {
        tracing::info!(?role, leader = ?leader, %term, "role");
        if role == Role::Leader {
            self.stamper.lead(now);
            self.out.push(LogOutput::Apply(ApplyInput::Lead { term }));
        } else {
            self.expiries.clear();
            self.out.push(LogOutput::Apply(ApplyInput::Follow));
        }
        self.reads.give_up_round(None);
    }

    fn commit(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.index, self.committed.next(), "committed entries come without a gap");
            self.committed = entry.index;
            self.proposals.committed_under(entry.term);
            self.applying.push_back((entry.index, entry.data.len()));
            self.applying_bytes += entry.data.len();
            match self.judge(&entry) {
                Ok(verdict) => committed.push(Committed { entry, verdict }),
                Err(reason) => {
                    self.fail(reason);
                    return;
                }
            }
        }
        self.out.push(LogOutput::Apply(ApplyInput::Entries(committed)));
    }

    /// Settles the request behind a committed entry and judges a membership request.
    fn judge(&mut self, entry: &Entry) -> Result<Option<Verdict>, String> {
        let said =
            |error: &dyn std::fmt::Display| format!("log entry {} can't be applied: {error}", entry.index);
        let Some(envelope) = envelope_of(entry).transpose().map_err(|e| said(&e))? else { return Ok(None) };
        let mine = envelope.origin.member == self.config.identity.member
            && envelope.origin.start == self.config.start;
        if mine {
            self.proposals.settle(envelope.origin.seq);
        }
        if envelope.model != quorate_models::ModelId::MEMBER {
            return Ok(None);
        }
        let request = MembershipRequest::decode(&envelope.command).map_err(|e| said(&e))?;
        let change = change_of(&request);
        let outcome = self.members.judge(&request);
        if entry.kind == EntryKind::Membership {
            let change = change.filter(|_| outcome.is_ok());
            self.membership =
                self.consensus.apply_membership(entry.index, change.as_ref()).map_err(|e| said(&e))?;
        }
        if outcome.is_ok() {
            self.out.push(LogOutput::Members(Arc::new(self.members.clone())));
            tracing::info!(?request, "the member list changed");
        }
        Ok(Some(Verdict { outcome, members: self.members.clone(), membership: self.membership.clone() }))
    }

    fn applied(&mut self, index: LogIndex) {
        while let Some((first, bytes)) = self.applying.front().copied().filter(|(first, _)| *first <= index) {
            self.applying.pop_front();
            self.applying_bytes -= bytes;
            self.applied = first;
        }
        self.consensus.applied(self.applied);
        if self.members.was_removed(self.config.identity.member) && !self.removed && self.applying.is_empty()
        {
            self.removed = true;
            self.give_up_requests("this member was removed from the cluster");
            self.out.push(LogOutput::Removed);
        }
    }

    fn give_up_requests(&mut self, reason: &str) {
        let error = RequestError::Stopped { reason: reason.to_owned() };
        for seq in self.proposals.give_up_all() {
            self.out.push(LogOutput::Refuse { seq, error: error.clone() });
        }
        for read in self.reads.give_up_all() {
            self.refuse_read(read, error.clone());
        }
    }

    fn fail(&mut self, reason: String) {
        if self.failed.is_none() {
            tracing::error!(%reason, "this member stops serving");
            self.give_up_requests(&reason);
            self.failed = Some(reason);
        }
    }

    // ---- checkpoints and snapshots ----

    fn checkpointed(&mut self, point: SnapshotPoint, membership: Membership) {
        let offered = quorate_consensus::SnapshotPoint { index: point.index, term: point.term, membership };
        if let Err(error) = self.consensus.set_snapshot_point(Some(offered)) {
            // An installed snapshot may have overtaken the checkpoint.
            tracing::debug!(index = %point.index, %error, "a checkpoint is not offered to followers");
            return;
        }
        let through =
            self.consensus.compactable(self.config.log_retained_bytes).min(point.index).min(self.applied);
        match self.consensus.compact(through) {
            Ok(()) => self.batch.release = Some(through),
            Err(error) => tracing::debug!(%error, "the log was not compacted"),
        }
    }

    fn snapshot_offered(&mut self, from: MemberId, point: SnapshotPoint, message: Message) {
        let busy = self.installing.is_some() || self.fetched.is_some();
        if busy || point.index <= self.committed {
            // Stepping a stale offer makes consensus answer with where this member is.
            if !busy {
                self.step_message(message);
            }
            return;
        }
        let same = self.fetching.as_ref().is_some_and(|known| known.from == from && known.point == point);
        if !same {
            tracing::info!(%from, index = %point.index, "fetching a snapshot");
            self.out.push(LogOutput::Transfer(TransferInput::Fetch { from, point }));
        }
        self.fetching = Some(Fetching { from, point, message });
    }

    fn snapshot_fetched(&mut self, from: MemberId, point: SnapshotPoint, generation: u64) {
        let wanted = self.fetching.take_if(|known| known.from == from && known.point == point);
        let Some(wanted) = wanted else {
            self.out.push(LogOutput::Transfer(TransferInput::Discard { generation }));
            return;
        };
        if point.index <= self.committed {
            // The log caught up meanwhile. The sender must hear of it: until then it sends nothing else.
            self.out.push(LogOutput::Transfer(TransferInput::Discard { generation }));
            self.step_message(wanted.message);
            self.send(from, Lane::Control, &Frame::SnapshotStatus { point, installed: true });
            return;
        }
        self.fetched = Some((point, generation));
        self.step_message(wanted.message);
    }

    fn snapshot_failed(&mut self, from: MemberId, point: SnapshotPoint) {
        if self.fetching.take_if(|known| known.from == from && known.point == point).is_some() {
            self.send(from, Lane::Control, &Frame::SnapshotStatus { point, installed: false });
        }
    }

    /// Consensus took the snapshot: its files are here, the log restarts after it.
    fn snapshot_accepted(&mut self, point: SnapshotPoint, membership: Membership) {
        let (fetched, generation) =
            self.fetched.take().expect("a snapshot is stepped only once its files are here");
        assert_eq!(fetched, point);
        self.membership = membership;
        self.batch.entries.clear();
        self.batch.restart = Some((point, generation));
        self.batch_needs_write = true;
        self.after.install = Some((point, generation));
        self.committed = point.index;
        self.last_index = point.index;
        self.installing = Some(generation);
        for seq in self.proposals.give_up_sent() {
            self.out.push(LogOutput::Refuse { seq, error: RequestError::LeaderChanged });
        }
    }

    fn installed(&mut self, point: SnapshotPoint, members: MemberList) {
        if let Some(generation) = self.installing.take() {
            self.out.push(LogOutput::Transfer(TransferInput::Installed { generation }));
        }
        self.members = members;
        self.applying.retain(|(index, _)| *index > point.index);
        self.applying_bytes = self.applying.iter().map(|(_, bytes)| bytes).sum();
        self.applied = point.index;
        self.consensus.applied(point.index);
        self.out.push(LogOutput::Members(Arc::new(self.members.clone())));
        if let Some(leader) = self.consensus.leadership().1 {
            self.send(leader, Lane::Control, &Frame::SnapshotStatus { point, installed: true });
        }
    }

    fn say_status(&mut self) {
        let (role, leader, term) = self.consensus.leadership();
        let me = self.config.identity.member;
        let said = Status {
            leader: leader.filter(|_| self.failed.is_none() && !self.removed),
            is_leader: role == Role::Leader,
            is_learner: self.membership.is_learner(me),
            term,
            committed: self.committed,
            applied: self.applied,
            last_index: self.last_index,
            failed: self.failed.clone(),
            no_space: self.no_space,
        };
        if said != self.said {
            self.said = said.clone();
            self.out.push(LogOutput::Status(said));
        }
    }
}

/// The envelope of an entry that has one.
pub(super) fn envelope_of(entry: &Entry) -> Option<Result<Envelope, String>> {
    let decode = |data: &Bytes| Envelope::decode(data).map_err(|error| error.to_string());
    match entry.kind {
        EntryKind::Empty => None,
        EntryKind::Command => Some(decode(&entry.data)),
        EntryKind::Membership => Some(
            MembershipEntry::decode(&entry.data)
                .map_err(|error| error.to_string())
                .and_then(|membership| decode(&membership.context)),
        ),
    }
}

/// What a request changes in consensus, if anything.
fn change_of(request: &MembershipRequest) -> Option<MembershipChange> {
    match request {
        MembershipRequest::Add { id, is_learner: true, .. } => Some(MembershipChange::AddLearner(*id)),
        MembershipRequest::Add { id, is_learner: false, .. } => Some(MembershipChange::AddVoter(*id)),
        MembershipRequest::Remove { id } => Some(MembershipChange::Remove(*id)),
        MembershipRequest::Promote { id } => Some(MembershipChange::Promote(*id)),
        MembershipRequest::Update { .. } | MembershipRequest::Publish { .. } => None,
    }
}

/// How many of so many voters are a majority.
fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Entries of a later turn replace those of an earlier one from their first index on.
fn append_entries(batch: &mut Vec<Entry>, entries: Vec<Entry>) {
    if let Some(first) = entries.first() {
        let keep = batch.partition_point(|entry| entry.index < first.index);
        batch.truncate(keep);
    }
    batch.extend(entries);
}
