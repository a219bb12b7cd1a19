//! Mending: a damaged record is replaced by a peer's copy.

use std::ops::ControlFlow;

use crate::read::{Found, RecordAt};
use crate::record::{FetchedRecord, decode_head};
use crate::{BodyError, Location, Stamp, Store, TableId, Tables};

/// Why a peer's copy was not taken.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error("the fetched record does not belong to the key that was asked for; ask another peer")]
    OtherOwner,
    #[error("the fetched record is another version of the key; ask again, or another peer")]
    OtherVersion,
}

/// What a check of bodies found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Keys whose bodies cannot be served.
    pub damaged: Vec<(Vec<u8>, BodyError)>,
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
                    let inward = tables.inward(at).expect("found in memory");
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

    /// Puts a peer's copy in the place of the damaged record at `at`, which the row of `table` and `key` points at.
    /// The copy must carry the same row, and whatever the damaged record still tells must agree with it. Returns
    /// where the record is now; `None` if the row has moved on meanwhile and needs no mending.
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
        if let Found::OnDisk(record) = found {
            check_against(&record, good)?;
        }
        let mut keeper = self.keeper();
        let mut tables = self.write();
        let Some(inward) = tables.inward(at) else { return Ok(None) };
        let owners = good.owners();
        let owned = |(table, key): (TableId, &[u8])| tables.points_at(table, key, inward);
        if !owned((table, key)) {
            return Ok(None);
        }
        if tables.get(table, key).is_none_or(|entry| entry.row != good.row) {
            return Err(MendError::OtherVersion);
        }
        let pointing: Vec<_> =
            [Some(owners.first), owners.second].into_iter().flatten().filter(|&o| owned(o)).collect();
        let to = tables.append_stamped(good.stamp, owners, &[&good.body]);
        for (table, key) in pointing {
            tables.repoint(table, key, to);
        }
        tables.retire_inward(inward);
        keeper.damaged.remove(&inward.segment);
        Ok(tables.outward(Some(to)))
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
            match at.map(|at| self.load(at)) {
                Some(Err(error @ BodyError::Io { .. })) => return Err(error),
                Some(Err(error)) => damaged.push((key, error)),
                Some(Ok(_)) | None => {}
            }
        }
        Ok(Verified { damaged, next })
    }
}

impl Tables {
    /// Salt and offset: what a head's checksum is seeded with.
    fn salt(&self, at: Location) -> (u32, u32) {
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

/// Where the damaged record's head is intact, the copy must be that very record.
fn check_against(record: &RecordAt, good: &FetchedRecord) -> Result<(), MendError> {
    let Some(bytes) = record.read_head() else { return Ok(()) };
    let head = decode_head(&bytes, record.file.salt(), record.at.offset).expect("checked when it was read");
    let owners = good.owners();
    if head.owners.first != owners.first || head.owners.second != owners.second {
        return Err(MendError::OtherOwner);
    }
    if head.stamp != good.stamp || !head.fits(&good.body) {
        return Err(MendError::OtherVersion);
    }
    Ok(())
}
