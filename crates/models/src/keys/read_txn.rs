//! Transactions that change nothing, answered without the log: by the tables, at one pinned revision, in slices.
//!
//! The caller calls [`ReadTxn::step`] under the store's read lock, drops the lock, loads what was asked for, and calls
//! again. Invariants: the answer is what the command would have answered had it been applied right after the pinned
//! revision (compares and answers go through the same code as there); a slice visits at most its budget of rows; of
//! the values that compares look at, at most a slice's are held.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_store::{Location, Tables};

use super::command::{Compare, CompareTarget, Op, RangeEnd, RangeQuery, Txn};
use super::ops::{Leaf, Loaded};
use super::query::{Progress, RangeResume, finish_range, range_slice, resolve_revision};
use super::reply::{KeyValue, KeysError, OpReply, TxnReply, Value};
use super::rows::{current_revision, value_of_body};
use super::txn::{
    NESTED_TXNS_MAX, branch, flatten, holds_for_nothing, holds_for_number, nest_replies, satisfies,
};

impl Txn {
    /// Whether no branch changes anything: such a transaction needs no place in the log.
    #[must_use]
    pub fn reads_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Range(_) => true,
            Op::Txn(nested) => nested.reads_only(),
            Op::Put(_) | Op::DeleteRange(_) => false,
        })
    }
}

/// What one slice of a read-only transaction came to.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadStep {
    /// A slice is done; call again.
    More,
    /// Load these bodies, hand each to [`ReadTxn::loaded`], and call again.
    Need(Vec<Location>),
    Done(TxnReply),
}

/// A read-only transaction under way. Hold a pin of the store from before [`ReadTxn::start`] until the answer's values
/// are read.
#[derive(Debug)]
pub struct ReadTxn<'a> {
    txn: &'a Txn,
    at: Revision,
    /// Transactions whose compares are to be judged, the next one last.
    judging: Vec<&'a Txn>,
    /// The compare under way in the transaction that is judged.
    compare: usize,
    path: Vec<bool>,
    /// Once all compares are judged: the ranges of the branches that were taken.
    ranges: Option<Vec<&'a RangeQuery>>,
    results: Vec<OpReply>,
    resume: RangeResume,
    /// What the compare under way is still to look at.
    queued: VecDeque<KeyValue>,
    compare_found_any: bool,
    walk_done: bool,
    loaded: Loaded,
}

enum Judged {
    Holds,
    Fails,
    Unknown(ReadStep),
}

impl<'a> ReadTxn<'a> {
    /// Pins the newest revision. `txn` must read only.
    #[must_use]
    pub fn start(tables: &Tables, txn: &'a Txn) -> Self {
        assert!(txn.reads_only(), "a transaction that changes something goes through the log");
        Self {
            txn,
            at: current_revision(tables),
            judging: vec![txn],
            compare: 0,
            path: Vec::new(),
            ranges: None,
            results: Vec::new(),
            resume: RangeResume::default(),
            queued: VecDeque::new(),
            compare_found_any: false,
            walk_done: false,
            loaded: Loaded::new(),
        }
    }

    /// The pinned revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// Takes a body that was asked for.
    pub fn loaded(&mut self, at: Location, body: Bytes) {
        self.loaded.insert(at, body);
    }

    /// Goes on, visiting at most about `budget` rows. [`KeysError::Compacted`] may come at every step: the pinned
    /// revision was compacted meanwhile.
    pub fn step(&mut self, tables: &Tables, budget: usize) -> Result<ReadStep, KeysError> {
        let mut points = 0;
        while let Some(txn) = self.judging.last().copied() {
            let Some(compare) = txn.compare.get(self.compare) else {
                self.judged(txn, true)?;
                continue;
            };
            match self.judge(tables, compare, budget)? {
                Judged::Holds => {
                    self.compare += 1;
                    self.forget_compare();
                }
                Judged::Fails => self.judged(txn, false)?,
                Judged::Unknown(step) => return Ok(step),
            }
            // Another compare is another slice, unless it is of one key.
            points += 1;
            if compare.end != RangeEnd::Single || points == budget {
                return Ok(ReadStep::More);
            }
        }
        if self.ranges.is_none() {
            let mut leaves = Vec::new();
            flatten(self.txn, &mut self.path.iter().copied(), &mut leaves);
            let mut ranges = Vec::with_capacity(leaves.len());
            for leaf in leaves {
                let Leaf::Range(query) = leaf else { unreachable!("the transaction reads only") };
                if query.revision > self.at {
                    return Err(KeysError::FutureRevision { asked: query.revision, current: self.at });
                }
                resolve_revision(tables, query.revision)?;
                ranges.push(query);
            }
            self.ranges = Some(ranges);
        }
        self.read(tables, budget)
    }

    fn forget_compare(&mut self) {
        self.resume = RangeResume::default();
        self.queued.clear();
        self.loaded.clear();
        self.compare_found_any = false;
        self.walk_done = false;
    }

