//! Reads: ranges at a pinned revision, in slices.
//!
//! A reader pins a revision, then calls [`range_slice`] under the store's read lock, drops the lock, and calls again.
//! Invariants:
//!
//! - What comes out is the key space as of the pinned revision, whatever the writer did between slices: a version
//!   newer than the pin is followed back along its chain in HISTORY; a key deleted since is found in GRAVEYARD.
//! - `count` is exact and does not depend on the moment it is taken: the keys there are now, less what the changes
//!   after the pin added. At the newest revision that is O(log n); a limited range costs its limit.
//! - A pin below the compacted revision gets [`KeysError::Compacted`], at every slice.
//! - A slice visits at most `budget` rows of each table and `budget` links of chains.

use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_store::{Body, Location, Store, Tables};

use super::command::{RangeEnd, RangeQuery, SortOrder, SortTarget};
use super::reply::{EventKind, KeyMeta, KeyValue, KeysError, RangeReply, Value};
use super::rows::{
    HistoryRow, KeyRow, Rev, compacted_revision, current_revision, history_key, read_grave, value_of_body,
};
use crate::tables::{GRAVEYARD, HISTORY, KEYS};

/// Keys that [`range`] visits under one hold of the store's lock.
pub const RANGE_SLICE_KEYS: usize = 256;
/// Values in memory that one range hands out directly, in bytes; those beyond come as locations, to be read when they
/// are needed, so that a large answer holds no memory of its own.
const VALUES_HERE_BYTES_MAX: usize = 1 << 20;

/// Whether a paced operation has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    Done,
}

/// Where a range goes on, and what it found.
#[derive(Clone, Debug, Default)]
pub struct RangeResume {
    /// Found and not yet taken: in the order of the keys, or against it for [`SortOrder::Descend`] by key with a limit.
    pub kvs: Vec<KeyValue>,
    /// Exact once the range is done.
    pub count: u64,
    /// The limit left keys out. Known once the range is done.
    pub more: bool,
    phase: Phase,
    /// Forwards the first key not yet visited, backwards the bound below which keys are not yet visited.
    next: Option<Vec<u8>>,
    /// The key at `next` is followed back from here.
    chain: Option<Rev>,
    found: u64,
    values_here_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Walk,
    /// Walks on, but only counts.
    WalkToCount,
    /// Takes back from `RangeResume::count` what the changes from `next` to `last` added.
    Changes {
        next: Rev,
        last: Rev,
    },
    Done,
}

/// A range of table keys.
pub(super) struct Bounds {
    pub from: Bytes,
    pub to: Option<Bytes>,
}

impl Bounds {
    pub(super) fn new(key: &Bytes, end: &RangeEnd) -> Self {
        let to = match end {
            RangeEnd::Single => Some(after(key).into()),
            RangeEnd::Before(end) => Some(end.clone()),
            RangeEnd::Unbounded => None,
        };
        Self { from: key.clone(), to }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        key >= &*self.from && self.to.as_ref().is_none_or(|to| key < &**to)
    }
}

/// The first key after `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after
}

/// The newest change that may lie in HISTORY; everything above the compacted revision does.
pub(super) fn newest_change(tables: &Tables) -> Option<Rev> {
    let mut newest = None;
    tables.scan_reverse(HISTORY, &[], None, &mut |key, _| {
        newest = Some(Rev::of_key(key));
        ControlFlow::Break(())
    });
    newest
}

/// Whether the tables hold changes after `at`: readers of `at` must then look for what was there before.
fn changed_since(tables: &Tables, at: Revision) -> bool {
    newest_change(tables).is_some_and(|newest| newest.main > at.0)
}

/// The revision that a query reads at, or why it can't be read.
pub fn resolve_revision(tables: &Tables, asked: Revision) -> Result<Revision, KeysError> {
    let current = current_revision(tables);
    if asked == Revision::ZERO {
        return Ok(current);
    }
    if asked > current {
        return Err(KeysError::FutureRevision { asked, current });
    }
    check_compacted(tables, asked)?;
    Ok(asked)
}

