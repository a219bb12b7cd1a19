//! What a leader decides about newcomers, and when a learner may vote. No input or output of its own.

use std::collections::BTreeMap;

use quorate_consensus::{Progress, ReplicationState};
use quorate_ids::{LogIndex, MemberId, Monotonic};

use crate::handle::MembershipRefusal;
use crate::membership::{Member, MemberList, MembershipRequest};

/// Learners that may be on their way in by request at a time.
pub const JOINING_MAX: usize = 16;
/// A newcomer that nothing was heard of for so long is told again that it is a member.
pub const INVITE_AFTER_NANOS: u64 = 3_000_000_000;
/// It is removed where nothing was heard of it for so long.
pub const JOIN_NANOS_MAX: u64 = 60_000_000_000;
/// A learner this close to the log's end has caught up: the leader sends ahead by about as much.
const CAUGHT_UP_ENTRIES: u64 = 1000;

/// The next change of the list on the way to what `request` asks for. A newcomer whose name is held by another
/// incarnation takes its place, unless that one still `answers`.
pub fn step_towards(
    request: MembershipRequest,
    members: &MemberList,
    answers: impl Fn(MemberId) -> bool,
) -> Result<MembershipRequest, MembershipRefusal> {
    let MembershipRequest::Join { name, incarnation, .. } = &request else { return Ok(request) };
    match members.named(name) {
        None => {
            let joining = members.iter().filter(|member| member.is_joining || member.wants_vote).count();
            if joining >= JOINING_MAX { Err(MembershipRefusal::TooManyJoining) } else { Ok(request) }
        }
        Some(held) if held.incarnation == *incarnation => Err(MembershipRefusal::AlreadyJoined),
        Some(held) if answers(held.id) => Err(MembershipRefusal::NameAnswers),
        Some(held) => Ok(MembershipRequest::Remove { id: held.id }),
    }
}

/// Whether a learner has what it needs to count.
pub fn has_caught_up(learner: &Progress, last_index: LogIndex) -> bool {
    // A learner that got everything by snapshot is probed until the next entry: what it has counts, not the state.
    learner.state != ReplicationState::Snapshot
        && learner.recent_active
        && learner.matched > LogIndex::ZERO
        && last_index.0.saturating_sub(learner.matched.0) <= CAUGHT_UP_ENTRIES
}

/// What is to be done about a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    Wait,
    /// Tell it again that it is a member.
    Invite,
    /// It never came: undo its admission.
    Undo,
}

/// When each member was last heard of, and how newcomers are looked after. Times are this member's own.
#[derive(Debug, Default)]
pub struct Joins {
    heard: BTreeMap<MemberId, Monotonic>,
    lead_since: Option<Monotonic>,
    /// Newcomers that were looked at in this term: since when, and when they were last invited.
    newcomers: BTreeMap<MemberId, (Monotonic, Monotonic)>,
}

impl Joins {
    pub fn heard(&mut self, from: MemberId, now: Monotonic) {
        self.heard.insert(from, now);
    }

    /// This member leads from now on, or does not any more (`None`).
    pub fn leads(&mut self, since: Option<Monotonic>) {
        self.lead_since = since;
        self.newcomers.clear();
    }

    /// Forgets who is no member any more.
    pub fn keep(&mut self, members: &MemberList) {
        self.heard.retain(|id, _| members.get(*id).is_some());
        self.newcomers.retain(|id, _| members.get(*id).is_some());
    }

    /// Whether `id` was heard of within `patience_nanos`. A leader that is younger than that knows of nobody's death.
    #[must_use]
    pub fn answers(&self, id: MemberId, now: Monotonic, patience_nanos: u64) -> bool {
        let known_from = self.heard.get(&id).copied().max(self.lead_since);
        known_from.is_some_and(|from| now.since(from) < patience_nanos)
    }

