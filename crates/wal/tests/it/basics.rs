//! One log, no faults: what is appended is what comes back.

use std::sync::Arc;

use bytes::Bytes;
use quorate_disk::{Disk, MemoryDisk, RealDisk};
use quorate_ids::{Incarnation, LogIndex, Term};
use quorate_wal::{Config, Identity, Position, Record, Wal, WalError};

use crate::fault_disk::FaultDisk;
use crate::model::{IDENTITY, Model, entry, restart, small, vote};

fn reopen(disk: &Arc<dyn Disk>, config: &Config) -> (Wal, quorate_wal::Recovered) {
    Wal::open(disk.clone(), config.clone(), Some(IDENTITY)).expect("the log opens")
}

#[test]
fn a_new_log_is_empty_and_exists() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    assert!(!Wal::exists(disk.as_ref(), &small()).unwrap());
    assert!(matches!(Wal::open(disk.clone(), small(), None), Err(WalError::Missing { .. })));
    drop(Wal::create(disk.clone(), small(), IDENTITY, 7).unwrap());
    assert!(Wal::exists(disk.as_ref(), &small()).unwrap());
    let (wal, recovered) = reopen(&disk, &small());
    assert_eq!(Model::of(7, &[]).difference(&recovered, LogIndex::ZERO), None);
    assert_eq!(recovered.cut_tail, None);
    assert_eq!(recovered.first_index(), LogIndex(1));
    assert!(wal.has_spare());
    let again = Wal::create(disk.clone(), small(), IDENTITY, 7);
    assert!(matches!(again, Err(WalError::Exists { .. })));
    Wal::remove(disk.clone(), small()).unwrap();
    assert!(!Wal::exists(disk.as_ref(), &small()).unwrap());
}

#[test]
fn a_log_may_move_to_a_thread_of_its_own() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    let writer = std::thread::spawn(move || wal.append(&[entry(1, 1, 10)]).map(|_| wal));
    let end = writer.join().unwrap().unwrap().position();
    assert_eq!(reopen(&disk, &small()).1.end, end);
}

#[test]
fn what_was_appended_comes_back_on_every_kind_of_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disks: [Arc<dyn Disk>; 4] = [
        Arc::new(MemoryDisk::new()),
        Arc::new(RealDisk::new(folder.path()).unwrap()),
        FaultDisk::new(true).shared(),
        FaultDisk::new(false).shared(),
    ];
    for disk in disks {
        let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
        let mut records = Vec::new();
        for batch in 0..40u64 {
            let batch: Vec<_> =
                (1..=3).map(|i| entry(batch * 3 + i, 1, (batch * 37 % 700) as usize)).collect();
            wal.append(&batch).unwrap();
            records.extend(batch);
            let commit = vote(1, 2, records.len() as u64 / 2);
            wal.append(std::slice::from_ref(&commit)).unwrap();
            records.push(commit);
        }
        let (end, stats) = (wal.position(), wal.stats());
        assert!(stats.segments > 2);
        drop(wal);
        for _ in 0..2 {
            let (wal, recovered) = reopen(&disk, &small());
            assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
            assert_eq!(recovered.first_index(), LogIndex(1));
            assert_eq!((recovered.end, recovered.cut_tail), (end, None));
            assert_eq!(wal.stats(), stats);
        }
    }
}

#[test]
fn an_append_is_one_write_and_one_sync() {
    for direct in [true, false] {
        let disk = FaultDisk::new(direct);
        let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
        for index in 1..=5 {
            let (writes, syncs) = disk.counts();
            wal.append(&[entry(index, 1, 300), vote(1, 1, index)]).unwrap();
            assert_eq!(disk.counts(), (writes + 1, syncs + 1));
        }
        let before = disk.counts();
        wal.append(&[]).unwrap();
        assert_eq!(disk.counts(), before, "an empty batch touches no disk");
    }
}

