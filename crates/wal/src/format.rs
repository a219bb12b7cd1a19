//! The bytes of a segment: its header, and the records behind it. Pure code over byte slices; `docs/formats/wal.md`
//! is the document of the format and must agree with this file.
//!
//! Invariants:
//! - All numbers are little-endian; every byte of a header block and of a framed record, padding included, is under
//!   its CRC32C.
//! - Decoding never panics, whatever the bytes are.

use quorate_disk::DIRECT_ALIGN_BYTES;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};

use crate::state::State;
use crate::{HardState, Identity, RestartPoint};

/// The unit of writing. Everything that goes to a segment file starts and ends at a multiple of it.
pub const BLOCK_BYTES: usize = DIRECT_ALIGN_BYTES;
/// The header has the first block of a segment to itself.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;
pub const RECORD_HEADER_BYTES: usize = 40;
/// Records start at multiples of this, so that a search for them has few places to look.
pub const RECORD_ALIGN_BYTES: usize = 8;
/// Where in a record its position stands.
pub const POSITION_OFFSET: usize = 24;
/// The format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"QRTEWAL\n";
/// In the first sector, so that a header is replaced whole or not at all where the disk writes whole sectors.
const HEADER_CRC_OFFSET: usize = 508;
/// Index and term in front of an entry's payload.
pub const ENTRY_PREFIX_BYTES: usize = 16;

/// A record's type on disk.
mod kind {
    pub const HARD_STATE: u8 = 1;
    pub const ENTRY: u8 = 2;
    pub const MARK: u8 = 3;
    pub const RESTART: u8 = 4;
    pub const START: u8 = 5;
    pub const RELEASE: u8 = 6;
    /// Reserved for pieces of large commands. Version 1 neither writes nor reads it.
    pub const STAGE: u8 = 7;
    pub const SEAL: u8 = 8;
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    HardState(HardState),
    Entry {
        index: LogIndex,
        term: Term,
        payload: &'a [u8],
    },
    /// Says nothing but, in its header, how far the log was synced.
    Mark,
    Restart {
        point: RestartPoint,
        store_generation: u64,
    },
    /// The first record of a start: makes its generation durable before anything else carries it.
    Start,
    /// Segments before `first_sequence` may be reused once this is durable.
    Release {
        through: LogIndex,
        first_sequence: u64,
    },
    /// The last record of a segment, outside the chain: the header of the next segment is durable.
    Seal,
}

impl Content<'_> {
    fn kind(&self) -> u8 {
        match self {
            Self::HardState(_) => kind::HARD_STATE,
            Self::Entry { .. } => kind::ENTRY,
            Self::Mark => kind::MARK,
            Self::Restart { .. } => kind::RESTART,
            Self::Start => kind::START,
            Self::Release { .. } => kind::RELEASE,
            Self::Seal => kind::SEAL,
        }
    }

    fn body_bytes(&self) -> usize {
        match self {
            Self::HardState(_) | Self::Restart { .. } => 24,
            Self::Entry { payload, .. } => ENTRY_PREFIX_BYTES + payload.len(),
            Self::Mark | Self::Start | Self::Seal => 0,
            Self::Release { .. } => 16,
        }
    }

    /// Bytes that the record takes in a segment: header, body, padding.
    pub fn framed_bytes(&self) -> usize {
        framed_bytes(self.body_bytes())
    }

    fn put_body(&self, body: &mut [u8]) {
        match *self {
            Self::HardState(HardState { term, vote, commit }) => put_words(body, [term.0, vote.0, commit.0]),
            Self::Entry { index, term, payload } => {
                put_words(body, [index.0, term.0]);
                body[ENTRY_PREFIX_BYTES..].copy_from_slice(payload);
            }
            Self::Mark | Self::Start | Self::Seal => {}
            Self::Restart { point, store_generation } => {
                put_words(body, [point.index.0, point.term.0, store_generation]);
            }
            Self::Release { through, first_sequence } => put_words(body, [through.0, first_sequence]),
        }
    }
}

pub const fn framed_bytes(body_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// No log gets as far with its generations, sequences and positions: they go on from what is read, and must not overflow.
pub const COUNT_MAX: u64 = u64::MAX / 2;

/// What a record's header says beside type and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// CRC of the record before this one, in the log's order.
    pub previous_crc: u32,
    pub generation: u64,
    /// Log-wide position of the record's first byte.
    pub position: u64,
    /// Everything below this position was durable when the record was written. Never above `position`.
    pub synced: u64,
}

