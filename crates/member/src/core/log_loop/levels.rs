//! Which kinds of commands may be proposed: what the members said that they know.

use super::*;

/// How often a member says its level to the others, in election timeouts.
const TELL_TIMEOUTS: u64 = 4;

/// What the other members said of themselves in this run.
#[derive(Default)]
pub(super) struct Levels {
    told: std::collections::BTreeMap<MemberId, Level>,
    next_tell: Monotonic,
}

impl Levels {
    /// A member may come back with an older program.
    pub fn forget(&mut self, member: MemberId) {
        self.told.remove(&member);
    }

    fn of(&self, member: MemberId) -> Level {
        self.told.get(&member).copied().unwrap_or(Level::BASE)
    }
}

impl LogLoop {
    pub(super) fn level_told(&mut self, by: MemberId, level: Level) {
        self.levels.told.insert(by, level);
    }

    /// Says this member's level to a peer that can be reached now.
    pub(super) fn tell_level_to(&mut self, to: MemberId) {
        // That is what is believed of one that says nothing; and programs that know no more do not know the frame.
        if self.config.kinds.own > Level::BASE {
            self.send(to, Lane::Control, &Frame::Level(self.config.kinds.own));
        }
    }

    pub(super) fn tell_level(&mut self, now: Now) {
        if now.monotonic < self.levels.next_tell {
            return;
        }
        self.levels.next_tell = now.monotonic.plus(TELL_TIMEOUTS * self.config.election_timeout_nanos);
        let me = self.config.identity.member;
        let others: Vec<MemberId> =
            self.members.iter().map(|member| member.id).filter(|id| *id != me).collect();
        others.into_iter().for_each(|to| self.tell_level_to(to));
    }

    /// What every member of the list knows.
    fn cluster_level(&self) -> Level {
        let me = self.config.identity.member;
        let others = self.members.iter().map(|member| member.id).filter(|id| *id != me);
        others
            .map(|id| self.levels.of(id))
            .min()
            .map_or(self.config.kinds.own, |least| least.min(self.config.kinds.own))
    }

    /// Whether every member knows a command of this kind.
    pub(super) fn may_be_logged(&self, model: quorate_models::ModelId, command: &Bytes) -> bool {
        match self.config.kinds.needs(model, command) {
            _ if planted!(IgnoreLevels) => true,
            Some(Level::BASE) => true,
            Some(level) => level <= self.cluster_level(),
            None => false,
        }
    }

    /// Whether a leader would know it: one that does not could not refuse it either.
    pub(super) fn may_be_passed_on(&self, leader: MemberId, request: &Request) -> bool {
        let needs = match request {
            Request::Command { model, command } => self.config.kinds.needs(*model, command),
            Request::Membership(request) => {
                self.config.kinds.needs(quorate_models::ModelId::MEMBER, &request.encode())
            }
        };
        needs.is_some_and(|level| level <= self.levels.of(leader)) || planted!(IgnoreLevels)
    }
}
