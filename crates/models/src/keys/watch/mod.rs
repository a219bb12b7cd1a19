//! Who is told of changes: the shared memory of recent revisions, and the watchers of one thread.

mod feed;

pub(super) use feed::event_bytes;
pub use feed::{REVISION_EVENTS_BYTES_MAX, RevisionEvents};
