//! Lines of the log that would come too often.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);

/// Lets one of many lines through, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// `Some` where a line may be written now: how many were not since the last one.
    pub(super) fn line(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}
