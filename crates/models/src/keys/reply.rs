//! What the keys model answers.

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_store::Location;

/// A value, or where to read it: bodies that an answer carries are read after `apply`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Here(Bytes),
    /// The record's body holds key and value; [`super::value_of_body`] cuts the value out.
    At(Location),
    /// Not asked for (`keys_only`).
    Absent,
}

/// What is known of a version without its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyMeta {
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: u64,
    pub lease: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct KeyValue {
    pub key: Bytes,
    pub meta: KeyMeta,
    pub value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change. A delete's `kv` has the key and the revision of the deletion alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KeyValue,
    /// The version before, where there was one that is not compacted.
    pub previous: Option<KeyValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Put(PutReply),
    DeleteRange(DeleteReply),
    Txn(TxnReply),
    Move { revision: Revision, moved: u64, replaced: u64 },
    Compact { revision: Revision },
    LeaseGrant { revision: Revision, id: i64, ttl_seconds: i64 },
    LeaseRevoke { revision: Revision },
    LeaseExpire { revision: Revision, expired: Vec<i64> },
    Alarm { revision: Revision },
    Refused { revision: Revision, error: KeysError },
}

/// `revision` is the store's after the command: the header's.
#[derive(Clone, Debug, PartialEq)]
pub struct PutReply {
    pub revision: Revision,
    pub previous: Option<KeyValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeleteReply {
    pub revision: Revision,
    pub deleted: u64,
    pub previous: Vec<KeyValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RangeReply {
    /// The store's revision when the read was made (not the revision it was made at).
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TxnReply {
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<OpReply>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    Range(RangeReply),
    Put(PutReply),
    DeleteRange(DeleteReply),
    Txn(TxnReply),
}

/// Why a command or a read was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("revision {asked} is compacted; the oldest readable one is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the current one is {current}")]
    FutureRevision { asked: Revision, current: Revision },
    #[error("lease {id:x} does not exist")]
    LeaseNotFound { id: i64 },
    #[error("lease {id:x} exists already")]
    LeaseExists { id: i64 },
    #[error("the key must exist for ignore_value or ignore_lease")]
    KeyNotFound,
    #[error("the key has {len} bytes; at most {max} are possible")]
    KeyTooLong { len: usize, max: usize },
    #[error("key and value have {len} bytes; at most {max} are possible")]
    ValueTooLong { len: usize, max: usize },
    #[error("alarm {alarm} is unknown; there are 1 (no space) and 2 (corrupt)")]
    UnknownAlarm { alarm: u8 },
    #[error("the transaction nests more than {max} transactions")]
    TooManyNested { max: usize },
    #[error("keys can't be moved from a prefix to one that is longer, or that begins with it")]
    MoveIntoItself,
    #[error("{found} keys are there to be moved, where {wanted} have to be")]
    MoveIncomplete { found: u64, wanted: u64 },
    #[error("{count} keys are there already, where others are to be moved to")]
    MoveOntoKeys { count: u64 },
    #[error("a body that the command compares can't be read: {reason}")]
    Unreadable { reason: String },
}