#[test]
fn an_entry_supersedes_those_from_its_index_on() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    let mut records: Vec<_> = (1..=30).map(|i| entry(i, 1, 1000)).collect();
    records.extend((12..=14).map(|i| entry(i, 2, 50)));
    records.push(entry(14, 3, 60));
    for record in &records {
        wal.append(std::slice::from_ref(record)).unwrap();
    }
    let (wal, recovered) = reopen(&disk, &small());
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
    assert_eq!((recovered.last_index, recovered.last_term), (LogIndex(14), Term(3)));
    assert_eq!(recovered.entries.len(), 14);
    assert_eq!(wal.stats().last_index, LogIndex(14));
}

#[test]
fn a_restart_drops_every_entry_and_frees_their_segments() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    let mut records: Vec<_> = (1..=40).map(|i| entry(i, 1, 1000)).collect();
    wal.append(&records).unwrap();
    let after = [restart(100, 4, 2), vote(4, 0, 100), entry(101, 4, 10)];
    wal.append(&after).unwrap();
    wal.mark().unwrap();
    records.extend(after);
    assert_eq!(wal.stats().segments, 1);
    assert_eq!(wal.stats().first_index, LogIndex(101));
    let (wal, recovered) = reopen(&disk, &small());
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex(100)), None);
    assert_eq!(recovered.entries.len(), 1);
    assert_eq!(recovered.store_generation, 2);
    assert_eq!(wal.stats().segments, 1);
}

#[test]
fn a_batch_larger_than_a_segment_is_written_whole() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    let records: Vec<_> = (1..=50).map(|i| entry(i, 1, 2000)).collect();
    wal.append(&records).unwrap();
    let (_, recovered) = reopen(&disk, &small());
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
}

#[test]
fn an_entry_of_the_largest_size_fits_and_one_byte_more_is_refused() {
    // The smallest segment that takes the entry.
    let config = Config { segment_size_bytes: 12 << 10, payload_bytes_max: 7616, ..Config::default() };
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), config.clone(), IDENTITY, 1).unwrap();
    let refused = wal.append(&[entry(1, 1, 1), entry(2, 1, 7617)]);
    assert!(matches!(refused, Err(WalError::TooLarge { payload_bytes: 7617, payload_bytes_max: 7616 })));
    let records = [entry(1, 1, 7616), entry(2, 1, 7616)];
    wal.append(&records).unwrap();
    let (_, recovered) = reopen(&disk, &config);
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
}

#[test]
fn batches_that_break_a_rule_are_refused_whole() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    let records = [entry(1, 1, 10), entry(2, 1, 10), entry(3, 1, 10)];
    let end = wal.append(&records).unwrap();
    wal.release(LogIndex(2)).unwrap();
    let bad: [&[Record]; 6] = [
        &[restart(u64::MAX, 1, 2)],
        &[vote(9, 9, 9), entry(5, 1, 1)],
        &[entry(4, 1, 1), entry(6, 1, 1)],
        &[entry(2, 2, 1)],
        &[entry(0, 1, 1)],
        &[restart(1, 1, 2)],
    ];
    for batch in bad {
        assert!(matches!(wal.append(batch), Err(WalError::Refused { .. })), "{batch:?}");
    }
    assert!(matches!(wal.release(LogIndex(4)), Err(WalError::Refused { index: LogIndex(4), .. })));
    assert_eq!(wal.position(), end);
    let (_, recovered) = reopen(&disk, &small());
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex(2)), None);
}

#[test]
fn released_segments_are_used_again_and_the_files_stay_few() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let mut records = Vec::new();
    let mut end = Position(0);
    for index in 1..=600u64 {
        let record = entry(index, index / 100, 700);
        let now = wal.append(std::slice::from_ref(&record)).unwrap();
        assert!(now > end);
        end = now;
        records.push(record);
        wal.release(LogIndex(index.saturating_sub(10))).unwrap();
        assert!(disk.paths().len() <= 5, "{:?}", disk.paths());
    }
    assert!(wal.stats().first_index > LogIndex(560));
    let (wal, recovered) = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap();
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex(590)), None);
    assert!(recovered.first_index() > LogIndex(560));
    assert_eq!(wal.stats().first_index, recovered.first_index());
}

