//! Checkpoints that let the log go, and snapshots that take its place.

use super::*;

impl LogLoop {
    pub(super) fn checkpointed(&mut self, point: SnapshotPoint, membership: Membership) {
        let offered = quorate_consensus::SnapshotPoint { index: point.index, term: point.term, membership };
        if let Err(error) = self.consensus.set_snapshot_point(Some(offered)) {
            // An installed snapshot may have overtaken the checkpoint.
            tracing::debug!(index = %point.index, %error, "a checkpoint is not offered to followers");
            return;
        }
        // A full disk keeps nothing for followers that lag. And one that takes no entries for want of space can only be
        // helped by a snapshot.
        let full = self.space.own().is_full() || (self.leads() && self.space.has_refusing_peer());
        let retained = if full { 0 } else { self.config.log_retained_bytes };
        let through = self.consensus.compactable(retained).min(point.index).min(self.applied);
        match self.consensus.compact(through) {
            Ok(()) => self.batch.release = Some(through),
            Err(error) => tracing::debug!(%error, "the log was not compacted"),
        }
    }

    pub(super) fn snapshot_offered(&mut self, from: MemberId, point: SnapshotPoint, message: Message) {
        let busy = self.installing.is_some() || self.fetched.is_some();
        if busy || point.index <= self.committed {
            // Stepping a stale offer makes consensus answer with where this member is.
            if !busy {
                self.step_message(message);
            }
            return;
        }
        let same = self.fetching.as_ref().is_some_and(|known| known.from == from && known.point == point);
        if !same {
            tracing::debug!(%from, index = %point.index, "a snapshot is offered");
            self.out.push(LogOutput::Transfer(TransferInput::Fetch { from, point }));
        }
        self.fetching = Some(Fetching { from, point, message });
    }

    pub(super) fn snapshot_fetched(&mut self, from: MemberId, point: SnapshotPoint, generation: u64) {
        let wanted = self.fetching.take_if(|known| known.from == from && known.point == point);
        let Some(wanted) = wanted else {
            self.out.push(LogOutput::Transfer(TransferInput::Discard { generation }));
            return;
        };
        if point.index <= self.committed {
            // The log caught up meanwhile. The sender must hear of it: until then it sends nothing else.
            self.out.push(LogOutput::Transfer(TransferInput::Discard { generation }));
            self.step_message(wanted.message);
            self.send(from, Lane::Control, &Frame::SnapshotStatus { point, installed: true });
            return;
        }
        self.fetched = Some((point, generation));
        self.step_message(wanted.message);
    }

    pub(super) fn snapshot_failed(&mut self, from: MemberId, point: SnapshotPoint) {
        if self.fetching.take_if(|known| known.from == from && known.point == point).is_some() {
            self.send(from, Lane::Control, &Frame::SnapshotStatus { point, installed: false });
        }
    }

    /// Consensus took the snapshot: its files are here, the log restarts after it.
    pub(super) fn snapshot_accepted(&mut self, point: SnapshotPoint, membership: Membership) {
        let (fetched, generation) =
            self.fetched.take().expect("a snapshot is stepped only once its files are here");
        assert_eq!(fetched, point);
        self.membership = membership;
        self.batch.entries.clear();
        self.batch.restart = Some((point, generation));
        self.batch_needs_write = true;
        self.after.install = Some((point, generation));
        self.committed = point.index;
        self.last_index = point.index;
        self.replay.replaced_by(point.index);
        self.installing = Some(generation);
        for seq in self.proposals.give_up_sent() {
            self.out.push(LogOutput::Refuse { seq, error: RequestError::LeaderChanged });
        }
    }

    pub(super) fn installed(&mut self, point: SnapshotPoint, members: MemberList) {
        if let Some(generation) = self.installing.take() {
            self.out.push(LogOutput::Transfer(TransferInput::Installed { generation }));
        }
        self.comparison.clear();
        self.members = members;
        self.applying.retain(|(index, _)| *index > point.index);
        self.applying_bytes = self.applying.iter().map(|(_, bytes)| bytes).sum();
        self.applied = point.index;
        self.consensus.applied(point.index);
        let members = Arc::new(self.members.clone());
        self.out.push(LogOutput::Members(members.clone()));
        self.keep(members);
        self.look_at_guests();
        self.leave_if_removed();
        self.judge_committed();
        if let Some(leader) = self.consensus.leadership().1 {
            self.send(leader, Lane::Control, &Frame::SnapshotStatus { point, installed: true });
        }
    }

    /// As if `from` had offered a snapshot with `message`, and its files were on their way.
    #[cfg(test)]
    pub(in crate::core) fn awaits_snapshot(
        &mut self,
        from: MemberId,
        point: SnapshotPoint,
        message: Message,
    ) {
        self.fetching = Some(Fetching { from, point, message });
    }
}
