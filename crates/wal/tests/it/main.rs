//! The log as its owner sees it, on disks of every temper.

#![allow(clippy::disallowed_methods, reason = "tests are a shell of their own")]

mod basics;
mod crashes;
mod damage;
mod fault_disk;
mod full_disk;
mod model;
