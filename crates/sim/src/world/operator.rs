//! Who has members added, promoted, removed and replaced, and whose machines lose their disks.
//!
//! The operator asks one thing at a time, through any member, and looks at what the log says came of it. It keeps to what
//! an operator must: it starts what was added, it has a wiped member removed before it does anything else, no second disk is
//! lost before that machine is turned off, and it turns a removed member's machine off only once the others know that it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_ids::{Incarnation, LogIndex, MemberId};
use quorate_member::core::LogInput;
use quorate_member::envelope::Origin;
use quorate_member::{MemberList, MembershipRequest, RequestError};

use super::clients::Delivery;
use super::founding::{NOBODY, url};
use super::member::Input;
use super::newcomers::Way;
use super::{Event, MILLI, SECOND, World};
use crate::disk::CrashKind;
use crate::nemesis::Plan;
use crate::oracle::{Checked, ensure};
use crate::rng::Rng;

/// The operator among those who ask.
pub(super) const CLIENT: usize = usize::MAX;
/// The operator waits for this long for an answer.
const PATIENCE_NANOS: u64 = 12 * SECOND;
/// A change without an outcome is made within this time, or never.
const UNSURE_NANOS: u64 = 15 * SECOND;
const VOTERS_MAX: usize = 5;
const LEARNERS_MAX: usize = 2;

struct Pending {
    origin: Origin,
    operation: u64,
}

/// See the module.
pub struct Operator {
    rng: Rng,
    every_nanos: u64,
    wipes: bool,
    /// Leaders make voters of learners unasked.
    pub promotes_by_itself: bool,
    next_id: u64,
    operation: u64,
    pending: Option<Pending>,
    /// Until then a change whose outcome nobody heard of may still be made.
    unsure_until: u64,
    /// The incarnation in which each member was let in first, by anybody.
    pub first: BTreeMap<MemberId, Incarnation>,
    /// Machines to turn off, and when.
    off_at: BTreeMap<usize, u64>,
}

impl Operator {
    /// Whether no change is under way, or may be.
    pub fn is_sure(&self, now: u64) -> bool {
        self.pending.is_none() && now >= self.unsure_until
    }

    /// Whether a change is under way.
    pub fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    pub fn new(mut rng: Rng, plan: &Plan) -> Self {
        Self {
            every_nanos: *rng.pick(&[200 * MILLI, 600 * MILLI, 2 * SECOND]),
            wipes: plan.wipes,
            promotes_by_itself: rng.one_in(4),
            next_id: 100,
            operation: 0,
            pending: None,
            unsure_until: 0,
            first: BTreeMap::new(),
            off_at: BTreeMap::new(),
            rng,
        }
    }
}

impl World {
    pub(super) fn operator_turn(&mut self) -> Checked {
        let Some(operator) = &mut self.operator else { return Ok(()) };
        if self.draining {
            return Ok(());
        }
        let wait = operator.rng.exponential(operator.every_nanos).max(MILLI);
        let busy = operator.pending.is_some();
        self.events.after(wait, Event::Operator);
        self.look_after_machines();
        if busy {
            return Ok(());
        }
        // A wiped member must go before anything else happens.
        if let Some(wiped) = (0..self.plan.members).find(|m| self.machines[*m].wiped && self.is_member(*m)) {
            let id = self.id_of(wiped);
            let soon = self.operator.as_mut().is_some_and(|operator| operator.rng.one_in(3));
            return if soon || !self.storm { self.change(MembershipRequest::Remove { id }) } else { Ok(()) };
        }
        // So must one that does not start any more with its disk.
        if let Some(dead) = self.ill().filter(|member| self.machines[*member].given_up) {
            let id = self.id_of(dead);
            let soon = self.operator.as_mut().is_some_and(|operator| operator.rng.one_in(3));
            return if soon || !self.storm { self.remove(id) } else { Ok(()) };
        }
        if !self.storm {
            return Ok(());
        }
        self.draw_change()
    }

