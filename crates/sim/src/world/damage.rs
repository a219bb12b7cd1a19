//! Damage to bytes at rest: which disk is hit, where, and what becomes of a member that can't go on with it.
//!
//! Invariants: one disk is damaged at a time, and none while another is lost or may be, so that never more disks are
//! destroyed than the cluster tolerates: nothing may be lost. The log is damaged only where later records prove it: what was
//! written last and never followed by anything can't be told from what a crash tore. Whoever looks after a member that does
//! not start any more with its disk has it removed and another one added in its place.

use quorate_ids::MemberId;
use quorate_member::MembershipRequest;

use super::World;
use super::newcomers::Way;
use crate::disk::{DiskFaults, Rot, Spot};
use crate::nemesis::Damage;
use crate::rng::Ppm;

/// Once so many batches were made durable after it, whatever was in the log is proved to have been there.
const BATCHES_THAT_PROVE: u32 = 2;
/// What a machine keeps besides the log and the store: small files, read and written as a whole.
const SPARED: &[&str] = &["wal/", "peers", "joining"];

/// A bit of the log that will be flipped once later records prove what was there.
#[derive(Clone, Debug)]
pub struct LogRot {
    spot: Spot,
    batches: u32,
}

impl World {
    /// Damages the one disk that may be damaged now: that must be found, whenever it is read, and never served.
    pub(super) fn damage(&mut self, how: Damage) {
        if let Some(member) = self.choose_damaged() {
            self.damage_disk_of(member, how);
        }
    }

    pub(super) fn damage_disk_of(&mut self, member: usize, how: Damage) {
        if how == Damage::RotInLog {
            let spot = self.machines[member].disk.spot(Rot::WrittenByte, &|path| path.starts_with("wal/"));
            self.machines[member].log_rot = spot.map(|spot| LogRot { spot, batches: 0 });
            self.damaged = Some(member);
            self.machines[member].damaged = true;
            return;
        }
        if self.damaged != Some(member) {
            self.count("disk: damaged");
        }
        self.damaged = Some(member);
        let come_and_go = self.operator.is_some();
        let times = self.rng.between(1, 40);
        let machine = &mut self.machines[member];
        machine.damaged = true;
        let disk = machine.disk.clone();
        let chance = Ppm(10_000);
        let mut faults = DiskFaults { damage_budget: 1, damage_spares: SPARED, ..disk.faults() };
        match how {
            Damage::Rot => {
                disk.rot(Rot::AnyByte, &|path| path.starts_with("store-") || come_and_go && path == "peers");
                return;
            }
            Damage::RotInRecords => {
                for _ in 0..times {
                    disk.rot(Rot::WrittenByte, &|path| path.contains("/segment-"));
                }
                return;
            }
            Damage::RotInIndex => {
                disk.rot(Rot::WrittenByte, &|path| path.contains("/run-") || path.contains("/manifest"));
                return;
            }
            Damage::RotInLog => unreachable!("looked at above"),
            Damage::Misdirect => (faults.misdirected_write, faults.misdirected_read) = (chance, chance),
            Damage::StaleRead => faults.stale_read = chance,
        }
        disk.set_faults(faults);
    }

    fn choose_damaged(&mut self) -> Option<usize> {
        if let Some(member) = self.still_damaged() {
            return Some(member);
        }
        // Whoever leads sends the snapshots: its damage could spread.
        let leader = if self.rng.one_in(2) { self.leader() } else { None };
        let any = self.rng.below(self.plan.members as u64) as usize;
        let member = leader.unwrap_or(any);
        self.may_be_damaged(member).then_some(member)
    }

    fn still_damaged(&self) -> Option<usize> {
        self.damaged.filter(|member| self.operator.is_none() || self.is_ill(*member))
    }

    /// Whether this disk may be damaged now.
    pub(super) fn may_damage(&self, member: usize) -> bool {
        self.still_damaged().map_or_else(|| self.may_be_damaged(member), |damaged| damaged == member)
    }

    /// Whether a cluster that loses this disk goes on with all that it has.
    fn may_be_damaged(&self, member: usize) -> bool {
        if self.operator.is_none() {
            return self.plan.members >= 3;
        }
        let now = self.events.now();
        let settled = self.operator.as_ref().is_some_and(|operator| operator.is_sure(now));
        let joined = self.newcomers.as_ref().is_none_or(|newcomers| newcomers.no_vote_moves(now));
        let contested = self.machines.iter().any(|machine| machine.called.is_some());
        self.is_member(member)
            && self.machines[member].serving(now).is_some()
            && self.oracle.members.voters().len() >= 3
            && self.dead_members() == 0
            && settled
            && joined
            && !contested
            && self.all_know_another_than(self.id_of(member))
    }

