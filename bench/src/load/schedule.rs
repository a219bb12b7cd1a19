//! When the requests of an open loop are due: at a fixed interval, whatever becomes of them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// The due times of one thread's requests.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    first: Instant,
    end: Instant,
    requests_per_second: f64,
}

impl Schedule {
    /// Due times from `start` on and before `end`. `phase` shifts all by a share of the interval.
    pub fn new(start: Instant, end: Instant, requests_per_second: f64, phase: f64) -> Self {
        Self { first: start + Duration::from_secs_f64(phase / requests_per_second), end, requests_per_second }
    }

    /// All due times in order. Each is computed from the first, so that no error adds up.
    pub fn due_times(self) -> impl Iterator<Item = Instant> {
        #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^53 requests")]
        (0_u64..)
            .map(move |number| self.first + Duration::from_secs_f64(number as f64 / self.requests_per_second))
            .take_while(move |&due| due < self.end)
    }

    /// How many are due from `start` on and before `end`.
    pub fn due_in(self, start: Instant, end: Instant) -> u64 {
        self.due_times().filter(|due| (start..end).contains(due)).count() as u64
    }

    /// Sends each due time when it has come; ends when nobody listens any more. Blocks its thread.
    pub fn send_on_time(self, sender: &mpsc::Sender<Instant>) {
        for due in self.due_times() {
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            if sender.blocking_send(due).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_keep_the_rate_and_do_not_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, start + Duration::from_secs(10), 3000.0, 0.0);
        let times: Vec<_> = schedule.due_times().collect();
        assert_eq!(times.len(), 30_000);
        let last = times[29_997].duration_since(start).as_secs_f64();
        assert!((last - 9.999).abs() < 1e-6, "{last}");
        assert_eq!(schedule.due_in(start + Duration::from_secs(9), start + Duration::from_secs(10)), 3000);
    }

    #[test]
    fn threads_take_turns() {
        let start = Instant::now();
        let of = |phase| Schedule::new(start, start + Duration::from_secs(1), 10.0, phase);
        let first = |phase| of(phase).due_times().next().expect("ten are due").duration_since(start);
        assert_eq!((first(0.0), first(0.5)), (Duration::ZERO, Duration::from_millis(50)));
    }
}
