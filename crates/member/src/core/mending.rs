//! Mending damaged records: each is asked for at one peer after the other, checked, and put back.
//!
//! A record belongs to one or two rows, and a peer may have only one of them left: a superseded version is in its
//! history alone, a current one may have left the history. So each peer is asked under each row that points at the
//! record here. Invariants:
//!
//! - A record is put back only where it fits what the damaged one still tells, or else the row that points at it.
//! - A record counts as lost only when every peer said twice that it has none (a peer that lags may come to have it),
//!   or when some stayed silent for [`JOB_NANOS_MAX`]. Before the first list of members it is not asked for, nor lost.
//! - The number of records under way is bounded; what is beyond the bound is refused, and found again by the next
//!   read or rewrite.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_ids::{LogIndex, MemberId, Monotonic};
use quorate_store::{FetchedRecord, Location, Stamp, Store, TableId, Wanted};

use crate::frame::Frame;

/// Records that are asked for at a time.
const RECORDS_UNDER_WAY_MAX: usize = 256;
/// A peer that has not answered after this long is passed over, and asked again in the next round.
const ANSWER_NANOS_MAX: u64 = 1_500_000_000;
/// Between two rounds of asking all peers.
const ROUND_PAUSE_NANOS: u64 = 500_000_000;
/// For so long peers that are silent are asked again.
pub const JOB_NANOS_MAX: u64 = 20_000_000_000;

/// What became of a damaged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// It is readable again, or not needed any more.
    Done,
    /// No peer has it.
    Lost,
    /// Too many are asked for already: try again later.
    Busy,
}

/// A question, and whom to ask it.
pub type Ask = (MemberId, Frame);
/// Where a damaged record lies, and what became of it.
pub type Ended = (Location, Mended);

/// What a step of mending came to.
#[derive(Debug, Default)]
pub struct Progress {
    pub asks: Vec<Ask>,
    pub ended: Vec<Ended>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its header is damaged too: the rows are to be looked through.
    Unknown,
    /// A round begins at this time; with the first list of members at the earliest.
    Waits(Monotonic),
    /// This peer was asked at this time.
    Asked(MemberId, Monotonic),
}

struct Job {
    at: Location,
    wanted: Wanted,
    state: State,
    /// Whom to ask in this round, and under which of the owners.
    left: VecDeque<(MemberId, usize)>,
    /// The owner under which the last question was put.
    owner: usize,
    /// Questions so far: an answer names the one that it is for.
    question: u32,
    rounds: u32,
    /// Somebody did not answer in this round.
    silent: bool,
    first_asked: Option<Monotonic>,
}

/// See the module.
#[derive(Default)]
pub struct Mending {
    jobs: BTreeMap<u32, Job>,
    last_job: u32,
    /// `None` before the first list of members.
    peers: Option<Vec<MemberId>>,
}

impl Mending {
    /// Whom to ask.
    pub fn set_peers(&mut self, peers: Vec<MemberId>) {
        self.peers = Some(peers);
    }

    /// Takes a damaged record in.
    pub fn begin(&mut self, at: Location, store: &Store, now: Monotonic) -> Progress {
        let mut progress = Progress::default();
        if self.jobs.values().any(|job| job.at == at) {
            return progress;
        }
        if self.jobs.len() >= RECORDS_UNDER_WAY_MAX {
            progress.ended.push((at, Mended::Busy));
            return progress;
        }
        let header = store.wanted_by_header(at);
        let state = if header.is_some() { State::Waits(now) } else { State::Unknown };
        self.last_job = self.last_job.wrapping_add(1);
        let job = Job {
            at,
            wanted: header.unwrap_or_default(),
            state,
            left: VecDeque::new(),
            owner: 0,
            question: 0,
            rounds: 0,
            silent: false,
            first_asked: None,
        };
        self.jobs.insert(self.last_job, job);
        self.go_on(self.last_job, store, now, &mut progress);
        progress
    }

    /// Does for a job what can be done now.
    fn go_on(&mut self, number: u32, store: &Store, now: Monotonic, progress: &mut Progress) {
        let (Some(peers), Some(job)) = (&self.peers, self.jobs.get_mut(&number)) else { return };
        let outcome = match job.state {
            State::Waits(until) if until <= now => job.begin_round(peers, store, now),
            State::Asked(peer, since) if now.since(since) > ANSWER_NANOS_MAX => {
                job.passes_over(peer);
                None
            }
            State::Unknown | State::Waits(_) | State::Asked(..) => return,
        };
        if let Some(outcome) = outcome.or_else(|| job.next(number, now, progress)) {
            self.end(number, outcome, store, progress);
        }
    }

