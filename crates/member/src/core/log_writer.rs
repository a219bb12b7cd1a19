//! The log writer: makes batches durable, one write and one sync each, in order.
//!
//! Invariant: a batch is reported written only when every byte of it is durable. A batch that found no space is kept
//! and tried again; nothing else enters the log before it. The reserve is drawn on as soon as there is no segment for
//! when this one is full: so what is left of this one is there for what frees space, and for votes.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_consensus::{Entry, EntryKind};
use quorate_ids::{LogIndex, MemberId, Term};
use quorate_wal::{Record, Wal, WalError};

use super::reserve::{Reserve, with_room};
use super::{LogBatch, LogInput};
use crate::frame::Space;

/// Where the next segment could not be prepared, it is tried again after so many batches.
const SPARE_TRIED_EVERY: u32 = 64;

/// See the module.
pub struct LogWriter {
    wal: Wal,
    stuck: Option<LogBatch>,
    marked: bool,
    reserve: Arc<Reserve>,
    /// Batches since the next segment could not be prepared.
    unprepared: Option<u32>,
    told: Space,
}

impl LogWriter {
    #[must_use]
    pub fn new(wal: Wal, reserve: Arc<Reserve>) -> Self {
        Self { wal, stuck: None, marked: true, reserve, unprepared: None, told: Space::Enough }
    }

    /// How much space the log's disk has, if that changed since the last call. To be asked after each other call.
    pub fn space_news(&mut self) -> Option<LogInput> {
        let space = if self.stuck.is_some() || (self.unprepared.is_some() && !self.wal.has_spare()) {
            Space::Last
        } else {
            self.reserve.space()
        };
        (std::mem::replace(&mut self.told, space) != space).then_some(LogInput::LogSpace(space))
    }

    /// Makes `batch` durable and says so; blocks for the disk.
    pub fn step(&mut self, batch: LogBatch) -> LogInput {
        assert!(self.stuck.is_none(), "one write is in flight at a time");
        self.write(batch)
    }

    /// True while a batch waits for space: call [`Self::retry`] again after a while.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Tries the batch that found no space once more.
    pub fn retry(&mut self) -> Option<LogInput> {
        let batch = self.stuck.take()?;
        Some(self.write(batch))
    }

    /// An idle log writes a mark, so that its last batch is provably synced.
    pub fn idle(&mut self) -> Option<LogInput> {
        if self.unprepared.is_some() && self.stuck.is_none() {
            self.prepare();
        }
        self.give_back_spares();
        if self.marked || self.stuck.is_some() {
            return None;
        }
        self.marked = true;
        match self.wal.mark() {
            Ok(_) | Err(WalError::NoSpace { .. }) => None,
            Err(error) => Some(LogInput::Failed { reason: error.to_string() }),
        }
    }

    fn write(&mut self, batch: LogBatch) -> LogInput {
        match with_room(|| append(&mut self.wal, &batch), is_no_space, || self.reserve.give()) {
            Ok(()) => {
                self.marked = false;
                self.look_after_spare();
                LogInput::Written { number: batch.number }
            }
            Err(WalError::NoSpace { .. }) => {
                self.stuck = Some(batch);
                LogInput::NoSpace
            }
            Err(error) => LogInput::Failed { reason: error.to_string() },
        }
    }

    /// The log prepares its next segment by itself; where it found no space for that, the reserve has some.
    fn look_after_spare(&mut self) {
        match &mut self.unprepared {
            _ if self.wal.has_spare() => self.unprepared = None,
            Some(batches) if *batches < SPARE_TRIED_EVERY => *batches += 1,
            _ => self.prepare(),
        }
    }

    /// On a full disk the log does with one spare: another's space may be what a checkpoint, or a snapshot, lacks.
    fn give_back_spares(&mut self) {
        if self.reserve.space().is_full()
            && let Err(error) = self.wal.keep_one_spare()
        {
            tracing::warn!(%error, "a spare segment of the log can't be removed");
        }
    }

    fn prepare(&mut self) {
        let prepared = with_room(|| self.wal.prepare_spare(), is_no_space, || self.reserve.give());
        // Whatever else is wrong shows once a segment is needed.
        self.unprepared = prepared.is_err_and(|error| is_no_space(&error)).then_some(0);
    }
}

fn is_no_space(error: &WalError) -> bool {
    matches!(error, WalError::NoSpace { .. })
}

fn append(wal: &mut Wal, batch: &LogBatch) -> Result<(), WalError> {
    let restart = batch.restart.map(|(point, store_generation)| Record::Restart {
        index: point.index,
        term: point.term,
        store_generation,
    });
    let entries = batch.entries.iter().map(|entry| Record::Entry {
        index: entry.index,
        term: entry.term,
        payload: payload_of(entry),
    });
    let hard_state = batch.hard_state.map(|hard_state| {
        Record::HardState(quorate_wal::HardState {
            term: hard_state.term,
            vote: hard_state.vote.unwrap_or(MemberId::ZERO),
            commit: hard_state.commit,
        })
    });
    let records: Vec<Record> = restart.into_iter().chain(entries).chain(hard_state).collect();
    if !records.is_empty() {
        wal.append(&records)?;
    }
    if let Some(through) = batch.release {
        wal.release(through)?;
    }
    Ok(())
}

/// What the log stores of an entry: its kind, then its data.
fn payload_of(entry: &Entry) -> Bytes {
    let mut payload = BytesMut::with_capacity(1 + entry.data.len());
    payload.put_u8(entry.kind.code());
    payload.put_slice(&entry.data);
    payload.freeze()
}

/// The entry that a log's record holds; `None` where no known version of this program wrote it.
#[must_use]
pub fn entry_of(index: LogIndex, term: Term, mut payload: Bytes) -> Option<Entry> {
    if payload.is_empty() {
        return None;
    }
    let kind = EntryKind::from_code(payload.get_u8())?;
    Some(Entry { index, term, kind, data: payload })
}
