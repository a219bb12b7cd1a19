//! What members say to each other, as bytes.
//!
//! A frame is: length u32 (of all that follows) | CRC32C u32 (of all that follows it) | kind u8 | group u8 = 0 | body.
//! Layouts are in `docs/formats/peer-frames.md`. Every length is checked before anything is allocated; a frame that
//! makes no sense is a typed error and ends its connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_models::ModelId;

use crate::handle::MembershipRefusal;
use crate::kinds::Level;

/// The longest frame, in bytes: the largest request with room to spare, and several snapshot chunks.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The protocol of this file; a peer with another is refused at the handshake.
pub const PROTOCOL_VERSION: u16 = 1;
/// Length, CRC, kind and group.
pub const FRAME_HEADER_BYTES: usize = 4 + 4 + 1 + 1;
/// A snapshot chunk carries at most this many bytes of a file.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
const MAGIC: u32 = 0x5155_4f52; // "QUOR"

/// Which of a peer's connections a frame takes: what must not wait behind data has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, acks, read rounds.
    Control,
    /// Entries and forwarded requests.
    Entries,
    /// Snapshot files and mended records.
    Bulk,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Control, Self::Entries, Self::Bulk];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }
}

/// The first frame of a connection, from each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub lane: Lane,
    /// Whom the caller means to talk to.
    pub to: MemberId,
}

/// A command on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub start: u64,
    pub seq: u64,
    pub body: ForwardedBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedBody {
    Command { model: ModelId, command: Bytes },
    Membership { request: Bytes },
}

/// How much space a member's disk has. Each one is worse than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    #[default]
    Enough,
    /// The reserve is whole, and not much is free beside it.
    Nearly,
    /// The disk is full: a part of the reserve is given free, or there never was one.
    Short,
    /// And less than half of the reserve is left, or there is no next segment for the log.
    Last,
}

impl Space {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Enough, Self::Nearly, Self::Short, Self::Last].into_iter().find(|space| *space as u8 == byte)
    }

    /// Nothing may be put.
    #[must_use]
    pub fn is_full(self) -> bool {
        self >= Self::Short
    }
}

/// Why a leader did not take a forwarded command. In each case it is certain that it was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardRefusal {
    NotLeader,
    Overloaded,
    NoSpace,
    /// Not every member knows commands of this kind.
    TooNew,
    Membership(MembershipRefusal),
}

impl ForwardRefusal {
    fn code(self) -> u8 {
        match self {
            Self::NotLeader => 0,
            Self::Overloaded => 1,
            Self::NoSpace => 2,
            Self::TooNew => 3,
            Self::Membership(refusal) => 16 + refusal.code(),
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::NotLeader),
            1 => Some(Self::Overloaded),
            2 => Some(Self::NoSpace),
            3 => Some(Self::TooNew),
            code => MembershipRefusal::from_code(code.checked_sub(16)?).map(Self::Membership),
        }
    }
}

