//! The host's side over sockets: what an [`Admission`] wants done, done.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_ids::{MemberId, Monotonic, WallTime};
use tokio::time::Instant;

use super::admission::{Admission, Came, Patience, View, Wanted};
use super::{Admitted, Introduction, JoinError, Newcomer, Question, Reply};
use crate::core::Now;
use crate::handle::{Handle, MembershipRefusal, RequestError, Shared};
use crate::membership::{Member, MembershipRequest};
use crate::shell::ask;

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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Handle {
    /// Admits a newcomer that has no cluster yet: returns once it is a member, a learner at first, that may start.
    /// Any member takes it. Where an earlier incarnation holds its name and does not answer any more, that one is
    /// removed. Asking again for the same incarnation returns the same member.
    ///
    /// Takes the time of a request at most, and so long that a holder of the name that has just died is known as dead.
    pub async fn join(&self, newcomer: &Newcomer) -> Result<Admitted, JoinError> {
        let begun = Instant::now();
        let members = self.members();
        let (admission, wanted) = Admission::of(newcomer, self.patience(), self.view(&members, begun));
        self.carry_out(admission, wanted, begun).await
    }

    /// Admits the member that runs at `peer_url` under the name `name` and leads a cluster of its own: it gives that up
    /// and becomes a learner of this one, and a voter once it has caught up if `wants_vote`. It refuses where its own
    /// cluster holds anything besides its founding. Any member takes it; asking again is harmless.
    ///
    /// Returns once the newcomer has durably moved; see [`Self::is_settled`] for when it votes.
    pub async fn absorb(&self, name: &str, peer_url: &str, wants_vote: bool) -> Result<Admitted, JoinError> {
        let begun = Instant::now();
        let (admission, wanted) =
            Admission::absorbing(name, peer_url, wants_vote, self.patience(), now(begun));
        self.carry_out(admission, wanted, begun).await
    }

    async fn carry_out(
        &self,
        mut admission: Admission,
        mut wanted: Wanted,
        begun: Instant,
    ) -> Result<Admitted, JoinError> {
        let _hosting = Hosting::begin(&self.shared);
        loop {
            let came = match wanted {
                Wanted::Confirm => Came::Confirmed(self.read_index().await.map(|_| ())),
                Wanted::Change(request) => Came::Changed(self.change_membership(request).await.map(|_| ())),
                Wanted::Ask { url, question } => {
                    let answer = ask(&url, self.shared.connector.as_deref(), &question).await;
                    Came::Answered(answer.map_err(|error| error.to_string()))
                }
                Wanted::Pause { nanos } => {
                    tokio::time::sleep(Duration::from_nanos(nanos)).await;
                    Came::Paused
                }
                Wanted::Done(outcome) => return outcome,
            };
            let members = self.members();
            wanted = admission.came(came, self.view(&members, begun));
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            request_timeout_nanos: nanos(self.shared.request_timeout),
            election_timeout_nanos: nanos(self.shared.election_timeout),
        }
    }

    fn view<'a>(&self, members: &'a [Member], begun: Instant) -> View<'a> {
        View { me: self.identity(), members, now: now(begun) }
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
        let unreachable = |reason: String| JoinError::Unreachable { url: peer_url.to_owned(), reason };
        match ask(peer_url, self.shared.connector.as_deref(), &Question::Who).await {
            Ok(Reply::Me(me)) => Ok(me),
            Ok(_) => Err(unreachable("it answered something else".to_owned())),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }
}

/// The time for an admission that began then.
fn now(begun: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic: Monotonic(nanos(begun.elapsed())), wall: WallTime(nanos(wall)) }
}