impl Frame {
    /// False where no log can have written it.
    pub fn is_sensible(&self) -> bool {
        self.synced <= self.position && self.generation <= COUNT_MAX
    }
}

/// Writes a record into `out`, which must have exactly its framed length, and returns its CRC.
pub fn encode_record(out: &mut [u8], seed: u32, frame: Frame, content: &Content<'_>) -> u32 {
    let body_bytes = content.body_bytes();
    assert_eq!(out.len(), framed_bytes(body_bytes));
    assert!(frame.synced <= frame.position);
    let body_len = u32::try_from(body_bytes).expect("a body fits its segment");
    out[4..8].copy_from_slice(&body_len.to_le_bytes());
    out[8..12].copy_from_slice(&[content.kind(), 0, 0, 0]);
    out[12..16].copy_from_slice(&frame.previous_crc.to_le_bytes());
    put_words(&mut out[16..], [frame.generation, frame.position, frame.synced]);
    let body_end = RECORD_HEADER_BYTES + body_bytes;
    content.put_body(&mut out[RECORD_HEADER_BYTES..body_end]);
    out[body_end..].fill(0);
    let crc = crc32c::crc32c_append(seed, &out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A record whose CRC is right. What it says is not judged yet.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    pub frame: Frame,
    pub crc: u32,
    pub framed_bytes: usize,
    kind: u8,
    flags: [u8; 3],
    body: &'a [u8],
}

/// Why a record with a right CRC cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    Newer(String),
    Senseless(&'static str),
}

/// The record at the start of `bytes`, or `None` where there is none whose CRC is right.
pub fn decode_record(bytes: &[u8], seed: u32) -> Option<RawRecord<'_>> {
    let body_bytes = u32_at(bytes, 4)? as usize;
    let framed = framed_bytes(body_bytes);
    let record = bytes.get(..framed)?;
    let crc = u32_at(record, 0)?;
    if crc32c::crc32c_append(seed, &record[4..]) != crc {
        return None;
    }
    Some(RawRecord {
        frame: frame_at(record)?,
        crc,
        framed_bytes: framed,
        kind: record[8],
        flags: [record[9], record[10], record[11]],
        body: &record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes],
    })
}

/// The frame of the record that may start at the start of `bytes`; its CRC is not looked at.
pub fn frame_at(bytes: &[u8]) -> Option<Frame> {
    Some(Frame {
        previous_crc: u32_at(bytes, 12)?,
        generation: u64_at(bytes, 16)?,
        position: u64_at(bytes, POSITION_OFFSET)?,
        synced: u64_at(bytes, 32)?,
    })
}

impl<'a> RawRecord<'a> {
    pub fn content(&self) -> Result<Content<'a>, Unusable> {
        if self.flags != [0; 3] {
            return Err(Unusable::Newer(format!("record flags {:?}", self.flags)));
        }
        let word = |i: usize| u64_at(self.body, i * 8).unwrap_or(0);
        let content = match self.kind {
            kind::HARD_STATE => {
                let (term, vote, commit) = (Term(word(0)), MemberId(word(1)), LogIndex(word(2)));
                Content::HardState(HardState { term, vote, commit })
            }
            kind::ENTRY => {
                let Some(payload) = self.body.get(ENTRY_PREFIX_BYTES..) else {
                    return Err(Unusable::Senseless("an entry shorter than its index and term"));
                };
                Content::Entry { index: LogIndex(word(0)), term: Term(word(1)), payload }
            }
            kind::MARK => Content::Mark,
            kind::RESTART => Content::Restart {
                point: RestartPoint { index: LogIndex(word(0)), term: Term(word(1)) },
                store_generation: word(2),
            },
            kind::START => Content::Start,
            kind::RELEASE => Content::Release { through: LogIndex(word(0)), first_sequence: word(1) },
            kind::SEAL => Content::Seal,
            kind::STAGE => return Err(Unusable::Newer("a piece of a large command".to_owned())),
            unknown => return Err(Unusable::Newer(format!("record type {unknown}"))),
        };
        if content.body_bytes() != self.body.len() {
            return Err(Unusable::Senseless("a record whose length does not fit its type"));
        }
        Ok(content)
    }
}

