//! Opening a log: which files are its segments, what they say, where it ends.
//!
//! Invariants:
//! - Every segment from the oldest needed one to the last is there, and each but the last ends exactly where, and
//!   with what CRC, the next one's header says.
//! - Where the log ends, nothing anywhere in the folder proves that it once went on.
//! - Nothing is reported before it is durable.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_disk::AlignedBuf;
use quorate_ids::{LogIndex, Term};

use crate::buffer::TailBuffer;
use crate::files::{Folder, Listing, SegmentFile};
use crate::format::{
    self, BLOCK_BYTES, Content, FORMAT_VERSION, HeaderBlock, RawRecord, SEGMENT_HEADER_BYTES, SegmentHeader,
    Unusable,
};
use crate::scan::{Chain, survey};
use crate::state::State;
use crate::wal::{Kept, Parts, note};
use crate::{CutTail, Identity, Position, Recovered, SEGMENT_SIZE_BYTES_MAX, WalError};

/// A file with a header that is whole.
struct Segment {
    header: SegmentHeader,
    file: SegmentFile,
}

/// The files of the folder, by what their first block says.
#[derive(Default)]
struct Found {
    segments: Vec<Segment>,
    /// Never used, or their header is torn or damaged.
    headless: Vec<SegmentFile>,
    /// The one whose header is torn or damaged.
    broken: Option<String>,
}

pub fn recover(folder: Folder, expected: Option<Identity>) -> Result<(Parts, Recovered), WalError> {
    let listing = folder.list()?;
    if listing.segments.is_empty() {
        return Err(WalError::Missing { folder: folder.config().folder.clone() });
    }
    // A segment that was prepared by a process that died may not have its name on disk yet.
    folder.sync_names()?;
    let found = read_headers(&folder, &listing, expected)?;
    let broken = found.broken.unwrap_or_else(|| folder.config().folder.clone());
    let (live, unneeded, last_bytes) = choose_live(found.segments, &broken)?;
    let identity = live[0].header.identity;
    let seed = format::record_seed(&identity);

    let mut replay = Replay::new(&live[0].header, seed);
    let mut live = live.into_iter().peekable();
    while let Some(segment) = live.next() {
        match live.peek() {
            Some(next) => replay.sealed_segment(segment, &next.header)?,
            None => replay.last_segment(segment, &last_bytes)?,
        }
    }
    let unneeded: Vec<_> =
        found.headless.into_iter().chain(unneeded.into_iter().map(|old| old.file)).collect();
    for file in &unneeded {
        replay.unneeded_file(file)?;
    }
    // From here on nothing can prove damage any more: what is there may be written, what is not needed may go.
    let active = replay.kept.back().expect("the live segments include the last one");
    make_durable(&active.file, &last_bytes, replay.end_offset)?;
    let mut spares = VecDeque::new();
    for file in unneeded {
        let config = folder.config();
        if file.len == config.segment_size_bytes && spares.len() < config.spare_segments_max {
            spares.push_back(file);
        } else {
            folder.remove(&file.path)?;
        }
    }
    for unfinished in &listing.unfinished {
        folder.remove(&unfinished.path)?;
    }
    Ok(replay.finish(folder, identity, spares, listing.next_number, &last_bytes))
}

fn read_headers(folder: &Folder, listing: &Listing, expected: Option<Identity>) -> Result<Found, WalError> {
    let mut found = Found::default();
    let mut expected = expected;
    for listed in &listing.segments {
        let file = folder.open(&listed.path)?;
        if file.len < SEGMENT_HEADER_BYTES as u64 || !file.len.is_multiple_of(BLOCK_BYTES as u64) {
            // A file gets its name only at its full length.
            return Err(WalError::damaged(&file.path, file.len, "the file was cut short"));
        }
        if file.len > SEGMENT_SIZE_BYTES_MAX {
            return Err(WalError::Foreign { file: file.path });
        }
        match format::decode_header(&file.read(SEGMENT_HEADER_BYTES)?) {
            HeaderBlock::Blank => found.headless.push(file),
            HeaderBlock::Broken => {
                // A crash tears no more than the header that is being written, and a spare with a torn header is the
                // next to be taken into use.
                if found.broken.is_some() {
                    return Err(WalError::damaged(
                        &file.path,
                        0,
                        "its header is not the only unreadable one",
                    ));
                }
                found.broken = Some(file.path.clone());
                found.headless.insert(0, file);
            }
            HeaderBlock::Foreign => return Err(WalError::Foreign { file: file.path }),
            HeaderBlock::Newer { version } => {
                let what = format!("format {version}; this version reads {FORMAT_VERSION}");
                return Err(WalError::NewerFormat { file: file.path, offset: 0, what });
            }
            HeaderBlock::Valid(header) => {
                let expected = *expected.get_or_insert(header.identity);
                if header.identity != expected {
                    return Err(WalError::WrongIdentity {
                        file: file.path,
                        expected,
                        found: header.identity,
                    });
                }
                check_header(&header, &file)?;
                found.segments.push(Segment { header, file });
            }
        }
    }
    Ok(found)
}

