//! How often a transaction is tried, and how long it waits in between.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// When a transaction whose keys were changed by others is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; at least one is made.
    pub attempts_max: u32,
    /// After this time no attempt begins any more. One that runs is not cut off: its outcome would be unknown.
    pub deadline: Duration,
    /// The longest wait before the second attempt; it doubles from attempt to attempt.
    pub backoff_min: Duration,
    /// The longest wait before any attempt.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    /// 100 attempts within 10 s, waits from 5 to 500 ms.
    fn default() -> Self {
        Self {
            attempts_max: 100,
            deadline: Duration::from_secs(10),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(500),
        }
    }
}

impl RetryPolicy {
    /// One attempt: a transaction whose keys were changed by others fails at once.
    #[must_use]
    pub fn once() -> Self {
        Self { attempts_max: 1, ..Self::default() }
    }

    /// So many attempts.
    #[must_use]
    pub fn attempts(mut self, max: u32) -> Self {
        self.attempts_max = max;
        self
    }

    /// No new attempt after this time.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = after;
        self
    }

    /// Waits up to `min` before the second attempt, twice as long before each further one, and never longer than `max`.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max.max(min));
        self
    }

    /// The wait after so many attempts: a random part of the longest one, so that those who collided part.
    pub(crate) fn pause(&self, attempts: u32) -> Duration {
        let doubled = self.backoff_min.saturating_mul(1_u32.checked_shl(attempts - 1).unwrap_or(u32::MAX));
        let longest = doubled.min(self.backoff_max);
        // The standard library's hasher keys come from the operating system's generator.
        let random = RandomState::new().build_hasher().finish();
        longest.mul_f64(0.5 + (random >> 11) as f64 / (1_u64 << 54) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_differ() {
        let policy = RetryPolicy::default().backoff(Duration::from_millis(4), Duration::from_millis(100));
        let seen: Vec<Duration> = (1..40).map(|attempts| policy.pause(attempts)).collect();
        assert!(seen[0] >= Duration::from_millis(2) && seen[0] <= Duration::from_millis(4), "{seen:?}");
        assert!(seen[20..].iter().all(|pause| *pause >= Duration::from_millis(50)), "{seen:?}");
        assert!(seen.iter().all(|pause| *pause <= Duration::from_millis(100)), "{seen:?}");
        assert!(seen[20..].iter().any(|pause| *pause != seen[20]), "{seen:?}");
    }
}
