//! Mending damaged records: each is asked for at one peer after the other, checked, and put back.
//!
//! Invariants: a record is put back only where it fits the row that points at it; the number of records under way is
//! bounded, and what is beyond the bound is found again by the next read or rewrite.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_ids::{LogIndex, MemberId, Monotonic};
use quorate_store::{FetchedRecord, Location, Stamp, Store, TableId};

use crate::frame::Frame;

/// Records that are asked for at a time.
const RECORDS_UNDER_WAY_MAX: usize = 256;
/// A peer that has not answered after this long is passed over.
const ANSWER_NANOS_MAX: u64 = 2_000_000_000;

/// A record that can't be read here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub table: TableId,
    pub key: Vec<u8>,
    /// Known where the record's header is intact.
    pub stamp: Option<Stamp>,
    pub at: Location,
}

/// What became of a damaged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// It is readable again, or not needed any more.
    Done,
    /// No peer has it.
    Lost,
}

/// A question, and whom to ask it.
pub type Ask = (MemberId, Frame);
/// A damaged record, and what became of it.
pub type Ended = (Damaged, Mended);

struct Job {
    damaged: Damaged,
    peers_left: Vec<MemberId>,
    asked: Option<MemberId>,
    since: Monotonic,
}

/// See the module.
#[derive(Default)]
pub struct Mending {
    jobs: BTreeMap<u64, Job>,
    requests: u64,
    peers: Vec<MemberId>,
}

impl Mending {
    /// Whom to ask.
    pub fn set_peers(&mut self, peers: Vec<MemberId>) {
        self.peers = peers;
    }

    /// Takes a damaged record in, and says whom to ask for it.
    pub fn begin(&mut self, damaged: Damaged, now: Monotonic) -> Vec<Ask> {
        let known = self.jobs.values().any(|job| job.damaged.at == damaged.at);
        if known || self.jobs.len() >= RECORDS_UNDER_WAY_MAX {
            return Vec::new();
        }
        self.requests += 1;
        let peers_left = self.peers.clone();
        self.jobs.insert(self.requests, Job { damaged, peers_left, asked: None, since: now });
        self.ask(self.requests, now).into_iter().collect()
    }

    fn ask(&mut self, request: u64, now: Monotonic) -> Option<Ask> {
        let job = self.jobs.get_mut(&request)?;
        job.asked = job.peers_left.pop();
        job.since = now;
        let Damaged { table, key, stamp, .. } = &job.damaged;
        let stamp = stamp.unwrap_or_default();
        let key = Bytes::copy_from_slice(key);
        let frame =
            Frame::RecordRequest { request, table: table.0, key, index: stamp.index, place: stamp.place };
        Some((job.asked?, frame))
    }

    /// A peer answered: puts the record back, or says whom to ask next.
    pub fn answered(
        &mut self,
        from: MemberId,
        request: u64,
        record: Option<&Bytes>,
        store: &Store,
        now: Monotonic,
    ) -> (Option<Ended>, Option<Ask>) {
        let Some(job) = self.jobs.get(&request).filter(|job| job.asked == Some(from)) else {
            return (None, None);
        };
        if let Some(good) = record.and_then(decode_record) {
            let Damaged { table, key, at, .. } = &job.damaged;
            match store.mend(*table, key, *at, &good) {
                Ok(_) => {
                    let job = self.jobs.remove(&request).expect("just looked at");
                    return (Some((job.damaged, Mended::Done)), None);
                }
                Err(error) => tracing::debug!(peer = %from, %error, "a peer's copy of a record does not fit"),
            }
        }
        self.go_on(request, now)
    }

    fn go_on(&mut self, request: u64, now: Monotonic) -> (Option<Ended>, Option<Ask>) {
        if let Some(next) = self.ask(request, now) {
            return (None, Some(next));
        }
        let lost = self.jobs.remove(&request).map(|job| (job.damaged, Mended::Lost));
        (lost, None)
    }