    /// A transaction's branch is known: those nested in it are next, in their order.
    fn judged(&mut self, txn: &'a Txn, succeeded: bool) -> Result<(), KeysError> {
        self.forget_compare();
        self.compare = 0;
        self.judging.pop();
        self.path.push(succeeded);
        let nested = branch(txn, succeeded).iter().rev().filter_map(|op| match op {
            Op::Txn(nested) => Some(&**nested),
            Op::Range(_) | Op::Put(_) | Op::DeleteRange(_) => None,
        });
        self.judging.extend(nested);
        if self.path.len() + self.judging.len() > NESTED_TXNS_MAX + 1 {
            return Err(KeysError::TooManyNested { max: NESTED_TXNS_MAX });
        }
        Ok(())
    }

    fn judge(&mut self, tables: &Tables, compare: &Compare, budget: usize) -> Result<Judged, KeysError> {
        let mut query = RangeQuery::new(compare.key.clone(), compare.end.clone());
        query.keys_only = !matches!(compare.target, CompareTarget::Value(_));
        if self.queued.is_empty() && !self.walk_done {
            let progress = range_slice(tables, &query, self.at, &mut self.resume, budget)?;
            self.walk_done = progress == Progress::Done;
            self.queued.extend(self.resume.take_found());
        }
        while let Some(kv) = self.queued.front() {
            self.compare_found_any = true;
            let ordering = match &compare.target {
                CompareTarget::Value(wanted) => match self.value(&kv.value)? {
                    Some(value) => value.cmp(wanted),
                    None => return Ok(Judged::Unknown(ReadStep::Need(self.missing()))),
                },
                target => {
                    if holds_for_number(compare.op, &kv.meta, target) {
                        self.queued.pop_front();
                        continue;
                    }
                    return Ok(Judged::Fails);
                }
            };
            if !satisfies(compare.op, ordering) {
                return Ok(Judged::Fails);
            }
            self.queued.pop_front();
        }
        self.loaded.clear();
        if !self.walk_done {
            return Ok(Judged::Unknown(ReadStep::More));
        }
        let holds = self.compare_found_any || holds_for_nothing(compare);
        Ok(if holds { Judged::Holds } else { Judged::Fails })
    }

    /// A value that is at hand.
    fn value(&self, value: &Value) -> Result<Option<Bytes>, KeysError> {
        Ok(match value {
            Value::Here(bytes) => Some(bytes.clone()),
            Value::Absent => Some(Bytes::new()),
            Value::At(at) => match self.loaded.get(at) {
                Some(body) => {
                    let parsed = value_of_body(body);
                    let (_, value) =
                        parsed.map_err(|error| KeysError::Unreadable { reason: error.to_string() })?;
                    Some(value)
                }
                None => None,
            },
        })
    }

    fn missing(&self) -> Vec<Location> {
        let cold = self.queued.iter().filter_map(|kv| match &kv.value {
            Value::At(at) if !self.loaded.contains_key(at) => Some(*at),
            Value::At(_) | Value::Here(_) | Value::Absent => None,
        });
        cold.collect()
    }

    fn read(&mut self, tables: &Tables, budget: usize) -> Result<ReadStep, KeysError> {
        let mut left = budget;
        loop {
            let ranges = self.ranges.as_deref().expect("the path is known");
            let Some(query) = ranges.get(self.results.len()).copied() else { break };
            if left == 0 {
                return Ok(ReadStep::More);
            }
            let at = if query.revision == Revision::ZERO { self.at } else { query.revision };
            let found = self.resume.kvs.len();
            if range_slice(tables, query, at, &mut self.resume, left)? == Progress::More {
                return Ok(ReadStep::More);
            }
            left = left.saturating_sub((self.resume.kvs.len() - found).max(1));
            if query.sorts_by_value()
                && let Some(need) = self.cold_values_to_sort(budget)?
            {
                return Ok(ReadStep::Need(need));
            }
            let resume = std::mem::take(&mut self.resume);
            let value_of = &mut |value: &Value| -> Result<Bytes, std::convert::Infallible> {
                Ok(match value {
                    Value::Here(bytes) => bytes.clone(),
                    Value::At(_) => unreachable!("values to sort by were loaded"),
                    Value::Absent => Bytes::new(),
                })
            };
            let Ok(reply) = finish_range(query, resume, self.at, value_of);
            self.results.push(OpReply::Range(reply));
        }
        let mut results = std::mem::take(&mut self.results).into_iter();
        let reply = nest_replies(self.txn, &mut self.path.iter().copied(), &mut results, self.at);
        Ok(ReadStep::Done(reply))
    }

    /// Puts loaded values where they belong; says which are still to be loaded, a slice of them.
    fn cold_values_to_sort(&mut self, budget: usize) -> Result<Option<Vec<Location>>, KeysError> {
        let mut need = Vec::new();
        for kv in &mut self.resume.kvs {
            let Value::At(at) = kv.value else { continue };
            match self.loaded.remove(&at) {
                Some(body) => {
                    let parsed = value_of_body(&body);
                    let (_, value) =
                        parsed.map_err(|error| KeysError::Unreadable { reason: error.to_string() })?;
                    kv.value = Value::Here(value);
                }
                None if need.len() < budget => need.push(at),
                None => {}
            }
        }
        Ok((!need.is_empty()).then_some(need))
    }
}
