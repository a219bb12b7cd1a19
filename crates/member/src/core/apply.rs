//! The apply stage: runs committed commands against the tables, in order, and says what became of them.
//!
//! Invariants:
//!
//! - Commands are applied once, in log order. One visible index is published after whole commands, before any answer
//!   that depends on it leaves.
//! - Only a cold body that a command compares is waited for; nothing else here blocks.
//! - A checkpoint is cut between commands, so it stands for exactly one applied index, for all models.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use quorate_consensus::{EntryKind, Membership};
use quorate_ids::{LogIndex, MemberId, Monotonic, Revision, Term};
use quorate_models::{Command, Cursor, Expiries, Feeds, ModelId, Models, Stamps, Step, hashed_tables};
use quorate_store::{BodyError, CheckpointMeta, Location, Pin, Store, Tables};

use super::divergence::COMPARE_EVERY;
use super::extra::Extra;
use super::lease_keeper::LeaseKeeper;
use super::mending::{JOB_NANOS_MAX, Mended};
use super::mutants::planted;
use super::{ApplyInput, ApplyOutput, Committed, LeaseAnswer, LeaseAsk, Now};
use crate::envelope::{Envelope, Origin};
use crate::frame::{Frame, SnapshotPoint};
use crate::handle::{Applied, Identity, ModelReply, RequestError};
use crate::membership::MemberList;

/// Commands that run under one hold of the tables' lock.
const COMMANDS_PER_HOLD_MAX: usize = 64;
/// Records that one slice of the models' background work touches.
const BACKGROUND_RECORDS_PER_SLICE: usize = 1024;

/// How long a command waits for records that are being mended: longer than peers are asked for one.
const MEND_NANOS_MAX: u64 = JOB_NANOS_MAX + 10_000_000_000;
/// A record that waits for its mending is handed over again after this long: it may have been refused, as one too many.
const MEND_AGAIN_NANOS: u64 = 1_000_000_000;
/// A command waits this often for damaged records.
const MEND_TIMES_MAX: u32 = 16;

/// When a checkpoint is cut.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRule {
    /// After this many bytes of changes.
    pub front_bytes: u64,
    /// After this many entries.
    pub entries: u64,
    /// After this many bytes of entries, whatever they changed: the log is kept from the last checkpoint on.
    pub log_bytes: u64,
    /// With less room than this in the fronts nothing more is admitted.
    pub front_room_min: u64,
}

/// What a command waits for whose records are damaged.
struct Mending {
    left: BTreeSet<Location>,
    /// One of them is lost, or it took too long.
    lost: Option<Location>,
    until: Monotonic,
    again: Monotonic,
}

struct Running {
    committed: Committed,
    envelope: Option<Envelope>,
    /// `None`: the member's own, or none at all.
    command: Option<Command>,
    cursor: Cursor,
    /// How often it waited for damaged records.
    mended: u32,
}

/// See the module.
pub struct ApplyStage {
    identity: Identity,
    start: u64,
    store: Store,
    models: Models,
    rule: CheckpointRule,
    extra: Extra,
    applied: LogIndex,
    term: Term,
    queue: VecDeque<ApplyInput>,
    entries: VecDeque<Committed>,
    running: Option<Running>,
    reads: BTreeMap<LogIndex, Vec<u64>>,
    checkpointed: LogIndex,
    /// Bytes of the entries that were applied since the last checkpoint was cut.
    uncut_bytes: u64,
    checkpoint_in_flight: bool,
    checkpoint_wanted: bool,
    leases: Option<LeaseKeeper>,
    expiries: Option<Expiries>,
    lease_asks: BTreeMap<LogIndex, Vec<LeaseAsk>>,
    now: Monotonic,
    /// Records that the running command needs are being mended.
    mending: Option<Mending>,
    tight: bool,
    failed: bool,
}