/// The first block of a segment: everything as of the moment that it was taken into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub segment_size_bytes: u64,
    pub identity: Identity,
    /// Counts the segments of the log, in its order, from 1.
    pub sequence: u64,
    /// The generation of this use: greater than that of any record written before.
    pub generation: u64,
    /// Log-wide position of the segment's first byte.
    pub base: u64,
    /// Log-wide position at which the records of the segment before end; 0 for the first.
    pub previous_end: u64,
    /// CRC of the last record of the segment before; 0 where there is none.
    pub chain_crc: u32,
    pub state: State,
    /// The oldest segment that the log needs.
    pub first_sequence: u64,
}

/// What the first block of a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderBlock {
    /// All zeros: prepared, never used.
    Blank,
    /// Starts as a header does, but its CRC is wrong: torn when it was written, or damaged.
    Broken,
    /// Nothing that this log ever wrote.
    Foreign,
    Newer {
        version: u32,
    },
    Valid(SegmentHeader),
}

/// Fills `block` with the header.
pub fn encode_header(header: &SegmentHeader, block: &mut [u8]) {
    assert_eq!(block.len(), SEGMENT_HEADER_BYTES);
    block.fill(0);
    block[..8].copy_from_slice(&MAGIC);
    block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    block[12..16].copy_from_slice(&header.chain_crc.to_le_bytes());
    let State { hard_state, restart, store_generation, last_index, last_term, released_through } =
        header.state;
    put_words(
        &mut block[16..],
        [
            header.segment_size_bytes,
            header.identity.cluster.0,
            header.identity.member.0,
            header.identity.incarnation.0,
            header.sequence,
            header.generation,
            header.base,
            header.previous_end,
            hard_state.term.0,
            hard_state.vote.0,
            hard_state.commit.0,
            restart.index.0,
            restart.term.0,
            store_generation,
            last_index.0,
            last_term.0,
            header.first_sequence,
            released_through.0,
        ],
    );
    let crc = header_crc(block);
    block[HEADER_CRC_OFFSET..HEADER_CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
}

/// CRC over the whole block but the CRC itself.
fn header_crc(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..HEADER_CRC_OFFSET]), &block[HEADER_CRC_OFFSET + 4..])
}

/// Judges the first block of a file.
pub fn decode_header(block: &[u8]) -> HeaderBlock {
    if block.len() != SEGMENT_HEADER_BYTES {
        return HeaderBlock::Foreign;
    }
    if block == [0; SEGMENT_HEADER_BYTES] {
        return HeaderBlock::Blank;
    }
    // Bytes of the magic that are still zero: a first header, torn within its first eight bytes.
    if block.iter().zip(MAGIC).any(|(&byte, magic)| byte != magic && byte != 0) {
        return HeaderBlock::Foreign;
    }
    if block[..8] != MAGIC || u32_at(block, HEADER_CRC_OFFSET) != Some(header_crc(block)) {
        return HeaderBlock::Broken;
    }
    let version = u32_at(block, 8).unwrap_or(0);
    if version != FORMAT_VERSION {
        return HeaderBlock::Newer { version };
    }
    let word = |i: usize| u64_at(block, 16 + i * 8).unwrap_or(0);
    HeaderBlock::Valid(SegmentHeader {
        segment_size_bytes: word(0),
        identity: Identity {
            cluster: ClusterId(word(1)),
            member: MemberId(word(2)),
            incarnation: Incarnation(word(3)),
        },
        sequence: word(4),
        generation: word(5),
        base: word(6),
        previous_end: word(7),
        chain_crc: u32_at(block, 12).unwrap_or(0),
        state: State {
            hard_state: HardState {
                term: Term(word(8)),
                vote: MemberId(word(9)),
                commit: LogIndex(word(10)),
            },
            restart: RestartPoint { index: LogIndex(word(11)), term: Term(word(12)) },
            store_generation: word(13),
            last_index: LogIndex(word(14)),
            last_term: Term(word(15)),
            released_through: LogIndex(word(17)),
        },
        first_sequence: word(16),
    })
}

/// What the CRC of every record of a log starts from: bytes of another member's log, or bytes that a client put
/// into a payload, are never taken for a record of this one.
pub fn record_seed(identity: &Identity) -> u32 {
    let mut bytes = [0; 24];
    put_words(&mut bytes, [identity.cluster.0, identity.member.0, identity.incarnation.0]);
    crc32c::crc32c(&bytes)
}

fn put_words<const N: usize>(out: &mut [u8], words: [u64; N]) {
    for (place, word) in out.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}