/// Refuses a header whose numbers contradict each other or the file, or from which sums could overflow.
fn check_header(header: &SegmentHeader, file: &SegmentFile) -> Result<(), WalError> {
    if header.segment_size_bytes != file.len {
        let what = format!("the file has {} bytes, its header says {}", file.len, header.segment_size_bytes);
        return Err(WalError::damaged(&file.path, 0, what));
    }
    let sensible = header.base <= format::COUNT_MAX
        && (1..=format::COUNT_MAX).contains(&header.generation)
        && header.sequence <= format::COUNT_MAX
        && (1..=header.sequence).contains(&header.first_sequence)
        && header.previous_end <= header.base
        && header.state.is_consistent();
    if sensible { Ok(()) } else { Err(WalError::damaged(&file.path, 0, "the header makes no sense")) }
}

/// Splits the segments into those that the log needs, in order, and the rest. Also returns the last one's bytes.
fn choose_live(
    mut segments: Vec<Segment>,
    broken: &str,
) -> Result<(Vec<Segment>, Vec<Segment>, AlignedBuf), WalError> {
    segments.sort_by_key(|segment| segment.header.sequence);
    let Some(last) = segments.last() else {
        return Err(WalError::damaged(broken, 0, "no segment of the log has a readable header"));
    };
    let last_sequence = last.header.sequence;
    let last_bytes = last.file.read(usize::try_from(last.file.len).expect("a segment fits memory"))?;
    let first = first_needed(last, &last_bytes, broken)?;
    let live = segments.split_off(segments.partition_point(|segment| segment.header.sequence < first));
    for (wanted, segment) in (first..).zip(&live) {
        let sequence = segment.header.sequence;
        if sequence < wanted {
            let what = format!("two segments claim to be segment {sequence} of the log");
            return Err(WalError::damaged(&segment.file.path, 0, what));
        }
        if sequence > wanted {
            let what = format!("segment {wanted} of the log (of {first} to {last_sequence}) is not there");
            return Err(WalError::damaged(broken, 0, what));
        }
    }
    Ok((live, segments, last_bytes))
}

/// The oldest segment that the log needs, by what its last segment says. Refuses a last segment that was followed by
/// another one.
fn first_needed(last: &Segment, bytes: &[u8], broken: &str) -> Result<u64, WalError> {
    let mut first = last.header.first_sequence;
    let mut chain = Chain::new(bytes, &last.header, format::record_seed(&last.header.identity));
    let mut offset = chain.offset;
    while let Some(record) = chain.next() {
        match content_of(&record, &last.file.path, offset)? {
            Content::Release { first_sequence, .. } => {
                if !(first..=last.header.sequence).contains(&first_sequence) {
                    let what = "a release of segments that are not the log's oldest";
                    return Err(WalError::damaged(&last.file.path, offset as u64, what));
                }
                first = first_sequence;
            }
            Content::Seal => {
                let what = format!("the segment after {} was in use and is not there", last.file.path);
                return Err(WalError::damaged(broken, 0, what));
            }
            _ => {}
        }
        offset = chain.offset;
    }
    Ok(first)
}

fn content_of<'a>(record: &RawRecord<'a>, file: &str, offset: usize) -> Result<Content<'a>, WalError> {
    record.content().map_err(|unusable| match unusable {
        Unusable::Newer(what) => WalError::NewerFormat { file: file.to_owned(), offset: offset as u64, what },
        Unusable::Senseless(what) => WalError::damaged(file, offset as u64, what),
    })
}

/// The walk through the live segments, and what it found so far.
struct Replay {
    seed: u32,
    state: State,
    kept: VecDeque<Kept>,
    entries: VecDeque<(LogIndex, Term, Bytes)>,
    generation: u64,
    generation_max: u64,
    chain_crc: u32,
    /// Where the records of the last segment end.
    end_offset: usize,
    torn: bool,
}

impl Replay {
    fn new(first: &SegmentHeader, seed: u32) -> Self {
        Self {
            seed,
            state: first.state,
            kept: VecDeque::new(),
            entries: VecDeque::new(),
            generation: first.generation,
            generation_max: first.generation,
            chain_crc: first.chain_crc,
            end_offset: SEGMENT_HEADER_BYTES,
            torn: false,
        }
    }

    /// A segment that the log has left: its records must end as the next segment's header says.
    fn sealed_segment(&mut self, segment: Segment, next: &SegmentHeader) -> Result<(), WalError> {
        let Segment { header, file } = segment;
        let len = usize::try_from(file.len).expect("a segment fits memory");
        let path = file.path.clone();
        let wanted_end = usize::try_from(next.previous_end.saturating_sub(header.base)).unwrap_or(usize::MAX);
        if next.base != header.base + file.len || !(SEGMENT_HEADER_BYTES..=len).contains(&wanted_end) {
            return Err(WalError::damaged(&path, 0, "its header does not fit that of the next segment"));
        }
        let bytes = file.read(len)?;
        self.records(&header, file, &bytes[..wanted_end])?;
        if self.end_offset != wanted_end || self.chain_crc != next.chain_crc {
            let what =
                format!("a record is unreadable before byte {wanted_end}, up to where the log was durable");
            return Err(WalError::damaged(&path, self.end_offset as u64, what));
        }
        // What was released is the one thing that a header can know better than the records before it.
        let expected = State { released_through: next.state.released_through, ..self.state };
        if expected != next.state || next.generation <= self.generation {
            return Err(WalError::damaged(
                &path,
                0,
                "its records do not add up to what the next segment says",
            ));
        }
        self.state.released_through = next.state.released_through;
        Ok(())
    }

