//! Reads what a stopped etcd left in its data folder: the tree of 0.4, and that of the v2 API of 2.x and 3.x.
//!
//! [`read`] finds out which of them a folder is of, loads its newest snapshot, does what the log says beyond that as
//! that etcd would have done it, and gives the tree as it stands then: every node with the indexes that created and
//! modified it and the moment at which it expires, and the index of the last change.
//!
//! Invariants: nothing in the folder is changed; what is read was checked first wherever the format has a checksum; bytes
//! that make no sense are an error with file and offset, never a panic, and are never passed over, but for what a crash
//! may leave at the end of a log.

#![forbid(unsafe_code)]

mod error;
mod etcd04;
mod etcd2;
mod json;
mod moment;
mod replay;

use std::path::Path;

pub use error::{Error, Fault};

/// A node of the tree, as clients know its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Starts with a slash; never the root.
    pub path: Vec<u8>,
    /// `None`: a directory.
    pub value: Option<Vec<u8>>,
    pub created: u64,
    pub modified: u64,
    /// Nanoseconds since 1970.
    pub expires: Option<u64>,
}

/// The etcd that a folder is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0.3 and 0.4.
    V04,
    /// 2.x, and 3.x with what its v2 API wrote.
    V2,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V04 => "etcd 0.4",
            Self::V2 => "etcd 2 or 3",
        })
    }
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Source {
    pub kind: Kind,
    /// In the order of paths: each after the directory that it is in. What the cluster noted of its own members is not
    /// among them.
    pub nodes: Vec<Node>,
    /// That of the last change.
    pub index: u64,
    pub log: Log,
    /// What a person should know of what was passed over, a sentence each.
    pub notes: Vec<String>,
}

/// How far the log went: of several machines' folders, the one with the greatest term, then index, has everything that
/// was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The log index that the snapshot stands for; 0: there was none.
    pub snapshot: u64,
    /// Of the last entry.
    pub term: u64,
    pub index: u64,
    /// How far the machine had noted entries as committed. What follows was taken, too: it may have been acknowledged.
    pub committed: u64,
}

/// Reads the data folder of a stopped etcd. `wal` is where the log is, if it was kept elsewhere (2.x, 3.x).
pub fn read(folder: &Path, wal: Option<&Path>) -> Result<Source, Error> {
    let is_there = |name: &str| folder.join(name).exists();
    if is_there("protocol") || is_there("store-1") {
        return Err(Error::OwnFolder { folder: folder.to_owned() });
    }
    let with_member = folder.join("member");
    if with_member.is_dir() {
        return etcd2::read(&with_member, wal);
    }
    if wal.is_some() || folder.join("wal").is_dir() || folder.join("snap").is_dir() {
        return etcd2::read(folder, wal);
    }
    if is_there("log") || folder.join("snapshot").is_dir() {
        return etcd04::read(folder);
    }
    Err(Error::NoData { folder: folder.to_owned() })
}
