//! Past changes in order, for watchers that fell behind what memory holds.
//!
//! Invariants: from the compacted revision on, every change comes exactly once and in order. What was there before a
//! change comes with it unless compaction covers it; how far a member has forgotten never shows.

use std::ops::ControlFlow;

use quorate_ids::Revision;
use quorate_store::Tables;

use super::query::{check_compacted, value_at};
use super::reply::{Event, EventKind, KeyMeta, KeyValue, KeysError, Value};
use super::rows::{HistoryRow, Rev, compacted_revision, current_revision, history_key};
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
