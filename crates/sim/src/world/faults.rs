//! Faults put into effect, starting and crashing, and the end of the storm.

use std::sync::Arc;

use quorate_disk::Disk;
use quorate_ids::LogIndex;
use quorate_member::core::{CheckpointRule, LogLoopConfig, OpenConfig, OpenError, open};
use quorate_member::{PeerBook, Status};
use quorate_models::Feeds;

use super::clients::Delivery;
use super::founding::Begins;
use super::member::{Input, Running, Stage};
use super::{Event, MILLI, SECOND, World};
use crate::disk::{CrashKind, DiskFaults};
use crate::nemesis::{Cut, Fault, Shape};
use crate::network::NetworkFaults;
use crate::oracle::{Checked, ensure};

impl World {
    fn open_config(&mut self, member: usize) -> OpenConfig {
        let settings = self.settings;
        let consensus = quorate_consensus::Config {
            election_timeout_ticks: settings.election_ticks,
            heartbeat_ticks: 1,
            pre_vote: self.plan.pre_vote,
            #[cfg(feature = "mutants")]
            mutant: self.options.mutant.of_consensus(),
            ..quorate_consensus::Config::new(self.id_of(member), self.rng.draw())
        };
        let election_timeout_nanos = settings.tick_nanos * settings.election_ticks as u64;
        OpenConfig {
            wal: quorate_wal::Config {
                segment_size_bytes: settings.wal_segment_bytes,
                payload_bytes_max: 256 << 10,
                direct: self.plan.direct,
                #[cfg(feature = "mutants")]
                skip_sync: self.options.mutant == crate::report::Mutant::SkipSync,
                ..quorate_wal::Config::default()
            },
            store: quorate_store::StoreConfig {
                front_bytes_max: settings.front_bytes_max,
                segment_bytes_max: settings.segment_bytes_max,
                body_cache_bytes: settings.body_cache_bytes,
                ..quorate_store::StoreConfig::default()
            },
            consensus,
            log_loop: LogLoopConfig {
                identity: self.machines[member].identity,
                start: self.rng.draw().max(1),
                tick_nanos: settings.tick_nanos,
                election_timeout_nanos,
                proposals_max: settings.proposals_max,
                proposal_bytes_max: 8 << 20,
                reads_max: settings.reads_max,
                request_timeout_nanos: 3 * SECOND + 2 * election_timeout_nanos,
                apply_lag_entries_max: settings.apply_lag_entries_max,
                apply_lag_bytes_max: 8 << 20,
                log_retained_bytes: settings.log_retained_bytes,
                learners_max: self.operator.as_ref().map_or(1, |_| 2),
                promote_learners: self.operator.as_ref().is_some_and(|operator| operator.promotes_by_itself),
                hasten_start: false,
                strict_membership: true,
                kinds: self.kinds(member),
            },
            checkpoint: CheckpointRule {
                front_bytes: settings.front_bytes_max / 2,
                entries: settings.checkpoint_entries,
                log_bytes: 2 * settings.front_bytes_max,
                front_room_min: settings.front_bytes_max / 2,
            },
            reserve_bytes: settings.reserve_bytes(),
        }
    }

    pub(super) fn start(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        if self.machines[member].running.is_some() || self.machines[member].given_up {
            return Ok(());
        }
        let quiet_at = self.machines[member].disk.quiet_at();
        if quiet_at > now {
            self.restart_after(member, quiet_at - now);
            return Ok(());
        }
        let config = self.open_config(member);
        let (start, kinds) = (config.log_loop.start, config.log_loop.kinds);
        self.machines[member].epoch += 1;
        self.machines[member].disk.begin(now);
        let founding = match self.begins(member, &config.wal) {
            Begins::With(founding) => founding,
            Begins::Later => {
                self.restart_after(member, 500 * MILLI);
                return Ok(());
            }
            Begins::Never => return Ok(()),
        };
        let feeds = Feeds::new(self.settings.feed_bytes_max);
        let come_and_go = self.operator.is_some();
        let told_removed = self.is_told_that_it_was_removed(member);
        let machine = &mut self.machines[member];
        let disk: Arc<dyn Disk> = Arc::new(machine.disk.clone());
        let opened = open(&disk, &disk, config, founding.as_ref(), feeds.clone(), machine.now(now));
        // A disk that refuses its peer book refuses the start, like one that refuses anything else.
        let book = match come_and_go.then(|| PeerBook::open(disk)).transpose() {
            Ok(book) => book,
            Err(error) => {
                let excused = machine.errors || machine.damaged;
                ensure!(excused, "the peer book of member {member} can't be read: {error}");
                if !self.gives_up(member) {
                    self.restart_after(member, 500 * MILLI);
                }
                return Ok(());
            }
        };
        let ready_at = machine.disk.busy_until();
        match opened {
            Ok(stages) => {
                if machine.asks_anew(&stages.members) || told_removed {
                    drop(stages);
                    return self.begin_anew(member);
                }
                if come_and_go && self.newcomers.is_some() {
                    self.came_back(member, stages.identity, &stages.members)?;
                }
                let machine = &mut self.machines[member];
                ensure!(
                    stages.identity == machine.identity,
                    "member {member} came back as {:?}, not as {:?}",
                    stages.identity,
                    machine.identity
                );
                let epoch = machine.epoch;
                let applied = stages.apply.applied_index();
                let mut running = Running {
                    stages,
                    feeds,
                    start,
                    kinds,
                    queues: Default::default(),
                    next_seq: 1,
                    status: Status::default(),
                    alone_since: self.events.now(),
                    shows_less: false,
                    checkpoint: LogIndex::ZERO,
                    hashed: LogIndex::ZERO,
                    last_unreachable: 0,
                    ready_at,
                    handed: [0; 5],
                    members: Arc::default(),
                    guests: Default::default(),
                    book,
                    doors: Default::default(),
                };
                for stage in Stage::ALL {
                    running.queue(stage).busy_until = ready_at;
                }
                machine.running = Some(Box::new(running));
                self.trace(|| {
                    format!("m{member} starts, applied {applied}, ready at {:.3} ms", ready_at as f64 / 1e6)
                });
                self.tell_met(member, ready_at)?;
                for stage in Stage::ALL {
                    self.wake_at(member, epoch, stage, ready_at);
                }
                Ok(())
            }
            Err(error) => self.refused_to_start(member, &error),
        }
    }

