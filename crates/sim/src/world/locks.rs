//! Clients that take a lock by the recipe of the library and of etcd's own clients: a key of their own under a lease, in a
//! queue by creation; the creation revision is the fencing token.
//!
//! What must hold: nobody takes the lock while another may still believe to hold it; tokens rise from holder to holder; a
//! commit that names a token changes nothing once a later one was handed out; once the faults end everybody gets the lock,
//! whoever died holding it.

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_member::core::{LeaseAnswer, LogInput};
use quorate_member::envelope::Origin;
use quorate_member::{Applied, ModelReply, RequestError};
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Command, Compare, CompareOp, CompareTarget, DeleteRange, Op, OpReply, Put, RangeEnd, RangeQuery,
    Reply, Txn,
};

use super::clients::{Delivery, load_range, load_reply};
use super::member::Input;
use super::{Event, MILLI, SECOND, World};
use crate::oracle::{Checked, Floor, ensure};
use crate::rng::Rng;

/// The first of those who take locks among those who ask.
pub(super) const FIRST: usize = 1 << 32;
const PATIENCE_NANOS: u64 = 12 * SECOND;
/// Below the keys of all other clients, which delete what lies behind theirs.
const QUEUE: &[u8] = b"a/lock/";
const GUARDED: &[u8] = b"a/guarded";

#[derive(Debug)]
enum Asked {
    Grant,
    Enqueue,
    Look(Floor),
    /// A change of what the lock guards, under this token; a later token may have been handed out before.
    Fenced {
        token: i64,
        newest: i64,
    },
    Release,
    KeepAlive,
}

struct Pending {
    asked: Asked,
    since: u64,
    origin: Option<Origin>,
}

/// One that takes the lock, holds it for a while, and frees it or dies.
pub struct Locker {
    rng: Rng,
    at: usize,
    operation: u64,
    made: i64,
    pending: Option<Pending>,
    /// The lease, and until when it lives for certain.
    lease: i64,
    alive_until: u64,
    /// The creation revision of its key in the queue.
    place: Option<i64>,
    holds: bool,
    /// Places that it gave up as one that dies does: keys and tokens.
    stale: Vec<(Bytes, i64)>,
    /// How often it got the lock since the faults ended.
    got: u64,
}

/// All of them, and what was handed out.
pub struct Lockers {
    all: Vec<Locker>,
    /// The newest token that was handed out.
    newest: i64,
    /// Revisions and tokens of changes under the lock.
    fenced: std::collections::BTreeMap<i64, i64>,
}

impl Lockers {
    /// In a third of the seeds; the others are what they were before there were any.
    pub fn draw(seed: u64, members: usize) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x6c6f_636b);
        if !rng.one_in(3) {
            return None;
        }
        let all = (0..rng.between(2, 4)).map(|label| {
            let mut rng = rng.fork(label);
            let at = rng.below(members as u64) as usize;
            Locker {
                rng,
                at,
                operation: 0,
                made: 0,
                pending: None,
                lease: 0,
                alive_until: 0,
                place: None,
                holds: false,
                stale: Vec::new(),
                got: 0,
            }
        });
        Some(Self { all: all.collect(), newest: 0, fenced: std::collections::BTreeMap::new() })
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Everybody got the lock since the faults ended.
    pub fn are_served(&self) -> bool {
        self.all.iter().all(|locker| locker.got > 0)
    }
}

impl Locker {
    fn key(&self) -> Bytes {
        Bytes::from([QUEUE, format!("{:x}", self.lease).as_bytes()].concat())
    }

    fn start_over(&mut self) {
        (self.lease, self.alive_until, self.place, self.holds) = (0, 0, None, false);
    }

    fn draw(&mut self, newest: i64, grants: Option<i64>) -> (Asked, Option<Command>) {
        if let Some(id) = grants {
            let grant = Command::LeaseGrant { id, ttl_seconds: self.rng.between(2, 5) as i64 };
            return (Asked::Grant, Some(grant));
        }
        let Some(token) = self.place else { return (Asked::Enqueue, Some(enqueue(self.key(), self.lease))) };
        if let Some((key, token)) = self.stale.first().cloned().filter(|_| self.rng.one_in(6)) {
            return (Asked::Fenced { token, newest }, Some(fenced(key, token, self.value())));
        }
        if self.rng.one_in(3) {
            return (Asked::KeepAlive, None);
        }
        if !self.holds {
            return (Asked::Look(Floor::default()), None);
        }
        if self.rng.one_in(5) {
            return (Asked::Release, Some(release(self.key(), token)));
        }
        (Asked::Fenced { token, newest }, Some(fenced(self.key(), token, self.value())))
    }

