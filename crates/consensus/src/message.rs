//! A message between members: opaque, and always in agreement with itself.
//!
//! Only two things make a [`Message`]: this member's own consensus, and [`Message::decode`], which checks it.

use bytes::Bytes;
use quorate_ids::{LogIndex, MemberId, Term};
use raft::eraftpb;

use crate::codec::{self, DecodeError};
use crate::entry::{Entry, payload};
use crate::membership::SnapshotPoint;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    Snapshot,
    Heartbeat,
    HeartbeatResponse,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
}

impl MessageKind {
    /// Whether messages of this kind may be large and so travel apart from votes, heartbeats, acks and reads.
    #[must_use]
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Append | Self::Snapshot)
    }

    pub(crate) fn from_raft(kind: eraftpb::MessageType) -> Option<Self> {
        use eraftpb::MessageType as Raft;
        Some(match kind {
            Raft::MsgAppend => Self::Append,
            Raft::MsgAppendResponse => Self::AppendResponse,
            Raft::MsgRequestVote => Self::RequestVote,
            Raft::MsgRequestVoteResponse => Self::RequestVoteResponse,
            Raft::MsgRequestPreVote => Self::RequestPreVote,
            Raft::MsgRequestPreVoteResponse => Self::RequestPreVoteResponse,
            Raft::MsgSnapshot => Self::Snapshot,
            Raft::MsgHeartbeat => Self::Heartbeat,
            Raft::MsgHeartbeatResponse => Self::HeartbeatResponse,
            Raft::MsgTimeoutNow => Self::TimeoutNow,
            Raft::MsgReadIndex => Self::ReadIndex,
            Raft::MsgReadIndexResp => Self::ReadIndexResponse,
            // Within one process, or forwarded proposals and transfers, which are not ours.
            Raft::MsgHup
            | Raft::MsgBeat
            | Raft::MsgPropose
            | Raft::MsgUnreachable
            | Raft::MsgSnapStatus
            | Raft::MsgCheckQuorum
            | Raft::MsgTransferLeader => return None,
        })
    }

    pub(crate) fn to_raft(self) -> eraftpb::MessageType {
        use eraftpb::MessageType as Raft;
        match self {
            Self::Append => Raft::MsgAppend,
            Self::AppendResponse => Raft::MsgAppendResponse,
            Self::RequestVote => Raft::MsgRequestVote,
            Self::RequestVoteResponse => Raft::MsgRequestVoteResponse,
            Self::RequestPreVote => Raft::MsgRequestPreVote,
            Self::RequestPreVoteResponse => Raft::MsgRequestPreVoteResponse,
            Self::Snapshot => Raft::MsgSnapshot,
            Self::Heartbeat => Raft::MsgHeartbeat,
            Self::HeartbeatResponse => Raft::MsgHeartbeatResponse,
            Self::TimeoutNow => Raft::MsgTimeoutNow,
            Self::ReadIndex => Raft::MsgReadIndex,
            Self::ReadIndexResponse => Raft::MsgReadIndexResp,
        }
    }
}

/// The part of the log that an append stands for: what comes after `after`, up to and with `through`. Both are equal where it
/// carries no entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendSpan {
    pub after: LogIndex,
    pub through: LogIndex,
}

/// What a follower says to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAnswer {
    /// It has the leader's log up to here.
    Has { through: LogIndex },
    /// Its log differs, or ends, before what was to come after `after`.
    Rejects { after: LogIndex },
}

/// A message from one member to another.
#[derive(Clone, PartialEq)]
pub struct Message {
    kind: MessageKind,
    raft: eraftpb::Message,
}

impl Message {
    /// The member that sends it.
    #[must_use]
    pub fn from(&self) -> MemberId {
        MemberId(self.raft.from)
    }

    /// The member that it is for.
    #[must_use]
    pub fn to(&self) -> MemberId {
        MemberId(self.raft.to)
    }

