//! The clients' part in the tree: what they ask, read and watch.

use quorate_ids::TreeIndex;
use quorate_member::core::LogInput;
use quorate_models::ModelId;
use quorate_models::tree::{
    self, Command, Event as TreeEvent, Found, Get, Node, Path, Reply, TreeError, Value, Watch,
};
use quorate_store::Store;

use super::World;
use super::clients::Pending;
use super::member::Input;
use crate::oracle::{Auth, Checked, Floor, TreeWatched, Violation, ensure};
use crate::workload::{TreeMix, TreeWish, TreeWishes};

/// Events that a watcher takes at a time.
const WATCH_EVENTS_MAX: usize = 20;

/// A client's own of the tree.
pub struct TreeClient {
    pub wishes: TreeWishes,
    pub asked: Option<Command>,
    watched: TreeWatched,
}

impl TreeClient {
    pub fn new(seed: u64, client: usize, mix: TreeMix) -> Self {
        let path = |text: &str| Path::clean(text.as_bytes()).expect("a short path");
        let watch = match client % 4 {
            0 => Watch { path: Path::root(), recursive: true },
            1 => Watch { path: path("/a"), recursive: true },
            2 => Watch { path: path("/a/b"), recursive: false },
            _ => Watch { path: path("/_h"), recursive: true },
        };
        let watched = TreeWatched { watch, next: TreeIndex(1) };
        Self { wishes: TreeWishes::new(seed, client, mix), asked: None, watched }
    }
}

impl World {
    pub(super) fn ask_tree(
        &mut self,
        client: usize,
        operation: u64,
        member: usize,
        wish: TreeWish,
    ) -> Checked {
        match wish {
            TreeWish::Command(command) => {
                let running = self.machines[member].running.as_ref().expect("a client asks a running member");
                let current = tree::auth_state(&running.stages.store.read()).revision;
                let command = self.clients[client].tree.wishes.carried(command, current);
                let bytes = tree::encode(&command);
                self.clients[client].tree.asked = Some(command);
                self.propose(client, operation, member, ModelId::TREE, bytes)
            }
            TreeWish::Read { get, linearizable: true } => {
                let (seq, _) = self.next_seq(member);
                let floor = self.oracle.floor();
                self.clients[client].pending = Some(Pending::TreeRead { get, floor });
                self.ask(client, operation, member, seq);
                self.push(member, Input::Log(LogInput::Read { seq }))
            }
            TreeWish::Read { get, linearizable: false } => {
                if self.answers_alone(member) {
                    self.read_tree(client, member, None, &get)?;
                }
                self.think(client);
                Ok(())
            }
        }
    }

    /// The answer to a command of the tree, with its values; `None` where a damaged disk kept one from it.
    pub(super) fn tree_answer(
        &mut self,
        client: usize,
        member: usize,
        since: u64,
        reply: Reply,
    ) -> Checked<Option<quorate_models::Reply>> {
        let Some(running) = &self.machines[member].running else { return Ok(None) };
        if let Some(command) = self.clients[client].tree.asked.take() {
            self.oracle.tree.answered(&command, &reply, since);
        }
        if let Reply::AuthChanged { revision, .. } | Reply::Outdated { revision, .. } = &reply {
            self.clients[client].tree.wishes.saw_revision(*revision);
        }
        let loaded = match &reply {
            Reply::Changed(event) => {
                tree::load_event(&running.stages.store, event).map(|event| Reply::Changed(event.into()))
            }
            _ => Ok(reply),
        };
        match loaded {
            Ok(reply) => Ok(Some(quorate_models::Reply::Tree(reply))),
            Err(error) => {
                self.excuse(member, &error)?;
                Ok(None)
            }
        }
    }

    fn excuse(&mut self, member: usize, error: &TreeError) -> Checked {
        let excused = self.machines[member].damaged || self.machines[member].errors;
        ensure!(excused, "member {member} can't read a value of the tree: {error}");
        self.count("client: a value of the tree could not be read");
        self.scrub_soon(member);
        Ok(())
    }

    /// Reads from a member's tables, as a face does after the read index is applied (or at once).
    pub(super) fn read_tree(
        &mut self,
        client: usize,
        member: usize,
        floor: Option<Floor>,
        get: &Get,
    ) -> Checked {
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let store = &running.stages.store;
        let got = match tree::get(store, get) {
            Err(error) => Err(error),
            Ok(reply) => {
                let below: Result<Vec<_>, _> =
                    reply.below.into_iter().map(|node| loaded(store, node)).collect();
                let read = loaded(store, reply.node).and_then(|node| Ok((reply.index, node, below?)));
                match read {
                    Err(error) => return self.excuse(member, &error),
                    Ok(read) => Ok(read),
                }
            }
        };
        if let Ok((index, node, below)) = &got {
            self.clients[client].tree.wishes.saw(std::iter::once(node).chain(below));
            self.showed(member, None, Some(*index))?;
        }
        self.oracle.tree.read(member, floor.map(|floor| floor.index), get, got)
    }

