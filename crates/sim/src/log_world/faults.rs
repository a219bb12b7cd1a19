//! Faults put into effect, and the end of the storm.

use super::*;
use crate::disk::Rot;
use crate::nemesis::Shape;

impl LogWorld {
    pub(super) fn fault(&mut self, fault: Fault) {
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
            Fault::Pause { member, nanos, .. } => {
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
            Fault::VoteRace { hub, kind, delay_nanos, nanos } => {
                Shape::Star { hub, delay_nanos }.apply(&mut self.network, self.plan.members);
                self.machines[hub].vote_race = Some((kind, now + nanos));
                self.events.after(nanos, Event::HealNetwork);
                *self.counts.entry("network: race for a vote").or_default() += 1;
            }
            Fault::LonelyLeader { nanos, .. } => {
                let leads = |machine: &Machine| {
                    let status = machine.replica.as_ref()?.consensus.status();
                    (status.role == Role::Leader).then_some(status.term)
                };
                let terms = self.machines.iter().enumerate().filter_map(|(at, m)| Some((leads(m)?, at)));
                let Some((_, member)) = terms.max() else { return };
                Shape::Alone { member }.apply(&mut self.network, self.plan.members);
                self.events.after(nanos, Event::HealNetwork);
                *self.counts.entry("network: leader cut off").or_default() += 1;
            }
            Fault::Clock { .. } | Fault::CutSnapshot { .. } | Fault::RotInSnapshot { .. } => {}
        }
    }

    /// Damages the one disk of this run that may be damaged.
    pub(super) fn damage(&mut self, how: Damage) {
        if self.plan.members < 3 {
            return;
        }
        let member = *self.damaged.get_or_insert_with(|| self.rng.below(self.plan.members as u64) as usize);
        let machine = &mut self.machines[member];
        machine.damaged = true;
        match how {
            Damage::Rot | Damage::RotInRecords | Damage::RotInIndex | Damage::RotInLog => {
                machine.disk.rot(Rot::AnyByte, &|_| true);
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

    pub(super) fn end_storm(&mut self) {
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
            machine.vote_race = None;
        }
        self.events.after(HEAL_NANOS_MAX, Event::Deadline);
    }

    /// Every replica that can run committed something new, and all have the same.
    pub(super) fn is_healed(&self) -> bool {
        let last = self.committed.keys().next_back().copied().unwrap_or_default();
        let enough = self.healed_from.0 + 20;
        last.0 > enough
            && self.machines.iter().all(|machine| match &machine.replica {
                Some(replica) => replica.applied.0 > enough,
                None => machine.damaged && !machine.up,
            })
    }
}
