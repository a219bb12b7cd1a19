//! Users and roles of the tree's clients, and whether they are asked who they are.
//!
//! The model keeps the records and one number, the auth revision, which each change of them moves by one. It judges
//! nobody: who carries a command to the log has looked at the records, and the command names the revision at which it
//! did so. Invariants: a command that names another revision than the current one changes nothing, so no command takes
//! effect under records that its carrier did not see; no path of the tree leads to a record.

use std::ops::ControlFlow;

use quorate_store::Tables;

use super::rows::bit;
use crate::tables::TREE_AUTH;
use crate::varint::{Reader, put_varint};

/// A user's or a role's name is at most this long.
pub const AUTH_NAME_BYTES_MAX: usize = 255;
/// A pattern of keys that a role may read or write is at most this long.
pub const AUTH_PATTERN_BYTES_MAX: usize = 32 * 1024;
/// What is kept of a password is at most this long.
pub const AUTH_PASSWORD_BYTES_MAX: usize = 128;
/// Roles of one user, and patterns of one role of each kind.
pub const AUTH_LIST_MAX: usize = 1000;
/// Users, and roles.
pub const AUTH_RECORDS_MAX: u64 = 10_000;

/// Counts the changes of users, roles and whether they are asked for; 0 where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthRevision(pub u64);

/// On whose behalf a command is, and which records allowed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    pub revision: AuthRevision,
    /// `None`: somebody who did not say.
    pub user: Option<String>,
}

/// A user. `roles` is `None` where none were ever named, which clients can tell from an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// What is kept of the password: a hash that names its own algorithm.
    pub password: String,
    pub roles: Option<Vec<String>>,
}

/// A role: patterns of keys. Lists that are `None` were never named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub read: Option<Vec<String>>,
    pub write: Option<Vec<String>>,
}

/// A change of the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthChange {
    /// Makes a user, or replaces the one of this name.
    PutUser(User),
    RemoveUser(String),
    PutRole(Role),
    RemoveRole(String),
    /// From now on clients are asked who they are. A role that goes with it is made if it lacks.
    Enable {
        role: Option<Role>,
    },
    Disable,
}

/// The records as wholes: what a carrier looks at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthState {
    pub revision: AuthRevision,
    pub enabled: bool,
    pub users: u64,
    pub roles: u64,
}

const STATE: &[u8] = b"s";
const USER: u8 = b'u';
const USER_ROLE: u8 = b'm';
const ROLE: u8 = b'r';
const ROLE_PATTERN: u8 = b'p';

const READ: u8 = 0;
const WRITE: u8 = 1;
const HAS_ROLES: u8 = 1;
const HAS_READ: u8 = 1;
const HAS_WRITE: u8 = 2;

