//! How a member of a running cluster admits a newcomer, as a plain struct: from what came of the last thing that was
//! done it says what is to be done next. No input, output or clock of its own; the member carries it out over sockets,
//! the simulator over its own network.
//!
//! Invariants: the newcomer is told that it is a member only after that is committed; whatever cuts an admission short,
//! whoever leads finishes or undoes it.

use quorate_ids::{Incarnation, MemberId, Monotonic};

use super::{
    AbsorbRefusal, Admitted, Introduction, JoinError, JoinRefusal, Newcomer, Offer, Question, Reply,
};
use crate::core::Now;
use crate::handle::{Identity, MembershipRefusal, RequestError};
use crate::membership::{Member, MemberList, MembershipRequest, member_id};

/// Between two tries of something that may work in a moment.
const RETRY_NANOS: u64 = 50_000_000;
/// A member that was admitted is told so for so long; after that the leader goes on with it.
const OFFER_NANOS_MAX: u64 = 10_000_000_000;
/// A holder of the name that died just now is known as dead after two election timeouts.
const ANSWERS_TIMEOUTS: u64 = 3;

/// What is to be done next.
#[derive(Debug)]
pub enum Wanted {
    /// Wait until all that was acknowledged anywhere is in the list of this member.
    Confirm,
    /// Have the list changed, and wait until this member has applied it.
    Change(MembershipRequest),
    Ask {
        url: String,
        question: Question,
    },
    Pause {
        nanos: u64,
    },
    Done(Result<Admitted, JoinError>),
}

/// What came of it.
#[derive(Debug)]
pub enum Came {
    Confirmed(Result<(), RequestError>),
    Changed(Result<(), RequestError>),
    /// The reply, or why there is none.
    Answered(Result<Reply, String>),
    Paused,
}

/// The host as it is when something came.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub me: Identity,
    pub members: &'a [Member],
    pub now: Now,
}

/// The times of the host.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub request_timeout_nanos: u64,
    pub election_timeout_nanos: u64,
}

enum Step {
    /// The member at this URL says who it is; it must be called so.
    Introduction {
        name: String,
        wants_vote: bool,
    },
    /// It says that it is of this cluster already.
    OfThisCluster {
        name: String,
        incarnation: Incarnation,
    },
    Admitting,
    /// It is a member, and is told so.
    Offering {
        admitted: Admitted,
        until: Monotonic,
    },
    /// It refuses to be one.
    Undoing {
        refusal: JoinRefusal,
    },
}

/// An admission in hand. See the module.
pub struct Admission {
    patience: Patience,
    step: Step,
    /// Where a newcomer runs that has to be told that it is a member; `None` for one that asks itself.
    url: Option<String>,
    newcomer: Option<(Newcomer, MembershipRequest)>,
    begun: Monotonic,
}

impl Admission {
    /// A newcomer without a cluster asks to be admitted.
    #[must_use]
    pub fn of(newcomer: &Newcomer, patience: Patience, view: View<'_>) -> (Self, Wanted) {
        let mut this =
            Self { patience, step: Step::Admitting, url: None, newcomer: None, begun: view.now.monotonic };
        let wanted = this.admit(newcomer.clone(), view);
        (this, wanted)
    }

    /// The member that runs at `url` under this name, and leads a cluster of its own, is to give that up.
    #[must_use]
    pub fn absorbing(
        name: &str,
        url: &str,
        wants_vote: bool,
        patience: Patience,
        now: Now,
    ) -> (Self, Wanted) {
        let step = Step::Introduction { name: name.to_owned(), wants_vote };
        let this = Self { patience, step, url: Some(url.to_owned()), newcomer: None, begun: now.monotonic };
        let wanted = Wanted::Ask { url: url.to_owned(), question: Question::Who };
        (this, wanted)
    }

