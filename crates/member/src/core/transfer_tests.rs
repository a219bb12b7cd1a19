use std::sync::atomic::{AtomicBool, Ordering};

use quorate_disk::{MemoryDisk, Mode};
use quorate_ids::{ClusterId, Incarnation, LogIndex, Term, WallTime};
use quorate_store::{CheckpointMeta, Owners, StoreConfig, TableId, Unpaced};

use super::*;

const KEYS: TableId = TableId(0x10);
const SENDER: MemberId = MemberId(1);
const RECEIVER: MemberId = MemberId(2);
const POINT: SnapshotPoint = SnapshotPoint { index: LogIndex(1), term: Term(1) };
const SECOND: u64 = 1_000_000_000;
const RESERVE_BYTES: u64 = 3 << 20;

fn at(nanos: u64) -> Now {
    Now { monotonic: Monotonic(nanos), wall: WallTime(nanos) }
}

/// A stage over a store with a body of so many bytes.
fn stage(id: MemberId, disk: &MemoryDisk, body_bytes: usize) -> TransferStage {
    let identity = Identity { cluster: ClusterId(7), member: id, incarnation: Incarnation(id.0) };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::create(shared.clone(), StoreConfig::default(), identity, 1).expect("a new store");
    let frozen = {
        let mut tables = store.write();
        tables.begin(POINT.index);
        let body = tables.append(Owners { first: (KEYS, b"key"), second: None }, &[&vec![7; body_bytes]]);
        tables.put(KEYS, b"key", b"row", Some(body));
        let meta =
            CheckpointMeta { applied_index: POINT.index, applied_term: POINT.term, ..Default::default() };
        tables.freeze(meta).expect("no front is frozen")
    };
    store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
    let reserve = Reserve::open(shared.clone(), RESERVE_BYTES, RESERVE_BYTES / 3);
    TransferStage::new(shared, store, identity, 1, reserve)
}

/// The receiver asks and the sender answers, until neither has anything to say; what the receiver made of it.
fn fetch(receiver: &mut TransferStage, sender: &mut TransferStage, now: u64) -> Vec<TransferOutput> {
    let mut told = Vec::new();
    let mut said = receiver.step(TransferInput::Fetch { from: SENDER, point: POINT }, at(now), &mut Unpaced);
    while !said.is_empty() {
        for output in std::mem::take(&mut said) {
            let TransferOutput::Send { frame, .. } = output else {
                told.push(output);
                continue;
            };
            let answers = sender.step(TransferInput::Frame { from: RECEIVER, frame }, at(now), &mut Unpaced);
            for answer in answers {
                let TransferOutput::Send { frame, .. } = answer else { panic!("the sender: {answer:?}") };
                let input = TransferInput::Frame { from: SENDER, frame };
                said.extend(receiver.step(input, at(now), &mut Unpaced));
            }
        }
    }
    told
}

#[test]
fn a_snapshot_that_does_not_fit_is_not_begun_and_asked_for_again_after_a_while() {
    let (disk, small) = (MemoryDisk::new(), MemoryDisk::new());
    let mut sender = stage(SENDER, &disk, 6 << 20);
    let mut receiver = stage(RECEIVER, &small, 100);
    let used = u64::MAX - {
        small.set_capacity(u64::MAX);
        small.free_bytes().expect("it says")
    };
    // With two of the reserve's three pieces: the last one is not for snapshots.
    small.set_capacity(used + (3 << 20));
    let told = fetch(&mut receiver, &mut sender, SECOND);
    assert!(matches!(told[..], [TransferOutput::NoRoom { point: POINT, .. }]), "{told:?}");
    assert_eq!(
        small.free_bytes().expect("it says"),
        3 << 20,
        "nothing was written, nothing of the reserve given free"
    );
    assert!(receiver.tick(at(2 * SECOND)).is_empty(), "the sender is not told at once");
    let told = receiver.tick(at(SECOND + ROOM_AWAITED_NANOS));
    assert!(matches!(told[..], [TransferOutput::GaveUp { point: POINT, .. }]), "{told:?}");

    let told = fetch(&mut receiver, &mut sender, 10 * SECOND);
    assert!(matches!(told[..], [TransferOutput::NoRoom { .. }]), "{told:?}");
    small.set_capacity(used + (5 << 20));
    let told = receiver.tick(at(11 * SECOND));
    assert!(matches!(told[..], [TransferOutput::GaveUp { .. }]), "there is room: {told:?}");
    let told = fetch(&mut receiver, &mut sender, 12 * SECOND);
    assert!(matches!(told[..], [TransferOutput::Fetched { generation: 2, .. }]), "{told:?}");
    let left = receiver.reserve.space();
    assert!(left.is_full(), "it took of the reserve what it needed: {left:?}");
}

