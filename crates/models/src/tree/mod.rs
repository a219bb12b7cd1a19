//! The tree model: directories and files by path, as etcd's v2 API and etcd 0.4 know them.
//!
//! Each successful change takes exactly one index, the model's own; nothing but commands of this model moves it. See
//! `command` for what can be asked, `reply` for what comes back, `apply` for how commands change the tables, `query`
//! for reads, `history` for past events, `watch` for live ones, `expiry` for who says when a TTL has run out, `import`
//! for how another tree's nodes become this one's, `auth` for users and roles.
//!
//! `docs/formats/tree-commands.md` and `tree-tables.md` specify the bytes.

mod apply;
mod auth;
mod change;
mod codec;
mod command;
mod expiry;
mod history;
mod import;
mod nodes;
mod path;
mod query;
mod reply;
mod rows;
mod watch;

use quorate_store::TableId;

pub use apply::Tree;
pub use auth::{
    AUTH_LIST_MAX, AUTH_NAME_BYTES_MAX, AUTH_PASSWORD_BYTES_MAX, AUTH_PATTERN_BYTES_MAX, AUTH_RECORDS_MAX,
    AuthChange, AuthRevision, AuthState, Authority, Role, User, auth_state, role, role_names, user,
    user_names,
};
pub use codec::{DecodeError, carried, decode, encode};
pub use command::{
    Command, Conditions, EXPIRED_PER_COMMAND_MAX, HISTORY_EVENTS_MAX, IMPORTED_PER_COMMAND_MAX, ImportedNode,
    NameStyle, Write,
};
pub use expiry::ExpiryClock;
pub use history::{Found, event, events, first_match, history_start};
pub use path::{DEPTH_MAX, PATH_BYTES_MAX, Path, PathError};
pub use query::{Get, GetReply, get, load_event, load_value};
pub use reply::{Action, CompareFailure, Event, ImportFault, Node, Reply, Statistics, TreeError, Value};
pub use rows::{HISTORY_EVENTS_DEFAULT, current_index, history_window, statistics};
pub use watch::{FEED_EVENTS_MAX_DEFAULT, Feed, FeedEvent, TooOld, Watch, WatchId, WatchSet};

use crate::tables::{
    TREE, TREE_AUTH, TREE_DEADLINES, TREE_DIRS, TREE_EVENTS, TREE_META, TREE_ORPHANS, TREE_VALUES,
};

/// The tables that must be equal on all members at one applied index: all of the model's.
pub const HASHED_TABLES: [TableId; 8] =
    [TREE, TREE_DIRS, TREE_EVENTS, TREE_VALUES, TREE_DEADLINES, TREE_ORPHANS, TREE_META, TREE_AUTH];
