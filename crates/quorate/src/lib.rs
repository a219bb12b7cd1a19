//! Quorate: a Raft-replicated store that existing clients talk to unchanged, and that a Rust program can embed.

#![forbid(unsafe_code)]

mod cluster;
mod config;
mod server;
mod tls;
mod url;

pub use cluster::{ClusterError, Founder};
pub use config::{ClientLimits, Config, ConfigError, InitialState, Plan, Storage};
pub use quorate_faces::etcd3::AutoCompaction;
pub use quorate_member::{Handle, RequestError};
pub use quorate_tls::{Settings as TlsSettings, TlsError, Version as TlsVersion, Versions as TlsVersions};
pub use server::{MemberStopped, Server, StartError};
pub use url::{Url, UrlError};
