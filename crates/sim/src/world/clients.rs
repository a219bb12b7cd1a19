//! The clients: each has one request under way, and one watch over its whole life.
//!
//! Invariant: each request ends once, with an answer, a refusal (it did not happen), or an unknown outcome.

use quorate_ids::{LogIndex, Revision};
use quorate_member::core::{LeaseAnswer, LogInput};
use quorate_member::envelope::Origin;
use quorate_member::{Applied, ModelReply, RequestError};
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Event as KeyEvent, HistoryResume, KeyValue, KeysError, OpReply, RangeEnd, RangeQuery, RangeReply,
    Reply, Value,
};
use quorate_models::tree::Get;
use quorate_store::{Pin, Store};

use bytes::Bytes;

use super::founding::CLUSTER;
use super::member::Input;
use super::script::{Scripted, Told};
use super::tree::TreeClient;
use super::{Event, HEAL_NANOS_MAX, LEASES_END_NANOS_MAX, MILLI, SECOND, World};
use crate::oracle::{Checked, Floor, Violation, Watched, ensure};
use crate::rng::Rng;
use crate::workload::{Mix, TreeMix, Wish, Wishes};

/// A client waits for this long; members give up before.
const PATIENCE_NANOS: u64 = 12 * SECOND;
/// Operations that each member must serve after the faults ended.
const SERVED_MIN: u64 = 5;
/// Revisions that a watcher takes at a time.
const WATCH_REVISIONS_MAX: usize = 50;

/// What a client hears.
pub enum Delivery {
    Answer(Box<Applied>),
    ReadFrom {
        index: LogIndex,
    },
    Lease(LeaseAnswer),
    Refused(RequestError),
    /// The member died.
    Gone,
    TimedOut,
}

pub(super) enum Pending {
    /// The pin keeps what the answer will name: old values are read once it is here.
    Command {
        origin: Origin,
        since: u64,
        pin: Pin,
    },
    Lease {
        id: i64,
        since: u64,
    },
    Read {
        query: RangeQuery,
        floor: Floor,
    },
    TreeRead {
        get: Get,
        floor: Floor,
    },
}

pub struct Client {
    rng: Rng,
    wishes: Wishes,
    /// The member that it talks to.
    pub(super) at: usize,
    /// Counts requests.
    pub(super) operation: u64,
    pub(super) pending: Option<Pending>,
    pub(super) watched: Watched,
    pub(super) watches_at: usize,
    pub(super) tree: TreeClient,
    /// Asks what a script has it ask, and nothing else.
    pub(super) script: Option<Scripted>,
}

impl Client {
    /// Clients that do nothing but keep leases alive; a seed without them is what it was before there were any.
    pub fn keepers(seed: u64, first: usize, members: usize) -> Vec<Self> {
        let mut rng = Rng::new(seed ^ 0x6b65_6570);
        let keeper = |client| {
            let tree = TreeClient::new(seed, client, TreeMix::none());
            Self::new(rng.fork(client as u64), client, Mix::of_leases(), members, tree)
        };
        (first..first + 3).map(keeper).collect()
    }

    /// Whether it does nothing but keep leases alive.
    pub fn keeps_leases(&self) -> bool {
        self.wishes.only_keeps()
    }

    pub fn lost_touch(&mut self) {
        self.wishes.lost_touch();
    }

    pub fn new(mut rng: Rng, client: usize, mix: Mix, members: usize, tree: TreeClient) -> Self {
        let at = rng.below(members as u64) as usize;
        let (key, end) = match rng.below(3) {
            0 => (Bytes::from_static(b"k000"), RangeEnd::Single),
            1 => (Bytes::from_static(b"k"), RangeEnd::Before(Bytes::from_static(b"k1"))),
            _ => (Bytes::from_static(b"\0"), RangeEnd::Unbounded),
        };
        Self {
            wishes: Wishes::new(rng.fork(1), client, mix),
            rng,
            at,
            operation: 0,
            pending: None,
            watched: Watched { key, end, next: Revision(2) },
            watches_at: at,
            tree,
            script: None,
        }
    }
}

