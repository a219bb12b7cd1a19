//! What each command does to the tables.
//!
//! Invariants:
//!
//! - A successful change takes exactly one index; a refused one takes none and changes nothing but its counter.
//! - A change is whole with the slice that makes it: node, event and index move under one hold of the tables' lock. What
//!   later slices do is out of everyone's sight: they remove what was cut off and events beyond the window. The ends of
//!   several nodes in one command are several changes.
//! - Between commands nothing cut off is left, and history is within its window.

use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{ClusterTime, LogIndex, TreeIndex, WallTime};
use quorate_store::{BODY_BYTES_MAX, Tables};

use super::auth::{self, AuthChange, AuthRevision};
use super::change::{Change, Content, clean, trim, written};
use super::command::{Command, Conditions, HISTORY_EVENTS_MAX, ImportedNode, Write};
use super::history;
use super::import;
use super::nodes::{Found, find, find_directories, is_empty_dir, look_up, node_of, path_of, value_at};
use super::path::Path;
use super::reply::{Action, CompareFailure, Event, ImportFault, Reply, Statistics, TreeError, Value};
use super::rows::{DirId, Lifetime, NodeRow, State, statistics, write_statistics};
use crate::mutants::planted;
use crate::tables::{TREE, TREE_DEADLINES};
use crate::varint::{Reader, put_varint};
use crate::{Cursor, SLICE_RECORDS_MAX, Stamps, Step};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The tree model. Holds caches only: [`Tree::open`] rebuilds them.
pub struct Tree {
    state: State,
    statistics: Statistics,
    next_deadline: Option<ClusterTime>,
    scratch: Vec<u8>,
    events: Vec<Arc<Event>>,
    /// The event of the command that is under way, for its answer.
    running: Option<(LogIndex, Arc<Event>)>,
    slice_records: usize,
}

/// Why a command did not change anything (yet).
enum Blocked {
    Need(quorate_store::Location),
    Refused(TreeError),
}

impl From<TreeError> for Blocked {
    fn from(error: TreeError) -> Self {
        Self::Refused(error)
    }
}

/// Where a command in slices stands: what [`Cursor::state`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// A change has taken this index; what it cut off is being removed.
    Changed(u64),
    /// So many nodes have expired.
    Expired(u64),
    /// The window is set; events beyond it are being forgotten.
    Window,
    /// An import ends; what kept its values apart is being forgotten.
    Importing,
}

const POSITION_VERSION: u8 = 1;

impl Position {
    fn write(self, cursor: &mut Cursor) {
        let out = &mut cursor.state;
        out.clear();
        let (kind, number) = match self {
            Self::Changed(index) => (1, index),
            Self::Expired(nodes) => (2, nodes),
            Self::Window => (3, 0),
            Self::Importing => (4, 0),
        };
        out.extend_from_slice(&[POSITION_VERSION, kind]);
        put_varint(out, number);
    }

    fn read(state: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: state };
        let (version, kind, number) = (reader.byte()?, reader.byte()?, reader.varint()?);
        match (version, kind) {
            (POSITION_VERSION, 1) => Some(Self::Changed(number)),
            (POSITION_VERSION, 2) => Some(Self::Expired(number)),
            (POSITION_VERSION, 3) => Some(Self::Window),
            (POSITION_VERSION, 4) => Some(Self::Importing),
            _ => None,
        }
    }
}

/// A command's counters: those of its success and of its failure.
fn counters<'a>(command: &Command, counts: &'a mut Statistics) -> Option<(&'a mut u64, &'a mut u64)> {
    Some(match command {
        Command::Set(_) => (&mut counts.set_success, &mut counts.set_fail),
        Command::Create(_) | Command::CreateInOrder { .. } => {
            (&mut counts.create_success, &mut counts.create_fail)
        }
        Command::Update(_) => (&mut counts.update_success, &mut counts.update_fail),
        Command::CompareAndSwap { .. } => {
            (&mut counts.compare_and_swap_success, &mut counts.compare_and_swap_fail)
        }
        Command::Delete { .. } => (&mut counts.delete_success, &mut counts.delete_fail),
        Command::CompareAndDelete { .. } => {
            (&mut counts.compare_and_delete_success, &mut counts.compare_and_delete_fail)
        }
        Command::Authorised { command, .. } => return counters(command, counts),
        Command::Expire { .. }
        | Command::Begin { .. }
        | Command::SetHistoryWindow { .. }
        | Command::Import { .. }
        | Command::EndImport { .. }
        | Command::ChangeAuth { .. } => return None,
    })
}

