//! Joining a running cluster by request, and giving up a founding to do so.
//!
//! Two ways lead in, for faces whose users know no `member add`:
//!
//! - *The newcomer asks.* A member without data starts with [`crate::Config::join`]: it asks the listed peers, any of
//!   which passes the question on to its leader, and starts as the learner that it was admitted as.
//! - *The host is told.* A member that runs hears of a newcomer's peer URL: [`crate::Handle::absorb`]. The newcomer
//!   runs already and leads a cluster of its own, of one member, that holds nothing but its founding; it gives that up.
//!   Its [`crate::Running`] ends with [`crate::Stopped::Absorbed`], and [`crate::Running::resume`] goes on in the other
//!   cluster behind the same ports.
//!
//! Both commit a [`crate::MembershipRequest::Join`]: the newcomer is a learner, under a member id that was never used
//! before, and the leader makes it a voter once it has caught up, if it wants to be one. Asking again is harmless: the same
//! name and incarnation are the same newcomer. A name that comes back with another incarnation (an empty folder)
//! replaces its holder where that one does not answer any more, and is refused with the reason where it does.
//!
//! An admission that is cut short is finished or undone by whoever leads: a newcomer that nothing was heard of is
//! told again that it is a member, and removed if it refuses or can't be reached for [`crate::core::JOIN_NANOS_MAX`].

mod admission;
mod asking;
mod codec;
mod host;

use bytes::Bytes;
use quorate_ids::{ClusterId, Incarnation, MemberId};

use crate::handle::{MembershipRefusal, RequestError};
use crate::membership::{Member, MemberList};

pub use admission::{Admission, Came, Patience, View, Wanted};
pub use asking::{Asking, AskingWants, NotAdmitted};

/// Who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// No two members have the same name.
    pub name: String,
    /// Of its data folder.
    pub incarnation: Incarnation,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; may be empty until it has started.
    pub client_urls: Vec<String>,
    /// To become a voter once it has caught up; else it stays a learner.
    pub wants_vote: bool,
}

/// A newcomer that is a member now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// All members, the new one among them.
    pub members: Vec<Member>,
}

/// Why a newcomer does not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// For a reason that stays until somebody does something about it.
    #[error(transparent)]
    Refused(#[from] JoinRefusal),
    /// The newcomer's peer port does not answer, or not as a member would. Where it was admitted already, the cluster
    /// finishes or undoes that by itself.
    #[error("no answer of a member at {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The host's cluster could not commit the change, now.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why a newcomer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    #[error("a newcomer needs a name and a peer URL")]
    Nameless,
    #[error("the member at this address is called {found:?}, not {expected:?}")]
    WrongName { expected: String, found: String },
    #[error("this is the very member that was asked to admit it")]
    Itself,
    /// By the host's cluster.
    #[error(transparent)]
    Cluster(#[from] MembershipRefusal),
    /// By the newcomer itself, which runs in a cluster of its own.
    #[error(transparent)]
    Newcomer(#[from] AbsorbRefusal),
}

/// Why a running member does not give up its cluster to join another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbsorbRefusal {
    #[error(
        "it holds commands of users, which would be lost: stop it, remove its data folder, and start it again before \
         it joins"
    )]
    HoldsCommands,
    #[error(
        "its cluster has, or had, other members: stop it, remove its data folder, and start it again before it joins"
    )]
    HadMembers,
    #[error("it is admitting a newcomer itself at this moment")]
    Hosts,
    #[error("it is joining another cluster already")]
    Promised,
    #[error("it was started anew meanwhile: ask again")]
    StartedAnew,
    #[error("it does not serve: see its log")]
    NotServing,
}

impl AbsorbRefusal {
    const ALL: [Self; 6] = [
        Self::HoldsCommands,
        Self::HadMembers,
        Self::Hosts,
        Self::Promised,
        Self::StartedAnew,
        Self::NotServing,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// What a member is asked about joining, on its peer port. It may be of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who are you, and would you join another cluster?
    Who,
    /// Admit me.
    Admit(Newcomer),
    /// You are admitted: give up your own cluster.
    Absorb(Offer),
    /// Who are the members of your cluster, as far as you durably know?
    Members,
}

/// A membership that waits for a running member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Whom it is for; a member that was started anew since is not meant.
    pub incarnation: Incarnation,
    pub members: MemberList,
}

