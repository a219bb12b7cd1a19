//! The small world: consensus and the write-ahead log alone, with a chain of hashes for a state machine.
//!
//! It runs many times as many elections, crashes and recoveries a second as whole members do, so what breaks below the
//! member shows here first. Oracles: one leader a term, committed prefixes agree, nothing that a client was told is committed is lost,
//! terms and commit indexes of one member never go back over a restart, a log comes back from every crash, and after
//! the faults end all replicas commit again and agree.
//!
//! A process makes its disk calls one after the other, and is up only once those of its opening are complete.

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

mod faults;
mod life;
mod running;

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
    /// The disk calls of an opening are complete.
    Opened {
        member: usize,
        epoch: u64,
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
    /// What opening the log came to; it takes part once the disk calls of the opening are complete.
    opening: Option<Result<(Consensus, Wal), WalError>>,
    replica: Option<Replica>,
    up: bool,
    paused_until: u64,
    crash_on_write: Option<(CrashKind, u64)>,
    crash_on_vote: Option<(CrashKind, u64)>,
    /// Until then it dies after each vote, and is back in milliseconds.
    vote_race: Option<(CrashKind, u64)>,
    /// Bytes at rest were damaged: the log may refuse to open, saying so.
    damaged: bool,
    /// Calls were made to fail: the log may stop.
    errors: bool,
    /// What its hard state said when it was last durable for sure.
    durable_term: Term,
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
                opening: None,
                replica: None,
                up: true,
                paused_until: 0,
                crash_on_write: None,
                crash_on_vote: None,
                vote_race: None,
                damaged: false,
                errors: false,
                durable_term: Term::ZERO,
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
            self.start(member);
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
            Event::Restart { member } => self.start(member),
            Event::Opened { member, epoch } => self.opened(member, epoch)?,
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
