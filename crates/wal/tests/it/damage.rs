//! What is damaged below the provably durable end is found, always; what is foreign, newer or lost has its own error.

use quorate_disk::{Disk, Mode};
use quorate_ids::{ClusterId, LogIndex, MemberId, Term};
use quorate_wal::{Config, Identity, Record, Recovered, Wal, WalError};

use crate::fault_disk::{Dice, FaultDisk};
use crate::model::{IDENTITY, Model, entry, restart, small, vote};

const MARK_BYTES: usize = 40;

/// A log of several segments, some of them recycled, with a mark at its end.
///
/// Returns the disk, what was written, what was released, and where the mark starts: file and offset.
fn marked_log() -> (FaultDisk, Vec<Record>, LogIndex, (String, usize)) {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let mut records = Vec::new();
    for index in 1..=120u64 {
        let batch = [entry(index, 1, 1 + (index * 53 % 600) as usize), vote(1, 2, index)];
        wal.append(&batch).unwrap();
        records.extend(batch);
        wal.release(LogIndex(index.saturating_sub(70))).unwrap();
    }
    wal.mark().unwrap();
    let stats = wal.stats();
    assert!(stats.segments >= 3 && stats.first_index > LogIndex(1), "{stats:?}");
    let end = Wal::open(disk.shared(), small(), None).unwrap().1.end.0 % small().segment_size_bytes;
    let mark = end as usize - MARK_BYTES;
    // The mark is where the active segment's last bytes are that look like one.
    let is_active = |path: &String| {
        let bytes = disk.bytes(path);
        bytes[mark + 8] == 3 && bytes[end as usize..end as usize + 40] == [0; 40]
    };
    let active = disk.paths().into_iter().find(is_active).expect("a segment ends in the mark");
    (disk, records, LogIndex(50), (active, mark))
}

fn open(disk: &FaultDisk) -> Result<Recovered, WalError> {
    Wal::open(disk.shared(), small(), Some(IDENTITY)).map(|(_, recovered)| recovered)
}

