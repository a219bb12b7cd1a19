//! What fuzzers run: every decoder that takes bytes from a disk, a peer, a client or a settings file, as a plain
//! function from bytes to [`Outcome`].
//!
//! What each function holds the code to, whatever the bytes are: it does not panic, its memory and time are bounded by
//! the input's length, and what it decodes encodes to something that decodes to the same. A broken promise is a panic.
//!
//! `fuzz/fuzz_targets` runs them under libFuzzer; `tests/corpus.rs` runs each file of `fuzz/corpus` and thousands of
//! mutations of it with the other tests.

#![forbid(unsafe_code)]

mod clients;
mod entries;
mod files;
mod folder;
mod migration;
pub mod mutate;
mod peers;
mod settings;
mod snapshots;

pub use clients::{balsa_request, etcd2_request, etcd3_json, etcd3_request};
pub use entries::log_entry;
pub use files::{store_open, wal_recovery};
pub use migration::etcd_folder;
pub use peers::{peer_frame, raft_message};
pub use settings::settings;
pub use snapshots::snapshot_restore;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It made sense; what it means was looked at, too.
    Taken,
    /// It was refused with an error.
    Refused,
}

impl Outcome {
    fn taken_if(taken: bool) -> Self {
        if taken { Self::Taken } else { Self::Refused }
    }
}

/// One function to run on bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Of its corpus folder and of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    pub run: fn(&[u8]) -> Outcome,
    /// Named inputs that make sense, made with the encoders: what the corpus starts from.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
    /// Mutations of each corpus file that the tests run: fewer where one run takes long.
    pub mutations: u32,
}

/// All targets.
pub const TARGETS: [Target; 12] = [
    Target { name: "wal_recovery", run: wal_recovery, seeds: files::wal_seeds, mutations: 2000 },
    Target { name: "store_open", run: store_open, seeds: files::store_seeds, mutations: 2000 },
    Target { name: "snapshot_restore", run: snapshot_restore, seeds: snapshots::seeds, mutations: 2000 },
    Target { name: "etcd_folder", run: etcd_folder, seeds: migration::seeds, mutations: 1000 },
    Target { name: "peer_frame", run: peer_frame, seeds: peers::frame_seeds, mutations: 4000 },
    Target { name: "raft_message", run: raft_message, seeds: peers::raft_seeds, mutations: 4000 },
    Target { name: "log_entry", run: log_entry, seeds: entries::seeds, mutations: 4000 },
    Target { name: "etcd3_request", run: etcd3_request, seeds: clients::etcd3_seeds, mutations: 4000 },
    Target { name: "etcd3_json", run: etcd3_json, seeds: clients::json_seeds, mutations: 4000 },
    Target { name: "etcd2_request", run: etcd2_request, seeds: clients::etcd2_seeds, mutations: 4000 },
    Target { name: "balsa_request", run: balsa_request, seeds: clients::balsa_seeds, mutations: 4000 },
    Target { name: "settings", run: settings, seeds: settings::seeds, mutations: 2000 },
];
