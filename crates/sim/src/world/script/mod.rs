//! A world that follows a script: what goes wrong, and what is asked of whom, is said step by step instead of drawn.
//!
//! A script waits for what it needs ([`Script::until`]), in virtual time; the seed decides all that is left open: delays,
//! what a disk loses, who is elected. Everything is judged as in any other world, and in the end everything is healed, every
//! member has to serve, and all have to hold what the log says.
//!
//! Invariant: a script that cannot get what it waits for is a violation, not a success.

mod disks;
mod joins;
mod messages;

use bytes::Bytes;
use quorate_ids::{LogIndex, Revision, Term};
use quorate_member::core::{LeaseAnswer, LogInput};
use quorate_member::{ModelReply, RequestError, Status};
use quorate_models::keys::{self, Command, KeysError, Put, RangeEnd, RangeQuery, RangeReply, Reply};
use quorate_models::{ModelId, tree};
use quorate_store::Store;

use super::clients::{Client, Delivery, Pending};
use super::member::{Input, Stage};
use super::newcomers::Way;
use super::tree::TreeClient;
use super::{Event, Kind, MILLI, SECOND, Settings, World};
use crate::disk::CrashKind;
use crate::nemesis::{Plan, Shape};
use crate::oracle::{Checked, Oracle, Violation, Watched, ensure};
use crate::report::{Options, Outcome};
use crate::rng::Rng;
use crate::workload::{Mix, TreeMix};
pub(super) use messages::Intercept;

/// A script waits so long for anything at most.
const WAIT_NANOS_MAX: u64 = 120 * SECOND;
/// Longer than any script takes.
const FOR_GOOD_NANOS: u64 = 3_600 * SECOND;
/// Between two tries of something that has to be done in the end.
const RETRY_NANOS: u64 = 20 * MILLI;

/// What the world of a script is like; what is not said here is drawn from the seed.
#[derive(Clone, Copy)]
pub struct Setting {
    pub kind: Kind,
    /// Machines whose members found the cluster, and all machines.
    pub founders: usize,
    pub machines: usize,
    /// The founders run when the script begins.
    pub starts_founders: bool,
    /// Clients that ask for what they like all the while.
    pub load: usize,
    /// Where machines join by request: how.
    pub way: Way,
    /// Changes what was drawn.
    pub tune: fn(&mut Plan, &mut Settings),
}

/// What a scripted request came to.
#[derive(Clone, Debug)]
pub enum Told {
    Answer {
        index: LogIndex,
        reply: ModelReply,
    },
    Read(RangeReply),
    ReadRefused(KeysError),
    Lease(LeaseAnswer),
    Refused(RequestError),
    /// The member died, or nothing came.
    Nothing,
}

impl Told {
    pub(super) fn of(delivery: &Delivery) -> Option<Self> {
        Some(match delivery {
            Delivery::Answer(applied) => Self::Answer { index: applied.index, reply: applied.reply.clone() },
            // What is read then is told.
            Delivery::ReadFrom { .. } => return None,
            Delivery::Lease(answer) => Self::Lease(*answer),
            Delivery::Refused(error) => Self::Refused(error.clone()),
            Delivery::Gone | Delivery::TimedOut => Self::Nothing,
        })
    }

    /// Whether it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Answer { .. } | Self::Read(_) | Self::Lease(_))
    }
}

/// A client's part of a script.
#[derive(Default)]
pub(super) struct Scripted {
    pub told: Option<Told>,
    /// Somebody waits for it.
    awaited: bool,
}

/// A request that was made.
#[derive(Debug)]
#[must_use]
pub struct Asked(usize);

/// A watch that goes where the script sends it.
#[derive(Clone, Copy)]
pub struct Watcher(usize);

/// See the module.
pub struct Script {
    world: World,
    starts_founders: bool,
}