impl World {
    /// The stages of a member that clients may ask: one of the cluster that was there from the start.
    pub(super) fn serving_clients(&self, member: usize) -> Option<&super::member::Running> {
        let machine = &self.machines[member];
        machine.serving(self.events.now()).filter(|_| machine.identity.cluster == CLUSTER)
    }

    /// A client asks for something, unless it waits for an answer or nobody is to ask any more.
    pub(super) fn client_turn(&mut self, client: usize) -> Checked {
        let this = &self.clients[client];
        if self.draining || this.pending.is_some() || this.script.is_some() {
            return Ok(());
        }
        let members = self.plan.members as u64;
        let stays_with = self.stays_with(client);
        let this = &mut self.clients[client];
        if this.rng.one_in(20) {
            this.at = this.rng.below(members) as usize;
        }
        this.at = stays_with.unwrap_or(this.at);
        let member = this.at;
        let judged = !(self.options.mutant.is_one_members_own() && member == 1);
        if self.serving_clients(member).is_none() || !judged {
            let this = &mut self.clients[client];
            this.at = this.rng.below(members) as usize;
            self.events.after(10 * MILLI, Event::Client { client });
            return Ok(());
        }
        let this = &mut self.clients[client];
        this.operation += 1;
        let operation = this.operation;
        if let Some(command) = self.wish_to_empty() {
            return self.propose(client, operation, member, ModelId::KEYS, keys::encode(&command));
        }
        let this = &mut self.clients[client];
        if let Some(wish) = this.tree.wishes.draw() {
            return self.ask_tree(client, operation, member, wish);
        }
        match this.wishes.draw() {
            Wish::Command(command) => {
                self.propose(client, operation, member, ModelId::KEYS, keys::encode(&command))
            }
            Wish::KeepAlive { lease } => {
                let (seq, _) = self.next_seq(member);
                self.clients[client].pending = Some(Pending::Lease { id: lease, since: self.events.now() });
                self.ask(client, operation, member, seq);
                self.push(member, Input::Log(LogInput::AskLease { seq, lease, renew: true }))
            }
            Wish::Read { query, linearizable: true } => {
                let (seq, _) = self.next_seq(member);
                let floor = self.oracle.floor();
                self.clients[client].pending = Some(Pending::Read { query, floor });
                self.ask(client, operation, member, seq);
                self.push(member, Input::Log(LogInput::Read { seq }))
            }
            Wish::Read { query, linearizable: false } => {
                if self.answers_alone(member) {
                    self.read(client, member, None, &query)?;
                }
                self.think(client);
                Ok(())
            }
        }
    }

    pub(super) fn propose(
        &mut self,
        client: usize,
        operation: u64,
        member: usize,
        model: ModelId,
        command: Bytes,
    ) -> Checked {
        let (seq, start) = self.next_seq(member);
        let origin = Origin { member: self.id_of(member), start, seq };
        let running = self.machines[member].running.as_ref().expect("a client asks a running member");
        let pin = running.stages.store.pin();
        self.clients[client].pending = Some(Pending::Command { origin, since: self.events.now(), pin });
        self.oracle.asked(origin);
        self.ask(client, operation, member, seq);
        self.push(member, Input::Log(LogInput::Propose { seq, model, command }))
    }

    pub(super) fn next_seq(&mut self, member: usize) -> (u64, u64) {
        let running = self.machines[member].running.as_mut().expect("a client asks a running member");
        running.next_seq += 1;
        (running.next_seq, running.start)
    }

    pub(super) fn ask(&mut self, client: usize, operation: u64, member: usize, seq: u64) {
        let epoch = self.machines[member].epoch;
        self.asked.insert((member, epoch, seq), (client, operation));
        self.events.after(PATIENCE_NANOS, Event::Heard { client, operation, delivery: Delivery::TimedOut });
    }

    pub(super) fn think(&mut self, client: usize) {
        let wait = self.clients[client].rng.exponential(self.settings.think_nanos);
        self.events.after(wait, Event::Client { client });
    }

