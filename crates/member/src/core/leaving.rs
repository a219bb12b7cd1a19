//! A member that was removed stays until the others can do without it, and one that nobody told so asks.
//!
//! The others may hold the entry that removes it without knowing that it is committed: then they count the old members,
//! and may need this one's vote or acknowledgement to go on (of two voters, always). So it goes on answering consensus,
//! and ends once a majority of the voters that are left say that they know, durably.
//!
//! Once a removal is committed nobody speaks to the removed member any more, and the last word to it may be lost (or said
//! while it was away). So a member that hears of no leader for long asks those it knows whether it is still one of them.

use std::collections::BTreeSet;

use quorate_ids::{MemberId, Monotonic};

use crate::membership::{Member, MemberList};

/// A member without a leader asks after so many election timeouts: an election is mostly over by then.
const UNHEARD_TIMEOUTS: u64 = 2;

/// For how long nothing was heard of a leader.
#[derive(Default)]
pub struct Unheard {
    /// When it began, or the others were last asked.
    since: Option<Monotonic>,
}

impl Unheard {
    /// Whether it is time to ask the others.
    pub fn asks(&mut self, has_leader: bool, now: Monotonic, election_timeout_nanos: u64) -> bool {
        if has_leader {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let asks = now.since(since) >= UNHEARD_TIMEOUTS * election_timeout_nanos;
        if asks {
            self.since = Some(now);
        }
        asks
    }
}

/// See the module.
pub struct Leaving {
    /// The newest list that is known, without this member.
    members: MemberList,
    told: BTreeSet<MemberId>,
    next_ask: Monotonic,
}

impl Leaving {
    /// `members` is the list without this member.
    #[must_use]
    pub fn new(members: MemberList) -> Self {
        Self { members, told: BTreeSet::new(), next_ask: Monotonic::ZERO }
    }

    /// Whom to ask now, if it is time to ask.
    pub fn ask(&mut self, now: Monotonic, pause_nanos: u64) -> Vec<Member> {
        if now < self.next_ask {
            return Vec::new();
        }
        self.next_ask = now.plus(pause_nanos);
        self.members.to_vec()
    }

    /// `by` told its durable list. It counts if that list no longer has `me`.
    pub fn told(&mut self, me: MemberId, by: MemberId, list: &MemberList) {
        if !list.was_removed(me) {
            return;
        }
        self.told.insert(by);
        if list.is_no_older_than(&self.members) {
            self.members = list.clone();
        }
    }

    /// Whether enough of the others know.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let voters = || self.members.iter().filter(|member| !member.is_learner);
        let knowing = voters().filter(|voter| self.told.contains(&voter.id)).count();
        knowing > voters().count() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MembershipRequest;

    const ME: MemberId = MemberId(1);

    fn list(ids: impl IntoIterator<Item = u64>) -> MemberList {
        MemberList::founded_by(ids.into_iter().map(|id| Member { id: MemberId(id), ..Member::default() }))
    }

    fn without_me(ids: impl IntoIterator<Item = u64>) -> MemberList {
        let mut list = list(ids);
        list.judge(&MembershipRequest::Remove { id: ME }).expect("a member");
        list
    }

    #[test]
    fn of_two_voters_the_removed_one_stays_until_the_other_knows() {
        let mut leaving = Leaving::new(without_me([1, 2]));
        assert_eq!(leaving.ask(Monotonic(0), 10).len(), 1);
        assert!(leaving.ask(Monotonic(9), 10).is_empty());
        leaving.told(ME, MemberId(2), &list([1, 2]));
        assert!(!leaving.is_over(), "it does not know yet");
        leaving.told(ME, MemberId(2), &without_me([1, 2]));
        assert!(leaving.is_over());
    }

    #[test]
    fn who_hears_of_no_leader_for_long_asks_now_and_then() {
        let mut unheard = Unheard::default();
        let mut asks = |has_leader, now| unheard.asks(has_leader, Monotonic(now), 10);
        assert!(!asks(true, 0) && !asks(false, 5) && !asks(false, 24));
        assert!(asks(false, 25) && !asks(false, 26) && asks(false, 45));
        assert!(!asks(true, 50) && !asks(false, 51) && !asks(false, 70) && asks(false, 71));
    }

    #[test]
    fn members_that_came_later_count_in_place_of_those_that_went() {
        let mut leaving = Leaving::new(without_me([1, 2, 3]));
        let mut later = without_me([1, 2, 3]);
        later.judge(&MembershipRequest::Remove { id: MemberId(3) }).expect("a member");
        leaving.told(ME, MemberId(2), &later);
        assert!(leaving.is_over());
    }
}
