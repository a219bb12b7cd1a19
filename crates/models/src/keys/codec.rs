//! Commands as bytes of the log. `docs/formats/keys-commands.md` is the specification.
//!
//! Invariants: decoding never panics and never allocates more than a small multiple of its input; nesting is bounded;
//! keys and values are slices of the input, not copies; what decodes, encodes to a command that decodes to the same.

use bytes::Bytes;
use quorate_ids::{Revision, Term};

use super::command::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, Move, Op, Put, RangeEnd, RangeQuery, SortOrder,
    SortTarget, Txn,
};
use crate::varint::{Reader, put_varint, unzigzag, zigzag};

/// Transactions nest at most this deep. (protobuf's own bound on messages allows about 50.)
pub const TXN_DEPTH_MAX: usize = 64;

const VERSION: u8 = 1;

mod kind {
    pub const PUT: u8 = 1;
    pub const DELETE_RANGE: u8 = 2;
    pub const TXN: u8 = 3;
    pub const COMPACT: u8 = 4;
    pub const LEASE_GRANT: u8 = 5;
    pub const LEASE_REVOKE: u8 = 6;
    pub const LEASE_EXPIRE: u8 = 7;
    pub const ALARM: u8 = 8;
    /// Only inside a transaction.
    pub const RANGE: u8 = 9;
    pub const MOVE: u8 = 10;
}

/// Why bytes are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a keys command ends in the middle of {what}")]
    Short { what: &'static str },
    #[error("a keys command has {len} bytes behind its end")]
    Trailing { len: usize },
    #[error("keys command kind {kind} version {version} is unknown; this member is too old for its cluster")]
    Unknown { kind: u8, version: u8 },
    #[error("a keys command has the value {value} for {what}, which means nothing")]
    Meaningless { what: &'static str, value: u64 },
    #[error("a transaction nests deeper than {TXN_DEPTH_MAX}")]
    TooDeep,
}

/// Encodes a command.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    let mut out = Vec::with_capacity(64 + payload_len(command));
    match command {
        Command::Put(put) => {
            out.extend_from_slice(&[kind::PUT, VERSION]);
            encode_put(&mut out, put);
        }
        Command::DeleteRange(delete) => {
            out.extend_from_slice(&[kind::DELETE_RANGE, VERSION]);
            encode_delete(&mut out, delete);
        }
        Command::Txn(txn) => {
            out.extend_from_slice(&[kind::TXN, VERSION]);
            encode_txn(&mut out, txn);
        }
        Command::Move(Move { from, to, replace, count }) => {
            let flags = u8::from(*replace) | u8::from(count.is_some()) << 1;
            out.extend_from_slice(&[kind::MOVE, VERSION, flags]);
            put_bytes(&mut out, from);
            put_bytes(&mut out, to);
            count.iter().for_each(|count| put_varint(&mut out, *count));
        }
        Command::Compact { revision } => {
            out.extend_from_slice(&[kind::COMPACT, VERSION]);
            put_varint(&mut out, revision.0);
        }
        Command::LeaseGrant { id, ttl_seconds } => {
            out.extend_from_slice(&[kind::LEASE_GRANT, VERSION]);
            put_varint(&mut out, zigzag(*id));
            put_varint(&mut out, zigzag(*ttl_seconds));
        }
        Command::LeaseRevoke { id } => {
            out.extend_from_slice(&[kind::LEASE_REVOKE, VERSION]);
            put_varint(&mut out, zigzag(*id));
        }
        Command::LeaseExpire { term, ids } => {
            out.extend_from_slice(&[kind::LEASE_EXPIRE, VERSION]);
            put_varint(&mut out, term.0);
            put_varint(&mut out, ids.len() as u64);
            ids.iter().for_each(|id| put_varint(&mut out, zigzag(*id)));
        }
        Command::Alarm { activate, member, alarm } => {
            out.extend_from_slice(&[kind::ALARM, VERSION, u8::from(*activate), *alarm]);
            put_varint(&mut out, *member);
        }
    }
    out.into()
}

