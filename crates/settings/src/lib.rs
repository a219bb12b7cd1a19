//! What people write down for a member: command lines, environment variables and files, read and checked.
//!
//! One module for each mode of the `quorate` binary: [`server`] with etcd's flags, [`etcd2`] with those of etcd 0.4,
//! [`balsa`] with its variables. Each ends in the settings that the crate `quorate` starts from. Nothing is opened,
//! logged or printed here, and of files only those are read that hold settings.
//!
//! Invariant: whatever is written down gets an answer in words: a setting takes effect, is refused by its name, or a
//! [`Notice`] says that it has no meaning here.

#![forbid(unsafe_code)]

pub mod balsa;
pub mod etcd2;
mod go_flags;
mod go_values;
mod notice;
pub mod server;

pub use go_flags::ReadError;
pub use notice::{Notice, Severity};