impl ApplyStage {
    pub(super) fn new(
        identity: Identity,
        start: u64,
        store: Store,
        feeds: Feeds,
        rule: CheckpointRule,
        extra: Extra,
        point: SnapshotPoint,
    ) -> Self {
        let models = Models::open(&store.read(), feeds);
        Self {
            identity,
            start,
            store,
            models,
            rule,
            extra,
            applied: point.index,
            term: point.term,
            queue: VecDeque::new(),
            entries: VecDeque::new(),
            running: None,
            reads: BTreeMap::new(),
            checkpointed: point.index,
            uncut_bytes: 0,
            checkpoint_in_flight: false,
            checkpoint_wanted: false,
            leases: None,
            expiries: None,
            lease_asks: BTreeMap::new(),
            now: Monotonic::ZERO,
            mending: None,
            tight: false,
            failed: false,
        }
    }

    /// Takes work in; it is done in [`Self::work`].
    pub fn step(&mut self, input: ApplyInput) {
        self.queue.push_back(input);
    }

    /// The checkpoint that was handed out is durable (or was given up, and will be asked for again).
    pub fn checkpoint_done(&mut self, durable: Option<LogIndex>) {
        self.checkpoint_in_flight = false;
        match durable {
            Some(index) => self.checkpointed = self.checkpointed.max(index),
            None => self.checkpoint_wanted = true,
        }
    }