impl Tree {
    /// The model over these tables, whatever they hold.
    #[must_use]
    pub fn open(tables: &Tables) -> Self {
        let state = State::read(tables);
        Self {
            state,
            statistics: statistics(tables),
            next_deadline: next_deadline(tables, &state),
            scratch: Vec::new(),
            events: Vec::new(),
            running: None,
            slice_records: SLICE_RECORDS_MAX,
        }
    }

    /// Sets how many records one slice touches. It changes nothing but the pace.
    pub fn slice_records(&mut self, records: usize) {
        assert!(records > 0, "a slice that touches nothing would never end");
        self.slice_records = records;
    }

    /// The index of the last change.
    #[must_use]
    pub fn index(&self) -> TreeIndex {
        TreeIndex(self.state.index)
    }

    /// When the first node expires, in cluster time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<ClusterTime> {
        self.next_deadline
    }

    /// The events made since the last call, in order: for the feed. Take them after each command.
    pub fn take_events(&mut self) -> Vec<Arc<Event>> {
        std::mem::take(&mut self.events)
    }

    /// Applies a command, or a slice of it. The caller has called [`Tables::begin`] once for the command.
    pub fn apply(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        stamps: &Stamps,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        let position = (!cursor.state.is_empty())
            .then(|| Position::read(&cursor.state).expect("the cursor was written by this model"));
        let mut budget = self.slice_records;
        if position.is_none()
            && let Command::Authorised { authority, .. } = command
            && let Some(refusal) = self.outdated(tables, authority.revision)
        {
            return Step::Done(refusal);
        }
        let step = match (command.bare(), position) {
            (_, Some(Position::Changed(index))) => {
                let event = self.event_under_way(tables, stamps.index, index);
                self.end(tables, event, budget, cursor)
            }
            (Command::Expire { term, nodes_max }, position) => {
                let expired = if let Some(Position::Expired(nodes)) = position { nodes } else { 0 };
                let is_due = *term == stamps.term && self.state.importing.is_none();
                let nodes_max = if is_due { u64::from(*nodes_max) } else { 0 };
                self.expire(tables, stamps, nodes_max, expired, cursor)
            }
            (Command::SetHistoryWindow { events }, position) => {
                self.set_window(tables, *events, position.is_some(), &mut budget, cursor)
            }
            (Command::Begin { index }, _) => Step::Done(self.begin(tables, *index)),
            (Command::Import { nodes }, _) => Step::Done(self.import(tables, nodes, stamps)),
            (Command::EndImport { index }, _) => self.end_import(tables, *index, &mut budget, cursor),
            (Command::ChangeAuth { at, change }, _) => Step::Done(self.change_auth(tables, *at, change)),
            (command, _) => match self.change(tables, command, stamps, cursor) {
                Ok(event) => {
                    self.count(tables, command, true);
                    self.running = Some((stamps.index, event.clone()));
                    self.end(tables, event, budget, cursor)
                }
                Err(Blocked::Need(at)) => return Step::Need(vec![at]),
                Err(Blocked::Refused(error)) => {
                    self.count(tables, command, false);
                    Step::Done(Reply::Refused { index: self.index(), error })
                }
            },
        };
        if matches!(step, Step::Done(_)) {
            self.running = None;
        }
        self.next_deadline = next_deadline(tables, &self.state);
        step
    }

    fn count(&mut self, tables: &mut Tables, command: &Command, success: bool) {
        if let Some((successes, failures)) = counters(command, &mut self.statistics) {
            *if success { successes } else { failures } += 1;
            write_statistics(tables, &mut self.statistics, &mut self.scratch);
        }
    }

    /// The event of a delete that goes on. After a restart between slices it comes from history.
    fn event_under_way(&self, tables: &Tables, log_index: LogIndex, index: u64) -> Arc<Event> {
        match &self.running {
            Some((running, event)) if *running == log_index => event.clone(),
            _ => Arc::new(
                history::event(tables, TreeIndex(index)).expect("history keeps the newest event at least"),
            ),
        }
    }

    /// What a change leaves to be done, as far as the budget goes.
    fn end(
        &mut self,
        tables: &mut Tables,
        event: Arc<Event>,
        mut budget: usize,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        let done = self.tidy(tables, &mut budget);
        if done {
            return Step::Done(Reply::Changed(event));
        }
        Position::Changed(event.index.0).write(cursor);
        Step::More
    }

    /// Removes what was cut off and forgets events beyond the window; whether all is done.
    fn tidy(&mut self, tables: &mut Tables, budget: &mut usize) -> bool {
        let done = clean(tables, &mut self.scratch, budget) && trim(tables, &mut self.state, budget);
        self.state.write(tables, &mut self.scratch);
        done
    }

    fn change(
        &mut self,
        tables: &mut Tables,
        command: &Command,
        stamps: &Stamps,
        cursor: &Cursor,
    ) -> Result<Arc<Event>, Blocked> {
        if self.state.importing.is_some() {
            return Err(TreeError::Importing.into());
        }
        match command {
            Command::Set(write) => self.write(tables, Action::Set, write, None, stamps, cursor),
            Command::Create(write) => self.write(tables, Action::Create, write, None, stamps, cursor),
            Command::CreateInOrder { write, style } => {
                let name = style.name(self.index().next());
                let path = write.path.child(name.as_bytes()).map_err(TreeError::Path)?;
                let write = Write { path, ..write.clone() };
                self.write(tables, Action::Create, &write, None, stamps, cursor)
            }
            Command::Update(write) => self.write(tables, Action::Update, write, None, stamps, cursor),
            Command::CompareAndSwap { write, conditions } => {
                self.write(tables, Action::CompareAndSwap, write, Some(conditions), stamps, cursor)
            }
            Command::Delete { path, dir, recursive } => {
                self.delete(tables, path, *dir || *recursive, *recursive, stamps)
            }
            Command::CompareAndDelete { path, conditions } => {
                self.compare_and_delete(tables, path, conditions, stamps, cursor)
            }
            Command::Expire { .. }
            | Command::Begin { .. }
            | Command::SetHistoryWindow { .. }
            | Command::Import { .. }
            | Command::EndImport { .. }
            | Command::Authorised { .. }
            | Command::ChangeAuth { .. } => unreachable!("these commands have a way of their own"),
        }
    }

    fn change_of<'a>(&'a mut self, tables: &'a mut Tables, wall_time: WallTime) -> Change<'a> {
        Change { tables, state: &mut self.state, scratch: &mut self.scratch, wall_time }
    }

    /// Set, create, update, compare-and-swap: checks, then changes.
    fn write(
        &mut self,
        tables: &mut Tables,
        action: Action,
        write: &Write,
        conditions: Option<&Conditions>,
        stamps: &Stamps,
        cursor: &Cursor,
    ) -> Result<Arc<Event>, Blocked> {
        let Some(parent) = write.path.parent() else { return Err(TreeError::RootReadOnly.into()) };
        if write.value.len() > BODY_BYTES_MAX {
            return Err(TreeError::ValueTooLong { len: write.value.len(), max: BODY_BYTES_MAX }.into());
        }
        let lifetime = lifetime_of(write.ttl_seconds, stamps)?;
        let makes = matches!(action, Action::Set | Action::Create);
        let directories = find_directories(tables, &parent)?;
        let has_parent = directories.1 == parent.depth();
        let old = if has_parent { look_up(tables, directories.0, write.path.name()) } else { None };
        let path = || write.path.clone();
        match &old {
            None if !makes || write.refresh => {
                return Err(find(tables, &write.path).expect_err("it was not there a moment ago").into());
            }
            Some(_) if action == Action::Create => return Err(TreeError::Exists { path: path() }.into()),
            // All that a directory takes is another TTL.
            Some(old) if old.row.dir.is_some() && (action != Action::Update || !write.value.is_empty()) => {
                return Err(TreeError::NotFile { path: path() }.into());
            }
            _ => {}
        }
        if let (Some(old), Some(conditions)) = (&old, conditions) {
            compare(tables, old, conditions, cursor)?;
        }
        let value = match &old {
            Some(old) if write.refresh && old.row.dir.is_none() => current_value(tables, old, cursor)?,
            _ => write.value.clone(),
        };
        let previous = old.as_ref().map(|old| old.node(tables, write.path.clone()));
        let mut change = self.change_of(tables, stamps.wall_time);
        let index = change.index();
        let updates = matches!(action, Action::Update | Action::CompareAndSwap);
        let created = old.as_ref().filter(|_| updates).map(|old| old.row.created);
        let node = match &old {
            Some(old) if old.row.dir.is_some() => {
                change.set_lifetime(old, lifetime);
                written(path(), Value::Absent, old.row.created, index, lifetime)
            }
            _ => {
                let dir = change.make_directories(&parent, directories);
                let content = if write.dir && makes { Content::Dir } else { Content::File(&value) };
                let shown = if write.dir && makes { Value::Absent } else { Value::Here(value.clone()) };
                change.write_node(dir, write.path.name(), &content, lifetime, old.as_ref(), created);
                written(path(), shown, created.unwrap_or(index), index, lifetime)
            }
        };
        let event = change.record(action, write.refresh, node, previous);
        self.publish(&event);
        Ok(event)
    }

    fn publish(&mut self, event: &Arc<Event>) {
        if planted!(DropTreeEvent) && event.index.0.is_multiple_of(64) {
            return self.events.push(Arc::new(Event { refresh: true, ..Event::clone(event) }));
        }
        self.events.push(event.clone());
    }

    fn delete(
        &mut self,
        tables: &mut Tables,
        path: &Path,
        dir: bool,
        recursive: bool,
        stamps: &Stamps,
    ) -> Result<Arc<Event>, Blocked> {
        if path.is_root() {
            return Err(TreeError::RootReadOnly.into());
        }
        let found = find(tables, path)?;
        if let Some(number) = found.row.dir {
            if !dir {
                return Err(TreeError::NotFile { path: path.clone() }.into());
            }
            if !recursive && !is_empty_dir(tables, number) {
                return Err(TreeError::NotEmpty { path: path.clone() }.into());
            }
        }
        Ok(self.remove(tables, Action::Delete, path, &found, stamps))
    }

    fn compare_and_delete(
        &mut self,
        tables: &mut Tables,
        path: &Path,
        conditions: &Conditions,
        stamps: &Stamps,
        cursor: &Cursor,
    ) -> Result<Arc<Event>, Blocked> {
        if path.is_root() {
            return Err(TreeError::RootReadOnly.into());
        }
        let found = find(tables, path)?;
        if found.row.dir.is_some() {
            return Err(TreeError::NotFile { path: path.clone() }.into());
        }
        compare(tables, &found, conditions, cursor)?;
        Ok(self.remove(tables, Action::CompareAndDelete, path, &found, stamps))
    }

    fn remove(
        &mut self,
        tables: &mut Tables,
        action: Action,
        path: &Path,
        found: &Found,
        stamps: &Stamps,
    ) -> Arc<Event> {
        let previous = found.node(tables, path.clone());
        let mut change = self.change_of(tables, stamps.wall_time);
        let gone = NodeRow { modified: change.index(), lifetime: None, ..found.row };
        change.cut_off(path.name(), found);
        let node = node_of(path.clone(), &gone, Value::Absent);
        let event = change.record(action, false, node, Some(previous));
        self.publish(&event);
        event
    }

    // ---- what only the house asks for ----

    fn expire(
        &mut self,
        tables: &mut Tables,
        stamps: &Stamps,
        nodes_max: u64,
        mut expired: u64,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        let mut budget = self.slice_records;
        loop {
            // What a directory that expired had in it must be gone before the next is looked for: its own ends are void.
            if !self.tidy(tables, &mut budget) || budget == 0 {
                Position::Expired(expired).write(cursor);
                return Step::More;
            }
            let due = first_deadline(tables).filter(|(deadline, _)| is_due(*deadline, stamps.cluster_time));
            let Some((_, key)) = due.filter(|_| expired < nodes_max) else {
                return Step::Done(Reply::Expired { index: self.index(), nodes: expired });
            };
            let entry = tables.get(TREE, &key).expect("a deadline belongs to a node");
            let (row, body) = (NodeRow::read(entry.row), entry.body);
            let path = path_of(tables, DirId::of_key(&key)).child_known(&key[8..]);
            self.remove(tables, Action::Expire, &path, &Found { key, row, body }, stamps);
            self.statistics.expire_count += 1;
            write_statistics(tables, &mut self.statistics, &mut self.scratch);
            expired += 1;
            budget -= 1;
        }
    }

    fn begin(&mut self, tables: &mut Tables, index: TreeIndex) -> Reply {
        if self.state.index == 0 && self.state.importing.is_none() {
            self.state.index = index.0;
            self.state.first = (index.0 + 1).saturating_sub(self.state.window).max(1);
            self.state.write(tables, &mut self.scratch);
        }
        Reply::Began { index: self.index() }
    }

    fn refused(&self, fault: ImportFault) -> Reply {
        Reply::Refused { index: self.index(), error: fault.into() }
    }

    fn import(&mut self, tables: &mut Tables, nodes: &[ImportedNode], stamps: &Stamps) -> Reply {
        if self.state.index != 0 {
            return self.refused(ImportFault::Changed);
        }
        if let Err(fault) = import::check(tables, nodes) {
            return self.refused(fault);
        }
        self.state.importing = self.state.importing.max(Some(0));
        let mut change = self.change_of(tables, stamps.wall_time);
        nodes.iter().for_each(|node| change.import(node, stamps));
        self.state.write(tables, &mut self.scratch);
        Reply::Imported { index: self.index() }
    }

    fn end_import(
        &mut self,
        tables: &mut Tables,
        index: TreeIndex,
        budget: &mut usize,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        if self.state.index != 0 {
            return Step::Done(self.refused(ImportFault::Changed));
        }
        let modified = TreeIndex(self.state.importing.unwrap_or(0));
        if modified > index {
            return Step::Done(self.refused(ImportFault::EndsBefore { index, modified }));
        }
        if !import::forget_values(tables, budget) {
            Position::Importing.write(cursor);
            return Step::More;
        }
        self.state = State { index: index.0, first: index.0 + 1, importing: None, ..self.state };
        self.state.write(tables, &mut self.scratch);
        Step::Done(Reply::Imported { index })
    }

    /// Why a command that was allowed at `revision` is not carried out.
    fn outdated(&self, tables: &Tables, revision: AuthRevision) -> Option<Reply> {
        let current = auth::auth_state(tables).revision;
        let outdated = current != revision && !planted!(SkipAuthRevision);
        outdated.then(|| Reply::Outdated { index: self.index(), revision: current })
    }

    fn change_auth(&self, tables: &mut Tables, at: AuthRevision, change: &AuthChange) -> Reply {
        if let Some(refusal) = self.outdated(tables, at) {
            return refusal;
        }
        let index = self.index();
        match auth::apply(tables, change) {
            Some(state) => Reply::AuthChanged { index, revision: state.revision },
            None => {
                let error = TreeError::TooManyAuthRecords { max: auth::AUTH_RECORDS_MAX };
                Reply::Refused { index, error }
            }
        }
    }

    fn set_window(
        &mut self,
        tables: &mut Tables,
        events: u64,
        goes_on: bool,
        budget: &mut usize,
        cursor: &mut Cursor,
    ) -> Step<Reply> {
        if !(1..=HISTORY_EVENTS_MAX).contains(&events) {
            let error = TreeError::HistoryWindow { events, max: HISTORY_EVENTS_MAX };
            return Step::Done(Reply::Refused { index: self.index(), error });
        }
        if !goes_on {
            self.state.window = events;
        }
        if self.tidy(tables, budget) {
            return Step::Done(Reply::HistoryWindow { index: self.index(), events });
        }
        Position::Window.write(cursor);
        Step::More
    }
}

