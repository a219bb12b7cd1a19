//! The keys model: a flat, ordered key space with multi-version history, as etcd v3's clients know it.
//!
//! Each changing command makes one new revision; its changes are numbered within it. See `command` for what can be
//! asked, `reply` for what comes back, `apply` for how commands change the tables, `query` and `history` for reads,
//! `compact` for how old versions go, `watch` for who is told of changes.

mod apply;
mod codec;
mod command;
mod compact;
mod hash;
mod history;
mod lease_clock;
mod leases;
mod moves;
mod ops;
mod query;
mod read_txn;
mod reply;
mod rows;
mod txn;
pub mod watch;

use quorate_store::TableId;

pub use apply::Keys;
pub use codec::{DecodeError, TXN_DEPTH_MAX, decode, encode};
pub use command::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, Move, Op, Put, RangeEnd, RangeQuery, SortOrder,
    SortTarget, Txn,
};
pub use compact::forgotten_revision;
pub use hash::{HashScan, KeysHash, hash_kv};
pub use history::{HistoryResume, history_slice, load_previous};
pub use lease_clock::LeaseClock;
pub use leases::{LEASE_BYTES, Lease, alarms, data_bytes, lease, lease_keys, leases};
pub use query::{
    Progress, RANGE_SLICE_KEYS, RangeResume, finish_range, load_value, range, range_slice, resolve_revision,
};
pub use read_txn::{ReadStep, ReadTxn};
pub use reply::{
    DeleteReply, Event, EventKind, KeyMeta, KeyValue, KeysError, OpReply, PutReply, RangeReply, Reply,
    TxnReply, Value,
};
pub use rows::{
    BodyShapeError, REVISION_FIRST, USER_KEY_BYTES_MAX, compacted_revision, current_revision, value_of_body,
};
pub use txn::NESTED_TXNS_MAX;

use crate::tables::{ALARMS, KEYS, KEYS_META, LEASE_KEYS, LEASES};

/// The tables that must be equal on all members at one applied index. The others depend on a member's own pace.
pub const HASHED_TABLES: [TableId; 5] = [KEYS, KEYS_META, LEASES, LEASE_KEYS, ALARMS];
