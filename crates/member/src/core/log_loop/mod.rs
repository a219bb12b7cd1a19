//! The log loop: consensus, peers and ticks. It never waits for a disk and never runs `apply`.
//!
//! Invariants:
//!
//! - One batch is with the log writer at a time; what arrives meanwhile is the next. Messages that promise durability
//!   leave only once the batch that makes them true is written.
//! - Entries go to the apply stage in order, without a gap, and only after they are committed.
//! - Membership requests are judged here when they are committed, from the list as of that place in the log. That it is
//!   committed is made durable at once: others may do without a member that this one could not do without.

mod joins;
mod known;
mod levels;
mod observing;
mod peers;
mod replication;
mod requests;
mod snapshots;
mod space;
mod time;

use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Consensus, Entry, EntryKind, Membership, MembershipChange, MembershipEntry, Message, Observation,
    ProposeError, ReadOutcome, ReplicationState, Role,
};
use quorate_ids::{ClusterTime, Incarnation, LogIndex, MemberId, Monotonic, Term, WallTime};

use self::levels::Levels;
use crate::core::clock::Stamper;
use crate::core::divergence::{Comparison, Divergence};
use crate::core::joins::Joins;
use crate::core::leaving::{Leaving, Unheard};
use crate::core::mutants::planted;
use crate::core::offers::Offers;
use crate::core::open::FOUNDING_INDEX;
use crate::core::proposals::{Proposals, Request};
use crate::core::reads::Reads;
use crate::core::replay::Replay;
use crate::core::strangers::Strangers;
use crate::core::traffic::Traffic;
use crate::core::{
    ApplyInput, Committed, LeaseAnswer, LeaseAsk, LogBatch, LogInput, LogOutput, Now, TransferInput, Verdict,
};
use crate::envelope::{Envelope, Origin};
use crate::event::Event;
use crate::frame::{ForwardRefusal, Forwarded, ForwardedBody, Frame, Lane, SnapshotPoint};
use crate::handle::{Identity, MembershipRefusal, RequestError, Status};
use crate::kinds::{Kinds, Level};
use crate::membership::{MemberList, MembershipRequest};
use crate::statistics::Statistics;

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
    /// Make every learner a voter once it has caught up. Those that joined by request to vote are in any case.
    pub promote_learners: bool,
    /// Do not let the first election wait for a whole timeout; only with elections that ask tentatively first.
    pub hasten_start: bool,
    /// Refuse membership changes that would leave too few started members.
    pub strict_membership: bool,
    /// What this program knows of what may stand in the log.
    pub kinds: Kinds,
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
    /// A member list whose place in the log is durable as committed once this batch is.
    members: Option<Arc<MemberList>>,
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
    /// The list that no restart goes back behind.
    kept: Arc<MemberList>,
    stamper: Stamper,
    proposals: Proposals,
    reads: Reads<Confirm>,
    /// Expiries of leases that wait to be proposed.
    expiries: std::collections::VecDeque<(Term, quorate_models::ModelId, Bytes)>,
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
    replay: Replay,
    fetching: Option<Fetching>,
    /// Stepped into consensus; if its next ready does not take it, it was stale.
    fetched: Option<(SnapshotPoint, u64)>,
    offers: Offers,
    comparison: Comparison,
    /// The generation that the apply stage switches to.
    installing: Option<u64>,
    /// Committed while the apply stage installs a snapshot: judged once its member list is known.
    unjudged: Vec<Entry>,
    transfer_since: Option<Monotonic>,
    no_space: bool,
    store_no_space: bool,
    front_tight: bool,
    /// The leader had no room for what this follower forwarded: it is asked again at the next tick.
    leader_is_full: bool,
    space: space::SpaceBook,
    failed: Option<String>,
    stopping: bool,
    /// This member was removed, and stays until the others can do without it.
    leaving: Option<Leaving>,
    unheard: Unheard,
    removed: bool,
    joins: Joins,
    strangers: Strangers,
    /// The incarnations that peers were met in, and which of them this leader has put into the log.
    met: std::collections::BTreeMap<MemberId, Incarnation>,
    noted: std::collections::BTreeSet<MemberId>,
    levels: Levels,
    traffic: Traffic,
    /// The peers that this member reaches, until its first election need not be hastened any more.
    starting: Option<std::collections::BTreeSet<MemberId>>,
    giving_up: Option<joins::GivingUp>,
    given_up: bool,
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
        let found = consensus.status();
        let (applied, last_index) = (found.applied, found.last_index);
        let replay = Replay::of(last_index, found.commit, config.election_timeout_nanos, now.monotonic);
        let mut this = Self {
            proposals: Proposals::new(config.proposals_max, config.proposal_bytes_max),
            reads: Reads::new(config.start, config.reads_max),
            expiries: std::collections::VecDeque::new(),
            stamper: Stamper::new(stamps.0, stamps.1),
            next_tick: now.monotonic.plus(config.tick_nanos),
            config,
            consensus,
            kept: Arc::new(members.clone()),
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
            replay,
            fetching: None,
            fetched: None,
            offers: Offers::default(),
            comparison: Comparison::default(),
            installing: None,
            unjudged: Vec::new(),
            transfer_since: None,
            no_space: false,
            store_no_space: false,
            front_tight: false,
            leader_is_full: false,
            space: space::SpaceBook::default(),
            failed: None,
            stopping: false,
            leaving: None,
            unheard: Unheard::default(),
            removed: false,
            joins: Joins::default(),
            strangers: Strangers::default(),
            met: std::collections::BTreeMap::new(),
            noted: std::collections::BTreeSet::new(),
            levels: Levels::default(),
            traffic: Traffic::default(),
            starting: Some(std::collections::BTreeSet::new()),
            giving_up: None,
            given_up: false,
            said: Status::default(),
            out: Vec::new(),
        };
        this.out.push(LogOutput::Members(this.kept.clone()));
        this.out.push(LogOutput::MembersKept(this.kept.clone()));
        this.leave_if_removed();
        if this.is_observed() {
            this.out.push(LogOutput::Event(Event::Follower { leader: None }));
        }
        this.start_early();
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

    /// What is counted of appends.
    #[must_use]
    pub fn statistics(&self, now: Now) -> Statistics {
        self.traffic.statistics(now.monotonic)
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
            LogInput::Expire { term, model, command } => self.expiries.push_back((term, model, command)),
            LogInput::TransferLeadership { to } => self.transfer(to, now),
            LogInput::ReadLog { seq, from, entries_max } => self.read_log(seq, from, entries_max),
            LogInput::Statistics { seq } => {
                let statistics = self.statistics(now);
                self.out.push(LogOutput::AnswerStatistics { seq, statistics });
            }
            LogInput::Checkpoint => self.out.push(LogOutput::Apply(ApplyInput::CheckpointNow)),
            LogInput::Frame { from, frame } => self.frame(from, frame, now),
            LogInput::Reachable { peer } => self.reachable(peer),
            LogInput::Unreachable { to } => {
                self.levels.forget(to);
                self.traffic.lost(to);
                self.consensus.report_unreachable(to);
            }
            LogInput::Written { number } => self.written(number, now),
            LogInput::NoSpace => self.no_space = true,
            LogInput::Applied { index } => self.applied(index),
            LogInput::Hashed { index, hash } => self.hashed(index, hash),
            LogInput::FrontTight(tight) => self.front_tight = tight,
            LogInput::StoreNoSpace(full) => self.store_no_space = full,
            LogInput::LogSpace(space) => self.own_space(Some(space), None, now),
            LogInput::StoreSpace(space) => self.own_space(None, Some(space), now),
            LogInput::Checkpointed { point, membership } => self.checkpointed(point, membership),
            LogInput::SnapshotFetched { from, point, generation } => {
                self.snapshot_fetched(from, point, generation)
            }
            LogInput::SnapshotHasNoRoom { point, bytes, room } => {
                self.snapshot_has_no_room(point, (bytes, room), now);
            }
            LogInput::SnapshotFailed { from, point } => self.snapshot_failed(from, point),
            LogInput::Installed { point, members, stamps } => {
                self.stamper.settled(stamps.0, stamps.1);
                self.installed(point, members);
            }
            LogInput::JoinQuestion { ask, question, hosts } => self.join_question(ask, question, hosts),
            LogInput::Met { member, incarnation } => {
                self.met.insert(member, incarnation);
            }
            LogInput::Knocked { member, incarnation } => self.knocked(member, incarnation, now),
            LogInput::MembersTold { by, members } => self.members_told(by, &members),
            LogInput::InvitationRefused { member } => self.invitation_refused(member, now),
            LogInput::Failed { reason } => self.fail(reason),
            LogInput::Stop => self.stopping = true,
        }
    }

    /// Does everything that the inputs since the last turn ask for.
    pub fn turn(&mut self, now: Now) -> Vec<LogOutput> {
        if self.failed.is_none() && !self.removed && !self.given_up {
            self.tick(now);
            self.watch_the_disk(now);
            self.send_requests(now);
            self.read_round(now);
            self.drain_consensus(now);
            self.flush(now);
            self.give_up_at_rest();
        }
        self.tell_observations();
        self.say_status(now);
        std::mem::take(&mut self.out)
    }

    fn say_status(&mut self, now: Now) {
        let (role, leader, term) = self.consensus.leadership();
        let replayed = self.replay.is_done(self.applied, leader.is_some(), now.monotonic);
        let me = self.config.identity.member;
        let said = Status {
            leader: leader.filter(|_| self.failed.is_none() && !self.removed && self.leaving.is_none()),
            is_leader: role == Role::Leader,
            is_learner: self.membership.is_learner(me),
            term,
            committed: self.committed,
            applied: self.applied,
            last_index: self.last_index,
            failed: self.failed.clone(),
            no_space: self.is_out_of_space() || self.space.own().is_full(),
            replayed,
        };
        if said != self.said {
            if said.replayed && !self.said.replayed && self.replay.lacks(self.applied) {
                tracing::warn!(
                    applied = %self.applied,
                    "shows what it knows without a leader, having heard of none for ten election timeouts: that may lack what \
                     was committed last"
                );
            }
            self.said = said.clone();
            self.out.push(LogOutput::Status(said));
        }
    }
}

/// The envelope of an entry that has one, or what is wrong with it.
#[must_use]
pub fn envelope_of(entry: &Entry) -> Option<Result<Envelope, String>> {
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
        MembershipRequest::Add { id, is_learner: true, .. } | MembershipRequest::Join { id, .. } => {
            Some(MembershipChange::AddLearner(*id))
        }
        MembershipRequest::Add { id, is_learner: false, .. } => Some(MembershipChange::AddVoter(*id)),
        MembershipRequest::Remove { id } => Some(MembershipChange::Remove(*id)),
        MembershipRequest::Promote { id } => Some(MembershipChange::Promote(*id)),
        MembershipRequest::Demote { id, .. } => Some(MembershipChange::Demote(*id)),
        MembershipRequest::Update { .. }
        | MembershipRequest::Publish { .. }
        | MembershipRequest::Meet { .. } => None,
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
