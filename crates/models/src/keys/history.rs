//! Past changes in order, for watchers that fell behind what memory holds.
//!
//! Invariants: from the compacted revision on, every change comes exactly once and in order. What was there before a
//! change comes with it unless compaction covers it; how far a member has forgotten never shows.

use std::ops::ControlFlow;

use quorate_ids::Revision;
use quorate_store::{BodyError, Store, Tables};

use super::command::RangeQuery;
use super::query::{check_compacted, load_value, range, value_at};
use super::reply::{Event, EventKind, KeyMeta, KeyValue, KeysError, Value};
use super::rows::{HistoryRow, Rev, compacted_revision, current_revision, history_key, value_of_body};
use super::watch::RevisionEvents;
use crate::tables::HISTORY;

/// Where a reader of history goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryResume {
    next: Rev,
}

impl HistoryResume {
    #[must_use]
    pub fn from(revision: Revision) -> Self {
        Self { next: Rev { main: revision.0, sub: 0 } }
    }

    /// The revision of the next change, of which some may have come already (see [`RevisionEvents::complete`]).
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.next.main)
    }
}

/// Up to `budget` changes from `resume` to the revision `to` (at most the current one), by revision. A revision comes
/// whole, unless it alone is larger than the budget: then it comes in parts, all but the last marked as not complete.
/// An empty answer: there is no more up to `to`.
pub fn history_slice(
    tables: &Tables,
    resume: &mut HistoryResume,
    to: Revision,
    budget: usize,
) -> Result<Vec<RevisionEvents>, KeysError> {
    assert!(budget > 0, "a slice without a budget would never end");
    check_compacted(tables, resume.revision())?;
    let compacted = compacted_revision(tables).0;
    // A command in progress has rows above the current revision; they are nobody's yet.
    let to = to.min(current_revision(tables));
    if to < resume.revision() {
        return Ok(Vec::new());
    }
    let end = Rev { main: to.0 + 1, sub: 0 };
    let mut revisions: Vec<(u64, Vec<Event>)> = Vec::new();
    let (mut visited, mut cut) = (0, None);
    tables.scan(HISTORY, &resume.next.key(), Some(&end.key()), &mut |key, entry| {
        let rev = Rev::of_key(key);
        if visited >= budget {
            cut = Some(rev);
            return ControlFlow::Break(());
        }
        visited += 1;
        let row = HistoryRow::read(rev, entry.row);
        let event = past_event(tables, rev, &row, entry.body, compacted);
        match revisions.last_mut() {
            Some((main, events)) if *main == rev.main => events.push(event),
            _ => revisions.push((rev.main, vec![event])),
        }
        ControlFlow::Continue(())
    });
    // The last revision may have been cut: it waits for the next slice, unless it is alone.
    let mut complete = true;
    resume.next = cut.unwrap_or(end);
    if let Some(cut) = cut
        && revisions.last().is_some_and(|(main, _)| *main == cut.main)
    {
        if revisions.len() > 1 {
            revisions.pop();
            resume.next = Rev { main: cut.main, sub: 0 };
        } else {
            complete = false;
        }
    }
    let revision_events = |(main, events)| RevisionEvents::part(Revision(main), events, complete);
    Ok(revisions.into_iter().map(revision_events).collect())
}

fn past_event(
    tables: &Tables,
    rev: Rev,
    row: &HistoryRow<'_>,
    body: Option<quorate_store::Location>,
    compacted: u64,
) -> Event {
    let key = history_key(tables, rev, row);
    let (meta, value) = match row.kind {
        EventKind::Put => (row.meta(rev), value_at(tables, body.expect("a version has a body"))),
        EventKind::Delete => {
            (KeyMeta { mod_revision: Revision(rev.main), ..KeyMeta::default() }, Value::Absent)
        }
    };
    // What a change of the compacted revision superseded may be gone already: so it is for everyone.
    let previous = row.previous.filter(|_| rev.main > compacted).and_then(|previous| {
        let entry = tables.get(HISTORY, &previous.key())?;
        let row = HistoryRow::read(previous, entry.row);
        let at = entry.body.filter(|_| row.kind == EventKind::Put)?;
        Some(KeyValue { key: key.clone(), meta: row.meta(previous), value: Value::At(at) })
    });
    Event { kind: row.kind, kv: KeyValue { key, meta, value }, previous }
}

/// The value that an event's [`Event::previous`] had, for a face that sends it. Reads the disk where it must: never
/// call it with the store's lock held. `None`: there was nothing before, or compaction has taken it since.
///
/// Events stay in memory longer than the files that their locations name: records move. Then the version is looked up
/// again, as of the revision before the event.
pub fn load_previous(store: &Store, event: &Event) -> Result<Option<KeyValue>, KeysError> {
    let Some(previous) = &event.previous else { return Ok(None) };
    let _pin = store.pin();
    let here = |value| Ok(Some(KeyValue { value: Value::Here(value), ..previous.clone() }));
    match &previous.value {
        Value::At(at) => match store.load(*at) {
            Err(BodyError::Gone { .. }) => {}
            Err(error) => return Err(KeysError::Unreadable { reason: error.to_string() }),
            Ok(body) => {
                let (_, value) = value_of_body(&body)
                    .map_err(|error| KeysError::Unreadable { reason: error.to_string() })?;
                return here(value);
            }
        },
        value => return here(load_value(store, value)?),
    }
    let before = Revision(event.kv.meta.mod_revision.0 - 1);
    let query = RangeQuery { revision: before, ..RangeQuery::point(previous.key.clone()) };
    match range(store, &query) {
        // None: it was superseded within its own revision, which no reader can ask for.
        Ok(reply) => match reply.kvs.into_iter().find(|kv| kv.meta == previous.meta) {
            Some(kv) => here(load_value(store, &kv.value)?),
            None => Ok(None),
        },
        Err(KeysError::Compacted { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