fn leave(disk: &MemoryDisk, path: &str) {
    let file = disk.open(path, Mode { create: true, ..Mode::default() }).expect("opened");
    file.write_at(b"left", 0).expect("written");
}

#[test]
fn a_part_of_a_snapshot_that_nobody_sends_any_more_is_removed_after_a_while() {
    let disk = MemoryDisk::new();
    let mut receiver = stage(RECEIVER, &disk, 100);
    let path = "store-0000000000000002/segment-00000001.part";
    leave(&disk, path);
    receiver.tick(at(SECOND));
    receiver.tick(at(30 * SECOND));
    assert_eq!(disk.list("store-0000000000000002").expect("listed").len(), 1, "the next attempt may go on");
    receiver.tick(at(60 * SECOND));
    assert_eq!(disk.list("store-0000000000000002").expect("listed"), Vec::new());
}

#[test]
fn a_start_removes_all_stores_before_its_own() {
    let disk = MemoryDisk::new();
    let TransferStage { store, identity, reserve, .. } = stage(RECEIVER, &disk, 100);
    drop(store);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::create(shared.clone(), StoreConfig::default(), identity, 5).expect("a new store");
    leave(&disk, "store-0000000000000003/manifest");
    let mut receiver = TransferStage::new(shared, store, identity, 5, reserve);
    receiver.tick(at(SECOND));
    for before in 1..5 {
        let folder = generation_folder(before);
        assert_eq!(disk.list(&folder).expect("listed"), Vec::new(), "{folder}");
    }
}

/// A disk whose next sync of the folder of store 1 fails, once told so.
struct Refuses {
    disk: MemoryDisk,
    next: AtomicBool,
}

impl Disk for Refuses {
    fn open(&self, path: &str, mode: Mode) -> std::io::Result<Arc<dyn quorate_disk::File>> {
        self.disk.open(path, mode)
    }
    fn list(&self, folder: &str) -> std::io::Result<Vec<quorate_disk::Listed>> {
        self.disk.list(folder)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> std::io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, folder: &str) -> std::io::Result<()> {
        if folder == generation_folder(1) && self.next.swap(false, Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.disk.sync_dir(folder)
    }
    fn free_bytes(&self) -> std::io::Result<u64> {
        self.disk.free_bytes()
    }
}

#[test]
fn a_store_of_before_that_the_disk_refuses_to_remove_is_removed_later() {
    let disk = MemoryDisk::new();
    let TransferStage { store, identity, reserve, .. } = stage(RECEIVER, &disk, 100);
    drop(store);
    let refuses = Arc::new(Refuses { disk: disk.clone(), next: AtomicBool::new(false) });
    let store = Store::create(refuses.clone(), StoreConfig::default(), identity, 2).expect("a new store");
    let mut receiver = TransferStage::new(refuses.clone(), store, identity, 2, reserve);
    refuses.next.store(true, Ordering::Relaxed);
    receiver.tick(at(SECOND));
    assert_ne!(disk.list(&generation_folder(1)).expect("listed"), Vec::new(), "the disk refused");
    receiver.tick(at(60 * SECOND));
    assert_eq!(disk.list(&generation_folder(1)).expect("listed"), Vec::new());
}
