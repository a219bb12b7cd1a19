//! A full disk, and a disk that fails.

use quorate_ids::LogIndex;
use quorate_wal::{Config, Record, Wal, WalError};

use crate::fault_disk::FaultDisk;
use crate::model::{IDENTITY, Model, entry, small, vote};

/// A log on a disk that got full right after the log was made; returns what was appended until it refused.
fn fill(disk: &FaultDisk) -> (Wal, Vec<Record>) {
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    assert!(wal.has_spare());
    disk.limit_space(Some(disk.used_bytes()));
    let mut records = Vec::new();
    for index in 1.. {
        let record = entry(index, 1, 1000);
        let end = wal.position();
        match wal.append(std::slice::from_ref(&record)) {
            Ok(_) => records.push(record),
            Err(WalError::NoSpace { needed_bytes, .. }) => {
                assert_eq!(needed_bytes, small().segment_size_bytes);
                assert_eq!(wal.position(), end, "nothing of a refused batch is written");
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    (wal, records)
}

#[test]
fn a_full_disk_fails_only_what_needs_a_new_segment_and_nothing_of_that_is_written() {
    let disk = FaultDisk::new(true);
    let (mut wal, mut records) = fill(&disk);
    assert!(records.len() > 15, "the spare was used up first");
    assert!(!wal.has_spare());
    let small_one = vote(5, 5, 3);
    wal.append(std::slice::from_ref(&small_one)).expect("what still fits is taken");
    records.push(small_one);
    assert!(matches!(wal.prepare_spare(), Err(WalError::NoSpace { .. })));
    assert_eq!(disk.paths().len(), 2, "a failed preparation leaves no file behind: {:?}", disk.paths());
    let recovered = Wal::open(disk.copy().shared(), small(), Some(IDENTITY)).unwrap().1;
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);

    disk.limit_space(None);
    let next = entry(recovered.last_index.0 + 1, 5, 1000);
    wal.append(std::slice::from_ref(&next)).expect("with space the same append succeeds");
    assert!(wal.has_spare());
    records.push(next);
    let recovered = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap().1;
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
}

#[test]
fn a_batch_of_many_segments_on_a_full_disk_is_refused_whole() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    disk.limit_space(Some(disk.used_bytes() + (16 << 10)));
    let batch: Vec<_> = (1..=60).map(|i| entry(i, 1, 1000)).collect();
    let end = wal.position();
    assert!(matches!(wal.append(&batch), Err(WalError::NoSpace { .. })));
    assert_eq!(wal.position(), end);
    wal.append(&batch[..20]).unwrap();
    let recovered = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap().1;
    assert_eq!(Model::of(1, &batch[..20]).difference(&recovered, LogIndex::ZERO), None);
}

#[test]
fn a_release_makes_room_on_a_full_disk() {
    let disk = FaultDisk::new(true);
    let (mut wal, mut records) = fill(&disk);
    let last = wal.stats().last_index;
    wal.release(last).unwrap();
    for index in last.0 + 1..last.0 + 200 {
        let record = entry(index, 2, 1000);
        wal.append(std::slice::from_ref(&record)).expect("released segments are used again");
        records.push(record);
        wal.release(LogIndex(index)).unwrap();
    }
    let recovered = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap().1;
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex(last.0 + 199)), None);
}

#[test]
fn a_full_disk_does_not_keep_a_log_from_opening_or_from_its_last_words() {
    let disk = FaultDisk::new(true);
    let (wal, mut records) = fill(&disk);
    drop(wal);
    // Starts and marks have room of their own.
    for _ in 0..3 {
        let (mut wal, recovered) = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap();
        assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
        wal.mark().expect("a mark fits");
    }
    let (mut wal, recovered) = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap();
    wal.release(recovered.last_index).unwrap();
    let next = entry(recovered.last_index.0 + 1, 1, 1000);
    wal.append(std::slice::from_ref(&next)).expect("the release makes room");
    records.push(next);
    let recovered = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap().1;
    assert_eq!(Model::of(1, &records).difference(&recovered, recovered.last_index), None);
}

#[test]
fn after_a_failed_write_or_sync_every_call_answers_the_same() {
    // The batch's write fails, or, where a sync follows it, the sync does.
    for (direct, changes) in [(true, 0), (false, 0), (false, 1)] {
        let disk = FaultDisk::new(direct);
        let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
        wal.append(&[entry(1, 1, 10)]).unwrap();
        disk.fail_after_changes(changes);
        let first = wal.append(&[entry(2, 1, 10)]).unwrap_err();
        assert!(matches!(first, WalError::Failed { .. }), "{first}");
        disk.mend();
        let (writes, syncs) = disk.counts();
        let later = [
            wal.append(&[entry(2, 1, 10)]).map(|_| ()),
            wal.append(&[]).map(|_| ()),
            wal.mark().map(|_| ()),
            wal.release(LogIndex(1)),
            wal.prepare_spare(),
        ];
        for answer in later {
            assert_eq!(answer.unwrap_err().to_string(), first.to_string());
        }
        assert_eq!(disk.counts(), (writes, syncs), "a failed log leaves the disk alone");
        let recovered = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap().1;
        assert!((1..=2).contains(&recovered.last_index.0));
    }
}

#[test]
fn the_owner_may_prepare_spares_itself() {
    let disk = FaultDisk::new(true);
    let config = Config { prepare_spare_in_append: false, ..small() };
    let mut wal = Wal::create(disk.shared(), config, IDENTITY, 1).unwrap();
    let mut index = 0;
    while wal.has_spare() {
        index += 1;
        wal.append(&[entry(index, 1, 1000)]).unwrap();
    }
    assert_eq!(disk.paths().len(), 2);
    wal.prepare_spare().unwrap();
    assert!(wal.has_spare());
    assert_eq!(disk.paths().len(), 3);
}

#[cfg(feature = "mutants")]
#[test]
fn the_planted_bug_loses_an_acknowledged_batch() {
    let disk = FaultDisk::new(true);
    let config = Config { skip_sync: true, ..small() };
    let mut wal = Wal::create(disk.shared(), config, IDENTITY, 1).unwrap();
    wal.append(&[entry(1, 1, 10)]).unwrap();
    let recovered = Wal::open(disk.durable().shared(), small(), Some(IDENTITY)).unwrap().1;
    assert_eq!(recovered.last_index, LogIndex::ZERO);
}
