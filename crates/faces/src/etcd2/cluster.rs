//! Who leads, and where the machines are.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use http::Response;
use quorate_ids::MemberId;
use quorate_member::Member;

use super::errors::{DURING_ELECTION, Error, RAFT_INTERNAL};
use super::{Answer, Thread, text};
use crate::listener::Body;

/// A machine of the cluster, as it is told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
}

impl Machine {
    fn of(member: &Member) -> Self {
        let first = |urls: &[String]| urls.first().cloned().unwrap_or_default();
        Self {
            name: member.name.clone(),
            client_url: first(&member.client_urls),
            peer_url: first(&member.peer_urls),
        }
    }
}

/// Since when the leader leads, as far as this machine saw it.
#[derive(Default)]
pub(super) struct Leadership(Mutex<Option<(MemberId, Instant, std::time::SystemTime)>>);

impl Leadership {
    /// Takes note of who leads now, and tells since when.
    pub(super) fn look(&self, leader: MemberId) -> (Instant, std::time::SystemTime) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((who, since, wall)) if who == leader => (since, wall),
            _ => {
                let now = (Instant::now(), std::time::SystemTime::now());
                *known = Some((leader, now.0, now.1));
                now
            }
        }
    }
}

impl Thread {
    /// The machine that leads, as far as this one knows.
    pub(super) fn leader(&self) -> Option<Machine> {
        let leader = self.handle().status().leader?;
        self.shared.leadership.look(leader);
        let members = self.handle().members();
        members.iter().find(|member| member.id == leader).map(Machine::of)
    }

    /// Where the leader takes clients' requests.
    pub(super) fn leader_client_url(&self) -> Result<String, Error> {
        let leader = self.leader().ok_or_else(|| Error::new(RAFT_INTERNAL, ""))?;
        if leader.client_url.is_empty() {
            return Err(Error::new(RAFT_INTERNAL, "the leader has not told its client address yet"));
        }
        Ok(leader.client_url)
    }

    /// All machines, the leader first.
    pub(super) fn machines(&self) -> Vec<Machine> {
        let leader = self.handle().status().leader;
        let members = self.handle().members();
        let (first, others): (Vec<&Member>, Vec<&Member>) =
            members.iter().partition(|member| Some(member.id) == leader);
        let mut others: Vec<Machine> = others.into_iter().map(Machine::of).collect();
        others.sort_by(|one, other| one.name.cmp(&other.name));
        first.into_iter().map(Machine::of).chain(others).collect()
    }

    pub(super) fn leader_text(&self) -> Answer {
        let leader = self.leader().ok_or_else(|| Error::new(DURING_ELECTION, ""))?;
        Ok(text(leader.peer_url))
    }

    pub(super) fn machines_text(&self) -> Response<Body> {
        let machines = self.machines().into_iter().map(|machine| machine.client_url);
        text(machines.filter(|url| !url.is_empty()).collect::<Vec<_>>().join(", "))
    }
}
