//! The host's side: a member of a running cluster admits a newcomer.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_ids::{Incarnation, MemberId};
use tokio::time::Instant;

use super::{Admitted, Introduction, JoinError, JoinRefusal, Newcomer, Offer, Question, Reply};
use crate::handle::{Handle, MembershipRefusal, RequestError, Shared};
use crate::membership::{Member, MemberList, MembershipRequest, member_id};
use crate::shell::ask;

/// Between two tries of something that may work in a moment.
const RETRY: Duration = Duration::from_millis(50);
/// A member that was admitted is told so for so long; after that the leader goes on with it.
const OFFER_PATIENCE: Duration = Duration::from_secs(10);

/// Counts an admission for as long as it is in hand: a member that hosts one joins nobody else meanwhile.
struct Hosting<'a>(&'a Shared);

impl<'a> Hosting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.hosting.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for Hosting<'_> {
    fn drop(&mut self) {
        self.0.hosting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Handle {
    /// Admits a newcomer that has no cluster yet: returns once it is a member, a learner at first, that may start.
    /// Any member takes it. Where an earlier incarnation holds its name and does not answer any more, that one is
    /// removed. Asking again for the same incarnation returns the same member.
    ///
    /// Takes the time of a request at most, and so long that a holder of the name that has just died is known as dead.
    pub async fn join(&self, newcomer: &Newcomer) -> Result<Admitted, JoinError> {
        let _hosting = Hosting::begin(&self.shared);
        self.admit(newcomer).await
    }

    /// Admits the member that runs at `peer_url` under the name `name` and leads a cluster of its own: it gives that up
    /// and becomes a learner of this one, and a voter once it has caught up if `wants_vote`. It refuses where its own
    /// cluster holds anything besides its founding. Any member takes it; asking again is harmless.
    ///
    /// Returns once the newcomer has durably moved; see [`Self::is_settled`] for when it votes.
    pub async fn absorb(&self, name: &str, peer_url: &str, wants_vote: bool) -> Result<Admitted, JoinError> {
        let _hosting = Hosting::begin(&self.shared);
        let me = self.identity();
        let found = self.introduction(peer_url).await?;
        if found.incarnation == me.incarnation {
            return Err(JoinRefusal::Itself.into());
        }
        if found.name != name {
            let (expected, found) = (name.to_owned(), found.name);
            return Err(JoinRefusal::WrongName { expected, found }.into());
        }
        if found.cluster == me.cluster {
            self.read_index().await?;
            return match self.holder(name, found.incarnation) {
                Some(member) => Ok(self.admitted(member)),
                None => Err(JoinRefusal::Newcomer(super::AbsorbRefusal::NotServing).into()),
            };
        }
        if let Some(refusal) = found.refuses {
            return Err(JoinRefusal::Newcomer(refusal).into());
        }
        // Where it was reached is where the others reach it.
        let reached = found.peer_urls.iter().any(|url| url == peer_url);
        let peer_urls = if reached { found.peer_urls } else { vec![peer_url.to_owned()] };
        let (incarnation, client_urls) = (found.incarnation, found.client_urls);
        let newcomer = Newcomer { name: found.name, incarnation, peer_urls, client_urls, wants_vote };
        let admitted = self.admit(&newcomer).await?;
        self.offer(&admitted, incarnation, peer_url).await?;
        Ok(admitted)
    }

    /// Removes the member with this name. Answers as [`Self::change_membership`] does; a name that no member has is
    /// [`MembershipRefusal::NotFound`].
    pub async fn remove_named(&self, name: &str) -> Result<Vec<Member>, RequestError> {
        self.read_index().await?;
        let id = self.members().iter().find(|member| !name.is_empty() && member.name == name).map(|m| m.id);
        let id = id.ok_or(RequestError::Refused { reason: MembershipRefusal::NotFound })?;
        self.change_membership(MembershipRequest::Remove { id }).await
    }

    /// True once nothing is left to be done for an admitted member: it has started, and votes if it wanted to.
    #[must_use]
    pub fn is_settled(&self, id: MemberId) -> bool {
        let members = self.members();
        members.iter().any(|member| member.id == id && !member.wants_vote && !member.is_joining)
    }

    /// What the member at `peer_url` says of itself, whatever cluster it is of.
    pub async fn introduction(&self, peer_url: &str) -> Result<Introduction, JoinError> {
        match self.ask_at(peer_url, &Question::Who).await? {
            Reply::Me(me) => Ok(me),
            _ => Err(unreachable(peer_url, "it answered something else")),
        }
    }

    async fn ask_at(&self, url: &str, question: &Question) -> Result<Reply, JoinError> {
        let answer = ask(url, self.shared.connector.as_deref(), question).await;
        answer.map_err(|error| unreachable(url, error))
    }

    fn holder(&self, name: &str, incarnation: Incarnation) -> Option<MemberId> {
        let members = self.members();
        let held = members.iter().find(|member| member.name == name && member.incarnation == incarnation);
        held.map(|member| member.id)
    }

    fn admitted(&self, member: MemberId) -> Admitted {
        Admitted { cluster: self.identity().cluster, member, members: self.members().to_vec() }
    }

    /// Goes on until the newcomer is in the list or somebody says why not. Each step is judged by the leader.
    async fn admit(&self, newcomer: &Newcomer) -> Result<Admitted, JoinError> {
        if newcomer.name.is_empty() || newcomer.peer_urls.is_empty() {
            return Err(JoinRefusal::Nameless.into());
        }
        let deadline = Instant::now() + self.shared.request_timeout;
        // A holder that died just now is known as dead after two election timeouts.
        let answers_until = Instant::now() + 3 * self.shared.election_timeout;
        let request = join_request(newcomer);
        loop {
            let refusal = match self.step_towards(newcomer, &request).await {
                Ok(Some(member)) => return Ok(self.admitted(member)),
                Ok(None) => continue,
                Err(error) => error,
            };
            let until = match &refusal {
                RequestError::Refused { reason: MembershipRefusal::NameAnswers } => answers_until,
                RequestError::Refused {
                    reason: MembershipRefusal::InProgress | MembershipRefusal::AlreadyJoined,
                }
                | RequestError::NoLeader
                | RequestError::LeaderChanged
                | RequestError::Overloaded => deadline,
                _ => Instant::now(),
            };
            if Instant::now() >= until {
                return Err(match refusal {
                    RequestError::Refused { reason } => JoinRefusal::Cluster(reason).into(),
                    other => other.into(),
                });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One change of the list, unless the newcomer is in it: its admission, or the removal of whom it replaces.
    async fn step_towards(
        &self,
        newcomer: &Newcomer,
        request: &MembershipRequest,
    ) -> Result<Option<MemberId>, RequestError> {
        self.read_index().await?;
        if let Some(member) = self.holder(&newcomer.name, newcomer.incarnation) {
            return Ok(Some(member));
        }
        self.change_membership(request.clone()).await?;
        Ok(self.holder(&newcomer.name, newcomer.incarnation))
    }

    /// Tells the newcomer that it is a member now. If it refuses, its admission is undone.
    async fn offer(&self, admitted: &Admitted, incarnation: Incarnation, url: &str) -> Result<(), JoinError> {
        let deadline = Instant::now() + OFFER_PATIENCE;
        let offer = Offer {
            cluster: admitted.cluster,
            member: admitted.member,
            incarnation,
            members: MemberList::founded_by(admitted.members.iter().cloned()),
        };
        let question = Question::Absorb(offer);
        loop {
            let error = match self.ask_at(url, &question).await {
                Ok(Reply::Absorbed) => return Ok(()),
                Ok(Reply::Refused(refusal)) => {
                    let remove = MembershipRequest::Remove { id: admitted.member };
                    if let Err(error) = self.change_membership(remove).await {
                        // The leader removes a member that refuses, when it asks it itself.
                        tracing::warn!(member = %admitted.member, %error, "an admission is not undone yet");
                    }
                    return Err(refusal.into());
                }
                Ok(Reply::Later { reason }) => unreachable(url, reason),
                Ok(_) => unreachable(url, "it answered something else"),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn unreachable(url: &str, reason: impl std::fmt::Display) -> JoinError {
    JoinError::Unreachable { url: url.to_owned(), reason: reason.to_string() }
}

fn join_request(newcomer: &Newcomer) -> MembershipRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The id is new even where this incarnation was a member before and was removed.
    let salt = format!("{}-{}", newcomer.incarnation, now.subsec_nanos());
    MembershipRequest::Join {
        id: member_id(&newcomer.peer_urls, &salt, Some(now.as_secs())),
        name: newcomer.name.clone(),
        incarnation: newcomer.incarnation,
        peer_urls: newcomer.peer_urls.clone(),
        client_urls: newcomer.client_urls.clone(),
        wants_vote: newcomer.wants_vote,
    }
}