    /// The sender's term; [`Term::ZERO`] for [`MessageKind::ReadIndex`], which has none.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raft.term)
    }

    /// What it is for; see [`MessageKind::is_bulk`] for choosing a connection.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// Bytes of data in the entries of the log that it carries. A read round's token travels in an entry, too, and is none.
    #[must_use]
    pub fn entries_bytes(&self) -> usize {
        self.raft.entries.iter().take(self.entries_count()).map(|entry| payload(entry).len()).sum()
    }

    /// How many entries it carries.
    #[must_use]
    pub fn entries_count(&self) -> usize {
        if self.kind == MessageKind::Append { self.raft.entries.len() } else { 0 }
    }

    /// What an append stands for; `None` for other kinds.
    #[must_use]
    pub fn append_span(&self) -> Option<AppendSpan> {
        (self.kind == MessageKind::Append).then(|| {
            let after = LogIndex(self.raft.index);
            let through = self.raft.entries.last().map_or(after, |entry| LogIndex(entry.index));
            AppendSpan { after, through }
        })
    }

    /// What an answer to an append says; `None` for other kinds.
    #[must_use]
    pub fn append_answer(&self) -> Option<AppendAnswer> {
        let index = LogIndex(self.raft.index);
        (self.kind == MessageKind::AppendResponse).then_some(if self.raft.reject {
            AppendAnswer::Rejects { after: index }
        } else {
            AppendAnswer::Has { through: index }
        })
    }

    /// The entries that it carries.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.raft.entries.iter().take(self.entries_count()).map(Entry::from_raft)
    }

    /// The snapshot that the sender offers. The receiver fetches the store's files first and steps the message when it
    /// has them, however long that takes; until then it must not step it.
    #[must_use]
    pub fn is_snapshot(&self) -> Option<SnapshotPoint> {
        (self.kind == MessageKind::Snapshot).then(|| SnapshotPoint::from_raft(self.raft.get_snapshot()))
    }

    /// Appends the bytes of `docs/formats/raft-messages.md` to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        codec::encode(self.kind, &self.raft, out);
    }

    /// Reads one message that fills `bytes` exactly. Entry data is copied; see [`Self::decode_shared`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > crate::MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLong { len: bytes.len() });
        }
        Self::decode_shared(&Bytes::copy_from_slice(bytes))
    }

    /// As [`Self::decode`], but entry data shares memory with `bytes` instead of being copied.
    pub fn decode_shared(bytes: &Bytes) -> Result<Self, DecodeError> {
        codec::decode(bytes).map(|(kind, raft)| Self { kind, raft })
    }

    /// `None` for a kind that never leaves a member.
    pub(crate) fn from_raft(raft: eraftpb::Message) -> Option<Self> {
        MessageKind::from_raft(raft.get_msg_type()).map(|kind| Self { kind, raft })
    }

    pub(crate) fn raft(&self) -> &eraftpb::Message {
        &self.raft
    }

    pub(crate) fn into_raft(self) -> eraftpb::Message {
        self.raft
    }

    pub(crate) fn readdress(&mut self, from: u64, term: u64) {
        self.raft.from = from;
        self.raft.term = term;
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let m = &self.raft;
        write!(f, "{:?} {:x}->{:x} term {}", self.kind, m.from, m.to, m.term)?;
        match self.kind {
            MessageKind::Append => {
                write!(f, " after {}/{} commit {}", m.index, m.log_term, m.commit)?;
                if let (Some(first), Some(last)) = (m.entries.first(), m.entries.last()) {
                    write!(f, " entries {}/{}..={}/{}", first.index, first.term, last.index, last.term)?;
                }
                Ok(())
            }
            MessageKind::AppendResponse if m.reject => {
                write!(f, " rejects {} hint {}/{}", m.index, m.reject_hint, m.log_term)
            }
            MessageKind::AppendResponse => write!(f, " has {}", m.index),
            MessageKind::RequestVote | MessageKind::RequestPreVote => {
                write!(f, " last {}/{}", m.index, m.log_term)?;
                if m.context.is_empty() { Ok(()) } else { write!(f, " transfer") }
            }
            MessageKind::RequestVoteResponse | MessageKind::RequestPreVoteResponse => {
                write!(f, " {}", if m.reject { "rejects" } else { "grants" })
            }
            MessageKind::Snapshot => {
                let point = SnapshotPoint::from_raft(m.get_snapshot());
                write!(f, " at {}/{}", point.index, point.term)
            }
            MessageKind::Heartbeat | MessageKind::HeartbeatResponse => {
                write!(f, " commit {}", m.commit)?;
                if m.context.is_empty() { Ok(()) } else { write!(f, " with read") }
            }
            MessageKind::ReadIndexResponse => write!(f, " index {}", m.index),
            MessageKind::TimeoutNow | MessageKind::ReadIndex => Ok(()),
        }
    }
}