    /// A member that does not start must have a reason that the simulator knows of.
    fn refused_to_start(&mut self, member: usize, error: &OpenError) -> Checked {
        self.trace(|| format!("m{member} does not start: {error}"));
        let machine = &mut self.machines[member];
        let full = matches!(
            error,
            OpenError::Wal(quorate_wal::WalError::NoSpace { .. })
                | OpenError::StoreWrite(quorate_store::StoreError::NoSpace { .. })
        );
        ensure!(machine.damaged || machine.errors || full, "member {member} does not start: {error}");
        if !self.gives_up(member) {
            self.restart_after(member, 500 * MILLI);
        }
        Ok(())
    }

    pub(super) fn restart_after(&mut self, member: usize, nanos: u64) {
        self.machines[member].restart_pending = true;
        self.events.after(nanos, Event::Restart { member });
    }

    pub(super) fn crash(&mut self, member: usize, kind: CrashKind, down_nanos: u64) {
        let now = self.events.now();
        if self.machines[member].given_up
            || (self.machines[member].running.is_none() && self.machines[member].restart_pending)
        {
            return;
        }
        self.trace(|| format!("m{member} crashes ({kind:?}), down for {:.3} ms", down_nanos as f64 / 1e6));
        let machine = &mut self.machines[member];
        let epoch = machine.epoch;
        machine.running = None;
        machine.epoch += 1;
        machine.paused_until = 0;
        machine.crash_on_write = None;
        machine.crash_on_vote = None;
        machine.log_rot = None;
        machine.disk.crash(now, kind);
        if kind == CrashKind::Power {
            machine.clock.reboot(now, self.rng.between(SECOND, 100 * SECOND));
        }
        self.network.break_all(member);
        self.hosting_ended(member);
        let gone: Vec<_> =
            self.asked.range((member, epoch, 0)..=(member, epoch, u64::MAX)).map(|(k, v)| (*k, *v)).collect();
        for (key, (client, operation)) in gone {
            self.asked.remove(&key);
            let wait = self.rng.below(20 * MILLI);
            self.events.after(wait, Event::Heard { client, operation, delivery: Delivery::Gone });
        }
        self.restart_after(member, down_nanos);
    }

