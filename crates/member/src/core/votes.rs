//! Who votes in a cluster that says how many votes there should be: machines beyond that stand by as learners. No input or
//! output; whoever leads asks for the first of these changes that is not refused.

use quorate_ids::MemberId;

use crate::membership::{Member, MembershipRequest};

/// The changes that bring the cluster nearer to `wanted` voters, best first; none where there is nothing to do. `me` leads.
#[must_use]
pub fn towards(members: &[Member], me: MemberId, wanted: usize) -> Vec<MembershipRequest> {
    let votes = members.iter().filter(|member| !member.is_learner).count();
    if votes < wanted {
        let waiting = members.iter().filter(|member| member.is_learner && !member.name.is_empty());
        return waiting.map(|next| MembershipRequest::Promote { id: next.id }).collect();
    }
    if votes > wanted {
        let others = other_voters(members, me).into_iter().rev();
        return others.map(|last| MembershipRequest::Demote { id: last.id, silent_nanos: 0 }).collect();
    }
    Vec::new()
}

/// The voters that stand by from now on if they were silent for so long and a learner is ready to take their place.
#[must_use]
pub fn of_silent(members: &[Member], me: MemberId, silent_nanos: u64) -> Vec<MembershipRequest> {
    if !members.iter().any(|member| member.is_learner) {
        return Vec::new();
    }
    let voters = other_voters(members, me).into_iter();
    voters.map(|voter| MembershipRequest::Demote { id: voter.id, silent_nanos }).collect()
}

/// The voters but `me`, by name.
fn other_voters(members: &[Member], me: MemberId) -> Vec<&Member> {
    let mut others: Vec<&Member> =
        members.iter().filter(|member| !member.is_learner && member.id != me).collect();
    others.sort_by(|one, other| one.name.cmp(&other.name));
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, is_learner: bool) -> Member {
        Member { id: MemberId(id), name: name.to_owned(), is_learner, ..Member::default() }
    }

    #[test]
    fn votes_go_to_standbys_that_are_known_and_leave_the_last_by_name() {
        let members = [
            member(1, "c", false),
            member(2, "b", false),
            member(3, "a", true),
            member(4, "", true),
            member(5, "d", false),
        ];
        assert_eq!(
            towards(&members, MemberId(1), 4),
            [MembershipRequest::Promote { id: MemberId(3) }],
            "one that nobody knows by name has not started yet"
        );
        let demote = |id| MembershipRequest::Demote { id: MemberId(id), silent_nanos: 0 };
        assert_eq!(towards(&members, MemberId(5), 2), [demote(1), demote(2)], "never the leader itself");
        assert!(towards(&members, MemberId(1), 3).is_empty());
    }

    #[test]
    fn nobody_is_asked_to_stand_by_for_its_silence_where_nobody_could_take_its_place() {
        let voters = [member(1, "a", false), member(2, "b", false)];
        assert!(of_silent(&voters, MemberId(1), 7).is_empty());
        let members = [member(1, "a", false), member(2, "b", false), member(3, "c", true)];
        let demote = MembershipRequest::Demote { id: MemberId(2), silent_nanos: 7 };
        assert_eq!(of_silent(&members, MemberId(1), 7), [demote]);
    }
}
