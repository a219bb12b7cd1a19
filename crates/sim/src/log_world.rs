//! The small world: consensus and the write-ahead log alone, with a chain of hashes for a state machine.
//!
//! It runs many times as many elections, crashes and recoveries a second as whole members do, so what breaks below the
//! member shows here first. Oracles: one leader a term, committed prefixes agree, nothing that a client was told is committed is lost,
//! terms and commit indexes of one member never go back over a restart, a log comes back from every crash, and after
//! the faults end all replicas commit again and agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Config, Consensus, Entry, EntryKind, HardState, Membership, Message, Restored, Role,
};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_wal::{Identity, Record, Wal, WalError};

use crate::disk::{CrashKind, DiskFaults, Latency, SimDisk};
use crate::events::{EventHash, Events};
use crate::nemesis::{Damage, Fault, Plan};
use crate::network::{Fate, NetworkFaults, SimNetwork};
use crate::oracle::{Checked, Violation, ensure};
use crate::report::{Options, Outcome};
use crate::rng::{Ppm, Rng};

const TICK_NANOS: u64 = 20_000_000;
const ELECTION_TICKS: usize = 10;
/// After the faults end, everything works again within this time.
const HEAL_NANOS_MAX: u64 = 30_000_000_000;

enum Event {
    Tick {
        member: usize,
        epoch: u64,
    },
    Frame {
        from: usize,
        to: usize,
        to_epoch: u64,
        bytes: Bytes,
    },
    Written {
        member: usize,
        epoch: u64,
        ready: u64,
        term: Term,
        messages: Vec<Message>,
    },
    Propose,
    Crash {
        member: usize,
        epoch: u64,
        kind: CrashKind,
        down_nanos: u64,
    },
    Restart {
        member: usize,
    },
    /// The next fault of the storm.
    Fault,
    HealNetwork,
    HealDisk {
        member: usize,
    },
    StormEnds,
    Deadline,
}

struct Batch {
    records: Vec<Record>,
    hard_state: Option<HardState>,
    ready: Option<u64>,
    messages: Vec<Message>,
    must_sync: bool,
}

impl Batch {
    fn new() -> Self {
        Self { records: Vec::new(), hard_state: None, ready: None, messages: Vec::new(), must_sync: false }
    }
}

struct Replica {
    consensus: Consensus,
    wal: Wal,
    next: Batch,
    writing: bool,
    applied: LogIndex,
    retry: bool,
}

struct Machine {
    disk: SimDisk,
    epoch: u64,
    replica: Option<Replica>,
    up: bool,
    paused_until: u64,
    crash_on_write: Option<(CrashKind, u64)>,
    crash_on_vote: Option<(CrashKind, u64)>,
    /// Bytes at rest were damaged: the log may refuse to open, saying so.
    damaged: bool,
    /// Calls were made to fail: the log may stop.
    errors: bool,
    /// What its hard state said when it was last durable for sure.
    durable_term: Term,
    founded: bool,
}

/// See the module.
pub struct LogWorld {
    options: Options,
    plan: Plan,
    rng: Rng,
    events: Events<Event>,
    hash: EventHash,
    taken: u64,
    network: SimNetwork,
    machines: Vec<Machine>,
    /// Committed entries by index: term and data.
    committed: BTreeMap<LogIndex, (Term, Bytes)>,
    leaders: BTreeMap<Term, usize>,
    acknowledged: BTreeSet<u64>,
    proposed: BTreeMap<u64, (LogIndex, Term)>,
    next_value: u64,
    storm: bool,
    damaged: Option<usize>,
    healed_from: LogIndex,
    counts: BTreeMap<&'static str, u64>,
    segment_size_bytes: u64,
}

fn member_id(member: usize) -> MemberId {
    MemberId(member as u64 + 1)
}

/// Runs one seed to its end.
#[must_use]
pub fn run(options: Options) -> Outcome {
    let mut world = LogWorld::new(options);
    let violation = world.run().err();
    world.outcome(violation)
}