    pub(super) fn next_fault(&mut self) {
        if !self.storm {
            return;
        }
        let wait = self.rng.exponential(self.plan.fault_every_nanos);
        if self.is_vigil() {
            return self.events.after(wait, Event::Fault);
        }
        if let Some(fault) = self.plan.next(&mut self.rng) {
            self.trace(|| format!("fault: {fault:?}"));
            self.fault(fault);
        }
        self.events.after(wait, Event::Fault);
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.events.now();
        match fault {
            Fault::Crash { member, kind, down_nanos } => self.crash(member, kind, down_nanos),
            Fault::CrashWhileWriting { member, kind, down_nanos } => {
                self.machines[member].crash_on_write = Some((kind, down_nanos));
            }
            Fault::CrashAfterVote { member, kind, down_nanos } => {
                self.machines[member].crash_on_vote = Some((kind, down_nanos));
            }
            Fault::Blackout { down_nanos } => {
                self.count("power: all members at once");
                for member in 0..self.plan.members {
                    self.crash(member, CrashKind::Power, down_nanos);
                }
            }
            Fault::Partition { shape, nanos } => {
                shape.apply(&mut self.network, self.plan.members);
                self.events.after(nanos, Event::HealNetwork);
            }
            Fault::Pause { member, nanos, asleep } => {
                self.machines[member].paused_until = now + nanos;
                self.count("member: paused");
                if asleep {
                    self.machines[member].clock.stand_still(now, nanos);
                    self.count("clock: stood still in a sleep");
                }
            }
            Fault::SlowDisk { member, factor, stuck, nanos } => {
                let disk = &self.machines[member].disk;
                disk.set_slow(factor, now + nanos);
                if stuck {
                    disk.set_stuck(now + nanos);
                }
            }
            Fault::Disk { member, faults, nanos } => {
                self.machines[member].errors = true;
                self.machines[member].disk.set_faults(faults);
                self.events.after(nanos, Event::HealDisk { member });
            }
            Fault::FullDisk { member, nanos } => {
                let disk = &self.machines[member].disk;
                let capacity_bytes = disk.used_bytes() + self.rng.below(1 << 20);
                disk.set_faults(DiskFaults { capacity_bytes, ..DiskFaults::default() });
                self.events.after(nanos, Event::HealDisk { member });
            }
            Fault::RotInSnapshot { at } => self.rot_in_snapshot = Some(at),
            Fault::Damage { how } => self.damage(how),
            Fault::Clock { member, drift_ppm, wall_nanos, still_nanos } => {
                if still_nanos > 0 {
                    self.machines[member].clock.stand_still(now, still_nanos);
                    self.count("clock: stood still");
                }
                let clock = &mut self.machines[member].clock;
                clock.set_drift(now, drift_ppm);
                clock.set_wall_offset(wall_nanos);
                self.count("clock: jumped");
            }
            Fault::VoteRace { hub, kind, delay_nanos, nanos } => {
                Shape::Star { hub, delay_nanos }.apply(&mut self.network, self.plan.members);
                self.machines[hub].vote_race = Some((kind, now + nanos));
                self.events.after(nanos, Event::HealNetwork);
                self.count("network: race for a vote");
            }
            Fault::LonelyLeader { nanos, kept } => {
                let Some(member) = self.leader() else { return };
                if kept {
                    return self.begin_vigil(member);
                }
                Shape::Alone { member }.apply(&mut self.network, self.plan.members);
                self.events.after(nanos, Event::HealNetwork);
                self.count("network: leader cut off");
            }
            Fault::CutSnapshot { who, kind, down_nanos } => self.cut_snapshot = Some((who, kind, down_nanos)),
            Fault::Transfer { to } => {
                for member in 0..self.plan.members {
                    let epoch = self.machines[member].epoch;
                    let input =
                        Input::Log(quorate_member::core::LogInput::TransferLeadership { to: self.id_of(to) });
                    self.events.after(0, Event::Hand { member, epoch, input });
                }
                self.count("leadership: asked to move");
            }
        }
    }

    /// The member that leads the newest term, as far as members say.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |(member, machine): (usize, &super::Machine)| {
            let status = &machine.running.as_ref()?.status;
            status.is_leader.then_some((status.term, member))
        };
        self.machines.iter().enumerate().filter_map(leads).max().map(|(_, member)| member)
    }

    /// A piece of a snapshot is on its way: it may be the last one.
    pub(super) fn cut_snapshot(&mut self, from: usize, to: usize, lane: u8) {
        let Some((who, kind, down_nanos)) = self.cut_snapshot else { return };
        if !self.storm || !self.rng.one_in(3) {
            return;
        }
        self.cut_snapshot = None;
        self.count("snapshot: cut off half way");
        self.trace(|| format!("the snapshot from m{from} to m{to} is cut off: {who:?}"));
        let member = match who {
            Cut::Sender => from,
            Cut::Receiver => to,
            Cut::Link => return self.network.break_one(from, to, lane),
        };
        let epoch = self.machines[member].epoch;
        let wait = self.rng.below(2 * MILLI);
        self.events.after(wait, Event::Crash { member, epoch, kind, down_nanos });
    }

    pub(super) fn end_storm(&mut self) {
        self.trace(|| "the faults end".to_owned());
        self.storm = false;
        self.begin_emptying();
        self.network.heal();
        self.network.faults = NetworkFaults::default();
        let now = self.events.now();
        for machine in &mut self.machines {
            machine.disk.set_faults(DiskFaults::default());
            machine.disk.set_slow(1, now);
            machine.disk.set_stuck(now);
            machine.paused_until = machine.paused_until.min(now);
            machine.crash_on_write = None;
            machine.crash_on_vote = None;
            machine.log_rot = None;
            machine.vote_race = None;
        }
        self.finish_upgrade();
        self.events.after(self.heal_nanos_max(), Event::Deadline);
    }

    /// A member says that it no longer serves. It must have a reason that the simulator knows of; its operator starts
    /// it again.
    pub(super) fn member_failed(&mut self, member: usize, reason: &str) -> Checked {
        let machine = &mut self.machines[member];
        ensure!(machine.damaged || machine.errors, "member {member} stopped serving: {reason}");
        self.trace(|| format!("m{member} stopped serving: {reason}"));
        self.count("member: stopped after a failed or damaged call");
        self.crash(member, CrashKind::Process, 300 * MILLI);
        self.gives_up(member);
        Ok(())
    }
}
