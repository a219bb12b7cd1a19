//! From what clients send to commands and queries of the keys model: validation with etcd's own refusals.
//!
//! Invariant: what comes out of here, the model takes; nothing in a request is ignored silently.

use quorate_ids::Revision;
use quorate_models::keys::{
    Compare, CompareOp, CompareTarget, DeleteRange, Op, Put, RangeEnd, RangeQuery, SortOrder, SortTarget, Txn,
};
use quorate_wire::etcdserverpb as pb;

use super::errors::{
    DUPLICATE_KEY, EMPTY_KEY, INVALID_SORT_OPTION, KEY_NOT_FOUND, LEASE_PROVIDED, Status, TOO_MANY_OPS,
    VALUE_PROVIDED,
};
use super::txn_keys;

/// The end of a range, as etcd writes it.
#[must_use]
pub fn range_end(end: bytes::Bytes) -> RangeEnd {
    match &end[..] {
        b"" => RangeEnd::Single,
        b"\0" => RangeEnd::Unbounded,
        _ => RangeEnd::Before(end),
    }
}

/// A read, and whether this member may answer it alone.
pub fn range(request: pb::RangeRequest) -> Result<(RangeQuery, bool), Status> {
    use pb::range_request::{SortOrder as Order, SortTarget as Target};
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let order = Order::try_from(request.sort_order).map_err(|_| INVALID_SORT_OPTION)?;
    let target = Target::try_from(request.sort_target).map_err(|_| INVALID_SORT_OPTION)?;
    let bound = |revision: i64| Revision(u64::try_from(revision).unwrap_or(0));
    // No revision is at most a negative bound: nothing is, then.
    let nothing = request.max_mod_revision < 0 || request.max_create_revision < 0;
    let query = RangeQuery {
        key: request.key,
        end: range_end(request.range_end),
        limit: u64::try_from(request.limit).unwrap_or(0),
        revision: bound(request.revision),
        sort_order: match order {
            Order::None => SortOrder::None,
            Order::Ascend => SortOrder::Ascend,
            Order::Descend => SortOrder::Descend,
        },
        sort_target: match target {
            Target::Key => SortTarget::Key,
            Target::Version => SortTarget::Version,
            Target::Create => SortTarget::Create,
            Target::Mod => SortTarget::Mod,
            Target::Value => SortTarget::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: if nothing { Revision(u64::MAX) } else { bound(request.min_mod_revision) },
        max_mod_revision: bound(request.max_mod_revision),
        min_create_revision: bound(request.min_create_revision),
        max_create_revision: bound(request.max_create_revision),
    };
    Ok((query, request.serializable))
}

pub fn put(request: pb::PutRequest) -> Result<Put, Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub fn delete_range(request: pb::DeleteRangeRequest) -> Result<DeleteRange, Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    Ok(DeleteRange { key: request.key, end: range_end(request.range_end), prev_kv: request.prev_kv })
}

/// A transaction. `ops_max` bounds its compares and each branch; a nested one has what its parents left.
pub fn txn(request: pb::TxnRequest, ops_max: usize) -> Result<Txn, Status> {
    let txn = translate_txn(request, ops_max)?;
    txn_keys::check(&txn.success).map_err(|txn_keys::Duplicate| DUPLICATE_KEY)?;
    txn_keys::check(&txn.failure).map_err(|txn_keys::Duplicate| DUPLICATE_KEY)?;
    Ok(txn)
}

fn translate_txn(request: pb::TxnRequest, ops_max: usize) -> Result<Txn, Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = ops_max.checked_sub(ops) else { return Err(TOO_MANY_OPS) };
    let compare = request.compare.into_iter().map(translate_compare).collect::<Result<_, _>>()?;
    let branch =
        |ops: Vec<pb::RequestOp>| ops.into_iter().map(|op| translate_op(op, left)).collect::<Result<_, _>>();
    Ok(Txn { compare, success: branch(request.success)?, failure: branch(request.failure)? })
}

fn translate_op(op: pb::RequestOp, ops_max: usize) -> Result<Op, Status> {
    use pb::request_op::Request;
    Ok(match op.request {
        Some(Request::RequestRange(request)) => Op::Range(range(request)?.0),
        Some(Request::RequestPut(request)) => Op::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => Op::DeleteRange(delete_range(request)?),
        Some(Request::RequestTxn(request)) => Op::Txn(Box::new(translate_txn(request, ops_max)?)),
        None => return Err(KEY_NOT_FOUND),
    })
}

