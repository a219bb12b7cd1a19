//! Commands as bytes of the log. `docs/formats/tree-commands.md` is the specification.
//!
//! Invariants: decoding never panics and never allocates more than a small multiple of its input; paths and values are
//! slices of the input; what decodes, encodes to a command that decodes to the same.

use bytes::Bytes;
use quorate_ids::{Term, TreeIndex, WallTime};

use super::auth::{
    AUTH_LIST_MAX, AUTH_NAME_BYTES_MAX, AUTH_PASSWORD_BYTES_MAX, AUTH_PATTERN_BYTES_MAX, AuthChange,
    AuthRevision, Authority, Role, User,
};
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
    pub const AUTHORISED: u8 = 20;
    pub const CHANGE_AUTH: u8 = 21;
}

/// Changes of users and roles.
mod auth_kind {
    pub const PUT_USER: u8 = 1;
    pub const REMOVE_USER: u8 = 2;
    pub const PUT_ROLE: u8 = 3;
    pub const REMOVE_ROLE: u8 = 4;
    pub const ENABLE: u8 = 5;
    pub const DISABLE: u8 = 6;
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
        Command::Authorised { authority, command } => {
            start(kind::AUTHORISED);
            put_varint(&mut out, authority.revision.0);
            put_optional(&mut out, authority.user.as_ref(), put_text);
            out.extend_from_slice(&encode(command));
        }
        Command::ChangeAuth { at, change } => {
            start(kind::CHANGE_AUTH);
            put_varint(&mut out, at.0);
            encode_auth(&mut out, change);
        }
    }
    out.into()
}

fn encode_auth(out: &mut Vec<u8>, change: &AuthChange) {
    match change {
        AuthChange::PutUser(user) => {
            out.push(auth_kind::PUT_USER);
            put_text(out, &user.name);
            put_text(out, &user.password);
            put_optional(out, user.roles.as_ref(), put_texts);
        }
        AuthChange::RemoveUser(name) => {
            out.push(auth_kind::REMOVE_USER);
            put_text(out, name);
        }
        AuthChange::PutRole(role) => {
            out.push(auth_kind::PUT_ROLE);
            encode_role(out, role);
        }
        AuthChange::RemoveRole(name) => {
            out.push(auth_kind::REMOVE_ROLE);
            put_text(out, name);
        }
        AuthChange::Enable { role } => {
            out.push(auth_kind::ENABLE);
            put_optional(out, role.as_ref(), encode_role);
        }
        AuthChange::Disable => out.push(auth_kind::DISABLE),
    }
}

fn encode_role(out: &mut Vec<u8>, role: &Role) {
    put_text(out, &role.name);
    put_optional(out, role.read.as_ref(), put_texts);
    put_optional(out, role.write.as_ref(), put_texts);
}

fn put_optional<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

#[allow(clippy::ptr_arg, reason = "stands beside put_texts")]
fn put_text(out: &mut Vec<u8>, text: &String) {
    put_bytes(out, text.as_bytes());
}

#[allow(clippy::ptr_arg, reason = "what is put is what an option holds")]
fn put_texts(out: &mut Vec<u8>, texts: &Vec<String>) {
    put_varint(out, texts.len() as u64);
    texts.iter().for_each(|text| put_text(out, text));
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
        Command::Authorised { command, .. } => payload_len(command),
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
        | Command::EndImport { .. }
        | Command::ChangeAuth { .. } => 0,
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
        kind::AUTHORISED => return input.authorised(),
        kind::CHANGE_AUTH => {
            let at = AuthRevision(input.varint("an auth revision")?);
            Command::ChangeAuth { at, change: input.auth_change()? }
        }
        _ => return Err(DecodeError::Unknown { kind, version }),
    };
    match input.reader.bytes.len() {
        0 => Ok(command),
        len => Err(DecodeError::Trailing { len }),
    }
}