/// Opens a tampered log: either nothing is missing, or it is an error that names a file.
fn assert_whole_or_refused(disk: &FaultDisk, records: &[Record], released: LogIndex, what: &str) -> bool {
    match open(disk) {
        Ok(recovered) => {
            assert_eq!(Model::of(1, records).difference(&recovered, released), None, "{what}");
            false
        }
        Err(WalError::Damaged { file, .. } | WalError::Foreign { file }) => {
            assert!(file.starts_with("wal"), "{what}: {file}");
            true
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_or_hurts_nothing() {
    let (disk, records, released, _) = marked_log();
    let mut refused = 0;
    let mut dice = Dice(3);
    for path in disk.paths() {
        let len = disk.bytes(&path).len();
        // Every byte of what matters most, headers and the records behind them; the rest by samples.
        let offsets = (0..560).step_by(3).chain(4096..4500).chain((5000..len).step_by(19));
        for offset in offsets {
            let mask = 1 << dice.below(8);
            disk.flip(&path, offset, mask);
            let what = format!("{path} byte {offset} mask {mask:#x}");
            refused += usize::from(assert_whole_or_refused(&disk, &records, released, &what));
            disk.flip(&path, offset, mask);
        }
    }
    assert!(refused > 2000, "{refused}");
}

#[test]
fn every_flipped_bit_below_the_marked_end_of_a_small_log_is_damage() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    wal.append(&[entry(1, 1, 33), vote(1, 1, 1)]).unwrap();
    let end = wal.append(&[entry(2, 1, 7)]).unwrap();
    wal.mark().unwrap();
    let path = disk.paths().remove(0);
    for offset in (0..4096).step_by(3).chain(4096..end.0 as usize) {
        for bit in 0..8 {
            disk.flip(&path, offset, 1 << bit);
            match open(&disk) {
                Err(WalError::Damaged { file, .. }) => assert_eq!(file, path),
                Err(WalError::Foreign { .. }) => {
                    assert!(offset < 8, "only the first bytes say whose file it is")
                }
                other => panic!("byte {offset} bit {bit}: {other:?}"),
            }
            disk.flip(&path, offset, 1 << bit);
        }
    }
}

#[test]
fn overwritten_stretches_are_found_or_hurt_nothing() {
    let (disk, records, released, mark) = marked_log();
    let mut dice = Dice(11);
    for round in 0..600 {
        let paths = disk.paths();
        let path = &paths[dice.below(paths.len() as u64) as usize];
        let bytes = disk.bytes(path);
        let sectors = bytes.len() as u64 / 512;
        let start = (dice.below(sectors) * 512) as usize;
        let len = ((1 + dice.below(20)) * 512).min((bytes.len() - start) as u64) as usize;
        // Where the mark goes too, nothing is left that proves the last batch.
        if *path == mark.0 && (start..start + len).contains(&mark.1) {
            continue;
        }
        let tampered = disk.copy();
        match dice.below(3) {
            0 => tampered.patch(path, start, &vec![0; len]),
            1 => tampered.patch(path, start, &(0..len).map(|_| dice.roll() as u8).collect::<Vec<_>>()),
            _ => {
                // A misdirected write: another place's bytes.
                let other = disk.bytes(&paths[dice.below(paths.len() as u64) as usize]);
                tampered.patch(path, start, &other[other.len() - len..]);
            }
        }
        assert_whole_or_refused(
            &tampered,
            &records,
            released,
            &format!("round {round}: {path} at {start}+{len}"),
        );
    }
}

#[test]
fn a_segment_that_is_lost_or_swapped_for_an_old_copy_is_damage() {
    let (disk, records, released, _) = marked_log();
    let mut refused = 0;
    for path in disk.paths() {
        for tamper in 0..3 {
            let tampered = disk.copy();
            match tamper {
                0 => tampered.lose(&path),
                1 => tampered.replace(&path, &vec![0; 16 << 10]),
                _ => tampered.replace(&path, &disk.bytes(&path)[..8 << 10]),
            }
            let what = format!("{path} tamper {tamper}");
            refused += usize::from(assert_whole_or_refused(&tampered, &records, released, &what));
        }
    }
    assert!(refused >= 6, "{refused}");
}

#[test]
fn a_hole_with_a_later_batch_behind_it_is_damage_and_says_what_to_do() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let first = wal.append(&[entry(1, 1, 100)]).unwrap();
    wal.append(&[entry(2, 1, 100)]).unwrap();
    wal.append(&[entry(3, 1, 100)]).unwrap();
    let path = disk.paths().remove(0);
    disk.flip(&path, first.0 as usize + 60, 1);
    let error = open(&disk).unwrap_err();
    let WalError::Damaged { file, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((file, *offset), (&path, first.0));
    assert!(error.to_string().contains("--give-up-data"), "{error}");
}

#[test]
fn the_last_batch_is_provable_once_it_is_marked_and_not_before() {
    for mark in [false, true] {
        let disk = FaultDisk::new(true);
        let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
        let first = wal.append(&[entry(1, 1, 100)]).unwrap();
        wal.append(&[entry(2, 1, 100), entry(3, 1, 100)]).unwrap();
        if mark {
            wal.mark().unwrap();
        }
        disk.flip(&disk.paths()[0], first.0 as usize + 60, 1);
        match open(&disk) {
            Err(WalError::Damaged { offset, .. }) => assert!(mark && offset == first.0),
            Ok(recovered) => {
                assert!(!mark);
                assert_eq!(recovered.last_index, LogIndex(1));
                assert_eq!(recovered.cut_tail.map(|cut| cut.position), Some(first));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Rewrites a segment's header after changing it, with a right CRC.
fn patch_header(disk: &FaultDisk, path: &str, change: impl FnOnce(&mut [u8])) {
    let mut block = disk.bytes(path)[..4096].to_vec();
    change(&mut block);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..508]), &block[512..]);
    block[508..512].copy_from_slice(&crc.to_le_bytes());
    disk.patch(path, 0, &block);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let disk = FaultDisk::new(true);
    drop(Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap());
    patch_header(&disk, &disk.paths()[0], |block| block[8] = 2);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, WalError::NewerFormat { offset: 0, .. }), "{error}");
    assert!(error.to_string().contains("format 2"), "{error}");
}

/// Turns the only record of a log into one of another type, with a right CRC.
fn log_with_record_type(kind: u8, flag: u8) -> FaultDisk {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let end = wal.append(&[entry(1, 1, 8)]).unwrap();
    let path = disk.paths().remove(0);
    let mut record = disk.bytes(&path)[4096..end.0 as usize].to_vec();
    record[8] = kind;
    record[9] = flag;
    let mut identity = Vec::new();
    for number in [IDENTITY.cluster.0, IDENTITY.member.0, IDENTITY.incarnation.0] {
        identity.extend(number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&identity), &record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    disk.patch(&path, 4096, &record);
    disk
}

#[test]
fn records_of_a_newer_format_are_refused_and_senseless_ones_are_damage() {
    assert!(open(&log_with_record_type(2, 0)).is_ok(), "the entry itself, as a check of the test");
    for (kind, flag) in [(7, 0), (0, 0), (200, 0), (2, 1)] {
        let error = open(&log_with_record_type(kind, flag)).unwrap_err();
        assert!(matches!(error, WalError::NewerFormat { offset: 4096, .. }), "type {kind}: {error}");
    }
    // A vote state of 24 bytes is well formed and means something else; a mark of 24 bytes is not.
    for kind in [3, 5, 6] {
        let error = open(&log_with_record_type(kind, 0)).unwrap_err();
        assert!(matches!(error, WalError::Damaged { offset: 4096, .. }), "type {kind}: {error}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_damage() {
    let words =
        [(16, 7u64), (48, 0), (48, u64::MAX), (56, 0), (56, u64::MAX), (64, u64::MAX - 5), (64, 4097)];
    for (offset, value) in words {
        let (disk, ..) = marked_log();
        for path in disk.paths() {
            patch_header(&disk, &path, |block| {
                block[offset..offset + 8].copy_from_slice(&value.to_le_bytes())
            });
        }
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, WalError::Damaged { .. }), "word at {offset} = {value}: {error}");
    }
}

#[test]
fn files_that_are_no_segments_are_named_and_never_touched() {
    let mut dice = Dice(1);
    let garbage: Vec<u8> = (0..16 << 10).map(|_| dice.roll() as u8).collect();
    for (name, bytes) in
        [("wal/notes.txt", &b"hello"[..]), ("wal/00000000000000ff.wal", &garbage), ("wal/ff.wal", &garbage)]
    {
        let (disk, ..) = marked_log();
        disk.replace(name, bytes);
        let error = open(&disk).unwrap_err();
        assert!(matches!(&error, WalError::Foreign { file } if file == name), "{error}");
        assert_eq!(disk.bytes(name), bytes);
    }
    for len in [0, 1, 511, 4095, 5000] {
        let (disk, ..) = marked_log();
        disk.replace("wal/00000000000000ff.wal", &garbage[..len]);
        assert!(matches!(open(&disk), Err(WalError::Damaged { .. })), "{len} bytes");
    }
}

#[test]
fn a_log_of_nothing_but_garbage_never_panics() {
    let mut dice = Dice(77);
    let (disk, ..) = marked_log();
    let paths = disk.paths();
    for _ in 0..200 {
        let tampered = disk.copy();
        for path in &paths {
            let mut bytes = disk.bytes(path);
            let keep = if dice.below(2) == 0 { 8 } else { 4096 };
            bytes[keep..].iter_mut().for_each(|byte| *byte = dice.roll() as u8);
            tampered.replace(path, &bytes);
        }
        assert!(open(&tampered).is_err());
    }
}

#[test]
fn a_segment_of_another_member_among_ours_is_refused() {
    let (disk, ..) = marked_log();
    let other = FaultDisk::new(true);
    let identity = Identity { cluster: ClusterId(9), member: MemberId(9), ..IDENTITY };
    drop(Wal::create(other.shared(), small(), identity, 1).unwrap());
    disk.replace("wal/00000000000000ee.wal", &other.bytes(&other.paths()[0]));
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, WalError::WrongIdentity { found, .. } if found == identity), "{error}");
    let error = Wal::open(disk.shared(), small(), None).map(|_| ()).unwrap_err();
    assert!(matches!(error, WalError::WrongIdentity { .. }), "{error}");
}

