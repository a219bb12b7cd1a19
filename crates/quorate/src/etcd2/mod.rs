//! A member as etcd 0.4 starts one: it founds a cluster, joins one through whichever peer answers, or finds one through
//! a discovery service, and it is known in the tree under `/_etcd/machines`.

mod addresses;
mod beside;
mod config;
mod discovery;
mod machines;
mod marker;
mod server;
mod web;

pub use addresses::AddressError;
pub use beside::Beside;
pub use config::{Config, ConfigError, TlsFiles};
pub use discovery::DiscoveryError;
pub use marker::{Marker, MarkerError};
pub use quorate_faces::etcd2::peer::ClusterSettings;
pub(crate) use server::PROTOCOL;
pub use server::{Ended, Server, StartError, wipe};
pub use web::WebError;
