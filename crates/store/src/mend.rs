//! Mending: a damaged record is replaced by a peer's copy.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::read::{Found, RecordAt};
use crate::record::{FetchedRecord, decode_head};
use crate::{BodyError, Location, Stamp, Store, TableId, Tables};

/// Places of mended records that are remembered.
const MOVED_MAX: usize = 4096;
/// Rows looked at in one hold of the read lock.
const ROWS_PER_LOCK: usize = 256;

/// Why a peer's copy was not taken.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error("the fetched record does not belong to the key that was asked for; ask another peer")]
    OtherOwner,
    #[error("the fetched record is another version of the key; ask again, or another peer")]
    OtherVersion,
}

/// What is known of a record that can't be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The rows that point at it. None: nobody needs it any more, or it can be read again.
    pub owners: Vec<(TableId, Vec<u8>)>,
    /// Which record it is, where its header is intact.
    pub stamp: Option<Stamp>,
}

/// What a check of bodies found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Keys whose bodies cannot be served, and where those lie.
    pub damaged: Vec<(Vec<u8>, Location, BodyError)>,
    /// Where to go on, if there is more.
    pub next: Option<Vec<u8>>,
}

impl Store {
    /// The record that the row of `table` and `key` points at, for a peer that has lost it. With a stamp, only that
    /// very record. `None` where there is no such row, no body, or another version. Waits for the disk.
    pub fn record(
        &self,
        table: TableId,
        key: &[u8],
        stamp: Option<Stamp>,
    ) -> Result<Option<FetchedRecord>, BodyError> {
        let (head, body, row) = {
            let tables = self.read();
            let Some(entry) = tables.get(table, key) else { return Ok(None) };
            let Some(at) = entry.body else { return Ok(None) };
            let row = entry.row.to_vec();
            match tables.find(at) {
                Found::Gone => return Err(BodyError::Gone { segment: at.segment }),
                Found::Here(body) => {
                    let inward = tables.place(at).expect("found in memory");
                    let head = tables.resident_head(inward).expect("its body is in memory, so is its head");
                    (Ok((head, tables.salt(inward))), body, row)
                }
                Found::OnDisk(record) => (Err(record), bytes::Bytes::new(), row),
            }
        };
        let fetched = match head {
            Ok((head, place)) => {
                let head = decode_head(&head, place.0, place.1).expect("what is in memory was encoded here");
                fetched(&head, body, row)
            }
            Err(record) => {
                let read = record.read()?;
                fetched(&read.head(), read.body(), row)
            }
        };
        let wanted = stamp.is_none_or(|stamp| stamp == fetched.stamp) && fetched.is_owned_by(table, key);
        Ok(wanted.then_some(fetched))
    }

    /// What is known of a record that can't be read, by its header; `None` where that is damaged too, so that only
    /// [`Self::wanted_by_rows`] can tell. Waits for the disk.
    pub fn wanted_by_header(&self, at: Location) -> Option<Wanted> {
        let _pin = self.pin();
        let found = self.read().find(at);
        let Found::OnDisk(record) = found else { return Some(Wanted::default()) };
        let bytes = record.read_head()?;
        let head =
            decode_head(&bytes, record.file.salt(), record.at.offset).expect("checked when it was read");
        let tables = self.read();
        let owners = [Some(head.owners.first), head.owners.second].into_iter().flatten();
        let owners = owners.filter(|&(table, key)| tables.points_at(table, key, record.at));
        let owners = owners.map(|(table, key)| (table, key.to_vec())).collect();
        Some(Wanted { owners, stamp: Some(head.stamp) })
    }

    /// Who needs the records at these places: looks through all rows, a slice in each hold of the lock.
    #[must_use]
    pub fn wanted_by_rows(&self, places: &[Location]) -> Vec<Wanted> {
        let mut found = vec![Wanted::default(); places.len()];
        let mut wanted: BTreeMap<Location, Vec<usize>> = BTreeMap::new();
        for (number, &at) in places.iter().enumerate() {
            if let Some(at) = self.read().place(at) {
                wanted.entry(at).or_default().push(number);
            }
        }
        let (mut table, mut from) = (TableId(0), Vec::new());
        loop {
            let done = self.read().look(&mut table, &mut from, &mut |table, key, at| {
                for &number in wanted.get(&at).into_iter().flatten() {
                    found[number].owners.push((table, key.to_vec()));
                }
            });
            if done {
                return found;
            }
        }
    }