    fn end(&mut self, number: u32, outcome: Mended, store: &Store, progress: &mut Progress) {
        let Some(Job { at, .. }) = self.jobs.remove(&number) else { return };
        // What nobody has may have become what nobody needs.
        let needed = || store.wanted_by_rows(&[at]).iter().any(|wanted| !wanted.owners.is_empty());
        let outcome = if outcome == Mended::Lost && !needed() { Mended::Done } else { outcome };
        if outcome == Mended::Done {
            // Also where nobody had to be asked: what waits for this record must not wait for another attempt.
            store.settled(at);
        }
        progress.ended.push((at, outcome));
    }

    /// A peer answered: puts the record back, or says whom to ask next.
    pub fn answered(
        &mut self,
        from: MemberId,
        request: u64,
        record: Option<&Bytes>,
        store: &Store,
        now: Monotonic,
    ) -> Progress {
        let mut progress = Progress::default();
        let (number, question) = ((request >> 32) as u32, request as u32);
        let Some(job) = self.jobs.get_mut(&number).filter(|job| job.question == question) else {
            return progress;
        };
        if !matches!(job.state, State::Asked(peer, _) if peer == from) {
            return progress;
        }
        let mut outcome = None;
        if let Some(good) = record.and_then(decode_record) {
            let (table, key) = &job.wanted.owners[job.owner];
            match store.mend(*table, key, job.at, &good) {
                Ok(_) => outcome = Some(Mended::Done),
                Err(error) => tracing::debug!(peer = %from, %error, "a peer's copy of a record does not fit"),
            }
        }
        if let Some(outcome) = outcome.or_else(|| job.next(number, now, &mut progress)) {
            self.end(number, outcome, store, &mut progress);
        }
        progress
    }

    /// Begins rounds that are due, and passes over peers that do not answer.
    pub fn tick(&mut self, store: &Store, now: Monotonic) -> Progress {
        let mut progress = Progress::default();
        let unknown: Vec<u32> =
            self.jobs.iter().filter(|(_, job)| job.state == State::Unknown).map(|(n, _)| *n).collect();
        if !unknown.is_empty() {
            let places: Vec<Location> = unknown.iter().map(|number| self.jobs[number].at).collect();
            for (number, wanted) in unknown.iter().zip(store.wanted_by_rows(&places)) {
                let job = self.jobs.get_mut(number).expect("just looked at");
                (job.wanted, job.state) = (wanted, State::Waits(now));
            }
        }
        let all: Vec<u32> = self.jobs.keys().copied().collect();
        for number in all {
            self.go_on(number, store, now, &mut progress);
        }
        progress
    }
}

impl Job {
    /// Every peer is to be asked under every owner, the owners that are still there.
    fn begin_round(&mut self, peers: &[MemberId], store: &Store, now: Monotonic) -> Option<Mended> {
        if let Some(wanted) = store.wanted_by_header(self.at) {
            self.wanted = wanted;
        }
        if self.wanted.owners.is_empty() {
            return Some(Mended::Done);
        }
        let owners = self.wanted.owners.len();
        self.left = peers.iter().flat_map(|&peer| (0..owners).map(move |owner| (peer, owner))).collect();
        // Peers take turns in being first: one that is silent delays a single round.
        self.left.rotate_left(self.rounds as usize % peers.len().max(1) * owners);
        self.rounds += 1;
        self.silent = false;
        self.first_asked.get_or_insert(now);
        self.left.is_empty().then_some(Mended::Lost)
    }

    fn passes_over(&mut self, peer: MemberId) {
        self.silent = true;
        self.left.retain(|(other, _)| *other != peer);
    }

    /// Asks the next one; at the end of a round says whether the record is lost.
    fn next(&mut self, number: u32, now: Monotonic, progress: &mut Progress) -> Option<Mended> {
        let Some((peer, owner)) = self.left.pop_front() else {
            let denied = !self.silent && self.rounds >= 2;
            let late = self.first_asked.is_some_and(|first| now.since(first) >= JOB_NANOS_MAX);
            self.state = State::Waits(now.plus(ROUND_PAUSE_NANOS));
            return (denied || late).then_some(Mended::Lost);
        };
        self.question = self.question.wrapping_add(1);
        self.owner = owner;
        self.state = State::Asked(peer, now);
        let (table, key) = &self.wanted.owners[owner];
        let stamp = self.wanted.stamp.unwrap_or_default();
        let frame = Frame::RecordRequest {
            request: u64::from(number) << 32 | u64::from(self.question),
            table: table.0,
            key: Bytes::copy_from_slice(key),
            index: stamp.index,
            place: stamp.place,
        };
        progress.asks.push((peer, frame));
        None
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
#[path = "mending_tests.rs"]
mod tests;
