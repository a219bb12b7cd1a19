//! Reading one segment's bytes: along the chain from record to record, and, past the chain's end, in search of
//! records that prove something about it.

use crate::format::{
    self, Frame, POSITION_OFFSET, RECORD_ALIGN_BYTES, RawRecord, SEGMENT_HEADER_BYTES, SegmentHeader,
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
            && frame.is_sensible()
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
        let Some(frame) = format::frame_at(&bytes[offset..]).filter(Frame::is_sensible) else {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Content, encode_record};
    use crate::state::State;
    use crate::{Identity, Position};
    use quorate_ids::{ClusterId, Incarnation, MemberId};

    const SEED: u32 = 77;
    const BASE: u64 = 1 << 20;
    const FIRST: Position = Position(BASE + SEGMENT_HEADER_BYTES as u64);

    fn header() -> SegmentHeader {
        SegmentHeader {
            segment_size_bytes: 8192,
            identity: Identity { cluster: ClusterId(1), member: MemberId(1), incarnation: Incarnation(1) },
            sequence: 2,
            generation: 5,
            base: BASE,
            previous_end: 9000,
            chain_crc: 123,
            state: State::new(1),
            first_sequence: 1,
        }
    }

    /// A segment with one mark in it.
    fn segment_with(frame: Frame) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        encode_record(
            &mut bytes[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + 40],
            SEED,
            frame,
            &Content::Mark,
        );
        bytes
    }

    fn follows(frame: Frame) -> bool {
        Chain::new(&segment_with(frame), &header(), SEED).next().is_some()
    }

    const GOOD: Frame = Frame { previous_crc: 123, generation: 5, position: FIRST.0, synced: 9000 };

    #[test]
    fn a_record_continues_the_chain_only_where_all_of_its_frame_fits() {
        assert!(follows(GOOD));
        assert!(follows(Frame { generation: 6, ..GOOD }), "a later start");
        assert!(!follows(Frame { generation: 4, ..GOOD }), "left behind by an earlier start");
        assert!(!follows(Frame { generation: u64::MAX - 1, ..GOOD }), "the next starts would have none left");
        assert!(!follows(Frame { previous_crc: 124, ..GOOD }), "follows another record");
        assert!(!follows(Frame { position: FIRST.0 + 8192, ..GOOD }), "belongs elsewhere");
        let bytes = segment_with(GOOD);
        assert!(Chain::new(&bytes, &header(), SEED + 1).next().is_none(), "belongs to another log");
    }

    #[test]
    fn only_a_record_at_its_own_position_that_claims_more_than_the_hole_is_a_proof() {
        let proof = |frame: Frame, hole| {
            survey(&segment_with(frame), BASE, SEGMENT_HEADER_BYTES, hole, 5, SEED).proof
        };
        assert_eq!(proof(GOOD, 8999), Some(SEGMENT_HEADER_BYTES));
        assert_eq!(proof(GOOD, 9000), None, "claims no more than the hole");
        assert_eq!(proof(Frame { position: FIRST.0 - 8192, ..GOOD }, 8999), None, "from an earlier use");
    }

    #[test]
    fn a_survey_finds_the_generations_of_what_was_left_behind() {
        let seen = survey(&segment_with(GOOD), BASE, SEGMENT_HEADER_BYTES, 9000, 4, SEED);
        assert_eq!((seen.generation_max, seen.torn), (5, true));
        let seen = survey(&segment_with(GOOD), BASE, SEGMENT_HEADER_BYTES, 9000, 6, SEED);
        assert_eq!((seen.generation_max, seen.torn), (5, false), "an earlier start's cut was reported then");
    }
}
