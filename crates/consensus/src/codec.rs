//! The bytes of a message; `docs/formats/raft-messages.md` is the contract.
//!
//! Decoding refuses whatever a correct member cannot have sent, so that a [`crate::Message`] always agrees with itself:
//! entries follow each other, terms do not decrease, numbers leave room to count on. Every message has exactly one
//! encoding: what decodes encodes to the same bytes.

use bytes::Bytes;
use raft::eraftpb;

use crate::entry::{EntryKind, kind, payload, raft_entry};
use crate::membership::{Membership, MembershipError, SnapshotPoint};
use crate::message::MessageKind;
use crate::reads::ReadToken;
use crate::{ENTRY_BYTES_MAX, MEMBERS_MAX, MESSAGE_BYTES_MAX, NUMBER_MAX};

/// The first byte of every message.
pub const FORMAT_VERSION: u8 = 1;

/// The context by which the `raft` crate marks a vote request of a leadership transfer.
const TRANSFER_CONTEXT: &[u8] = raft::CAMPAIGN_TRANSFER;
const FLAG_REJECT: u8 = 1;
const FLAG_TRANSFER: u8 = 1;
const FLAG_READ: u8 = 1;
/// The fewest bytes that an entry takes: kind, term, length.
const ENTRY_BYTES_MIN: usize = 3;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("raft message of {len} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("raft message ends early, at byte {at}")]
    Truncated { at: usize },
    #[error("raft message has {extra} bytes after its end")]
    Trailing { extra: usize },
    #[error("raft message has format version {version}, this build speaks {FORMAT_VERSION}")]
    Version { version: u8 },
    #[error("raft message has unknown kind {kind}")]
    Kind { kind: u8 },
    #[error("raft message has unknown flags {flags:#04x}")]
    Flags { flags: u8 },
    #[error("raft message has a number at byte {at} that is malformed or larger than any real one")]
    Number { at: usize },
    #[error("raft message names impossible members: from {from:x} to {to:x}")]
    Members { from: u64, to: u64 },
    #[error("raft message contradicts itself: {what}")]
    Contradiction { what: &'static str },
    #[error("raft message has an entry of unknown kind {kind}")]
    EntryKind { kind: u8 },
    #[error("raft message has an entry with {len} bytes of data, which its kind or the limit does not allow")]
    EntryLength { len: u64 },
    #[error("raft message carries a bad membership: {0}")]
    Membership(#[from] MembershipError),
}

fn code(kind: MessageKind) -> u8 {
    match kind {
        MessageKind::Append => 1,
        MessageKind::AppendResponse => 2,
        MessageKind::RequestVote => 3,
        MessageKind::RequestVoteResponse => 4,
        MessageKind::RequestPreVote => 5,
        MessageKind::RequestPreVoteResponse => 6,
        MessageKind::Snapshot => 7,
        MessageKind::Heartbeat => 8,
        MessageKind::HeartbeatResponse => 9,
        MessageKind::TimeoutNow => 10,
        MessageKind::ReadIndex => 11,
        MessageKind::ReadIndexResponse => 12,
    }
}

fn from_code(code: u8) -> Result<MessageKind, DecodeError> {
    Ok(match code {
        1 => MessageKind::Append,
        2 => MessageKind::AppendResponse,
        3 => MessageKind::RequestVote,
        4 => MessageKind::RequestVoteResponse,
        5 => MessageKind::RequestPreVote,
        6 => MessageKind::RequestPreVoteResponse,
        7 => MessageKind::Snapshot,
        8 => MessageKind::Heartbeat,
        9 => MessageKind::HeartbeatResponse,
        10 => MessageKind::TimeoutNow,
        11 => MessageKind::ReadIndex,
        12 => MessageKind::ReadIndexResponse,
        kind => return Err(DecodeError::Kind { kind }),
    })
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends the encoding of `m`, a message of kind `of`, to `out`.
pub(crate) fn encode(of: MessageKind, m: &eraftpb::Message, out: &mut Vec<u8>) {
    out.extend_from_slice(&[FORMAT_VERSION, code(of)]);
    out.extend_from_slice(&m.from.to_le_bytes());
    out.extend_from_slice(&m.to.to_le_bytes());
    put_varint(out, m.term);
    match of {
        MessageKind::Append => encode_append(m, out),
        MessageKind::AppendResponse => {
            out.push(if m.reject { FLAG_REJECT } else { 0 });
            put_varint(out, m.index);
            put_varint(out, m.commit);
            if m.reject {
                put_varint(out, m.reject_hint);
                put_varint(out, m.log_term);
            }
        }
        MessageKind::RequestVote | MessageKind::RequestPreVote => {
            out.push(if m.context == TRANSFER_CONTEXT { FLAG_TRANSFER } else { 0 });
            put_varint(out, m.index);
            put_varint(out, m.log_term);
            put_varint(out, m.commit);
            put_varint(out, m.commit_term);
        }
        MessageKind::RequestVoteResponse | MessageKind::RequestPreVoteResponse => {
            out.push(if m.reject { FLAG_REJECT } else { 0 });
            put_varint(out, m.commit);
            put_varint(out, m.commit_term);
        }
        MessageKind::Snapshot => {
            let point = SnapshotPoint::from_raft(m.get_snapshot());
            put_varint(out, point.index.0);
            put_varint(out, point.term.0);
            for members in [&point.membership.voters, &point.membership.learners] {
                put_varint(out, members.len() as u64);
                members.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
            }
        }
        MessageKind::Heartbeat | MessageKind::HeartbeatResponse => {
            out.push(if m.context.is_empty() { 0 } else { FLAG_READ });
            put_varint(out, m.commit);
            out.extend_from_slice(&m.context);
        }
        MessageKind::TimeoutNow => {}
        MessageKind::ReadIndex | MessageKind::ReadIndexResponse => {
            put_varint(out, m.index);
            if let Some(entry) = m.entries.first() {
                out.extend_from_slice(&entry.data);
            }
        }
    }
}

fn encode_append(m: &eraftpb::Message, out: &mut Vec<u8>) {
    // An entry's index is its place: it is not written.
    assert!(
        m.entries.first().is_none_or(|first| first.index == m.index + 1),
        "entries follow what the append names"
    );
    out.reserve(m.entries.iter().map(|entry| payload(entry).len() + 16).sum::<usize>() + 48);
    put_varint(out, m.index);
    put_varint(out, m.log_term);
    put_varint(out, m.commit);
    put_varint(out, m.entries.len() as u64);
    for entry in m.entries.iter() {
        let data = payload(entry);
        out.push(kind(entry).code());
        put_varint(out, entry.term);
        put_varint(out, data.len() as u64);
        out.extend_from_slice(data);
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.remaining() {
            return Err(DecodeError::Truncated { at: self.bytes.len() });
        }
        let taken = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(taken)
    }

    fn fixed(&mut self) -> Result<u64, DecodeError> {
        let (at, end) = (self.at, self.at + 8);
        let bytes = self.bytes.get(at..end).ok_or(DecodeError::Truncated { at: self.bytes.len() })?;
        self.at = end;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    /// A number of at most [`NUMBER_MAX`], in its shortest form.
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let start = self.at;
        let malformed = Err(DecodeError::Number { at: start });
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest && number <= NUMBER_MAX { Ok(number) } else { malformed };
            }
        }
        malformed
    }

    fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        let flags = self.byte()?;
        if flags & !known == 0 { Ok(flags) } else { Err(DecodeError::Flags { flags }) }
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Contradiction { what }) }
}

