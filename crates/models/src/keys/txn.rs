//! Transactions: which branches are taken, and the answer's shape.
//!
//! Invariant: all compares, those of nested transactions too, are judged by the tables as they are before the
//! command's first change, as etcd does. The judgements (the *path*) then stand for the whole command.

use std::ops::ControlFlow;

use quorate_store::{Location, Tables};

use super::apply::Keys;
use super::command::{Compare, CompareOp, CompareTarget, Op, Txn};
use super::ops::{Leaf, Loaded, NEED_BODIES_MAX, have_body};
use super::query::Bounds;
use super::reply::{KeyMeta, KeysError, OpReply, TxnReply};
use super::rows::{KeyRow, value_of_body};
use crate::tables::KEYS;

/// Transactions that one may run within itself: its path must fit a cursor.
pub const NESTED_TXNS_MAX: usize = 4096;

/// Why a command can't go on; nothing was changed.
pub(super) enum Blocked {
    Need(Vec<Location>),
    Refused(KeysError),
}

impl Keys {
    /// Which branch each transaction takes, outermost first, in the order in which they run.
    pub(super) fn choose_path(
        &self,
        tables: &Tables,
        txn: &Txn,
        loaded: &Loaded,
    ) -> Result<Vec<bool>, Blocked> {
        let mut path = Vec::new();
        choose(tables, txn, loaded, &mut path)?;
        Ok(path)
    }
}

fn choose(tables: &Tables, txn: &Txn, loaded: &Loaded, path: &mut Vec<bool>) -> Result<(), Blocked> {
    if path.len() > NESTED_TXNS_MAX {
        return Err(Blocked::Refused(KeysError::TooManyNested { max: NESTED_TXNS_MAX }));
    }
    let succeeded = holds(tables, &txn.compare, loaded)?;
    path.push(succeeded);
    for op in branch(txn, succeeded) {
        if let Op::Txn(nested) = op {
            choose(tables, nested, loaded, path)?;
        }
    }
    Ok(())
}

pub(super) fn branch(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Whether all compares hold.
fn holds(tables: &Tables, compares: &[Compare], loaded: &Loaded) -> Result<bool, Blocked> {
    let mut need = Vec::new();
    for compare in compares {
        if !compare_holds(tables, compare, loaded, &mut need) {
            return Ok(false);
        }
    }
    if need.is_empty() { Ok(true) } else { Err(Blocked::Need(need)) }
}

/// Whether a compare holds, as far as is known: values that must be loaded first are added to `need`.
fn compare_holds(tables: &Tables, compare: &Compare, loaded: &Loaded, need: &mut Vec<Location>) -> bool {
    let (mut any, mut all) = (false, true);
    let bounds = Bounds::new(&compare.key, &compare.end);
    tables.scan(KEYS, &bounds.from, bounds.to.as_deref(), &mut |_, entry| {
        any = true;
        let row = KeyRow::read(entry.row);
        let ordering = match &compare.target {
            CompareTarget::Value(wanted) => {
                let at = entry.body.expect("a version has a body");
                let mut here = Loaded::new();
                let body = loaded.get(&at).cloned().or_else(|| {
                    let mut cold = Vec::new();
                    have_body(tables, at, &mut here, &mut cold);
                    here.remove(&at)
                });
                let Some(body) = body else {
                    need.push(at);
                    return if need.len() < NEED_BODIES_MAX {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    };
                };
                // A body that is none holds no value: the store's checksums rule that out.
                value_of_body(&body).map(|(_, value)| value.cmp(wanted)).expect("a version's body parses")
            }
            target => {
                all = holds_for_number(compare.op, &row.meta(), target);
                return if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
        };
        all = satisfies(compare.op, ordering);
        if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if any { all } else { holds_for_nothing(compare) }
}

/// Whether a compare holds for a range without keys.
pub(super) fn holds_for_nothing(compare: &Compare) -> bool {
    match &compare.target {
        CompareTarget::Value(_) => false,
        target => holds_for_number(compare.op, &KeyMeta::default(), target),
    }
}

/// Whether a version fulfils a compare of anything but its value.
pub(super) fn holds_for_number(op: CompareOp, meta: &KeyMeta, target: &CompareTarget) -> bool {
    let (has, wanted) = number(meta, target);
    satisfies(op, has.cmp(&wanted))
}

/// What a version has for a target, and what is wanted.
fn number(meta: &KeyMeta, target: &CompareTarget) -> (i64, i64) {
    match target {
        CompareTarget::Version(wanted) => (meta.version as i64, *wanted),
        CompareTarget::Create(wanted) => (meta.create_revision.0 as i64, *wanted),
        CompareTarget::Mod(wanted) => (meta.mod_revision.0 as i64, *wanted),
        CompareTarget::Lease(wanted) => (meta.lease, *wanted),
        CompareTarget::Value(_) => unreachable!("values are compared as bytes"),
    }
}

pub(super) fn satisfies(op: CompareOp, ordering: std::cmp::Ordering) -> bool {
    match op {
        CompareOp::Equal => ordering.is_eq(),
        CompareOp::Greater => ordering.is_gt(),
        CompareOp::Less => ordering.is_lt(),
        CompareOp::NotEqual => ordering.is_ne(),
    }
}

/// The operations of the taken branches, in the order in which they run.
pub(super) fn flatten<'a>(txn: &'a Txn, path: &mut dyn Iterator<Item = bool>, leaves: &mut Vec<Leaf<'a>>) {
    let succeeded = path.next().expect("the path covers the transaction");
    for op in branch(txn, succeeded) {
        match op {
            Op::Range(query) => leaves.push(Leaf::Range(query)),
            Op::Put(put) => leaves.push(Leaf::Put(put)),
            Op::DeleteRange(delete) => leaves.push(Leaf::Delete(delete)),
            Op::Txn(nested) => flatten(nested, path, leaves),
        }
    }
}

/// Puts the operations' answers into the transaction's shape.
pub(super) fn nest_replies(
    txn: &Txn,
    path: &mut dyn Iterator<Item = bool>,
    results: &mut dyn Iterator<Item = OpReply>,
    revision: quorate_ids::Revision,
) -> TxnReply {
    let succeeded = path.next().expect("the path covers the transaction");
    let responses = branch(txn, succeeded)
        .iter()
        .map(|op| match op {
            Op::Txn(nested) => OpReply::Txn(nest_replies(nested, path, results, revision)),
            _ => results.next().expect("every operation that ran has an answer"),
        })
        .collect();
    TxnReply { revision, succeeded, responses }
}