/// Runs a script to its end.
#[must_use]
pub fn run(options: Options, setting: Setting, steps: fn(&mut Script) -> Checked) -> Outcome {
    let mut script = Script::new(options, setting);
    let violation = script.run(steps).err();
    script.world.outcome(violation)
}

impl Script {
    fn new(options: Options, setting: Setting) -> Self {
        let mut rng = Rng::new(options.seed);
        let mut plan = Plan::quiet(&mut rng, setting.founders, setting.machines, setting.load);
        let mut settings = Settings::draw(&mut rng);
        // Nothing is refused for want of a place in a queue.
        (settings.proposals_max, settings.reads_max, settings.apply_lag_entries_max) = (1024, 1024, 5_000);
        (setting.tune)(&mut plan, &mut settings);
        let mut world = World::with(options, setting.kind, plan, settings, rng);
        world.lockers = None;
        if let Some(newcomers) = &mut world.newcomers {
            newcomers.way = setting.way;
        }
        Self { world, starts_founders: setting.starts_founders }
    }

    fn run(&mut self, steps: fn(&mut Self) -> Checked) -> Checked {
        if self.world.newcomers.is_some() {
            self.world.events.at(0, Event::Look);
        }
        if self.starts_founders {
            for member in 0..self.world.plan.founders {
                self.world.start(member)?;
            }
        }
        self.world.begin_clients();
        steps(self)?;
        self.finish()
    }

    /// Everything is healed and started; all serve, and agree.
    fn finish(&mut self) -> Checked {
        self.world.intercept = None;
        self.world.end_storm();
        for member in 0..self.members() {
            self.resume(member);
            self.start(member)?;
        }
        if self.world.operator.is_some() {
            self.world.events.after(0, Event::Operator);
        }
        while !self.world.draining {
            let counts = |member: &usize| self.world.operator.is_none() || self.world.is_member(*member);
            let serving = (0..self.members()).filter(counts);
            let serving = serving.filter(|member| self.world.serving_clients(*member).is_some());
            for member in serving.collect::<Vec<_>>() {
                let read = self.ask_read(member, "k")?;
                self.hear(read)?;
            }
            self.pass(RETRY_NANOS)?;
        }
        self.world.run_to_the_end()
    }

    // ---- time ----

