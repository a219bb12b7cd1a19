//! The log as its owner sees it, on disks of every temper.

mod basics;
mod fault_disk;
mod model;