    /// What is to be done now that this came of what was wanted last.
    pub fn came(&mut self, came: Came, view: View<'_>) -> Wanted {
        match (&self.step, came) {
            (Step::Introduction { .. }, Came::Answered(answer)) => self.introduced(answer, view),
            (Step::OfThisCluster { name, incarnation }, Came::Confirmed(outcome)) => {
                Wanted::Done(match (outcome, holder(view.members, name, *incarnation)) {
                    (Err(error), _) => Err(error.into()),
                    (Ok(()), Some(member)) => Ok(admitted(member, view)),
                    (Ok(()), None) => Err(JoinRefusal::Newcomer(AbsorbRefusal::NotServing).into()),
                })
            }
            (Step::Admitting, Came::Confirmed(outcome)) => self.confirmed(outcome, view),
            (Step::Admitting, Came::Changed(Err(error))) => self.refused(error, view),
            (Step::Admitting, Came::Changed(Ok(()))) => match self.admitted_as(view) {
                Some(member) => self.offer(member, view),
                None => Wanted::Confirm,
            },
            (Step::Admitting, Came::Paused) => Wanted::Confirm,
            (Step::Offering { .. }, Came::Paused) => self.ask_again(),
            (Step::Offering { .. }, Came::Answered(answer)) => self.offered(answer, view),
            (Step::Undoing { refusal }, Came::Changed(outcome)) => {
                if let Err(error) = outcome {
                    // The leader removes a member that refuses, when it asks it itself.
                    tracing::warn!(%error, "an admission is not undone yet");
                }
                Wanted::Done(Err(refusal.clone().into()))
            }
            (_, came) => unreachable!("{came:?} is no answer to what was wanted"),
        }
    }

    fn introduced(&mut self, answer: Result<Reply, String>, view: View<'_>) -> Wanted {
        let found = match answer {
            Ok(Reply::Me(me)) => me,
            Ok(_) => return self.unreachable("it answered something else"),
            Err(reason) => return self.unreachable(&reason),
        };
        let Step::Introduction { name, wants_vote } = &self.step else { unreachable!("it was asked") };
        let (name, wants_vote) = (name.clone(), *wants_vote);
        if found.incarnation == view.me.incarnation {
            return Wanted::Done(Err(JoinRefusal::Itself.into()));
        }
        if found.name != name {
            let refusal = JoinRefusal::WrongName { expected: name, found: found.name };
            return Wanted::Done(Err(refusal.into()));
        }
        if found.cluster == view.me.cluster {
            self.step = Step::OfThisCluster { name, incarnation: found.incarnation };
            return Wanted::Confirm;
        }
        if let Some(refusal) = found.refuses {
            return Wanted::Done(Err(JoinRefusal::Newcomer(refusal).into()));
        }
        let newcomer = self.newcomer_of(found, wants_vote);
        self.admit(newcomer, view)
    }

    /// Where it was reached is where the others reach it.
    fn newcomer_of(&self, found: Introduction, wants_vote: bool) -> Newcomer {
        let url = self.url.clone().unwrap_or_default();
        let reached = found.peer_urls.contains(&url);
        let peer_urls = if reached { found.peer_urls } else { vec![url] };
        let (name, incarnation, client_urls) = (found.name, found.incarnation, found.client_urls);
        Newcomer { name, incarnation, peer_urls, client_urls, wants_vote }
    }

    /// From now on until the newcomer is in the list or somebody says why not. Each step is judged by the leader.
    fn admit(&mut self, newcomer: Newcomer, view: View<'_>) -> Wanted {
        if newcomer.name.is_empty() || newcomer.peer_urls.is_empty() {
            return Wanted::Done(Err(JoinRefusal::Nameless.into()));
        }
        let request = join_request(&newcomer, view.now);
        self.newcomer = Some((newcomer, request));
        self.begun = view.now.monotonic;
        self.step = Step::Admitting;
        Wanted::Confirm
    }

    fn admitted_as(&self, view: View<'_>) -> Option<MemberId> {
        let (newcomer, _) = self.newcomer.as_ref()?;
        holder(view.members, &newcomer.name, newcomer.incarnation)
    }

    /// The list is new enough: one change of it, unless the newcomer is in it. That is its admission, or the removal of
    /// whom it replaces.
    fn confirmed(&mut self, outcome: Result<(), RequestError>, view: View<'_>) -> Wanted {
        if let Err(error) = outcome {
            return self.refused(error, view);
        }
        match (self.admitted_as(view), &self.newcomer) {
            (Some(member), _) => self.offer(member, view),
            (None, Some((_, request))) => Wanted::Change(request.clone()),
            (None, None) => unreachable!("whoever is admitted is known"),
        }
    }

