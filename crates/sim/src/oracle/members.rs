//! A second, plain implementation of the member list: who is a member after each index of the log.
//!
//! Invariants that it checks: every member has, at equal applied index, the same members, voters and learners; an id that
//! was removed never comes back; a member's incarnation, once known, stays.

use std::collections::{BTreeMap, BTreeSet};

use quorate_consensus::Membership;
use quorate_ids::{Incarnation, LogIndex, MemberId};
use quorate_member::{MemberList, MembershipRequest};

use super::{Checked, ensure};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    learner: bool,
    incarnation: Incarnation,
    urls: Vec<String>,
    name: String,
    /// A learner that is to vote, and one that has not said that it started.
    wants_vote: bool,
    is_joining: bool,
}

/// Counts of what the log did to the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    pub joined: u64,
    pub promoted: u64,
    pub demoted: u64,
    pub removed: u64,
    pub refused: u64,
    pub compared: u64,
}

/// See the module.
#[derive(Default)]
pub struct MembersOracle {
    members: BTreeMap<MemberId, Known>,
    removed: BTreeSet<MemberId>,
    /// The list after each index that changed it.
    history: Vec<(LogIndex, BTreeMap<MemberId, Known>)>,
    /// When each id was removed.
    gone: BTreeMap<MemberId, LogIndex>,
    /// Promotions that nobody looked at yet.
    promoted: Vec<(MemberId, LogIndex)>,
    pub counts: MemberCounts,
}

impl MembersOracle {
    pub fn founded(list: &MemberList) -> Self {
        let members: BTreeMap<_, _> = list
            .iter()
            .map(|member| {
                let known = Known {
                    learner: member.is_learner,
                    incarnation: member.incarnation,
                    urls: member.peer_urls.clone(),
                    name: member.name.clone(),
                    wants_vote: member.wants_vote,
                    is_joining: member.is_joining,
                };
                (member.id, known)
            })
            .collect();
        Self { history: vec![(LogIndex(1), members.clone())], members, ..Self::default() }
    }

    /// A request that was committed at `index`.
    pub fn apply(&mut self, index: LogIndex, request: &MembershipRequest) {
        if !self.carry_out(index, request) {
            self.counts.refused += 1;
            return;
        }
        self.history.push((index, self.members.clone()));
    }

    fn carry_out(&mut self, index: LogIndex, request: &MembershipRequest) -> bool {
        match request {
            MembershipRequest::Add { id, name, peer_urls, is_learner } => {
                let taken = self.members.values().any(|m| m.urls.iter().any(|url| peer_urls.contains(url)));
                if self.members.contains_key(id) || self.removed.contains(id) || taken {
                    return false;
                }
                self.counts.joined += 1;
                let known = Known {
                    learner: *is_learner,
                    incarnation: Incarnation::ZERO,
                    urls: peer_urls.clone(),
                    name: name.clone(),
                    wants_vote: false,
                    is_joining: false,
                };
                self.members.insert(*id, known);
                true
            }
            MembershipRequest::Join { id, name, incarnation, peer_urls, wants_vote, .. } => {
                let taken = self
                    .members
                    .values()
                    .any(|m| m.name == *name || m.urls.iter().any(|url| peer_urls.contains(url)));
                if self.members.contains_key(id) || self.removed.contains(id) || taken {
                    return false;
                }
                self.counts.joined += 1;
                let known = Known {
                    learner: true,
                    incarnation: *incarnation,
                    urls: peer_urls.clone(),
                    name: name.clone(),
                    wants_vote: *wants_vote,
                    is_joining: true,
                };
                self.members.insert(*id, known);
                true
            }
            MembershipRequest::Demote { id, .. } => {
                let voters = self.members.values().filter(|known| !known.learner).count();
                match self.members.get_mut(id) {
                    Some(known) if !known.learner && voters > 1 => {
                        known.learner = true;
                        self.counts.demoted += 1;
                        true
                    }
                    _ => false,
                }
            }
            MembershipRequest::Remove { id } => {
                let there = self.members.remove(id).is_some();
                if there {
                    self.counts.removed += 1;
                    self.removed.insert(*id);
                    self.gone.insert(*id, index);
                }
                there
            }
            MembershipRequest::Promote { id } => match self.members.get_mut(id) {
                Some(known) if known.learner => {
                    known.learner = false;
                    known.wants_vote = false;
                    known.is_joining = false;
                    self.counts.promoted += 1;
                    self.promoted.push((*id, index));
                    true
                }
                _ => false,
            },
            MembershipRequest::Meet { id, incarnation } => match self.members.get_mut(id) {
                Some(known)
                    if known.incarnation == Incarnation::ZERO || known.incarnation == *incarnation =>
                {
                    known.incarnation = *incarnation;
                    true
                }
                _ => false,
            },
            MembershipRequest::Publish { id, name, .. } => match self.members.get_mut(id) {
                Some(known) => {
                    known.name.clone_from(name);
                    known.is_joining = false;
                    true
                }
                None => false,
            },
            MembershipRequest::Update { .. } => unreachable!("nobody asks for that in the simulator"),
        }
    }