    fn draw_change(&mut self) -> Checked {
        let (voters, learners) = (self.oracle.members.voters(), self.oracle.members.learners());
        let vacant: Vec<usize> = (0..self.plan.members).filter(|m| self.is_vacant(*m)).collect();
        let removed = self.oracle.members.all_removed();
        // With one disk damaged, two voters must be left without it.
        let ill = self.ill().map(|member| self.id_of(member));
        let Some(operator) = &mut self.operator else { return Ok(()) };
        let rng = &mut operator.rng;
        match rng.below(12) {
            0..=2 if !vacant.is_empty() && voters.len() < VOTERS_MAX => {
                let machine = *rng.pick(&vacant);
                self.add(machine, None, false)
            }
            3..=4 if !vacant.is_empty() && learners.len() < LEARNERS_MAX => {
                let machine = *rng.pick(&vacant);
                self.add(machine, None, true)
            }
            5..=6 if !learners.is_empty() => {
                let id = *rng.pick(&learners);
                self.change(MembershipRequest::Promote { id })
            }
            7..=8 if voters.len() > 1 => {
                let id = *rng.pick(&voters);
                let spared = ill.is_some_and(|ill| ill != id && voters.len() <= 3);
                if spared { Ok(()) } else { self.remove(id) }
            }
            9 if !learners.is_empty() => {
                let id = *rng.pick(&learners);
                self.remove(id)
            }
            10 if !removed.is_empty() && !vacant.is_empty() => {
                // An id is never used again: this must be refused.
                let (id, machine) = (*rng.pick(&removed), *rng.pick(&vacant));
                self.add(machine, Some(id), false)
            }
            11 if operator.wipes && ill.is_none() => {
                let all = [voters, learners].concat();
                let id = *rng.pick(&all);
                self.wipe(id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_vacant(&self, member: usize) -> bool {
        self.id_of(member) == MemberId::ZERO && self.oracle.members.with_url(&url(member)).is_none()
    }

    fn add(&mut self, machine: usize, id: Option<MemberId>, is_learner: bool) -> Checked {
        let Some(operator) = &mut self.operator else { return Ok(()) };
        let id = id.unwrap_or_else(|| {
            operator.next_id += 1;
            MemberId(operator.next_id)
        });
        if !self.oracle.members.was_removed(id) {
            self.numbers.insert(id, machine);
        }
        let peer_urls = vec![url(machine)];
        self.change(MembershipRequest::Add { id, name: String::new(), peer_urls, is_learner })
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Checked {
        // A member that is away has to find one again that it knows, or it must be replaced itself.
        if !self.all_know_another_than(id) {
            return Ok(());
        }
        self.change(MembershipRequest::Remove { id })
    }

    /// Asks for a change, through any member that runs.
    fn change(&mut self, request: MembershipRequest) -> Checked {
        let serving: Vec<usize> =
            (0..self.plan.members).filter(|member| self.serving_clients(*member).is_some()).collect();
        let Some(operator) = &mut self.operator else { return Ok(()) };
        if serving.is_empty() {
            return Ok(());
        }
        let member = *operator.rng.pick(&serving);
        self.change_through(member, request)
    }

    /// Asks for a change through a member that runs.
    pub(super) fn change_through(&mut self, member: usize, request: MembershipRequest) -> Checked {
        let Some(operator) = &mut self.operator else { return Ok(()) };
        operator.operation += 1;
        let operation = operator.operation;
        let (seq, start) = self.next_seq(member);
        let origin = Origin { member: self.id_of(member), start, seq };
        if let Some(operator) = &mut self.operator {
            operator.pending = Some(Pending { origin, operation });
        }
        self.trace(|| format!("operator asks m{member} for {request:?}"));
        self.oracle.asked(origin);
        let epoch = self.machines[member].epoch;
        self.asked.insert((member, epoch, seq), (CLIENT, operation));
        self.events.after(PATIENCE_NANOS, Event::Changed { operation, delivery: Delivery::TimedOut });
        self.push(member, Input::Log(LogInput::ChangeMembership { seq, request }))
    }

    /// What became of the change.
    pub(super) fn changed(&mut self, operation: u64, delivery: Delivery) -> Checked {
        let Some(operator) = &mut self.operator else { return Ok(()) };
        let Some(Pending { origin, .. }) = operator.pending.take_if(|pending| pending.operation == operation)
        else {
            return Ok(());
        };
        let refused = matches!(delivery, Delivery::Refused(RequestError::Refused { .. }));
        if !refused && !matches!(delivery, Delivery::Answer(_)) {
            operator.unsure_until = self.events.now() + UNSURE_NANOS;
        }
        self.asked.retain(|_, asked| *asked != (CLIENT, operation));
        match delivery {
            Delivery::Answer(_) => {
                self.count("members: change made");
                self.trace(|| "operator: done".to_owned());
                self.oracle.changed(origin)
            }
            // The log itself refused it.
            Delivery::Refused(RequestError::Refused { reason }) if self.oracle.entered(origin) => {
                self.count("members: change refused by the log");
                self.trace(|| format!("operator: the log refused it: {reason}"));
                self.oracle.changed(origin)
            }
            Delivery::Refused(error) => {
                self.count("members: change refused");
                self.trace(|| format!("operator: {error}"));
                let unknown = matches!(
                    error,
                    RequestError::LeaderChanged | RequestError::TimedOut | RequestError::Stopped { .. }
                );
                self.oracle.failed(origin, !unknown)
            }
            _ => self.oracle.failed(origin, false),
        }
    }

    /// Starts what was added, and turns off what was removed.
    pub(super) fn look_after_machines(&mut self) {
        let now = self.events.now();
        for member in 0..self.plan.members {
            let listed = self.oracle.members.with_url(&url(member));
            if self.id_of(member) == MemberId::ZERO {
                if let Some(id) = listed {
                    self.begin_member(member, id);
                }
                continue;
            }
            if self.is_member(member) {
                continue;
            }
            // Removed: it may go on for a while, knowing of it or not.
            let Some(operator) = &mut self.operator else { return };
            let lingers = if self.storm { operator.rng.below(6 * SECOND) } else { 0 };
            let off_at = *operator.off_at.entry(member).or_insert(now + lingers);
            if now >= off_at && self.others_know(member) {
                self.turn_off(member);
            }
        }
    }

    /// Whether a majority of the voters durably knows that the member of this machine was removed.
    pub(super) fn others_know(&self, member: usize) -> bool {
        let id = self.id_of(member);
        let voters = self.oracle.members.voters();
        let know = voters.iter().filter(|voter| {
            let machine = self.numbers.get(voter).map(|at| &self.machines[*at]);
            machine.is_some_and(|machine| machine.kept.was_removed(id) && machine.identity.member == **voter)
        });
        know.count() > voters.len() / 2
    }

    fn begin_member(&mut self, member: usize, id: MemberId) {
        self.trace(|| format!("m{member} is set up as {id}"));
        let machine = &mut self.machines[member];
        machine.identity = quorate_member::Identity { member: id, ..NOBODY };
        machine.joins = true;
        machine.wiped = false;
        machine.given_up = false;
        machine.restart_pending = false;
        machine.served = 0;
        machine.log_end = LogIndex::ZERO;
        machine.kept = Arc::new(MemberList::default());
        self.numbers.insert(id, member);
        let wait = self.rng.below(SECOND);
        self.restart_after(member, wait);
    }

    pub(super) fn turn_off(&mut self, member: usize) {
        self.trace(|| format!("m{member} is turned off and emptied"));
        self.crash(member, CrashKind::Process, 0);
        if let Some(operator) = &mut self.operator {
            operator.off_at.remove(&member);
        }
        let machine = &mut self.machines[member];
        machine.running = None;
        machine.epoch += 1;
        machine.given_up = true;
        machine.wiped = false;
        machine.identity = NOBODY;
        machine.disk.wipe();
        self.is_cured(member);
    }

    /// A machine loses its disk, if the cluster is in a state in which that must do no harm: a majority is left, and
    /// everybody knows the member as it was.
    fn wipe(&mut self, id: MemberId) {
        let now = self.events.now();
        let Some(&member) = self.numbers.get(&id) else { return };
        let voters = self.oracle.members.voters();
        // Two founders without their disks would take each other's word for a first start.
        if self.machines.iter().any(|machine| machine.wiped) {
            return;
        }
        if self.id_of(member) != id || (voters.contains(&id) && voters.len() < 3) {
            return;
        }
        let incarnation = self.machines[member].identity.incarnation;
        let others: Vec<MemberId> = [voters, self.oracle.members.learners()].concat();
        let known = others.iter().filter(|other| **other != id).all(|other| {
            let at = self.numbers.get(other).copied().filter(|at| self.id_of(*at) == *other);
            at.is_some_and(|at| self.machines[at].serving(now).is_some() && self.has_met(at, id, incarnation))
        });
        let noted = self.oracle.members.incarnation(id) == incarnation && incarnation != Incarnation::ZERO;
        if !known || !noted || self.machines[member].given_up {
            return;
        }
        let down_nanos = self.rng.between(1, 1_000) * MILLI;
        self.trace(|| format!("m{member} ({id}) loses its disk"));
        self.count("members: wiped");
        self.crash(member, CrashKind::Process, down_nanos);
        self.lose_disk(member);
    }

    /// A machine that is down gets an empty disk; its member comes back as another.
    pub(super) fn lose_disk(&mut self, member: usize) {
        let again = Incarnation(self.rng.draw().max(1));
        let machine = &mut self.machines[member];
        machine.disk.wipe();
        machine.wiped = true;
        machine.log_end = LogIndex::ZERO;
        machine.kept = Arc::new(MemberList::default());
        machine.written_term = 0;
        machine.identity.incarnation = again;
        // A lone founder's settings would found its cluster anew: whoever keeps such a member uses others by then.
        machine.joins |= self.plan.founders == 1;
    }

    /// The process of a member that was removed ends.
    pub(super) fn member_ended(&mut self, member: usize) -> Checked {
        let id = self.id_of(member);
        ensure!(
            self.operator.is_some() && self.oracle.members.was_removed(id),
            "m{member} ends as if it was removed"
        );
        self.trace(|| format!("m{member} ends: it was removed"));
        self.count("members: ended");
        self.crash(member, CrashKind::Process, 300 * MILLI);
        // One that asks to be admitted is started again, and asks anew.
        let asks = self.newcomers.as_ref().is_some_and(|newcomers| newcomers.way == Way::Asks);
        self.machines[member].given_up = !asks;
        Ok(())
    }

    /// A learner becomes a voter only once it has what it needs to count.
    pub(super) fn judge_promotions(&mut self) -> Checked {
        for (id, index) in self.oracle.members.take_promoted() {
            let Some(&at) = self.numbers.get(&id) else { continue };
            let machine = &self.machines[at];
            let has = machine.log_end.0;
            let needs = (index.0 - 1) * 9 / 10;
            ensure!(
                machine.identity.member != id || machine.wiped || has >= needs,
                "{id} became a voter at index {index} with a log that ends at {has}"
            );
        }
        Ok(())
    }

    /// Every member is started, none is wiped, and nothing is under way.
    pub(super) fn is_staffed(&self) -> bool {
        if self.newcomers.is_some() {
            return self.all_are_home();
        }
        let idle = self.operator.as_ref().is_none_or(|operator| operator.pending.is_none());
        let all = [self.oracle.members.voters(), self.oracle.members.learners()].concat();
        idle && all.iter().all(|id| {
            let at = self.numbers.get(id).copied().filter(|at| self.id_of(*at) == *id);
            at.is_some_and(|at| self.machines[at].running.is_some() && !self.machines[at].wiped)
        })
    }
}
