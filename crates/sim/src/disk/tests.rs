use super::*;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(Rng::new(seed), Latency::default(), true)
}

const CREATE: Mode = Mode { create: true, create_new: false, read_only: false, direct: false, sync: false };

fn contents(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(path, Mode::default()).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn synced_bytes_and_names_survive_any_power_loss() {
    for seed in 0..200 {
        let disk = disk(seed);
        let file = disk.open("wal/a", CREATE).unwrap();
        file.write_at(&[7; 5000], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("wal").unwrap();
        disk.sync_dir("").unwrap();
        let done = disk.busy_until();
        file.write_at(&[8; 3000], 5000).unwrap();
        disk.crash(done, CrashKind::Power);
        assert_eq!(contents(&disk, "wal/a").unwrap(), vec![7; 5000], "seed {seed}");
    }
}

#[test]
fn an_unsynced_write_is_kept_lost_or_torn_at_sectors() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let disk = disk(seed);
        let file = disk.open("a", CREATE).unwrap();
        file.write_at(&[0; 4096], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[9; 4096], 0).unwrap();
        disk.crash(disk.busy_until(), CrashKind::Power);
        let found = contents(&disk, "a").unwrap();
        assert!(found.chunks(512).all(|sector| sector.iter().all(|b| *b == sector[0])), "seed {seed}");
        match found.iter().filter(|b| **b == 9).count() {
            0 => lost += 1,
            4096 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 50 && lost > 50 && torn > 50, "{kept} {lost} {torn}");
}

#[test]
fn a_call_issued_after_the_crash_never_happened_and_a_sync_in_flight_proves_nothing() {
    for seed in 0..100 {
        let disk = disk(seed);
        let file = disk.open("a", CREATE).unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        let written = disk.busy_until();
        file.sync_data().unwrap();
        file.write_at(&[2; 512], 512).unwrap();
        disk.crash(written + 1, CrashKind::Power);
        let found = contents(&disk, "a").unwrap();
        assert!(found.is_empty() || found == vec![1; 512], "seed {seed}: {} bytes", found.len());
    }
}

#[test]
fn a_killed_process_leaves_its_writes_unsynced_and_a_power_loss_may_take_them_later() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = disk(seed);
        let file = disk.open("a", CREATE).unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        disk.crash(disk.busy_until(), CrashKind::Process);
        assert!(file.sync_data().is_err(), "a handle of the dead process must not work");
        assert_eq!(contents(&disk, "a").unwrap(), vec![1; 512]);
        disk.crash(disk.busy_until() + 1_000_000_000, CrashKind::Power);
        lost += u32::from(contents(&disk, "a").unwrap().is_empty());
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn names_that_were_not_synced_come_and_go_in_order_within_their_folder() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = disk(seed);
        let file = disk.open("tmp", CREATE).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        disk.rename("tmp", "final").unwrap();
        disk.crash(disk.busy_until(), CrashKind::Power);
        seen.insert(disk.list("").unwrap().into_iter().map(|l| l.path).collect::<Vec<_>>().join(","));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "final", "tmp"]);
}

#[test]
fn a_folder_whose_own_name_was_not_synced_takes_its_files_along() {
    let gone = (0..100).filter(|seed| {
        let disk = disk(*seed);
        let file = disk.open("deep/er/a", CREATE).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("deep/er").unwrap();
        disk.crash(disk.busy_until(), CrashKind::Power);
        disk.list("deep/er").unwrap().is_empty()
    });
    assert!(gone.count() > 20);
}

#[test]
fn a_failed_sync_may_have_dropped_the_writes_for_good() {
    let dropped = (0..200).filter(|seed| {
        let disk = disk(*seed);
        let file = disk.open("a", CREATE).unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        disk.set_faults(DiskFaults { sync_error: Ppm(1_000_000), error_budget: 1, ..DiskFaults::default() });
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        disk.crash(disk.busy_until(), CrashKind::Power);
        contents(&disk, "a").unwrap().is_empty()
    });
    assert!(dropped.count() > 50);
}

#[test]
fn a_full_disk_refuses_growth_and_takes_writes_within_what_is_there() {
    let disk = disk(1);
    disk.set_faults(DiskFaults { capacity_bytes: 8192, ..DiskFaults::default() });
    let file = disk.open("a", CREATE).unwrap();
    file.preallocate(8192).unwrap();
    assert_eq!(file.write_at(&[1; 10], 8190).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[1; 10], 100).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
    disk.remove("a").unwrap();
    disk.sync_dir("").unwrap();
    drop(file);
    disk.settle(disk.busy_until());
    assert_eq!(disk.free_bytes().unwrap(), 8192);
}

#[test]
fn a_stuck_disk_completes_nothing_before_it_is_free_again() {
    let disk = disk(1);
    disk.begin(1_000);
    disk.set_stuck(5_000_000);
    let file = disk.open("a", CREATE).unwrap();
    file.sync_data().unwrap();
    assert!(disk.busy_until() >= 5_000_000);
}

#[test]
fn direct_files_refuse_what_is_not_aligned() {
    let disk = disk(1);
    let file = disk.open("a", Mode { direct: true, ..CREATE }).unwrap();
    assert!(file.is_direct());
    assert!(file.write_at(&quorate_disk::AlignedBuf::zeroed(4096), 512).is_err());
    file.write_at(&quorate_disk::AlignedBuf::zeroed(4096), 4096).unwrap();
}

#[test]
fn a_killed_process_is_gone_only_when_the_call_that_it_was_in_is_complete() {
    let disk = disk(3);
    disk.set_stuck(5_000_000);
    disk.begin(1_000);
    let file = disk.open("a", Mode { create: true, ..Mode::default() }).expect("opens");
    file.write_at(b"x", 0).expect("writes");
    disk.crash(1_500, CrashKind::Process);
    assert_eq!(disk.quiet_at(), 5_000_000);
    disk.crash(6_000_000, CrashKind::Power);
    assert_eq!(disk.quiet_at(), 6_000_000, "nothing outlives its machine");
}