    /// What a member says of the others when it has applied everything up to `index`.
    pub fn compare(&mut self, at: usize, index: LogIndex, list: &MemberList, who: &Membership) -> Checked {
        let after = self.history.partition_point(|(changed, _)| *changed <= index);
        let Some((_, expected)) = after.checked_sub(1).and_then(|last| self.history.get(last)) else {
            return Ok(());
        };
        self.counts.compared += 1;
        let got: BTreeMap<MemberId, (bool, Incarnation)> =
            list.iter().map(|member| (member.id, (member.is_learner, member.incarnation))).collect();
        let wanted: BTreeMap<MemberId, (bool, Incarnation)> =
            expected.iter().map(|(id, known)| (*id, (known.learner, known.incarnation))).collect();
        ensure!(got == wanted, "m{at} has the members {got:?} at index {index}; the log says {wanted:?}");
        let ids = |learners: bool| {
            expected.iter().filter(move |(_, known)| known.learner == learners).map(|(id, _)| *id)
        };
        ensure!(
            who.voters.iter().copied().eq(ids(false)) && who.learners.iter().copied().eq(ids(true)),
            "m{at} counts {who:?} at index {index}; the log says {wanted:?}"
        );
        for (id, gone) in self.gone.iter().filter(|(_, gone)| **gone <= index) {
            ensure!(list.was_removed(*id), "m{at} forgot at index {index} that {id} was removed at {gone}");
        }
        Ok(())
    }

    #[must_use]
    pub fn is_member(&self, id: MemberId) -> bool {
        self.members.contains_key(&id)
    }

    #[must_use]
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|known| !known.learner)
    }

    #[must_use]
    pub fn was_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    #[must_use]
    pub fn incarnation(&self, id: MemberId) -> Incarnation {
        self.members.get(&id).map_or(Incarnation::ZERO, |known| known.incarnation)
    }

    #[must_use]
    pub fn with_url(&self, url: &str) -> Option<MemberId> {
        let found = self.members.iter().find(|(_, known)| known.urls.iter().any(|u| u == url));
        found.map(|(id, _)| *id)
    }

    /// The member that has this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<MemberId> {
        self.members.iter().find(|(_, known)| known.name == name).map(|(id, _)| *id)
    }

    /// How many there ever were.
    #[must_use]
    pub fn ever(&self) -> usize {
        self.members.len() + self.removed.len()
    }

    /// How many have not started yet, or wait for their vote.
    #[must_use]
    pub fn on_their_way(&self) -> usize {
        self.members.values().filter(|known| known.is_joining || known.learner && known.wants_vote).count()
    }

    #[must_use]
    pub fn voters(&self) -> Vec<MemberId> {
        self.members.iter().filter(|(_, known)| !known.learner).map(|(id, _)| *id).collect()
    }

    #[must_use]
    pub fn learners(&self) -> Vec<MemberId> {
        self.members.iter().filter(|(_, known)| known.learner).map(|(id, _)| *id).collect()
    }

    #[must_use]
    pub fn all_removed(&self) -> Vec<MemberId> {
        self.removed.iter().copied().collect()
    }

    pub fn take_promoted(&mut self) -> Vec<(MemberId, LogIndex)> {
        std::mem::take(&mut self.promoted)
    }
}
