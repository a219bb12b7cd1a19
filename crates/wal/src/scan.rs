//! Reading one segment's bytes: along the chain from record to record, and, past the chain's end, in search of
//! records that prove something about it.

use crate::format::{
    self, POSITION_OFFSET, RECORD_ALIGN_BYTES, RawRecord, SEGMENT_HEADER_BYTES, SegmentHeader,
};

/// Follows the chain of one segment's records.
///
/// A record belongs to the chain if its CRC is right, it names the CRC of the one before and its own position, and
/// its generation is not lower than the one before. It ends at the first record for which that does not hold.
pub struct Chain<'a> {
    bytes: &'a [u8],
    base: u64,
    seed: u32,
    /// Where the next record starts.
    pub offset: usize,
    /// CRC of the last record.
    pub crc: u32,
    pub generation: u64,
}

impl<'a> Chain<'a> {
    /// The chain in `bytes`, which start with `header` and of which nothing past their end counts.
    pub fn new(bytes: &'a [u8], header: &SegmentHeader, seed: u32) -> Self {
        Self {
            bytes,
            base: header.base,
            seed,
            offset: SEGMENT_HEADER_BYTES,
            crc: header.chain_crc,
            generation: header.generation,
        }
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = RawRecord<'a>;

    fn next(&mut self) -> Option<RawRecord<'a>> {
        let record = format::decode_record(self.bytes.get(self.offset..)?, self.seed)?;
        let frame = record.frame;
        let belongs = frame.previous_crc == self.crc
            && frame.position == self.base + self.offset as u64
            && frame.synced <= frame.position
            && frame.generation >= self.generation;
        if !belongs {
            return None;
        }
        self.offset += record.framed_bytes;
        self.crc = record.crc;
        self.generation = frame.generation;
        Some(record)
    }
}

/// What lies behind the end of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The highest generation of any record found.
    pub generation_max: u64,
    /// Offset of a record that says that the log was durable beyond the hole.
    pub proof: Option<usize>,
    /// A record of the last generation or a later one is there: something was written and cut off.
    pub torn: bool,
}

/// Looks at every place from `from` on where a record may start, for whole records that stand at their own position.
/// `hole` is the position at which the chain ended, `generation` the one it ended with.
///
/// Records of an earlier use of the segment stand at lower positions than their place has now, so they are not
/// found. Records that an earlier start left behind a cut are found, but cannot claim anything beyond that cut.
pub fn survey(bytes: &[u8], base: u64, from: usize, hole: u64, generation: u64, seed: u32) -> Survey {
    let mut survey = Survey::default();
    let first = from.next_multiple_of(RECORD_ALIGN_BYTES);
    let positions = bytes.get(first + POSITION_OFFSET..).unwrap_or_default().chunks_exact(RECORD_ALIGN_BYTES);
    for (offset, word) in (first..).step_by(RECORD_ALIGN_BYTES).zip(positions) {
        if word != (base + offset as u64).to_le_bytes() {
            continue;
        }
        let Some(frame) = format::frame_at(&bytes[offset..]).filter(|frame| frame.synced <= frame.position)
        else {
            continue;
        };
        // The start of a record whose end was torn off counts as a sign, not as a proof.
        survey.torn |= frame.generation == generation;
        if format::decode_record(&bytes[offset..], seed).is_some() {
            survey.torn |= frame.generation >= generation;
            survey.generation_max = survey.generation_max.max(frame.generation);
            if frame.synced > hole && survey.proof.is_none() {
                survey.proof = Some(offset);
            }
        }
    }
    survey
}
