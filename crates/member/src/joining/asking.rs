//! How a newcomer without data asks the peers of a running cluster to admit it, as a plain struct. No input, output or
//! clock of its own.

use quorate_ids::Monotonic;

use super::{JoinRefusal, Newcomer, Offer, Question, Reply};
use crate::handle::MembershipRefusal;

/// Between two rounds through all peers.
const ROUND_PAUSE_NANOS: u64 = 500_000_000;

/// What is to be done next.
#[derive(Debug)]
pub enum AskingWants {
    Ask {
        url: String,
        question: Question,
    },
    Pause {
        nanos: u64,
    },
    /// What this member is from now on, once that is noted durably.
    Done(Result<Offer, NotAdmitted>),
}

/// Why a newcomer does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The cluster at `url` says no.
    Refused { url: String, refusal: JoinRefusal },
    /// No peer admitted it in time; what the last one said.
    NoPeers { last: String },
}

/// See the module.
pub struct Asking {
    newcomer: Newcomer,
    peers: Vec<String>,
    /// The peer that is asked next, or was asked last.
    at: usize,
    until: Monotonic,
    last: String,
}

impl Asking {
    /// Asks each of `peers` but the newcomer's own URLs, one after the other, until `until`.
    #[must_use]
    pub fn begin(newcomer: Newcomer, peers: &[String], until: Monotonic) -> (Self, AskingWants) {
        let own = &newcomer.peer_urls;
        let peers: Vec<String> = peers.iter().filter(|url| !own.contains(url)).cloned().collect();
        let last = "no peer but this member itself is listed".to_owned();
        let this = Self { newcomer, peers, at: 0, until, last };
        let wants = if this.peers.is_empty() { this.give_up() } else { this.ask() };
        (this, wants)
    }

    fn ask(&self) -> AskingWants {
        AskingWants::Ask {
            url: self.peers[self.at].clone(),
            question: Question::Admit(self.newcomer.clone()),
        }
    }

    fn give_up(&self) -> AskingWants {
        AskingWants::Done(Err(NotAdmitted::NoPeers { last: self.last.clone() }))
    }

    /// The peer that was asked last answered, or did not, for this reason.
    pub fn answered(&mut self, answer: Result<Reply, String>, now: Monotonic) -> AskingWants {
        let url = &self.peers[self.at];
        let said = match answer {
            Ok(Reply::Admitted { cluster, member, members }) => {
                tracing::info!(%url, %cluster, %member, "admitted by a running cluster");
                let incarnation = self.newcomer.incarnation;
                return AskingWants::Done(Ok(Offer { cluster, member, incarnation, members }));
            }
            Ok(Reply::Refused(refusal)) if !passes(&refusal) => {
                return AskingWants::Done(Err(NotAdmitted::Refused { url: url.clone(), refusal }));
            }
            Ok(Reply::Refused(refusal)) => refusal.to_string(),
            Ok(Reply::Later { reason }) => reason,
            Ok(_) => "it answered something else".to_owned(),
            Err(reason) => reason,
        };
        self.last = format!("{url}: {said}");
        self.at += 1;
        if self.at < self.peers.len() {
            return self.ask();
        }
        self.at = 0;
        if now >= self.until {
            return self.give_up();
        }
        AskingWants::Pause { nanos: ROUND_PAUSE_NANOS.min(self.until.since(now)) }
    }

    /// The pause between two rounds is over.
    pub fn paused(&mut self) -> AskingWants {
        self.ask()
    }
}

/// Whether a refusal may be gone in a moment.
fn passes(refusal: &JoinRefusal) -> bool {
    matches!(
        refusal,
        JoinRefusal::Cluster(
            MembershipRefusal::InProgress
                | MembershipRefusal::AlreadyJoined
                | MembershipRefusal::TooManyJoining
                | MembershipRefusal::Unhealthy
        )
    )
}
