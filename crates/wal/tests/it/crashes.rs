//! Power cuts: at every byte of a batch, at every change of the disk, and at random with random losses.

use proptest::prelude::*;
use quorate_ids::LogIndex;
use quorate_wal::{Config, Record, Wal, WalError};

use crate::fault_disk::{Dice, FaultDisk, SECTOR_BYTES, Unsynced};
use crate::model::{IDENTITY, Model, assert_prefix, entry, restart, small, vote};

fn open(disk: &FaultDisk) -> (Wal, quorate_wal::Recovered) {
    Wal::open(disk.shared(), small(), Some(IDENTITY)).expect("a crash is no damage")
}

/// A log with three acknowledged entries on a disk whose power fails in the write of the last batch.
fn cut_in_the_last_batch(direct: bool, last: &[Record]) -> (FaultDisk, Vec<Record>, Unsynced) {
    let disk = FaultDisk::new(direct);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let mut records: Vec<_> = (1..=3).map(|i| entry(i, 1, 90)).collect();
    wal.append(&records).unwrap();
    disk.fail_after_changes(0);
    assert!(matches!(wal.append(last), Err(WalError::Failed { .. })));
    records.extend_from_slice(last);
    let unsynced = disk.unsynced();
    assert_eq!(unsynced.len(), 1, "a batch is one write");
    (disk.durable(), records, unsynced.into_iter().next().unwrap())
}

/// What must hold on a disk after a crash: a prefix comes back, and the log goes on from there for good.
fn assert_goes_on(disk: &FaultDisk, records: &[Record], acknowledged: usize) -> usize {
    let (mut wal, recovered) = open(disk);
    let kept = assert_prefix(&recovered, 1, records, acknowledged, LogIndex::ZERO);
    let mut model = records[..kept].to_vec();
    let next = [entry(recovered.last_index.0 + 1, 9, 5), vote(9, 9, 1)];
    wal.append(&next).unwrap();
    model.extend(next);
    let (_, recovered) = open(disk);
    assert_eq!(Model::of(1, &model).difference(&recovered, LogIndex::ZERO), None);
    assert_eq!(recovered.cut_tail, None, "what was cut is gone");
    kept
}

#[test]
fn power_fails_at_every_byte_of_a_batch() {
    let last = [entry(4, 2, 300), entry(5, 2, 3), vote(2, 1, 4), entry(6, 2, 400)];
    for direct in [true, false] {
        let (disk, records, write) = cut_in_the_last_batch(direct, &last);
        let mut seen = Vec::new();
        for bytes in 0..=write.data.len() {
            let crashed = disk.copy();
            crashed.patch(&write.path, write.offset, &write.data[..bytes]);
            seen.push(assert_goes_on(&crashed, &records, 3));
        }
        assert!(seen.is_sorted());
        seen.dedup();
        assert_eq!(seen, [3, 4, 5, 6, 7], "every prefix of the batch was seen");
    }
}

#[test]
fn power_fails_and_any_sectors_of_a_batch_are_lost() {
    let last = [entry(4, 2, 400), entry(5, 2, 3), vote(2, 1, 4), entry(6, 2, 1200), entry(3, 3, 700)];
    let (disk, records, write) = cut_in_the_last_batch(true, &last);
    let sectors = write.data.len().div_ceil(SECTOR_BYTES);
    let mut dice = Dice(1);
    for round in 0..400u64 {
        // Each single sector lost, each single one kept, then at random.
        let lost = |sector: u64| match round {
            r if r < sectors as u64 => sector == r,
            r if r < 2 * sectors as u64 => sector != r - sectors as u64,
            _ => dice.below(2) == 0,
        };
        let lost: Vec<bool> = (0..sectors as u64).map(lost).collect();
        let crashed = disk.copy();
        for (sector, data) in write.data.chunks(SECTOR_BYTES).enumerate().filter(|(sector, _)| !lost[*sector])
        {
            crashed.patch(&write.path, write.offset + sector * SECTOR_BYTES, data);
        }
        assert_goes_on(&crashed, &records, 3);
    }
}