/// A guess at the bytes that keys and values take, so that a plain put is encoded in one allocation.
fn payload_len(command: &Command) -> usize {
    match command {
        Command::Put(put) => put.key.len() + put.value.len(),
        Command::DeleteRange(delete) => 2 * delete.key.len(),
        Command::LeaseExpire { ids, .. } => ids.len() * 9,
        Command::Txn(txn) => 64 * (txn.compare.len() + txn.success.len() + txn.failure.len()),
        _ => 0,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn encode_end(out: &mut Vec<u8>, end: &RangeEnd) {
    match end {
        RangeEnd::Single => out.push(0),
        RangeEnd::Before(end) => {
            out.push(1);
            put_bytes(out, end);
        }
        RangeEnd::Unbounded => out.push(2),
    }
}

fn encode_put(out: &mut Vec<u8>, put: &Put) {
    out.push(u8::from(put.prev_kv) | u8::from(put.ignore_value) << 1 | u8::from(put.ignore_lease) << 2);
    put_varint(out, zigzag(put.lease));
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
}

fn encode_delete(out: &mut Vec<u8>, delete: &DeleteRange) {
    out.push(u8::from(delete.prev_kv));
    put_bytes(out, &delete.key);
    encode_end(out, &delete.end);
}

fn encode_range(out: &mut Vec<u8>, query: &RangeQuery) {
    let order = match query.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    };
    let target = match query.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    };
    out.extend_from_slice(&[u8::from(query.keys_only) | u8::from(query.count_only) << 1, order, target]);
    put_varint(out, query.limit);
    for revision in [
        query.revision,
        query.min_mod_revision,
        query.max_mod_revision,
        query.min_create_revision,
        query.max_create_revision,
    ] {
        put_varint(out, revision.0);
    }
    put_bytes(out, &query.key);
    encode_end(out, &query.end);
}

fn encode_compare(out: &mut Vec<u8>, compare: &Compare) {
    let op = match compare.op {
        CompareOp::Equal => 0,
        CompareOp::Greater => 1,
        CompareOp::Less => 2,
        CompareOp::NotEqual => 3,
    };
    out.push(op);
    match &compare.target {
        CompareTarget::Version(number) => encode_target(out, 0, *number),
        CompareTarget::Create(number) => encode_target(out, 1, *number),
        CompareTarget::Mod(number) => encode_target(out, 2, *number),
        CompareTarget::Value(value) => {
            out.push(3);
            put_bytes(out, value);
        }
        CompareTarget::Lease(number) => encode_target(out, 4, *number),
    }
    put_bytes(out, &compare.key);
    encode_end(out, &compare.end);
}

fn encode_target(out: &mut Vec<u8>, tag: u8, number: i64) {
    out.push(tag);
    put_varint(out, zigzag(number));
}

fn encode_txn(out: &mut Vec<u8>, txn: &Txn) {
    put_varint(out, txn.compare.len() as u64);
    txn.compare.iter().for_each(|compare| encode_compare(out, compare));
    for branch in [&txn.success, &txn.failure] {
        put_varint(out, branch.len() as u64);
        for op in branch {
            match op {
                Op::Range(query) => {
                    out.push(kind::RANGE);
                    encode_range(out, query);
                }
                Op::Put(put) => {
                    out.push(kind::PUT);
                    encode_put(out, put);
                }
                Op::DeleteRange(delete) => {
                    out.push(kind::DELETE_RANGE);
                    encode_delete(out, delete);
                }
                Op::Txn(txn) => {
                    out.push(kind::TXN);
                    encode_txn(out, txn);
                }
            }
        }
    }
}

/// Decodes a command; keys and values are slices of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<Command, DecodeError> {
    let mut input = Input { bytes, reader: Reader { bytes } };
    let kind = input.byte("its kind")?;
    let version = input.byte("its version")?;
    if version != VERSION {
        return Err(DecodeError::Unknown { kind, version });
    }
    let command = match kind {
        kind::PUT => Command::Put(input.put()?),
        kind::DELETE_RANGE => Command::DeleteRange(input.delete()?),
        kind::TXN => Command::Txn(input.txn(1)?),
        kind::MOVE => {
            let flags = input.flags(3, "a move's flags")?;
            let (from, to) = (input.slice("a prefix")?, input.slice("a prefix")?);
            let count = if flags & 2 == 0 { None } else { Some(input.varint("a count")?) };
            Command::Move(Move { from, to, replace: flags & 1 == 1, count })
        }
        kind::COMPACT => Command::Compact { revision: input.revision()? },
        kind::LEASE_GRANT => {
            Command::LeaseGrant { id: input.signed("a lease")?, ttl_seconds: input.signed("a TTL")? }
        }
        kind::LEASE_REVOKE => Command::LeaseRevoke { id: input.signed("a lease")? },
        kind::LEASE_EXPIRE => {
            let term = Term(input.varint("a term")?);
            let count = input.count("leases")?;
            let ids = (0..count).map(|_| input.signed("a lease")).collect::<Result<_, _>>()?;
            Command::LeaseExpire { term, ids }
        }
        kind::ALARM => {
            let activate = input.flags(1, "an alarm's flag")? == 1;
            let alarm = input.byte("an alarm")?;
            Command::Alarm { activate, member: input.varint("a member")?, alarm }
        }
        _ => return Err(DecodeError::Unknown { kind, version }),
    };
    match input.reader.bytes.len() {
        0 => Ok(command),
        len => Err(DecodeError::Trailing { len }),
    }
}

struct Input<'a> {
    bytes: &'a Bytes,
    reader: Reader<'a>,
}