/// Reads one message that fills `bytes` exactly.
pub(crate) fn decode(bytes: &Bytes) -> Result<(MessageKind, eraftpb::Message), DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLong { len: bytes.len() });
    }
    let mut reader = Reader { bytes, at: 0 };
    let version = reader.byte()?;
    if version != FORMAT_VERSION {
        return Err(DecodeError::Version { version });
    }
    let of = from_code(reader.byte()?)?;
    let mut m = eraftpb::Message { from: reader.fixed()?, to: reader.fixed()?, ..Default::default() };
    m.set_msg_type(of.to_raft());
    m.term = reader.varint()?;
    if m.from == 0 || m.to == 0 || m.from == m.to {
        return Err(DecodeError::Members { from: m.from, to: m.to });
    }
    require((m.term == 0) == (of == MessageKind::ReadIndex), "only a read request has term 0")?;
    decode_body(of, &mut m, &mut reader)?;
    match reader.remaining() {
        0 => Ok((of, m)),
        extra => Err(DecodeError::Trailing { extra }),
    }
}

fn decode_body(
    of: MessageKind,
    m: &mut eraftpb::Message,
    reader: &mut Reader<'_>,
) -> Result<(), DecodeError> {
    match of {
        MessageKind::Append => decode_append(m, reader)?,
        MessageKind::AppendResponse => {
            m.reject = reader.flags(FLAG_REJECT)? & FLAG_REJECT != 0;
            m.index = reader.varint()?;
            m.commit = reader.varint()?;
            if m.reject {
                m.reject_hint = reader.varint()?;
                m.log_term = reader.varint()?;
                require(m.reject_hint <= m.index, "a rejection's hint is beyond what it rejects")?;
            }
        }
        MessageKind::RequestVote | MessageKind::RequestPreVote => {
            if reader.flags(FLAG_TRANSFER)? & FLAG_TRANSFER != 0 {
                m.context = Bytes::from_static(TRANSFER_CONTEXT);
            }
            m.index = reader.varint()?;
            m.log_term = reader.varint()?;
            m.commit = reader.varint()?;
            m.commit_term = reader.varint()?;
            require((m.index == 0) == (m.log_term == 0), "index 0 and term 0 belong together")?;
            require(m.log_term <= m.term, "the log's term is beyond the message's")?;
            require(m.commit <= m.index && m.commit_term <= m.log_term, "the commit is beyond the log")?;
        }
        MessageKind::RequestVoteResponse | MessageKind::RequestPreVoteResponse => {
            m.reject = reader.flags(FLAG_REJECT)? & FLAG_REJECT != 0;
            m.commit = reader.varint()?;
            m.commit_term = reader.varint()?;
        }
        MessageKind::Snapshot => decode_snapshot(m, reader)?,
        MessageKind::Heartbeat | MessageKind::HeartbeatResponse => {
            let read = reader.flags(FLAG_READ)? & FLAG_READ != 0;
            m.commit = reader.varint()?;
            if read {
                m.context = reader.take(ReadToken::BYTES)?;
            }
        }
        MessageKind::TimeoutNow => {}
        MessageKind::ReadIndex | MessageKind::ReadIndexResponse => {
            m.index = reader.varint()?;
            let token = reader.take(ReadToken::BYTES)?;
            let asker = ReadToken::from_bytes(&token).expect("exactly that many bytes").member.0;
            let expected = if of == MessageKind::ReadIndex { m.from } else { m.to };
            require(asker == expected, "a read round names another member as its asker")?;
            require(of == MessageKind::ReadIndexResponse || m.index == 0, "a read request has an index")?;
            m.set_entries(vec![eraftpb::Entry { data: token, ..Default::default() }].into());
        }
    }
    Ok(())
}

