//! The protocols that clients speak: each turns its wire format into commands and queries of a model, and nothing
//! else.
//!
//! Invariants: only [`listener`] binds client ports; a face never blocks a net thread on a disk or a lock that is held
//! for long; no bytes from a client make it panic.

#![forbid(unsafe_code)]

pub mod balsa;
pub mod etcd2;
pub mod etcd3;
pub mod listener;
