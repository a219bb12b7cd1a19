//! Machines that join by request: those that found a cluster of their own and are absorbed, and those that come empty and
//! ask, under a name.
//!
//! A machine without a member is set up as one or the other (a seed has one of the two). Its peers, its operator's requests
//! and its start script are played here: who asks whom to absorb whom, which machine is emptied and comes back under its old
//! name, who is removed by name, how many votes there should be. All decisions are the product's own.
//!
//! What must hold besides what holds in every world: a cluster that holds a command or had a second member is never given
//! up; whoever said that it moved comes back as what it moved to; once the faults end, no admission is left half done, and
//! whatever is no member of the cluster that was there from the start goes on in its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_ids::{ClusterId, MemberId};
use quorate_member::core::{LogInput, votes};
use quorate_member::envelope::Origin;
use quorate_member::{Identity, Member, MemberList, MembershipRequest, ModelReply, RequestError};
use quorate_models::ModelId;
use quorate_models::keys::{self, Command, Put, RangeEnd, RangeQuery};

use super::clients::Delivery;
use super::founding::{CLUSTER, NOBODY, url};
use super::hosting::Hosting;
use super::member::Input;
use super::{Event, MILLI, SECOND, World};
use crate::disk::CrashKind;
use crate::oracle::{Checked, Oracle};
use crate::rng::Rng;

/// Who writes to clusters of one among those who ask.
pub(super) const WRITER: usize = usize::MAX - 1;
/// After the faults end all is healed within this time: a newcomer that never came is given up after a minute, by a leader
/// that may have led for less.
pub(super) const HEAL_NANOS_MAX: u64 = 180 * SECOND;
const PATIENCE_NANOS: u64 = 12 * SECOND;
/// While a change that takes a vote may still come, no disk is lost.
const CHANGE_NANOS_MAX: u64 = 15 * SECOND;
/// Between two looks at what a member publishes, and who votes.
const LOOK_NANOS: u64 = 150 * MILLI;
const VOTERS_MAX: usize = 5;

/// How machines come in, in this seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each founds a cluster of its own, and a member of the first one is told where it runs.
    Absorbed,
    /// Each asks to be admitted, under its name; the leader sees to it that so many vote.
    Asks,
}

/// See the module.
pub struct Newcomers {
    pub(super) rng: Rng,
    pub way: Way,
    every_nanos: u64,
    wipes: bool,
    /// Where machines ask: how many should vote, and the silence after which a vote goes to another.
    active_size: usize,
    silent_nanos: u64,
    pub(super) next_id: u64,
    no_wipe_until: u64,
    pub(super) off_at: BTreeMap<usize, u64>,
    published_at: BTreeMap<usize, u64>,
    tries: usize,
    writes: BTreeMap<u64, (ClusterId, Origin)>,
    operation: u64,
    pub(super) hosting: Hosting,
}

impl Newcomers {
    pub fn draw(seed: u64, wipes: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x6a6f_696e);
        Self {
            way: *rng.pick(&[Way::Absorbed, Way::Asks]),
            every_nanos: *rng.pick(&[100 * MILLI, 300 * MILLI, SECOND]),
            wipes,
            active_size: *rng.pick(&[3, 3, 4, 5]),
            silent_nanos: *rng.pick(&[4, 6]) * SECOND,
            next_id: 0,
            no_wipe_until: 0,
            off_at: BTreeMap::new(),
            published_at: BTreeMap::new(),
            tries: 0,
            writes: BTreeMap::new(),
            operation: 0,
            hosting: Hosting::default(),
            rng,
        }
    }
}

impl Newcomers {
    /// Whether no vote is on its way to another, and nobody on his way in.
    pub fn no_vote_moves(&self, now: u64) -> bool {
        now >= self.no_wipe_until && self.hosting.is_idle()
    }

    pub fn describe(&self) -> String {
        format!("\n  joins: {:?}, active size {}, {}", self.way, self.active_size, self.hosting.describe())
    }
}

/// What a machine's member is called, unless its settings name another.
fn own_name(member: usize) -> String {
    format!("m{member}")
}

/// The members of a cluster that one machine founds.
pub(super) fn alone(member: usize, identity: Identity) -> MemberList {
    MemberList::founded_by([Member {
        id: identity.member,
        name: own_name(member),
        peer_urls: vec![url(member)],
        incarnation: identity.incarnation,
        ..Member::default()
    }])
}

