//! Rewriting: a segment with little left alive gives its space back.
//!
//! Its live records are appended to the front anew (same stamp, same owners) and their rows point at the new place;
//! rows and hashes do not change. The segment goes with the checkpoint that holds the last of the moves, and is
//! unlinked once no pin is older. Invariants:
//!
//! - Only a sealed, durable segment is rewritten: none that the front or a frozen front still writes to.
//! - A segment is given up only when every record in it was seen (the manifest counts them) and none is owned any
//!   more. Where a damaged header hides records, the index is searched for rows that point into the segment.
//! - What can't be read from the file and is in memory still is moved from there; only what is in neither is damaged.

use std::collections::BTreeSet;

use crate::config::{PIECE_BYTES, SEGMENT_BLOCK_BYTES};
use crate::read::RecordAt;
use crate::record::{Head, RECORD_HEADER_BYTES, decode_head};
use crate::scan::{SegmentScan, Window};
use crate::{Location, Store, StoreConfig, StoreError, TableId, Tables};

/// Rows looked at, or records moved, in one hold of a lock.
const RECORDS_PER_LOCK: usize = 64;
/// The last segment is sealed early only once it has this part of a whole one's size,
const TAIL_SEALED_FROM: u32 = 8;
/// and less than this alive.
const TAIL_ALIVE_PERCENT: u64 = 25;
/// Bytes moved in one hold of the write lock, unless a single record is larger.
const BYTES_PER_LOCK: usize = 64 * 1024;

/// A record that is needed and damaged: fetch it from a peer and [`Store::mend`] it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRecord {
    pub table: TableId,
    pub key: Vec<u8>,
    pub at: Location,
}

/// What a step of rewriting came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewriteStep {
    /// No segment is worth it.
    Idle,
    /// The front has no room for moved records: checkpoint, then call again.
    Full,
    /// A part is done, call again. `read_bytes` were read from disk, `moved_bytes` appended to the front.
    More { read_bytes: u64, moved_bytes: u64 },
    /// All live records of a segment are in the front: its space comes back after the next checkpoint.
    Vacated { segment: u32 },
    /// A segment can't be given up before these are mended. It is left alone until then.
    Damaged { segment: u32, records: Vec<DamagedRecord> },
}

enum Mode {
    /// Going through the file.
    File { offset: u32, records: u32 },
    /// Going through all rows; from this table and key on.
    Index { table: TableId, key: Vec<u8> },
}

pub(crate) struct Rewriting {
    segment: u32,
    scan: SegmentScan,
    records: u32,
    mode: Mode,
    damaged: Vec<DamagedRecord>,
}

impl Store {
    /// Goes on rewriting, or starts with the segment that has the least alive. Reads at most about `budget_bytes`
    /// from disk; holds the write lock for at most 64 records or 64 KiB (or one record) at a time.
    pub fn rewrite_step(&self, budget_bytes: usize) -> Result<RewriteStep, StoreError> {
        self.keeper().work(|keeper| {
            {
                let tables = self.read();
                if tables.front_room() < tables.config.front_bytes_max / 2 {
                    return Ok(RewriteStep::Full);
                }
            }
            let mut rewriting = match keeper.rewriting.take() {
                Some(rewriting) => rewriting,
                None => match self.choose_segment() {
                    Some(rewriting) => rewriting,
                    None => return Ok(RewriteStep::Idle),
                },
            };
            let step = match rewriting.mode {
                Mode::File { .. } => self.rewrite_file(&mut rewriting, budget_bytes),
                Mode::Index { .. } => self.rewrite_index(&mut rewriting),
            };
            match step {
                Some(step) => {
                    keeper.rewriting = Some(rewriting);
                    Ok(step)
                }
                None => Ok(self.finish_rewriting(rewriting)),
            }
        })
    }

    fn choose_segment(&self) -> Option<Rewriting> {
        let (unmended, condemned) = {
            let suspects = self.suspects();
            (suspects.unmended.clone(), suspects.condemned.clone())
        };
        let chosen = self.read().rewriting(&unmended, &condemned);
        chosen.or_else(|| {
            let sealed = self.write().seal_sparse_tail();
            if sealed { self.read().rewriting(&unmended, &condemned) } else { None }
        })
    }

    fn finish_rewriting(&self, rewriting: Rewriting) -> RewriteStep {
        let mut tables = self.write();
        let outward = rewriting.segment + tables.segment_base;
        if !rewriting.damaged.is_empty() {
            self.suspects().unmended.insert(rewriting.segment);
            return RewriteStep::Damaged { segment: outward, records: rewriting.damaged };
        }
        tables.segments.get_mut(&rewriting.segment).expect("a segment under rewriting is known").vacated =
            true;
        tables.front.vacated.push(rewriting.segment);
        RewriteStep::Vacated { segment: outward }
    }