fn translate_compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult, CompareTarget as Target, TargetUnion};
    if compare.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let unknown = |what: &str, value: i32| {
        let text = format!("etcdserver: unknown compare {what} {value} in txn request");
        Status::with(super::errors::Code::InvalidArgument, text)
    };
    let op = match CompareResult::try_from(compare.result).map_err(|_| unknown("result", compare.result))? {
        CompareResult::Equal => CompareOp::Equal,
        CompareResult::Greater => CompareOp::Greater,
        CompareResult::Less => CompareOp::Less,
        CompareResult::NotEqual => CompareOp::NotEqual,
    };
    // A target whose union is unset or of another kind compares with nothing, as etcd's servers do.
    let target = Target::try_from(compare.target).map_err(|_| unknown("target", compare.target))?;
    let target = match (target, compare.target_union) {
        (Target::Version, Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
        (Target::Version, _) => CompareTarget::Version(0),
        (Target::Create, Some(TargetUnion::CreateRevision(revision))) => CompareTarget::Create(revision),
        (Target::Create, _) => CompareTarget::Create(0),
        (Target::Mod, Some(TargetUnion::ModRevision(revision))) => CompareTarget::Mod(revision),
        (Target::Mod, _) => CompareTarget::Mod(0),
        (Target::Value, Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (Target::Value, _) => CompareTarget::Value(bytes::Bytes::new()),
        (Target::Lease, Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(lease),
        (Target::Lease, _) => CompareTarget::Lease(0),
    };
    Ok(Compare { key: compare.key, end: range_end(compare.range_end), op, target })
}

/// Whether each operation of a transaction, nested ones included, is a read that a member may answer alone.
#[must_use]
pub fn reads_serializably(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        Some(Request::RequestTxn(nested)) => reads_serializably(nested),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => false,
    })
}

/// Whether a branch of the transaction may put a key: what a full store refuses.
#[must_use]
pub fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => puts(nested),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use pb::request_op::Request;

    const OPS_MAX: usize = 128;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn put_op(key: &'static str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest {
            key: Bytes::from_static(key.as_bytes()),
            ..Default::default()
        }))
    }

    fn delete_op(key: &'static str, end: &'static str) -> pb::RequestOp {
        op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(end.as_bytes()),
            prev_kv: false,
        }))
    }

    fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        op(Request::RequestTxn(pb::TxnRequest { compare: Vec::new(), success, failure }))
    }

    fn check(success: Vec<pb::RequestOp>) -> Result<(), Status> {
        txn(pb::TxnRequest { compare: Vec::new(), success, failure: Vec::new() }, OPS_MAX).map(|_| ())
    }

    #[test]
    fn requests_without_a_key_or_against_themselves_are_refused() {
        assert_eq!(range(pb::RangeRequest::default()), Err(EMPTY_KEY));
        assert_eq!(put(pb::PutRequest::default()), Err(EMPTY_KEY));
        assert_eq!(delete_range(pb::DeleteRangeRequest::default()), Err(EMPTY_KEY));
        let key = || Bytes::from_static(b"k");
        let value = Bytes::from_static(b"v");
        let request = pb::PutRequest { key: key(), value, ignore_value: true, ..Default::default() };
        assert_eq!(put(request), Err(VALUE_PROVIDED));
        let request = pb::PutRequest { key: key(), lease: 1, ignore_lease: true, ..Default::default() };
        assert_eq!(put(request), Err(LEASE_PROVIDED));
        for (sort_order, sort_target) in [(3, 0), (0, 5), (-1, 0)] {
            let request = pb::RangeRequest { key: key(), sort_order, sort_target, ..Default::default() };
            assert_eq!(range(request), Err(INVALID_SORT_OPTION));
        }
    }

    #[test]
    fn the_ends_of_ranges() {
        assert_eq!(range_end(Bytes::new()), RangeEnd::Single);
        assert_eq!(range_end(Bytes::from_static(b"\0")), RangeEnd::Unbounded);
        assert_eq!(range_end(Bytes::from_static(b"b")), RangeEnd::Before(Bytes::from_static(b"b")));
    }

    #[test]
    fn one_branch_may_not_put_a_key_twice_or_delete_what_it_puts() {
        assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), put_op("a")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![put_op("a"), delete_op("a", "")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![delete_op("a", "c"), put_op("b")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![delete_op("a", "c"), put_op("c")]), Ok(()));
        assert_eq!(check(vec![delete_op("b", "\0"), put_op("z")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![delete_op("a", "c"), delete_op("b", "d")]), Ok(()), "deletes may overlap");
        assert_eq!(check(vec![delete_op("d", "a"), put_op("b")]), Ok(()), "an empty range");
    }

    #[test]
    fn the_branches_of_a_nested_transaction_exclude_each_other() {
        assert_eq!(check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]), Ok(()));
        assert_eq!(check(vec![txn_op(vec![put_op("a")], vec![]), put_op("a")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![txn_op(vec![], vec![delete_op("a", "b")]), put_op("a")]), Err(DUPLICATE_KEY));
        let twice = vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])];
        assert_eq!(check(twice), Err(DUPLICATE_KEY));
    }

    #[test]
    fn operations_are_counted_with_what_is_left_for_nested_ones() {
        let puts = |count: usize| {
            (0..count)
                .map(|i| {
                    let key = Bytes::from(format!("k{i}"));
                    op(Request::RequestPut(pb::PutRequest { key, ..Default::default() }))
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(check(puts(OPS_MAX)), Ok(()));
        assert_eq!(check(puts(OPS_MAX + 1)), Err(TOO_MANY_OPS));
        assert_eq!(check(vec![txn_op(puts(OPS_MAX - 1), vec![])]), Ok(()));
        assert_eq!(check(vec![txn_op(puts(OPS_MAX), vec![])]), Err(TOO_MANY_OPS));
        assert_eq!(check(vec![pb::RequestOp { request: None }]), Err(KEY_NOT_FOUND));
    }
}