/// Kind and version of the command that a command on somebody's behalf carries; `None` where it carries none.
#[must_use]
pub fn carried(command: &Bytes) -> Option<(u8, u8)> {
    let mut input = Input { bytes: command, reader: Reader { bytes: command } };
    if input.byte("its kind").ok()? != kind::AUTHORISED {
        return None;
    }
    input.byte("its version").ok()?;
    input.varint("an auth revision").ok()?;
    input.optional("a user", |input| input.text(AUTH_NAME_BYTES_MAX, "a user")).ok()?;
    Some((input.byte("a kind").ok()?, input.byte("a version").ok()?))
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

    /// The rest of the input is a command of its own, which changes a node.
    fn authorised(&mut self) -> Result<Command, DecodeError> {
        let revision = AuthRevision(self.varint("an auth revision")?);
        let user = self.optional("a user", |input| input.text(AUTH_NAME_BYTES_MAX, "a user"))?;
        let rest = self.bytes.slice(self.bytes.len() - self.reader.bytes.len()..);
        let what = "a command on somebody's behalf";
        let kind = *rest.first().ok_or(DecodeError::Short { what })?;
        // Looked at before it is decoded: commands within commands would nest as deep as their bytes allow.
        if kind == kind::AUTHORISED {
            return Err(DecodeError::Meaningless { what, value: u64::from(kind) });
        }
        let command = decode(&rest)?;
        if !command.is_change() {
            return Err(DecodeError::Meaningless { what, value: u64::from(kind) });
        }
        Ok(Command::Authorised { authority: Authority { revision, user }, command: Box::new(command) })
    }

    fn auth_change(&mut self) -> Result<AuthChange, DecodeError> {
        let what = "a change of users and roles";
        Ok(match self.byte(what)? {
            auth_kind::PUT_USER => {
                let name = self.text(AUTH_NAME_BYTES_MAX, "a user")?;
                let password = self.text(AUTH_PASSWORD_BYTES_MAX, "a password")?;
                let roles =
                    self.optional("roles", |input| input.texts(AUTH_NAME_BYTES_MAX, "a list of roles"))?;
                AuthChange::PutUser(User { name, password, roles })
            }
            auth_kind::REMOVE_USER => AuthChange::RemoveUser(self.text(AUTH_NAME_BYTES_MAX, "a user")?),
            auth_kind::PUT_ROLE => AuthChange::PutRole(self.role()?),
            auth_kind::REMOVE_ROLE => AuthChange::RemoveRole(self.text(AUTH_NAME_BYTES_MAX, "a role")?),
            auth_kind::ENABLE => AuthChange::Enable { role: self.optional("a role", Self::role)? },
            auth_kind::DISABLE => AuthChange::Disable,
            value => return Err(DecodeError::Meaningless { what, value: u64::from(value) }),
        })
    }

    fn role(&mut self) -> Result<Role, DecodeError> {
        let name = self.text(AUTH_NAME_BYTES_MAX, "a role")?;
        let mut patterns =
            |what| self.optional(what, |input| input.texts(AUTH_PATTERN_BYTES_MAX, "a list of patterns"));
        Ok(Role { name, read: patterns("patterns to read")?, write: patterns("patterns to write")? })
    }

    fn optional<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.flags(1, what)? == 0 { Ok(None) } else { read(self).map(Some) }
    }

    fn text(&mut self, bytes_max: usize, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.slice(what)?;
        let meaningless = DecodeError::Meaningless { what, value: bytes.len() as u64 };
        if bytes.len() > bytes_max {
            return Err(meaningless);
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| meaningless)
    }

    fn texts(&mut self, bytes_max: usize, what: &'static str) -> Result<Vec<String>, DecodeError> {
        let count = self.varint(what)?;
        if count > AUTH_LIST_MAX as u64 {
            return Err(DecodeError::Meaningless { what, value: count });
        }
        (0..count).map(|_| self.text(bytes_max, what)).collect()
    }

    fn conditions(&mut self) -> Result<Conditions, DecodeError> {
        let flags = self.flags(IF_VALUE | IF_INDEX, "a condition's flags")?;
        let value = if flags & IF_VALUE != 0 { Some(self.slice("a value")?) } else { None };
        let index = if flags & IF_INDEX != 0 { Some(TreeIndex(self.varint("an index")?)) } else { None };
        Ok(Conditions { value, index })
    }
}
