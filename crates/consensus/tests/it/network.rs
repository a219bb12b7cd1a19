//! A cluster in memory: members with disks that sync when told to, and a network that carries encoded messages in order,
//! cuts links and drops what crosses them. Deterministic: the same calls give the same run.
//!
//! It checks all the time that no two members apply different entries at one index, that each applies without gaps,
//! that no term has two leaders, and that no committed index goes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_consensus::{
    Config, Consensus, Entry, EntryKind, HardState, Membership, MembershipEntry, Message, Ready, Restored,
    Role, SnapshotPoint,
};
use quorate_ids::{LogIndex, MemberId, Term};

pub fn id(number: u64) -> MemberId {
    MemberId(number)
}

pub fn members(voters: &[u64], learners: &[u64]) -> Membership {
    Membership::new(voters.iter().copied().map(id), learners.iter().copied().map(id)).unwrap()
}

pub struct Member {
    pub consensus: Consensus,
    pub config: Config,
    /// What a restart gives back.
    pub disk: Restored,
    /// Handed out and not yet durable.
    pub unsynced: VecDeque<Ready>,
    /// While set, nothing becomes durable.
    pub stalled: bool,
    /// While set, a snapshot message waits here instead of being stepped.
    pub hold_snapshots: bool,
    pub held: Vec<Message>,
    pub applied: LogIndex,
    pub reads: Vec<(u64, LogIndex)>,
    pub commands: Vec<Bytes>,
    pub snapshots_wanted: BTreeSet<MemberId>,
    pub rejects_membership: bool,
}

#[derive(Default)]
pub struct Network {
    pub members: BTreeMap<MemberId, Member>,
    pub in_flight: VecDeque<(MemberId, MemberId, Vec<u8>)>,
    /// Links (from, to) that lose everything.
    pub cut: BTreeSet<(MemberId, MemberId)>,
    /// Everything that was delivered, for stories.
    pub trace: Vec<String>,
    agreed: BTreeMap<LogIndex, (Term, EntryKind, Bytes)>,
    leaders: BTreeMap<Term, MemberId>,
}

impl Network {
    pub fn founding(voters: &[u64]) -> Self {
        let mut network = Self::default();
        let membership = members(voters, &[]);
        for voter in voters {
            network.start(Config::new(id(*voter), 1), Restored::founding(membership.clone()));
        }
        network
    }

    pub fn start(&mut self, config: Config, disk: Restored) {
        let member = Member {
            consensus: Consensus::new(config.clone(), disk.clone()).unwrap(),
            applied: disk.applied,
            config,
            disk,
            unsynced: VecDeque::new(),
            stalled: false,
            hold_snapshots: false,
            held: Vec::new(),
            reads: Vec::new(),
            commands: Vec::new(),
            snapshots_wanted: BTreeSet::new(),
            rejects_membership: false,
        };
        self.members.insert(member.config.id, member);
    }

    pub fn joining(&mut self, number: u64) {
        self.start(Config::new(id(number), 1), Restored::joining());
    }

    /// A crash and a restart: what was not durable is gone.
    pub fn restart(&mut self, number: u64) {
        let member = self.members.remove(&id(number)).unwrap();
        self.in_flight.retain(|(from, to, _)| *from != id(number) && *to != id(number));
        self.start(member.config, member.disk);
    }

    pub fn member(&self, number: u64) -> &Member {
        &self.members[&id(number)]
    }

    pub fn member_mut(&mut self, number: u64) -> &mut Member {
        self.members.get_mut(&id(number)).unwrap()
    }

    pub fn consensus(&mut self, number: u64) -> &mut Consensus {
        &mut self.member_mut(number).consensus
    }

