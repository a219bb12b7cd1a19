//! Commands as bytes of the log. `docs/formats/tree-commands.md` is the specification.
//!
//! Invariants: decoding never panics and never allocates more than a small multiple of its input; paths and values are
//! slices of the input; what decodes, encodes to a command that decodes to the same.

use bytes::Bytes;
use quorate_ids::{Term, TreeIndex, WallTime};

use super::command::{Command, Conditions, IMPORTED_PER_COMMAND_MAX, ImportedNode, NameStyle, Write};
use super::path::Path;
use super::rows::bit;
use crate::varint::{Reader, put_varint};

const VERSION: u8 = 1;

mod kind {
    pub const SET: u8 = 1;
    pub const CREATE: u8 = 2;
    pub const CREATE_IN_ORDER: u8 = 3;
    pub const UPDATE: u8 = 4;
    pub const COMPARE_AND_SWAP: u8 = 5;
    pub const DELETE: u8 = 6;
    pub const COMPARE_AND_DELETE: u8 = 7;
    pub const EXPIRE: u8 = 8;
    pub const BEGIN: u8 = 9;
    pub const SET_HISTORY_WINDOW: u8 = 10;
    pub const IMPORT: u8 = 11;
    pub const END_IMPORT: u8 = 12;
}

const WRITE_DIR: u8 = 1;
const WRITE_TTL: u8 = 2;
const WRITE_REFRESH: u8 = 4;
const IF_VALUE: u8 = 1;
const IF_INDEX: u8 = 2;
const DELETE_DIR: u8 = 1;
const DELETE_RECURSIVE: u8 = 2;
const NODE_DIR: u8 = 1;
const NODE_EXPIRES: u8 = 2;

/// Why bytes are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a tree command ends in the middle of {what}")]
    Short { what: &'static str },
    #[error("a tree command has {len} bytes behind its end")]
    Trailing { len: usize },
    #[error("tree command kind {kind} version {version} is unknown; this member is too old for its cluster")]
    Unknown { kind: u8, version: u8 },
    #[error("a tree command has the value {value} for {what}, which means nothing")]
    Meaningless { what: &'static str, value: u64 },
    #[error("a tree command names a path of {len} bytes that is not in normal form")]
    Path { len: usize },
}

/// Encodes a command.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    let mut out = Vec::with_capacity(64 + payload_len(command));
    let mut start = |kind| out.extend_from_slice(&[kind, VERSION]);
    match command {
        Command::Set(write) => {
            start(kind::SET);
            encode_write(&mut out, write);
        }
        Command::Create(write) => {
            start(kind::CREATE);
            encode_write(&mut out, write);
        }
        Command::CreateInOrder { write, style } => {
            start(kind::CREATE_IN_ORDER);
            out.push(match style {
                NameStyle::Plain => 0,
                NameStyle::Padded => 1,
            });
            encode_write(&mut out, write);
        }
        Command::Update(write) => {
            start(kind::UPDATE);
            encode_write(&mut out, write);
        }
        Command::CompareAndSwap { write, conditions } => {
            start(kind::COMPARE_AND_SWAP);
            encode_conditions(&mut out, conditions);
            encode_write(&mut out, write);
        }
        Command::Delete { path, dir, recursive } => {
            start(kind::DELETE);
            out.push(bit(*dir, DELETE_DIR) | bit(*recursive, DELETE_RECURSIVE));
            put_bytes(&mut out, path.as_bytes());
        }
        Command::CompareAndDelete { path, conditions } => {
            start(kind::COMPARE_AND_DELETE);
            encode_conditions(&mut out, conditions);
            put_bytes(&mut out, path.as_bytes());
        }
        Command::Expire { term, nodes_max } => {
            start(kind::EXPIRE);
            put_varint(&mut out, term.0);
            put_varint(&mut out, u64::from(*nodes_max));
        }
        Command::Begin { index } => {
            start(kind::BEGIN);
            put_varint(&mut out, index.0);
        }
        Command::SetHistoryWindow { events } => {
            start(kind::SET_HISTORY_WINDOW);
            put_varint(&mut out, *events);
        }
        Command::Import { nodes } => {
            start(kind::IMPORT);
            put_varint(&mut out, nodes.len() as u64);
            nodes.iter().for_each(|node| encode_node(&mut out, node));
        }
        Command::EndImport { index } => {
            start(kind::END_IMPORT);
            put_varint(&mut out, index.0);
        }
    }
    out.into()
}

