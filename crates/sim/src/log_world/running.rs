//! Replicas at work: ticks, frames, writes, commits.

use super::*;

impl LogWorld {
    pub(super) fn tick(&mut self, member: usize, epoch: u64) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        if machine.epoch != epoch {
            return Ok(());
        }
        if machine.paused_until > now {
            let at = machine.paused_until;
            self.events.at(at, Event::Tick { member, epoch });
            return Ok(());
        }
        machine.disk.settle(now);
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        replica.consensus.tick();
        if replica.retry {
            replica.retry = false;
        }
        self.events.after(TICK_NANOS, Event::Tick { member, epoch });
        self.turn(member)
    }

    pub(super) fn frame(&mut self, from: usize, to: usize, to_epoch: u64, bytes: Bytes) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[to];
        self.hash.bytes(&bytes);
        if machine.paused_until > now {
            let at = machine.paused_until;
            self.events.at(at, Event::Frame { from, to, to_epoch, bytes });
            return Ok(());
        }
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        // A flipped bit that the decoder accepts would be caught by the frame's checksum; only whole frames get here.
        let Ok(message) = Message::decode(&bytes) else {
            return Err(Violation("a whole message does not decode".to_owned()));
        };
        let _ = replica.consensus.step(message);
        self.turn(to)
    }

    pub(super) fn written(
        &mut self,
        member: usize,
        epoch: u64,
        ready: u64,
        term: Term,
        messages: Vec<Message>,
    ) -> Checked {
        if self.machines[member].epoch != epoch {
            return Ok(());
        }
        let now = self.events.now();
        if self.machines[member].paused_until > now {
            let at = self.machines[member].paused_until;
            self.events.at(at, Event::Written { member, epoch, ready, term, messages });
            return Ok(());
        }
        let Some(replica) = &mut self.machines[member].replica else { return Ok(()) };
        replica.writing = false;
        replica.consensus.persisted(ready);
        self.machines[member].durable_term = self.machines[member].durable_term.max(term);
        self.send(member, messages);
        self.turn(member)
    }

    pub(super) fn turn(&mut self, member: usize) -> Checked {
        loop {
            let Some(replica) = &mut self.machines[member].replica else { return Ok(()) };
            let Some(ready) = replica.consensus.ready() else { break };
            assert!(ready.snapshot.is_none(), "nothing here makes snapshots");
            for entry in &ready.entries {
                replica.next.records.push(Record::Entry {
                    index: entry.index,
                    term: entry.term,
                    payload: pack(entry),
                });
            }
            if ready.hard_state.is_some() {
                replica.next.hard_state = ready.hard_state;
            }
            if let Some(change) = ready.role_change.filter(|change| change.role == Role::Leader) {
                let first = *self.leaders.entry(change.term).or_insert(member);
                ensure!(first == member, "members {first} and {member} both lead in term {}", change.term);
            }
            replica.next.ready = Some(ready.number);
            replica.next.must_sync |= ready.must_sync;
            replica.next.messages.extend(ready.persisted_messages);
            self.send(member, ready.messages);
            self.commit(member, ready.committed)?;
        }
        self.write(member)
    }

    pub(super) fn write(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        if replica.writing || replica.retry {
            return Ok(());
        }
        let Some(ready) = replica.next.ready else { return Ok(()) };
        let mut batch = std::mem::replace(&mut replica.next, Batch::new());
        if !batch.must_sync && batch.records.is_empty() {
            replica.consensus.persisted(ready);
            replica.next.hard_state = batch.hard_state;
            let messages = batch.messages;
            self.send(member, messages);
            return self.turn(member);
        }
        let mut records = std::mem::take(&mut batch.records);
        if let Some(HardState { term, vote, commit }) = batch.hard_state {
            let vote = vote.unwrap_or(MemberId::ZERO);
            records.push(Record::HardState(quorate_wal::HardState { term, vote, commit }));
        }
        machine.disk.begin(now);
        match replica.wal.append(&records) {
            Ok(_) => {}
            Err(WalError::NoSpace { .. }) => {
                // Nothing was written: the same batch again at the next tick.
                *self.counts.entry("member: batch waits for space").or_default() += 1;
                if batch.hard_state.is_some() {
                    records.pop();
                }
                records.append(&mut replica.next.records);
                batch.records = records;
                replica.next = batch;
                replica.retry = true;
                return Ok(());
            }
            Err(error) => {
                ensure!(machine.errors || machine.damaged, "member {member}: the log stops: {error}");
                *self.counts.entry("member: stopped after a failed write").or_default() += 1;
                self.crash(member, CrashKind::Process, 200_000_000);
                return Ok(());
            }
        }
        replica.writing = true;
        let done = machine.disk.busy_until();
        let epoch = machine.epoch;
        if let Some((kind, down_nanos)) = machine.crash_on_write.take() {
            let at = self.rng.between(now, done);
            self.events.at(at, Event::Crash { member, epoch, kind, down_nanos });
        }
        let term = batch.hard_state.map_or(Term::ZERO, |state| state.term);
        // A newer term is as good as a vote: most often it comes with one.
        if term > machine.durable_term {
            let race = machine.vote_race.filter(|(_, until)| now < *until);
            let race = race.map(|(kind, _)| (kind, 1_000_000 + self.rng.below(10_000_000)));
            if let Some((kind, down_nanos)) = race.or_else(|| machine.crash_on_vote.take()) {
                let at = done + self.rng.below(3_000_000);
                self.events.at(at, Event::Crash { member, epoch, kind, down_nanos });
            }
        }
        self.events.at(done, Event::Written { member, epoch, ready, term, messages: batch.messages });
        Ok(())
    }

    pub(super) fn send(&mut self, from: usize, messages: Vec<Message>) {
        let now = self.events.now();
        for message in messages {
            let to = message.to().0 as usize - 1;
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let bytes = Bytes::from(bytes);
            let to_epoch = self.machines[to].epoch;
            match self.network.send(now, from, to, 0, false, bytes.len()) {
                Fate::Arrives { at, again_at } => {
                    for at in [Some(at), again_at].into_iter().flatten() {
                        self.events.at(at, Event::Frame { from, to, to_epoch, bytes: bytes.clone() });
                    }
                }
                Fate::Corrupt { .. } | Fate::Lost | Fate::Broken { .. } => {}
            }
        }
    }

    pub(super) fn commit(&mut self, member: usize, entries: Vec<Entry>) -> Checked {
        for entry in entries {
            let machine = &mut self.machines[member];
            let Some(replica) = &mut machine.replica else { return Ok(()) };
            ensure!(
                entry.index == replica.applied.next(),
                "member {member} commits {} after {}",
                entry.index,
                replica.applied
            );
            replica.applied = entry.index;
            replica.consensus.applied(entry.index);
            let known = self.committed.entry(entry.index).or_insert_with(|| (entry.term, entry.data.clone()));
            ensure!(
                *known == (entry.term, entry.data.clone()),
                "committed prefixes disagree: member {member} has another entry at index {} (term {}) than was committed before (term {})",
                entry.index,
                entry.term,
                known.0
            );
            if entry.kind != EntryKind::Command {
                continue;
            }
            let value = u64::from_le_bytes(entry.data[..8].try_into().expect("eight bytes"));
            // The proposer hears of it as soon as any member commits it: the hardest promise to keep.
            if let Some((index, term)) = self.proposed.get(&value) {
                ensure!(
                    (*index, *term) == (entry.index, entry.term),
                    "value {value} was proposed at {index} in term {term} and is committed at {} in {}",
                    entry.index,
                    entry.term
                );
                self.acknowledged.insert(value);
            }
        }
        Ok(())
    }
}