impl World {
    pub(super) fn joins_by_request(&self) -> bool {
        self.newcomers.is_some()
    }

    pub(super) fn called(&self, member: usize) -> String {
        self.machines[member].called.clone().unwrap_or_else(|| own_name(member))
    }

    /// Whether the machine's member is of the cluster that was there from the start.
    pub(super) fn is_of_main(&self, member: usize) -> bool {
        self.machines[member].identity.cluster == CLUSTER && self.id_of(member) != MemberId::ZERO
    }

    /// The machines that serve in a cluster other than the first.
    fn others(&self) -> Vec<usize> {
        let now = self.events.now();
        let other = |member: &usize| {
            self.machines[*member].serving(now).is_some()
                && self.machines[*member].identity.cluster != CLUSTER
        };
        (0..self.plan.members).filter(other).collect()
    }

    fn serving_in_main(&self) -> Vec<usize> {
        let now = self.events.now();
        let serves = |m: &usize| self.machines[*m].serving(now).is_some() && self.is_member(*m);
        (0..self.plan.members).filter(serves).collect()
    }

    // ---- what happens next ----

    pub(super) fn newcomers_turn(&mut self) -> Checked {
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let wait = newcomers.rng.exponential(newcomers.every_nanos).max(MILLI);
        self.events.after(wait, Event::Operator);
        self.look_after_removed();
        self.empty_the_ill();
        if self.storm { self.draw_step() } else { self.bring_home() }
    }

    fn draw_step(&mut self) -> Checked {
        let now = self.events.now();
        let (others, serving) = (self.others(), self.serving_in_main());
        let vacant: Vec<usize> = (0..self.plan.members)
            .filter(|m| self.id_of(*m) == MemberId::ZERO && self.machines[*m].given_up)
            .collect();
        let busy = self.operator.as_ref().is_some_and(super::operator::Operator::is_busy);
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let rng = &mut newcomers.rng;
        match rng.below(14) {
            0..=2 if !vacant.is_empty() => {
                let machine = *rng.pick(&vacant);
                self.bring_in(machine);
                Ok(())
            }
            3..=6 if !others.is_empty() && !serving.is_empty() => {
                let machine = *rng.pick(&others);
                // Now and then two members are told at once.
                for _ in 0..if rng.one_in(4) { 2 } else { 1 } {
                    let host = *self.newcomers_rng().pick(&serving);
                    self.tell_host(host, machine)?;
                }
                Ok(())
            }
            7 if others.len() > 1 => {
                let (host, machine) = (*rng.pick(&others), *rng.pick(&others));
                self.tell_host(host, machine)
            }
            // Asked once more for one that is in already.
            7 if newcomers.way == Way::Absorbed && serving.len() > 1 => {
                let (host, machine) = (*rng.pick(&serving), *rng.pick(&serving));
                self.tell_host(host, machine)
            }
            8 if !others.is_empty() && rng.one_in(3) => {
                let machine = *rng.pick(&others);
                self.write_alone(machine)
            }
            9 if newcomers.way == Way::Asks => {
                newcomers.active_size = *rng.pick(&[3, 3, 4, 5]);
                Ok(())
            }
            10 if !busy => self.remove_somebody(),
            11..=13 if newcomers.wipes && now >= newcomers.no_wipe_until => {
                let machine = rng.below(self.plan.members as u64) as usize;
                self.empty(machine)
            }
            _ => Ok(()),
        }
    }

    /// A machine begins. Now and then it comes under the name of another, which may be there or not.
    fn bring_in(&mut self, machine: usize) {
        let members = self.plan.members as u64;
        let own = self.takes_no_names();
        let Some(newcomers) = &mut self.newcomers else { return };
        let other = newcomers.rng.below(members) as usize;
        let takes = !own && newcomers.rng.one_in(4) && other != machine;
        self.set_up(machine);
        self.machines[machine].called = takes.then(|| own_name(other));
        self.count(if takes { "joins: under the name of another" } else { "joins: set up" });
        self.restart_after(machine, MILLI);
    }

    pub(super) fn newcomers_rng(&mut self) -> &mut Rng {
        &mut self.newcomers.as_mut().expect("a world with newcomers").rng
    }