/// The point in the log that a snapshot stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotPoint {
    pub index: LogIndex,
    pub term: Term,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    /// The handshake failed; the connection ends after this.
    Refused {
        reason: String,
    },
    /// A message of consensus, in its own encoding.
    Raft(Bytes),
    /// Requests for the leader of `term`, which alone may propose them.
    Forward {
        term: Term,
        requests: Vec<Forwarded>,
    },
    ForwardRefused {
        start: u64,
        term: Term,
        seqs: Vec<u64>,
        reason: ForwardRefusal,
    },
    SnapshotOpen {
        point: SnapshotPoint,
    },
    SnapshotManifest {
        point: SnapshotPoint,
        manifest: Bytes,
    },
    SnapshotGone {
        point: SnapshotPoint,
    },
    ChunkRequest {
        point: SnapshotPoint,
        file: String,
        offset: u64,
        len: u32,
    },
    Chunk {
        point: SnapshotPoint,
        file: String,
        offset: u64,
        bytes: Bytes,
    },
    /// The receiver is done with a transfer.
    SnapshotStatus {
        point: SnapshotPoint,
        installed: bool,
    },
    /// Asks for a record by table, key and stamp, to mend a damaged one.
    RecordRequest {
        request: u64,
        table: u8,
        key: Bytes,
        index: LogIndex,
        place: u32,
    },
    Record {
        request: u64,
        record: Option<Bytes>,
    },
    /// Table hashes at an applied index, to find divergence.
    Hashes {
        index: LogIndex,
        hash: u64,
    },
    /// Questions about leases, for the leader: run, sequence, lease, whether to keep it alive.
    LeaseAsks {
        asks: Vec<(u64, u64, i64, bool)>,
    },
    /// Answers to a run's questions: sequence and, unless the lease is missing, TTL in seconds and nanoseconds left.
    LeaseAnswers {
        start: u64,
        answers: Vec<(u64, Option<(i64, u64)>)>,
    },
    /// The answer to a joiner that has no cluster yet.
    Members {
        cluster: ClusterId,
        list: Bytes,
    },
    /// A question about joining, and its answer, in their own encoding. The only frames, beside the one above, that
    /// go between members of different clusters.
    JoinQuestion(Bytes),
    JoinAnswer(Bytes),
    /// Asks the leader of `term` to hand leadership to `to`.
    Transfer {
        term: Term,
        to: MemberId,
    },
    /// How much of what may stand in the log the sender knows; see [`crate::kinds`]. A program of level 1 sends none.
    Level(Level),
    /// Tells the leader how much space the sender's disk has.
    Space(Space),
    /// The leader of `term` goes on without a member whose disk is full: it need not take what takes space.
    Spared {
        term: Term,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    Long(usize),
    #[error("a frame of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("a frame's checksum does not match")]
    Checksum,
    #[error("a frame of kind {0} that this program does not know")]
    Kind(u8),
    #[error("a frame for group {0}; there is only group 0")]
    Group(u8),
    #[error("a frame of kind {0} ends early or holds a value that makes no sense")]
    Body(u8),
    #[error("this is not a Quorate peer")]
    Magic,
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a field below the frame limit"));
    out.put_slice(bytes);
}

struct Reader<'a>(&'a mut Bytes, u8);

impl Reader<'_> {
    fn need(&self, bytes: usize) -> Result<(), FrameError> {
        if self.0.remaining() < bytes { Err(FrameError::Body(self.1)) } else { Ok(()) }
    }
    fn u8(&mut self) -> Result<u8, FrameError> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }
    fn u16(&mut self) -> Result<u16, FrameError> {
        self.need(2)?;
        Ok(self.0.get_u16_le())
    }
    fn u32(&mut self) -> Result<u32, FrameError> {
        self.need(4)?;
        Ok(self.0.get_u32_le())
    }
    fn u64(&mut self) -> Result<u64, FrameError> {
        self.need(8)?;
        Ok(self.0.get_u64_le())
    }
    fn bytes(&mut self) -> Result<Bytes, FrameError> {
        let len = self.u32()? as usize;
        self.need(len)?;
        Ok(self.0.split_to(len))
    }
    fn string(&mut self) -> Result<String, FrameError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| FrameError::Body(self.1))
    }
    fn point(&mut self) -> Result<SnapshotPoint, FrameError> {
        Ok(SnapshotPoint { index: LogIndex(self.u64()?), term: Term(self.u64()?) })
    }
    fn end(&self) -> Result<(), FrameError> {
        if self.0.has_remaining() { Err(FrameError::Body(self.1)) } else { Ok(()) }
    }
}