    pub(super) fn heard(&mut self, client: usize, operation: u64, delivery: Delivery) -> Checked {
        if let Some(number) = client.checked_sub(super::locks::FIRST) {
            return self.locker_heard(number, operation, delivery);
        }
        let this = &mut self.clients[client];
        if this.operation != operation {
            return Ok(());
        }
        let Some(pending) = this.pending.take() else { return Ok(()) };
        if matches!(delivery, Delivery::Refused(RequestError::Overloaded)) {
            self.count("client: refused, a queue is full");
        }
        if matches!(delivery, Delivery::TimedOut) {
            self.asked.retain(|_, asked| *asked != (client, operation));
        }
        let this = &mut self.clients[client];
        let member = this.at;
        let moves = matches!(delivery, Delivery::Refused(_) | Delivery::Gone | Delivery::TimedOut);
        if let Some(script) = &mut this.script {
            script.told = Told::of(&delivery);
        }
        match (pending, delivery) {
            (Pending::Command { origin, since, pin }, Delivery::Answer(applied)) => {
                self.answered(client, member, origin, since, *applied)?;
                drop(pin);
            }
            (Pending::Lease { id, since }, Delivery::Lease(answer)) => {
                self.oracle.counts.keep_alives += 1;
                if let LeaseAnswer::Alive { ttl_seconds, .. } = answer {
                    self.oracle.lease_confirmed(id, since, ttl_seconds);
                }
            }
            (Pending::Lease { .. }, Delivery::Refused(_) | Delivery::Gone | Delivery::TimedOut) => {
                self.lost_touch(client);
            }
            (Pending::Command { origin, .. }, Delivery::Refused(error)) => {
                let certain = !matches!(
                    error,
                    RequestError::LeaderChanged | RequestError::TimedOut | RequestError::Stopped { .. }
                );
                self.trace(|| format!("client {client} {origin:?}: {error}"));
                if error == RequestError::NoSpace {
                    self.refused_for_space();
                }
                self.oracle.failed(origin, certain)?;
            }
            (Pending::Command { origin, .. }, Delivery::Gone | Delivery::TimedOut) => {
                self.oracle.failed(origin, false)?
            }
            (Pending::Read { query, floor }, Delivery::ReadFrom { index }) => {
                self.oracle.read_index(floor, index)?;
                self.read(client, member, Some(floor), &query)?;
                self.machines[member].served += u64::from(!self.storm);
            }
            (Pending::TreeRead { get, floor }, Delivery::ReadFrom { index }) => {
                self.oracle.read_index(floor, index)?;
                self.read_tree(client, member, Some(floor), &get)?;
                self.machines[member].served += u64::from(!self.storm);
            }
            (
                Pending::Read { .. } | Pending::TreeRead { .. },
                Delivery::Refused(_) | Delivery::Gone | Delivery::TimedOut,
            ) => {}
            _ => {
                return Err(Violation(format!(
                    "member {member} answered a request of client {client} with another kind"
                )));
            }
        }
        if moves {
            let members = self.plan.members as u64;
            let this = &mut self.clients[client];
            this.at = this.rng.below(members) as usize;
        }
        self.spread_out(client);
        self.think(client);
        self.drain_if_served();
        Ok(())
    }

    fn answered(
        &mut self,
        client: usize,
        member: usize,
        origin: Origin,
        since: u64,
        applied: Applied,
    ) -> Checked {
        let reply = match applied.reply {
            ModelReply::Keys(reply) => reply,
            ModelReply::Tree(reply) => {
                let reply = self.tree_answer(client, member, since, reply)?;
                self.machines[member].served += u64::from(!self.storm);
                return self.oracle.answered(origin, applied.index, reply.as_ref());
            }
            ModelReply::Members(_) => {
                return Err(Violation(format!("{origin:?} was answered with a member list")));
            }
        };
        let Some(running) = &self.machines[member].running else {
            return Err(Violation(format!("{origin:?} was answered by a member that does not run")));
        };
        if let Reply::LeaseGrant { id, ttl_seconds, .. } = &reply {
            self.oracle.lease_confirmed(*id, since, *ttl_seconds);
        }
        let is_put = matches!(reply, Reply::Put(_));
        let loaded = load_reply(&running.stages.store, reply);
        if is_put {
            self.put_answered();
        }
        self.clients[client].wishes.seen =
            self.oracle.revision_at(applied.index).max(self.clients[client].wishes.seen);
        self.machines[member].served += u64::from(!self.storm);
        match loaded {
            Ok(reply) => {
                self.oracle.answered(origin, applied.index, Some(&quorate_models::Reply::Keys(reply)))
            }
            Err(error) => {
                let excused = self.machines[member].damaged || self.machines[member].errors;
                self.count("client: an answer's old value could not be read");
                ensure!(
                    excused,
                    "the answer of {origin:?} at {} carries what can't be read: {error}",
                    applied.index
                );
                self.scrub_soon(member);
                self.oracle.answered(origin, applied.index, None)
            }
        }
    }