    /// Passes over peers that do not answer.
    pub fn tick(&mut self, now: Monotonic) -> (Vec<Ended>, Vec<Ask>) {
        let late = self
            .jobs
            .iter()
            .filter(|(_, job)| job.asked.is_none() || now.since(job.since) > ANSWER_NANOS_MAX);
        let late: Vec<u64> = late.map(|(request, _)| *request).collect();
        let (mut ended, mut asks) = (Vec::new(), Vec::new());
        for request in late {
            let (end, ask) = self.go_on(request, now);
            ended.extend(end);
            asks.extend(ask);
        }
        (ended, asks)
    }
}

/// What this member has of a record that a peer lost.
pub fn answer(store: &Store, request: u64, table: u8, key: &[u8], index: LogIndex, place: u32) -> Frame {
    let stamp = (index > LogIndex::ZERO).then_some(Stamp { index, place });
    let record = match store.record(TableId(table), key, stamp) {
        Ok(record) => record.map(|record| encode_record(&record)),
        Err(error) => {
            tracing::warn!(%error, "a record that a peer asked for can't be read here either");
            None
        }
    };
    Frame::Record { request, record }
}

fn put(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

/// index u64 | place u32 | first owner: table u8, key | second owner: present u8, table u8, key | row | body.
fn encode_record(record: &FetchedRecord) -> Bytes {
    let mut out = BytesMut::with_capacity(record.body.len() + record.row.len() + 128);
    out.put_u64_le(record.stamp.index.0);
    out.put_u32_le(record.stamp.place);
    out.put_u8(record.first.0.0);
    put(&mut out, &record.first.1);
    out.put_u8(u8::from(record.second.is_some()));
    if let Some((table, key)) = &record.second {
        out.put_u8(table.0);
        put(&mut out, key);
    }
    put(&mut out, &record.row);
    put(&mut out, &record.body);
    out.freeze()
}

fn decode_record(bytes: &Bytes) -> Option<FetchedRecord> {
    let mut bytes = bytes.clone();
    let stamp = Stamp { index: LogIndex(bytes.try_get_u64_le().ok()?), place: bytes.try_get_u32_le().ok()? };
    let owner = |bytes: &mut Bytes| Some((TableId(bytes.try_get_u8().ok()?), take(bytes)?.to_vec()));
    let first = owner(&mut bytes)?;
    let second = match bytes.try_get_u8().ok()? {
        0 => None,
        _ => Some(owner(&mut bytes)?),
    };
    let (row, body) = (take(&mut bytes)?.to_vec(), take(&mut bytes)?);
    bytes.is_empty().then_some(FetchedRecord { stamp, first, second, row, body })
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let len = bytes.try_get_u32_le().ok()? as usize;
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(segment: u32) -> Damaged {
        let at = Location { segment, offset: 0, len: 1 };
        Damaged { table: TableId(1), key: b"k".to_vec(), stamp: None, at }
    }

    #[test]
    fn a_record_reads_back_as_written_and_a_cut_one_is_refused() {
        let record = FetchedRecord {
            stamp: Stamp { index: LogIndex(5), place: 6 },
            first: (TableId(1), b"key".to_vec()),
            second: Some((TableId(2), b"other".to_vec())),
            row: b"row".to_vec(),
            body: Bytes::from_static(b"body"),
        };
        let bytes = encode_record(&record);
        assert_eq!(decode_record(&bytes), Some(record));
        for keep in 0..bytes.len() {
            assert_eq!(decode_record(&bytes.slice(..keep)), None);
        }
    }

    #[test]
    fn peers_are_asked_one_after_the_other_and_then_the_record_is_lost() {
        let store = Store::in_memory();
        let mut mending = Mending::default();
        mending.set_peers(vec![MemberId(2), MemberId(3)]);
        let asked = mending.begin(damaged(1), Monotonic(0));
        let [(first, Frame::RecordRequest { request, .. })] = &asked[..] else { panic!("{asked:?}") };
        assert!(mending.begin(damaged(1), Monotonic(0)).is_empty(), "it is asked for already");
        let (ended, next) = mending.answered(*first, *request, None, &store, Monotonic(1));
        assert_eq!(ended, None);
        let second = next.expect("the other peer").0;
        assert_ne!(second, *first);
        let (ended, asks) = mending.tick(Monotonic(1 + ANSWER_NANOS_MAX + 1));
        assert!(asks.is_empty());
        assert_eq!(ended, vec![(damaged(1), Mended::Lost)]);
    }
}