    fn value(&mut self) -> Bytes {
        Bytes::from(format!("{:x}", self.rng.draw()))
    }
}

fn created(key: Bytes, revision: i64) -> Compare {
    let target = CompareTarget::Create(revision);
    Compare { key, end: RangeEnd::Single, op: CompareOp::Equal, target }
}

fn put(key: Bytes, value: Bytes, lease: i64) -> Op {
    Op::Put(Put { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false })
}

fn enqueue(key: Bytes, lease: i64) -> Command {
    let own = RangeQuery::new(key.clone(), RangeEnd::Single);
    Command::Txn(Txn {
        compare: vec![created(key.clone(), 0)],
        success: vec![put(key, Bytes::from_static(b"owner"), lease)],
        failure: vec![Op::Range(own)],
    })
}

fn fenced(key: Bytes, token: i64, value: Bytes) -> Command {
    let success = vec![put(Bytes::from_static(GUARDED), value, 0)];
    Command::Txn(Txn { compare: vec![created(key, token)], success, failure: Vec::new() })
}

fn release(key: Bytes, token: i64) -> Command {
    let delete = DeleteRange { key: key.clone(), end: RangeEnd::Single, prev_kv: false };
    Command::Txn(Txn {
        compare: vec![created(key, token)],
        success: vec![Op::DeleteRange(delete)],
        failure: Vec::new(),
    })
}

fn queue_query() -> RangeQuery {
    RangeQuery::new(Bytes::from_static(QUEUE), RangeEnd::Before(Bytes::from_static(b"a/lock0")))
}

impl World {
    pub(super) fn locker_turn(&mut self, number: usize) -> Checked {
        let now = self.events.now();
        let members = self.plan.members as u64;
        let Some(lockers) = self.lockers.as_mut().filter(|_| !self.draining) else { return Ok(()) };
        let newest = lockers.newest;
        let this = &mut lockers.all[number];
        let wait = this.rng.between(5, 80) * MILLI;
        self.events.after(wait, Event::Locker { number });
        if this.pending.is_some() {
            return Ok(());
        }
        if this.lease != 0 && now >= this.alive_until {
            // It may be gone: the library says so to whoever holds the lock.
            this.start_over();
        }
        if this.holds && this.rng.one_in(25) {
            // It dies, and what it had under way comes late.
            this.stale = vec![(this.key(), this.place.unwrap_or_default())];
            this.start_over();
            return Ok(());
        }
        let moves = this.rng.one_in(20);
        let member = this.at;
        if moves || self.serving_clients(member).is_none() || !self.is_judged(member) {
            let this = &mut self.lockers.as_mut().expect("there are some").all[number];
            this.at = this.rng.below(members) as usize;
            return Ok(());
        }
        let this = &mut self.lockers.as_mut().expect("there are some").all[number];
        let grants = (this.lease == 0).then(|| {
            this.made += 1;
            (FIRST as i64 + number as i64) << 20 | this.made
        });
        let (asked, command) = this.draw(newest, grants);
        if let Some(id) = grants {
            this.lease = id;
            this.alive_until = u64::MAX;
        }
        self.ask_for_locker(number, member, asked, command)
    }

