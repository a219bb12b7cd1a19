//! The log while it is in use: appending, marking, releasing, and moving on from segment to segment.
//!
//! Invariants:
//! - `kept` is never empty; its last segment is the active one, and their sequences follow each other.
//! - A segment's file is in exactly one of `kept`, `released`, `spares`.
//! - Nothing of a released segment is overwritten before the log durably says that it is not needed.
//! - The tail buffer holds exactly what the active segment's last block holds.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use quorate_disk::{AlignedBuf, Disk};
use quorate_ids::LogIndex;

use crate::buffer::TailBuffer;
use crate::error::Failure;
use crate::files::{Folder, SegmentFile};
use crate::format::{self, Content, Frame, SEGMENT_HEADER_BYTES, SegmentHeader, framed_bytes};
use crate::recovery;
use crate::state::State;
use crate::{Config, Identity, Position, Record, Recovered, SEGMENT_RESERVE_BYTES, WalError};

const FRAMED_EMPTY_BYTES: u64 = framed_bytes(0) as u64;
const FRAMED_RELEASE_BYTES: u64 = framed_bytes(16) as u64;
/// What everything else leaves free at a segment's end: a release that frees the next segment, and the seal.
const FRAMED_LAST_BYTES: u64 = FRAMED_RELEASE_BYTES + FRAMED_EMPTY_BYTES;

/// A segment that the log needs.
pub(crate) struct Kept {
    pub file: SegmentFile,
    pub sequence: u64,
    /// Log-wide position of its first byte.
    pub base: u64,
    /// No entry before or at this index is in it.
    pub floor: LogIndex,
    /// No entry after this index that is not superseded is in it. Never less than in the segment before.
    pub last_index: LogIndex,
}

/// What opening and making a log both end in.
pub(crate) struct Parts {
    pub folder: Folder,
    pub identity: Identity,
    pub state: State,
    pub kept: VecDeque<Kept>,
    pub spares: VecDeque<SegmentFile>,
    pub tail: TailBuffer,
    pub generation: u64,
    /// The generation is durable: records may carry it.
    pub started: bool,
    pub chain_crc: u32,
    pub next_number: u64,
}

/// How much the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Segments with records that are still needed, the active one included.
    pub segments: usize,
    /// Segments ready to be taken into use.
    pub spare_segments: usize,
    /// Bytes of the needed segments up to the log's end.
    pub kept_bytes: u64,
    /// The oldest entry still held, or the one that comes next.
    pub first_index: LogIndex,
    pub last_index: LogIndex,
    pub end: Position,
}

/// An open log. One owner; calls block.
pub struct Wal {
    folder: Folder,
    identity: Identity,
    seed: u32,
    state: State,
    kept: VecDeque<Kept>,
    /// No longer needed, but the log does not durably say so yet.
    released: Vec<SegmentFile>,
    /// How many of `released` the next flush says are not needed.
    released_said: usize,
    spares: VecDeque<SegmentFile>,
    tail: TailBuffer,
    header_block: AlignedBuf,
    generation: u64,
    started: bool,
    chain_crc: u32,
    /// Everything below this position is durable.
    synced: u64,
    /// A durable record or header says so about the last record that matters.
    proven: bool,
    next_number: u64,
    /// A segment was taken into use, and nobody tried yet to prepare the next one.
    refill_due: bool,
    failed: Option<Failure>,
}

