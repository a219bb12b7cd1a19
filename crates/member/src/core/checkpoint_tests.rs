use quorate_disk::{Disk, MemoryDisk};
use quorate_ids::{ClusterId, Incarnation, MemberId, Term};
use quorate_store::{CheckpointMeta, Identity, Owners, StoreConfig, TableId, Unpaced};

use super::*;

const PIECE_BYTES: u64 = 1 << 20;
const PIECES: u64 = 3;

/// A checkpoint of a body of so many bytes.
fn checkpoint_of(store: &Store, body_bytes: usize) -> CheckpointInput {
    let point = SnapshotPoint { index: LogIndex(1), term: Term(1) };
    let mut tables = store.write();
    tables.begin(point.index);
    let body =
        tables.append(Owners { first: (TableId(0x10), b"key"), second: None }, &[&vec![7; body_bytes]]);
    tables.put(TableId(0x10), b"key", b"row", Some(body));
    let meta = CheckpointMeta { applied_index: point.index, applied_term: point.term, ..Default::default() };
    let frozen = tables.freeze(meta).expect("no front is frozen");
    CheckpointInput { frozen, point, membership: Membership::default() }
}

#[test]
fn on_a_full_disk_a_checkpoint_may_take_all_of_the_reserve() {
    let small = MemoryDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(small.clone());
    let identity = Identity { cluster: ClusterId(7), member: MemberId(1), incarnation: Incarnation(1) };
    let store = Store::create(disk.clone(), StoreConfig::default(), identity, 1).expect("a new store");
    let reserve = Reserve::open(disk.clone(), PIECES * PIECE_BYTES, PIECE_BYTES);
    small.set_capacity(u64::MAX);
    let used = u64::MAX - disk.free_bytes().expect("it says");
    small.set_capacity(used);
    // It frees the log, which the last piece would take no further than to its next segment.
    let input = checkpoint_of(&store, ((PIECES - 1) * PIECE_BYTES + PIECE_BYTES / 2) as usize);
    let mut stage = CheckpointStage::new(store, reserve.clone(), reserve.clone());
    let written = stage.step(input, &mut Unpaced);
    assert!(matches!(written, CheckpointOutput::Durable { .. }), "{written:?}");
    assert!(!reserve.give(), "all of it is given free");
    assert!(!stage.is_stuck());
}
