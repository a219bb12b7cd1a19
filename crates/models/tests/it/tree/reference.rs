//! A second, plain implementation of the tree model: one map from paths to nodes. The models' tests and the simulator
//! compare the real one with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{TreeIndex, WallTime};
use quorate_models::Stamps;
use quorate_models::tree::{
    Action, AuthChange, AuthRevision, Command, CompareFailure, Conditions, Event, HISTORY_EVENTS_DEFAULT,
    HISTORY_EVENTS_MAX, ImportFault, ImportedNode, NameStyle, Node, Path, Reply, Role, Statistics, TreeError,
    User, Value, Write,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
struct Known {
    dir: bool,
    value: Bytes,
    created: u64,
    modified: u64,
    /// When it ends, in cluster time and as it is shown.
    ends: Option<(u64, u64)>,
    /// Directories are numbered as they are made: nodes that end at the same time do so in that order.
    number: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Reference {
    nodes: BTreeMap<Path, Known>,
    index: u64,
    first: u64,
    window: u64,
    made: u64,
    /// The last index of a node that was imported, while an import goes on.
    importing: Option<u64>,
    /// Every event that ever was.
    pub events: BTreeMap<u64, Event>,
    pub statistics: Statistics,
    pub auth: Auth,
}

/// Users and roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    pub revision: u64,
    pub enabled: bool,
    pub users: BTreeMap<String, User>,
    pub roles: BTreeMap<String, Role>,
}

impl Auth {
    fn apply(&mut self, change: &AuthChange) {
        self.revision += 1;
        match change.clone() {
            AuthChange::PutUser(user) => drop(self.users.insert(user.name.clone(), user)),
            AuthChange::RemoveUser(name) => drop(self.users.remove(&name)),
            AuthChange::PutRole(role) => drop(self.roles.insert(role.name.clone(), role)),
            AuthChange::RemoveRole(name) => drop(self.roles.remove(&name)),
            AuthChange::Enable { role } => {
                self.enabled = true;
                if let Some(role) = role {
                    self.roles.entry(role.name.clone()).or_insert(role);
                }
            }
            AuthChange::Disable => self.enabled = false,
        }
    }
}

impl Default for Reference {
    fn default() -> Self {
        let root = Known { dir: true, value: Bytes::new(), created: 0, modified: 0, ends: None, number: 0 };
        Self {
            nodes: BTreeMap::from([(Path::root(), root)]),
            index: 0,
            first: 1,
            window: HISTORY_EVENTS_DEFAULT,
            made: 0,
            importing: None,
            events: BTreeMap::new(),
            statistics: Statistics::default(),
            auth: Auth::default(),
        }
    }
}

fn shown(path: &Path, known: &Known) -> Node {
    Node {
        path: path.clone(),
        dir: known.dir,
        value: if known.dir { Value::Absent } else { Value::Here(known.value.clone()) },
        created: TreeIndex(known.created),
        modified: TreeIndex(known.modified),
        expiration: known.ends.map(|(_, shown)| WallTime(shown)),
    }
}

impl Reference {
    pub fn index(&self) -> TreeIndex {
        TreeIndex(self.index)
    }

    pub fn history_start(&self) -> TreeIndex {
        TreeIndex(self.first)
    }

    /// When the next node ends, in cluster time.
    #[allow(dead_code, reason = "the simulator asks")]
    pub fn next_deadline(&self) -> Option<u64> {
        let ends = self.nodes.values().filter_map(|known| known.ends).map(|(deadline, _)| deadline);
        if self.importing.is_some() { None } else { ends.min() }
    }

    fn find(&self, path: &Path) -> Result<&Known, TreeError> {
        let depth = path.depth();
        for parts in 1..=depth {
            let at = path.prefix(parts);
            match self.nodes.get(&at) {
                None => return Err(TreeError::NotFound { path: at }),
                Some(known) if parts < depth && !known.dir => {
                    return Err(TreeError::NotDirectory { path: at });
                }
                Some(_) => {}
            }
        }
        Ok(&self.nodes[path])
    }

    /// The node and, of a directory, what is in it and not hidden.
    pub fn get(&self, path: &Path, recursive: bool) -> Result<(Node, Vec<Node>), TreeError> {
        if self.importing.is_some() && !path.is_root() {
            return Err(TreeError::NotFound { path: path.prefix(1) });
        }
        let node = shown(path, self.find(path)?);
        if self.importing.is_some() {
            return Ok((node, Vec::new()));
        }
        let depth = path.depth();
        let below = self.nodes.iter().filter(|(at, _)| {
            at.is_below(path) && !at.is_hidden_from(path) && (recursive || at.depth() == depth + 1)
        });
        Ok((node, below.map(|(at, known)| shown(at, known)).collect()))
    }

    pub fn apply(&mut self, command: &Command, stamps: &Stamps) -> Reply {
        let named = match command {
            Command::Authorised { authority, .. } => Some(authority.revision),
            Command::ChangeAuth { at, .. } => Some(*at),
            _ => None,
        };
        let revision = AuthRevision(self.auth.revision);
        if named.is_some_and(|named| named != revision) {
            return Reply::Outdated { index: self.index(), revision };
        }
        let command = command.bare();
        let changes = !matches!(
            command,
            Command::Expire { .. }
                | Command::Begin { .. }
                | Command::SetHistoryWindow { .. }
                | Command::Import { .. }
                | Command::EndImport { .. }
                | Command::ChangeAuth { .. }
        );
        if changes && self.importing.is_some() {
            self.count(command, false);
            return Reply::Refused { index: self.index(), error: TreeError::Importing };
        }
        let outcome = match command {
            Command::Set(write) => self.write(Action::Set, write, None, stamps),
            Command::Create(write) => self.write(Action::Create, write, None, stamps),
            Command::CreateInOrder { write, style } => {
                let name = match style {
                    NameStyle::Plain => format!("{}", self.index + 1),
                    NameStyle::Padded => format!("{:020}", self.index + 1),
                };
                match write.path.child(name.as_bytes()) {
                    Ok(path) => self.write(Action::Create, &Write { path, ..write.clone() }, None, stamps),
                    Err(error) => Err(error.into()),
                }
            }
            Command::Update(write) => self.write(Action::Update, write, None, stamps),
            Command::CompareAndSwap { write, conditions } => {
                self.write(Action::CompareAndSwap, write, Some(conditions), stamps)
            }
            Command::Delete { path, dir, recursive } => self.delete(path, *dir, *recursive, stamps),
            Command::CompareAndDelete { path, conditions } => {
                self.compare_and_delete(path, conditions, stamps)
            }
            Command::Expire { term, nodes_max } => {
                let is_due = *term == stamps.term && self.importing.is_none();
                return self.expire(if is_due { *nodes_max } else { 0 }, stamps);
            }
            Command::Begin { index } => {
                if self.index == 0 && self.importing.is_none() {
                    self.index = index.0;
                    self.first = (index.0 + 1).saturating_sub(self.window).max(1);
                }
                return Reply::Began { index: self.index() };
            }
            Command::SetHistoryWindow { events } => {
                if *events == 0 || *events > HISTORY_EVENTS_MAX {
                    let error = TreeError::HistoryWindow { events: *events, max: HISTORY_EVENTS_MAX };
                    return Reply::Refused { index: self.index(), error };
                }
                self.window = *events;
                self.forget();
                return Reply::HistoryWindow { index: self.index(), events: *events };
            }
            Command::Import { nodes } => {
                let imported = self.import(nodes, stamps);
                return self.imported(imported);
            }
            Command::EndImport { index } => {
                let ended = self.end_import(*index);
                return self.imported(ended);
            }
            Command::ChangeAuth { change, .. } => {
                self.auth.apply(change);
                return Reply::AuthChanged {
                    index: self.index(),
                    revision: AuthRevision(self.auth.revision),
                };
            }
            Command::Authorised { .. } => unreachable!("a command on somebody's behalf is no other such"),
        };
        self.count(command, outcome.is_ok());
        match outcome {
            Ok(event) => Reply::Changed(Arc::new(event)),
            Err(error) => Reply::Refused { index: self.index(), error },
        }
    }

    fn imported(&self, outcome: Result<(), ImportFault>) -> Reply {
        match outcome {
            Ok(()) => Reply::Imported { index: self.index() },
            Err(fault) => Reply::Refused { index: self.index(), error: fault.into() },
        }
    }

    fn import(&mut self, nodes: &[ImportedNode], stamps: &Stamps) -> Result<(), ImportFault> {
        if self.index != 0 {
            return Err(ImportFault::Changed);
        }
        let mut after = self.clone();
        for node in nodes {
            let path = node.path.clone();
            let (created, modified) = (node.created, node.modified);
            if after.nodes.contains_key(&path) {
                return Err(ImportFault::Exists { path });
            }
            if !path.parent().and_then(|parent| after.nodes.get(&parent)).is_some_and(|parent| parent.dir) {
                return Err(ImportFault::NoDirectory { path });
            }
            if created > modified {
                return Err(ImportFault::Indexes { path, created, modified });
            }
            let value = node.value.clone().unwrap_or_default();
            let taken = |known: &Known| known.modified == modified.0 && !known.value.is_empty();
            if !value.is_empty() && after.nodes.values().any(taken) {
                return Err(ImportFault::IndexTaken { path, index: modified });
            }
            let dir = node.value.is_none();
            after.made += u64::from(dir);
            let ends = node.expiration.map(|shown| {
                let left = shown.0.saturating_sub(stamps.wall_time.0);
                (stamps.cluster_time.0.saturating_add(left), shown.0)
            });
            let number = if dir { after.made } else { 0 };
            let known = Known { dir, value, created: created.0, modified: modified.0, ends, number };
            after.nodes.insert(path, known);
            after.importing = after.importing.max(Some(modified.0));
        }
        after.importing = after.importing.max(Some(0));
        *self = after;
        Ok(())
    }

    fn end_import(&mut self, index: TreeIndex) -> Result<(), ImportFault> {
        if self.index != 0 {
            return Err(ImportFault::Changed);
        }
        let modified = TreeIndex(self.importing.unwrap_or(0));
        if modified > index {
            return Err(ImportFault::EndsBefore { index, modified });
        }
        self.importing = None;
        self.index = index.0;
        self.first = index.0 + 1;
        Ok(())
    }

    fn count(&mut self, command: &Command, success: bool) {
        let counts = &mut self.statistics;
        let (good, bad) = match command {
            Command::Set(_) => (&mut counts.set_success, &mut counts.set_fail),
            Command::Create(_) | Command::CreateInOrder { .. } => {
                (&mut counts.create_success, &mut counts.create_fail)
            }
            Command::Update(_) => (&mut counts.update_success, &mut counts.update_fail),
            Command::CompareAndSwap { .. } => {
                (&mut counts.compare_and_swap_success, &mut counts.compare_and_swap_fail)
            }
            Command::Delete { .. } => (&mut counts.delete_success, &mut counts.delete_fail),
            _ => (&mut counts.compare_and_delete_success, &mut counts.compare_and_delete_fail),
        };
        *if success { good } else { bad } += 1;
    }

    fn forget(&mut self) {
        self.first = self.first.max((self.index + 1).saturating_sub(self.window));
    }

    fn record(
        &mut self,
        action: Action,
        refresh: bool,
        node: Node,
        previous: Option<Node>,
        stamps: &Stamps,
    ) -> Event {
        self.index += 1;
        let node = Node { modified: self.index(), ..node };
        let event =
            Event { action, index: self.index(), node, previous, wall_time: stamps.wall_time, refresh };
        self.events.insert(self.index, event.clone());
        self.forget();
        event
    }

    fn make_dir(&mut self, path: &Path, ends: Option<(u64, u64)>) {
        self.made += 1;
        let index = self.index + 1;
        let known = Known {
            dir: true,
            value: Bytes::new(),
            created: index,
            modified: index,
            ends,
            number: self.made,
        };
        self.nodes.insert(path.clone(), known);
    }

    fn write(
        &mut self,
        action: Action,
        write: &Write,
        conditions: Option<&Conditions>,
        stamps: &Stamps,
    ) -> Result<Event, TreeError> {
        let path = &write.path;
        if path.is_root() {
            return Err(TreeError::RootReadOnly);
        }
        let ends = match write.ttl_seconds {
            None => None,
            Some(seconds) => {
                let ends = seconds.checked_mul(NANOS_PER_SECOND).and_then(|nanos| {
                    Some((stamps.cluster_time.0.checked_add(nanos)?, stamps.wall_time.0.checked_add(nanos)?))
                });
                Some(ends.ok_or(TreeError::TtlTooLong { seconds })?)
            }
        };
        let makes = action == Action::Set || action == Action::Create;
        let old = match self.find(path) {
            Ok(old) => Some(old.clone()),
            Err(TreeError::NotFound { .. }) if makes && !write.refresh => None,
            Err(error) => return Err(error),
        };
        if let Some(old) = &old {
            if action == Action::Create {
                return Err(TreeError::Exists { path: path.clone() });
            }
            if old.dir && (action != Action::Update || !write.value.is_empty()) {
                return Err(TreeError::NotFile { path: path.clone() });
            }
            if let Some(conditions) = conditions {
                check(conditions, old)?;
            }
        }
        let previous = old.as_ref().map(|old| shown(path, old));
        let index = self.index + 1;
        match &old {
            Some(old) if old.dir => {
                self.nodes.get_mut(path).expect("found").ends = ends;
            }
            _ => {
                for parts in 1..path.depth() {
                    let at = path.prefix(parts);
                    if !self.nodes.contains_key(&at) {
                        self.make_dir(&at, None);
                    }
                }
                if write.dir && makes {
                    self.make_dir(path, ends);
                } else {
                    let goes_on = old.as_ref().filter(|_| !makes);
                    let created = goes_on.map_or(index, |old| old.created);
                    let kept = old.as_ref().filter(|_| write.refresh).map(|old| old.value.clone());
                    let value = kept.unwrap_or_else(|| write.value.clone());
                    let known = Known { dir: false, value, created, modified: index, ends, number: 0 };
                    self.nodes.insert(path.clone(), known);
                }
            }
        }
        let node = shown(path, &self.nodes[path]);
        Ok(self.record(action, write.refresh, node, previous, stamps))
    }

    fn remove(&mut self, action: Action, path: &Path, stamps: &Stamps) -> Event {
        let old = self.nodes[path].clone();
        self.nodes.retain(|at, _| at != path && !at.is_below(path));
        let gone = Node { value: Value::Absent, expiration: None, ..shown(path, &old) };
        self.record(action, false, gone, Some(shown(path, &old)), stamps)
    }

    fn delete(
        &mut self,
        path: &Path,
        dir: bool,
        recursive: bool,
        stamps: &Stamps,
    ) -> Result<Event, TreeError> {
        if path.is_root() {
            return Err(TreeError::RootReadOnly);
        }
        if self.find(path)?.dir {
            if !dir && !recursive {
                return Err(TreeError::NotFile { path: path.clone() });
            }
            if !recursive && self.nodes.keys().any(|at| at.is_below(path)) {
                return Err(TreeError::NotEmpty { path: path.clone() });
            }
        }
        Ok(self.remove(Action::Delete, path, stamps))
    }

    fn compare_and_delete(
        &mut self,
        path: &Path,
        conditions: &Conditions,
        stamps: &Stamps,
    ) -> Result<Event, TreeError> {
        if path.is_root() {
            return Err(TreeError::RootReadOnly);
        }
        let old = self.find(path)?;
        if old.dir {
            return Err(TreeError::NotFile { path: path.clone() });
        }
        check(conditions, old)?;
        Ok(self.remove(Action::CompareAndDelete, path, stamps))
    }

    fn expire(&mut self, nodes_max: u32, stamps: &Stamps) -> Reply {
        let mut nodes = 0;
        while nodes < u64::from(nodes_max) {
            let ending = self.nodes.iter().filter_map(|(path, known)| {
                let parent = &self.nodes[&path.parent()?];
                let name = path.name().to_vec();
                Some((known.ends?.0, parent.number, name, path.clone()))
            });
            let Some((deadline, _, _, path)) = ending.min() else { break };
            if deadline > stamps.cluster_time.0 {
                break;
            }
            self.remove(Action::Expire, &path, stamps);
            self.statistics.expire_count += 1;
            nodes += 1;
        }
        Reply::Expired { index: self.index(), nodes }
    }
}

fn check(conditions: &Conditions, old: &Known) -> Result<(), TreeError> {
    let mut failure = CompareFailure::default();
    if let Some(given) = conditions.value.as_ref().filter(|given| **given != old.value) {
        failure.value = Some((given.clone(), old.value.clone()));
    }
    if let Some(given) = conditions.index.filter(|given| given.0 != old.modified) {
        failure.index = Some((given, TreeIndex(old.modified)));
    }
    if failure == CompareFailure::default() { Ok(()) } else { Err(TreeError::CompareFailed(failure)) }
}