    /// Reads from a member's tables, as a face does after the read index is applied (or at once).
    fn read(&mut self, client: usize, member: usize, floor: Option<Floor>, query: &RangeQuery) -> Checked {
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let store = &running.stages.store;
        let _pin = store.pin();
        let got = keys::range(store, query).and_then(|reply| load_range(store, reply));
        if let Err(KeysError::Unreadable { reason }) = &got {
            let excused = self.machines[member].damaged || self.machines[member].errors;
            ensure!(excused, "member {member} can't read a value: {reason}");
            self.count("client: a value could not be read");
            self.scrub_soon(member);
            return Ok(());
        }
        if let Some(script) = &mut self.clients[client].script {
            script.told = Some(match &got {
                Ok(reply) => Told::Read(reply.clone()),
                Err(error) => Told::ReadRefused(error.clone()),
            });
        }
        if let Ok(reply) = &got {
            self.showed(member, Some(reply.revision), None)?;
            let this = &mut self.clients[client];
            this.wishes.seen = this.wishes.seen.max(reply.revision);
            if query.end == RangeEnd::Single && query.revision.0 == 0 && !query.count_only {
                let at = reply.kvs.first().map_or(Revision::ZERO, |kv| kv.meta.mod_revision);
                this.wishes.last_read = Some((query.key.clone(), at));
            }
        }
        self.oracle.read(member, floor, query, got)
    }

    // ---- watching ----

    /// A watcher takes what its member has for it; now and then it moves to another member and goes on there.
    pub(super) fn watch_turn(&mut self, client: usize) -> Checked {
        if self.draining {
            return Ok(());
        }
        let wait = self.clients[client].rng.exponential(25 * MILLI);
        self.events.after(wait, Event::Watch { client });
        self.watch_some(client)?;
        self.watch_tree(client)
    }

    fn watch_some(&mut self, client: usize) -> Checked {
        let members = self.plan.members as u64;
        let this = &mut self.clients[client];
        let moves = this.rng.one_in(30);
        let at = this.watches_at;
        if moves || self.serving_clients(at).is_none() {
            let this = &mut self.clients[client];
            this.watches_at = this.rng.below(members) as usize;
        }
        self.watch_there(client)
    }

