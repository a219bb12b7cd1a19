//! What the log says about a peer's connections: one line when the peer is reached, lost or not to be had, not one for
//! each lane and each try.
//!
//! Invariant: two lines in a row about one peer never say the same.

use std::sync::{Mutex, PoisonError};

use crate::membership::Member;

/// What was said last.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Connected,
    Lost,
    /// Not to be had, for this reason.
    Failed(String),
}

/// The news of one peer, told by all its lanes.
#[derive(Debug)]
pub struct Reachability {
    peer: Member,
    said: Mutex<Said>,
}

impl Reachability {
    pub fn new(peer: Member) -> Self {
        Self { peer, said: Mutex::new(Said::Nothing) }
    }

    pub fn connected(&self) {
        if self.changes_to(Said::Connected) {
            tracing::info!(peer = %self.peer.id, name = self.peer.name, "connected to a peer");
        }
    }

    pub fn lost(&self) {
        if self.changes_to(Said::Lost) {
            tracing::info!(peer = %self.peer.id, name = self.peer.name, "lost the connection to a peer");
        }
    }

    /// A try failed. A peer that is just not there (`absent`) is news only if it never was.
    pub fn failed(&self, error: &str, absent: bool) {
        if absent && matches!(*self.said(), Said::Connected | Said::Lost) {
            return;
        }
        if !self.changes_to(Said::Failed(error.to_owned())) {
            return;
        }
        let Member { id, name, peer_urls, .. } = &self.peer;
        if absent {
            tracing::info!(peer = %id, name, urls = ?peer_urls, error, "no connection to a peer yet");
        } else {
            tracing::warn!(peer = %id, name, urls = ?peer_urls, error, "no connection to a peer");
        }
    }

    fn changes_to(&self, said: Said) -> bool {
        let mut last = self.said();
        let changes = *last != said;
        *last = said;
        changes
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