    fn ask_for_locker(
        &mut self,
        number: usize,
        member: usize,
        asked: Asked,
        command: Option<Command>,
    ) -> Checked {
        let since = self.events.now();
        let (seq, start) = self.next_seq(member);
        let origin = command.is_some().then(|| Origin { member: self.id_of(member), start, seq });
        let asked = if matches!(asked, Asked::Look(_)) { Asked::Look(self.oracle.floor()) } else { asked };
        if let Some(origin) = origin {
            self.oracle.asked(origin);
        }
        let this = &mut self.lockers.as_mut().expect("there are some").all[number];
        this.operation += 1;
        let (operation, lease) = (this.operation, this.lease);
        let input = match (&asked, command) {
            (_, Some(command)) => {
                LogInput::Propose { seq, model: ModelId::KEYS, command: keys::encode(&command) }
            }
            (Asked::KeepAlive, None) => LogInput::AskLease { seq, lease, renew: true },
            (_, None) => LogInput::Read { seq },
        };
        this.pending = Some(Pending { asked, since, origin });
        let epoch = self.machines[member].epoch;
        let client = FIRST + number;
        self.asked.insert((member, epoch, seq), (client, operation));
        self.events.after(PATIENCE_NANOS, Event::Heard { client, operation, delivery: Delivery::TimedOut });
        self.push(member, Input::Log(input))
    }

    pub(super) fn locker_heard(&mut self, number: usize, operation: u64, delivery: Delivery) -> Checked {
        let members = self.plan.members as u64;
        let Some(lockers) = &mut self.lockers else { return Ok(()) };
        let this = &mut lockers.all[number];
        if this.operation != operation {
            return Ok(());
        }
        let Some(Pending { asked, since, origin }) = this.pending.take() else { return Ok(()) };
        let member = this.at;
        self.asked.retain(|_, asked| *asked != (FIRST + number, operation));
        self.trace(|| format!("locker {number} hears of {asked:?}: {}", heard_as(&delivery)));
        match delivery {
            Delivery::Answer(applied) => self.locker_answered(number, member, asked, since, origin, *applied),
            Delivery::ReadFrom { index } => {
                let Asked::Look(floor) = asked else { return Ok(()) };
                self.oracle.read_index(floor, index)?;
                self.locker_looks(number, member, floor)
            }
            Delivery::Lease(answer) => {
                let this = &mut self.lockers.as_mut().expect("there are some").all[number];
                match answer {
                    LeaseAnswer::Alive { ttl_seconds, .. } => {
                        this.alive_until = this.alive_until.max(certain(since, ttl_seconds));
                        let lease = this.lease;
                        self.oracle.lease_confirmed(lease, since, ttl_seconds);
                    }
                    LeaseAnswer::Missing => this.start_over(),
                }
                Ok(())
            }
            Delivery::Refused(_) | Delivery::Gone | Delivery::TimedOut => {
                let this = &mut self.lockers.as_mut().expect("there are some").all[number];
                this.at = this.rng.below(members) as usize;
                // What was granted may be, and what was put or deleted may be: a grant is not asked for twice.
                if matches!(asked, Asked::Grant) {
                    this.start_over();
                }
                if matches!(asked, Asked::Release) {
                    this.stale.clear();
                    this.start_over();
                }
                let Some(origin) = origin else { return Ok(()) };
                let certain = matches!(&delivery, Delivery::Refused(error) if !matches!(
                    error,
                    RequestError::LeaderChanged | RequestError::TimedOut | RequestError::Stopped { .. }
                ));
                self.oracle.failed(origin, certain)
            }
        }
    }

    fn locker_answered(
        &mut self,
        number: usize,
        member: usize,
        asked: Asked,
        since: u64,
        origin: Option<Origin>,
        applied: Applied,
    ) -> Checked {
        let (Some(origin), ModelReply::Keys(reply)) = (origin, applied.reply) else { return Ok(()) };
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let loaded = load_reply(&running.stages.store, reply.clone()).ok();
        let checked = loaded.map(quorate_models::Reply::Keys);
        self.oracle.answered(origin, applied.index, checked.as_ref())?;
        let storm = self.storm;
        let Some(lockers) = &mut self.lockers else { return Ok(()) };
        let this = &mut lockers.all[number];
        match (asked, reply) {
            (Asked::Grant, Reply::LeaseGrant { id, ttl_seconds, .. }) => {
                this.alive_until = certain(since, ttl_seconds);
                self.oracle.lease_confirmed(id, since, ttl_seconds);
            }
            (Asked::Enqueue, Reply::Txn(txn)) if txn.succeeded => this.place = Some(txn.revision.0 as i64),
            (Asked::Enqueue, Reply::Txn(txn)) => {
                // It was put already, by a request whose answer got lost.
                let own = txn.responses.first().and_then(|response| match response {
                    OpReply::Range(range) => range.kvs.first().map(|kv| kv.meta.create_revision.0 as i64),
                    _ => None,
                });
                this.place = own;
            }
            (Asked::Fenced { token, newest }, Reply::Txn(txn)) => {
                if txn.succeeded {
                    return self.judge_fenced(number, txn.revision, token, newest);
                }
                if this.place == Some(token) {
                    this.start_over();
                } else {
                    this.stale.clear();
                    self.count("locks: a stale commit refused");
                }
            }
            (Asked::Release, Reply::Txn(_)) => {
                this.start_over();
                this.got += u64::from(!storm);
                self.count("locks: freed");
            }
            // The lease is gone.
            (_, Reply::Refused { .. }) => this.start_over(),
            _ => {}
        }
        Ok(())
    }