    /// A watcher takes what the member has for it at which it watches.
    pub(super) fn watch_there(&mut self, client: usize) -> Checked {
        let member = self.clients[client].watches_at;
        if !self.is_judged(member) {
            return Ok(());
        }
        if !self.answers_alone(member) {
            return Ok(());
        }
        let Some(running) = self.serving_clients(member) else { return Ok(()) };
        let store = &running.stages.store;
        let mut watched = self.clients[client].watched.clone();
        let _pin = store.pin();
        let load = |events: Vec<KeyEvent>, through: Revision| {
            let mine = events.into_iter().filter(|event| watched.wants(event));
            let loaded: Result<Vec<_>, _> = mine.map(|event| load_event(store, event)).collect();
            loaded.map(|events| (events, through))
        };
        let live = running.feeds.keys.since(watched.next, WATCH_REVISIONS_MAX);
        // Whether the bodies can still be read or not: if not, history would cover it up.
        for (revision, wanted) in live.iter().flatten().zip(watched.next.0..) {
            ensure!(
                revision.revision.0 == wanted,
                "a watch from {} at member {member} is given revision {} from memory in place of {wanted}",
                watched.next,
                revision.revision
            );
        }
        let live = live.map(|revisions| {
            let through = revisions.last()?.revision;
            Some((revisions.iter().flat_map(|r| r.events().to_vec()).collect(), through))
        });
        let given = match live {
            Ok(None) => Ok(None),
            // What memory holds may name a body that has moved since; history knows where it is now.
            Ok(Some((events, through))) => match load(events, through) {
                Ok(loaded) => Ok(Some(loaded)),
                Err(_) => from_history(store, watched.next)
                    .and_then(|given| given.map(|(events, through)| load(events, through)).transpose()),
            },
            Err(_) => from_history(store, watched.next)
                .and_then(|given| given.map(|(events, through)| load(events, through)).transpose()),
        };
        match given {
            Ok(None) => Ok(()),
            Ok(Some((events, through))) => {
                watched.given(&mut self.oracle, &events, through)?;
                self.clients[client].watched = watched;
                Ok(())
            }
            Err(KeysError::Compacted { asked, .. }) if asked.0 < self.oracle.reference().compacted() => {
                // The watch is cancelled; the client starts a new one where history begins.
                watched.next = Revision(self.oracle.reference().compacted());
                self.clients[client].watched = watched;
                self.count("client: a watch fell behind compaction");
                Ok(())
            }
            Err(KeysError::Unreadable { reason }) => {
                let excused = self.machines[member].damaged || self.machines[member].errors;
                ensure!(excused, "member {member} can't read an event: {reason}");
                self.scrub_soon(member);
                Ok(())
            }
            Err(error) => {
                Err(Violation(format!("member {member} refused a watch from {}: {error}", watched.next)))
            }
        }
    }

    // ---- the end ----

    /// After the faults: clients go where too little was served yet.
    fn spread_out(&mut self, client: usize) {
        if self.storm {
            return;
        }
        let least = (0..self.plan.members)
            .filter(|member| self.machines[*member].running.is_some() && self.is_judged(*member))
            .filter(|member| self.operator.is_none() || self.is_member(*member))
            .min_by_key(|member| self.machines[*member].served);
        if let Some(member) = least {
            self.clients[client].at = member;
        }
    }

    /// Once every member served enough after the faults, nobody asks for more.
    fn drain_if_served(&mut self) {
        let served = |(member, machine): (usize, &super::Machine)| {
            if self.operator.is_some() {
                return !self.is_member(member) || machine.served >= SERVED_MIN;
            }
            machine.given_up || machine.served >= SERVED_MIN || !self.is_judged(member)
        };
        let full = self.filled.as_ref().is_some_and(|filled| !filled.puts_again());
        let changing = self.operator.as_ref().is_some_and(|_| !self.is_staffed());
        // A lock takes transactions: with a member that is down for good, nobody knows whether all are upgraded. And where a
        // queue has one or two places, others may always be there before.
        let unknown_version = self.plan.rolls() && self.machines.iter().any(|machine| machine.given_up);
        let locked = unknown_version
            || self.settings.has_tiny_queues()
            || self.lockers.as_ref().is_none_or(super::locks::Lockers::are_served);
        if !self.storm
            && locked
            && !changing
            && !full
            && !self.draining
            && self.machines.iter().enumerate().all(served)
        {
            self.trace(|| "all members serve again; draining".to_owned());
            self.draining = true;
            self.events.after(LEASES_END_NANOS_MAX, Event::LeasesEnd);
        }
    }

