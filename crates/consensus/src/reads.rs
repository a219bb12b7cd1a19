//! Read rounds: what a read asks a majority, and who asked.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_ids::MemberId;

/// What ties an answer to its question: the member that asked, and a number that it never uses again. The leader keeps
/// one open round per token, so tokens of different members must differ; that is why the member is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadToken {
    pub member: MemberId,
    pub number: u64,
}

impl ReadToken {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn to_bytes(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES);
        bytes.put_u64_le(self.member.0);
        bytes.put_u64_le(self.number);
        bytes.freeze()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (member, number) = (bytes.get(..8)?, bytes.get(8..Self::BYTES)?);
        (bytes.len() == Self::BYTES).then(|| Self {
            member: MemberId(u64::from_le_bytes(member.try_into().expect("8 bytes"))),
            number: u64::from_le_bytes(number.try_into().expect("8 bytes")),
        })
    }
}

/// What became of a question for the read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ReadOutcome {
    /// A round has begun; the answer comes in [`crate::Ready::reads`]. It may never come: the leader changes, or a
    /// message is lost, or a leader that was asked has no commit of its term yet. Ask again, with a fresh number, when
    /// the role or leader changes or a heartbeat or two pass without an answer.
    Started,
    /// This leader has not committed an entry of its own term yet, so it cannot know what is committed. Ask again, with
    /// a fresh number, when its first entry is committed.
    NoCommitInTerm,
    /// Nobody to ask: no leader is known.
    NoLeader,
    /// As many rounds as `reads_pending_max` are open already. Share one of them.
    Full,
}
