//! Quorate: a Raft-replicated store that existing clients talk to unchanged, and that a Rust program can embed.
//!
//! [`Server`] starts a member inside a program: settings are checked, data is opened, ports are bound, and a bounded
//! number of threads of its own does the work. It never uses the host's runtime, and never ends the process. Several
//! members can live in one process.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use quorate::client::{Keys, RangeOptions, WatchOptions};
//!
//! let config = quorate::Config::new("m1")
//!     .memory_only()
//!     .listen_client_urls(["http://127.0.0.1:0"])
//!     .listen_peer_urls(["http://127.0.0.1:0"]);
//! let server = quorate::Server::start(config)?;
//! server.ready().await?;
//!
//! let client = server.client();
//! let mut watch = client.watch(Keys::prefix("color/"), WatchOptions::new()).await?;
//! client.put("color/sky", "blue").await?;
//! let seen = watch.next().await.expect("the watch stands")?;
//! assert_eq!(seen.events[0].kv.value, "blue");
//! let all = client.range(Keys::prefix("color/"), RangeOptions::new()).await?;
//! assert_eq!(all.count, 1);
//! server.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! [`Server::client`] speaks to the member without a socket. [`Client::new`] speaks to members anywhere: with Quorate,
//! and with anything else that speaks etcd v3. It stays with one member until that fails and then moves on; its watches
//! go on elsewhere without a gap.
//!
//! `examples/embedded.rs` and `examples/three_members.rs` are whole programs.

#![forbid(unsafe_code)]

pub mod balsa;
mod cluster;
mod config;
pub mod etcd2;
mod keeper;
mod log_file;
pub mod logging;
pub mod migrate;
mod plan;
mod server;
pub mod snet;
mod tls;
mod url;

pub use cluster::{ClusterError, Founder};
pub use config::{ClientLimits, Config, InitialState, Storage};
pub use plan::{ConfigError, Plan};
/// The client: requests, watches, leases, locks and elections.
pub use quorate_client as client;
pub use quorate_client::Client;
pub use quorate_faces::etcd3::AutoCompaction;
pub use quorate_member::joining::{Admitted, JoinError, JoinRefusal};
pub use quorate_member::{Handle, JoinConfig, RequestError};
pub use quorate_storage as storage;
pub use quorate_tls::{Settings as TlsSettings, TlsError, Version as TlsVersion, Versions as TlsVersions};
pub use server::{MemberStopped, Server, StartError};
pub use url::{Url, UrlError};
