//! The whole world: members with all their stages, their disks, clocks and links, clients, faults and oracles.
//!
//! Every stage is a plain struct that the world steps when its turn comes; what a step puts out is handed on once the
//! step's disk calls are complete in virtual time, after a delay that the seed draws, so stages interleave as threads
//! would. A crash drops the structs and whatever was under way.

mod arrivals;
mod clients;
mod damage;
mod doors;
mod faults;
mod founding;
mod full;
mod hosting;
mod leftovers;
mod locks;
mod member;
mod newcomers;
mod operator;
pub mod script;
mod scrub;
mod settings;
mod shown;
mod snapshot_rot;
mod stages;
mod statistics;
mod tree;
mod versions;
mod vigil;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{ClusterId, LogIndex, MemberId};
use quorate_member::MemberList;
use quorate_member::joining::{Offer, Reply};

use crate::clock::Clock;
use crate::disk::{CrashKind, Latency, SimDisk};
use crate::events::{EventHash, Events};
use crate::nemesis::{Cut, End, Plan};
use crate::network::SimNetwork;
use crate::oracle::{Checked, Oracle, Violation, ensure};
use crate::report::{Options, Outcome};
use crate::rng::Rng;
use clients::{Client, Delivery};
use member::{Input, Machine, Stage};
pub use newcomers::Way;
pub use settings::Settings;

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;
/// After the faults end, every member serves and all agree within this time.
const HEAL_NANOS_MAX: u64 = 60 * SECOND;
/// Once no client asks for anything any more, every lease (of 8 s at most) has ended within this time.
const LEASES_END_NANOS_MAX: u64 = 20 * SECOND;
/// Inputs that may wait for a stage: a queue beyond this is a leak.
const QUEUE_MAX: usize = 20_000;

enum Event {
    Wake {
        member: usize,
        epoch: u64,
        stage: Stage,
    },
    /// A stage is handed something by another one.
    Hand {
        member: usize,
        epoch: u64,
        input: Input,
    },
    Frame {
        from: usize,
        to: usize,
        sent: Sent,
        bytes: Bytes,
    },
    /// A member answers a client.
    Tell {
        member: usize,
        epoch: u64,
        seq: u64,
        delivery: Delivery,
    },
    /// One member asks another who the members are.
    Question {
        from: usize,
        from_epoch: u64,
        to: usize,
        of: MemberId,
    },
    /// Somebody's question about joining arrives, is answered, or the connection breaks.
    Put {
        ask: u64,
    },
    Reply {
        ask: u64,
        reply: Reply,
    },
    NoReply {
        ask: u64,
    },
    /// An admission goes on after a pause.
    Paused {
        admission: u64,
        epoch: u64,
    },
    /// A newcomer asks its peers once more.
    AskAgain {
        machine: usize,
        epoch: u64,
    },
    /// The record of a move to another cluster is durable, or can't be written.
    Moved {
        member: usize,
        epoch: u64,
        ask: u64,
        offer: Offer,
        reply: Reply,
    },
    /// Time to look at who has to be made known, and who votes.
    Look,
    /// The operator looks at the cluster.
    Operator,
    /// The operator hears of its change, or loses patience.
    Changed {
        operation: u64,
        delivery: Delivery,
    },
    /// A client hears something, or loses patience.
    Heard {
        client: usize,
        operation: u64,
        delivery: Delivery,
    },
    Client {
        client: usize,
    },
    Watch {
        client: usize,
    },
    Locker {
        number: usize,
    },
    Crash {
        member: usize,
        epoch: u64,
        kind: CrashKind,
        down_nanos: u64,
    },
    Restart {
        member: usize,
    },
    Fault,
    HealNetwork,
    HealDisk {
        member: usize,
    },
    StormEnds,
    /// Time to look for damaged records again.
    Scrub {
        member: usize,
        epoch: u64,
    },
    Deadline,
    /// A script waited for this time.
    Waited,
    /// Nobody has kept any lease alive for longer than any lasts.
    LeasesEnd,
}

/// What must still be true of the two ends when a frame arrives.
#[derive(Clone, Copy)]
struct Sent {
    from_id: MemberId,
    from_epoch: u64,
    to_id: MemberId,
    to_epoch: u64,
    lane: u8,
    breaks: u64,
    strict: bool,
}

