//! Bytes and time: fills a store with keys of 16 bytes and bodies of 256, checkpoints it on a real disk, merges its
//! runs, and opens it again.
//!
//! `cargo run --profile checked -p quorate-store --example store_open -- [keys] [folder]`

#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_disk::{Disk, RealDisk};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId};
use quorate_store::{
    CheckpointMeta, Identity, MergeStep, Owners, Store, StoreConfig, TableId, Unpaced, generation_folder,
};

const KEYS: TableId = TableId(0x10);

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Time on a processor of this thread: on a busy machine the clock on the wall says little.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn checkpoint(store: &Store, index: u64) {
    let meta = CheckpointMeta { applied_index: LogIndex(index), ..CheckpointMeta::default() };
    let frozen = store.write().freeze(meta).expect("no front is frozen");
    store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let keys: u64 = arguments.next().map_or(1_000_000, |keys| keys.parse().expect("a number of keys"));
    let folder = arguments.next().map_or_else(|| tempfile::tempdir().expect("a folder").keep(), Into::into);
    let disk = Arc::new(RealDisk::new(&folder).expect("a folder"));
    let identity = Identity { cluster: ClusterId(1), member: MemberId(1), incarnation: Incarnation(1) };
    let config = StoreConfig::default();
    let store = Store::create(disk.clone(), config.clone(), identity, 0).expect("an empty folder");

    let started = Instant::now();
    for n in 0..keys {
        // A row as the keys model's: two revisions, a version.
        let key = format!("key/{:012x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16);
        {
            let mut tables = store.write();
            tables.begin(LogIndex(n + 1));
            let owners = Owners { first: (KEYS, key.as_bytes()), second: None };
            let at = tables.append(owners, &[&[n as u8; 256]]);
            tables.put(KEYS, key.as_bytes(), &(n as u32).to_le_bytes(), Some(at));
        }
        if n % 64 == 0 && store.read().wants_freeze() {
            checkpoint(&store, n + 1);
        }
    }
    checkpoint(&store, keys);
    println!("filled in {:?}, {:?} of it on a processor", started.elapsed(), processor_time());
    let merging = Instant::now();
    let before = store.runs();
    while store.merge_step(100_000, &mut Unpaced).expect("a merge") != MergeStep::Idle {}
    println!("merged {before} runs to {} in {:?}", store.runs(), merging.elapsed());
    let index = store.read().index_bytes(KEYS) as u64;
    println!("index: {} bytes a key", index / keys.max(1));
    drop(store);

    let files = disk.list(&generation_folder(0)).expect("a listing");
    let runs: u64 = files.iter().filter(|file| file.path.contains("run-")).map(|file| file.len).sum();
    println!("runs: {} bytes a key on disk", runs / keys.max(1));
    let before = resident_bytes();
    let (opening, processor) = (Instant::now(), processor_time());
    let (store, _) = Store::open(disk, config, identity, 0).expect("an open");
    let (wall, processor) = (opening.elapsed(), processor_time() - processor);
    println!("opened {} keys in {wall:?}, {processor:?} of it on a processor", store.read().len(KEYS));
    println!("index after the open: {} bytes a key", store.read().index_bytes(KEYS) as u64 / keys.max(1));
    println!("resident: {} bytes more than before the open", resident_bytes().saturating_sub(before));
    std::fs::remove_dir_all(&folder).expect("its own folder");
}