#[test]
fn spare_segments_but_one_are_given_back_where_others_need_the_space() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    for index in 1..=200 {
        wal.append(&[entry(index, 1, 100)]).unwrap();
    }
    wal.release(LogIndex(200)).unwrap();
    // What was released is recycled once that is durable.
    wal.append(&[entry(201, 1, 100)]).unwrap();
    let (before, files) = (wal.stats(), disk.list(&small().folder).unwrap().len());
    assert!(before.spare_segments > 1, "{before:?}");
    wal.keep_one_spare().unwrap();
    assert_eq!(wal.stats().spare_segments, 1);
    assert_eq!(disk.list(&small().folder).unwrap().len(), files + 1 - before.spare_segments);
    wal.append(&[entry(202, 1, 100)]).unwrap();
    drop(wal);
    assert_eq!(reopen(&disk, &small()).1.last_index, LogIndex(202));
}

#[test]
fn an_idle_log_marks_once() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let fresh = wal.position();
    assert_eq!(wal.mark().unwrap(), fresh, "nothing to prove yet");
    let end = wal.append(&[entry(1, 1, 10)]).unwrap();
    let marked = wal.mark().unwrap();
    assert!(marked > end);
    assert_eq!(wal.mark().unwrap(), marked);
    let (mut wal, recovered) = Wal::open(disk.shared(), small(), None).unwrap();
    assert_eq!(recovered.end, marked);
    let started = wal.mark().unwrap();
    assert!(started > marked, "what an earlier process wrote is proven by the next");
    assert_eq!(wal.mark().unwrap(), started);
}

#[test]
fn a_log_that_is_opened_and_marked_over_and_over_moves_on_and_stays_readable() {
    let disk = FaultDisk::new(false);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let records = [entry(1, 1, 10), vote(3, 4, 1)];
    wal.append(&records).unwrap();
    for _ in 0..600 {
        let (mut reopened, recovered) = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap();
        assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex::ZERO), None);
        assert_eq!(recovered.cut_tail, None);
        reopened.mark().unwrap();
    }
    assert!(disk.paths().len() > 2);
}

#[test]
fn a_log_of_somebody_else_is_refused_with_both_names() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap());
    let other = Identity { incarnation: Incarnation(0xbad), ..IDENTITY };
    let Err(error) = Wal::open(disk.clone(), small(), Some(other)) else {
        panic!("another incarnation's log")
    };
    assert!(
        matches!(error, WalError::WrongIdentity { expected, found, .. } if (expected, found) == (other, IDENTITY))
    );
    let message = error.to_string();
    assert!(message.contains("incarnation 1ca") && message.contains("incarnation bad"), "{message}");
    assert_eq!(Wal::open(disk, small(), None).unwrap().0.identity(), IDENTITY);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let bad = [
        Config { segment_size_bytes: 4 << 20, ..Config::default() },
        Config { segment_size_bytes: (16 << 20) + 1, ..Config::default() },
        Config { payload_bytes_max: u64::MAX, ..Config::default() },
        Config { spare_segments_max: 0, ..Config::default() },
        Config { folder: String::new(), ..Config::default() },
    ];
    for config in bad {
        let made = Wal::create(Arc::new(MemoryDisk::new()), config.clone(), IDENTITY, 1);
        assert!(matches!(made, Err(WalError::InvalidConfig { .. })), "{config:?}");
    }
}

#[test]
fn the_segment_size_may_change_between_starts() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut wal = Wal::create(disk.clone(), small(), IDENTITY, 1).unwrap();
    let mut records = Vec::new();
    let mut index = 0;
    for size in [16u64 << 10, 32 << 10, 12 << 10, 64 << 10] {
        let config = Config { segment_size_bytes: size, payload_bytes_max: 4 << 10, ..small() };
        if index > 0 {
            let recovered;
            (wal, recovered) = reopen(&disk, &config);
            assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex(index)), None);
        }
        for _ in 0..60 {
            index += 1;
            let record =
                Record::Entry { index: LogIndex(index), term: Term(1), payload: Bytes::from(vec![1; 900]) };
            wal.append(std::slice::from_ref(&record)).unwrap();
            records.push(record);
            wal.release(LogIndex(index.saturating_sub(30))).unwrap();
        }
    }
    let (_, recovered) = reopen(&disk, &small());
    assert_eq!(Model::of(1, &records).difference(&recovered, LogIndex(index - 30)), None);
}