    /// Puts a peer's copy in the place of the damaged record at `at`, which was asked for under `table` and `key`.
    /// Whatever the damaged record still tells must agree with the copy; where its header tells nothing, the copy must
    /// carry the row that points at it. From then on `at` leads to the new place. Returns that; `None` if no row
    /// points at the record any more, so that it needs no mending.
    pub fn mend(
        &self,
        table: TableId,
        key: &[u8],
        at: Location,
        good: &FetchedRecord,
    ) -> Result<Option<Location>, MendError> {
        if !good.is_owned_by(table, key) {
            return Err(MendError::OtherOwner);
        }
        if good.body.len() != at.len as usize {
            return Err(MendError::OtherVersion);
        }
        let found = self.read().find(at);
        let is_known = match found {
            Found::OnDisk(record) => check_against(&record, good)?,
            Found::Here(_) | Found::Gone => return Ok(None),
        };
        let mut tables = self.write();
        let Some(inward) = tables.place(at) else { return Ok(None) };
        let owners = good.owners();
        let owned = |(table, key): (TableId, &[u8])| tables.points_at(table, key, inward);
        let pointing: Vec<_> =
            [Some(owners.first), owners.second].into_iter().flatten().filter(|&o| owned(o)).collect();
        if pointing.is_empty() {
            return Ok(None);
        }
        let same_row = || tables.get(table, key).is_some_and(|entry| entry.row == good.row);
        let fits = is_known || owned((table, key)) && same_row();
        if !fits {
            return Err(MendError::OtherVersion);
        }
        let to = tables.append_stamped(good.stamp, owners, &[&good.body]);
        for (table, key) in pointing {
            tables.repoint(table, key, to);
        }
        tables.retire_inward(inward);
        tables.lead_on(inward, to);
        self.suspects().unmended.remove(&inward.segment);
        Ok(tables.outward(Some(to)))
    }

    /// The damaged record that was at `at` is readable again, or not needed any more: its segment may be rewritten.
    pub fn settled(&self, at: Location) {
        let inward = self.read().inward(at);
        if let Some(inward) = inward {
            self.suspects().unmended.remove(&inward.segment);
        }
    }

    /// Reads the bodies of up to `keys_max` keys of `table` from `from` on, for a check of all that is stored. Waits
    /// for the disk.
    pub fn verify(&self, table: TableId, from: &[u8], keys_max: usize) -> Result<Verified, BodyError> {
        let _pin = self.pin();
        let (mut bodies, mut next) = (Vec::new(), None);
        self.read().scan(table, from, None, &mut |key, entry| {
            if bodies.len() == keys_max {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            bodies.push((key.to_vec(), entry.body));
            ControlFlow::Continue(())
        });
        let mut damaged = Vec::new();
        for (key, at) in bodies {
            match at.map(|at| (at, self.load(at))) {
                Some((_, Err(error @ BodyError::Io { .. }))) => return Err(error),
                Some((at, Err(error))) => damaged.push((key, at, error)),
                Some((_, Ok(_))) | None => {}
            }
        }
        Ok(Verified { damaged, next })
    }
}

impl Tables {
    /// From now on the place of a record that was mended leads to the new one. Bounded: the oldest segments' go first.
    fn lead_on(&mut self, from: Location, to: Location) {
        if self.moved.len() >= MOVED_MAX {
            self.moved.pop_first();
        }
        self.moved.insert(from, to);
    }

    /// Visits the bodies of the next rows, from this table and key on; true behind the last row of all tables.
    pub(crate) fn look(
        &self,
        table: &mut TableId,
        from: &mut Vec<u8>,
        visit: &mut dyn FnMut(TableId, &[u8], Location),
    ) -> bool {
        let Some((&current, rows)) = self.rows.range(*table..).next() else { return true };
        if current != *table {
            *table = current;
            from.clear();
        }
        let mut left = ROWS_PER_LOCK;
        let mut next = None;
        rows.scan(from, None, &mut |key, body, _| {
            if left == 0 {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            left -= 1;
            if let Some(at) = body {
                visit(current, key, at);
            }
            ControlFlow::Continue(())
        });
        match (next, current.0.checked_add(1)) {
            (Some(key), _) => *from = key,
            (None, Some(after)) => {
                *table = TableId(after);
                from.clear();
            }
            (None, None) => return true,
        }
        false
    }

    /// Salt and offset: what a head's checksum is seeded with.
    pub(crate) fn salt(&self, at: Location) -> (u32, u32) {
        (self.segments.get(&at.segment).expect("a segment in memory is known").file.salt(), at.offset)
    }
}

fn fetched(head: &crate::record::Head<'_>, body: bytes::Bytes, row: Vec<u8>) -> FetchedRecord {
    let owned = |(table, key): (TableId, &[u8])| (table, key.to_vec());
    FetchedRecord {
        stamp: head.stamp,
        first: owned(head.owners.first),
        second: head.owners.second.map(owned),
        row,
        body,
    }
}

/// Where the damaged record's head is intact (true), the copy must be that very record.
fn check_against(record: &RecordAt, good: &FetchedRecord) -> Result<bool, MendError> {
    let Some(bytes) = record.read_head() else { return Ok(false) };
    let head = decode_head(&bytes, record.file.salt(), record.at.offset).expect("checked when it was read");
    let owners = good.owners();
    if head.owners.first != owners.first || head.owners.second != owners.second {
        return Err(MendError::OtherOwner);
    }
    if head.stamp != good.stamp || !head.fits(&good.body) {
        return Err(MendError::OtherVersion);
    }
    Ok(true)
}