    /// A watcher takes what its member has for it.
    pub(super) fn watch_tree(&mut self, client: usize) -> Checked {
        let member = self.clients[client].watches_at;
        if !self.is_judged(member) {
            return Ok(());
        }
        if !self.answers_alone(member) {
            return Ok(());
        }
        let Some(running) = self.serving_clients(member) else { return Ok(()) };
        let store = &running.stages.store;
        let mut watched = self.clients[client].tree.watched.clone();
        let given = match running.feeds.tree.since(watched.next, WATCH_EVENTS_MAX) {
            Ok(events) if events.is_empty() => return Ok(()),
            Ok(events) => {
                let through = events.last().expect("not empty").event.index;
                let wanted = events.iter().filter(|held| watched.watch.wants(&held.event));
                let loaded: Result<Vec<_>, _> =
                    wanted.map(|held| tree::load_event(store, &held.event)).collect();
                loaded.map(|events| (events, through))
            }
            Err(_) => from_history(store, &watched),
        };
        match given {
            Ok((events, through)) => self.oracle.tree.given(&mut watched, &events, through)?,
            Err(TreeError::HistoryCleared { oldest, .. }) => {
                self.oracle.tree.cleared(&mut watched, oldest)?;
                self.count("client: a watch of the tree fell behind history");
            }
            Err(error @ TreeError::Unreadable { .. }) => return self.excuse(member, &error),
            Err(error) => {
                return Err(Violation(format!(
                    "member {member} refused a tree watch from {}: {error}",
                    watched.next
                )));
            }
        }
        self.clients[client].tree.watched = watched;
        Ok(())
    }

    /// A member that stands at the end of the log knows the users and roles that the log made.
    fn compare_users(&self, member: usize) -> Checked {
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let tables = running.stages.store.read();
        let state = tree::auth_state(&tables);
        let known = Auth {
            revision: state.revision.0,
            enabled: state.enabled,
            users: tree::user_names(&tables)
                .into_iter()
                .filter_map(|name| tree::user(&tables, &name).map(|user| (name, user)))
                .collect(),
            roles: tree::role_names(&tables)
                .into_iter()
                .filter_map(|name| tree::role(&tables, &name).map(|role| (name, role)))
                .collect(),
        };
        let expected = &self.oracle.tree.reference().auth;
        ensure!(
            known == *expected,
            "member {member} knows the users and roles\n  {known:?}\nbut the log says\n  {expected:?}"
        );
        let counted = (known.users.len() as u64, known.roles.len() as u64);
        ensure!(
            counted == (state.users, state.roles),
            "member {member} counts {state:?} users and roles, but has {counted:?}"
        );
        Ok(())
    }

    /// All members stand at one index: each holds the whole tree, and watchers get the rest.
    pub(super) fn compare_trees(&mut self) -> Checked {
        let hidden = Path::clean(b"/_h").expect("a short path");
        for member in 0..self.plan.members {
            if !self.is_judged(member) {
                continue;
            }
            self.compare_users(member)?;
            for path in [Path::root(), hidden.clone()] {
                let get = Get { path, recursive: true, bytes_max: 64 << 20 };
                self.read_tree(0, member, Some(self.oracle.floor()), &get)?;
            }
        }
        for client in 0..self.clients.len() {
            loop {
                let before = self.clients[client].tree.watched.next;
                if before > self.oracle.tree.reference().index() {
                    break;
                }
                self.watch_tree(client)?;
                let member = self.clients[client].watches_at;
                if self.clients[client].tree.watched.next > before {
                    continue;
                }
                let machine = &self.machines[member];
                let excused =
                    machine.damaged || machine.errors || machine.running.is_none() || !self.is_judged(member);
                ensure!(
                    excused,
                    "a tree watch of client {client} gets nothing from {before} on from member {member}"
                );
                break;
            }
        }
        Ok(())
    }
}

/// The next event that a watcher wants, or how far there is none.
fn from_history(store: &Store, watched: &TreeWatched) -> Result<(Vec<TreeEvent>, TreeIndex), TreeError> {
    let before = |next: TreeIndex| TreeIndex(next.0 - 1);
    let found = tree::first_match(&store.read(), &watched.watch, watched.next, WATCH_EVENTS_MAX)?;
    match found {
        Found::Event(event) => Ok((vec![tree::load_event(store, &event)?], event.index)),
        Found::More(next) | Found::None(next) => Ok((Vec::new(), before(next))),
    }
}

fn loaded(store: &Store, node: Node) -> Result<Node, TreeError> {
    let value = match &node.value {
        Value::Absent => Value::Absent,
        value => Value::Here(tree::load_value(store, value)?),
    };
    Ok(Node { value, ..node })
}
