//! Disks that get full, and are emptied by those who use them.

use quorate_member::MemoryDisk;
use quorate_models::keys::{DeleteRange, RangeEnd};
use quorate_store::StoreConfig;

use super::*;

const MIB: u64 = 1 << 20;
const WAL_SEGMENT_BYTES: u64 = 5 * MIB;
const DISK_BYTES: u64 = 40 * MIB;

/// Small files, so that a few MiB are a disk.
fn on(memory: &MemoryDisk, mut config: Config) -> Config {
    config.memory = Some(memory.clone());
    config.wal_segment_bytes = WAL_SEGMENT_BYTES;
    config.store =
        StoreConfig { front_bytes_max: MIB, segment_bytes_max: MIB as u32, ..StoreConfig::default() };
    config.reserve_bytes = 3 * WAL_SEGMENT_BYTES;
    config.checkpoint_entries = 50;
    config.log_retained_bytes = 0;
    config
}

fn alone(memory: &MemoryDisk) -> Running {
    let mut config = on(memory, config("a", &[("a", 0)], None));
    config.advertise_peer_urls.clear();
    config.initial_cluster.clear();
    start(config).expect("started")
}

async fn change(handle: &Handle, command: &Command) -> Result<(), RequestError> {
    handle.propose(ModelId::KEYS, keys::encode(command)).await.map(drop)
}

/// Puts until the disk is full. What else goes wrong passes.
async fn fill(handle: &Handle, round: usize) {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        match write(handle, &format!("{round}-{number}"), &"v".repeat(60_000)).await {
            Err(RequestError::NoSpace) => return,
            _ => assert!(Instant::now() < deadline, "the disk does not get full"),
        }
    }
}

/// Deletes all keys and their past. Nothing of that may be refused.
async fn empty(handle: &Handle) {
    let everything = DeleteRange { key: Bytes::from_static(b"\0"), end: RangeEnd::Unbounded, prev_kv: false };
    change(handle, &Command::DeleteRange(everything)).await.expect("a delete goes through on a full disk");
    let revision = keys::current_revision(&handle.store().read());
    change(handle, &Command::Compact { revision }).await.expect("a compaction goes through on a full disk");
}

async fn puts_are_taken(handle: &Handle) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = write(handle, "afterwards", "v").await {
        assert!(Instant::now() < deadline, "puts are still refused: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_full_disk_is_emptied_by_deletes_and_puts_go_on_without_a_restart() {
    let memory = MemoryDisk::new();
    memory.set_capacity(DISK_BYTES);
    let member = alone(&memory);
    run(async {
        let handle = member.handle();
        write_soon(&handle, "kept", "v").await;
        for round in 0..3 {
            fill(&handle, round).await;
            assert!(read(&handle, "0-0").await.is_some() == (round == 0), "reads go on");
            empty(&handle).await;
            puts_are_taken(&handle).await;
        }
    });
    member.stop();
}

#[test]
fn a_member_starts_on_a_full_disk_and_can_be_emptied_then() {
    let memory = MemoryDisk::new();
    memory.set_capacity(DISK_BYTES);
    let member = alone(&memory);
    run(async {
        write_soon(&member.handle(), "kept", "v").await;
        fill(&member.handle(), 0).await;
    });
    member.stop();
    let member = alone(&memory);
    run(async {
        let handle = member.handle();
        assert_eq!(read(&handle, "kept").await.as_deref(), Some("v"));
        fill(&handle, 1).await;
        empty(&handle).await;
        puts_are_taken(&handle).await;
        assert_eq!(read(&handle, "kept").await, None);
    });
    member.stop();
}

#[test]
fn one_full_disk_of_three_stops_nothing_and_catches_up_once_it_has_space() {
    let ports = [("a", free_port()), ("b", free_port()), ("c", free_port())];
    let memories = ports.map(|_| MemoryDisk::new());
    memories[0].set_capacity(DISK_BYTES);
    let start = |at: usize| start(on(&memories[at], config(ports[at].0, &ports, None))).expect("started");
    let members = [0, 1, 2].map(start);
    run(async {
        let [full, other, third] = [0, 1, 2].map(|at| members[at].handle());
        let value = "v".repeat(60_000);
        let deadline = Instant::now() + 3 * PATIENCE;
        let mut number = 0;
        // More than the small disk holds.
        while number < 600 {
            match write(&other, &format!("{number}"), &value).await {
                Ok(_) => number += 1,
                Err(error) => assert!(Instant::now() < deadline, "{number} puts: {error}"),
            }
        }
        assert!(full.status().no_space, "it says that it is full");
        memories[0].set_capacity(u64::MAX);
        let last = write_soon(&third, "last", "v").await;
        let deadline = Instant::now() + 3 * PATIENCE;
        while keys::current_revision(&full.store().read()).0 < last {
            assert!(Instant::now() < deadline, "it does not catch up: {:?}", full.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let deadline = Instant::now() + PATIENCE;
        while full.status().no_space {
            assert!(Instant::now() < deadline, "it still says that it is full");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    members.into_iter().for_each(Running::stop);
}
