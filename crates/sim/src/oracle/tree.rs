//! What must hold of the tree.
//!
//! The log's commands, applied to a plain reference, say what every answer, read and watch must show: so a change takes
//! the next index and no other, a compare is judged by what the log says was there, and no acknowledged write is lost.
//! Beyond that: a node whose TTL a client was told of does not end before that client may expect it.

use std::collections::BTreeMap;

use quorate_ids::{LogIndex, TreeIndex};
use quorate_models::Stamps;
use quorate_models::tree::{Action, Command, Event, Get, Node, Reply, TreeError, Watch};

use super::tree_reference::Reference;
use super::{Checked, Violation, ensure};

/// See the module.
#[derive(Default)]
pub struct TreeOracle {
    reference: Reference,
    /// The tree after each change, by its index.
    states: BTreeMap<u64, Reference>,
    events: BTreeMap<u64, Event>,
    /// The tree's index after each log index.
    indexes: Vec<u64>,
    /// Until when a client knows that what this index wrote is there, unless somebody changes it.
    alive: BTreeMap<u64, u64>,
    pub counts: TreeCounts,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCounts {
    pub changes: u64,
    pub refused: u64,
    /// Commands that users and roles had moved on from.
    pub outdated: u64,
    pub auth_changes: u64,
    pub reads: u64,
    pub expired: u64,
    pub watch_events: u64,
}

/// One watch over its whole life, across members: it has seen everything before `next`, once and in order.
#[derive(Clone, Debug)]
pub struct TreeWatched {
    pub watch: Watch,
    pub next: TreeIndex,
}

impl TreeOracle {
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A command of the tree is committed, at virtual time `now`.
    pub fn apply(&mut self, command: &Command, stamps: &Stamps, now: u64) -> Checked<Reply> {
        if self.states.is_empty() {
            self.states.insert(0, self.reference.clone());
        }
        let reply = self.reference.apply(command, stamps);
        let events = std::mem::take(&mut self.reference.events);
        self.counts.changes += events.len() as u64;
        self.counts.refused += u64::from(matches!(reply, Reply::Refused { .. }));
        self.counts.outdated += u64::from(matches!(reply, Reply::Outdated { .. }));
        self.counts.auth_changes += u64::from(matches!(reply, Reply::AuthChanged { .. }));
        for event in events.values().filter(|event| event.action == Action::Expire) {
            self.counts.expired += 1;
            let ended = event.previous.as_ref().expect("a node that ended was there");
            // A directory that a write made on its way has the same index as the file, and may get a TTL of its own.
            if ended.dir {
                continue;
            }
            let until = self.alive.remove(&ended.modified.0).unwrap_or(0);
            ensure!(
                now >= until,
                "node {} ended {:.3} ms before its time",
                ended.path,
                until.saturating_sub(now) as f64 / 1e6
            );
        }
        self.events.extend(events);
        self.states.insert(self.reference.index().0, self.reference.clone());
        Ok(reply)
    }

    /// An entry is committed; whatever it was, this is the tree after it.
    pub fn committed(&mut self) {
        self.indexes.push(self.reference.index().0);
    }

    fn index_at(&self, index: LogIndex) -> u64 {
        let at = usize::try_from(index.0).expect("an index fits").checked_sub(1);
        at.and_then(|at| self.indexes.get(at)).copied().unwrap_or(0)
    }

    /// A client that asked at `since` was told of this change.
    pub fn answered(&mut self, command: &Command, reply: &Reply, since: u64) {
        let (Command::Set(write)
        | Command::Create(write)
        | Command::CreateInOrder { write, .. }
        | Command::Update(write)
        | Command::CompareAndSwap { write, .. }) = command.bare()
        else {
            return;
        };
        // A directory's own index does not move with its TTL: it would not tell two TTLs apart.
        if let (Reply::Changed(event), Some(seconds)) = (reply, write.ttl_seconds)
            && !event.node.dir
        {
            // Members' clocks drift by less than half a percent.
            self.alive.insert(event.index.0, since + seconds * 1_000_000 * 995);
        }
    }

    /// A read of a member gave this. `floor`: what was known when a linearizable one began.
    pub fn read(
        &mut self,
        member: usize,
        floor: Option<LogIndex>,
        get: &Get,
        got: Result<(TreeIndex, Node, Vec<Node>), TreeError>,
    ) -> Checked {
        self.counts.reads += 1;
        let floor = floor.map_or(0, |floor| self.index_at(floor));
        if self.states.is_empty() {
            self.states.insert(0, self.reference.clone());
        }
        match got {
            Ok((index, node, below)) => {
                ensure!(
                    index.0 >= floor,
                    "stale read: member {member} shows tree index {index} to a read that began when {floor} was known"
                );
                let Some(state) = self.states.get(&index.0) else {
                    return Err(Violation(format!(
                        "member {member} shows tree index {index}, which nothing made"
                    )));
                };
                let expected = state.get(&get.path, get.recursive);
                let got = Ok((node, below));
                ensure!(
                    got == expected,
                    "member {member} answered {get:?} at tree index {index} with\n  {got:?}\nbut the log says\n  {expected:?}"
                );
            }
            Err(error) => {
                let mut states = self.states.range(floor..);
                let known = states
                    .any(|(_, state)| state.get(&get.path, get.recursive).err().as_ref() == Some(&error));
                ensure!(
                    known,
                    "member {member} answered {get:?} with {error:?}, which was so at no index from {floor} on"
                );
            }
        }
        Ok(())
    }

    /// A watcher was given `events`, and has everything through `through` now.
    pub fn given(&mut self, watched: &mut TreeWatched, events: &[Event], through: TreeIndex) -> Checked {
        ensure!(
            through <= self.reference.index(),
            "a tree watch shows index {through}, which is not committed"
        );
        let due = self.events.range(watched.next.0..=through.0.max(watched.next.0));
        let due = due.map(|(_, event)| event).filter(|event| event.index <= through);
        let expected: Vec<&Event> = due.filter(|event| watched.watch.wants(event)).collect();
        let got: Vec<&Event> = events.iter().collect();
        ensure!(
            got == expected,
            "a tree watch of {:?} from {} was given\n  {got:?}\nwhere the log has\n  {expected:?}",
            watched.watch,
            watched.next
        );
        self.counts.watch_events += events.len() as u64;
        watched.next = watched.next.max(through.next());
        Ok(())
    }

    /// A member told a watcher that history before `oldest` is gone: it must be.
    pub fn cleared(&self, watched: &mut TreeWatched, oldest: TreeIndex) -> Checked {
        ensure!(
            watched.next < oldest && oldest <= self.reference.history_start(),
            "a tree watch from {} was told that history starts at {oldest}; it starts at {}",
            watched.next,
            self.reference.history_start()
        );
        watched.next = oldest;
        Ok(())
    }
}
