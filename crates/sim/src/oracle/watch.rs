//! What a watcher was given, against the history.

use quorate_ids::Revision;
use quorate_models::keys::{Event, RangeEnd};

use bytes::Bytes;

use super::{Checked, Oracle, ensure};

/// One watch over its whole life, across reconnects: it has seen everything before `next`, once and in order.
#[derive(Clone, Debug)]
pub struct Watched {
    pub key: Bytes,
    pub end: RangeEnd,
    pub next: Revision,
}

impl Watched {
    /// Whether this watch is about the event's key.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let key = &event.kv.key;
        match &self.end {
            RangeEnd::Single => *key == self.key,
            RangeEnd::Before(end) => *key >= self.key && key < end,
            RangeEnd::Unbounded => *key >= self.key,
        }
    }

    /// The watcher was given `events`, and told that it now has everything through `through`.
    pub fn given(&mut self, oracle: &mut Oracle, events: &[Event], through: Revision) -> Checked {
        ensure!(
            through.0 <= oracle.reference().revision(),
            "a watch shows revision {through}, which is not committed"
        );
        let mut got = events.iter();
        for revision in self.next.0..=through.0 {
            for expected in oracle.events_at(revision).iter().filter(|event| self.wants(event)) {
                let Some(event) = got.next() else {
                    return Err(super::Violation(format!("a watch from {} missed {expected:?}", self.next)));
                };
                let same = event.kind == expected.kind && event.kv == expected.kv;
                ensure!(
                    same,
                    "a watch from {} was given\n  {event:?}\nwhere the history has\n  {expected:?}",
                    self.next
                );
                let previous = event.previous.is_none() || event.previous == expected.previous;
                ensure!(
                    previous,
                    "a watch was given {event:?} with a wrong previous version; it was {:?}",
                    expected.previous
                );
            }
        }
        if let Some(extra) = got.next() {
            return Err(super::Violation(format!("a watch from {} was given {extra:?} too much", self.next)));
        }
        oracle.counts.watch_events += events.len() as u64;
        self.next = self.next.max(through.next());
        Ok(())
    }
}
