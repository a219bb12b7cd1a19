//! The log as its owner sees it, on disks of every temper.

mod basics;
mod crashes;
mod damage;
mod fault_disk;
mod full_disk;
mod model;