impl Wal {
    /// Makes a new, empty log for `identity`. It is durable when this returns.
    ///
    /// Errors: [`WalError::Exists`] where the folder has one, [`WalError::NoSpace`] where not even one segment fits.
    pub fn create(
        disk: Arc<dyn Disk>,
        config: Config,
        identity: Identity,
        store_generation: u64,
    ) -> Result<Self, WalError> {
        let folder = Folder::new(disk, config)?;
        let listing = folder.list()?;
        if !listing.segments.is_empty() {
            return Err(WalError::Exists { folder: folder.config().folder.clone() });
        }
        for unfinished in &listing.unfinished {
            folder.remove(&unfinished.path)?;
        }
        let state = State::new(store_generation);
        let header = SegmentHeader {
            segment_size_bytes: folder.config().segment_size_bytes,
            identity,
            sequence: 1,
            generation: 1,
            base: 0,
            previous_end: 0,
            chain_crc: 0,
            state,
            first_sequence: 1,
        };
        let mut block = AlignedBuf::zeroed(SEGMENT_HEADER_BYTES);
        format::encode_header(&header, &mut block);
        let file = folder.prepare(listing.next_number, Some(&block))?;
        folder.sync_names_above()?;
        let first = Kept { file, sequence: 1, base: 0, floor: LogIndex::ZERO, last_index: LogIndex::ZERO };
        let mut wal = Self::assemble(Parts {
            identity,
            state,
            kept: VecDeque::from([first]),
            spares: VecDeque::new(),
            tail: TailBuffer::new(SEGMENT_HEADER_BYTES as u64, &[]),
            generation: 1,
            started: true,
            chain_crc: 0,
            next_number: listing.next_number + 1,
            folder,
        });
        wal.prepare_spare_where_space_allows()?;
        Ok(wal)
    }