    /// One window of the file; `None` at its end.
    fn rewrite_file(&self, rewriting: &mut Rewriting, budget: usize) -> Option<RewriteStep> {
        let Mode::File { offset, records } = rewriting.mode else { unreachable!("the caller looked") };
        if offset >= rewriting.scan.end {
            if records == rewriting.records {
                return None;
            }
            rewriting.search_index();
            return Some(RewriteStep::More { read_bytes: 0, moved_bytes: 0 });
        }
        let Ok(window) = rewriting.scan.read_window(offset, budget.max(PIECE_BYTES)) else {
            // Not all of the file can be read; what still can is found from the index.
            rewriting.search_index();
            return Some(RewriteStep::More { read_bytes: 0, moved_bytes: 0 });
        };
        let mut moved_bytes = 0;
        for slice in window.records.chunks(RECORDS_PER_LOCK) {
            moved_bytes += self.move_slice(rewriting, offset, &window, slice);
        }
        let read_bytes = window.bytes.len() as u64;
        rewriting.mode = Mode::File {
            offset: offset + window.used as u32,
            records: records + window.records.len() as u32,
        };
        if window.lost {
            rewriting.search_index();
        }
        Some(RewriteStep::More { read_bytes, moved_bytes })
    }

    fn move_slice(
        &self,
        rewriting: &mut Rewriting,
        offset: u32,
        window: &Window,
        slice: &[(usize, usize, usize)],
    ) -> u64 {
        let record = |&record: &(usize, usize, usize)| {
            let (offset, head, body) = window.record(record, offset, rewriting.scan.file.salt());
            (Location { segment: rewriting.segment, offset, len: body.len() as u32 }, head, body)
        };
        let live: Vec<_> = {
            let tables = self.read();
            slice.iter().map(record).filter(|(at, head, _)| tables.is_owned(head, *at)).collect()
        };
        let (sound, damaged): (Vec<_>, Vec<_>) =
            live.into_iter().partition(|(_, head, body)| head.fits(body));
        let mut moved = 0;
        let mut sound = sound.into_iter().peekable();
        while sound.peek().is_some() {
            let mut tables = self.write();
            let mut held = 0;
            while held < BYTES_PER_LOCK
                && let Some((at, head, body)) = sound.next()
            {
                held += tables.move_record(&head, body, at);
            }
            moved += held as u64;
        }
        let base = self.read().segment_base;
        for (at, head, _) in damaged {
            if let Some(bytes) = self.write().move_resident(at) {
                moved += bytes as u64;
                continue;
            }
            let (table, key) = head.owners.first;
            let at = Location { segment: at.segment + base, ..at };
            rewriting.damaged.push(DamagedRecord { table, key: key.to_vec(), at });
        }
        moved
    }

    /// One slice of the index; `None` behind the last row.
    fn rewrite_index(&self, rewriting: &mut Rewriting) -> Option<RewriteStep> {
        let Mode::Index { table, key } = &mut rewriting.mode else { unreachable!("the caller looked") };
        let mut found: Vec<(TableId, Vec<u8>, RecordAt)> = Vec::new();
        let done = self.read().search(rewriting.segment, table, key, &mut found);
        let (mut read_bytes, mut moved_bytes) = (0, 0);
        for (table, key, record) in found {
            // A sector that cannot be read is as good as a damaged one: a peer has the record.
            if let Ok(read) = record.read() {
                let (head, body) = (read.head(), read.body());
                read_bytes += body.len() as u64;
                if head.is_owner(table, &key) {
                    moved_bytes += self.write().move_record(&head, &body, record.at) as u64;
                    continue;
                }
            }
            if let Some(bytes) = self.write().move_resident(record.at) {
                moved_bytes += bytes as u64;
                continue;
            }
            let at = Location { segment: record.outward_segment, ..record.at };
            rewriting.damaged.push(DamagedRecord { table, key, at });
        }
        (!done).then_some(RewriteStep::More { read_bytes, moved_bytes })
    }
}

impl Rewriting {
    fn search_index(&mut self) {
        self.damaged.clear();
        self.mode = Mode::Index { table: TableId(0), key: Vec::new() };
    }
}

impl Head<'_> {
    fn is_owner(&self, table: TableId, key: &[u8]) -> bool {
        self.owners.first == (table, key) || self.owners.second == Some((table, key))
    }
}