    /// Tokens of changes under the lock rise with the revisions of those changes, and none comes after a later holder.
    fn judge_fenced(&mut self, number: usize, revision: Revision, token: i64, newest: i64) -> Checked {
        self.count("locks: a change under a lock");
        ensure!(
            token >= newest,
            "locker {number} changed what a lock guards with token {token}, after {newest} was handed out"
        );
        let Some(lockers) = &mut self.lockers else { return Ok(()) };
        let at = revision.0 as i64;
        let before = lockers.fenced.range(..at).next_back().map(|(_, token)| *token);
        let after = lockers.fenced.range(at + 1..).next().map(|(_, token)| *token);
        ensure!(
            before.is_none_or(|before| before <= token) && after.is_none_or(|after| token <= after),
            "a change with token {token} at revision {at} stands between {before:?} and {after:?}"
        );
        lockers.fenced.insert(at, token);
        Ok(())
    }

    /// Looks at the queue: whoever is the first in it has the lock.
    fn locker_looks(&mut self, number: usize, member: usize, floor: Floor) -> Checked {
        let now = self.events.now();
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let store = &running.stages.store;
        let _pin = store.pin();
        let got = keys::range(store, &queue_query()).and_then(|reply| load_range(store, reply));
        let Ok(reply) = &got else { return Ok(()) };
        let first = reply.kvs.iter().min_by_key(|kv| kv.meta.create_revision);
        let first = first.map(|kv| (kv.key.clone(), kv.meta.create_revision.0 as i64));
        let Some(lockers) = &mut self.lockers else { return Ok(()) };
        let this = &lockers.all[number];
        let mine = (this.key(), this.place.unwrap_or_default());
        let there = reply.kvs.iter().any(|kv| kv.key == mine.0);
        self.oracle.read(member, Some(floor), &queue_query(), got)?;
        let this = &mut lockers.all[number];
        if first.as_ref() != Some(&mine) {
            if !there {
                this.start_over();
            }
            return Ok(());
        }
        if now >= this.alive_until {
            return Ok(());
        }
        this.holds = true;
        let token = mine.1;
        for (other, locker) in lockers.all.iter().enumerate().filter(|(other, _)| *other != number) {
            ensure!(
                !locker.holds || locker.alive_until <= now || locker.releases(),
                "locker {number} takes the lock while locker {other} holds it for certain"
            );
        }
        ensure!(token > lockers.newest, "token {token} was handed out after {}", lockers.newest);
        lockers.newest = token;
        self.count("locks: taken");
        Ok(())
    }
}

impl Locker {
    fn releases(&self) -> bool {
        matches!(&self.pending, Some(Pending { asked: Asked::Release, .. }))
    }
}

fn heard_as(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Answer(applied) => format!("{:?}", applied.reply),
        Delivery::ReadFrom { index } => format!("may read from {index}"),
        Delivery::Lease(answer) => format!("{answer:?}"),
        Delivery::Refused(error) => error.to_string(),
        Delivery::Gone => "the member died".to_owned(),
        Delivery::TimedOut => "nothing".to_owned(),
    }
}

/// Until when a lease that was asked for then lives for certain: clocks drift by less than half a percent.
fn certain(since: u64, ttl_seconds: i64) -> u64 {
    since + ttl_seconds.unsigned_abs() * 995 * MILLI
}
