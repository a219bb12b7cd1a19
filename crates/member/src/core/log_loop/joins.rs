//! Newcomers: as the leader, what becomes of them; as a member that is to be absorbed, giving up the founding.
//!
//! Invariant: from the moment this member gives up its cluster it proposes, votes and promises nothing more; what its
//! log holds then was looked at entry by entry.

use super::*;
use crate::core::joins::{Care, has_caught_up, step_towards};
use crate::joining::{AbsorbRefusal, Introduction, Offer, Question, Reply};

/// The log of a founding holds an empty entry for each start and a few publications; a longer one is not looked through.
const FOUNDING_ENTRIES_MAX: u64 = 10_000;
/// Silence of so many election timeouts is taken for death.
const SILENT_TIMEOUTS: u64 = 2;

/// A cluster that is about to be given up.
pub(super) struct GivingUp {
    ask: u64,
    offer: Offer,
}

impl LogLoop {
    // ---- as the leader ----

    /// The change that a request comes down to, now.
    pub(super) fn step_of(
        &self,
        request: MembershipRequest,
        now: Now,
    ) -> Result<MembershipRequest, MembershipRefusal> {
        let me = self.config.identity.member;
        let patience = SILENT_TIMEOUTS * self.config.election_timeout_nanos;
        let answers = |id| id == me || self.joins.answers(id, now.monotonic, patience);
        match &request {
            MembershipRequest::Demote { id, .. } if *id == me => return Err(MembershipRefusal::Leads),
            MembershipRequest::Demote { id, silent_nanos } if *silent_nanos > 0 => {
                if self.joins.answers(*id, now.monotonic, *silent_nanos) {
                    return Err(MembershipRefusal::StillAnswers);
                }
                let status = self.consensus.status();
                let mut learners = self.membership.learners.iter().filter(|learner| answers(**learner));
                let is_ready = |learner: &MemberId| {
                    let progress = status.progress.get(learner);
                    progress.is_some_and(|progress| has_caught_up(progress, status.last_index))
                };
                if !learners.any(is_ready) {
                    return Err(MembershipRefusal::LearnerNotReady);
                }
            }
            // A vote for one that is not there would only make a majority harder to get.
            MembershipRequest::Promote { id } if self.membership.is_learner(*id) && !answers(*id) => {
                return Err(MembershipRefusal::LearnerNotReady);
            }
            _ => {}
        }
        step_towards(request, &self.members, answers)
    }

    /// Makes voters of learners that have caught up, and finishes or undoes admissions that were cut short.
    pub(super) fn look_after_learners(&mut self, now: Now) {
        if self.membership.learners.is_empty() || !self.leads() {
            return;
        }
        let status = self.consensus.status();
        if !status.committed_in_term || status.transferring_to.is_some() {
            return;
        }
        let learners: Vec<_> = self.members.iter().filter(|member| member.is_learner).cloned().collect();
        for learner in learners {
            let id = learner.id;
            let progress = status.progress.get(&id);
            let is_ready = progress.is_some_and(|progress| has_caught_up(progress, status.last_index));
            if is_ready && (learner.wants_vote || self.config.promote_learners) {
                self.change_unasked(MembershipRequest::Promote { id }, now);
            }
            if !learner.is_joining {
                continue;
            }
            match self.joins.look_after(&learner, now.monotonic) {
                Care::Wait => {}
                Care::Invite => {
                    let offer = Offer {
                        cluster: self.config.identity.cluster,
                        member: id,
                        incarnation: learner.incarnation,
                        members: self.members.clone(),
                    };
                    self.out.push(LogOutput::Invite { urls: learner.peer_urls, offer });
                }
                Care::Undo => {
                    tracing::warn!(member = %id, name = learner.name, "a newcomer never came; it is removed again");
                    self.change_unasked(MembershipRequest::Remove { id }, now);
                }
            }
        }
    }

    /// A newcomer that was told again that it is a member says that it will not be.
    pub(super) fn invitation_refused(&mut self, id: MemberId, now: Now) {
        let joining = self.members.get(id).is_some_and(|member| member.is_joining);
        if joining && self.leads() {
            tracing::warn!(member = %id, "a newcomer refuses to join; it is removed again");
            self.change_unasked(MembershipRequest::Remove { id }, now);
        }
    }

    /// Proposes a change that nobody waits for; false where it was refused now: it is tried again with a later tick.
    pub(super) fn change_unasked(&mut self, request: MembershipRequest, now: Now) -> bool {
        let origin = Origin { member: self.config.identity.member, start: self.config.start, seq: 0 };
        let proposed = self.propose(origin, Request::Membership(request), now);
        if let Err(refusal) = &proposed {
            tracing::debug!(?refusal, "a change of the members waits");
        }
        proposed.is_ok()
    }

    // ---- as the one that is asked ----