/// Payloads are a client's bytes: those that look like a record of this log, at the very place where they lie, must
/// neither be taken for one nor prove damage.
#[test]
fn a_payload_that_imitates_records_changes_nothing() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    wal.append(&[entry(1, 1, 40)]).unwrap();
    let start = wal.position().0;
    let mut forged = Vec::new();
    for i in 0..60u64 {
        let position = start + 56 + i * 40;
        let mut record = [0u8; 40];
        record[8] = 3;
        for (at, word) in [(16, 1), (24, position), (32, position)] {
            record[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
        }
        // Right but for the secret that every CRC starts from.
        let crc = crc32c::crc32c(&record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        forged.extend(record);
    }
    let payload = forged.into();
    wal.append(&[Record::Entry { index: LogIndex(2), term: Term(1), payload }]).unwrap();
    disk.flip(&disk.paths()[0], start as usize + 44, 1);
    let recovered = open(&disk).expect("an unproven last batch is a torn tail");
    assert_eq!(recovered.last_index, LogIndex(1));
}

#[test]
fn a_restart_in_the_log_survives_damage_before_it_only_as_an_error() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let first = wal.append(&[entry(1, 1, 10)]).unwrap();
    wal.append(&[restart(50, 2, 9)]).unwrap();
    wal.append(&[entry(51, 2, 10)]).unwrap();
    wal.mark().unwrap();
    disk.flip(&disk.paths()[0], first.0 as usize + 41, 4);
    assert!(matches!(open(&disk), Err(WalError::Damaged { .. })));
}

