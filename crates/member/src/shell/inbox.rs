//! A bounded queue into a stage's thread. Handing over costs one lock; the thread takes everything at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module.
pub struct Inbox<T> {
    queue: Mutex<VecDeque<T>>,
    arrived: Condvar,
    bound: usize,
}

impl<T> Inbox<T> {
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { queue: Mutex::new(VecDeque::new()), arrived: Condvar::new(), bound }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `item` in, unless the queue is full.
    pub fn push(&self, item: T) -> Result<(), Full> {
        let mut queue = self.lock();
        if queue.len() >= self.bound {
            return Err(Full);
        }
        let was_empty = queue.is_empty();
        queue.push_back(item);
        drop(queue);
        if was_empty {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// As [`Self::push`], giving the item back where the queue is full.
    pub fn offer(&self, item: T) -> Result<(), T> {
        if self.lock().len() >= self.bound {
            return Err(item);
        }
        self.report(item);
        Ok(())
    }

    /// Puts `item` in whatever the length: for reports whose number is bounded by what they report on.
    pub fn report(&self, item: T) {
        let mut queue = self.lock();
        let was_empty = queue.is_empty();
        queue.push_back(item);
        drop(queue);
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Moves everything into `into`; waits at most `patience` for the first item.
    pub fn take(&self, into: &mut Vec<T>, patience: Duration) {
        let mut queue = self.lock();
        if queue.is_empty() && !patience.is_zero() {
            let waited = self.arrived.wait_timeout_while(queue, patience, |queue| queue.is_empty());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        into.extend(queue.drain(..));
    }
}
