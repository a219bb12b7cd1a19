//! Who is told of changes: the shared memory of recent revisions ([`Feed`]) and the watchers of one thread
//! ([`WatchSet`]).
//!
//! How they work together: the apply stage pushes each revision's events to the feed. A thread with watchers reads the
//! feed from [`WatchSet::next_revision`] on and gives each revision to [`WatchSet::deliver`]. Where the feed answers
//! [`TooOld`], it calls [`WatchSet::skip_to`]; the watchers that missed something are then *unsynced*, and get it from
//! [`crate::keys::history_slice`] through [`WatchSet::catch_up`], at their own pace.

mod feed;
mod intervals;
mod set;

pub(super) use feed::event_bytes;
pub use feed::{FEED_BYTES_MAX_DEFAULT, Feed, REVISION_EVENTS_BYTES_MAX, RevisionEvents, TooOld};
pub use set::{Matches, WatchId, WatchSet, Watcher};