/// See the module.
pub struct World {
    options: Options,
    kind: Kind,
    plan: Plan,
    settings: Settings,
    rng: Rng,
    events: Events<Event>,
    hash: EventHash,
    taken: u64,
    network: SimNetwork,
    machines: Vec<Machine>,
    numbers: BTreeMap<MemberId, usize>,
    /// Where members come and go: who has it done.
    operator: Option<operator::Operator>,
    /// Where members join by request: who does.
    newcomers: Option<newcomers::Newcomers>,
    /// What holds in the clusters besides the first.
    lone: BTreeMap<ClusterId, Oracle>,
    /// Where disks get full: how far that is.
    filled: Option<full::Filled>,
    /// Those who take locks, in some seeds.
    lockers: Option<locks::Lockers>,
    /// Questions of members that wait for an answer: who asked, in which run.
    questions: BTreeMap<u64, (usize, u64)>,
    clients: Vec<Client>,
    /// Who waits for the answer to a request of a member's run.
    asked: BTreeMap<(usize, u64, u64), (usize, u64)>,
    oracle: Oracle,
    leaders: BTreeMap<(ClusterId, u64), MemberId>,
    storm: bool,
    /// The last phase: nobody asks for anything any more, all members come to the same end.
    draining: bool,
    damaged: Option<usize>,
    vigil: Option<vigil::Vigil>,
    /// How a snapshot is to be cut off.
    cut_snapshot: Option<(Cut, CrashKind, u64)>,
    /// Where bits of the next snapshot flip, and whether any did at a receiver.
    rot_in_snapshot: Option<End>,
    rot_was_received: bool,
    /// How often all members' records were read once the faults had ended, and when that may be done again.
    scrubs: u32,
    scrub_due_at: u64,
    /// Since when all is as it should be in the end, but for what lies on disks; and when they are looked at again.
    at_rest_since: Option<u64>,
    look_for_leftovers_at: u64,
    counts: BTreeMap<&'static str, u64>,
    /// What a script does with messages of consensus.
    intercept: Option<script::Intercept>,
}

/// Which world a seed is run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The members are those that found the cluster.
    Fixed,
    /// Members come and go.
    Members,
    /// Members join by request, or give up a cluster of their own to join.
    Joins,
    /// The disks are small, and get full.
    Full,
}

/// Runs one seed to its end, with the members that found the cluster.
#[must_use]
pub fn run(options: Options) -> Outcome {
    run_with(options, Kind::Fixed)
}

/// Runs one seed to its end.
#[must_use]
pub fn run_with(options: Options, kind: Kind) -> Outcome {
    let mut world = World::new(options, kind);
    let violation = world.run().err();
    world.outcome(violation)
}

impl World {
    fn new(options: Options, kind: Kind) -> Self {
        let mut rng = Rng::new(options.seed);
        let plan = match kind {
            Kind::Fixed => Plan::draw(&mut rng),
            Kind::Members => Plan::draw_for_members(&mut rng),
            Kind::Joins => Plan::draw_for_joins(&mut rng),
            Kind::Full => Plan::draw_for_full_disks(&mut rng),
        };
        let mut settings = Settings::draw(&mut rng);
        if kind == Kind::Full {
            settings = full::settings(&mut rng, settings);
        }
        Self::with(options, kind, plan, settings, rng)
    }