    /// Looks after a newcomer that has not said yet that it started.
    pub fn look_after(&mut self, newcomer: &Member, now: Monotonic) -> Care {
        let id = newcomer.id;
        let (since, invited) = self.newcomers.entry(id).or_insert((now, now));
        if self.heard.contains_key(&id) {
            return Care::Wait;
        }
        if now.since(*since) > JOIN_NANOS_MAX {
            return Care::Undo;
        }
        if now.since(*invited) > INVITE_AFTER_NANOS {
            *invited = now;
            return Care::Invite;
        }
        Care::Wait
    }
}

#[cfg(test)]
mod tests {
    use quorate_ids::Incarnation;

    use super::*;

    fn join(name: &str, incarnation: u64) -> MembershipRequest {
        MembershipRequest::Join {
            id: MemberId(100 + incarnation),
            name: name.to_owned(),
            incarnation: Incarnation(incarnation),
            peer_urls: vec![format!("http://{name}")],
            client_urls: Vec::new(),
            wants_vote: true,
        }
    }

    fn list(names: &[(&str, u64)]) -> MemberList {
        let mut list =
            MemberList::founded_by([Member { id: MemberId(1), name: "n1".to_owned(), ..Member::default() }]);
        for (name, incarnation) in names {
            list.judge(&join(name, *incarnation)).expect("a newcomer");
        }
        list
    }

    #[test]
    fn a_newcomer_replaces_an_earlier_incarnation_only_where_that_one_is_silent() {
        let members = list(&[("n2", 7)]);
        let silent = |_: MemberId| false;
        assert_eq!(step_towards(join("n3", 9), &members, silent), Ok(join("n3", 9)));
        assert_eq!(
            step_towards(join("n2", 8), &members, silent),
            Ok(MembershipRequest::Remove { id: MemberId(107) })
        );
        assert_eq!(step_towards(join("n2", 8), &members, |_| true), Err(MembershipRefusal::NameAnswers));
        assert_eq!(step_towards(join("n2", 7), &members, silent), Err(MembershipRefusal::AlreadyJoined));
    }

    #[test]
    fn newcomers_on_their_way_in_are_bounded() {
        let names: Vec<String> = (0..JOINING_MAX).map(|i| format!("m{i}")).collect();
        let names: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(10..).collect();
        let refused = step_towards(join("more", 9), &list(&names), |_| true);
        assert_eq!(refused, Err(MembershipRefusal::TooManyJoining));
    }

    #[test]
    fn a_new_leader_takes_nobody_for_dead() {
        let mut joins = Joins::default();
        assert!(!joins.answers(MemberId(2), Monotonic(0), 100));
        joins.leads(Some(Monotonic(1000)));
        assert!(joins.answers(MemberId(2), Monotonic(1099), 100));
        assert!(!joins.answers(MemberId(2), Monotonic(1100), 100));
        joins.heard(MemberId(2), Monotonic(1090));
        assert!(joins.answers(MemberId(2), Monotonic(1150), 100));
    }

    #[test]
    fn a_newcomer_that_never_comes_is_invited_and_then_given_up() {
        let mut joins = Joins::default();
        let newcomer = Member { id: MemberId(5), is_joining: true, ..Member::default() };
        joins.leads(Some(Monotonic(0)));
        assert_eq!(joins.look_after(&newcomer, Monotonic(1)), Care::Wait);
        assert_eq!(joins.look_after(&newcomer, Monotonic(2 + INVITE_AFTER_NANOS)), Care::Invite);
        assert_eq!(joins.look_after(&newcomer, Monotonic(3 + INVITE_AFTER_NANOS)), Care::Wait);
        assert_eq!(joins.look_after(&newcomer, Monotonic(2 + JOIN_NANOS_MAX)), Care::Undo);
        joins.heard(MemberId(5), Monotonic(4));
        assert_eq!(joins.look_after(&newcomer, Monotonic(2 + JOIN_NANOS_MAX)), Care::Wait);
    }
}
