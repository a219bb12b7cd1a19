//! A bounded queue into a stage's thread. Handing over costs one lock; the thread takes everything at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module.
pub struct Inbox<T> {
    queue: Mutex<Queue<T>>,
    arrived: Condvar,
    bound: usize,
}

struct Queue<T> {
    items: VecDeque<T>,
    /// Something arrived since the last take that the thread is to be woken for.
    pressing: bool,
}

impl<T> Inbox<T> {
    #[must_use]
    pub fn new(bound: usize) -> Self {
        let queue = Queue { items: VecDeque::new(), pressing: false };
        Self { queue: Mutex::new(queue), arrived: Condvar::new(), bound }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `item` in, unless the queue is full.
    pub fn push(&self, item: T) -> Result<(), Full> {
        self.offer(item).map_err(|_| Full)
    }

    /// As [`Self::push`], giving the item back where the queue is full.
    pub fn offer(&self, item: T) -> Result<(), T> {
        let queue = self.lock();
        if queue.items.len() >= self.bound {
            return Err(item);
        }
        self.put(queue, item);
        Ok(())
    }

    /// Puts `item` in whatever the length: for reports whose number is bounded by what they report on.
    pub fn report(&self, item: T) {
        self.put(self.lock(), item);
    }

    /// As [`Self::report`], for what can wait until the thread wakes up for something else, or by itself: a wake-up
    /// costs more than most of what is reported.
    pub fn report_at_leisure(&self, item: T) {
        self.lock().items.push_back(item);
    }

    fn put(&self, mut queue: MutexGuard<'_, Queue<T>>, item: T) {
        queue.items.push_back(item);
        let wakes = !std::mem::replace(&mut queue.pressing, true);
        drop(queue);
        if wakes {
            self.arrived.notify_one();
        }
    }

    /// Moves everything into `into`; waits at most `patience` for something pressing.
    pub fn take(&self, into: &mut Vec<T>, patience: Duration) {
        let mut queue = self.lock();
        if !queue.pressing && !patience.is_zero() {
            let waited = self.arrived.wait_timeout_while(queue, patience, |queue| !queue.pressing);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.pressing = false;
        into.extend(queue.items.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn taken(inbox: &Inbox<u32>, patience: Duration) -> Vec<u32> {
        let mut items = Vec::new();
        inbox.take(&mut items, patience);
        items
    }

    #[test]
    fn what_is_reported_at_leisure_wakes_nobody_and_comes_in_its_order() {
        let inbox = Arc::new(Inbox::new(8));
        let (started, waits) = std::sync::mpsc::channel();
        let taker = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                started.send(()).expect("somebody waits for that");
                taken(&inbox, LONG)
            }
        });
        waits.recv().expect("the thread runs");
        inbox.report_at_leisure(1);
        inbox.report_at_leisure(2);
        inbox.report(3);
        assert_eq!(taker.join().expect("no panic"), [1, 2, 3]);
        inbox.report_at_leisure(4);
        assert_eq!(taken(&inbox, Duration::from_millis(1)), [4], "the patience is over");
    }

    #[test]
    fn a_queue_that_is_full_takes_reports_alone() {
        let inbox = Inbox::new(2);
        assert_eq!((inbox.push(1), inbox.offer(2)), (Ok(()), Ok(())));
        assert_eq!((inbox.push(3), inbox.offer(4)), (Err(Full), Err(4)));
        inbox.report(5);
        assert_eq!(taken(&inbox, LONG), [1, 2, 5]);
    }
}