impl Tables {
    /// The segment that is most worth rewriting, if one is.
    fn rewriting(&self, unmended: &BTreeSet<u32>, condemned: &BTreeSet<u32>) -> Option<Rewriting> {
        let writing = |number: u32| {
            let frozen = self.frozen.iter().flat_map(|frozen| &frozen.front.extents);
            self.tail.is_some_and(|(tail, _)| tail == number)
                || self.front.extents.iter().chain(frozen).any(|extent| extent.segment == number)
        };
        let sealed = || {
            self.segments.iter().filter(move |&(&number, segment)| {
                segment.durable_bytes > 0
                    && !segment.vacated
                    && !unmended.contains(&number)
                    && !writing(number)
            })
        };
        let StoreConfig { rewrite_below_percent, small_segments_max, segment_bytes_max, .. } = self.config;
        let sparse = sealed()
            .filter(|(_, s)| {
                s.weight_live.saturating_mul(100) < s.weight_total * u64::from(rewrite_below_percent)
            })
            .min_by_key(|(_, s)| (s.weight_live.saturating_mul(1000) / s.weight_total.max(1), s.weight_live));
        let small = || sealed().filter(|(_, s)| s.durable_bytes < segment_bytes_max / 8);
        let mut damaged = sealed().filter(|(number, _)| condemned.contains(number));
        let chosen = damaged.next();
        let chosen = chosen
            .or(sparse)
            .or_else(|| if small().count() > small_segments_max { small().next() } else { None });
        chosen.map(|(&number, segment)| Rewriting {
            segment: number,
            scan: SegmentScan { file: segment.file.clone(), end: segment.durable_bytes },
            records: segment.durable_records,
            mode: Mode::File { offset: SEGMENT_BLOCK_BYTES, records: 0 },
            damaged: Vec::new(),
        })
    }

    /// The segment that is being extended is not rewritten. Where hardly anything of it is alive, it is not extended any
    /// more: else it would keep its space until much more was written. True if it can be rewritten at once.
    fn seal_sparse_tail(&mut self) -> bool {
        let Some((number, _)) = self.tail else { return false };
        let Some(segment) = self.segments.get(&number) else { return false };
        let is_large = segment.durable_bytes >= self.config.segment_bytes_max / TAIL_SEALED_FROM;
        if !is_large || segment.weight_live.saturating_mul(100 / TAIL_ALIVE_PERCENT) >= segment.weight_total {
            return false;
        }
        self.tail = None;
        true
    }

    fn is_owned(&self, head: &Head<'_>, at: Location) -> bool {
        let first = self.points_at(head.owners.first.0, head.owners.first.1, at);
        first || head.owners.second.is_some_and(|(table, key)| self.points_at(table, key, at))
    }

    /// Moves a record to the front if it is still owned; the bytes that it takes there.
    pub(crate) fn move_record(&mut self, head: &Head<'_>, body: &[u8], at: Location) -> usize {
        if !self.is_owned(head, at) {
            return 0;
        }
        let to = self.append_stamped(head.stamp, head.owners, &[body]);
        for (table, key) in [Some(head.owners.first), head.owners.second].into_iter().flatten() {
            if self.points_at(table, key, at) {
                self.repoint(table, key, to);
            }
        }
        self.retire_inward(at);
        RECORD_HEADER_BYTES + body.len()
    }

    /// Moves a record that can't be read from its file, but is in memory still: nobody mends what can be read here. `None`
    /// where it is not.
    fn move_resident(&mut self, at: Location) -> Option<usize> {
        let (head, body) = self.resident_head(at).zip(self.resident_body(at))?;
        let (salt, offset) = self.salt(at);
        let head = decode_head(&head, salt, offset).expect("what is in memory was encoded here");
        Some(self.move_record(&head, &body, at))
    }

    /// Looks at the next rows for those that point into `segment`; true behind the last row of all tables.
    fn search(
        &self,
        segment: u32,
        table: &mut TableId,
        from: &mut Vec<u8>,
        found: &mut Vec<(TableId, Vec<u8>, RecordAt)>,
    ) -> bool {
        self.look(table, from, &mut |table, key, at| {
            if at.segment == segment
                && let Some(known) = self.segments.get(&segment)
            {
                let record = RecordAt {
                    file: known.file.clone(),
                    at,
                    end: known.durable_bytes,
                    outward_segment: segment + self.segment_base,
                };
                found.push((table, key.to_vec(), record));
            }
        })
    }
}