fn put_point(out: &mut BytesMut, point: SnapshotPoint) {
    out.put_u64_le(point.index.0);
    out.put_u64_le(point.term.0);
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Refused { .. } => 2,
            Self::Raft(_) => 3,
            Self::Forward { .. } => 4,
            Self::ForwardRefused { .. } => 5,
            Self::SnapshotOpen { .. } => 6,
            Self::SnapshotManifest { .. } => 7,
            Self::SnapshotGone { .. } => 8,
            Self::ChunkRequest { .. } => 9,
            Self::Chunk { .. } => 10,
            Self::SnapshotStatus { .. } => 11,
            Self::RecordRequest { .. } => 12,
            Self::Record { .. } => 13,
            Self::Hashes { .. } => 14,
            Self::Members { .. } => 15,
            Self::LeaseAsks { .. } => 16,
            Self::LeaseAnswers { .. } => 17,
            Self::JoinQuestion(_) => 18,
            Self::JoinAnswer(_) => 19,
            Self::Transfer { .. } => 20,
            Self::Level(_) => 21,
            Self::Space(_) => 22,
            Self::Spared { .. } => 23,
        }
    }

    /// The whole frame, header included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u64_le(0);
        out.put_u8(self.kind());
        out.put_u8(0);
        self.encode_body(&mut out);
        let rest = u32::try_from(out.len() - 4).expect("a frame below the limit");
        let crc = crc32c::crc32c(&out[8..]);
        out[0..4].copy_from_slice(&rest.to_le_bytes());
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    fn encode_body(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(hello) => {
                out.put_u32_le(MAGIC);
                out.put_u16_le(hello.version);
                out.put_u64_le(hello.cluster.0);
                out.put_u64_le(hello.member.0);
                out.put_u64_le(hello.incarnation.0);
                out.put_u8(hello.lane as u8);
                out.put_u64_le(hello.to.0);
            }
            Self::Refused { reason } => put_bytes(out, reason.as_bytes()),
            Self::Raft(message) | Self::JoinQuestion(message) | Self::JoinAnswer(message) => {
                out.put_slice(message);
            }
            Self::Forward { term, requests } => {
                out.put_u64_le(term.0);
                out.put_u32_le(u32::try_from(requests.len()).expect("a bounded batch"));
                for request in requests {
                    out.put_u64_le(request.start);
                    out.put_u64_le(request.seq);
                    match &request.body {
                        ForwardedBody::Command { model, command } => {
                            out.put_u8(0);
                            out.put_u16_le(model.0);
                            put_bytes(out, command);
                        }
                        ForwardedBody::Membership { request } => {
                            out.put_u8(1);
                            put_bytes(out, request);
                        }
                    }
                }
            }
            Self::ForwardRefused { start, term, seqs, reason } => {
                out.put_u64_le(*start);
                out.put_u64_le(term.0);
                out.put_u8(reason.code());
                out.put_u32_le(u32::try_from(seqs.len()).expect("a bounded batch"));
                seqs.iter().for_each(|seq| out.put_u64_le(*seq));
            }
            Self::SnapshotOpen { point } | Self::SnapshotGone { point } => put_point(out, *point),
            Self::SnapshotManifest { point, manifest } => {
                put_point(out, *point);
                put_bytes(out, manifest);
            }
            Self::ChunkRequest { point, file, offset, len } => {
                put_point(out, *point);
                put_bytes(out, file.as_bytes());
                out.put_u64_le(*offset);
                out.put_u32_le(*len);
            }
            Self::Chunk { point, file, offset, bytes } => {
                put_point(out, *point);
                put_bytes(out, file.as_bytes());
                out.put_u64_le(*offset);
                put_bytes(out, bytes);
            }
            Self::SnapshotStatus { point, installed } => {
                put_point(out, *point);
                out.put_u8(u8::from(*installed));
            }
            Self::RecordRequest { request, table, key, index, place } => {
                out.put_u64_le(*request);
                out.put_u8(*table);
                put_bytes(out, key);
                out.put_u64_le(index.0);
                out.put_u32_le(*place);
            }
            Self::Record { request, record } => {
                out.put_u64_le(*request);
                out.put_u8(u8::from(record.is_some()));
                put_bytes(out, record.as_deref().unwrap_or_default());
            }
            Self::Hashes { index, hash } => {
                out.put_u64_le(index.0);
                out.put_u64_le(*hash);
            }
            Self::LeaseAsks { asks } => {
                out.put_u32_le(u32::try_from(asks.len()).expect("a bounded batch"));
                for (start, seq, lease, renew) in asks {
                    out.put_u64_le(*start);
                    out.put_u64_le(*seq);
                    out.put_i64_le(*lease);
                    out.put_u8(u8::from(*renew));
                }
            }
            Self::LeaseAnswers { start, answers } => {
                out.put_u64_le(*start);
                out.put_u32_le(u32::try_from(answers.len()).expect("a bounded batch"));
                for (seq, alive) in answers {
                    out.put_u64_le(*seq);
                    out.put_u8(u8::from(alive.is_some()));
                    let (ttl_seconds, remaining_nanos) = alive.unwrap_or_default();
                    out.put_i64_le(ttl_seconds);
                    out.put_u64_le(remaining_nanos);
                }
            }
            Self::Members { cluster, list } => {
                out.put_u64_le(cluster.0);
                put_bytes(out, list);
            }
            Self::Transfer { term, to } => {
                out.put_u64_le(term.0);
                out.put_u64_le(to.0);
            }
            Self::Level(level) => out.put_u16_le(level.0),
            Self::Space(space) => out.put_u8(*space as u8),
            Self::Spared { term } => out.put_u64_le(term.0),
        }
    }

    /// How long the frame is whose first bytes are `header`; `None` if the length itself is not there yet.
    pub fn len_of(header: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(len) = header.get(0..4) else { return Ok(None) };
        let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize + 4;
        if len > FRAME_BYTES_MAX {
            return Err(FrameError::Long(len));
        }
        if len < FRAME_HEADER_BYTES {
            return Err(FrameError::Short(len));
        }
        Ok(Some(len))
    }

    /// Reads one whole frame, header included.
    pub fn decode(mut frame: Bytes) -> Result<Self, FrameError> {
        if Self::len_of(&frame)? != Some(frame.len()) || frame.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::Short(frame.len()));
        }
        let crc = u32::from_le_bytes(frame[4..8].try_into().expect("four bytes"));
        if crc32c::crc32c(&frame[8..]) != crc {
            return Err(FrameError::Checksum);
        }
        let (kind, group) = (frame[8], frame[9]);
        if group != 0 {
            return Err(FrameError::Group(group));
        }
        frame.advance(FRAME_HEADER_BYTES);
        let mut r = Reader(&mut frame, kind);
        let decoded = match kind {
            1 => {
                if r.u32()? != MAGIC {
                    return Err(FrameError::Magic);
                }
                Self::Hello(Hello {
                    version: r.u16()?,
                    cluster: ClusterId(r.u64()?),
                    member: MemberId(r.u64()?),
                    incarnation: Incarnation(r.u64()?),
                    lane: Lane::from_byte(r.u8()?).ok_or(FrameError::Body(kind))?,
                    to: MemberId(r.u64()?),
                })
            }
            2 => Self::Refused { reason: r.string()? },
            3 => return Ok(Self::Raft(frame)),
            18 => return Ok(Self::JoinQuestion(frame)),
            19 => return Ok(Self::JoinAnswer(frame)),
            4 => {
                let term = Term(r.u64()?);
                let count = r.u32()?;
                let mut requests = Vec::new();
                for _ in 0..count {
                    let (start, seq) = (r.u64()?, r.u64()?);
                    let body = match r.u8()? {
                        0 => ForwardedBody::Command { model: ModelId(r.u16()?), command: r.bytes()? },
                        1 => ForwardedBody::Membership { request: r.bytes()? },
                        _ => return Err(FrameError::Body(kind)),
                    };
                    requests.push(Forwarded { start, seq, body });
                }
                Self::Forward { term, requests }
            }
            5 => {
                let (start, term) = (r.u64()?, Term(r.u64()?));
                let reason = ForwardRefusal::from_code(r.u8()?).ok_or(FrameError::Body(kind))?;
                let count = r.u32()? as usize;
                r.need(count.saturating_mul(8))?;
                let seqs = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
                Self::ForwardRefused { start, term, seqs, reason }
            }
            6 => Self::SnapshotOpen { point: r.point()? },
            7 => Self::SnapshotManifest { point: r.point()?, manifest: r.bytes()? },
            8 => Self::SnapshotGone { point: r.point()? },
            9 => Self::ChunkRequest { point: r.point()?, file: r.string()?, offset: r.u64()?, len: r.u32()? },
            10 => Self::Chunk { point: r.point()?, file: r.string()?, offset: r.u64()?, bytes: r.bytes()? },
            11 => Self::SnapshotStatus { point: r.point()?, installed: r.u8()? == 1 },
            12 => Self::RecordRequest {
                request: r.u64()?,
                table: r.u8()?,
                key: r.bytes()?,
                index: LogIndex(r.u64()?),
                place: r.u32()?,
            },
            13 => {
                let (request, present) = (r.u64()?, r.u8()? == 1);
                let record = r.bytes()?;
                Self::Record { request, record: present.then_some(record) }
            }
            14 => Self::Hashes { index: LogIndex(r.u64()?), hash: r.u64()? },
            15 => Self::Members { cluster: ClusterId(r.u64()?), list: r.bytes()? },
            16 => {
                let mut asks = Vec::new();
                for _ in 0..r.u32()? {
                    asks.push((r.u64()?, r.u64()?, r.u64()? as i64, r.u8()? == 1));
                }
                Self::LeaseAsks { asks }
            }
            17 => {
                let (start, count) = (r.u64()?, r.u32()?);
                let mut answers = Vec::new();
                for _ in 0..count {
                    let (seq, alive) = (r.u64()?, r.u8()? == 1);
                    let answer = (r.u64()? as i64, r.u64()?);
                    answers.push((seq, alive.then_some(answer)));
                }
                Self::LeaseAnswers { start, answers }
            }
            20 => Self::Transfer { term: Term(r.u64()?), to: MemberId(r.u64()?) },
            21 => Self::Level(Level(r.u16()?)),
            22 => Self::Space(Space::from_byte(r.u8()?).ok_or(FrameError::Body(kind))?),
            23 => Self::Spared { term: Term(r.u64()?) },
            _ => return Err(FrameError::Kind(kind)),
        };
        r.end()?;
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Frame> {
        let point = SnapshotPoint { index: LogIndex(5), term: Term(2) };
        vec![
            Frame::Hello(Hello {
                version: PROTOCOL_VERSION,
                cluster: ClusterId(1),
                member: MemberId(2),
                incarnation: Incarnation(3),
                lane: Lane::Bulk,
                to: MemberId(4),
            }),
            Frame::Refused { reason: "another cluster".to_owned() },
            Frame::Raft(Bytes::from_static(b"message")),
            Frame::Forward {
                term: Term(3),
                requests: vec![
                    Forwarded {
                        start: 1,
                        seq: 2,
                        body: ForwardedBody::Command {
                            model: ModelId::KEYS,
                            command: Bytes::from_static(b"c"),
                        },
                    },
                    Forwarded { start: 1, seq: 3, body: ForwardedBody::Membership { request: Bytes::new() } },
                ],
            },
            Frame::ForwardRefused {
                start: 1,
                term: Term(3),
                seqs: vec![2, 3],
                reason: ForwardRefusal::NoSpace,
            },
            Frame::SnapshotOpen { point },
            Frame::SnapshotManifest { point, manifest: Bytes::from_static(b"m") },
            Frame::SnapshotGone { point },
            Frame::ChunkRequest { point, file: "seg".to_owned(), offset: 9, len: 10 },
            Frame::Chunk { point, file: "seg".to_owned(), offset: 9, bytes: Bytes::from_static(b"data") },
            Frame::SnapshotStatus { point, installed: true },
            Frame::RecordRequest {
                request: 1,
                table: 2,
                key: Bytes::from_static(b"k"),
                index: LogIndex(3),
                place: 4,
            },
            Frame::Record { request: 1, record: None },
            Frame::Record { request: 1, record: Some(Bytes::from_static(b"r")) },
            Frame::Hashes { index: LogIndex(1), hash: 2 },
            Frame::LeaseAsks { asks: vec![(1, 2, -3, true), (1, 3, 4, false)] },
            Frame::LeaseAnswers { start: 1, answers: vec![(2, None), (3, Some((10, 11)))] },
            Frame::Members { cluster: ClusterId(1), list: Bytes::from_static(b"l") },
            Frame::JoinQuestion(Bytes::from_static(b"who")),
            Frame::JoinAnswer(Bytes::from_static(b"me")),
            Frame::Transfer { term: Term(3), to: MemberId(4) },
            Frame::Level(Level(2)),
            Frame::Space(Space::Short),
            Frame::Spared { term: Term(3) },
        ]
    }

    #[test]
    fn frames_read_back_as_written() {
        for frame in samples() {
            let bytes = frame.encode();
            assert_eq!(Frame::len_of(&bytes), Ok(Some(bytes.len())));
            assert_eq!(Frame::decode(bytes), Ok(frame));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        for frame in samples() {
            let bytes = frame.encode();
            for at in 0..bytes.len() * 8 {
                let mut bent = bytes.to_vec();
                bent[at / 8] ^= 1 << (at % 8);
                assert!(Frame::decode(Bytes::from(bent)).is_err(), "{frame:?} with bit {at} flipped");
            }
        }
    }

    #[test]
    fn a_frame_cut_short_is_refused_even_with_a_right_checksum() {
        let opaque =
            |frame: &Frame| matches!(frame, Frame::Raft(_) | Frame::JoinQuestion(_) | Frame::JoinAnswer(_));
        for frame in samples().into_iter().filter(|frame| !opaque(frame)) {
            let whole = frame.encode();
            for keep in FRAME_HEADER_BYTES..whole.len() {
                let mut cut = whole[..keep].to_vec();
                let crc = crc32c::crc32c(&cut[8..]);
                cut[0..4].copy_from_slice(&(keep as u32 - 4).to_le_bytes());
                cut[4..8].copy_from_slice(&crc.to_le_bytes());
                assert!(Frame::decode(Bytes::from(cut)).is_err(), "{frame:?} cut to {keep}");
            }
        }
    }
}
