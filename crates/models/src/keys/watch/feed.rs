//! The events of recent revisions, held once for all watchers.

use quorate_ids::Revision;

use crate::keys::reply::{Event, Value};

/// Events of one revision beyond this many bytes are not held in memory: watchers read them from HISTORY.
pub const REVISION_EVENTS_BYTES_MAX: usize = 4 << 20;

/// What one revision changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionEvents {
    pub revision: Revision,
    /// In the order of the changes. `None`: too many for memory; [`crate::keys::history_slice`] has them.
    pub events: Option<Vec<Event>>,
    /// False for a part of a revision, which [`crate::keys::history_slice`] goes on with.
    pub complete: bool,
}

impl RevisionEvents {
    pub(in crate::keys) fn new(revision: Revision, events: Option<Vec<Event>>) -> Self {
        Self { revision, events, complete: true }
    }
}

/// What an event holds in memory, about.
pub(in crate::keys) fn event_bytes(event: &Event) -> usize {
    let value = if let Value::Here(value) = &event.kv.value { value.len() } else { 0 };
    size_of::<Event>() + event.kv.key.len() + value
}
