//! The log writer: makes batches durable, one write and one sync each, in order.
//!
//! Invariant: a batch is reported written only when every byte of it is durable. A batch that found no space is kept
//! and tried again; nothing else enters the log before it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_consensus::{Entry, EntryKind};
use quorate_ids::{LogIndex, MemberId, Term};
use quorate_wal::{Record, Wal, WalError};

use super::{LogBatch, LogInput};

/// See the module.
pub struct LogWriter {
    wal: Wal,
    stuck: Option<LogBatch>,
    marked: bool,
}

impl LogWriter {
    #[must_use]
    pub fn new(wal: Wal) -> Self {
        Self { wal, stuck: None, marked: true }
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
        match self.append(&batch) {
            Ok(()) => {
                self.marked = false;
                LogInput::Written { number: batch.number }
            }
            Err(WalError::NoSpace { .. }) => {
                self.stuck = Some(batch);
                LogInput::NoSpace
            }
            Err(error) => LogInput::Failed { reason: error.to_string() },
        }
    }

    fn append(&mut self, batch: &LogBatch) -> Result<(), WalError> {
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
            self.wal.append(&records)?;
        }
        if let Some(through) = batch.release {
            self.wal.release(through)?;
        }
        Ok(())
    }
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