/// A disk that tears within sectors: the header of the next segment ends at any byte, over zeros or over the header
/// of an earlier use.
#[test]
fn power_fails_at_every_byte_of_a_segment_header() {
    for recycled in [false, true] {
        let disk = FaultDisk::new(true);
        let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
        let mut records = Vec::new();
        let mut fill = |wal: &mut Wal, segments: usize| {
            while wal.stats().segments < segments
                || wal.stats().kept_bytes % small().segment_size_bytes < 15_000
            {
                records.push(entry(records.len() as u64 + 1, 1, 500));
                wal.append(&records[records.len() - 1..]).unwrap();
            }
            LogIndex(records.len() as u64)
        };
        let mut released = LogIndex::ZERO;
        // Until every spare has been in use before.
        for _ in 0..if recycled { 8 } else { 0 } {
            released = fill(&mut wal, 2);
            wal.release(released).unwrap();
            wal.mark().unwrap();
        }
        fill(&mut wal, 1);
        disk.fail_after_changes(0);
        let last = records.len() as u64;
        let batch = [entry(last + 1, 1, 1000)];
        assert!(matches!(wal.append(&batch), Err(WalError::Failed { .. })));
        let write = disk.unsynced().remove(0);
        let disk = disk.durable();
        assert_eq!((write.offset, write.data.len()), (0, 4096), "the header comes alone");
        assert_eq!(disk.bytes(&write.path)[..8] == [0; 8], !recycled);
        for bytes in (0..=520).chain([4095, 4096]) {
            let crashed = disk.copy();
            crashed.patch(&write.path, 0, &write.data[..bytes]);
            let (mut wal, recovered) = open(&crashed);
            assert_eq!(Model::of(1, &records).difference(&recovered, released), None, "{bytes} bytes");
            wal.append(&batch).unwrap();
            assert_eq!(open(&crashed).1.last_index, LogIndex(last + 1), "{bytes} bytes");
        }
    }
}

/// The batch of a crashed start lies behind a hole; the next start writes the same first record again, so that but
/// for its generation the chain would lead right into the old bytes.
#[test]
fn what_a_crash_left_behind_a_hole_is_not_revived_by_writing_the_same_again() {
    let last = [entry(4, 2, 1000), vote(7, 7, 3)];
    let (disk, records, write) = cut_in_the_last_batch(true, &last);
    // All but the sector in which the first record of the batch starts.
    let hole = 4096 + 3 * 152 - 4096;
    let hole = hole / SECTOR_BYTES * SECTOR_BYTES;
    for (at, data) in write.data.chunks(SECTOR_BYTES).enumerate() {
        if at * SECTOR_BYTES != hole {
            disk.patch(&write.path, write.offset + at * SECTOR_BYTES, data);
        }
    }
    let (mut wal, recovered) = open(&disk);
    assert_eq!(assert_prefix(&recovered, 1, &records, 3, LogIndex::ZERO), 3);
    assert!(recovered.cut_tail.is_some(), "a torn tail is reported");
    wal.append(&last[..1]).unwrap();
    let (_, recovered) = open(&disk);
    assert_eq!(Model::of(1, &records[..4]).difference(&recovered, LogIndex::ZERO), None);
}

/// One run of a log on one disk: what was asked for, what was acknowledged.
struct Story {
    disk: FaultDisk,
    records: Vec<Record>,
    acknowledged: usize,
    released: LogIndex,
    last_index: u64,
    next_term: u64,
}

impl Story {
    fn batch(&mut self, dice: &mut Dice) -> Vec<Record> {
        let mut batch = Vec::new();
        let mut last = self.last_index;
        let mut floor = self.released.0;
        for _ in 0..=dice.below(5) {
            match dice.below(12) {
                0..=1 => batch.push(vote(self.next_term, dice.below(3), last)),
                2 if last > floor => {
                    self.next_term += 1;
                    last -= dice.below(4).min(last - floor - 1);
                    batch.push(entry(last, self.next_term, dice.below(300) as usize));
                }
                3 if dice.below(12) == 0 => {
                    last += dice.below(20);
                    floor = last;
                    batch.push(restart(last, self.next_term, dice.below(100)));
                }
                _ => {
                    last += 1;
                    let bytes = if dice.below(10) == 0 { 8 << 10 } else { 400 };
                    batch.push(entry(last, self.next_term, dice.below(bytes) as usize));
                }
            }
        }
        self.last_index = last;
        batch
    }

    /// Runs until the power fails.
    fn run(&mut self, wal: &mut Wal, dice: &mut Dice) {
        loop {
            let batch = self.batch(dice);
            self.records.extend_from_slice(&batch);
            match wal.append(&batch) {
                Ok(_) => self.acknowledged = self.records.len(),
                Err(WalError::Failed { .. } | WalError::Io { .. }) => return,
                Err(other) => panic!("{other}"),
            }
            let restarted = batch.iter().rev().find_map(|record| match record {
                Record::Restart { index, .. } => Some(*index),
                _ => None,
            });
            self.released = self.released.max(restarted.unwrap_or_default());
            if dice.below(4) == 0 {
                let through = self.released.0 + dice.below(self.last_index - self.released.0 + 1);
                self.released = LogIndex(through);
                wal.release(self.released).unwrap();
            }
            if dice.below(8) == 0 && wal.mark().is_err() {
                return;
            }
        }
    }

    /// Cuts what did not survive, and checks what did.
    fn recover(&mut self, config: &Config) -> Wal {
        let opened = Wal::open(self.disk.shared(), config.clone(), Some(IDENTITY));
        let (wal, recovered) = opened.expect("a crash is no damage");
        let kept = assert_prefix(&recovered, 1, &self.records, self.acknowledged, self.released);
        self.records.truncate(kept);
        self.acknowledged = kept;
        // A restart that survived without having been acknowledged released what it dropped.
        self.released = self.released.max(recovered.restart.index);
        self.last_index = recovered.last_index.0;
        wal
    }
}