    /// Opens the log and gives back what it holds. Everything given back is durable.
    ///
    /// Removes what a crash left half made. A torn tail is overwritten by the first append.
    ///
    /// Errors: [`WalError::Missing`], [`WalError::WrongIdentity`] (where `expected` is given),
    /// [`WalError::NewerFormat`], [`WalError::Foreign`], [`WalError::Damaged`].
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        expected: Option<Identity>,
    ) -> Result<(Self, Recovered), WalError> {
        let (parts, recovered) = recovery::recover(Folder::new(disk, config)?, expected)?;
        Ok((Self::assemble(parts), recovered))
    }

    /// True where the folder has a log, be it whole or damaged. A creation that a crash cut short left none.
    pub fn exists(disk: &dyn Disk, config: &Config) -> io::Result<bool> {
        Ok(disk.list(&config.folder)?.iter().any(|listed| listed.path.ends_with(".wal")))
    }

    /// Removes every file of the log, for a member that gives up its data. Durable when this returns.
    pub fn remove(disk: Arc<dyn Disk>, config: Config) -> Result<(), WalError> {
        let folder = Folder::new(disk, config)?;
        let listing = folder.list()?;
        if listing.segments.is_empty() && listing.unfinished.is_empty() {
            // Perhaps not even the folder is there.
            return Ok(());
        }
        for listed in listing.segments.iter().chain(&listing.unfinished) {
            folder.remove(&listed.path)?;
        }
        folder.sync_names()
    }

    fn assemble(parts: Parts) -> Self {
        let active = parts.kept.back().expect("a log has an active segment");
        let synced = active.base + parts.tail.offset();
        let mut wal = Self {
            seed: format::record_seed(&parts.identity),
            folder: parts.folder,
            identity: parts.identity,
            state: parts.state,
            kept: parts.kept,
            released: Vec::new(),
            released_said: 0,
            spares: parts.spares,
            tail: parts.tail,
            header_block: AlignedBuf::zeroed(SEGMENT_HEADER_BYTES),
            generation: parts.generation,
            started: parts.started,
            chain_crc: parts.chain_crc,
            synced,
            proven: parts.started,
            next_number: parts.next_number,
            refill_due: true,
            failed: None,
        };
        wal.release_segments();
        wal
    }

    /// Writes the batch with one write and one sync. When it returns `Ok`, the whole batch is durable, and the
    /// position is the log's new end. A batch larger than a segment takes one write for each segment.
    ///
    /// Errors that leave the log as it was, with nothing of the batch written: [`WalError::TooLarge`],
    /// [`WalError::Refused`], [`WalError::NoSpace`]. After [`WalError::Failed`] every call answers the same.
    pub fn append(&mut self, batch: &[Record]) -> Result<Position, WalError> {
        self.check_usable()?;
        if batch.is_empty() {
            return Ok(self.position());
        }
        let batch_bytes = self.check(batch)?;
        self.start()?;
        let release_bytes = if self.released.is_empty() { 0 } else { FRAMED_RELEASE_BYTES };
        if self.started && batch_bytes + release_bytes <= self.room() {
            self.tail.reserve((batch_bytes + release_bytes) as usize);
            self.push_release();
            self.push_all(batch)?;
        } else {
            self.need_spares(self.segments_for(batch))?;
            self.move_on()?;
            self.push_all(batch)?;
        }
        self.proven = false;
        self.flush()?;
        self.refill();
        Ok(self.position())
    }

    /// Makes the last batch provable: writes a record that says how far the log is durable. Also makes pending
    /// releases durable, so that their space is free. Does nothing where nothing is to be said; an idle log calls
    /// it once.
    pub fn mark(&mut self) -> Result<Position, WalError> {
        self.check_usable()?;
        self.start()?;
        if self.proven && self.released.is_empty() {
            return Ok(self.position());
        }
        let needed = FRAMED_EMPTY_BYTES + if self.released.is_empty() { 0 } else { FRAMED_RELEASE_BYTES };
        if self.started && self.left() >= needed + FRAMED_LAST_BYTES {
            self.push_release();
            self.push(&Content::Mark);
            self.flush()?;
            self.proven = true;
        } else {
            // A new segment's header says the same.
            self.need_spares(1)?;
            self.move_on()?;
            self.refill();
        }
        Ok(self.position())
    }

    /// Entries up to `through` are no longer needed, a durable checkpoint contains them. Segments that hold nothing
    /// else become free with the next append or mark. Touches no disk.
    pub fn release(&mut self, through: LogIndex) -> Result<(), WalError> {
        self.check_usable()?;
        self.state.release(through).map_err(|(index, what)| WalError::Refused { index, what })?;
        self.release_segments();
        Ok(())
    }

    /// The log's end.
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.end())
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// True where the next segment is prepared: what is small still fits when the disk is full.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        !self.spares.is_empty()
    }

    /// Removes all spare segments but one: on a full disk others need their space more.
    pub fn keep_one_spare(&mut self) -> Result<(), WalError> {
        while self.spares.len() > 1 {
            let spare = self.spares.pop_back().expect("there is more than one");
            self.folder.remove(&spare.path)?;
        }
        Ok(())
    }

    /// Prepares a spare segment where there is none. To be called again while [`Self::has_spare`] is false and the
    /// disk may have space again.
    pub fn prepare_spare(&mut self) -> Result<(), WalError> {
        self.check_usable()?;
        if self.spares.is_empty() {
            self.add_spare()?;
        }
        Ok(())
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let first = &self.kept[0];
        Stats {
            segments: self.kept.len(),
            spare_segments: self.spares.len(),
            kept_bytes: self.end() - first.base,
            first_index: first.floor.max(self.state.restart.index).next(),
            last_index: self.state.last_index,
            end: self.position(),
        }
    }

    fn check_usable(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }

    /// Refuses a batch that breaks a rule, before anything of it is written. Returns its size in a segment.
    fn check(&self, batch: &[Record]) -> Result<u64, WalError> {
        let payload_bytes_max = self.folder.config().payload_bytes_max;
        let mut after = self.state;
        let mut batch_bytes = 0;
        for record in batch {
            if let Record::Entry { payload, .. } = record
                && payload.len() as u64 > payload_bytes_max
            {
                return Err(WalError::TooLarge { payload_bytes: payload.len() as u64, payload_bytes_max });
            }
            let content = record.content();
            after.take(&content).map_err(|(index, what)| WalError::Refused { index, what })?;
            batch_bytes += content.framed_bytes() as u64;
        }
        Ok(batch_bytes)
    }

    /// How many new segments a batch takes that does not fit the active one.
    fn segments_for(&self, batch: &[Record]) -> usize {
        let capacity =
            self.folder.config().segment_size_bytes - SEGMENT_HEADER_BYTES as u64 - SEGMENT_RESERVE_BYTES;
        let mut segments = 1;
        let mut used = 0;
        for record in batch {
            let framed = record.content().framed_bytes() as u64;
            if used + framed > capacity {
                segments += 1;
                used = 0;
            }
            used += framed;
        }
        segments
    }

    fn active(&self) -> &Kept {
        self.kept.back().expect("a log has an active segment")
    }

    fn end(&self) -> u64 {
        self.active().base + self.tail.offset()
    }

    /// Bytes left in the active segment.
    fn left(&self) -> u64 {
        self.active().file.len - self.tail.offset()
    }

    /// Bytes that ordinary records may still take in the active segment.
    fn room(&self) -> u64 {
        self.left().saturating_sub(SEGMENT_RESERVE_BYTES)
    }

    /// Before the first record of a start: makes its generation durable, so that no bytes that a crash of this
    /// start leaves behind can be mistaken for bytes of the next. Where there is no room the header of the next
    /// segment does it.
    fn start(&mut self) -> Result<(), WalError> {
        if !self.started && self.left() >= FRAMED_EMPTY_BYTES + FRAMED_LAST_BYTES {
            self.push(&Content::Start);
            self.flush()?;
            self.started = true;
            self.proven = true;
        }
        Ok(())
    }

    /// Sees to it that `count` segments are ready, before anything of a batch is written.
    fn need_spares(&mut self, count: usize) -> Result<(), WalError> {
        let said_in_place = self.started && self.left() >= FRAMED_LAST_BYTES;
        if self.spares.len() < count && !self.released.is_empty() && said_in_place {
            self.push_release();
            self.flush()?;
        }
        while self.spares.len() < count {
            self.add_spare()?;
        }
        Ok(())
    }

    fn add_spare(&mut self) -> Result<(), WalError> {
        // A number is used once, so that what a failed attempt left behind is never in the way.
        let number = self.next_number;
        self.next_number += 1;
        let spare = self.folder.prepare(number, None)?;
        self.spares.push_back(spare);
        Ok(())
    }

    /// After a segment was taken into use: prepares the next one, once. Where that fails the records of the append
    /// are durable all the same, so it is not the append's error: `has_spare` says so, and whoever needs a segment
    /// next tries again and reports what is wrong.
    fn refill(&mut self) {
        if self.refill_due && self.folder.config().prepare_spare_in_append {
            self.refill_due = false;
            let _ = self.prepare_spare();
        }
    }

    fn prepare_spare_where_space_allows(&mut self) -> Result<(), WalError> {
        match self.prepare_spare() {
            Err(WalError::NoSpace { .. }) => Ok(()),
            other => other,
        }
    }

    /// Takes the next spare into use. Its header is durable before the first record goes in, and with it all that
    /// was released so far. Then the segment before is sealed, so that the loss of this one would show.
    fn move_on(&mut self) -> Result<(), WalError> {
        let previous_end = self.end();
        assert_eq!(self.synced, previous_end, "a segment is left only once it is durable");
        let file = self.spares.pop_front().expect("a spare was made ready");
        let generation = self.generation + u64::from(self.started);
        let active = self.active();
        let (base, sequence) = (active.base + active.file.len, active.sequence + 1);
        let header = SegmentHeader {
            segment_size_bytes: file.len,
            identity: self.identity,
            sequence,
            generation,
            base,
            previous_end,
            chain_crc: self.chain_crc,
            state: self.state,
            first_sequence: self.kept[0].sequence,
        };
        format::encode_header(&header, &mut self.header_block);
        let written = file.write(&self.header_block, 0);
        self.fail_on(written)?;
        self.generation = generation;
        self.seal()?;

        let last_index = self.state.last_index;
        self.kept.push_back(Kept { file, sequence, base, floor: last_index, last_index });
        self.tail.restart(SEGMENT_HEADER_BYTES as u64);
        self.synced = self.end();
        self.started = true;
        self.proven = true;
        self.refill_due = true;
        self.released_said = self.released.len();
        self.free_released();
        Ok(())
    }

    /// Ends the active segment. The seal is no link of the chain, which goes on in the next segment.
    fn seal(&mut self) -> Result<(), WalError> {
        let chain_crc = self.chain_crc;
        self.push(&Content::Seal);
        self.chain_crc = chain_crc;
        self.write_tail()
    }

    fn push_all(&mut self, batch: &[Record]) -> Result<(), WalError> {
        for record in batch {
            let content = record.content();
            if content.framed_bytes() as u64 > self.room() {
                self.flush()?;
                self.move_on()?;
            }
            self.push(&content);
        }
        Ok(())
    }

    fn push_release(&mut self) {
        if !self.released.is_empty() {
            let first_sequence = self.kept[0].sequence;
            self.push(&Content::Release { through: self.state.released_through, first_sequence });
            self.released_said = self.released.len();
        }
    }

    /// Puts one record into the buffer and into the log's state. It is not written yet.
    fn push(&mut self, content: &Content<'_>) {
        let framed = content.framed_bytes();
        let active = self.kept.back().expect("a log has an active segment");
        assert!(self.tail.offset() + framed as u64 <= active.file.len, "a record stays inside its segment");
        let frame = Frame {
            previous_crc: self.chain_crc,
            generation: self.generation,
            position: active.base + self.tail.offset(),
            synced: self.synced,
        };
        self.chain_crc = format::encode_record(self.tail.extend(framed), self.seed, frame, content);
        self.state.take(content).expect("records are checked before they are pushed");
        note(&mut self.kept, content);
        if matches!(content, Content::Restart { .. }) {
            self.release_segments();
        }
    }

    /// Writes what was pushed; it is durable when this returns. Then the segments that it said are not needed are free.
    fn flush(&mut self) -> Result<(), WalError> {
        self.write_tail()?;
        self.tail.settle();
        self.synced = self.end();
        self.free_released();
        Ok(())
    }

    fn write_tail(&mut self) -> Result<(), WalError> {
        let active = self.kept.back().expect("a log has an active segment");
        let (offset, blocks) = self.tail.blocks();
        let written = active.file.write(blocks, offset);
        self.fail_on(written)
    }

    /// Remembers a failure for good.
    fn fail_on(&mut self, written: Result<(), Failure>) -> Result<(), WalError> {
        written.map_err(|failure| {
            self.failed = Some(failure.clone());
            failure.into()
        })
    }

    /// Recycles the segments that the log now durably says it does not need.
    fn free_released(&mut self) {
        let said = std::mem::take(&mut self.released_said);
        for file in self.released.drain(..said) {
            let config = self.folder.config();
            if file.len == config.segment_size_bytes && self.spares.len() < config.spare_segments_max {
                self.spares.push_back(file);
            } else {
                // A file that cannot be removed is in nobody's way; the next start finds and removes it.
                let _ = self.folder.remove(&file.path);
            }
        }
    }

    fn release_segments(&mut self) {
        while self.kept.len() > 1 && self.kept[0].last_index <= self.state.released_through {
            self.released.extend(self.kept.pop_front().map(|kept| kept.file));
        }
    }
}

/// Notes in the segments what a record that was written to the last of them means for what they hold.
pub(crate) fn note(kept: &mut VecDeque<Kept>, content: &Content<'_>) {
    match *content {
        Content::Entry { index, .. } => {
            let before = LogIndex(index.0.saturating_sub(1));
            for segment in kept.iter_mut().rev().take_while(|segment| segment.last_index > before) {
                segment.last_index = before;
            }
            if let Some(active) = kept.back_mut() {
                active.last_index = index;
                active.floor = active.floor.min(before);
            }
        }
        Content::Restart { point, .. } => {
            for segment in kept.iter_mut() {
                segment.last_index = point.index;
            }
            if let Some(active) = kept.back_mut() {
                active.floor = point.index;
            }
        }
        Content::HardState(_) | Content::Mark | Content::Start | Content::Release { .. } | Content::Seal => {}
    }
}