    /// All members stand at one index: they must hold the same, and it must be what the log says. Watchers get the rest.
    pub(super) fn compare_all(&mut self) -> Checked {
        let everything = RangeQuery::new(Bytes::from_static(b"\0"), RangeEnd::Unbounded);
        self.compare_others()?;
        if self.operator.is_some() {
            for member in (0..self.plan.members).filter(|member| !self.is_member(*member)).collect::<Vec<_>>()
            {
                self.machines[member].running = None;
            }
        }
        let end = self.oracle.committed_index();
        for member in 0..self.plan.members {
            let Some(running) = self.machines[member].running.as_ref().filter(|_| self.is_judged(member))
            else {
                continue;
            };
            let store = &running.stages.store;
            let tables = store.read();
            let hash = quorate_models::hashed_tables()
                .fold(0u128, |sum, table| sum.rotate_left(1).wrapping_add(tables.hash(table)));
            drop(tables);
            self.oracle.hash(member, end, hash)?;
            self.read(0, member, Some(self.oracle.floor()), &everything)?;
        }
        self.compare_trees()?;
        for client in 0..self.clients.len() {
            for _ in 0..HEAL_NANOS_MAX {
                let before = self.clients[client].watched.next;
                if before.0 > self.oracle.reference().revision() {
                    break;
                }
                self.watch_some(client)?;
                let member = self.clients[client].watches_at;
                let stuck =
                    self.clients[client].watched.next == before && self.machines[member].running.is_some();
                let machine = &self.machines[member];
                let excused = machine.damaged || machine.errors || !self.is_judged(member);
                ensure!(
                    !stuck || excused,
                    "a watch of client {client} gets nothing from {before} on from member {member}"
                );
                if stuck {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whole revisions from history, as a watcher that fell behind gets them.
fn from_history(store: &Store, from: Revision) -> Result<Option<(Vec<KeyEvent>, Revision)>, KeysError> {
    let tables = store.read();
    let current = keys::current_revision(&tables);
    let mut resume = HistoryResume::from(from);
    let mut events = Vec::new();
    let mut through = None;
    loop {
        let slice = keys::history_slice(&tables, &mut resume, current, 64)?;
        let Some(last) = slice.last() else { break };
        let done = last.complete;
        through = Some(last.revision);
        events.extend(slice.iter().flat_map(|r| r.events().to_vec()));
        if done {
            break;
        }
    }
    Ok(through.map(|through| (events, through)))
}

fn load_value(store: &Store, value: Value) -> Result<Value, KeysError> {
    match value {
        at @ Value::At(_) => keys::load_value(store, &at).map(Value::Here),
        other => Ok(other),
    }
}

fn load_kv(store: &Store, kv: KeyValue) -> Result<KeyValue, KeysError> {
    Ok(KeyValue { value: load_value(store, kv.value)?, ..kv })
}

fn load_event(store: &Store, event: KeyEvent) -> Result<KeyEvent, KeysError> {
    let previous = event.previous.map(|kv| load_kv(store, kv)).transpose()?;
    Ok(KeyEvent { kv: load_kv(store, event.kv)?, previous, ..event })
}

pub(super) fn load_range(store: &Store, reply: RangeReply) -> Result<RangeReply, KeysError> {
    let kvs: Result<Vec<_>, _> = reply.kvs.into_iter().map(|kv| load_kv(store, kv)).collect();
    Ok(RangeReply { kvs: kvs?, ..reply })
}

fn load_op(store: &Store, reply: OpReply) -> Result<OpReply, KeysError> {
    Ok(match reply {
        OpReply::Range(range) => OpReply::Range(load_range(store, range)?),
        OpReply::Put(mut put) => {
            put.previous = put.previous.map(|kv| load_kv(store, kv)).transpose()?;
            OpReply::Put(put)
        }
        OpReply::DeleteRange(mut delete) => {
            delete.previous =
                delete.previous.into_iter().map(|kv| load_kv(store, kv)).collect::<Result<_, _>>()?;
            OpReply::DeleteRange(delete)
        }
        OpReply::Txn(mut txn) => {
            txn.responses =
                txn.responses.into_iter().map(|op| load_op(store, op)).collect::<Result<_, _>>()?;
            OpReply::Txn(txn)
        }
    })
}

/// Loads every value that an answer carries.
pub(super) fn load_reply(store: &Store, reply: Reply) -> Result<Reply, KeysError> {
    Ok(match reply {
        Reply::Put(put) => match load_op(store, OpReply::Put(put))? {
            OpReply::Put(put) => Reply::Put(put),
            _ => unreachable!("a put stays one"),
        },
        Reply::DeleteRange(delete) => match load_op(store, OpReply::DeleteRange(delete))? {
            OpReply::DeleteRange(delete) => Reply::DeleteRange(delete),
            _ => unreachable!("a delete stays one"),
        },
        Reply::Txn(txn) => match load_op(store, OpReply::Txn(txn))? {
            OpReply::Txn(txn) => Reply::Txn(txn),
            _ => unreachable!("a transaction stays one"),
        },
        other => other,
    })
}