    pub fn isolate(&mut self, number: u64) {
        for other in self.members.keys() {
            self.cut.insert((id(number), *other));
            self.cut.insert((*other, id(number)));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |member: &&Member| member.consensus.status().role == Role::Leader;
        self.members
            .values()
            .filter(leads)
            .max_by_key(|member| member.consensus.status().term)
            .map(|member| member.config.id.0)
    }

    /// Lets `number` stand for election and runs until nothing moves.
    pub fn elect(&mut self, number: u64) {
        assert!(self.consensus(number).campaign(), "{number} may stand");
        self.run();
        assert_eq!(self.member(number).consensus.status().role, Role::Leader);
    }

    pub fn propose(&mut self, number: u64, command: &str) -> (LogIndex, Term) {
        let command = Bytes::copy_from_slice(command.as_bytes());
        self.consensus(number).propose(command).unwrap()
    }

    pub fn tick_all(&mut self) {
        for member in self.members.values_mut() {
            member.consensus.tick();
        }
        self.run();
    }

    pub fn ticks(&mut self, count: usize) {
        (0..count).for_each(|_| self.tick_all());
    }

    /// Handles readies and delivers messages until nothing moves.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let ids: Vec<MemberId> = self.members.keys().copied().collect();
            let mut moved = false;
            for member in ids {
                moved |= self.handle_readies(member);
                moved |= self.sync(member);
            }
            moved |= self.deliver_one();
            if !moved {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Takes all readies of one member; its disk syncs later.
    pub fn handle_readies(&mut self, of: MemberId) -> bool {
        let mut moved = false;
        while let Some(mut ready) = self.members.get_mut(&of).unwrap().consensus.ready() {
            moved = true;
            self.send(&ready.messages);
            self.note(of, &ready);
            for entry in std::mem::take(&mut ready.committed) {
                self.apply(of, &entry);
            }
            let member = self.members.get_mut(&of).unwrap();
            member.reads.append(&mut ready.reads);
            member.snapshots_wanted.extend(&ready.snapshots_wanted);
            member.unsynced.push_back(ready);
        }
        moved
    }

    fn note(&mut self, of: MemberId, ready: &Ready) {
        let Some(change) = ready.role_change else { return };
        if change.role == Role::Leader {
            let first = *self.leaders.entry(change.term).or_insert(of);
            assert_eq!(first, of, "term {} has two leaders", change.term);
        }
        let leader = change.leader.map_or("nobody".into(), |leader| leader.to_string());
        self.trace.push(format!("{of} is {:?} of term {}, leader {leader}", change.role, change.term));
    }

    fn apply(&mut self, of: MemberId, entry: &Entry) {
        let said = (entry.term, entry.kind, entry.data.clone());
        let agreed = self.agreed.entry(entry.index).or_insert_with(|| said.clone());
        assert_eq!(*agreed, said, "member {of} applies another entry at {}", entry.index);
        let member = self.members.get_mut(&of).unwrap();
        assert_eq!(entry.index, member.applied.next(), "member {of} applies with a gap");
        if entry.kind == EntryKind::Membership {
            let change = MembershipEntry::decode(&entry.data).unwrap().change;
            let verdict = (!member.rejects_membership).then_some(&change);
            let judged = member.consensus.apply_membership(entry.index, verdict);
            self.trace.push(format!("{of} judges {change:?}: {judged:?}"));
        }
        if entry.kind == EntryKind::Command {
            member.commands.push(entry.data.clone());
        }
        member.applied = entry.index;
        member.consensus.applied(entry.index);
    }

    fn send(&mut self, messages: &[Message]) {
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            self.in_flight.push_back((message.from(), message.to(), bytes));
        }
    }

    /// Makes everything that was handed out durable, in order.
    pub fn sync(&mut self, of: MemberId) -> bool {
        let member = self.members.get_mut(&of).unwrap();
        if member.stalled {
            return false;
        }
        let mut moved = false;
        while let Some(ready) = self.members.get_mut(&of).unwrap().unsynced.pop_front() {
            moved = true;
            let member = self.members.get_mut(&of).unwrap();
            member.write(&ready);
            member.consensus.persisted(ready.number);
            self.send(&ready.persisted_messages);
        }
        moved
    }

    /// Delivers the oldest message, or loses it where the link is cut or the receiver does not exist.
    pub fn deliver_one(&mut self) -> bool {
        let Some((from, to, bytes)) = self.in_flight.pop_front() else { return false };
        let message = Message::decode(&bytes).expect("what a member sends can be read");
        let Some(member) = self.members.get_mut(&to).filter(|_| !self.cut.contains(&(from, to))) else {
            return true;
        };
        self.trace.push(format!("{message:?}"));
        if member.hold_snapshots && message.is_snapshot().is_some() {
            member.held.push(message);
            return true;
        }
        if let Err(error) = member.consensus.step(message) {
            self.trace.push(format!("{to} refuses: {error}"));
        }
        true
    }
}

impl Member {
    fn write(&mut self, ready: &Ready) {
        if let Some(SnapshotPoint { index, term, membership }) = &ready.snapshot {
            self.disk.compacted = (*index, *term);
            self.disk.entries.clear();
            self.disk.membership = membership.clone();
            self.disk.applied = *index;
            self.applied = *index;
        }
        if let Some(first) = ready.entries.first() {
            self.disk.entries.retain(|entry| entry.index < first.index);
            self.disk.entries.extend(ready.entries.iter().cloned());
        }
        if let Some(HardState { term, vote, commit }) = ready.hard_state {
            self.disk.hard_state = HardState { term, vote, commit };
        }
    }

    /// A checkpoint of the store: the disk needs the log only after it.
    pub fn checkpoint(&mut self) -> SnapshotPoint {
        let index = self.applied;
        let entry = self.disk.entries.iter().find(|entry| entry.index == index);
        let term = entry.map_or(self.disk.compacted.1, |entry| entry.term);
        let membership = self.consensus.membership();
        self.disk.applied = index;
        self.disk.membership = membership.clone();
        SnapshotPoint { index, term, membership }
    }

    /// A checkpoint, offered to lagging followers, and the log before it dropped.
    pub fn compact(&mut self) {
        let point = self.checkpoint();
        self.consensus.set_snapshot_point(Some(point.clone())).unwrap();
        self.consensus.compact(point.index).unwrap();
        self.disk.compacted = (point.index, point.term);
        self.disk.entries.retain(|entry| entry.index > point.index);
    }
}