fn decode_append(m: &mut eraftpb::Message, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    m.index = reader.varint()?;
    m.log_term = reader.varint()?;
    m.commit = reader.varint()?;
    require((m.index == 0) == (m.log_term == 0), "index 0 and term 0 belong together")?;
    require(m.log_term <= m.term, "the log's term is beyond the message's")?;
    let count = reader.varint()?;
    let counted = usize::try_from(count).unwrap_or(usize::MAX);
    if counted > reader.remaining() / ENTRY_BYTES_MIN {
        return Err(DecodeError::Truncated { at: reader.bytes.len() });
    }
    require(m.index + count <= NUMBER_MAX, "its last index is larger than any real one")?;
    let mut entries = Vec::with_capacity(counted);
    let mut term = m.log_term.max(1);
    for index in m.index + 1..=m.index + count {
        let kind = reader.byte()?;
        let kind = EntryKind::from_code(kind).ok_or(DecodeError::EntryKind { kind })?;
        let entry_term = reader.varint()?;
        require(entry_term >= term && entry_term <= m.term, "an entry's term does not fit its place")?;
        term = entry_term;
        let len = reader.varint()?;
        let fits = usize::try_from(len).ok().filter(|len| *len <= ENTRY_BYTES_MAX && kind.admits_len(*len));
        let data = reader.take(fits.ok_or(DecodeError::EntryLength { len })?)?;
        entries.push(raft_entry(kind, term, index, data));
    }
    m.set_entries(entries.into());
    Ok(())
}

fn decode_snapshot(m: &mut eraftpb::Message, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let (index, term) = (reader.varint()?, reader.varint()?);
    require(index > 0 && term > 0, "a snapshot of nothing")?;
    require(term <= m.term, "the snapshot's term is beyond the message's")?;
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        let count = reader.varint()?;
        if count > MEMBERS_MAX as u64 {
            return Err(MembershipError::TooMany.into());
        }
        for _ in 0..count {
            list.push(quorate_ids::MemberId(reader.fixed()?));
        }
    }
    let [voters, learners] = lists;
    let membership = Membership { voters, learners };
    membership.check()?;
    require(!membership.is_empty(), "a snapshot without members")?;
    let point =
        SnapshotPoint { index: quorate_ids::LogIndex(index), term: quorate_ids::Term(term), membership };
    m.set_snapshot(point.to_raft());
    Ok(())
}