/// What paths and values take, so that a command is encoded in one allocation.
fn payload_len(command: &Command) -> usize {
    let of_conditions = |conditions: &Conditions| conditions.value.as_ref().map_or(0, Bytes::len);
    let of_write = |write: &Write| write.path.as_bytes().len() + write.value.len();
    match command {
        Command::Set(write) | Command::Create(write) | Command::Update(write) => of_write(write),
        Command::CreateInOrder { write, .. } => of_write(write),
        Command::CompareAndSwap { write, conditions } => of_write(write) + of_conditions(conditions),
        Command::Delete { path, .. } => path.as_bytes().len(),
        Command::CompareAndDelete { path, conditions } => path.as_bytes().len() + of_conditions(conditions),
        Command::Import { nodes } => {
            // Flags, lengths and indexes besides.
            let of_node = |node: &ImportedNode| {
                32 + node.path.as_bytes().len() + node.value.as_ref().map_or(0, Bytes::len)
            };
            nodes.iter().map(of_node).sum()
        }
        Command::Expire { .. }
        | Command::Begin { .. }
        | Command::SetHistoryWindow { .. }
        | Command::EndImport { .. } => 0,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn encode_write(out: &mut Vec<u8>, write: &Write) {
    out.push(
        bit(write.dir, WRITE_DIR)
            | bit(write.ttl_seconds.is_some(), WRITE_TTL)
            | bit(write.refresh, WRITE_REFRESH),
    );
    if let Some(seconds) = write.ttl_seconds {
        put_varint(out, seconds);
    }
    put_bytes(out, write.path.as_bytes());
    put_bytes(out, &write.value);
}

fn encode_conditions(out: &mut Vec<u8>, conditions: &Conditions) {
    out.push(bit(conditions.value.is_some(), IF_VALUE) | bit(conditions.index.is_some(), IF_INDEX));
    if let Some(value) = &conditions.value {
        put_bytes(out, value);
    }
    if let Some(index) = conditions.index {
        put_varint(out, index.0);
    }
}

fn encode_node(out: &mut Vec<u8>, node: &ImportedNode) {
    out.push(bit(node.value.is_none(), NODE_DIR) | bit(node.expiration.is_some(), NODE_EXPIRES));
    put_bytes(out, node.path.as_bytes());
    put_varint(out, node.created.0);
    put_varint(out, node.modified.0);
    if let Some(expiration) = node.expiration {
        put_varint(out, expiration.0);
    }
    if let Some(value) = &node.value {
        put_bytes(out, value);
    }
}

/// Decodes a command; paths and values are slices of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<Command, DecodeError> {
    let mut input = Input { bytes, reader: Reader { bytes } };
    let kind = input.byte("its kind")?;
    let version = input.byte("its version")?;
    if version != VERSION {
        return Err(DecodeError::Unknown { kind, version });
    }
    let command = match kind {
        kind::SET => Command::Set(input.write()?),
        kind::CREATE => Command::Create(input.write()?),
        kind::CREATE_IN_ORDER => {
            let what = "a style of names";
            let style = match input.byte(what)? {
                0 => NameStyle::Plain,
                1 => NameStyle::Padded,
                value => return Err(DecodeError::Meaningless { what, value: u64::from(value) }),
            };
            Command::CreateInOrder { write: input.write()?, style }
        }
        kind::UPDATE => Command::Update(input.write()?),
        kind::COMPARE_AND_SWAP => {
            let conditions = input.conditions()?;
            Command::CompareAndSwap { write: input.write()?, conditions }
        }
        kind::DELETE => {
            let flags = input.flags(DELETE_DIR | DELETE_RECURSIVE, "a delete's flags")?;
            let (dir, recursive) = (flags & DELETE_DIR != 0, flags & DELETE_RECURSIVE != 0);
            Command::Delete { path: input.path()?, dir, recursive }
        }
        kind::COMPARE_AND_DELETE => {
            let conditions = input.conditions()?;
            Command::CompareAndDelete { path: input.path()?, conditions }
        }
        kind::EXPIRE => {
            let term = Term(input.varint("a term")?);
            let what = "a number of nodes";
            let nodes = input.varint(what)?;
            let nodes_max = u32::try_from(nodes)
                .ok()
                .filter(|nodes| (1..=super::EXPIRED_PER_COMMAND_MAX).contains(nodes))
                .ok_or(DecodeError::Meaningless { what, value: nodes })?;
            Command::Expire { term, nodes_max }
        }
        kind::BEGIN => Command::Begin { index: TreeIndex(input.varint("an index")?) },
        kind::SET_HISTORY_WINDOW => Command::SetHistoryWindow { events: input.varint("a window")? },
        kind::IMPORT => Command::Import { nodes: input.nodes()? },
        kind::END_IMPORT => Command::EndImport { index: TreeIndex(input.varint("an index")?) },
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

    fn slice(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.varint(what)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= self.reader.bytes.len());
        let len = len.ok_or(DecodeError::Short { what })?;
        let start = self.bytes.len() - self.reader.bytes.len();
        self.reader.bytes = &self.reader.bytes[len..];
        Ok(self.bytes.slice(start..start + len))
    }

    fn path(&mut self) -> Result<Path, DecodeError> {
        let bytes = self.slice("a path")?;
        let len = bytes.len();
        Path::of_normal(bytes).ok_or(DecodeError::Path { len })
    }

    fn write(&mut self) -> Result<Write, DecodeError> {
        let flags = self.flags(WRITE_DIR | WRITE_TTL | WRITE_REFRESH, "a write's flags")?;
        let ttl_seconds = if flags & WRITE_TTL != 0 { Some(self.varint("a TTL")?) } else { None };
        Ok(Write {
            path: self.path()?,
            value: self.slice("a value")?,
            dir: flags & WRITE_DIR != 0,
            ttl_seconds,
            refresh: flags & WRITE_REFRESH != 0,
        })
    }

    fn nodes(&mut self) -> Result<Vec<ImportedNode>, DecodeError> {
        let what = "a number of nodes";
        let count = self.varint(what)?;
        if count > IMPORTED_PER_COMMAND_MAX as u64 {
            return Err(DecodeError::Meaningless { what, value: count });
        }
        // As far as the input can hold so many: a node has at least a flags byte, a path and two indexes.
        let mut nodes = Vec::with_capacity((count as usize).min(self.reader.bytes.len() / 5));
        for _ in 0..count {
            nodes.push(self.node()?);
        }
        Ok(nodes)
    }

    fn node(&mut self) -> Result<ImportedNode, DecodeError> {
        let flags = self.flags(NODE_DIR | NODE_EXPIRES, "a node's flags")?;
        Ok(ImportedNode {
            path: self.path()?,
            created: TreeIndex(self.varint("an index")?),
            modified: TreeIndex(self.varint("an index")?),
            expiration: match flags & NODE_EXPIRES {
                0 => None,
                _ => Some(WallTime(self.varint("an expiration")?)),
            },
            value: if flags & NODE_DIR == 0 { Some(self.slice("a value")?) } else { None },
        })
    }

    fn conditions(&mut self) -> Result<Conditions, DecodeError> {
        let flags = self.flags(IF_VALUE | IF_INDEX, "a condition's flags")?;
        let value = if flags & IF_VALUE != 0 { Some(self.slice("a value")?) } else { None };
        let index = if flags & IF_INDEX != 0 { Some(TreeIndex(self.varint("an index")?)) } else { None };
        Ok(Conditions { value, index })
    }
}