impl LogWorld {
    fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed ^ 0x10_6000);
        let plan = Plan { clients: 0, ..Plan::draw(&mut rng) };
        let mut network = SimNetwork::new(rng.fork(1), 200_000);
        network.faults = plan.network_faults(&mut rng);
        let machines = (0..plan.members)
            .map(|member| Machine {
                disk: SimDisk::new(rng.fork(10 + member as u64), Latency::default(), plan.direct),
                epoch: 0,
                replica: None,
                up: true,
                paused_until: 0,
                crash_on_write: None,
                crash_on_vote: None,
                damaged: false,
                errors: false,
                durable_term: Term::ZERO,
                founded: false,
            })
            .collect();
        Self {
            events: Events::new(rng.fork(2)),
            hash: EventHash::default(),
            taken: 0,
            network,
            machines,
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            proposed: BTreeMap::new(),
            next_value: 0,
            storm: true,
            damaged: None,
            healed_from: LogIndex::ZERO,
            counts: BTreeMap::new(),
            segment_size_bytes: *rng.pick(&[64 << 10, 256 << 10, 1 << 20]),
            options,
            plan,
            rng,
        }
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>14.6} ms  {}", self.events.now() as f64 / 1e6, what());
        }
    }

    fn run(&mut self) -> Checked {
        self.trace(|| format!("{:?}", self.plan));
        for member in 0..self.plan.members {
            self.start(member)?;
        }
        self.events.at(0, Event::Propose);
        self.events.at(0, Event::Fault);
        self.events.at(self.plan.storm_nanos, Event::StormEnds);
        while let Some(event) = self.events.take() {
            self.taken += 1;
            self.hash.number(self.events.now());
            if self.take(event)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes one event; true once the run is over.
    fn take(&mut self, event: Event) -> Checked<bool> {
        match event {
            Event::Tick { member, epoch } => self.tick(member, epoch)?,
            Event::Frame { from, to, to_epoch, bytes } => self.frame(from, to, to_epoch, bytes)?,
            Event::Written { member, epoch, ready, term, messages } => {
                self.written(member, epoch, ready, term, messages)?;
            }
            Event::Propose => self.propose()?,
            Event::Crash { member, epoch, kind, down_nanos } => {
                if self.machines[member].epoch == epoch && self.machines[member].up {
                    self.crash(member, kind, down_nanos);
                }
            }
            Event::Restart { member } => self.start(member)?,
            Event::Fault if self.storm => {
                let wait = self.rng.exponential(self.plan.fault_every_nanos);
                if let Some(fault) = self.plan.next(&mut self.rng) {
                    self.fault(fault);
                }
                self.events.after(wait, Event::Fault);
            }
            Event::Fault => {}
            Event::HealNetwork => self.network.heal(),
            Event::HealDisk { member } => self.machines[member].disk.set_faults(DiskFaults::default()),
            Event::StormEnds => self.end_storm(),
            Event::Deadline => {
                return Err(Violation(format!(
                    "not all replicas serve again {} s after the faults ended: {}",
                    HEAL_NANOS_MAX / 1_000_000_000,
                    self.describe()
                )));
            }
        }
        Ok(!self.storm && self.is_healed())
    }

    fn describe(&self) -> String {
        let one = |m: &Machine| match &m.replica {
            Some(r) => {
                let s = r.consensus.status();
                format!(
                    "[{:?} term {} commit {} applied {} last {} writing {}]",
                    s.role, s.term, s.commit, r.applied, s.last_index, r.writing
                )
            }
            None => format!("[down, damaged {}]", m.damaged),
        };
        self.machines.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    // ---- starting and crashing ----

    fn wal_config(&self) -> quorate_wal::Config {
        quorate_wal::Config {
            segment_size_bytes: self.segment_size_bytes,
            payload_bytes_max: 16 << 10,
            direct: self.plan.direct,
            #[cfg(feature = "mutants")]
            skip_sync: self.options.mutant == crate::report::Mutant::SkipSync,
            ..quorate_wal::Config::default()
        }
    }

    fn start(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        if self.machines[member].replica.is_some() || self.machines[member].epoch == u64::MAX {
            return Ok(());
        }
        let machine = &mut self.machines[member];
        machine.epoch += 1;
        machine.up = true;
        machine.disk.begin(now);
        match self.open(member) {
            Ok((consensus, wal)) => {
                let machine = &mut self.machines[member];
                let term = consensus.status().term;
                ensure!(
                    term >= machine.durable_term || machine.damaged,
                    "member {member} restarts in term {term} after {} was durable",
                    machine.durable_term
                );
                let applied = LogIndex(1);
                machine.replica = Some(Replica {
                    consensus,
                    wal,
                    next: Batch::new(),
                    writing: false,
                    applied,
                    retry: false,
                });
                machine.founded = true;
                let epoch = machine.epoch;
                let at = machine.disk.busy_until();
                self.trace(|| format!("m{member} up in term {term}"));
                self.events.at(at, Event::Tick { member, epoch });
                Ok(())
            }
            Err(error) => {
                self.trace(|| format!("m{member} does not start: {error}"));
                self.machines[member].up = false;
                let machine = &self.machines[member];
                if machine.damaged
                    && matches!(
                        error,
                        WalError::Damaged { .. }
                            | WalError::Foreign { .. }
                            | WalError::WrongIdentity { .. }
                            | WalError::NewerFormat { .. }
                    )
                {
                    *self.counts.entry("member: damage found and named").or_default() += 1;
                    return Ok(());
                }
                let excused = machine.errors || matches!(error, WalError::NoSpace { .. });
                ensure!(excused, "member {member} does not start: {error}");
                self.events.after(500_000_000, Event::Restart { member });
                Ok(())
            }
        }
    }

    fn open(&mut self, member: usize) -> Result<(Consensus, Wal), WalError> {
        let disk: Arc<dyn quorate_disk::Disk> = Arc::new(self.machines[member].disk.clone());
        let identity =
            Identity { cluster: ClusterId(7), member: member_id(member), incarnation: Incarnation(9) };
        let voters: Vec<MemberId> = (0..self.plan.members).map(member_id).collect();
        let membership = Membership::new(voters, Vec::new()).expect("a membership of few voters");
        let mut restored = Restored::founding(membership);
        let wal_config = self.wal_config();
        let exists = Wal::exists(&*disk, &wal_config)
            .map_err(|error| WalError::InvalidConfig { what: error.to_string() })?;
        let (mut wal, found) = if exists {
            let (wal, recovered) = Wal::open(disk, wal_config, Some(identity))?;
            (wal, Some(recovered).filter(|recovered| recovered.hard_state.term > Term::ZERO))
        } else {
            (Wal::create(disk, wal_config, identity, 0)?, None)
        };
        match found {
            Some(recovered) => {
                let quorate_wal::HardState { term, vote, commit } = recovered.hard_state;
                restored.hard_state = HardState { term, vote: (vote.0 != 0).then_some(vote), commit };
                restored.compacted = (recovered.restart.index, recovered.restart.term);
                // A batch that a crash cut short may have left entries of a term whose hard state is gone. Nothing
                // was promised in that term yet.
                if recovered.last_term > restored.hard_state.term {
                    restored.hard_state.term = recovered.last_term;
                    restored.hard_state.vote = None;
                }
                let entries = recovered.entries.into_iter();
                restored.entries =
                    entries.map(|(index, term, payload)| unpack(index, term, &payload)).collect();
            }
            // New, or a crash came before the founding was durable: nothing was promised to anybody yet.
            None => {
                let HardState { term, commit, .. } = restored.hard_state;
                let (index, restart_term) = restored.compacted;
                wal.append(&[
                    Record::Restart { index, term: restart_term, store_generation: 0 },
                    Record::HardState(quorate_wal::HardState { term, vote: MemberId::ZERO, commit }),
                ])?;
            }
        }
        let config = Config {
            election_timeout_ticks: ELECTION_TICKS,
            heartbeat_ticks: 2,
            #[cfg(feature = "mutants")]
            mutant: self.options.mutant.of_consensus(),
            ..Config::new(member_id(member), self.rng.draw())
        };
        let consensus = Consensus::new(config, restored)
            .map_err(|error| WalError::InvalidConfig { what: error.to_string() })?;
        Ok((consensus, wal))
    }

    fn crash(&mut self, member: usize, kind: CrashKind, down_nanos: u64) {
        let now = self.events.now();
        self.trace(|| format!("m{member} crashes ({kind:?})"));
        let machine = &mut self.machines[member];
        machine.replica = None;
        machine.up = false;
        machine.epoch += 1;
        machine.paused_until = 0;
        machine.disk.crash(now, kind);
        self.events.after(down_nanos, Event::Restart { member });
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.events.now();
        self.trace(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Crash { member, kind, down_nanos } => {
                if self.machines[member].up {
                    self.crash(member, kind, down_nanos);
                }
            }
            Fault::CrashWhileWriting { member, kind, down_nanos } => {
                self.machines[member].crash_on_write = Some((kind, down_nanos));
            }
            Fault::CrashAfterVote { member, kind, down_nanos } => {
                self.machines[member].crash_on_vote = Some((kind, down_nanos));
            }
            Fault::Blackout { down_nanos } => {
                for member in 0..self.plan.members {
                    if self.machines[member].up {
                        self.crash(member, CrashKind::Power, down_nanos);
                    }
                }
            }
            Fault::Partition { shape, nanos } => {
                shape.apply(&mut self.network, self.plan.members);
                self.events.after(nanos, Event::HealNetwork);
            }
            Fault::Pause { member, nanos } => {
                self.machines[member].paused_until = now + nanos;
                *self.counts.entry("member: paused").or_default() += 1;
            }
            Fault::SlowDisk { member, factor, stuck, nanos } => {
                let disk = &self.machines[member].disk;
                disk.set_slow(factor, now + nanos);
                if stuck {
                    disk.set_stuck(now + nanos);
                }
            }
            Fault::Disk { member, faults, nanos } => {
                self.machines[member].disk.set_faults(faults);
                self.machines[member].errors = true;
                self.events.after(nanos, Event::HealDisk { member });
            }
            Fault::FullDisk { member, nanos } => {
                let disk = &self.machines[member].disk;
                disk.set_faults(DiskFaults { capacity_bytes: disk.used_bytes(), ..DiskFaults::default() });
                self.events.after(nanos, Event::HealDisk { member });
            }
            Fault::Damage { how } => self.damage(how),
            Fault::Transfer { to } => {
                for machine in &mut self.machines {
                    if let Some(replica) = &mut machine.replica {
                        let _ = replica.consensus.transfer_leadership(member_id(to));
                    }
                }
            }
            Fault::Clock { .. } => {}
        }
    }

    /// Damages the one disk of this run that may be damaged.
    fn damage(&mut self, how: Damage) {
        if self.plan.members < 3 {
            return;
        }
        let member = *self.damaged.get_or_insert_with(|| self.rng.below(self.plan.members as u64) as usize);
        let machine = &mut self.machines[member];
        machine.damaged = true;
        match how {
            Damage::Rot => {
                machine.disk.rot(&|_| true);
            }
            Damage::Misdirect | Damage::StaleRead => {
                let chance = Ppm(20_000);
                let mut faults = DiskFaults { damage_budget: 1, ..machine.disk.faults() };
                if how == Damage::Misdirect {
                    (faults.misdirected_write, faults.misdirected_read) = (chance, chance);
                } else {
                    faults.stale_read = chance;
                }
                machine.disk.set_faults(faults);
            }
        }
    }

    fn end_storm(&mut self) {
        self.trace(|| "the faults end".to_owned());
        self.storm = false;
        self.network.heal();
        self.network.faults = NetworkFaults::default();
        self.healed_from = self.committed.keys().next_back().copied().unwrap_or_default();
        let now = self.events.now();
        for machine in &mut self.machines {
            machine.disk.set_faults(DiskFaults::default());
            machine.disk.set_slow(1, now);
            machine.disk.set_stuck(now);
            machine.paused_until = machine.paused_until.min(now);
            machine.crash_on_write = None;
            machine.crash_on_vote = None;
        }
        self.events.after(HEAL_NANOS_MAX, Event::Deadline);
    }

    /// Every replica that can run committed something new, and all have the same.
    fn is_healed(&self) -> bool {
        let last = self.committed.keys().next_back().copied().unwrap_or_default();
        let enough = self.healed_from.0 + 20;
        last.0 > enough
            && self.machines.iter().all(|machine| match &machine.replica {
                Some(replica) => replica.applied.0 > enough,
                None => machine.damaged && !machine.up,
            })
    }

    // ---- running ----

    fn tick(&mut self, member: usize, epoch: u64) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        if machine.epoch != epoch {
            return Ok(());
        }
        if machine.paused_until > now {
            let at = machine.paused_until;
            self.events.at(at, Event::Tick { member, epoch });
            return Ok(());
        }
        machine.disk.settle(now);
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        replica.consensus.tick();
        if replica.retry {
            replica.retry = false;
        }
        self.events.after(TICK_NANOS, Event::Tick { member, epoch });
        self.turn(member)
    }

    fn frame(&mut self, from: usize, to: usize, to_epoch: u64, bytes: Bytes) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[to];
        self.hash.bytes(&bytes);
        if machine.paused_until > now {
            let at = machine.paused_until;
            self.events.at(at, Event::Frame { from, to, to_epoch, bytes });
            return Ok(());
        }
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        // A flipped bit that the decoder accepts would be caught by the frame's checksum; only whole frames get here.
        let Ok(message) = Message::decode(&bytes) else {
            return Err(Violation("a whole message does not decode".to_owned()));
        };
        let _ = replica.consensus.step(message);
        self.turn(to)
    }

    fn written(
        &mut self,
        member: usize,
        epoch: u64,
        ready: u64,
        term: Term,
        messages: Vec<Message>,
    ) -> Checked {
        if self.machines[member].epoch != epoch {
            return Ok(());
        }
        let now = self.events.now();
        if self.machines[member].paused_until > now {
            let at = self.machines[member].paused_until;
            self.events.at(at, Event::Written { member, epoch, ready, term, messages });
            return Ok(());
        }
        let Some(replica) = &mut self.machines[member].replica else { return Ok(()) };
        replica.writing = false;
        replica.consensus.persisted(ready);
        self.machines[member].durable_term = self.machines[member].durable_term.max(term);
        self.send(member, messages);
        self.turn(member)
    }

    fn turn(&mut self, member: usize) -> Checked {
        loop {
            let Some(replica) = &mut self.machines[member].replica else { return Ok(()) };
            let Some(ready) = replica.consensus.ready() else { break };
            assert!(ready.snapshot.is_none(), "nothing here makes snapshots");
            for entry in &ready.entries {
                replica.next.records.push(Record::Entry {
                    index: entry.index,
                    term: entry.term,
                    payload: pack(entry),
                });
            }
            if ready.hard_state.is_some() {
                replica.next.hard_state = ready.hard_state;
            }
            if let Some(change) = ready.role_change.filter(|change| change.role == Role::Leader) {
                let first = *self.leaders.entry(change.term).or_insert(member);
                ensure!(first == member, "members {first} and {member} both lead in term {}", change.term);
            }
            replica.next.ready = Some(ready.number);
            replica.next.must_sync |= ready.must_sync;
            replica.next.messages.extend(ready.persisted_messages);
            self.send(member, ready.messages);
            self.commit(member, ready.committed)?;
        }
        self.write(member)
    }

    fn write(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        if replica.writing || replica.retry {
            return Ok(());
        }
        let Some(ready) = replica.next.ready else { return Ok(()) };
        let mut batch = std::mem::replace(&mut replica.next, Batch::new());
        if !batch.must_sync && batch.records.is_empty() {
            replica.consensus.persisted(ready);
            replica.next.hard_state = batch.hard_state;
            let messages = batch.messages;
            self.send(member, messages);
            return self.turn(member);
        }
        let mut records = std::mem::take(&mut batch.records);
        if let Some(HardState { term, vote, commit }) = batch.hard_state {
            let vote = vote.unwrap_or(MemberId::ZERO);
            records.push(Record::HardState(quorate_wal::HardState { term, vote, commit }));
        }
        machine.disk.begin(now);
        match replica.wal.append(&records) {
            Ok(_) => {}
            Err(WalError::NoSpace { .. }) => {
                // Nothing was written: the same batch again at the next tick.
                *self.counts.entry("member: batch waits for space").or_default() += 1;
                if batch.hard_state.is_some() {
                    records.pop();
                }
                records.append(&mut replica.next.records);
                batch.records = records;
                replica.next = batch;
                replica.retry = true;
                return Ok(());
            }
            Err(error) => {
                ensure!(machine.errors || machine.damaged, "member {member}: the log stops: {error}");
                *self.counts.entry("member: stopped after a failed write").or_default() += 1;
                self.crash(member, CrashKind::Process, 200_000_000);
                return Ok(());
            }
        }
        replica.writing = true;
        let done = machine.disk.busy_until();
        let epoch = machine.epoch;
        if let Some((kind, down_nanos)) = machine.crash_on_write.take() {
            let at = self.rng.between(now, done);
            self.events.at(at, Event::Crash { member, epoch, kind, down_nanos });
        }
        let term = batch.hard_state.map_or(Term::ZERO, |state| state.term);
        if batch.hard_state.is_some_and(|state| state.vote.is_some() && state.term > machine.durable_term)
            && let Some((kind, down_nanos)) = machine.crash_on_vote.take()
        {
            let at = done + self.rng.below(3_000_000);
            self.events.at(at, Event::Crash { member, epoch, kind, down_nanos });
        }
        self.events.at(done, Event::Written { member, epoch, ready, term, messages: batch.messages });
        Ok(())
    }

    fn send(&mut self, from: usize, messages: Vec<Message>) {
        let now = self.events.now();
        for message in messages {
            let to = message.to().0 as usize - 1;
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let bytes = Bytes::from(bytes);
            let to_epoch = self.machines[to].epoch;
            match self.network.send(now, from, to, 0, false, bytes.len()) {
                Fate::Arrives { at, again_at } => {
                    for at in [Some(at), again_at].into_iter().flatten() {
                        self.events.at(at, Event::Frame { from, to, to_epoch, bytes: bytes.clone() });
                    }
                }
                Fate::Corrupt { .. } | Fate::Lost | Fate::Broken { .. } => {}
            }
        }
    }

    fn commit(&mut self, member: usize, entries: Vec<Entry>) -> Checked {
        for entry in entries {
            let machine = &mut self.machines[member];
            let Some(replica) = &mut machine.replica else { return Ok(()) };
            ensure!(
                entry.index == replica.applied.next(),
                "member {member} commits {} after {}",
                entry.index,
                replica.applied
            );
            replica.applied = entry.index;
            replica.consensus.applied(entry.index);
            let known = self.committed.entry(entry.index).or_insert_with(|| (entry.term, entry.data.clone()));
            ensure!(
                *known == (entry.term, entry.data.clone()),
                "committed prefixes disagree: member {member} has another entry at index {} (term {}) than was committed before (term {})",
                entry.index,
                entry.term,
                known.0
            );
            if entry.kind != EntryKind::Command {
                continue;
            }
            let value = u64::from_le_bytes(entry.data[..8].try_into().expect("eight bytes"));
            // The proposer hears of it as soon as any member commits it: the hardest promise to keep.
            if let Some((index, term)) = self.proposed.get(&value) {
                ensure!(
                    (*index, *term) == (entry.index, entry.term),
                    "value {value} was proposed at {index} in term {term} and is committed at {} in {}",
                    entry.index,
                    entry.term
                );
                self.acknowledged.insert(value);
            }
        }
        Ok(())
    }

    fn propose(&mut self) -> Checked {
        let wait = self.rng.exponential(8_000_000);
        self.events.after(wait, Event::Propose);
        let leaders: Vec<usize> = (0..self.plan.members)
            .filter(|m| {
                self.machines[*m].replica.as_ref().is_some_and(|r| r.consensus.status().role == Role::Leader)
            })
            .filter(|m| self.machines[*m].paused_until <= self.events.now())
            .collect();
        for member in leaders {
            let many = if self.rng.one_in(10) { 20 } else { 1 };
            for _ in 0..many {
                let Some(replica) = &mut self.machines[member].replica else { break };
                self.next_value += 1;
                let mut data = self.next_value.to_le_bytes().to_vec();
                let len = if self.rng.one_in(10) { self.rng.below(8_000) } else { self.rng.below(100) };
                data.resize(8 + len as usize, self.next_value as u8);
                if let Ok((index, term)) = replica.consensus.propose(Bytes::from(data)) {
                    self.proposed.insert(self.next_value, (index, term));
                }
            }
            self.turn(member)?;
        }
        Ok(())
    }

    fn outcome(&self, violation: Option<Violation>) -> Outcome {
        let mut faults = self.counts.clone();
        for (name, count) in self.network.counts.faults() {
            *faults.entry(name).or_default() += count;
        }
        for machine in &self.machines {
            for (name, count) in machine.disk.counts().faults() {
                *faults.entry(name).or_default() += count;
            }
        }
        Outcome {
            seed: self.options.seed,
            violation: violation
                .map(|Violation(what)| format!("at {:.6} ms: {what}", self.events.now() as f64 / 1e6)),
            events: self.taken,
            virtual_nanos: self.events.now(),
            hash: self.hash.value(),
            operations: self.acknowledged.len() as u64,
            faults,
        }
    }
}

fn pack(entry: &Entry) -> Bytes {
    let mut payload = vec![entry.kind.code()];
    payload.extend_from_slice(&entry.data);
    Bytes::from(payload)
}

fn unpack(index: LogIndex, term: Term, payload: &Bytes) -> Entry {
    let kind = EntryKind::from_code(payload[0]).expect("a kind that was packed");
    Entry { index, term, kind, data: payload.slice(1..) }
}