fn crash_over_and_over(seed: u64, direct: bool, starts: usize) {
    let dice = &mut Dice(seed);
    let config = Config { spare_segments_max: 1 + dice.below(3) as usize, ..small() };
    let disk = FaultDisk::new(direct);
    let mut wal = Wal::create(disk.shared(), config.clone(), IDENTITY, 1).unwrap();
    let mut story = Story {
        disk,
        records: Vec::new(),
        acknowledged: 0,
        released: LogIndex::ZERO,
        last_index: 0,
        next_term: 1,
    };
    for _ in 0..starts {
        story.disk.fail_after_changes(dice.below(150));
        story.run(&mut wal, dice);
        story.disk = story.disk.crashed(dice);
        if dice.below(3) == 0 {
            // The power fails again while the log is opened.
            story.disk.fail_after_changes(dice.below(4));
            drop(Wal::open(story.disk.shared(), config.clone(), Some(IDENTITY)));
            story.disk = story.disk.crashed(dice);
        }
        wal = story.recover(&config);
    }
    // What was released is freed at the latest with a mark, and nothing else lies around.
    wal.mark().unwrap();
    let stats = wal.stats();
    assert_eq!(story.disk.paths().len(), stats.segments + stats.spare_segments, "{:?}", story.disk.paths());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_batches_and_crashes_lose_nothing_acknowledged(seed: u64, direct: bool) {
        crash_over_and_over(seed, direct, 12);
    }
}

#[test]
fn power_fails_at_every_change_of_the_disk() {
    let run = |disk: &FaultDisk| -> (Vec<Record>, usize, Result<(), WalError>) {
        let (mut records, mut acknowledged) = (Vec::new(), 0);
        let mut steps = || -> Result<(), WalError> {
            let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1)?;
            for index in 1..=70u64 {
                let batch = [entry(index, 1, 900), vote(1, 1, index)];
                records.extend_from_slice(&batch);
                wal.append(&batch)?;
                acknowledged = records.len();
                wal.release(LogIndex(index.saturating_sub(25)))?;
                if index % 10 == 0 {
                    wal.mark()?;
                }
            }
            Ok(())
        };
        let result = steps();
        (records, acknowledged, result)
    };
    let whole = FaultDisk::new(true);
    run(&whole).2.unwrap();
    let dice = &mut Dice(5);
    for at in 0..whole.changes() {
        let disk = FaultDisk::new(true);
        disk.fail_after_changes(at);
        let (records, acknowledged, result) = run(&disk);
        // Where only the preparation of a spare failed, every append went well.
        assert!(result.is_err() || acknowledged == records.len());
        let crashed = disk.crashed(dice);
        if acknowledged == 0 && !Wal::exists(crashed.shared().as_ref(), &small()).unwrap() {
            drop(
                Wal::create(crashed.shared(), small(), IDENTITY, 1)
                    .expect("a creation cut short is made anew"),
            );
            continue;
        }
        let (_, recovered) = open(&crashed);
        assert_prefix(&recovered, 1, &records, acknowledged, LogIndex(45));
    }
}

/// A process dies at every change of the disk while the machine lives on: the next one sees all that was written,
/// synced or not. What that one reports and appends must survive when later the power fails.
#[test]
fn a_process_dies_at_every_change_and_the_power_fails_under_the_next() {
    for direct in [true, false] {
        let mut at = 0;
        loop {
            let disk = FaultDisk::new(direct);
            let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
            disk.fail_after_changes(at);
            let mut records = Vec::new();
            let died = (1..=30u64).any(|index| {
                records.push(entry(index, 1, 1000));
                wal.append(&records[index as usize - 1..]).is_err()
            });
            disk.mend();
            let config = Config { prepare_spare_in_append: false, ..small() };
            let (mut wal, recovered) = Wal::open(disk.shared(), config, Some(IDENTITY)).unwrap();
            records.truncate(recovered.last_index.0 as usize);
            let reported = open(&disk.durable()).1;
            assert_eq!(Model::of(1, &records).difference(&reported, LogIndex::ZERO), None, "change {at}");
            for index in records.len() as u64 + 1..=50 {
                let segments = wal.stats().segments;
                records.push(entry(index, 2, 1000));
                wal.append(&records[index as usize - 1..]).unwrap();
                if wal.stats().segments > segments {
                    let left = open(&disk.durable()).1;
                    assert_eq!(Model::of(1, &records).difference(&left, LogIndex::ZERO), None, "change {at}");
                }
            }
            let left = open(&disk.durable()).1;
            assert_eq!(Model::of(1, &records).difference(&left, LogIndex::ZERO), None, "change {at}");
            if !died {
                break;
            }
            at += 1;
        }
        assert!(at > 30, "{at}");
    }
}
