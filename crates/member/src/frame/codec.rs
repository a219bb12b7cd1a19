//! Frames as bytes and back. What follows the header of each kind is in `docs/formats/peer-frames.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_models::ModelId;

use super::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, ForwardRefusal, Forwarded, ForwardedBody, Frame, FrameError, Hello,
    Lane, SnapshotPoint, Space,
};
use crate::kinds::Level;

const MAGIC: u32 = 0x5155_4f52; // "QUOR"

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