#[test]
fn opening_a_damaged_log_changes_nothing_on_disk() {
    let (disk, ..) = marked_log();
    let path = disk.paths().remove(1);
    disk.flip(&path, 4200, 1);
    let before: Vec<_> = disk.paths().iter().map(|path| disk.bytes(path)).collect();
    let (writes, _) = disk.counts();
    open(&disk).unwrap_err();
    assert_eq!(disk.paths().iter().map(|path| disk.bytes(path)).collect::<Vec<_>>(), before);
    assert_eq!(disk.counts().0, writes);
    assert!(disk.open(&path, Mode::default()).is_ok());
}

#[test]
fn a_config_with_another_folder_does_not_see_the_log() {
    let (disk, ..) = marked_log();
    let config = Config { folder: "elsewhere/wal".to_owned(), ..small() };
    let missing = Wal::open(disk.shared(), config.clone(), None);
    assert!(matches!(missing, Err(WalError::Missing { folder }) if folder == "elsewhere/wal"));
    drop(Wal::create(disk.shared(), config.clone(), IDENTITY, 1).unwrap());
    let crashed = disk.crashed(&mut Dice(0));
    assert!(Wal::open(crashed.shared(), config, Some(IDENTITY)).is_ok());
}

/// A crash between a segment's header and the seal of the one before leaves no seal. Then the records themselves
/// have to prove that their segment was there.
#[test]
fn a_segment_that_lost_its_header_is_damage_also_where_no_seal_names_it() {
    let disk = FaultDisk::new(true);
    let mut wal = Wal::create(disk.shared(), small(), IDENTITY, 1).unwrap();
    let mut index = 0;
    while wal.stats().kept_bytes < 15_000 {
        index += 1;
        wal.append(&[entry(index, 1, 500)]).unwrap();
    }
    disk.fail_after_changes(1);
    let failed = wal.append(&[entry(index + 1, 1, 1000)]);
    assert!(matches!(failed, Err(WalError::Failed { .. })), "the seal's write fails");
    let disk = disk.durable();
    let mut wal = Wal::open(disk.shared(), small(), Some(IDENTITY)).unwrap().0;
    assert_eq!(wal.stats().segments, 2);
    wal.append(&[entry(index + 1, 1, 10)]).unwrap();
    let active = disk.paths().remove(1);
    for tamper in [&[0u8; 4096][..], &[0x55]] {
        let tampered = disk.copy();
        tampered.patch(&active, if tamper.len() == 1 { 100 } else { 0 }, tamper);
        let error = open(&tampered).unwrap_err();
        assert!(matches!(&error, WalError::Damaged { file, .. } if *file == active), "{error}");
    }
}
