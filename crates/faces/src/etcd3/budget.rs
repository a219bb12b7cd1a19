//! The memory that answers hold, of all clients together.
//!
//! Only answers that are put together before they are sent count: large ranges go piece by piece and hold next to
//! nothing. Invariant: what is taken never exceeds the bound, and comes back when its [`Taken`] is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::errors::{Code, Status};

/// Smaller answers cost no accounting.
pub const FREE_BYTES: usize = 64 * 1024;

pub struct Budget {
    bytes_max: usize,
    bytes: Arc<AtomicUsize>,
}

/// Bytes taken from the budget.
#[derive(Debug)]
pub struct Taken {
    taken: usize,
    bytes: Arc<AtomicUsize>,
}

impl Budget {
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Arc::default() }
    }

    /// Takes memory for an answer of `bytes`; refused where all answers together would have too much.
    pub fn take(&self, bytes: usize) -> Result<Taken, Status> {
        let taken = if bytes <= FREE_BYTES { 0 } else { bytes };
        let add = |now: usize| now.checked_add(taken).filter(|sum| *sum <= self.bytes_max);
        if taken > 0 && self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            let max = self.bytes_max;
            return Err(Status::with(
                Code::ResourceExhausted,
                format!(
                    "etcdserver: the answer of {bytes} bytes does not fit the memory for answers of {max} bytes; \
                     ask for less, or again later"
                ),
            ));
        }
        Ok(Taken { taken, bytes: Arc::clone(&self.bytes) })
    }
}

impl Budget {
    /// Takes memory for the answer to a change that was made already.
    pub fn take_for_change(&self, bytes: usize) -> Result<Taken, Status> {
        self.take(bytes).map_err(|Status { code, message }| {
            let text = message.trim_start_matches("etcdserver: ");
            Status::with(code, format!("etcdserver: the change was made, but {text}"))
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_never_exceeds_the_bound() {
        let budget = Budget::new(300_000);
        let first = budget.take(200_000).expect("there is room");
        assert_eq!(budget.take(200_000).expect_err("too much").code, Code::ResourceExhausted);
        let small = budget.take(FREE_BYTES).expect("small ones always fit");
        drop(first);
        let again = budget.take(300_000).expect("all of it is back");
        drop((small, again));
        assert!(budget.take(usize::MAX).is_err());
    }
}