pub(super) fn check_compacted(tables: &Tables, asked: Revision) -> Result<(), KeysError> {
    let oldest = compacted_revision(tables);
    if asked < oldest { Err(KeysError::Compacted { asked, oldest }) } else { Ok(()) }
}

impl RangeQuery {
    /// One key's newest version, nothing else asked.
    #[must_use]
    pub fn point(key: Bytes) -> Self {
        Self::new(key, RangeEnd::Single)
    }

    /// A range at the newest revision, without limit, order or filter.
    #[must_use]
    pub fn new(key: Bytes, end: RangeEnd) -> Self {
        Self {
            key,
            end,
            limit: 0,
            revision: Revision::ZERO,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: Revision::ZERO,
            max_mod_revision: Revision::ZERO,
            min_create_revision: Revision::ZERO,
            max_create_revision: Revision::ZERO,
        }
    }

    fn filtered(&self) -> bool {
        [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision]
            .iter()
            .any(|bound| *bound != Revision::ZERO)
    }

    /// The limit, where the walk itself may stop at it: etcd sorts and filters before it cuts.
    fn limit_of_walk(&self) -> Option<u64> {
        let by_key = self.sort_target == SortTarget::Key;
        (self.limit > 0 && by_key && !self.filtered()).then_some(self.limit)
    }

    fn backwards(&self) -> bool {
        self.sort_order == SortOrder::Descend && self.limit_of_walk().is_some()
    }

    /// Whether the answer's order depends on values.
    #[must_use]
    pub fn sorts_by_value(&self) -> bool {
        self.sort_target == SortTarget::Value && !self.count_only
    }
}

/// Does one slice of a range at revision `at`, which the caller pinned: visible and not compacted at that time.
/// Sorting, filters and a limit that applies after them are [`finish_range`]'s.
pub fn range_slice(
    tables: &Tables,
    query: &RangeQuery,
    at: Revision,
    resume: &mut RangeResume,
    budget: usize,
) -> Result<Progress, KeysError> {
    assert!(budget > 0, "a slice without a budget would never end");
    check_compacted(tables, at)?;
    let slice = Slice { tables, query, at, bounds: Bounds::new(&query.key, &query.end), budget };
    match resume.phase {
        Phase::Walk if query.count_only => slice.start_count(resume),
        Phase::Walk => slice.walk(resume),
        Phase::WalkToCount => slice.walk(resume),
        Phase::Changes { next, last } => slice.count_changes(resume, next, last),
        Phase::Done => {}
    }
    Ok(if matches!(resume.phase, Phase::Done) { Progress::Done } else { Progress::More })
}

impl RangeResume {
    /// Takes what was found so far, to be sent or used at once: the next slices may hold values again.
    pub fn take_found(&mut self) -> Vec<KeyValue> {
        self.values_here_bytes = 0;
        std::mem::take(&mut self.kvs)
    }
}

struct Slice<'a> {
    tables: &'a Tables,
    query: &'a RangeQuery,
    at: Revision,
    bounds: Bounds,
    budget: usize,
}

/// A key that may have a version at the pinned revision.
enum Candidate {
    Current(KeyRow, Option<Location>),
    /// Follow the chain from this change, which is after the pin.
    Chain(Rev),
}

/// What a scan of one table found, and whether it stopped at its budget.
struct Scanned {
    candidates: Vec<(Vec<u8>, Candidate)>,
    last_visited: Option<Vec<u8>>,
}

