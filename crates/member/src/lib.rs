//! One cluster member: the loop that ties log, consensus, store and models, its peers, and what faces may use of it.
//!
//! `core` has the stages as plain structs without a runtime; `shell` gives each a thread and moves bytes. Faces and
//! embedding programs hold a [`Handle`].

pub mod config;
pub mod core;
pub mod envelope;
pub mod frame;
pub mod handle;
pub mod joining;
pub mod membership;
pub mod metrics;
mod shell;

pub use config::{Config, InitialState, JoinConfig, PeerTls};
pub use core::LeaseAnswer;
pub use handle::{Applied, Handle, Identity, MembershipRefusal, ModelReply, RequestError, Status, Visible};
pub use joining::{AbsorbRefusal, Admitted, JoinError, JoinRefusal, Newcomer};
pub use membership::{Member, MemberList, MembershipRequest};
pub use metrics::Metrics;
pub use shell::{HttpConnection, PeerBook, PeerHttp, Running, StartError, Stopped, has_data, start};