    fn tell_host(&mut self, host: usize, machine: usize) -> Checked {
        let rng = self.newcomers_rng();
        let called = if rng.one_in(15) { "nobody".to_owned() } else { own_name(machine) };
        let wants_vote = !rng.one_in(6);
        // The members beyond are learners.
        let wants_vote = wants_vote && self.oracle.members.voters().len() < VOTERS_MAX;
        self.count("joins: a member is told of a newcomer");
        self.trace(|| format!("m{host} is told to absorb {called} at m{machine}"));
        self.absorb(host, &called, machine, wants_vote)
    }

    /// What a user of a cluster of one leaves there: it must not be given up then.
    pub(super) fn write_alone(&mut self, machine: usize) -> Checked {
        let cluster = self.machines[machine].identity.cluster;
        let (seq, start) = self.next_seq(machine);
        let origin = Origin { member: self.id_of(machine), start, seq };
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        newcomers.operation += 1;
        let operation = newcomers.operation;
        newcomers.writes.insert(operation, (cluster, origin));
        self.trace(|| format!("m{machine} is asked to keep a key"));
        self.count("joins: a cluster of one is asked to keep a key");
        self.oracle_at(machine).asked(origin);
        let epoch = self.machines[machine].epoch;
        self.asked.insert((machine, epoch, seq), (WRITER, operation));
        let timed_out = Event::Heard { client: WRITER, operation, delivery: Delivery::TimedOut };
        self.events.after(PATIENCE_NANOS, timed_out);
        let put = Put {
            key: Bytes::from(format!("k{operation}")),
            value: Bytes::from_static(b"alone"),
            lease: 0,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        let command = keys::encode(&Command::Put(put));
        self.push(machine, Input::Log(LogInput::Propose { seq, model: ModelId::KEYS, command }))
    }

    pub(super) fn written_alone(&mut self, operation: u64, delivery: Delivery) -> Checked {
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let Some((cluster, origin)) = newcomers.writes.remove(&operation) else { return Ok(()) };
        self.asked.retain(|_, asked| *asked != (WRITER, operation));
        let Some(oracle) = self.lone.get_mut(&cluster) else { return Ok(()) };
        match delivery {
            Delivery::Answer(applied) => match applied.reply {
                ModelReply::Keys(reply) => {
                    oracle.answered(origin, applied.index, Some(&quorate_models::Reply::Keys(reply)))
                }
                _ => Ok(()),
            },
            Delivery::Refused(error) => {
                let unknown = matches!(
                    error,
                    RequestError::LeaderChanged | RequestError::TimedOut | RequestError::Stopped { .. }
                );
                oracle.failed(origin, !unknown)
            }
            _ => oracle.failed(origin, false),
        }
    }

    // ---- members that go ----

    fn remove_somebody(&mut self) -> Checked {
        let now = self.events.now();
        let voters = self.oracle.members.voters();
        let learners = self.oracle.members.learners();
        let all_there = self.dead_members() == 0;
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let id = match newcomers.rng.one_in(2) {
            true if voters.len() > 1 && all_there => *newcomers.rng.pick(&voters),
            _ if !learners.is_empty() => *newcomers.rng.pick(&learners),
            _ => return Ok(()),
        };
        newcomers.no_wipe_until = now + CHANGE_NANOS_MAX;
        self.remove(id)
    }

    /// A start script empties the machine's disk, and starts it again as a newcomer under its old name.
    fn empty(&mut self, machine: usize) -> Checked {
        let now = self.events.now();
        let id = self.id_of(machine);
        // Between two machines that want one name somebody may lose his vote while he sleeps.
        let contested = self.machines.iter().any(|machine| machine.called.is_some());
        if id == MemberId::ZERO || self.machines[machine].given_up || contested {
            return Ok(());
        }
        if self.is_of_main(machine) {
            let voters = self.oracle.members.voters();
            // Whatever is not there by then was asleep: with two gone no majority may be left.
            let awake = voters.iter().all(|voter| {
                let at = self.numbers.get(voter).copied().filter(|at| self.id_of(*at) == *voter);
                at.is_some_and(|at| {
                    self.machines[at].serving(now).is_some() && self.machines[at].paused_until <= now
                })
            });
            let counts = self.oracle.members.is_member(id);
            if counts && (self.dead_members() > 0 || voters.len() < 3 || !awake) {
                return Ok(());
            }
        } else if self.oracle_at(machine).members.ever() > 1 {
            return Ok(());
        }
        self.count("joins: a machine is emptied");
        self.trace(|| format!("m{machine} ({id}) is emptied"));
        let down_nanos = self.newcomers_rng().between(1, 1_500) * MILLI;
        self.crash(machine, CrashKind::Process, down_nanos);
        self.machines[machine].disk.wipe();
        self.is_cured(machine);
        self.set_up(machine);
        Ok(())
    }

    /// Members that were removed end in their own time; their machines are emptied and may come back.
    fn look_after_removed(&mut self) {
        let now = self.events.now();
        for machine in 0..self.plan.members {
            let gone = self.is_of_main(machine) && self.oracle.members.was_removed(self.id_of(machine));
            if !gone {
                continue;
            }
            let Some(newcomers) = &mut self.newcomers else { return };
            let lingers = if self.storm { newcomers.rng.below(6 * SECOND) } else { 0 };
            let off_at = *newcomers.off_at.entry(machine).or_insert(now + lingers);
            if now < off_at || !self.others_know(machine) {
                continue;
            }
            self.trace(|| format!("m{machine} is turned off and emptied"));
            self.crash(machine, CrashKind::Process, 0);
            let back = self.newcomers_rng().one_in(2);
            let here = &mut self.machines[machine];
            here.running = None;
            here.epoch += 1;
            here.disk.wipe();
            self.is_cured(machine);
            let here = &mut self.machines[machine];
            if back && self.storm {
                self.set_up(machine);
                self.restart_after(machine, MILLI);
            } else {
                here.identity = NOBODY;
                here.given_up = true;
                here.asking = None;
            }
        }
    }

    // ---- what members and leaders do unasked ----

    pub(super) fn newcomers_look(&mut self) -> Checked {
        self.events.after(LOOK_NANOS, Event::Look);
        for machine in 0..self.plan.members {
            self.publish(machine)?;
        }
        if self.newcomers.as_ref().is_some_and(|newcomers| newcomers.way == Way::Asks) {
            self.see_to_votes()?;
        }
        Ok(())
    }

    /// A member that started makes itself known.
    fn publish(&mut self, machine: usize) -> Checked {
        let now = self.events.now();
        let Some(running) = self.machines[machine].serving(now) else { return Ok(()) };
        let id = self.id_of(machine);
        let known = running.members.get(id).is_some_and(|me| {
            !me.is_joining && me.name == self.called(machine) && me.client_urls == [url(machine)]
        });
        if known || running.status.leader.is_none() {
            return Ok(());
        }
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let last = newcomers.published_at.entry(machine).or_insert(0);
        if now < *last + SECOND {
            return Ok(());
        }
        *last = now;
        let name = self.called(machine);
        let request = MembershipRequest::Publish { id, name, client_urls: vec![url(machine)] };
        let (seq, _) = self.next_seq(machine);
        self.push(machine, Input::Log(LogInput::ChangeMembership { seq, request }))
    }

    /// Whoever leads the first cluster gives and takes votes.
    fn see_to_votes(&mut self) -> Checked {
        let now = self.events.now();
        let leaders: Vec<usize> = (0..self.plan.members)
            .filter(|m| self.is_of_main(*m))
            .filter(|m| self.machines[*m].serving(now).is_some_and(|running| running.status.is_leader))
            .collect();
        let dead = self.dead_members() > 0;
        let ill = self.ill().map(|member| self.id_of(member));
        for machine in leaders {
            let me = self.id_of(machine);
            let Some(running) = &self.machines[machine].running else { continue };
            let list = running.members.to_vec();
            let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
            newcomers.tries += 1;
            let mut changes = votes::towards(&list, me, newcomers.active_size);
            if newcomers.tries.is_multiple_of(4) {
                changes = votes::of_silent(&list, me, newcomers.silent_nanos);
            }
            let takes = |request: &MembershipRequest| {
                matches!(request, MembershipRequest::Demote { silent_nanos: 0, .. })
            };
            // The simulator takes no vote from the living while the dead count.
            changes.retain(|request| !(takes(request) && dead) && super::damage::is_safe_for(ill, request));
            if changes.is_empty() {
                continue;
            }
            let request = changes[newcomers.tries / 4 % changes.len()].clone();
            if takes(&request) {
                newcomers.no_wipe_until = now + CHANGE_NANOS_MAX;
            }
            let (seq, _) = self.next_seq(machine);
            self.push(machine, Input::Log(LogInput::ChangeMembership { seq, request }))?;
        }
        Ok(())
    }

    // ---- the end ----

    /// The faults are over: whoever founded anew under a name that the first cluster still holds is brought home.
    fn bring_home(&mut self) -> Checked {
        let busy = self.operator.as_ref().is_none_or(super::operator::Operator::is_busy);
        let serving = self.serving_in_main();
        if self.draining || serving.is_empty() {
            return Ok(());
        }
        // Two machines that go on wanting one name are told apart by whoever looks after them.
        for machine in 0..self.plan.members {
            let held = self.oracle.members.named(&self.called(machine));
            if self.machines[machine].asking.is_some() && held.is_some_and(|held| self.is_there(held)) {
                self.machines[machine].called = Some(format!("another-{machine}"));
            }
        }
        for machine in self.others() {
            let Some(held) = self.oracle.members.named(&own_name(machine)) else { continue };
            if self.is_on_its_way(machine) {
                continue;
            }
            let oracle = self.oracle_at(machine);
            let keeps = oracle.holds_anything() || oracle.members.ever() > 1;
            if keeps && !busy {
                // It has to stay what it is: the name is taken off the list.
                return self.remove(held);
            }
            if !keeps {
                let host = *self.newcomers_rng().pick(&serving);
                self.tell_host(host, machine)?;
            }
        }
        Ok(())
    }

    /// Whether a machine runs as this member.
    fn is_there(&self, id: MemberId) -> bool {
        let at = self.numbers.get(&id).copied().filter(|at| self.id_of(*at) == id);
        at.is_some_and(|at| self.machines[at].running.is_some())
    }

    /// Nothing is half done: every member of the first cluster runs and is known, and nobody is on his way in.
    pub(super) fn all_are_home(&self) -> bool {
        let Some(newcomers) = &self.newcomers else { return true };
        let idle = self.operator.as_ref().is_none_or(|operator| !operator.is_busy());
        let members = &self.oracle.members;
        let all = [members.voters(), members.learners()].concat();
        let staffed = all.iter().all(|id| self.is_there(*id));
        let votes = match newcomers.way {
            Way::Absorbed => true,
            Way::Asks => members.learners().is_empty() || members.voters().len() == newcomers.active_size,
        };
        let asking = self.machines.iter().any(|machine| machine.asking.is_some());
        idle && staffed && votes && !asking && members.on_their_way() == 0 && newcomers.hosting.is_idle()
    }

    /// The clusters besides the first: each machine in one of them has what its log says.
    pub(super) fn others_settled(&self) -> bool {
        let name_held = |m: usize| self.oracle.members.named(&own_name(m)).is_some();
        (0..self.plan.members).filter(|m| self.machines[*m].identity.cluster != CLUSTER).all(|member| {
            let machine = &self.machines[member];
            let Some(oracle) = self.lone.get(&machine.identity.cluster) else { return false };
            let Some(running) = &machine.running else { return machine.given_up };
            !name_held(member)
                && running.status.leader.is_some()
                && oracle.members.on_their_way() == 0
                && running.stages.apply.applied_index() == oracle.committed_index()
        })
    }

    pub(super) fn compare_others(&mut self) -> Checked {
        let everything = RangeQuery::new(Bytes::from_static(b"\0"), RangeEnd::Unbounded);
        for member in 0..self.plan.members {
            let cluster = self.machines[member].identity.cluster;
            let Some(running) = &self.machines[member].running else { continue };
            let Some(oracle) = self.lone.get_mut(&cluster) else { continue };
            let store = &running.stages.store;
            let _pin = store.pin();
            let got = keys::range(store, &everything);
            let got = got.and_then(|reply| super::clients::load_range(store, reply));
            let floor = oracle.floor();
            oracle.read(member, Some(floor), &everything, got)?;
            self.count("joins: a cluster besides the first, whole");
        }
        Ok(())
    }

    /// The oracle of the cluster that the machine's member is of.
    pub(super) fn oracle_at(&mut self, machine: usize) -> &mut Oracle {
        let cluster = self.machines[machine].identity.cluster;
        self.lone.get_mut(&cluster).unwrap_or(&mut self.oracle)
    }

    pub(super) fn machine_at(&self, at: &str) -> Option<usize> {
        (0..self.plan.members).find(|member| url(*member) == at)
    }
}