/// The key of a record: its kind, how long its name is, its name.
fn record_key(kind: u8, name: &str) -> Vec<u8> {
    let len = u16::try_from(name.len()).expect("names are bounded where commands are decoded");
    let mut key = Vec::with_capacity(3 + name.len());
    key.push(kind);
    key.extend_from_slice(&len.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key
}

/// The keys that start with `prefix`, without it.
fn below(tables: &Tables, prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    tables.scan(TREE_AUTH, prefix, None, &mut |key, _| {
        let Some(rest) = key.strip_prefix(prefix) else { return ControlFlow::Break(()) };
        found.push(rest.to_vec());
        ControlFlow::Continue(())
    });
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("names and patterns were text when they were written")
}

/// The items of a list, which has a position in front of each.
fn list(tables: &Tables, prefix: &[u8]) -> Vec<String> {
    below(tables, prefix).iter().map(|rest| text(&rest[4..])).collect()
}

fn put_list(tables: &mut Tables, prefix: &[u8], items: &[String]) {
    for (at, item) in items.iter().enumerate() {
        let at = u32::try_from(at).expect("lists are bounded where commands are decoded");
        let key = [prefix, &at.to_be_bytes(), item.as_bytes()].concat();
        tables.put(TREE_AUTH, &key, &[], None);
    }
}

fn remove_list(tables: &mut Tables, prefix: &[u8]) {
    for rest in below(tables, prefix) {
        tables.remove(TREE_AUTH, &[prefix, &rest].concat());
    }
}

fn names(tables: &Tables, kind: u8) -> Vec<String> {
    let mut names: Vec<String> = below(tables, &[kind]).iter().map(|rest| text(&rest[2..])).collect();
    names.sort();
    names
}

/// Whether clients are asked who they are, and at which revision that is so.
#[must_use]
pub fn auth_state(tables: &Tables) -> AuthState {
    let Some(entry) = tables.get(TREE_AUTH, STATE) else { return AuthState::default() };
    let mut reader = Reader { bytes: entry.row };
    let mut next = || reader.varint().expect("a row of TREE_AUTH parses");
    AuthState { revision: AuthRevision(next()), enabled: next() != 0, users: next(), roles: next() }
}

/// The names of all users, sorted.
#[must_use]
pub fn user_names(tables: &Tables) -> Vec<String> {
    names(tables, USER)
}

/// The names of all roles, sorted.
#[must_use]
pub fn role_names(tables: &Tables) -> Vec<String> {
    names(tables, ROLE)
}

/// The user of this name.
#[must_use]
pub fn user(tables: &Tables, name: &str) -> Option<User> {
    if name.len() > AUTH_NAME_BYTES_MAX {
        return None;
    }
    let entry = tables.get(TREE_AUTH, &record_key(USER, name))?;
    let (flags, password) = entry.row.split_first().expect("a row of TREE_AUTH has flags");
    let has_roles = flags & HAS_ROLES != 0;
    let password = text(password);
    let roles = has_roles.then(|| list(tables, &record_key(USER_ROLE, name)));
    Some(User { name: name.to_owned(), password, roles })
}

/// The role of this name.
#[must_use]
pub fn role(tables: &Tables, name: &str) -> Option<Role> {
    if name.len() > AUTH_NAME_BYTES_MAX {
        return None;
    }
    let entry = tables.get(TREE_AUTH, &record_key(ROLE, name))?;
    let flags = *entry.row.first().expect("a row of TREE_AUTH has flags");
    let patterns = |kind, flag| {
        (flags & flag != 0).then(|| {
            let mut prefix = record_key(ROLE_PATTERN, name);
            prefix.push(kind);
            list(tables, &prefix)
        })
    };
    Some(Role { name: name.to_owned(), read: patterns(READ, HAS_READ), write: patterns(WRITE, HAS_WRITE) })
}

/// Carries a change out; the state after it. `None`: there are as many records as may be, nothing was changed.
pub(super) fn apply(tables: &mut Tables, change: &AuthChange) -> Option<AuthState> {
    let mut state = auth_state(tables);
    match change {
        AuthChange::PutUser(user) => put_user(tables, &mut state, user)?,
        AuthChange::RemoveUser(name) => {
            state.users -= remove(tables, USER, USER_ROLE, name);
        }
        AuthChange::PutRole(role) => put_role(tables, &mut state, role)?,
        AuthChange::RemoveRole(name) => {
            state.roles -= remove(tables, ROLE, ROLE_PATTERN, name);
        }
        AuthChange::Enable { role } => {
            let lacking =
                role.as_ref().filter(|role| tables.get(TREE_AUTH, &record_key(ROLE, &role.name)).is_none());
            if let Some(role) = lacking {
                put_role(tables, &mut state, role)?;
            }
            state.enabled = true;
        }
        AuthChange::Disable => state.enabled = false,
    }
    state.revision.0 += 1;
    let mut row = Vec::new();
    for number in [state.revision.0, u64::from(state.enabled), state.users, state.roles] {
        put_varint(&mut row, number);
    }
    tables.put(TREE_AUTH, STATE, &row, None);
    Some(state)
}

/// Removes a record and its lists; how many there were.
fn remove(tables: &mut Tables, kind: u8, lists: u8, name: &str) -> u64 {
    remove_list(tables, &record_key(lists, name));
    let key = record_key(kind, name);
    if tables.get(TREE_AUTH, &key).is_none() {
        return 0;
    }
    tables.remove(TREE_AUTH, &key);
    1
}

fn put_user(tables: &mut Tables, state: &mut AuthState, user: &User) -> Option<()> {
    let key = record_key(USER, &user.name);
    if tables.get(TREE_AUTH, &key).is_none() {
        state.users = Some(state.users + 1).filter(|users| *users <= AUTH_RECORDS_MAX)?;
    }
    let mut row = vec![bit(user.roles.is_some(), HAS_ROLES)];
    row.extend_from_slice(user.password.as_bytes());
    tables.put(TREE_AUTH, &key, &row, None);
    let lists = record_key(USER_ROLE, &user.name);
    remove_list(tables, &lists);
    put_list(tables, &lists, user.roles.as_deref().unwrap_or_default());
    Some(())
}

fn put_role(tables: &mut Tables, state: &mut AuthState, role: &Role) -> Option<()> {
    let key = record_key(ROLE, &role.name);
    if tables.get(TREE_AUTH, &key).is_none() {
        state.roles = Some(state.roles + 1).filter(|roles| *roles <= AUTH_RECORDS_MAX)?;
    }
    let flags = bit(role.read.is_some(), HAS_READ) | bit(role.write.is_some(), HAS_WRITE);
    tables.put(TREE_AUTH, &key, &[flags], None);
    let mut lists = record_key(ROLE_PATTERN, &role.name);
    remove_list(tables, &lists);
    for (kind, items) in [(READ, &role.read), (WRITE, &role.write)] {
        lists.push(kind);
        put_list(tables, &lists, items.as_deref().unwrap_or_default());
        lists.pop();
    }
    Some(())
}