/// How a member introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    /// Why it would not join another cluster now, if so.
    pub refuses: Option<AbsorbRefusal>,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Me(Introduction),
    Admitted {
        cluster: ClusterId,
        member: MemberId,
        members: MemberList,
    },
    /// The members, as this one of them durably knows them.
    Members(Told),
    /// It is a member of the cluster that it was offered.
    Absorbed,
    Refused(JoinRefusal),
    /// Not at this moment: ask again.
    Later {
        reason: String,
    },
}

/// What a host tells the newcomer of its admission.
impl From<Result<Admitted, JoinError>> for Reply {
    fn from(outcome: Result<Admitted, JoinError>) -> Self {
        match outcome {
            Ok(Admitted { cluster, member, members }) => {
                Self::Admitted { cluster, member, members: MemberList::founded_by(members) }
            }
            Err(JoinError::Refused(refusal)) => Self::Refused(refusal),
            Err(error) => Self::Later { reason: error.to_string() },
        }
    }
}

/// What a member says of its cluster's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub cluster: ClusterId,
    /// Who says it.
    pub by: MemberId,
    pub members: MemberList,
}

/// The answer that a joiner may go by, if there is one: the newest, where a majority of the voters that it names, the
/// joiner at `peer_urls` aside, gave none that is newer. A member that lost its disk, was removed, or was away and only now
/// hears of a leader again, tells of a past in which the joiner's address may have been somebody else's.
#[must_use]
pub fn believed<'a>(answers: &'a [Told], peer_urls: &[String]) -> Option<&'a Told> {
    let newest = answers
        .iter()
        .reduce(|best, next| if next.members.is_no_older_than(&best.members) { next } else { best })?;
    let others = || {
        newest.members.iter().filter(|member| {
            !member.is_learner && !member.peer_urls.iter().any(|url| peer_urls.contains(url))
        })
    };
    let answered = others()
        .filter(|voter| answers.iter().any(|told| told.by == voter.id && told.cluster == newest.cluster))
        .count();
    (answered > others().count() / 2).then_some(newest)
}

/// Bytes that are no question or answer of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no question or answer about joining that this version knows")]
pub struct JoinDecodeError;

impl Question {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode_question(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, JoinDecodeError> {
        codec::decode_question(bytes).map_err(|_| JoinDecodeError)
    }
}

impl Reply {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode_reply(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, JoinDecodeError> {
        codec::decode_reply(bytes).map_err(|_| JoinDecodeError)
    }
}

impl Offer {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = bytes::BytesMut::new();
        codec::put_offer(&mut out, self);
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, JoinDecodeError> {
        codec::decode_offer(bytes).map_err(|_| JoinDecodeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MembershipRequest;

    fn told(by: u64, members: &MemberList) -> Told {
        Told { cluster: ClusterId(1), by: MemberId(by), members: members.clone() }
    }

    fn founders() -> MemberList {
        MemberList::founded_by((1..=3).map(|id| Member {
            id: MemberId(id),
            peer_urls: vec![format!("http://m{id}")],
            ..Member::default()
        }))
    }

    #[test]
    fn a_joiner_does_not_believe_a_member_that_tells_of_the_past() {
        // The joiner runs where member 1 was; member 3 was wiped, or away since the founding: it knows nothing else.
        let mine = ["http://m1".to_owned()];
        let mut now = founders();
        now.judge(&MembershipRequest::Remove { id: MemberId(1) }).expect("a member");
        let add = MembershipRequest::Add {
            id: MemberId(9),
            name: String::new(),
            peer_urls: mine.to_vec(),
            is_learner: false,
        };
        now.judge(&add).expect("a new member");
        let past = told(3, &founders());
        assert_eq!(believed(std::slice::from_ref(&past), &mine), None);
        let fresh = told(2, &now);
        assert_eq!(believed(std::slice::from_ref(&fresh), &mine), None);
        assert_eq!(believed(&[past.clone(), fresh.clone()], &mine), Some(&fresh));
        assert_eq!(believed(&[fresh.clone(), past], &mine), Some(&fresh));
    }

    #[test]
    fn the_only_voter_is_believed_even_where_it_waits_for_the_joiner_to_have_a_majority() {
        let mut two = MemberList::founded_by([Member { id: MemberId(1), ..Member::default() }]);
        let mine = ["http://new".to_owned()];
        let add = MembershipRequest::Add {
            id: MemberId(2),
            name: String::new(),
            peer_urls: mine.to_vec(),
            is_learner: false,
        };
        two.judge(&add).expect("a new member");
        let alone = told(1, &two);
        assert_eq!(believed(std::slice::from_ref(&alone), &mine), Some(&alone));
    }
}