    /// The last segment: its records end where nothing proves that they went on.
    fn last_segment(&mut self, segment: Segment, bytes: &[u8]) -> Result<(), WalError> {
        let Segment { header, file } = segment;
        let path = file.path.clone();
        self.records(&header, file, bytes)?;
        let seen =
            survey(bytes, header.base, self.end_offset, self.end_position(), self.generation, self.seed);
        if let Some(proof) = seen.proof {
            let what =
                format!("a record is unreadable, but the one at byte {proof} says that it was durable");
            return Err(WalError::damaged(&path, self.end_offset as u64, what));
        }
        self.torn = seen.torn;
        self.generation_max = self.generation_max.max(seen.generation_max).max(self.generation);
        Ok(())
    }

    /// A file that the log does not need holds no record of it beyond its end, unless a header was lost.
    fn unneeded_file(&mut self, file: &SegmentFile) -> Result<(), WalError> {
        let bytes = file.read(usize::try_from(file.len).expect("a segment fits memory"))?;
        let next_base = self.kept.back().map_or(0, |active| active.base + active.file.len);
        let end = self.end_position();
        let seen = survey(&bytes, next_base, SEGMENT_HEADER_BYTES, end, self.generation, self.seed);
        if let Some(offset) = seen.proof {
            let what = "its header is unreadable, but it holds records that were durable";
            return Err(WalError::damaged(&file.path, offset as u64, what));
        }
        self.generation_max = self.generation_max.max(seen.generation_max);
        Ok(())
    }

    fn records(&mut self, header: &SegmentHeader, file: SegmentFile, bytes: &[u8]) -> Result<(), WalError> {
        let path = file.path.clone();
        let last_index = self.state.last_index;
        let (sequence, base) = (header.sequence, header.base);
        self.kept.push_back(Kept { file, sequence, base, floor: last_index, last_index });
        let mut chain = Chain::new(bytes, header, self.seed);
        let mut offset = chain.offset;
        while let Some(record) = chain.next() {
            let content = content_of(&record, &path, offset)?;
            self.state.take(&content).map_err(|(index, what)| {
                WalError::damaged(&path, offset as u64, format!("log index {index}: {what}"))
            })?;
            note(&mut self.kept, &content);
            self.take_entry(&content);
            offset = chain.offset;
        }
        self.end_offset = chain.offset;
        self.chain_crc = chain.crc;
        self.generation = chain.generation;
        Ok(())
    }

    fn take_entry(&mut self, content: &Content<'_>) {
        match *content {
            Content::Entry { index, term, payload } => {
                while self.entries.back().is_some_and(|(last, _, _)| *last >= index) {
                    self.entries.pop_back();
                }
                self.entries.push_back((index, term, Bytes::copy_from_slice(payload)));
            }
            Content::Restart { .. } => self.entries.clear(),
            _ => {}
        }
    }

    fn end_position(&self) -> u64 {
        self.kept.back().map_or(0, |active| active.base + self.end_offset as u64)
    }

    fn finish(
        self,
        folder: Folder,
        identity: Identity,
        spares: VecDeque<SegmentFile>,
        next_number: u64,
        last_bytes: &[u8],
    ) -> (Parts, Recovered) {
        let end = Position(self.end_position());
        let active = self.kept.back().expect("a log has an active segment");
        let cut_tail = self.torn.then(|| CutTail {
            file: active.file.path.clone(),
            offset: self.end_offset as u64,
            position: end,
        });
        let recovered = Recovered {
            identity,
            hard_state: self.state.hard_state,
            entries: self.entries.into(),
            restart: self.state.restart,
            store_generation: self.state.store_generation,
            last_index: self.state.last_index,
            last_term: self.state.last_term,
            end,
            cut_tail,
        };
        let block_start = self.end_offset - self.end_offset % BLOCK_BYTES;
        let parts = Parts {
            folder,
            identity,
            state: self.state,
            kept: self.kept,
            spares,
            tail: TailBuffer::new(self.end_offset as u64, &last_bytes[block_start..self.end_offset]),
            generation: self.generation_max + 1,
            started: false,
            chain_crc: self.chain_crc,
            next_number,
        };
        (parts, recovered)
    }
}

/// Makes durable what was read. Only the last segment can hold what is not: a segment is left only once it is synced.
///
/// Where writes go through the page cache, an earlier process's failed sync may have left pages there that look
/// written and are not; so the same bytes are written again.
fn make_durable(active: &SegmentFile, bytes: &[u8], end_offset: usize) -> Result<(), WalError> {
    if !active.has_durable_writes() {
        active.write(&bytes[..end_offset.next_multiple_of(BLOCK_BYTES)], 0)?;
    }
    active.sync()?;
    Ok(())
}