    fn with(options: Options, kind: Kind, plan: Plan, settings: Settings, mut rng: Rng) -> Self {
        let fills = kind == Kind::Full;
        let mut network = SimNetwork::new(rng.fork(1), rng.between(50_000, 2 * MILLI));
        network.faults = plan.network_faults(&mut rng);
        let machines: Vec<Machine> = (0..plan.members)
            .map(|member| {
                let drift_ppm = if plan.clock_jumps { rng.below(1_000) as i64 - 500 } else { 0 };
                let wall_nanos = if plan.clock_jumps { rng.below(60 * SECOND) as i64 } else { 0 };
                let founds = member < plan.founders;
                Machine {
                    identity: if founds { founding::identity(member) } else { founding::NOBODY },
                    joins: !founds,
                    founded: None,
                    moved: None,
                    asks: false,
                    called: None,
                    refused: None,
                    asking: None,
                    wiped: false,
                    kept: Arc::new(MemberList::default()),
                    log_end: LogIndex::ZERO,
                    book_at: 0,
                    disk: SimDisk::new(rng.fork(100 + member as u64), Latency::default(), plan.direct),
                    clock: Clock::new(rng.between(SECOND, 1_000 * SECOND), drift_ppm, wall_nanos),
                    epoch: 0,
                    running: None,
                    given_up: !founds,
                    restart_pending: false,
                    paused_until: 0,
                    crash_on_write: None,
                    written_term: 0,
                    crash_on_vote: None,
                    vote_race: None,
                    damaged: false,
                    log_rot: None,
                    errors: false,
                    failures: 0,
                    served: 0,
                    shown: shown::Shown::default(),
                }
            })
            .collect();
        let mut mix = crate::workload::Mix::draw(&mut rng);
        if fills {
            mix = full::mix(mix);
            let capacities = full::capacities(&mut rng, &settings, plan.members);
            machines.iter().zip(capacities).for_each(|(machine, bytes)| machine.disk.set_capacity(bytes));
        }
        let mut tree_mix = crate::workload::TreeMix::draw(options.seed);
        if fills {
            // What it holds would have to be deleted, too.
            tree_mix.per_mille = 0;
        }
        let mut clients: Vec<Client> = (0..plan.clients)
            .map(|client| {
                let tree = tree::TreeClient::new(options.seed, client, tree_mix);
                Client::new(rng.fork(1_000 + client as u64), client, mix, plan.members, tree)
            })
            .collect();
        if plan.lonely_leaders && kind == Kind::Fixed {
            clients.extend(Client::keepers(options.seed, plan.clients, plan.members));
        }
        Self {
            events: Events::new(rng.fork(2)),
            hash: EventHash::default(),
            taken: 0,
            network,
            machines,
            numbers: (0..plan.founders).map(|member| (member_id(member), member)).collect(),
            operator: (matches!(kind, Kind::Members | Kind::Joins))
                .then(|| operator::Operator::new(rng.fork(3), &plan)),
            newcomers: (kind == Kind::Joins).then(|| newcomers::Newcomers::draw(options.seed, plan.wipes)),
            lone: BTreeMap::new(),
            filled: fills.then(full::Filled::new),
            // Their keys would have to be deleted, too.
            lockers: if fills { None } else { locks::Lockers::draw(options.seed, plan.members) },
            questions: BTreeMap::new(),
            clients,
            asked: BTreeMap::new(),
            oracle: Oracle::founded(&founding::founders(kind, plan.founders)),
            leaders: BTreeMap::new(),
            storm: true,
            draining: false,
            damaged: None,
            vigil: None,
            cut_snapshot: None,
            rot_in_snapshot: None,
            rot_was_received: false,
            scrubs: 0,
            scrub_due_at: 0,
            at_rest_since: None,
            look_for_leftovers_at: 0,
            counts: BTreeMap::new(),
            intercept: None,
            options,
            kind,
            plan,
            settings,
            rng,
        }
    }

