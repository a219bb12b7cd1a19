//! What consensus wants made durable, sent and applied.

use super::*;

impl LogLoop {
    pub(super) fn drain_consensus(&mut self, now: Now) {
        while let Some(ready) = self.consensus.ready() {
            if let Some(role) = ready.role_change {
                self.role_changed(role.role, role.leader, role.term, now);
            }
            self.send_messages(ready.messages, now);
            if let Some(point) = ready.snapshot {
                self.snapshot_accepted(
                    SnapshotPoint { index: point.index, term: point.term },
                    point.membership,
                );
            }
            self.batch_needs_write |= ready.must_sync || !ready.entries.is_empty();
            if let (Some(first), Some(last)) = (ready.entries.first(), ready.entries.last()) {
                self.replay.replaced_from(first.index);
                self.last_index = last.index;
            }
            append_entries(&mut self.batch.entries, ready.entries);
            if ready.hard_state.is_some() {
                self.batch.hard_state = ready.hard_state;
            }
            self.after.ready_number = Some(ready.number);
            if planted!(PromiseBeforeWrite) {
                self.send_messages(ready.persisted_messages.clone(), now);
            }
            self.after.messages.extend(ready.persisted_messages);
            self.commit(ready.committed);
            for (token, index) in ready.reads {
                self.round_answered(token, index);
            }
            if !ready.snapshots_wanted.is_empty() {
                self.out.push(LogOutput::Apply(ApplyInput::CheckpointNow));
            }
            if self.failed.is_some() {
                return;
            }
            self.flush(now);
        }
        if let Some((point, generation)) = self.fetched.take() {
            tracing::info!(index = %point.index, "a fetched snapshot is not needed any more");
            self.out.push(LogOutput::Transfer(TransferInput::Discard { generation }));
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.consensus.leadership().0 == Role::Leader
    }

    /// Hands the batch to the writer if it is free. A batch that needs no write is settled at once.
    pub(super) fn flush(&mut self, now: Now) {
        if self.in_flight.is_some() {
            return;
        }
        let release_alone = self.batch.release.is_some() && self.after.ready_number.is_none();
        if !self.batch_needs_write && self.batch.restart.is_none() && !release_alone {
            self.settle_unwritten(now);
            return;
        }
        self.batches += 1;
        let mut batch = std::mem::take(&mut self.batch);
        batch.number = self.batches;
        self.batch_needs_write = false;
        let after = std::mem::take(&mut self.after);
        self.in_flight = Some(InFlight { number: self.batches, since: now.monotonic, after });
        self.out.push(LogOutput::Write(batch));
    }

    /// A commit index alone may ride with the next batch: losing it in a crash loses nothing.
    pub(super) fn settle_unwritten(&mut self, now: Now) {
        let after = std::mem::take(&mut self.after);
        self.settle(after, now);
    }

    pub(super) fn settle(&mut self, after: AfterWrite, now: Now) {
        if let Some(number) = after.ready_number {
            self.consensus.persisted(number);
        }
        self.send_messages(after.messages, now);
        if let Some(members) = after.members {
            self.keep(members);
        }
        if let Some((point, generation)) = after.install {
            self.out.push(LogOutput::Apply(ApplyInput::Install { point, generation }));
        }
    }

    pub(super) fn written(&mut self, number: u64, now: Now) {
        let write = self.in_flight.take().expect("a write that was started");
        assert_eq!(write.number, number, "writes come back in order");
        self.no_space = false;
        self.settle(write.after, now);
    }

    pub(super) fn role_changed(&mut self, role: Role, leader: Option<MemberId>, term: Term, now: Now) {
        tracing::info!(?role, leader = ?leader, %term, "role");
        if role == Role::Leader {
            self.lead_time(term, now);
            self.joins.leads(Some(now.monotonic));
            self.noted.clear();
            self.out.push(LogOutput::Apply(ApplyInput::Lead { term }));
        } else {
            self.expiries.clear();
            self.joins.leads(None);
            self.out.push(LogOutput::Apply(ApplyInput::Follow));
        }
        self.reads.give_up_round(None);
        self.traffic.role_changed();
    }

    /// Time goes on from the log's last entry that has stamps, which never go back along the log. Before the first stamp
    /// of a term at the latest: a proposal may come before the change of the role is told.
    pub(super) fn lead_time(&mut self, term: Term, now: Now) {
        let consensus = &self.consensus;
        self.stamper.lead(term, now, || {
            let (_, entries) = consensus.log();
            let mut stamped = entries.iter().rev().filter_map(|entry| envelope_of(entry)?.ok());
            stamped.next().map(|envelope| (envelope.cluster_time, envelope.wall_time))
        });
    }

    pub(super) fn commit(&mut self, entries: Vec<Entry>) {
        for entry in &entries {
            assert_eq!(entry.index, self.committed.next(), "committed entries come without a gap");
            self.committed = entry.index;
            self.proposals.committed_under(entry.term);
            self.applying.push_back((entry.index, entry.data.len()));
            self.applying_bytes += entry.data.len();
        }
        self.unjudged.extend(entries);
        self.judge_committed();
    }

    /// Passes what is committed on to the apply stage. The member list that it is judged from must be the one that stands
    /// before it: while a snapshot is installed that list is not known here yet, and the entries wait.
    pub(super) fn judge_committed(&mut self) {
        if self.installing.is_some() || self.unjudged.is_empty() {
            return;
        }
        let mut committed = Vec::with_capacity(self.unjudged.len());
        for entry in std::mem::take(&mut self.unjudged) {
            match self.judge(&entry) {
                Ok(verdict) => committed.push(Committed { entry, verdict }),
                Err(reason) => {
                    self.fail(reason);
                    return;
                }
            }
        }
        self.out.push(LogOutput::Apply(ApplyInput::Entries(committed)));
    }

    /// Settles the request behind a committed entry and judges a membership request.
    pub(super) fn judge(&mut self, entry: &Entry) -> Result<Option<Verdict>, String> {
        let said =
            |error: &dyn std::fmt::Display| format!("log entry {} can't be applied: {error}", entry.index);
        let Some(envelope) = envelope_of(entry).transpose().map_err(|e| said(&e))? else { return Ok(None) };
        self.stamper.settled(envelope.cluster_time, envelope.wall_time);
        let mine = envelope.origin.member == self.config.identity.member
            && envelope.origin.start == self.config.start;
        if mine {
            self.proposals.settle(envelope.origin.seq);
        }
        if envelope.model != quorate_models::ModelId::MEMBER {
            return Ok(None);
        }
        let request = MembershipRequest::decode(&envelope.command).map_err(|e| said(&e))?;
        let change = change_of(&request);
        let before = self.peer_of(&request);
        let outcome = self.members.judge(&request);
        if entry.kind == EntryKind::Membership {
            let change = change.filter(|_| outcome.is_ok());
            self.membership =
                self.consensus.apply_membership(entry.index, change.as_ref()).map_err(|e| said(&e))?;
        }
        if outcome.is_ok() {
            self.joins.keep(&self.members);
            self.traffic.keep(&self.members);
            let members = Arc::new(self.members.clone());
            self.out.push(LogOutput::Members(members.clone()));
            self.after.members = Some(members);
            self.batch_needs_write = true;
            self.look_at_guests();
            self.tell_observations();
            self.tell_judged(&request, before);
            tracing::info!(?request, "the member list changed");
        }
        Ok(Some(Verdict { outcome, members: self.members.clone(), membership: self.membership.clone() }))
    }

    pub(super) fn applied(&mut self, index: LogIndex) {
        while let Some((first, bytes)) = self.applying.front().copied().filter(|(first, _)| *first <= index) {
            self.applying.pop_front();
            self.applying_bytes -= bytes;
            self.applied = first;
        }
        self.consensus.applied(self.applied);
        if planted!(FreeLogEarly) {
            self.batch.release = Some(self.applied);
        }
        if self.applying.is_empty() {
            self.leave_if_removed();
        }
    }

    pub(super) fn give_up_requests(&mut self, error: &RequestError) {
        for seq in self.proposals.give_up_all() {
            self.out.push(LogOutput::Refuse { seq, error: error.clone() });
        }
        for read in self.reads.give_up_all() {
            self.refuse_read(read, error.clone());
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        if self.failed.is_none() {
            tracing::error!(%reason, "this member stops serving");
            self.give_up_requests(&RequestError::Stopped { reason: reason.clone() });
            self.failed = Some(reason);
        }
    }
}
