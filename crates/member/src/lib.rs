//! One cluster member: the loop that ties log, consensus, store and models, its peers, and what faces may use of it.
//!
//! `core` has the stages as plain structs without a runtime; `shell` gives each a thread and moves bytes. Faces and
//! embedding programs hold a [`Handle`].

pub mod config;
pub mod core;
pub mod envelope;
pub mod event;
pub mod frame;
pub mod handle;
pub mod joining;
pub mod kinds;
mod last_requests;
mod log_view;
pub mod membership;
pub mod metrics;
mod shell;
mod statistics;

pub use config::{Config, InitialState, JoinConfig, PeerTls};
pub use core::{LeaseAnswer, PeerBook};
pub use event::{Event, Events, Observer, observer};
pub use handle::{Applied, Handle, Identity, MembershipRefusal, ModelReply, RequestError, Status, Visible};
pub use joining::{AbsorbRefusal, Admitted, JoinError, JoinRefusal, Newcomer};
pub use last_requests::LastRequests;
pub use log_view::{LogContent, LogEntry, LogView};
pub use membership::{Member, MemberList, MembershipRequest};
pub use metrics::Metrics;
pub use quorate_disk::MemoryDisk;
pub use shell::{HttpConnection, PeerHttp, Running, StartError, Stopped, has_data, start, with_callers_log};
pub use statistics::{AppendStatistics, Flow, FollowerStatistics, Latency, Rate, Statistics};
