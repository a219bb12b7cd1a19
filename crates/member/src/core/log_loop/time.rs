//! Ticks, stalled disks, and handing leadership on.

use super::*;

impl LogLoop {
    pub(super) fn tick(&mut self, now: Now) {
        const TICKS_CAUGHT_UP_MAX: u32 = 3;
        let mut ticks = 0;
        while now.monotonic >= self.next_tick {
            self.next_tick = self.next_tick.plus(self.config.tick_nanos);
            ticks += 1;
            if ticks > TICKS_CAUGHT_UP_MAX {
                // The member itself was held up: time that it slept through proves nothing about its peers.
                self.next_tick = now.monotonic.plus(self.config.tick_nanos);
                break;
            }
            if self.leads() || !self.disk_is_stalled(now) {
                self.consensus.tick();
            }
        }
        if ticks > 0 {
            self.leader_is_full = false;
            self.expire_requests(now);
            self.renew_offers(now);
            self.look_after_learners(now);
            self.note_incarnations(now);
            self.ask_to_leave(now);
            self.ask_whether_removed(now);
            self.tell_level(now);
            self.look_at_space(now);
        }
    }

    /// A connection to `peer` stands. While this member has just started it counts those it reaches.
    pub(super) fn reachable(&mut self, peer: MemberId) {
        self.tell_level_to(peer);
        if let Some(reached) = &mut self.starting {
            reached.insert(peer);
            self.start_early();
        }
    }

    /// A start is not made to wait a whole election timeout: where a majority is reached and no leader is heard of, there
    /// most likely is none. Asking for votes tentatively first keeps this from disturbing one that there is.
    pub(super) fn start_early(&mut self) {
        let Some(reached) = &self.starting else { return };
        let me = self.config.identity.member;
        let voters = &self.membership.voters;
        let reached = voters.iter().filter(|id| **id == me || reached.contains(id)).count();
        if self.membership.is_voter(me) && reached >= quorum(voters.len()) {
            self.starting = None;
            if self.config.hasten_start {
                self.consensus.hasten_election();
            }
        }
    }

    pub(super) fn renew_offers(&mut self, now: Now) {
        if !self.leads() {
            return;
        }
        let status = self.consensus.status();
        let open =
            status.progress.iter().filter(|(_, follower)| follower.state == ReplicationState::Snapshot);
        for silent in self.offers.silent(open.map(|(id, _)| *id), now.monotonic) {
            tracing::info!(to = %silent, "a follower does not fetch its snapshot; it is offered one anew");
            self.consensus.report_snapshot(silent, false);
        }
    }

    pub(super) fn disk_is_stalled(&self, now: Now) -> bool {
        let patience = self.config.election_timeout_nanos / 2;
        self.in_flight.as_ref().is_some_and(|write| now.monotonic.since(write.since) > patience)
    }

    /// A leader whose disk stalls, or is full while a majority's are not, or that is to stop, hands leadership to the
    /// follower that is furthest.
    pub(super) fn watch_the_disk(&mut self, now: Now) {
        if !self.leads() {
            self.transfer_since = None;
            if self.stopping {
                self.out.push(LogOutput::MayStop);
            }
            return;
        }
        let full = self.others_have_space();
        if !self.stopping && !self.disk_is_stalled(now) && !full {
            return;
        }
        let recently = self
            .transfer_since
            .is_some_and(|since| now.monotonic.since(since) < self.config.election_timeout_nanos);
        if recently {
            return;
        }
        let status = self.consensus.status();
        let candidates = status.progress.iter().filter(|(id, follower)| {
            **id != self.config.identity.member
                && self.membership.is_voter(**id)
                && follower.recent_active
                && (!full || self.has_enough_space(**id))
        });
        match candidates.max_by_key(|(_, follower)| follower.matched).map(|(id, _)| *id) {
            Some(to) => {
                tracing::info!(%to, stopping = self.stopping, full, "handing leadership on");
                self.hand_over_to(to, now);
            }
            None if self.stopping => self.out.push(LogOutput::MayStop),
            None => {}
        }
    }

    /// Somebody wants `to` to lead: a leader hands over to it, a follower asks its leader to.
    pub(super) fn transfer(&mut self, to: MemberId, now: Now) {
        match self.consensus.leadership() {
            (Role::Leader, _, _) => self.hand_over_to(to, now),
            (Role::Follower, Some(leader), term) => {
                self.send(leader, Lane::Control, &Frame::Transfer { term, to });
            }
            _ => {}
        }
    }

    pub(super) fn hand_over_to(&mut self, to: MemberId, now: Now) {
        self.transfer_since = Some(now.monotonic);
        if let Err(error) = self.consensus.transfer_leadership(to) {
            tracing::debug!(%to, %error, "leadership was not handed on");
        }
    }
}
