//! The keys model: a flat, ordered key space with multi-version history, as etcd v3's clients know it.
//!
//! Each changing command makes one new revision; its changes are numbered within it. See `command` for what can be
//! asked, `reply` for what comes back.

mod command;
mod reply;

pub use command::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, Op, Put, RangeEnd, RangeQuery, SortOrder, SortTarget, Txn,
};
pub use reply::{DeleteReply, Event, EventKind, KeyMeta, KeyValue, KeysError, OpReply, PutReply, RangeReply, Reply, TxnReply, Value};