impl Input<'_> {
    fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.reader.byte().ok_or(DecodeError::Short { what })
    }

    /// A byte of which only the bits of `mask` may be set.
    fn flags(&mut self, mask: u8, what: &'static str) -> Result<u8, DecodeError> {
        let flags = self.byte(what)?;
        if flags & !mask != 0 {
            return Err(DecodeError::Meaningless { what, value: u64::from(flags) });
        }
        Ok(flags)
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.reader.varint().ok_or(DecodeError::Short { what })
    }

    fn signed(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.varint(what).map(unzigzag)
    }

    fn revision(&mut self) -> Result<Revision, DecodeError> {
        self.varint("a revision").map(Revision)
    }

    /// How many things follow. Each takes a byte at least, so a count beyond what is left is a lie.
    fn count(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.varint(what)?;
        match usize::try_from(count) {
            Ok(count) if count <= self.reader.bytes.len() => Ok(count),
            _ => Err(DecodeError::Short { what }),
        }
    }

    fn slice(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.count(what)?;
        let start = self.bytes.len() - self.reader.bytes.len();
        self.reader.bytes = &self.reader.bytes[len..];
        Ok(self.bytes.slice(start..start + len))
    }

    fn end(&mut self) -> Result<RangeEnd, DecodeError> {
        match self.byte("a range's end")? {
            0 => Ok(RangeEnd::Single),
            1 => Ok(RangeEnd::Before(self.slice("a range's end")?)),
            2 => Ok(RangeEnd::Unbounded),
            value => Err(DecodeError::Meaningless { what: "a range's end", value: u64::from(value) }),
        }
    }

    fn put(&mut self) -> Result<Put, DecodeError> {
        let flags = self.flags(7, "a put's flags")?;
        let lease = self.signed("a lease")?;
        let key = self.slice("a key")?;
        let value = self.slice("a value")?;
        Ok(Put {
            key,
            value,
            lease,
            prev_kv: flags & 1 != 0,
            ignore_value: flags & 2 != 0,
            ignore_lease: flags & 4 != 0,
        })
    }

    fn delete(&mut self) -> Result<DeleteRange, DecodeError> {
        let prev_kv = self.flags(1, "a delete's flags")? == 1;
        Ok(DeleteRange { key: self.slice("a key")?, end: self.end()?, prev_kv })
    }

    fn range(&mut self) -> Result<RangeQuery, DecodeError> {
        let flags = self.flags(3, "a range's flags")?;
        let sort_order = match self.byte("a sort order")? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            value => return Err(DecodeError::Meaningless { what: "a sort order", value: u64::from(value) }),
        };
        let sort_target = match self.byte("a sort target")? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            value => return Err(DecodeError::Meaningless { what: "a sort target", value: u64::from(value) }),
        };
        let limit = self.varint("a limit")?;
        let revision = self.revision()?;
        let min_mod_revision = self.revision()?;
        let max_mod_revision = self.revision()?;
        let min_create_revision = self.revision()?;
        let max_create_revision = self.revision()?;
        Ok(RangeQuery {
            key: self.slice("a key")?,
            end: self.end()?,
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only: flags & 1 != 0,
            count_only: flags & 2 != 0,
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        })
    }

    fn compare(&mut self) -> Result<Compare, DecodeError> {
        let op = match self.byte("a compare's operator")? {
            0 => CompareOp::Equal,
            1 => CompareOp::Greater,
            2 => CompareOp::Less,
            3 => CompareOp::NotEqual,
            value => {
                return Err(DecodeError::Meaningless {
                    what: "a compare's operator",
                    value: u64::from(value),
                });
            }
        };
        let what = "a compare's target";
        let target = match self.byte(what)? {
            0 => CompareTarget::Version(self.signed(what)?),
            1 => CompareTarget::Create(self.signed(what)?),
            2 => CompareTarget::Mod(self.signed(what)?),
            3 => CompareTarget::Value(self.slice(what)?),
            4 => CompareTarget::Lease(self.signed(what)?),
            value => return Err(DecodeError::Meaningless { what, value: u64::from(value) }),
        };
        Ok(Compare { key: self.slice("a key")?, end: self.end()?, op, target })
    }

    fn txn(&mut self, depth: usize) -> Result<Txn, DecodeError> {
        if depth > TXN_DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        // Grown as they are read: a count alone reserves nothing.
        let mut compare = Vec::new();
        for _ in 0..self.count("compares")? {
            compare.push(self.compare()?);
        }
        let mut branches = [Vec::new(), Vec::new()];
        for branch in &mut branches {
            for _ in 0..self.count("operations")? {
                branch.push(match self.byte("an operation")? {
                    kind::RANGE => Op::Range(self.range()?),
                    kind::PUT => Op::Put(self.put()?),
                    kind::DELETE_RANGE => Op::DeleteRange(self.delete()?),
                    kind::TXN => Op::Txn(Box::new(self.txn(depth + 1)?)),
                    kind => return Err(DecodeError::Unknown { kind, version: VERSION }),
                });
            }
        }
        let [success, failure] = branches;
        Ok(Txn { compare, success, failure })
    }
}