    /// The disk of a member that counts is damaged, or was.
    pub(super) fn is_ill(&self, member: usize) -> bool {
        self.machines[member].damaged && self.is_member(member)
    }

    /// The member that is ill, if one is.
    pub(super) fn ill(&self) -> Option<usize> {
        self.damaged.filter(|member| self.operator.is_some() && self.is_ill(*member))
    }

    /// The members whose disks are gone or damaged, or that have not started yet.
    pub(super) fn dead_members(&self) -> usize {
        let members = &self.oracle.members;
        let lives = |id: &MemberId| {
            let at = self.numbers.get(id).copied().filter(|at| self.id_of(*at) == *id);
            at.is_some_and(|at| !self.machines[at].damaged && !self.machines[at].wiped)
        };
        [members.voters(), members.learners()].concat().iter().filter(|id| !lives(id)).count()
    }

    /// Whether each member that is away can find one again that it knows and that has its disk, without this one.
    pub(super) fn all_know_another_than(&self, id: MemberId) -> bool {
        let stay: Vec<MemberId> = [self.oracle.members.voters(), self.oracle.members.learners()].concat();
        let stay: Vec<MemberId> = stay.into_iter().filter(|other| *other != id).collect();
        let ill = self.ill().map(|member| self.id_of(member));
        (0..self.plan.members).all(|member| {
            let me = self.id_of(member);
            let kept = &self.machines[member].kept;
            let knows = |id: &MemberId| *id != me && Some(*id) != ill && kept.get(*id).is_some();
            let is_new = kept.iter().next().is_none();
            let alone = stay == [me];
            !stay.contains(&me) || is_new || alone || stay.iter().any(knows)
        })
    }

    /// A batch of the log is durable: what was chosen to rot may do so once nobody can take it for a torn tail.
    pub(super) fn log_rots(&mut self, member: usize, appended: bool) {
        let machine = &mut self.machines[member];
        let Some(rot) = &mut machine.log_rot else { return };
        rot.batches += u32::from(appended);
        if rot.batches <= BATCHES_THAT_PROVE {
            return;
        }
        let spot = machine.log_rot.take().map(|rot| rot.spot);
        if spot.is_some_and(|spot| machine.disk.flip(&spot)) {
            self.count("disk: bit of the log flipped");
            self.trace(|| format!("m{member}: a bit of its log is flipped"));
        }
    }

    /// The machine has a new disk.
    pub(super) fn is_cured(&mut self, member: usize) {
        let machine = &mut self.machines[member];
        if !machine.damaged {
            return;
        }
        machine.damaged = false;
        machine.failures = 0;
        machine.log_rot = None;
        machine.disk.set_faults(DiskFaults::default());
        if self.damaged == Some(member) {
            self.damaged = None;
        }
    }

    /// A member that does not start any more with its disk is given up by whoever looks after it.
    pub(super) fn gives_up(&mut self, member: usize) -> bool {
        let machine = &mut self.machines[member];
        machine.failures += u32::from(machine.damaged);
        machine.given_up = machine.damaged && machine.failures >= FAILURES_MAX;
        if machine.given_up {
            self.count("member: damage found and named");
        }
        self.machines[member].given_up
    }

    /// Where machines join by request, a machine that can't go on with its disk is emptied, and comes back.
    pub(super) fn empty_the_ill(&mut self) {
        let Some(member) = self.ill().filter(|member| self.machines[*member].given_up) else { return };
        if self.storm && !self.newcomers_rng().one_in(8) {
            return;
        }
        self.count("joins: a machine with a damaged disk is emptied");
        self.trace(|| format!("m{member}, which does not start any more, is emptied"));
        self.machines[member].disk.wipe();
        self.is_cured(member);
        self.set_up(member);
        let wait = self.newcomers_rng().between(1, 1_500) * super::MILLI;
        self.restart_after(member, wait);
    }

    /// Where machines join by request: whether they come as what they are only.
    pub(super) fn takes_no_names(&self) -> bool {
        self.newcomers.as_ref().is_none_or(|newcomers| newcomers.way == Way::Absorbed) || self.ill().is_some()
    }
}

/// Whether a change that a leader makes unasked leaves the votes that are needed while the disk of `ill` is damaged.
pub(super) fn is_safe_for(ill: Option<MemberId>, request: &MembershipRequest) -> bool {
    match request {
        MembershipRequest::Demote { id, .. } | MembershipRequest::Remove { id } => {
            ill.is_none_or(|ill| ill == *id)
        }
        _ => true,
    }
}

/// A member with a damaged disk that stops this often stays down.
const FAILURES_MAX: u32 = 5;
