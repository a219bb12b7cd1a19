//! What can be asked of the keys model.

use bytes::Bytes;
use quorate_ids::{Revision, Term};

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Move(Move),
    /// Versions superseded at or before `revision` may be forgotten.
    Compact {
        revision: Revision,
    },
    LeaseGrant {
        id: i64,
        ttl_seconds: i64,
    },
    LeaseRevoke {
        id: i64,
    },
    /// The leader of `term` saw these leases expire; in a later term it changes nothing.
    LeaseExpire {
        term: Term,
        ids: Vec<i64>,
    },
    /// Raises or clears an alarm: etcd's NOSPACE (1) and CORRUPT (2).
    Alarm {
        activate: bool,
        member: u64,
        alarm: u8,
    },
}

impl Command {
    /// True where this may leave more on the disk than it frees: what etcd refuses under its NOSPACE alarm, and moves.
    #[must_use]
    pub fn takes_space(&self) -> bool {
        match self {
            Self::Put(_) | Self::Move(_) | Self::LeaseGrant { .. } => true,
            Self::Txn(txn) => txn.puts(),
            Self::DeleteRange(_)
            | Self::Compact { .. }
            | Self::LeaseRevoke { .. }
            | Self::LeaseExpire { .. }
            | Self::Alarm { .. } => false,
        }
    }
}

/// The end of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeEnd {
    /// Just the one key.
    Single,
    /// Keys below this one (etcd's plain `range_end`).
    Before(Bytes),
    /// Every key from `key` on (etcd's `range_end` of `\0`).
    Unbounded,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    /// 0: no lease.
    pub lease: i64,
    pub prev_kv: bool,
    /// Keep the current value; the key must exist and `value` be empty.
    pub ignore_value: bool,
    /// Keep the current lease; the key must exist and `lease` be 0.
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeleteRange {
    pub key: Bytes,
    pub end: RangeEnd,
    pub prev_kv: bool,
}

impl RangeEnd {
    /// The end of the keys that begin with `prefix`.
    #[must_use]
    pub fn of_prefix(prefix: &[u8]) -> Self {
        let keep = prefix.iter().rposition(|byte| *byte < u8::MAX);
        match keep {
            None => Self::Unbounded,
            Some(at) => {
                let mut end = prefix[..=at].to_vec();
                end[at] += 1;
                Self::Before(end.into())
            }
        }
    }
}

/// Each key that begins with `from` then begins with `to` instead, all in one revision. It begins anew there, without a
/// lease. `to` must not be longer than `from`, nor begin with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub from: Bytes,
    pub to: Bytes,
    /// Delete what began with `to` before; else the move is refused where there is anything.
    pub replace: bool,
    /// Refuse the move unless so many keys begin with `from`.
    pub count: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// A read. Fields mean what etcd's RangeRequest says.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeQuery {
    pub key: Bytes,
    pub end: RangeEnd,
    /// At most this many keys; 0: no limit.
    pub limit: u64,
    /// 0: the newest revision.
    pub revision: Revision,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    /// Bounds on the revisions; 0: no bound.
    pub min_mod_revision: Revision,
    pub max_mod_revision: Revision,
    pub min_create_revision: Revision,
    pub max_create_revision: Revision,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

impl Txn {
    /// Whether either branch puts anything, nested ones included.
    fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put(_) => true,
            Op::Txn(txn) => txn.puts(),
            Op::Range(_) | Op::DeleteRange(_) => false,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Range(RangeQuery),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Box<Txn>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    Equal,
    Greater,
    Less,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
}

/// Holds where every key of the range fulfils it. An empty range: false for a value, else compares with zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    pub key: Bytes,
    pub end: RangeEnd,
    pub op: CompareOp,
    pub target: CompareTarget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_space_where_any_branch_puts() {
        let delete =
            || Op::DeleteRange(DeleteRange { key: "a".into(), end: RangeEnd::Unbounded, prev_kv: false });
        let put = Op::Put(Put {
            key: "a".into(),
            value: "b".into(),
            lease: 0,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        });
        let txn = |success, failure| Txn { compare: Vec::new(), success, failure };
        assert!(!Command::Txn(txn(vec![delete()], vec![delete()])).takes_space());
        let nested = Op::Txn(Box::new(txn(Vec::new(), vec![put])));
        assert!(Command::Txn(txn(vec![delete()], vec![nested])).takes_space());
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(RangeEnd::of_prefix(b"a/"), RangeEnd::Before("a0".into()));
        assert_eq!(RangeEnd::of_prefix(b"a\xff\xff"), RangeEnd::Before("b".into()));
        assert_eq!(RangeEnd::of_prefix(b"\xff"), RangeEnd::Unbounded);
        assert_eq!(RangeEnd::of_prefix(b""), RangeEnd::Unbounded);
    }
}
