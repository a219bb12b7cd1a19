//! Who may speak to this member: what a handshake is judged by. No input or output of its own.
//!
//! Invariants: nothing of a peer is read before its hello was judged; a member that was removed, or that came back with
//! an empty folder, is never let in again under its id. The peer book has the last word on incarnations, because it
//! notes a first meeting durably; a caller asks it after [`judge`].

use std::collections::BTreeMap;

use quorate_ids::{ClusterId, Incarnation, MemberId};

use super::mutants::planted;
use crate::frame::{Hello, PROTOCOL_VERSION};
use crate::handle::Identity;
use crate::membership::{Member, MemberList};

/// Why a peer may not speak.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shut {
    #[error("the peer speaks protocol version {theirs}, this one {PROTOCOL_VERSION}")]
    Version { theirs: u16 },
    #[error(
        "cluster ID mismatch: member {member} is of cluster {theirs}, this is member {} of cluster {}",
        me.member,
        me.cluster
    )]
    Cluster { member: MemberId, theirs: ClusterId, me: Identity },
    #[error("member {member} was removed from the cluster")]
    Removed { member: MemberId },
    /// The list may be behind: other members can tell.
    #[error("member {member} is not known here (yet)")]
    Stranger { member: MemberId },
    #[error("member {meant} is meant, this is member {me}")]
    NotMe { meant: MemberId, me: MemberId },
    #[error(
        "member {member} came back with an empty data folder and may have forgotten its votes: remove it from the \
         cluster and add it again"
    )]
    Wiped { member: MemberId },
}

/// Judges the hello of a peer that connected to this member.
pub fn judge(
    me: Identity,
    members: &MemberList,
    guests: &BTreeMap<MemberId, Member>,
    hello: &Hello,
) -> Result<(), Shut> {
    is_of_this_cluster(me, hello)?;
    let member = hello.member;
    if members.was_removed(member) {
        return Err(Shut::Removed { member });
    }
    if members.get(member).is_none() && !guests.contains_key(&member) {
        return Err(Shut::Stranger { member });
    }
    if hello.to != me.member {
        return Err(Shut::NotMe { meant: hello.to, me: me.member });
    }
    is_first(members, guests, member, hello.incarnation)
}

/// Judges the hello with which a peer answered this member's.
pub fn judge_answer(
    me: Identity,
    members: &MemberList,
    guests: &BTreeMap<MemberId, Member>,
    answer: &Hello,
) -> Result<(), Shut> {
    is_of_this_cluster(me, answer)?;
    is_first(members, guests, answer.member, answer.incarnation)
}

fn is_of_this_cluster(me: Identity, hello: &Hello) -> Result<(), Shut> {
    if hello.version != PROTOCOL_VERSION {
        return Err(Shut::Version { theirs: hello.version });
    }
    if hello.cluster != me.cluster {
        return Err(Shut::Cluster { member: hello.member, theirs: hello.cluster, me });
    }
    Ok(())
}

/// Whether `member` may go on speaking as `incarnation`, as far as lists tell.
pub fn is_first(
    members: &MemberList,
    guests: &BTreeMap<MemberId, Member>,
    member: MemberId,
    incarnation: Incarnation,
) -> Result<(), Shut> {
    let known =
        members.get(member).or_else(|| guests.get(&member)).map_or(Incarnation::ZERO, |m| m.incarnation);
    if known != Incarnation::ZERO && known != incarnation && !planted!(CountAWipedVote) {
        return Err(Shut::Wiped { member });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Lane;
    use crate::membership::MembershipRequest;

    const ME: Identity =
        Identity { cluster: ClusterId(7), member: MemberId(1), incarnation: Incarnation(10) };

    fn hello(member: u64, incarnation: u64) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            cluster: ME.cluster,
            member: MemberId(member),
            incarnation: Incarnation(incarnation),
            lane: Lane::Control,
            to: ME.member,
        }
    }

    fn member(id: u64, incarnation: u64) -> Member {
        Member { id: MemberId(id), incarnation: Incarnation(incarnation), ..Member::default() }
    }

    #[test]
    fn only_members_in_their_first_incarnation_and_guests_may_speak() {
        let mut list = MemberList::founded_by([member(1, 10), member(2, 20), member(3, 0), member(4, 40)]);
        list.judge(&MembershipRequest::Remove { id: MemberId(4) }).expect("a member");
        let guests = BTreeMap::from([(MemberId(5), member(5, 50))]);
        let judged = |hello: &Hello| judge(ME, &list, &guests, hello);
        assert_eq!(judged(&hello(2, 20)), Ok(()));
        assert_eq!(judged(&hello(2, 21)), Err(Shut::Wiped { member: MemberId(2) }));
        assert_eq!(judged(&hello(3, 30)), Ok(()), "its incarnation is not known to the list");
        assert_eq!(judged(&hello(4, 40)), Err(Shut::Removed { member: MemberId(4) }));
        assert_eq!(judged(&hello(5, 50)), Ok(()));
        assert_eq!(judged(&hello(5, 51)), Err(Shut::Wiped { member: MemberId(5) }));
        assert_eq!(judged(&hello(6, 60)), Err(Shut::Stranger { member: MemberId(6) }));
        let other = Hello { cluster: ClusterId(8), ..hello(2, 20) };
        assert!(matches!(judged(&other), Err(Shut::Cluster { .. })));
        let meant = Hello { to: MemberId(9), ..hello(2, 20) };
        assert!(matches!(judged(&meant), Err(Shut::NotMe { .. })));
    }
}