impl Slice<'_> {
    fn walk(&self, resume: &mut RangeResume) {
        let done = if changed_since(self.tables, self.at) {
            self.walk_past(resume)
        } else {
            self.walk_current(resume)
        };
        if !done {
            return;
        }
        if !matches!(resume.phase, Phase::WalkToCount) && self.limit_reached(resume) {
            self.start_count(resume);
        } else {
            resume.count = resume.found;
            self.finish(resume);
        }
    }

    fn finish(&self, resume: &mut RangeResume) {
        resume.phase = Phase::Done;
        resume.more =
            self.query.limit_of_walk().is_some_and(|limit| !self.query.count_only && resume.count > limit);
    }

    fn limit_reached(&self, resume: &RangeResume) -> bool {
        self.query.limit_of_walk().is_some_and(|limit| resume.found >= limit)
    }

    fn stop_at_limit(&self, resume: &RangeResume) -> bool {
        matches!(resume.phase, Phase::Walk) && self.limit_reached(resume)
    }

    /// What is left of the range.
    fn rest<'b>(&'b self, next: Option<&'b [u8]>) -> (&'b [u8], Option<&'b [u8]>) {
        let (from, to) = (&*self.bounds.from, self.bounds.to.as_deref());
        match next {
            Some(next) if self.query.backwards() => (from, Some(next)),
            Some(next) => (next, to),
            None => (from, to),
        }
    }

    fn scan(
        &self,
        table: quorate_store::TableId,
        next: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], quorate_store::Entry<'_>) -> ControlFlow<()>,
    ) {
        let (from, to) = self.rest(next);
        if self.query.backwards() {
            self.tables.scan_reverse(table, from, to, visit);
        } else {
            self.tables.scan(table, from, to, visit);
        }
    }

    fn next_after(&self, key: &[u8]) -> Vec<u8> {
        if self.query.backwards() { key.to_vec() } else { after(key) }
    }

    /// Every row of KEYS is as old as the pin. Returns whether the walk is over.
    fn walk_current(&self, resume: &mut RangeResume) -> bool {
        let next = resume.next.take();
        resume.chain = None;
        let mut visited = 0;
        let mut stopped_at = None;
        self.scan(KEYS, next.as_deref(), &mut |key, entry| {
            let row = KeyRow::read(entry.row);
            self.emit(resume, key, row.meta(), entry.body);
            visited += 1;
            if self.stop_at_limit(resume) {
                return ControlFlow::Break(());
            }
            if visited == self.budget {
                stopped_at = Some(self.next_after(key));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        resume.next = stopped_at;
        resume.next.is_none()
    }

    /// Some rows are newer than the pin. Returns whether the walk is over.
    fn walk_past(&self, resume: &mut RangeResume) -> bool {
        let next = resume.next.take();
        let keys = self.candidates(KEYS, next.as_deref());
        let graves = self.candidates(GRAVEYARD, next.as_deref());
        let before = |a: &[u8], b: &[u8]| if self.query.backwards() { a > b } else { a < b };
        // Only up to where both tables were visited is it known what comes next.
        let horizon = [keys.last_visited, graves.last_visited]
            .into_iter()
            .flatten()
            .reduce(|a, b| if before(&a, &b) { a } else { b });
        let mut candidates = keys.candidates;
        candidates.extend(graves.candidates);
        candidates
            .sort_unstable_by(|(a, _), (b, _)| if self.query.backwards() { b.cmp(a) } else { a.cmp(b) });
        let mut links = self.budget;
        for (key, candidate) in candidates {
            if horizon.as_ref().is_some_and(|horizon| before(horizon, &key)) {
                break;
            }
            match candidate {
                Candidate::Current(row, body) => self.emit(resume, &key, row.meta(), body),
                Candidate::Chain(newest) => {
                    let from = resume.chain.take().unwrap_or(newest);
                    match version_at(self.tables, from, self.at, &mut links) {
                        Past::Version(meta, body) => self.emit(resume, &key, meta, Some(body)),
                        Past::Nothing => {}
                        Past::Further(rev) => {
                            resume.chain = Some(rev);
                            // Inclusive: this key is not done.
                            resume.next = Some(if self.query.backwards() { after(&key) } else { key });
                            return false;
                        }
                    }
                }
            }
            if self.stop_at_limit(resume) {
                return true;
            }
        }
        resume.next = horizon.map(|horizon| self.next_after(&horizon));
        resume.next.is_none()
    }

    fn candidates(&self, table: quorate_store::TableId, next: Option<&[u8]>) -> Scanned {
        let mut scanned = Scanned { candidates: Vec::new(), last_visited: None };
        let mut visited = 0;
        self.scan(table, next, &mut |key, entry| {
            visited += 1;
            let candidate = if table == GRAVEYARD {
                let rev = read_grave(entry.row);
                (rev.main > self.at.0).then_some(Candidate::Chain(rev))
            } else {
                let row = KeyRow::read(entry.row);
                let past = row.rev.main > self.at.0;
                Some(if past { Candidate::Chain(row.rev) } else { Candidate::Current(row, entry.body) })
            };
            scanned.candidates.extend(candidate.map(|candidate| (key.to_vec(), candidate)));
            if visited == self.budget {
                scanned.last_visited = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        scanned
    }

    fn emit(&self, resume: &mut RangeResume, key: &[u8], meta: KeyMeta, body: Option<Location>) {
        resume.found += 1;
        if matches!(resume.phase, Phase::WalkToCount) {
            return;
        }
        let body = body.expect("a version has a body");
        let key = Bytes::copy_from_slice(key);
        if self.query.keys_only && !self.query.sorts_by_value() {
            resume.kvs.push(KeyValue { key, meta, value: Value::Absent });
            return;
        }
        let value = if resume.values_here_bytes < VALUES_HERE_BYTES_MAX {
            value_at(self.tables, body)
        } else {
            Value::At(body)
        };
        if let Value::Here(bytes) = &value {
            resume.values_here_bytes += bytes.len();
        }
        resume.kvs.push(KeyValue { key, meta, value });
    }

    /// The keys there are now; then, if there were changes after the pin, the cheaper way back to it.
    fn start_count(&self, resume: &mut RangeResume) {
        let (from, to) = (&*self.bounds.from, self.bounds.to.as_deref());
        let now = self.tables.count(KEYS, from, to);
        let last = newest_change(self.tables).filter(|last| last.main > self.at.0);
        let Some(last) = last else {
            resume.count = now;
            return self.finish(resume);
        };
        let next = Rev { main: self.at.0 + 1, sub: 0 };
        let changes = self.tables.count(HISTORY, &next.key(), None);
        if changes > now + self.tables.count(GRAVEYARD, from, to) {
            // Walks the range again from its start, only counting: fewer rows than there are changes.
            resume.found = 0;
            resume.next = None;
            resume.chain = None;
            resume.phase = Phase::WalkToCount;
        } else {
            resume.count = now;
            resume.phase = Phase::Changes { next, last };
        }
    }

    fn count_changes(&self, resume: &mut RangeResume, next: Rev, last: Rev) {
        let mut visited = 0;
        let mut go_on = None;
        self.tables.scan(HISTORY, &next.key(), Some(&last.next().key()), &mut |key, entry| {
            let rev = Rev::of_key(key);
            let row = HistoryRow::read(rev, entry.row);
            let added = row.keys_added();
            if added != 0 {
                let inside = match row.key {
                    Some(key) => self.bounds.contains(key),
                    None => self.bounds.contains(&history_key(self.tables, rev, &row)),
                };
                if inside {
                    resume.count = resume.count.wrapping_sub(added as u64);
                }
            }
            visited += 1;
            if visited == self.budget {
                go_on = Some(rev.next());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        match go_on {
            Some(next) => resume.phase = Phase::Changes { next, last },
            None => self.finish(resume),
        }
    }
}

/// What the chain of a key had at a revision.
pub(super) enum Past {
    Version(KeyMeta, Location),
    Nothing,
    /// Not known yet: go on from this change.
    Further(Rev),
}

/// Follows a key's chain from a change back to the version at `at`, at most `links` links.
pub(super) fn version_at(tables: &Tables, from: Rev, at: Revision, links: &mut usize) -> Past {
    let mut rev = from;
    loop {
        if *links == 0 {
            return Past::Further(rev);
        }
        *links -= 1;
        // Nothing that a reader may still see is missing; what is gone is below the compacted revision.
        let Some(entry) = tables.get(HISTORY, &rev.key()) else { return Past::Nothing };
        let row = HistoryRow::read(rev, entry.row);
        if rev.main <= at.0 {
            return match row.kind {
                EventKind::Put => Past::Version(row.meta(rev), entry.body.expect("a version has a body")),
                EventKind::Delete => Past::Nothing,
            };
        }
        match row.previous {
            Some(previous) => rev = previous,
            None => return Past::Nothing,
        }
    }
}

/// The value if it is in memory, else where it lies.
pub(super) fn value_at(tables: &Tables, at: Location) -> Value {
    match tables.body(at) {
        Body::Ready(body) => value_of_body(&body).map_or(Value::At(at), |(_, value)| Value::Here(value)),
        Body::Cold => Value::At(at),
    }
}

/// Sorts, filters and cuts what [`range_slice`] found, as etcd does. `value_of` gives a version's value where the
/// order depends on it; `revision` is the store's.
pub fn finish_range<E>(
    query: &RangeQuery,
    resume: RangeResume,
    revision: Revision,
    value_of: &mut dyn FnMut(&Value) -> Result<Bytes, E>,
) -> Result<RangeReply, E> {
    assert!(matches!(resume.phase, Phase::Done), "the range is not done");
    let RangeResume { mut kvs, count, mut more, .. } = resume;
    if query.filtered() {
        let within = |revision: Revision, min: Revision, max: Revision| {
            revision >= min && (max == Revision::ZERO || revision <= max)
        };
        kvs.retain(|kv| {
            within(kv.meta.mod_revision, query.min_mod_revision, query.max_mod_revision)
                && within(kv.meta.create_revision, query.min_create_revision, query.max_create_revision)
        });
    }
    // A walk with a limit came in its order already.
    if query.limit_of_walk().is_none() {
        sort(query, &mut kvs, value_of)?;
        if query.limit > 0 && kvs.len() as u64 > query.limit {
            kvs.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
            more = true;
        }
    }
    if query.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Value::Absent);
    }
    Ok(RangeReply { revision, kvs, more, count })
}

fn sort<E>(
    query: &RangeQuery,
    kvs: &mut Vec<KeyValue>,
    value_of: &mut dyn FnMut(&Value) -> Result<Bytes, E>,
) -> Result<(), E> {
    match query.sort_target {
        SortTarget::Key => {}
        SortTarget::Version => kvs.sort_by_key(|kv| kv.meta.version),
        SortTarget::Create => kvs.sort_by_key(|kv| kv.meta.create_revision),
        SortTarget::Mod => kvs.sort_by_key(|kv| kv.meta.mod_revision),
        SortTarget::Value => {
            let mut keyed = Vec::with_capacity(kvs.len());
            for kv in kvs.drain(..) {
                keyed.push((value_of(&kv.value)?, kv));
            }
            keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
            kvs.extend(keyed.into_iter().map(|(_, kv)| kv));
        }
    }
    if query.sort_order == SortOrder::Descend {
        kvs.reverse();
    }
    Ok(())
}

/// A whole range: pins the visible revision (or the one asked for) and reads in slices of [`RANGE_SLICE_KEYS`].
/// Values that are not in memory come as [`Value::At`]: hold a [`Store::pin`] from before the call until they are read.
pub fn range(store: &Store, query: &RangeQuery) -> Result<RangeReply, KeysError> {
    let mut resume = RangeResume::default();
    let _pin = store.pin();
    let mut tables = store.read();
    let current = current_revision(&tables);
    let at = resolve_revision(&tables, query.revision)?;
    while range_slice(&tables, query, at, &mut resume, RANGE_SLICE_KEYS)? == Progress::More {
        drop(tables);
        tables = store.read();
    }
    drop(tables);
    finish_range(query, resume, current, &mut |value| load_value(store, value))
}

/// A value wherever it lies. Reads the disk where it must: never with the store's lock held.
pub fn load_value(store: &Store, value: &Value) -> Result<Bytes, KeysError> {
    match value {
        Value::Here(bytes) => Ok(bytes.clone()),
        Value::Absent => Ok(Bytes::new()),
        Value::At(location) => {
            let unreadable = |reason: String| KeysError::Unreadable { reason };
            let body = store.load(*location).map_err(|error| unreadable(error.to_string()))?;
            value_of_body(&body).map(|(_, value)| value).map_err(|error| unreadable(error.to_string()))
        }
    }
}
