//! Replicas start, crash and come back.

use super::*;

impl LogWorld {
    fn wal_config(&self) -> quorate_wal::Config {
        quorate_wal::Config {
            segment_size_bytes: self.segment_size_bytes,
            payload_bytes_max: 16 << 10,
            direct: self.plan.direct,
            #[cfg(feature = "mutants")]
            skip_sync: self.options.mutant == crate::report::Mutant::SkipSync,
            ..quorate_wal::Config::default()
        }
    }

    /// Opens the log; the replica is up once the disk calls for that are complete.
    pub(super) fn start(&mut self, member: usize) {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        if machine.replica.is_some() || machine.opening.is_some() {
            return;
        }
        if machine.disk.quiet_at() > now {
            let at = machine.disk.quiet_at();
            self.events.at(at, Event::Restart { member });
            return;
        }
        machine.epoch += 1;
        machine.up = true;
        machine.disk.begin(now);
        let opened = self.open(member);
        let machine = &mut self.machines[member];
        machine.opening = Some(opened);
        let (at, epoch) = (machine.disk.busy_until(), machine.epoch);
        self.events.at(at, Event::Opened { member, epoch });
    }

    pub(super) fn opened(&mut self, member: usize, epoch: u64) -> Checked {
        let machine = &mut self.machines[member];
        if machine.epoch != epoch {
            return Ok(());
        }
        match machine.opening.take().expect("an opening that was not cut short") {
            Ok((consensus, wal)) => {
                let term = consensus.status().term;
                ensure!(
                    term >= machine.durable_term || machine.damaged,
                    "member {member} restarts in term {term} after {} was durable",
                    machine.durable_term
                );
                machine.replica = Some(Replica {
                    consensus,
                    wal,
                    next: Batch::new(),
                    writing: false,
                    applied: LogIndex(1),
                    retry: false,
                });
                self.trace(|| format!("m{member} up in term {term}"));
                self.events.after(0, Event::Tick { member, epoch });
                Ok(())
            }
            Err(error) => self.refused_to_start(member, &error),
        }
    }

    /// A log that does not open must have a reason that the simulator knows of.
    fn refused_to_start(&mut self, member: usize, error: &WalError) -> Checked {
        self.trace(|| format!("m{member} does not start: {error}"));
        let machine = &mut self.machines[member];
        machine.up = false;
        let names_damage = matches!(
            error,
            WalError::Damaged { .. }
                | WalError::Foreign { .. }
                | WalError::WrongIdentity { .. }
                | WalError::NewerFormat { .. }
        );
        if machine.damaged && names_damage {
            *self.counts.entry("member: damage found and named").or_default() += 1;
            return Ok(());
        }
        let excused = machine.errors || matches!(error, WalError::NoSpace { .. });
        ensure!(excused, "member {member} does not start: {error}");
        self.events.after(500_000_000, Event::Restart { member });
        Ok(())
    }

    fn open(&mut self, member: usize) -> Result<(Consensus, Wal), WalError> {
        let disk: Arc<dyn quorate_disk::Disk> = Arc::new(self.machines[member].disk.clone());
        let identity =
            Identity { cluster: ClusterId(7), member: member_id(member), incarnation: Incarnation(9) };
        let voters: Vec<MemberId> = (0..self.plan.members).map(member_id).collect();
        let membership = Membership::new(voters, Vec::new()).expect("a membership of few voters");
        let mut restored = Restored::founding(membership);
        let wal_config = self.wal_config();
        let exists = Wal::exists(&*disk, &wal_config)
            .map_err(|error| WalError::InvalidConfig { what: error.to_string() })?;
        let (mut wal, found) = if exists {
            let (wal, recovered) = Wal::open(disk, wal_config, Some(identity))?;
            (wal, Some(recovered).filter(|recovered| recovered.hard_state.term > Term::ZERO))
        } else {
            (Wal::create(disk, wal_config, identity, 0)?, None)
        };
        match found {
            Some(recovered) => {
                let quorate_wal::HardState { term, vote, commit } = recovered.hard_state;
                restored.hard_state = HardState { term, vote: (vote.0 != 0).then_some(vote), commit };
                restored.compacted = (recovered.restart.index, recovered.restart.term);
                // A batch that a crash cut short may have left entries of a term whose hard state is gone. Nothing
                // was promised in that term yet.
                if recovered.last_term > restored.hard_state.term {
                    restored.hard_state.term = recovered.last_term;
                    restored.hard_state.vote = None;
                }
                let entries = recovered.entries.into_iter();
                restored.entries =
                    entries.map(|(index, term, payload)| unpack(index, term, &payload)).collect();
            }
            // New, or a crash came before the founding was durable: nothing was promised to anybody yet.
            None => {
                let HardState { term, commit, .. } = restored.hard_state;
                let (index, restart_term) = restored.compacted;
                wal.append(&[
                    Record::Restart { index, term: restart_term, store_generation: 0 },
                    Record::HardState(quorate_wal::HardState { term, vote: MemberId::ZERO, commit }),
                ])?;
            }
        }
        let config = Config {
            election_timeout_ticks: ELECTION_TICKS,
            heartbeat_ticks: 2,
            pre_vote: self.plan.pre_vote,
            #[cfg(feature = "mutants")]
            mutant: self.options.mutant.of_consensus(),
            ..Config::new(member_id(member), self.rng.draw())
        };
        let consensus = Consensus::new(config, restored)
            .map_err(|error| WalError::InvalidConfig { what: error.to_string() })?;
        Ok((consensus, wal))
    }

    pub(super) fn crash(&mut self, member: usize, kind: CrashKind, down_nanos: u64) {
        let now = self.events.now();
        self.trace(|| format!("m{member} crashes ({kind:?})"));
        let machine = &mut self.machines[member];
        machine.replica = None;
        machine.opening = None;
        machine.up = false;
        machine.epoch += 1;
        machine.paused_until = 0;
        machine.disk.crash(now, kind);
        self.events.after(down_nanos, Event::Restart { member });
    }
}