    fn heal_nanos_max(&self) -> u64 {
        if self.newcomers.is_some() { newcomers::HEAL_NANOS_MAX } else { HEAL_NANOS_MAX }
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>14.6} ms  {}", self.events.now() as f64 / 1e6, what());
        }
    }

    /// False for a member whose own mistake the others must find: no client talks to it.
    fn is_judged(&self, member: usize) -> bool {
        !(self.options.mutant.is_one_members_own() && member == 1)
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn run(&mut self) -> Checked {
        self.trace(|| format!("{:?}\n{:?}", self.plan, self.settings));
        for member in 0..self.plan.founders {
            self.start(member)?;
        }
        if self.operator.is_some() {
            self.events.at(0, Event::Operator);
        }
        if self.newcomers.is_some() {
            self.events.at(0, Event::Look);
        }
        self.begin_clients();
        for number in 0..self.lockers.as_ref().map_or(0, locks::Lockers::len) {
            self.events.at(0, Event::Locker { number });
        }
        let first = self.rng.exponential(self.plan.fault_every_nanos);
        self.events.at(first, Event::Fault);
        self.events.at(self.plan.storm_nanos, Event::StormEnds);
        self.run_to_the_end()
    }

    fn begin_clients(&mut self) {
        for client in 0..self.clients.len() {
            self.events.at(0, Event::Client { client });
            self.events.at(0, Event::Watch { client });
        }
    }

    /// What happens next, happens; false where nothing does.
    fn step(&mut self) -> Checked<bool> {
        let Some(event) = self.events.take() else { return Ok(false) };
        self.taken += 1;
        self.hash.number(self.events.now());
        self.take(event)?;
        Ok(true)
    }

    /// Until nobody asks for anything any more and all members came to the same end, which is looked at then.
    fn run_to_the_end(&mut self) -> Checked {
        while self.step()? {
            if self.draining && self.is_settled() && self.is_sound()? && self.is_tidy()? {
                return self.compare_all();
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Checked {
        match event {
            Event::Wake { member, epoch, stage } => self.wake(member, epoch, stage),
            Event::Hand { member, epoch, input } => {
                if self.machines[member].epoch == epoch {
                    self.push(member, input)?;
                }
                Ok(())
            }
            Event::Frame { from, to, sent, bytes } => self.arrived(from, to, sent, bytes),
            Event::Tell { member, epoch, seq, delivery } => match self.asked.remove(&(member, epoch, seq)) {
                Some((operator::CLIENT, operation)) => self.changed(operation, delivery),
                Some((newcomers::WRITER, operation)) => self.written_alone(operation, delivery),
                Some((hosting::HOST, operation)) => self.admission_heard(operation, delivery),
                Some((client, operation)) => self.heard(client, operation, delivery),
                None => Ok(()),
            },
            Event::Question { from, from_epoch, to, of } => self.questioned(from, from_epoch, to, of),
            Event::Put { ask } => self.question_put(ask),
            Event::Reply { ask, reply } => self.reply_came(ask, Ok(reply)),
            Event::NoReply { ask } => self.reply_came(ask, Err("the connection broke".to_owned())),
            Event::Paused { admission, epoch } => self.admission_paused(admission, epoch),
            Event::AskAgain { machine, epoch } => self.ask_again(machine, epoch),
            Event::Moved { member, epoch, ask, offer, reply } => self.moved(member, epoch, ask, offer, reply),
            Event::Look => self.newcomers_look(),
            Event::Operator if self.newcomers.is_some() => self.newcomers_turn(),
            Event::Operator => self.operator_turn(),
            Event::Changed { operation, delivery } => self.changed(operation, delivery),
            Event::Heard { client: operator::CLIENT, operation, delivery } => {
                self.changed(operation, delivery)
            }
            Event::Heard { client: newcomers::WRITER, operation, delivery } => {
                self.written_alone(operation, delivery)
            }
            Event::Heard { client: hosting::HOST, operation, delivery } => {
                self.admission_heard(operation, delivery)
            }
            Event::Heard { client, operation, delivery } => self.heard(client, operation, delivery),
            Event::Locker { number } => self.locker_turn(number),
            Event::Client { client } => self.client_turn(client),
            Event::Watch { client } => self.watch_turn(client),
            Event::Crash { member, epoch, kind, down_nanos } => {
                if self.machines[member].epoch == epoch {
                    self.crash(member, kind, down_nanos);
                }
                Ok(())
            }
            Event::Restart { member } => {
                self.machines[member].restart_pending = false;
                self.start(member)
            }
            Event::Fault => {
                self.next_fault();
                Ok(())
            }
            Event::HealNetwork => {
                if !self.is_vigil() {
                    self.network.heal();
                }
                Ok(())
            }
            Event::HealDisk { member } => {
                self.machines[member].disk.set_faults(crate::disk::DiskFaults::default());
                Ok(())
            }
            Event::StormEnds => {
                self.end_storm();
                Ok(())
            }
            Event::Scrub { member, epoch } => {
                if self.machines[member].epoch == epoch {
                    self.scrub(member);
                }
                Ok(())
            }
            Event::LeasesEnd => {
                let alive = self.oracle.reference().leases();
                ensure!(
                    alive == 0,
                    "{alive} leases live {} s after the last could be renewed",
                    LEASES_END_NANOS_MAX / SECOND
                );
                let deadline = self.oracle.tree.reference().next_deadline();
                ensure!(deadline.is_none(), "a node of the tree outlives its deadline, {deadline:?}");
                Ok(())
            }
            Event::Waited => Ok(()),
            // At rest, only what lies on disks is waited for.
            Event::Deadline if self.at_rest_since.is_some() => Ok(()),
            Event::Deadline => {
                let seconds = self.heal_nanos_max() / SECOND;
                Err(Violation(format!(
                    "not all members serve and agree {seconds} s after the faults ended: {}",
                    self.describe()
                )))
            }
        }
    }

    fn describe(&self) -> String {
        let one = |(member, m): (usize, &Machine)| match &m.running {
            Some(r) => {
                let waiting: Vec<usize> = r.queues.iter().map(|q| q.waiting.len()).collect();
                format!(
                    "\n  m{member}: {:?} served {} waiting {waiting:?} files {}",
                    r.status,
                    m.served,
                    m.disk.files()
                )
            }
            None => format!("\n  m{member}: down, given up {}", m.given_up),
        };
        let one = |(member, m): (usize, &Machine)| {
            let disk = if self.filled.is_some() {
                let live = m.running.as_ref().map(|running| {
                    let tables = running.stages.store.read();
                    (quorate_models::keys::data_bytes(&tables), running.stages.store.front_bytes())
                });
                format!(" disk {:?} of {:?}, live {live:?}", m.disk.folders(), m.disk.capacity())
            } else {
                String::new()
            };
            let identity =
                if self.operator.is_some() { format!(" ({})", self.id_of(member)) } else { String::new() };
            one((member, m)) + &identity + &disk
        };
        let hosting = self.newcomers.as_ref().map(|newcomers| newcomers.describe()).unwrap_or_default();
        self.machines.iter().enumerate().map(one).chain([hosting]).collect()
    }

    /// Everybody is up (or given up with reason), idle, at the end of the log, and shows it; no lease is left.
    fn is_settled(&self) -> bool {
        let end = self.oracle.committed_index();
        let expected = |member: usize| self.operator.is_none() || self.is_member(member);
        self.asked.is_empty()
            && self.oracle.reference().leases() == 0
            && self.oracle.tree.reference().next_deadline().is_none()
            && (self.newcomers.is_none() || (self.all_are_home() && self.others_settled()))
            && self.machines.iter().enumerate().all(|(member, machine)| match &machine.running {
                _ if !expected(member) => true,
                Some(running) => {
                    running.stages.apply.applied_index() == end
                        && running.status.replayed
                        && !running.stages.apply.has_work()
                        && running.queues.iter().all(|queue| queue.waiting.is_empty())
                }
                None => machine.given_up && self.operator.is_none(),
            })
    }

    /// The id of the member on a machine.
    fn id_of(&self, member: usize) -> MemberId {
        self.machines[member].identity.member
    }

    /// Whether the member on this machine is one of the cluster, as far as anybody committed.
    fn is_member(&self, member: usize) -> bool {
        self.oracle.members.is_member(self.id_of(member))
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
        if self.operator.is_some() {
            let members = self.oracle.members.counts;
            for (name, count) in [
                ("members: joined", members.joined),
                ("members: promoted", members.promoted),
                ("members: demoted", members.demoted),
                ("members: removed", members.removed),
                ("oracle: member lists compared", members.compared),
            ] {
                *faults.entry(name).or_default() += count;
            }
        }
        let counts = self.oracle.counts;
        let tree = self.oracle.tree.counts;
        for (name, count) in [
            ("oracle: hashes compared", counts.hashes_compared),
            ("oracle: leases expired", counts.leases_expired),
            ("oracle: leases kept alive", counts.keep_alives),
            ("oracle: linearizable reads", counts.reads),
            ("oracle: serializable reads", counts.serializable_reads),
            ("oracle: watch events", counts.watch_events),
            ("oracle: writes answered", counts.answers),
            ("oracle: writes with unknown outcome", counts.unknown),
            ("oracle: tree changes", tree.changes),
            ("oracle: tree commands refused", tree.refused),
            ("oracle: tree commands that users and roles had moved on from", tree.outdated),
            ("oracle: changes of the tree's users and roles", tree.auth_changes),
            ("oracle: tree nodes expired", tree.expired),
            ("oracle: tree reads", tree.reads),
            ("oracle: tree watch events", tree.watch_events),
        ] {
            *faults.entry(name).or_default() += count;
        }
        Outcome {
            seed: self.options.seed,
            violation: violation
                .map(|Violation(what)| format!("at {:.6} ms: {what}", self.events.now() as f64 / 1e6)),
            events: self.taken,
            virtual_nanos: self.events.now(),
            hash: self.hash.value(),
            operations: counts.answers + counts.reads + counts.serializable_reads + tree.reads,
            faults,
        }
    }
}

fn member_id(member: usize) -> MemberId {
    MemberId(member as u64 + 1)
}
