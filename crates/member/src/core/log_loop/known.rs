//! Who the others are: their incarnations in the log, strangers at the door, and leaving the cluster.

use super::*;
use crate::joining::Told;

impl LogLoop {
    /// This list is durable here as committed: what it says of removed members is true after any crash.
    pub(super) fn keep(&mut self, members: Arc<MemberList>) {
        self.kept = members.clone();
        self.out.push(LogOutput::MembersKept(members));
    }

    /// The durable list, with the incarnations that this member knows and the log does not (yet).
    pub(super) fn members_to_tell(&self) -> Told {
        let known = |id: MemberId| {
            if id == self.config.identity.member {
                return Some(self.config.identity.incarnation);
            }
            self.met.get(&id).copied()
        };
        Told {
            cluster: self.config.identity.cluster,
            by: self.config.identity.member,
            members: self.kept.with_incarnations(known),
        }
    }

    /// As the leader: puts the incarnations of members that were met into the log, for those that never met them.
    pub(super) fn note_incarnations(&mut self, now: Now) {
        if !self.leads() {
            return;
        }
        let me = self.config.identity;
        let unknown: Vec<(MemberId, Incarnation)> = self
            .members
            .iter()
            .filter(|member| member.incarnation == Incarnation::ZERO && !self.noted.contains(&member.id))
            .filter_map(|member| {
                let met = self.met.get(&member.id).copied();
                let incarnation = if member.id == me.member { Some(me.incarnation) } else { met };
                Some((member.id, incarnation.filter(|incarnation| *incarnation != Incarnation::ZERO)?))
            })
            .collect();
        if unknown.is_empty() || !self.consensus.status().committed_in_term {
            return;
        }
        for (id, incarnation) in unknown {
            // Once in a term is enough: what is in the log of a leader stays there for as long as it leads.
            if self.change_unasked(MembershipRequest::Meet { id, incarnation }, now) {
                self.noted.insert(id);
            }
        }
    }

    // ---- strangers ----

    pub(super) fn knocked(&mut self, member: MemberId, incarnation: Incarnation, now: Now) {
        let known = self.members.get(member).is_some() || self.members.was_removed(member);
        let pause = self.config.election_timeout_nanos / 2;
        if known || !self.strangers.knocked(member, incarnation, now.monotonic, pause) {
            return;
        }
        tracing::info!(%member, "a member that is not known here yet; asking those that are");
        let me = self.config.identity.member;
        let others = self.members.iter().filter(|member| member.id != me).cloned().collect();
        self.out.push(LogOutput::AskMembers(others));
    }

    pub(super) fn members_told(&mut self, by: MemberId, members: &MemberList) {
        let me = self.config.identity.member;
        if self.members.get(by).is_none() && self.leaving.is_none() {
            return;
        }
        if self.members.get(by).is_some() && self.strangers.told(members) {
            self.tell_guests();
        }
        if self.leaving.is_none() && members.was_removed(me) {
            tracing::info!(%by, "another member says that this one was removed from the cluster");
            self.leave(members.clone());
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.told(me, by, members);
            self.end_if_others_know();
        }
    }

    /// Guests that the own list knows now are guests no more.
    pub(super) fn look_at_guests(&mut self) {
        if self.strangers.listed(&self.members) {
            self.tell_guests();
        }
    }

    fn tell_guests(&mut self) {
        let guests = self.strangers.guests();
        tracing::info!(guests = ?guests.iter().map(|guest| guest.id).collect::<Vec<_>>(), "let in before the list names them");
        self.out.push(LogOutput::Guests(guests));
    }

    // ---- leaving ----

    /// From the moment that its removal is applied a member serves nobody; it goes on answering consensus.
    pub(super) fn leave_if_removed(&mut self) {
        let gone = self.members.was_removed(self.config.identity.member);
        if gone && self.leaving.is_none() && !self.removed {
            self.leave(self.members.clone());
        }
    }

    /// `members` is a list that no longer has this member.
    fn leave(&mut self, members: MemberList) {
        self.give_up_requests(&RequestError::Stopped {
            reason: "this member was removed from the cluster".to_owned(),
        });
        self.leaving = Some(Leaving::new(members));
        self.end_if_others_know();
    }

    pub(super) fn ask_to_leave(&mut self, now: Now) {
        let Some(leaving) = &mut self.leaving else { return };
        let others = leaving.ask(now.monotonic, self.config.election_timeout_nanos / 2);
        if !others.is_empty() {
            self.out.push(LogOutput::AskMembers(others));
        }
    }

    /// Nobody speaks to a member that was removed, so one that hears of no leader may be one.
    pub(super) fn ask_whether_removed(&mut self, now: Now) {
        let has_leader = self.consensus.leadership().1.is_some() || self.leaving.is_some();
        if !self.unheard.asks(has_leader, now.monotonic, self.config.election_timeout_nanos) {
            return;
        }
        let me = self.config.identity.member;
        let others: Vec<_> = self.members.iter().filter(|member| member.id != me).cloned().collect();
        if !others.is_empty() {
            self.out.push(LogOutput::AskMembers(others));
        }
    }

    fn end_if_others_know(&mut self) {
        let over = self.leaving.as_ref().is_some_and(Leaving::is_over);
        if (over || planted!(LeaveAtOnce)) && !self.removed {
            self.removed = true;
            self.out.push(LogOutput::Removed);
        }
    }
}