/// Cuts an append of more than `bytes_max` bytes of entries into several that carry the same, in order. (The `raft` crate
/// merges appends of one turn without a bound.)
pub(crate) fn split_append(mut message: eraftpb::Message, bytes_max: usize) -> Vec<eraftpb::Message> {
    let total: usize = message.entries.iter().map(|entry| payload(entry).len()).sum();
    if message.get_msg_type() != eraftpb::MessageType::MsgAppend || total <= bytes_max {
        return vec![message];
    }
    let entries: Vec<eraftpb::Entry> = message.take_entries().into();
    let mut parts = Vec::new();
    let mut part = message.clone();
    let mut part_bytes = 0;
    for entry in entries {
        let len = payload(&entry).len();
        if part_bytes > 0 && part_bytes + len > bytes_max {
            let last = part.entries.last().expect("it has bytes");
            let mut next = message.clone();
            (next.index, next.log_term) = (last.index, last.term);
            parts.push(std::mem::replace(&mut part, next));
            part_bytes = 0;
        }
        part_bytes += len;
        part.entries.push(entry);
    }
    parts.push(part);
    parts
}

/// Makes an append say what its entries follow. `term_of` gives the term of an entry of this leader's log; an append
/// whose place in the log is not known any more is dropped, as a network may drop it.
///
/// The `raft` crate (0.7) adds a batch of entries to an append without entries for the same follower that is still in
/// its outbox, whatever place that one stands for. After a follower's log was found to be shorter than thought the two
/// places differ, and the follower would append old entries behind newer ones.
pub(crate) fn anchored(
    mut message: eraftpb::Message,
    term_of: impl Fn(u64) -> Option<u64>,
) -> Option<eraftpb::Message> {
    let Some(first) = message.entries.first().map(|entry| entry.index) else { return Some(message) };
    if message.get_msg_type() == eraftpb::MessageType::MsgAppend && message.index + 1 != first {
        message.index = first - 1;
        message.log_term = if message.index == 0 { 0 } else { term_of(message.index)? };
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(index: u64, log_term: u64, entries: &[u64]) -> eraftpb::Message {
        let entry = |index: &u64| eraftpb::Entry { index: *index, term: 2, ..Default::default() };
        let mut message = eraftpb::Message { index, log_term, ..Default::default() };
        message.set_msg_type(eraftpb::MessageType::MsgAppend);
        message.set_entries(entries.iter().map(entry).collect::<Vec<_>>().into());
        message
    }

    #[test]
    fn entries_that_were_added_to_an_append_for_another_place_are_sent_for_their_own() {
        let told = anchored(append(614, 2, &[552, 553]), |index| (index == 551).then_some(1)).unwrap();
        assert_eq!((told.index, told.log_term), (551, 1));
        assert_eq!(told.entries.len(), 2);
        assert!(anchored(append(614, 2, &[552]), |_| None).is_none(), "that place is compacted away");
        let whole = append(551, 1, &[552]);
        assert_eq!(anchored(whole.clone(), |_| None), Some(whole));
        let empty = append(614, 2, &[]);
        assert_eq!(anchored(empty.clone(), |_| None), Some(empty));
    }
}
