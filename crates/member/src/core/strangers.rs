//! Peers of this cluster that are in no list here: members that joined while this one was away. The one that leads now
//! may be one of them, so without letting it in this member would never hear what happened.
//!
//! Whether a stranger is a member is asked of the members that are known. One that is told to be a member becomes a
//! *guest*: it may speak, and is spoken to, until this member's own list names it or says that it was removed.
//! Invariants: a guest speaks in the incarnation that the telling member knows; nothing that a guest says is counted
//! before the own list names it (consensus counts its own members only); strangers are bounded.

use std::collections::BTreeMap;

use quorate_ids::{Incarnation, MemberId, Monotonic};

use crate::membership::{Member, MemberList};

/// Strangers that are asked about, and guests, at a time.
const STRANGERS_MAX: usize = 16;

struct Stranger {
    incarnation: Incarnation,
    asked: Monotonic,
}

/// See the module.
#[derive(Default)]
pub struct Strangers {
    asking: BTreeMap<MemberId, Stranger>,
    guests: BTreeMap<MemberId, Member>,
}

impl Strangers {
    /// A stranger knocks. True if the known members are to be asked about it now.
    pub fn knocked(
        &mut self,
        member: MemberId,
        incarnation: Incarnation,
        now: Monotonic,
        pause_nanos: u64,
    ) -> bool {
        if self.guests.contains_key(&member) {
            return false;
        }
        if let Some(known) = self.asking.get_mut(&member) {
            let again = now.since(known.asked) >= pause_nanos;
            known.incarnation = incarnation;
            if again {
                known.asked = now;
            }
            return again;
        }
        if self.asking.len() >= STRANGERS_MAX {
            let Some(oldest) = self.asking.iter().min_by_key(|(_, s)| s.asked).map(|(id, _)| *id) else {
                return false;
            };
            self.asking.remove(&oldest);
        }
        self.asking.insert(member, Stranger { incarnation, asked: now });
        true
    }

    /// A known member told who the members are. True if there are guests now that there were not before.
    pub fn told(&mut self, list: &MemberList) -> bool {
        let mut news = false;
        self.asking.retain(|id, stranger| {
            if list.was_removed(*id) {
                return false;
            }
            let Some(member) = list.get(*id) else { return true };
            let first = member.incarnation == Incarnation::ZERO || member.incarnation == stranger.incarnation;
            if !first || self.guests.len() >= STRANGERS_MAX {
                return false;
            }
            // What the list does not know, the peer book notes at the first meeting.
            let guest = Member { incarnation: stranger.incarnation, ..member.clone() };
            self.guests.insert(*id, guest);
            news = true;
            false
        });
        news
    }

    /// This member's own list changed. True if guests went: it names them now, or says that they were removed.
    pub fn listed(&mut self, list: &MemberList) -> bool {
        let known = |id: &MemberId| list.get(*id).is_some() || list.was_removed(*id);
        self.asking.retain(|id, _| !known(id));
        let before = self.guests.len();
        self.guests.retain(|id, _| !known(id));
        self.guests.len() != before
    }

    #[must_use]
    pub fn guests(&self) -> Vec<Member> {
        self.guests.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MembershipRequest;

    const PAUSE_NANOS: u64 = 100;

    fn list(incarnation: u64) -> MemberList {
        let member = |id, incarnation| Member {
            id: MemberId(id),
            incarnation: Incarnation(incarnation),
            ..Member::default()
        };
        MemberList::founded_by([member(1, 10), member(5, incarnation)])
    }

    fn knocked(incarnation: u64) -> Strangers {
        let mut strangers = Strangers::default();
        assert!(strangers.knocked(MemberId(5), Incarnation(incarnation), Monotonic(0), PAUSE_NANOS));
        strangers
    }

    #[test]
    fn a_leader_that_joined_meanwhile_is_let_in_on_a_known_members_word() {
        let mut strangers = knocked(50);
        assert!(!strangers.told(&MemberList::default()), "who is as far behind knows nothing");
        assert!(strangers.told(&list(50)));
        assert_eq!(strangers.guests()[0].incarnation, Incarnation(50));
        assert!(!strangers.knocked(MemberId(5), Incarnation(50), Monotonic(9), PAUSE_NANOS));
        assert!(strangers.listed(&list(50)), "now the own list has it");
        assert!(strangers.guests().is_empty());
    }

    #[test]
    fn a_wiped_or_removed_stranger_is_no_guest() {
        assert!(!knocked(51).told(&list(50)), "it came back with an empty folder");
        let mut removed = list(50);
        removed.judge(&MembershipRequest::Remove { id: MemberId(5) }).expect("a member");
        let mut strangers = knocked(50);
        assert!(!strangers.told(&removed) && strangers.guests().is_empty());
    }

    #[test]
    fn one_that_knocks_all_the_time_is_asked_about_now_and_then() {
        let mut strangers = knocked(50);
        assert!(!strangers.knocked(MemberId(5), Incarnation(50), Monotonic(99), PAUSE_NANOS));
        assert!(strangers.knocked(MemberId(5), Incarnation(50), Monotonic(100), PAUSE_NANOS));
        for id in 100..1000 {
            strangers.knocked(MemberId(id), Incarnation(1), Monotonic(id), PAUSE_NANOS);
        }
        assert!(strangers.asking.len() <= STRANGERS_MAX);
    }
}