/// When the first node expires; none does while an import goes on.
fn next_deadline(tables: &Tables, state: &State) -> Option<ClusterTime> {
    let first = state.importing.is_none().then(|| first_deadline(tables)).flatten();
    first.map(|(deadline, _)| deadline)
}

/// The first node to expire: when, and its key in TREE.
fn first_deadline(tables: &Tables) -> Option<(ClusterTime, Vec<u8>)> {
    let mut first = None;
    tables.scan(TREE_DEADLINES, &[], None, &mut |key, _| {
        let (deadline, node) = key.split_at(8);
        let deadline = u64::from_be_bytes(deadline.try_into().expect("a deadline has 8 bytes"));
        first = Some((ClusterTime(deadline), node.to_vec()));
        std::ops::ControlFlow::Break(())
    });
    first
}

fn is_due(deadline: ClusterTime, time: ClusterTime) -> bool {
    let grace = if planted!(ExpireTreeEarly) { NANOS_PER_SECOND } else { 0 };
    deadline.0 <= time.0.saturating_add(grace)
}

fn lifetime_of(ttl_seconds: Option<u64>, stamps: &Stamps) -> Result<Option<Lifetime>, Blocked> {
    let Some(seconds) = ttl_seconds else { return Ok(None) };
    let nanos = seconds.checked_mul(NANOS_PER_SECOND);
    let ends = nanos.and_then(|nanos| {
        let deadline = ClusterTime(stamps.cluster_time.0.checked_add(nanos)?);
        Some(Lifetime { deadline, expiration: WallTime(stamps.wall_time.0.checked_add(nanos)?) })
    });
    ends.map(Some).ok_or(Blocked::Refused(TreeError::TtlTooLong { seconds }))
}