    fn refused(&mut self, refusal: RequestError, view: View<'_>) -> Wanted {
        let until = match &refusal {
            RequestError::Refused { reason: MembershipRefusal::NameAnswers } => {
                self.begun.plus(ANSWERS_TIMEOUTS * self.patience.election_timeout_nanos)
            }
            RequestError::Refused {
                reason: MembershipRefusal::InProgress | MembershipRefusal::AlreadyJoined,
            }
            | RequestError::NoLeader
            | RequestError::LeaderChanged
            | RequestError::Overloaded => self.begun.plus(self.patience.request_timeout_nanos),
            _ => view.now.monotonic,
        };
        if view.now.monotonic < until {
            return Wanted::Pause { nanos: RETRY_NANOS };
        }
        Wanted::Done(Err(match refusal {
            RequestError::Refused { reason } => JoinRefusal::Cluster(reason).into(),
            other => other.into(),
        }))
    }

    /// The newcomer is a member now: one that runs in a cluster of its own is told so.
    fn offer(&mut self, member: MemberId, view: View<'_>) -> Wanted {
        let admitted = admitted(member, view);
        if self.url.is_none() {
            return Wanted::Done(Ok(admitted));
        }
        let until = view.now.monotonic.plus(OFFER_NANOS_MAX);
        self.step = Step::Offering { admitted, until };
        self.ask_again()
    }

    fn ask_again(&self) -> Wanted {
        let (Step::Offering { admitted, .. }, Some((newcomer, _)), Some(url)) =
            (&self.step, &self.newcomer, &self.url)
        else {
            unreachable!("it is being offered its membership")
        };
        let offer = Offer {
            cluster: admitted.cluster,
            member: admitted.member,
            incarnation: newcomer.incarnation,
            members: MemberList::founded_by(admitted.members.iter().cloned()),
        };
        Wanted::Ask { url: url.clone(), question: Question::Absorb(offer) }
    }

    fn offered(&mut self, answer: Result<Reply, String>, view: View<'_>) -> Wanted {
        let Step::Offering { admitted, until } = &self.step else { unreachable!("it was asked") };
        let reason = match answer {
            Ok(Reply::Absorbed) => return Wanted::Done(Ok(admitted.clone())),
            Ok(Reply::Refused(refusal)) => {
                let remove = MembershipRequest::Remove { id: admitted.member };
                self.step = Step::Undoing { refusal };
                return Wanted::Change(remove);
            }
            Ok(Reply::Later { reason }) => reason,
            Ok(_) => "it answered something else".to_owned(),
            Err(reason) => reason,
        };
        if view.now.monotonic < *until {
            return Wanted::Pause { nanos: RETRY_NANOS };
        }
        self.unreachable(&reason)
    }

    fn unreachable(&self, reason: &str) -> Wanted {
        let url = self.url.clone().unwrap_or_default();
        Wanted::Done(Err(JoinError::Unreachable { url, reason: reason.to_owned() }))
    }
}

fn holder(members: &[Member], name: &str, incarnation: Incarnation) -> Option<MemberId> {
    let held = members.iter().find(|member| member.name == name && member.incarnation == incarnation);
    held.map(|member| member.id)
}

fn admitted(member: MemberId, view: View<'_>) -> Admitted {
    Admitted { cluster: view.me.cluster, member, members: view.members.to_vec() }
}

fn join_request(newcomer: &Newcomer, now: Now) -> MembershipRequest {
    let (seconds, nanos) = (now.wall.0 / 1_000_000_000, now.wall.0 % 1_000_000_000);
    // The id is new even where this incarnation was a member before and was removed.
    let salt = format!("{}-{nanos}", newcomer.incarnation);
    MembershipRequest::Join {
        id: member_id(&newcomer.peer_urls, &salt, Some(seconds)),
        name: newcomer.name.clone(),
        incarnation: newcomer.incarnation,
        peer_urls: newcomer.peer_urls.clone(),
        client_urls: newcomer.client_urls.clone(),
        wants_vote: newcomer.wants_vote,
    }
}
