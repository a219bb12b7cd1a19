//! What surrounds a command in the log: which model it is for, who asked, and when.
//!
//! Layout, little-endian (see `docs/formats/entry.md`):
//! version u8 = 1 | flags u8 = 0 | model u16 | origin member u64 | origin start u64 | origin sequence u64 |
//! cluster time u64 | wall time u64 | command bytes.
//!
//! `flags` is reserved for the principal and its auth revision. A member that meets a version or flag that it does not
//! know stops applying and says so; it never skips an entry.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_ids::{ClusterTime, MemberId, WallTime};
use quorate_models::ModelId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 1 + 2 + 5 * 8;

/// Which request of which run of which member. `start` is new at every start, so nothing old answers anything new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub member: MemberId,
    pub start: u64,
    pub seq: u64,
}

/// A decoded entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub model: ModelId,
    pub origin: Origin,
    pub cluster_time: ClusterTime,
    pub wall_time: WallTime,
    pub command: Bytes,
}

/// Why an entry can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the entry has {0} bytes, fewer than its header")]
    Short(usize),
    #[error("the entry has version {0}; this program knows {VERSION}: run a newer version of Quorate")]
    Version(u8),
    #[error("the entry has flags {0:#x} that this program does not know: run a newer version of Quorate")]
    Flags(u8),
}

impl Envelope {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.command.len());
        out.put_u8(VERSION);
        out.put_u8(0);
        out.put_u16_le(self.model.0);
        out.put_u64_le(self.origin.member.0);
        out.put_u64_le(self.origin.start);
        out.put_u64_le(self.origin.seq);
        out.put_u64_le(self.cluster_time.0);
        out.put_u64_le(self.wall_time.0);
        out.put_slice(&self.command);
        out.freeze()
    }

    /// Reads an entry; the command is a slice of `entry`.
    pub fn decode(entry: &Bytes) -> Result<Self, EnvelopeError> {
        if entry.len() < HEADER_BYTES {
            return Err(EnvelopeError::Short(entry.len()));
        }
        if entry[0] != VERSION {
            return Err(EnvelopeError::Version(entry[0]));
        }
        if entry[1] != 0 {
            return Err(EnvelopeError::Flags(entry[1]));
        }
        let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        Ok(Self {
            model: ModelId(u16::from_le_bytes([entry[2], entry[3]])),
            origin: Origin { member: MemberId(word(4)), start: word(12), seq: word(20) },
            cluster_time: ClusterTime(word(28)),
            wall_time: WallTime(word(36)),
            command: entry.slice(HEADER_BYTES..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Envelope {
        Envelope {
            model: ModelId::KEYS,
            origin: Origin { member: MemberId(7), start: 8, seq: 9 },
            cluster_time: ClusterTime(10),
            wall_time: WallTime(11),
            command: Bytes::from_static(b"put"),
        }
    }

    #[test]
    fn an_entry_reads_back_as_written() {
        assert_eq!(Envelope::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn a_newer_version_and_an_unknown_flag_are_refused_by_name() {
        let mut bytes = sample().encode().to_vec();
        bytes[0] = 2;
        assert_eq!(Envelope::decode(&Bytes::from(bytes.clone())), Err(EnvelopeError::Version(2)));
        bytes[0] = 1;
        bytes[1] = 4;
        assert_eq!(Envelope::decode(&Bytes::from(bytes)), Err(EnvelopeError::Flags(4)));
        assert_eq!(Envelope::decode(&Bytes::from_static(b"x")), Err(EnvelopeError::Short(1)));
    }
}