    /// True while [`Self::work`] has something to do at once.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.failed
            && self.mending.as_ref().is_none_or(|mending| mending.lost.is_some())
            && (!self.queue.is_empty() || !self.entries.is_empty() || self.running.is_some())
    }

    /// True while there is background work for when nothing else is to be done.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        !self.failed && self.models.has_background_work()
    }

    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.applied
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.models.revision()
    }

    /// What is visible at the start, before any input.
    #[must_use]
    pub fn visible(&self) -> ApplyOutput {
        ApplyOutput::Visible { index: self.applied, revision: self.models.revision(), term: self.term }
    }

    /// A slice of the models' work in the background.
    pub fn background(&mut self) {
        if self.failed {
            return;
        }
        let mut tables = self.store.write();
        self.models.background(&mut tables, BACKGROUND_RECORDS_PER_SLICE);
    }

    /// When the stage wants to work even if nothing arrives.
    #[must_use]
    pub fn next_work(&self) -> Option<Monotonic> {
        if self.failed {
            return None;
        }
        if let Some(mending) = &self.mending {
            return Some(mending.until.min(mending.again));
        }
        let leases = self.leases.as_ref().and_then(LeaseKeeper::next_deadline);
        let others = self.expiries.as_ref().and_then(|expiries| expiries.next_deadline(&self.models));
        leases.into_iter().chain(others).min()
    }

    /// Does a bounded amount of work.
    pub fn work(&mut self, now: Now) -> Vec<ApplyOutput> {
        let mut out = Vec::new();
        self.now = self.now.max(now.monotonic);
        if self.failed || self.waits_for_mending(&mut out) {
            return out;
        }
        if self.entries.is_empty() && self.running.is_none() {
            match self.queue.pop_front() {
                Some(ApplyInput::Entries(entries)) => self.entries.extend(entries),
                Some(ApplyInput::Reads { seqs, index }) => self.read(seqs, index, &mut out),
                Some(ApplyInput::Leases { asks, index, term }) => {
                    let leads = self.leases.as_ref().is_some_and(|leases| leases.term() == term);
                    if leads {
                        self.lease_asks.entry(index).or_default().extend(asks);
                        self.answer_leases(&mut out);
                    }
                }
                Some(ApplyInput::Lead { term }) => self.lead(term),
                Some(ApplyInput::Follow) => {
                    if !planted!(KeepLeaseClock) {
                        self.leases = None;
                    }
                    self.lease_asks.clear();
                    self.expiries = None;
                }
                Some(ApplyInput::CheckpointNow) => self.checkpoint_wanted = true,
                Some(ApplyInput::Install { point, generation }) => self.install(point, generation, &mut out),
                None => {}
            }
        }
        if let Err(reason) = self.apply_some(&mut out) {
            self.failed = true;
            out.push(ApplyOutput::Failed { reason });
        }
        self.expire(&mut out);
        self.cut_checkpoint(&mut out);
        self.say_room(&mut out);
        out
    }

    /// Admission stops while the fronts still have room for what is in flight.
    fn say_room(&mut self, out: &mut Vec<ApplyOutput>) {
        let tight = self.store.front_room() < self.rule.front_room_min;
        if tight != self.tight {
            self.tight = tight;
            out.push(ApplyOutput::FrontTight(tight));
        }
    }

    // ---- what runs out with time ----

    fn lead(&mut self, term: Term) {
        let mut expiries = Expiries::new(term);
        expiries.applied(self.term, self.extra.cluster_time, self.now);
        self.expiries = Some(expiries);
        if planted!(KeepLeaseClock)
            && let Some(leases) = &mut self.leases
        {
            return leases.goes_on_in(term);
        }
        let mut leases = LeaseKeeper::new(term);
        leases.applied(self.term, &self.store, self.now);
        self.leases = Some(leases);
    }

    fn answer_leases(&mut self, out: &mut Vec<ApplyOutput>) {
        let Some(leases) = self.leases.as_mut().filter(|leases| leases.is_running()) else { return };
        while let Some(first) = self.lease_asks.first_entry().filter(|first| *first.key() <= self.applied) {
            for ask in first.remove() {
                if let Some(answer) = leases.ask(ask, self.now) {
                    out.push(lease_answer(self.identity, self.start, ask, answer));
                }
            }
        }
    }

    fn expire(&mut self, out: &mut Vec<ApplyOutput>) {
        if let Some(leases) = &mut self.leases {
            let term = leases.term();
            while let Some(command) = leases.due(self.now) {
                out.push(ApplyOutput::Expire { term, model: ModelId::KEYS, command });
            }
        }
        if let Some(expiries) = &mut self.expiries {
            let term = expiries.term();
            while let Some((model, command)) = expiries.due(&self.models, self.now) {
                out.push(ApplyOutput::Expire { term, model, command });
            }
        }
    }

    fn read(&mut self, seqs: Vec<u64>, index: LogIndex, out: &mut Vec<ApplyOutput>) {
        if index <= self.applied || planted!(ReadBeforeApply) {
            out.extend(seqs.into_iter().map(|seq| ApplyOutput::AnswerRead { seq, index: self.applied }));
        } else {
            self.reads.entry(index).or_default().extend(seqs);
        }
    }

    // ---- applying ----

    fn apply_some(&mut self, out: &mut Vec<ApplyOutput>) -> Result<(), String> {
        let before = self.applied;
        let pin = Arc::new(self.store.pin());
        let mut answers = Vec::new();
        let mut needed = Vec::new();
        {
            let store = self.store.clone();
            let mut tables = store.write();
            for _ in 0..COMMANDS_PER_HOLD_MAX {
                if self.running.is_none() {
                    let Some(committed) = self.entries.pop_front() else { break };
                    self.running = Some(Self::start(committed)?);
                    tables.begin(self.applied.next());
                }
                match self.advance(&mut tables)? {
                    Step::Done(reply) => {
                        self.finish(reply, &pin, &mut answers);
                        if self.applied.0.is_multiple_of(COMPARE_EVERY) {
                            let hash = hash_of(&tables, self.extra.chain);
                            out.push(ApplyOutput::Hashed { index: self.applied, hash });
                        }
                    }
                    Step::More => break,
                    Step::Need(locations) => {
                        needed = locations;
                        break;
                    }
                }
            }
        }
        self.load(&needed, out)?;
        if self.applied == before {
            return Ok(());
        }
        out.push(ApplyOutput::Visible {
            index: self.applied,
            revision: self.models.revision(),
            term: self.term,
        });
        out.append(&mut answers);
        while let Some(first) = self.reads.first_entry().filter(|first| *first.key() <= self.applied) {
            let index = self.applied;
            out.extend(first.remove().into_iter().map(|seq| ApplyOutput::AnswerRead { seq, index }));
        }
        out.push(ApplyOutput::Applied { index: self.applied });
        if let Some(leases) = &mut self.leases {
            leases.applied(self.term, &self.store, self.now);
        }
        if let Some(expiries) = &mut self.expiries {
            expiries.applied(self.term, self.extra.cluster_time, self.now);
        }
        self.answer_leases(out);
        Ok(())
    }

    fn start(committed: Committed) -> Result<Running, String> {
        let index = committed.entry.index;
        let said = |error: &dyn std::fmt::Display| format!("log entry {index} can't be applied: {error}");
        let envelope = match committed.entry.kind {
            EntryKind::Empty => None,
            EntryKind::Command => Some(Envelope::decode(&committed.entry.data).map_err(|e| said(&e))?),
            EntryKind::Membership => {
                let entry = quorate_consensus::MembershipEntry::decode(&committed.entry.data)
                    .map_err(|e| said(&e))?;
                Some(Envelope::decode(&entry.context).map_err(|e| said(&e))?)
            }
        };
        let command = match &envelope {
            Some(envelope) if envelope.model != ModelId::MEMBER => {
                Some(Command::decode(envelope.model, &envelope.command).map_err(|e| said(&e))?)
            }
            Some(_) | None => None,
        };
        Ok(Running { committed, envelope, command, cursor: Cursor::default(), mended: 0 })
    }

    fn advance(&mut self, tables: &mut quorate_store::Tables) -> Result<Step<Option<ModelReply>>, String> {
        let running = self.running.as_mut().expect("a running command");
        let Some(envelope) = &running.envelope else { return Ok(Step::Done(None)) };
        let Some(command) = &running.command else {
            let verdict = running.committed.verdict.as_ref().expect("a membership request was judged");
            self.extra.members = verdict.members.clone();
            self.extra.membership = verdict.membership.clone();
            return Ok(Step::Done(Some(ModelReply::Members(verdict.members.to_vec()))));
        };
        let stamps = Stamps {
            index: running.committed.entry.index,
            term: running.committed.entry.term,
            cluster_time: envelope.cluster_time,
            wall_time: envelope.wall_time,
        };
        let differs = planted!(ApplyDifferently) && self.identity.member == MemberId(2);
        let step = self.models.apply(tables, command, &stamps, &mut running.cursor);
        if (planted!(ApplyTwice) || differs)
            && matches!(step, Step::Done(_))
            && stamps.index.0.is_multiple_of(64)
        {
            let mut again = Cursor { loaded: running.cursor.loaded.clone(), ..Cursor::default() };
            self.models.apply(tables, command, &stamps, &mut again);
        }
        if let Step::Done(reply) = &step {
            self.models.publish(reply);
        }
        Ok(step.map(|reply| Some(reply.into())))
    }

    fn finish(&mut self, reply: Option<ModelReply>, pin: &Arc<Pin>, answers: &mut Vec<ApplyOutput>) {
        let Running { committed, envelope, command, .. } = self.running.take().expect("a running command");
        let entry = &committed.entry;
        assert_eq!(entry.index, self.applied.next(), "entries are applied without a gap");
        self.applied = entry.index;
        self.term = entry.term;
        self.uncut_bytes += entry.data.len() as u64;
        self.extra.chain = chained(self.extra.chain, &entry.data);
        let Some(envelope) = envelope else { return };
        self.extra.cluster_time = self.extra.cluster_time.max(envelope.cluster_time);
        self.extra.wall_time = self.extra.wall_time.max(envelope.wall_time);
        if let (Some(expiries), Some(command)) = (&mut self.expiries, &command) {
            expiries.saw(command, envelope.cluster_time, self.now);
        }
        if let (Some(leases), Some(Command::Keys(command)), Some(ModelReply::Keys(reply))) =
            (&mut self.leases, &command, &reply)
        {
            let decided = leases.saw(command, reply, self.now);
            let told =
                decided.into_iter().map(|(ask, said)| lease_answer(self.identity, self.start, ask, said));
            answers.extend(told);
        }
        let Origin { member, start, seq } = envelope.origin;
        if member == self.identity.member
            && start == self.start
            && let Some(reply) = reply
        {
            let refusal = committed.verdict.and_then(|verdict| verdict.outcome.err());
            let outcome = match refusal {
                Some(reason) => Err(RequestError::Refused { reason }),
                None => Ok(Applied { index: self.applied, term: self.term, reply, pin: pin.clone() }),
            };
            answers.push(ApplyOutput::Answer { seq, outcome });
        }
    }

    /// Reads the bodies that the running command asked for. Damaged ones are mended first, where a peer has them; then
    /// the command asks anew, for what it needs lies elsewhere.
    fn load(&mut self, needed: &[Location], out: &mut Vec<ApplyOutput>) -> Result<(), String> {
        let mut damaged = BTreeSet::new();
        for &at in needed {
            let running = self.running.as_mut().expect("a running command");
            match self.store.load(at) {
                Ok(body) => {
                    running.cursor.loaded.insert(at, body);
                }
                Err(BodyError::Corrupt { .. }) if running.mended < MEND_TIMES_MAX => {
                    damaged.insert(at);
                }
                Err(error) => return Err(self.needs_unreadable(&error)),
            }
        }
        if damaged.is_empty() {
            return Ok(());
        }
        self.running.as_mut().expect("a running command").mended += 1;
        out.extend(damaged.iter().map(|&at| ApplyOutput::Mend(at)));
        let (until, again) = (self.now.plus(MEND_NANOS_MAX), self.now.plus(MEND_AGAIN_NANOS));
        self.mending = Some(Mending { left: damaged, lost: None, until, again });
        Ok(())
    }

    fn needs_unreadable(&self, why: &dyn std::fmt::Display) -> String {
        let index = self.applied.next();
        format!("log entry {index} needs a record that can't be read or mended: {why}")
    }

    /// A damaged record was mended, or is lost: a command that waits for it goes on at once.
    pub fn mended(&mut self, at: Location, outcome: Mended) {
        let Some(mending) = &mut self.mending else { return };
        match outcome {
            Mended::Busy => {}
            Mended::Done => {
                mending.left.remove(&at);
            }
            Mended::Lost if mending.left.contains(&at) => mending.lost = Some(at),
            Mended::Lost => {}
        }
        if mending.left.is_empty() {
            self.mending = None;
        }
    }

    /// True while the running command waits for damaged records. Fails where one is lost.
    fn waits_for_mending(&mut self, out: &mut Vec<ApplyOutput>) -> bool {
        let Some(mending) = &mut self.mending else { return false };
        if self.now >= mending.until {
            mending.lost = mending.lost.or(mending.left.first().copied());
        }
        if let Some(at) = mending.lost {
            let why = format!("segment {:08x} at offset {}: no other member has it", at.segment, at.offset);
            self.failed = true;
            out.push(ApplyOutput::Failed { reason: self.needs_unreadable(&why) });
        } else if self.now >= mending.again {
            mending.again = self.now.plus(MEND_AGAIN_NANOS);
            out.extend(mending.left.iter().map(|&at| ApplyOutput::Mend(at)));
        }
        true
    }

    // ---- checkpoints and snapshots ----

    fn cut_checkpoint(&mut self, out: &mut Vec<ApplyOutput>) {
        if self.failed
            || self.checkpoint_in_flight
            || self.running.is_some()
            || self.applied == LogIndex::ZERO
        {
            return;
        }
        let due = self.checkpoint_wanted
            || self.applied.0 - self.checkpointed.0 >= self.rule.entries
            || self.uncut_bytes >= self.rule.log_bytes
            || self.store.front_bytes() >= self.rule.front_bytes;
        if !due {
            return;
        }
        let point = SnapshotPoint { index: self.applied, term: self.term };
        let meta = CheckpointMeta {
            applied_index: point.index,
            applied_term: point.term,
            extra: self.extra.encode(),
        };
        let Some(frozen) = self.store.write().freeze(meta) else { return };
        self.checkpoint_wanted = false;
        self.checkpoint_in_flight = true;
        self.uncut_bytes = 0;
        out.push(ApplyOutput::Checkpoint { frozen, point, membership: self.extra.membership.clone() });
    }

    fn install(&mut self, point: SnapshotPoint, generation: u64, out: &mut Vec<ApplyOutput>) {
        let switched = self.store.replace_with(generation).map_err(|error| error.to_string());
        let switched = switched.and_then(|opened| {
            let extra = Extra::decode(&opened.meta.extra).map_err(|error| error.to_string())?;
            if opened.meta.applied_index != point.index || opened.meta.applied_term != point.term {
                return Err(format!(
                    "the snapshot stands for index {}, not {}",
                    opened.meta.applied_index, point.index
                ));
            }
            Ok(extra)
        });
        match switched {
            Ok(extra) => self.extra = extra,
            Err(reason) => {
                self.failed = true;
                out.push(ApplyOutput::Failed { reason: format!("a snapshot can't be installed: {reason}") });
                return;
            }
        }
        self.models = Models::open(&self.store.read(), self.models.feeds().clone());
        self.applied = point.index;
        self.term = point.term;
        self.checkpointed = point.index;
        self.uncut_bytes = 0;
        self.checkpoint_in_flight = false;
        out.push(self.visible());
        let stamps = (self.extra.cluster_time, self.extra.wall_time);
        out.push(ApplyOutput::Installed { point, members: self.extra.members.clone(), stamps });
        while let Some(first) = self.reads.first_entry().filter(|first| *first.key() <= point.index) {
            out.extend(
                first.remove().into_iter().map(|seq| ApplyOutput::AnswerRead { seq, index: point.index }),
            );
        }
    }
}

