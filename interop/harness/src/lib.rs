//! Real `quorate` processes for tests: started on free ports with folders of their own, killed, stopped, restarted.
//!
//! Invariant: a process that was started here is dead when its [`Process`] is dropped.

#![forbid(unsafe_code)]

mod ca;
mod cluster;
mod http;
mod machine;
mod ports;
mod process;
mod slow;

pub use ca::Ca;
pub use cluster::{Cluster, Home, Member};
pub use http::{get as http_get, get_within as http_get_within, send as http_send};
pub use machine::Machine;
pub use ports::{free_port, free_ports};
pub use process::{Process, WAIT_MAX, wait_until};
pub use slow::SlowWay;