/// A file's value, which must be in memory or loaded.
fn current_value(tables: &Tables, file: &Found, cursor: &Cursor) -> Result<Bytes, Blocked> {
    match value_at(tables, file.body) {
        Value::Here(value) => Ok(value),
        Value::At(at) => cursor.loaded.get(&at).cloned().ok_or(Blocked::Need(at)),
        Value::Absent => unreachable!("a file has a value"),
    }
}

fn compare(tables: &Tables, file: &Found, conditions: &Conditions, cursor: &Cursor) -> Result<(), Blocked> {
    let mut failure = CompareFailure::default();
    if let Some(given) = &conditions.value {
        let actual = current_value(tables, file, cursor)?;
        if actual != *given && !planted!(SwapWithoutCompare) {
            failure.value = Some((given.clone(), actual));
        }
    }
    if let Some(given) = conditions.index.filter(|given| given.0 != file.row.modified) {
        failure.index = Some((given, TreeIndex(file.row.modified)));
    }
    if failure == CompareFailure::default() {
        return Ok(());
    }
    Err(TreeError::CompareFailed(failure).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_from_the_cursor() {
        for position in
            [Position::Changed(1 << 40), Position::Expired(7), Position::Window, Position::Importing]
        {
            let mut cursor = Cursor::default();
            position.write(&mut cursor);
            assert_eq!(Position::read(&cursor.state), Some(position));
        }
        assert_eq!(Position::read(&[1, 9, 0]), None);
        assert_eq!(Position::read(&[2, 1, 0]), None);
    }
}