/// What the tables hold, and every command that made them: equal members have equal hashes at equal indexes.
fn hash_of(tables: &Tables, chain: u64) -> u64 {
    hashed_tables().fold(chain, |hash, table| {
        let of_table = tables.hash(table);
        (hash ^ of_table as u64 ^ (of_table >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
    })
}

/// The answer to a question about a lease, on its way to the client or to the member that asked for its client.
fn lease_answer(identity: Identity, start: u64, ask: LeaseAsk, answer: LeaseAnswer) -> ApplyOutput {
    let Origin { member, start: asker_start, seq } = ask.asker;
    if member == identity.member && asker_start == start {
        return ApplyOutput::AnswerLease { seq, outcome: Ok(answer) };
    }
    let alive = match answer {
        LeaseAnswer::Alive { ttl_seconds, remaining_nanos } => Some((ttl_seconds, remaining_nanos)),
        LeaseAnswer::Missing => None,
    };
    let frame = Frame::LeaseAnswers { start: asker_start, answers: vec![(seq, alive)] };
    ApplyOutput::Send { to: member, frame: frame.encode() }
}

/// A running hash over all commands ever applied: equal logs have equal hashes.
fn chained(chain: u64, data: &[u8]) -> u64 {
    let low = crc32c::crc32c_append(chain as u32, data);
    let high = crc32c::crc32c_append((chain >> 32) as u32 ^ data.len() as u32, data);
    (u64::from(high) << 32 | u64::from(low)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

impl ApplyStage {
    /// The members as of the applied index.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.extra.membership
    }

    /// The member list as of the applied index.
    #[must_use]
    pub fn members(&self) -> &MemberList {
        &self.extra.members
    }

    /// A hash over all commands ever applied.
    #[must_use]
    pub fn chain(&self) -> u64 {
        self.extra.chain
    }
}
