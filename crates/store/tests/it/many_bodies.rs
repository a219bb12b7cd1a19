//! Far more bodies than memory is allowed for.

use std::sync::Arc;

use quorate_disk::RealDisk;
use quorate_ids::LogIndex;
use quorate_store::{CheckpointMeta, Owners, Store, StoreConfig, Unpaced};

use crate::support::{KEYS, identity};

const BODY_BYTES: usize = 64 * 1024;
const BODIES: u64 = 200 * 1024 * 1024 / BODY_BYTES as u64;

fn body(n: u64, pattern: &[u8]) -> [Vec<u8>; 2] {
    [n.to_le_bytes().to_vec(), pattern[n as usize % 100..][..BODY_BYTES].to_vec()]
}

#[test]
fn two_hundred_megabytes_of_bodies_lie_behind_fronts_and_cache_of_a_few() {
    let folder = tempfile::tempdir().expect("a folder");
    let config =
        StoreConfig { front_bytes_max: 16 << 20, body_cache_bytes: 16 << 20, ..StoreConfig::default() };
    let disk = Arc::new(RealDisk::new(folder.path()).expect("a disk"));
    let store = Store::create(disk.clone(), config.clone(), identity(1), 0).expect("a store");
    let pattern: Vec<u8> = (0..BODY_BYTES + 100).map(|n| (n * 7 + n / 251) as u8).collect();
    for n in 0..BODIES {
        let key = n.to_be_bytes();
        let [first, second] = body(n, &pattern);
        {
            let mut tables = store.write();
            tables.begin(LogIndex(n + 1));
            let at = tables.append(Owners { first: (KEYS, &key), second: None }, &[&first, &second]);
            tables.put(KEYS, &key, b"row", Some(at));
        }
        assert!(store.front_bytes() <= config.front_bytes_max + BODY_BYTES as u64 + 100);
        if store.read().wants_freeze() {
            let meta = CheckpointMeta { applied_index: LogIndex(n + 1), ..CheckpointMeta::default() };
            let frozen = store.write().freeze(meta).expect("a freeze");
            store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
        }
    }
    let check = |store: &Store, n: u64| {
        let at = store.read().get(KEYS, &n.to_be_bytes()).and_then(|entry| entry.body).expect("a body");
        assert_eq!(store.load(at).expect("it can be read"), body(n, &pattern).concat(), "body {n}");
    };
    (0..BODIES).step_by(13).for_each(|n| check(&store, n));
    let meta = CheckpointMeta { applied_index: LogIndex(BODIES), ..CheckpointMeta::default() };
    let frozen = store.write().freeze(meta).expect("a freeze");
    store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
    drop(store);
    let (store, opened) = Store::open(disk, config, identity(1), 0).expect("an open");
    assert_eq!(opened.meta.applied_index, LogIndex(BODIES));
    (0..BODIES).step_by(17).for_each(|n| check(&store, n));
}
