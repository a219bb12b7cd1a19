//! Requests that are under way while a member stops: those that need a leader have an end where there is none.
//!
//! A member is asked to stop, closes its ports and lets what is under way finish. The last of a cluster's members to stop
//! has no majority any more: what needs one would be waited for until it times out, for nothing.

use std::time::{Duration, Instant};

use crate::handle::Handle;

/// Watches over them from when a stop began.
pub struct LastRequests {
    handle: Handle,
    /// Since when no leader is known.
    alone_since: Option<Instant>,
    patience: Duration,
}

impl LastRequests {
    pub(crate) fn new(handle: Handle) -> Self {
        // Others may elect one meanwhile.
        let patience = handle.shared.election_timeout;
        Self { handle, alone_since: None, patience }
    }

    /// To be called again and again while requests are waited for. Once no leader has been known for an election timeout,
    /// whatever waits for one is told that the member stopped.
    pub fn look(&mut self) {
        if self.handle.status().leader.is_some() {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.patience {
            self.handle.shared.give_up_waiting("the member stopped");
        }
    }
}