    /// Goes on until `condition` holds. `what` names it where it never does.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> Checked {
        let deadline = self.now() + WAIT_NANOS_MAX;
        while !condition(self) {
            let goes_on = self.world.step()?;
            ensure!(
                goes_on && self.now() < deadline,
                "the script waited in vain for this: {what}{}",
                self.world.describe()
            );
        }
        self.say(|| format!("now: {what}"));
        Ok(())
    }

    /// Lets time pass, where time itself is what matters.
    pub fn pass(&mut self, nanos: u64) -> Checked {
        let until = self.now() + nanos;
        self.world.events.at(until, Event::Waited);
        while self.now() < until && self.world.step()? {}
        Ok(())
    }

    #[must_use]
    pub fn now(&self) -> u64 {
        self.world.events.now()
    }

    #[must_use]
    pub fn election_timeout_nanos(&self) -> u64 {
        self.world.settings.tick_nanos * self.world.settings.election_ticks as u64
    }

    fn say(&self, what: impl FnOnce() -> String) {
        self.world.trace(|| format!("script: {}", what()));
    }

    // ---- what is so ----

    #[must_use]
    pub fn members(&self) -> usize {
        self.world.plan.members
    }

    /// What a member that runs says of itself.
    #[must_use]
    pub fn status(&self, member: usize) -> Option<&Status> {
        self.world.machines[member].running.as_ref().map(|running| &running.status)
    }

    #[must_use]
    pub fn leads(&self, member: usize) -> bool {
        self.status(member).is_some_and(|status| status.is_leader)
    }

    #[must_use]
    pub fn term(&self, member: usize) -> Term {
        self.status(member).map_or(Term(0), |status| status.term)
    }

    #[must_use]
    pub fn applied(&self, member: usize) -> LogIndex {
        let running = self.world.machines[member].running.as_ref();
        running.map_or(LogIndex::ZERO, |running| running.stages.apply.applied_index())
    }

    /// How often something was counted.
    #[must_use]
    pub fn counted(&self, what: &str) -> u64 {
        self.world.counts.get(what).copied().unwrap_or(0)
    }

    /// Waits until somebody leads the newest term, and has applied an entry of that term.
    pub fn leader(&mut self) -> Checked<usize> {
        self.leader_among(&(0..self.members()).collect::<Vec<_>>())
    }

    /// The same among these.
    pub fn leader_among(&mut self, members: &[usize]) -> Checked<usize> {
        let lead = |script: &Self| {
            let leader = script.world.leader().filter(|leader| members.contains(leader))?;
            let status = script.status(leader)?;
            let newest = members.iter().map(|member| script.term(*member)).max();
            let inherited = script.world.oracle.committed_index();
            let up =
                status.applied >= inherited && script.world.oracle.term_at(status.applied) == status.term;
            (newest == Some(status.term) && up).then_some(leader)
        };
        self.until("somebody leads", |script| lead(script).is_some())?;
        Ok(lead(self).expect("somebody leads"))
    }

    /// Has this member lead.
    pub fn elect(&mut self, member: usize) -> Checked {
        for _ in 0..100 {
            if self.leader()? == member {
                return Ok(());
            }
            self.ask_to_lead(member)?;
        }
        Err(Violation(format!("leadership does not move to member {member}")))
    }

    /// Has this member lead, whatever is applied by now.
    pub fn elect_at_once(&mut self, member: usize) -> Checked {
        for _ in 0..100 {
            if self.leads(member) {
                return Ok(());
            }
            self.ask_to_lead(member)?;
        }
        Err(Violation(format!("leadership does not move to member {member}")))
    }

    fn ask_to_lead(&mut self, member: usize) -> Checked {
        let to = self.world.id_of(member);
        for at in 0..self.members() {
            self.world.push(at, Input::Log(LogInput::TransferLeadership { to }))?;
        }
        let patience = self.now() + self.election_timeout_nanos();
        while self.now() < patience && !self.leads(member) {
            self.pass(MILLI)?;
        }
        Ok(())
    }

    // ---- requests ----

    /// A client that waits for nothing.
    fn client(&mut self) -> usize {
        let idle = |client: &Client| {
            client.pending.is_none() && client.script.as_ref().is_some_and(|script| !script.awaited)
        };
        if let Some(client) = self.world.clients.iter().position(idle) {
            return client;
        }
        let client = self.world.clients.len();
        let rng = Rng::new(self.world.options.seed ^ 0x7363_7269).fork(client as u64);
        let tree = TreeClient::new(self.world.options.seed, client, TreeMix::none());
        let mut new = Client::new(rng, client, Mix::of_leases(), self.members(), tree);
        new.script = Some(Scripted::default());
        self.world.clients.push(new);
        client
    }

    fn begin_request(&mut self, member: usize) -> (usize, u64) {
        let client = self.client();
        let this = &mut self.world.clients[client];
        this.at = member;
        this.operation += 1;
        this.script = Some(Scripted { told: None, awaited: true });
        (client, this.operation)
    }

    /// Asks a member that runs for a command.
    pub fn ask(&mut self, member: usize, command: &Command) -> Checked<Asked> {
        self.ask_model(member, ModelId::KEYS, keys::encode(command))
    }

    pub fn ask_model(&mut self, member: usize, model: ModelId, command: Bytes) -> Checked<Asked> {
        let (client, operation) = self.begin_request(member);
        self.world.propose(client, operation, member, model, command)?;
        Ok(Asked(client))
    }

    /// Asks for a linearizable read of a key.
    pub fn ask_read(&mut self, member: usize, key: &str) -> Checked<Asked> {
        self.ask_query(member, RangeQuery::new(Bytes::copy_from_slice(key.as_bytes()), RangeEnd::Single))
    }

    /// Asks for a linearizable read of anything.
    pub fn ask_query(&mut self, member: usize, query: RangeQuery) -> Checked<Asked> {
        let (client, operation) = self.begin_request(member);
        let (seq, _) = self.world.next_seq(member);
        let floor = self.world.oracle.floor();
        self.world.clients[client].pending = Some(Pending::Read { query, floor });
        self.world.ask(client, operation, member, seq);
        self.world.push(member, Input::Log(LogInput::Read { seq }))?;
        Ok(Asked(client))
    }

    /// Asks a member to keep a lease alive.
    pub fn ask_lease(&mut self, member: usize, lease: i64) -> Checked<Asked> {
        let (client, operation) = self.begin_request(member);
        let (seq, _) = self.world.next_seq(member);
        self.world.clients[client].pending = Some(Pending::Lease { id: lease, since: self.now() });
        self.world.ask(client, operation, member, seq);
        self.world.push(member, Input::Log(LogInput::AskLease { seq, lease, renew: true }))?;
        Ok(Asked(client))
    }

    /// What a request came to, if it has come to anything.
    #[must_use]
    pub fn told(&self, asked: &Asked) -> Option<&Told> {
        self.world.clients[asked.0].script.as_ref().and_then(|script| script.told.as_ref())
    }

    /// Waits for what becomes of a request: an answer, a refusal, or the client's patience ends.
    pub fn hear(&mut self, asked: Asked) -> Checked<Told> {
        self.until("a request ends", |script| script.told(&asked).is_some())?;
        let script = self.world.clients[asked.0].script.as_mut().expect("a scripted client");
        script.awaited = false;
        let told = script.told.take().expect("it ended");
        self.say(|| format!("heard {told:?}"));
        Ok(told)
    }

    /// Has a command done, through this member, asking as often as it takes.
    pub fn does(&mut self, member: usize, command: &Command) -> Checked<Reply> {
        let deadline = self.now() + WAIT_NANOS_MAX;
        while self.now() < deadline {
            self.until("the member runs", |script| script.world.serving_clients(member).is_some())?;
            let asked = self.ask(member, command)?;
            if let Told::Answer { reply: ModelReply::Keys(reply), .. } = self.hear(asked)? {
                return Ok(reply);
            }
            self.pass(RETRY_NANOS)?;
        }
        Err(Violation(format!("member {member} takes no {command:?}")))
    }

    pub fn put(&mut self, member: usize, key: &str, value: &str) -> Checked<Revision> {
        match self.does(member, &put(key, value))? {
            Reply::Put(put) => Ok(put.revision),
            other => Err(Violation(format!("a put was answered with {other:?}"))),
        }
    }

    /// Reads through this member, asking as often as it takes: the value, if there is one.
    pub fn read(&mut self, member: usize, key: &str) -> Checked<RangeReply> {
        let deadline = self.now() + WAIT_NANOS_MAX;
        while self.now() < deadline {
            self.until("the member runs", |script| script.world.serving_clients(member).is_some())?;
            let asked = self.ask_read(member, key)?;
            if let Told::Read(reply) = self.hear(asked)? {
                return Ok(reply);
            }
            self.pass(RETRY_NANOS)?;
        }
        Err(Violation(format!("member {member} answers no read")))
    }

    /// Reads anything through this member, asking as often as it takes.
    pub fn query(&mut self, member: usize, query: &RangeQuery) -> Checked<Told> {
        let deadline = self.now() + WAIT_NANOS_MAX;
        while self.now() < deadline {
            self.until("the member runs", |script| script.world.serving_clients(member).is_some())?;
            let asked = self.ask_query(member, query.clone())?;
            let told = self.hear(asked)?;
            if matches!(told, Told::Read(_) | Told::ReadRefused(_)) {
                return Ok(told);
            }
            self.pass(RETRY_NANOS)?;
        }
        Err(Violation(format!("member {member} answers no read")))
    }

    /// Has a command of the tree done, through this member, asking as often as it takes.
    pub fn tree(&mut self, member: usize, command: &tree::Command) -> Checked<tree::Reply> {
        let deadline = self.now() + WAIT_NANOS_MAX;
        while self.now() < deadline {
            self.until("the member runs", |script| script.world.serving_clients(member).is_some())?;
            let asked = self.ask_model(member, ModelId::TREE, tree::encode(command))?;
            if let Told::Answer { reply: ModelReply::Tree(reply), .. } = self.hear(asked)? {
                return Ok(reply);
            }
            self.pass(RETRY_NANOS)?;
        }
        Err(Violation(format!("member {member} takes no {command:?}")))
    }

    // ---- watching ----

    /// A watch of all keys from the first revision on.
    pub fn watch(&mut self) -> Watcher {
        let client = self.client();
        let this = &mut self.world.clients[client];
        this.script = Some(Scripted { told: None, awaited: true });
        this.watched =
            Watched { key: Bytes::from_static(b"\0"), end: RangeEnd::Unbounded, next: Revision(2) };
        Watcher(client)
    }

    /// The watcher takes what this member has for it, as much as a watcher takes at a time: judged as any watch is.
    pub fn look(&mut self, watcher: Watcher, member: usize) -> Checked {
        self.world.clients[watcher.0].watches_at = member;
        self.world.watch_there(watcher.0)
    }

    /// The first revision that the watcher has not seen.
    #[must_use]
    pub fn next_of(&self, watcher: Watcher) -> Revision {
        self.world.clients[watcher.0].watched.next
    }

    /// The watcher takes from this member all that there is.
    pub fn watch_all(&mut self, watcher: Watcher, member: usize) -> Checked {
        let deadline = self.now() + WAIT_NANOS_MAX;
        while self.next_of(watcher).0 <= self.oracle().reference().revision() {
            ensure!(self.now() < deadline, "a watch at member {member} stops at {}", self.next_of(watcher));
            self.look(watcher, member)?;
            self.pass(MILLI)?;
        }
        Ok(())
    }

    // ---- what goes wrong ----

    /// The member stays down until it is started.
    pub fn crash(&mut self, member: usize, kind: CrashKind) {
        self.world.crash(member, kind, FOR_GOOD_NANOS);
    }

    /// It dies in the middle of its next disk call.
    pub fn crash_while_writing(&mut self, member: usize, kind: CrashKind) -> Checked {
        self.world.machines[member].crash_on_write = Some((kind, FOR_GOOD_NANOS));
        self.until("it died while it wrote", |script| !script.runs(member))
    }

    #[must_use]
    pub fn runs(&self, member: usize) -> bool {
        self.world.machines[member].running.is_some()
    }

    /// Starts a member that is down, once the process that was killed is gone.
    pub fn start(&mut self, member: usize) -> Checked {
        let quiet_at = self.world.machines[member].disk.quiet_at();
        self.pass(quiet_at.saturating_sub(self.now()))?;
        self.world.machines[member].restart_pending = false;
        self.world.start(member)
    }

    /// Nothing of the member runs until it is resumed.
    pub fn pause(&mut self, member: usize) {
        self.say(|| format!("m{member} is paused"));
        self.world.machines[member].paused_until = self.now() + FOR_GOOD_NANOS;
    }

    /// The same, and its clock stands still, as that of a machine that sleeps.
    pub fn sleep(&mut self, member: usize) {
        self.pause(member);
        let now = self.now();
        self.world.machines[member].clock.stand_still(now, FOR_GOOD_NANOS);
    }

    pub fn resume(&mut self, member: usize) {
        let now = self.now();
        let machine = &mut self.world.machines[member];
        if machine.paused_until <= now {
            return;
        }
        machine.paused_until = now;
        machine.clock.goes_on(now);
        let epoch = machine.epoch;
        self.say(|| format!("m{member} is resumed"));
        Stage::ALL.into_iter().for_each(|stage| self.world.wake_at(member, epoch, stage, now));
    }

    /// Nothing is applied by the member until it is let go on, as if the thread that does it got no processor. All else of it
    /// goes on.
    pub fn stall_applying(&mut self, member: usize) {
        self.say(|| format!("m{member} applies nothing"));
        let until = self.now() + FOR_GOOD_NANOS;
        if let Some(running) = &mut self.world.machines[member].running {
            running.queue(Stage::Apply).busy_until = until;
        }
    }

    pub fn go_on_applying(&mut self, member: usize) {
        self.say(|| format!("m{member} applies again"));
        let now = self.now();
        let machine = &mut self.world.machines[member];
        let epoch = machine.epoch;
        if let Some(running) = &mut machine.running {
            running.queue(Stage::Apply).busy_until = now;
        }
        self.world.wake_at(member, epoch, Stage::Apply, now);
    }

    /// Puts this partition in place of what there was.
    pub fn partition(&mut self, shape: &Shape) {
        self.say(|| format!("{shape:?}"));
        shape.apply(&mut self.world.network, self.world.plan.members);
    }

    /// One member hears nobody, and is heard by none.
    pub fn cut_off(&mut self, member: usize) {
        self.partition(&Shape::Alone { member });
    }

    /// Nobody hears anybody.
    pub fn cut_all(&mut self) {
        self.say(|| "nobody hears anybody".to_owned());
        for from in 0..self.members() {
            (0..self.members()).filter(|to| *to != from).for_each(|to| self.world.network.cut(from, to));
        }
    }

    pub fn heal(&mut self) {
        self.say(|| "the network is whole".to_owned());
        self.world.network.heal();
    }

    /// Calls of this member's disk take so many times as long from now on.
    pub fn slow_disk(&mut self, member: usize, factor: u64) {
        let until = self.now() + FOR_GOOD_NANOS;
        self.world.machines[member].disk.set_slow(factor, until);
    }

    /// Each frame from one to the other takes so much longer.
    pub fn slow_link(&mut self, from: usize, to: usize, nanos: u64) {
        self.world.network.slow(from, to, nanos);
    }

    /// Has a member make a checkpoint that holds all that it has applied by now.
    pub fn checkpoint(&mut self, member: usize) -> Checked {
        let wanted = self.applied(member);
        let has = move |script: &Self| {
            let running = script.world.machines[member].running.as_ref();
            running.is_some_and(|running| {
                let busy_until = running.queues[Stage::Checkpoint as usize].busy_until;
                running.checkpoint >= wanted && busy_until <= script.now()
            })
        };
        if !has(self) {
            self.world.push(member, Input::Log(LogInput::Checkpoint))?;
        }
        self.until("a checkpoint", has)
    }

    /// What a member that runs has in its tables.
    #[must_use]
    pub fn store(&self, member: usize) -> Option<&Store> {
        self.world.machines[member].running.as_ref().map(|running| &running.stages.store)
    }

    /// Whether all that run have applied all that is committed.
    #[must_use]
    pub fn all_applied(&self) -> bool {
        let end = self.world.oracle.committed_index();
        let running = self.world.machines.iter().filter_map(|machine| machine.running.as_ref());
        running.into_iter().all(|running| running.stages.apply.applied_index() == end)
    }

    /// Whether a member has forgotten all that compaction allows to forget.
    #[must_use]
    pub fn is_compacted(&self, member: usize) -> bool {
        let running = self.world.machines[member].running.as_ref();
        running.is_some_and(|running| !running.stages.apply.has_background_work())
    }

    #[must_use]
    pub fn oracle(&self) -> &Oracle {
        &self.world.oracle
    }
}

#[must_use]
pub fn put(key: &str, value: &str) -> Command {
    Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: 0,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    })
}