    /// Answers a question about joining. `hosts`: this member has an admission in hand itself.
    pub(super) fn join_question(&mut self, ask: u64, question: Question, hosts: bool) {
        let reply = match question {
            Question::Who => Reply::Me(self.introduction(hosts)),
            Question::Absorb(offer) => match self.judge_offer(&offer, hosts) {
                Ok(true) => Reply::Absorbed,
                Ok(false) => {
                    tracing::info!(cluster = %offer.cluster, member = %offer.member, "giving up the own cluster");
                    self.giving_up = Some(GivingUp { ask, offer });
                    return;
                }
                Err(refusal) => Reply::Refused(refusal.into()),
            },
            Question::Members => Reply::Members(self.members_to_tell()),
            Question::Admit(_) => Reply::Later { reason: "this question is not for the log loop".to_owned() },
        };
        self.out.push(LogOutput::JoinReply { ask, reply });
    }

    fn introduction(&self, hosts: bool) -> Introduction {
        let identity = self.config.identity;
        let me = self.members.get(identity.member).cloned().unwrap_or_default();
        Introduction {
            cluster: identity.cluster,
            member: identity.member,
            incarnation: identity.incarnation,
            name: me.name,
            peer_urls: me.peer_urls,
            client_urls: me.client_urls,
            refuses: self.may_move(hosts).err(),
        }
    }

    /// True where this member is what it is offered to be already.
    fn judge_offer(&self, offer: &Offer, hosts: bool) -> Result<bool, AbsorbRefusal> {
        let me = self.config.identity;
        if offer.incarnation != me.incarnation {
            return Err(AbsorbRefusal::StartedAnew);
        }
        if (offer.cluster, offer.member) == (me.cluster, me.member) {
            return if self.removed || self.leaving.is_some() {
                Err(AbsorbRefusal::NotServing)
            } else {
                Ok(true)
            };
        }
        if offer.cluster == me.cluster {
            return Err(AbsorbRefusal::NotServing);
        }
        self.may_move(hosts)?;
        Ok(false)
    }

    fn may_move(&self, hosts: bool) -> Result<(), AbsorbRefusal> {
        if self.failed.is_some() || self.removed || self.leaving.is_some() || self.stopping {
            return Err(AbsorbRefusal::NotServing);
        }
        if self.given_up || self.giving_up.is_some() {
            return Err(AbsorbRefusal::Promised);
        }
        if hosts {
            return Err(AbsorbRefusal::Hosts);
        }
        self.holds_only_its_founding()
    }

    /// Looks at the log itself: nothing but empty entries and this member's own publications may be in it.
    fn holds_only_its_founding(&self) -> Result<(), AbsorbRefusal> {
        let me = self.config.identity.member;
        if !self.members.is_only(me) || self.membership.voters != [me] {
            return Err(AbsorbRefusal::HadMembers);
        }
        if self.last_index.0 > FOUNDING_ENTRIES_MAX {
            return Err(AbsorbRefusal::HoldsCommands);
        }
        let (from, entries) = self.consensus.log();
        // A log that does not go back to the founding does not show what was in it.
        if from != FOUNDING_INDEX || !entries.iter().all(|entry| self.is_of_founding(entry)) {
            return Err(AbsorbRefusal::HoldsCommands);
        }
        Ok(())
    }

    fn is_of_founding(&self, entry: &Entry) -> bool {
        let me = self.config.identity.member;
        match envelope_of(entry) {
            None => true,
            Some(Err(_)) => false,
            Some(Ok(envelope)) => {
                let request = MembershipRequest::decode(&envelope.command);
                envelope.model == quorate_models::ModelId::MEMBER
                    && matches!(
                        request,
                        Ok(MembershipRequest::Publish { id, .. } | MembershipRequest::Meet { id, .. }) if id == me
                    )
            }
        }
    }

    /// Gives the cluster up once everything that was under way has come to rest, if its log still allows it then.
    pub(super) fn give_up_at_rest(&mut self) {
        let Some(GivingUp { ask, offer }) = self.giving_up.take() else { return };
        let status = self.consensus.status();
        let at_rest = self.in_flight.is_none()
            && self.applying.is_empty()
            && status.readies_unpersisted == 0
            && status.applied == status.last_index
            && self.applied == status.last_index
            && self.last_index == status.last_index;
        if !at_rest {
            self.giving_up = Some(GivingUp { ask, offer });
            return;
        }
        match self.holds_only_its_founding() {
            Ok(()) => {
                self.given_up = true;
                self.give_up_requests(&RequestError::Moving);
                self.out.push(LogOutput::GiveUp { ask, offer });
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "the own cluster is not given up");
                self.out.push(LogOutput::JoinReply { ask, reply: Reply::Refused(refusal.into()) });
            }
        }
    }
}
