//! The thin shell of threads around the stages: it moves inputs and outputs, and knows the time.
//!
//! Threads of a member: `quorate-log` (the log loop), `quorate-wal` (the log writer), `quorate-apply`,
//! `quorate-store` (checkpoints), `quorate-urgent` (checkpoints, while the other one would be too slow), `quorate-xfer` (snapshots to and from peers), `quorate-peers` (TCP), and a few
//! `quorate-read` for cold bodies. A panic in one of them fails this member and nothing else.
//! They log to where the thread that started the member does.

mod background;
mod folder_lock;
mod inbox;
mod joiner;
mod log;
mod peer_http;
mod pool;
mod pressure;
mod reachability;
mod running;
mod start;
mod threads;
mod transport;
mod urls;

pub(crate) use inbox::{Full, Inbox};
pub use log::with_callers_log;
pub use peer_http::{HttpConnection, PeerHttp};
pub(crate) use pool::Pool;
pub use running::{Running, Stopped};
pub use start::{StartError, has_data, start};
pub(crate) use transport::ask;
