//! What must hold, whatever happens: the oracles.
//!
//! The committed log is the one order that explains every history. The first member that commits an entry shows it to
//! the oracle, which applies it to a [`Reference`]; from then on:
//!
//! - every member that commits that index must commit the same bytes;
//! - an answer must be the reference's answer at the entry that carries the request, and a request enters the log once
//!   at most, never after its client was told that nothing happened;
//! - time is respected: a request that began after another one ended lies after it in the log, and a linearizable read
//!   sees at least what any client had seen or been told when the read began. Together with the order of the log that
//!   is linearizability, unknown outcomes included: they may enter the log at any later time, or never;
//! - what a read shows at a revision is what the reference holds at that revision;
//! - tables have equal hashes at equal applied index;
//! - no lease expires before a client that was told of its life may expect it.

mod members;
mod reference;
mod tree;
// One plain tree serves the simulator and the models' own tests.
#[path = "../../../models/tests/it/tree/reference.rs"]
mod tree_reference;
mod watch;

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_consensus::{Entry, EntryKind, MembershipEntry};
use quorate_ids::{LogIndex, Revision, Term};
use quorate_member::envelope::{Envelope, Origin};
use quorate_member::{MemberList, MembershipRequest};
use quorate_models::keys::{self, Command, Event, KeysError, OpReply, RangeQuery, RangeReply, Reply};
use quorate_models::{ModelId, Stamps};

use crate::events::EventHash;
pub use members::MembersOracle;
pub use reference::Reference;
pub use tree::{TreeOracle, TreeWatched};
pub use tree_reference::Auth;
pub use watch::Watched;

/// A promise was broken: what, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

pub type Checked<T = ()> = Result<T, Violation>;

macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => {
        if !$cond {
            return Err(crate::oracle::Violation(format!($($arg)*)));
        }
    };
}
pub(crate) use ensure;

/// What any client had been told at some moment: a lower bound for what begins later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    pub index: LogIndex,
    pub revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// The client was told that nothing happened.
    Refused,
    Unknown,
}

struct Asked {
    floor: Floor,
    fate: Fate,
    entered: bool,
    expected: Option<(LogIndex, quorate_models::Reply)>,
}

#[derive(Clone, Copy)]
struct Logged {
    term: u64,
    hash: u64,
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    reference: Reference,
    log: Vec<Logged>,
    /// Revision of the store after each index.
    revisions: Vec<u64>,
    asked: BTreeMap<Origin, Asked>,
    hashes: BTreeMap<LogIndex, (u128, usize)>,
    floor: Floor,
    stamps: (u64, u64),
    /// Until when clients know that a lease lives.
    leases: BTreeMap<i64, u64>,
    pub tree: TreeOracle,
    pub members: MembersOracle,
    pub counts: Counts,
    /// Commands of users, members' own requests aside.
    commands: u64,
}

/// What the oracles looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub committed: u64,
    pub answers: u64,
    pub refused: u64,
    pub unknown: u64,
    pub reads: u64,
    pub serializable_reads: u64,
    pub watch_events: u64,
    pub hashes_compared: u64,
    pub leases_expired: u64,
    pub keep_alives: u64,
}

impl Oracle {
    /// An oracle of a cluster that these members found.
    #[must_use]
    pub fn founded(list: &MemberList) -> Self {
        Self { members: MembersOracle::founded(list), ..Self::default() }
    }

    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What any client knows by now.
    #[must_use]
    pub fn floor(&self) -> Floor {
        self.floor
    }

    /// The highest index that any member committed.
    #[must_use]
    pub fn committed_index(&self) -> LogIndex {
        LogIndex(self.log.len() as u64)
    }

    /// A member hands this entry to its apply stage.
    pub fn committed(&mut self, member: usize, entry: &Entry, now: u64) -> Checked {
        self.counts.committed += 1;
        let mut hash = EventHash::default();
        hash.number(u64::from(entry.kind.code()));
        hash.bytes(&entry.data);
        let logged = Logged { term: entry.term.0, hash: hash.value() };
        let at = entry.index.0 as usize;
        ensure!(at > 1, "member {member} committed index {at}; a cluster is founded at index 1");
        if self.log.is_empty() {
            self.log.push(Logged { term: 1, hash: 0 });
            self.revisions.push(1);
            self.tree.committed();
        }
        if let Some(known) = self.log.get(at - 1) {
            ensure!(
                known.term == logged.term && known.hash == logged.hash,
                "committed prefixes disagree: member {member} has another entry at index {} (term {}) than was committed before (term {})",
                entry.index,
                logged.term,
                known.term
            );
            return Ok(());
        }
        ensure!(
            at == self.log.len() + 1,
            "member {member} committed index {at} before anybody committed {}",
            self.log.len() + 1
        );
        let last = self.log.last().map_or(0, |last| last.term);
        ensure!(logged.term >= last, "the term goes back from {last} to {} at index {at}", logged.term);
        self.log.push(logged);
        self.apply(entry, now)?;
        self.revisions.push(self.reference.revision());
        self.tree.committed();
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, now: u64) -> Checked {
        let undecodable = |error: &dyn std::fmt::Display| {
            Violation(format!("entry {} was committed and can't be read: {error}", entry.index))
        };
        let data = match entry.kind {
            EntryKind::Empty => return Ok(()),
            EntryKind::Command => entry.data.clone(),
            EntryKind::Membership => {
                MembershipEntry::decode(&entry.data).map_err(|error| undecodable(&error))?.context
            }
        };
        let envelope = Envelope::decode(&data).map_err(|error| undecodable(&error))?;
        let stamps = (envelope.cluster_time.0, envelope.wall_time.0);
        ensure!(
            stamps.0 >= self.stamps.0 && stamps.1 >= self.stamps.1,
            "stamps go back at entry {}: {stamps:?} after {:?}",
            entry.index,
            self.stamps
        );
        self.stamps = stamps;
        let mut expected = None;
        self.commands += u64::from(envelope.model != ModelId::MEMBER);
        if envelope.model == ModelId::MEMBER {
            let request =
                MembershipRequest::decode(&envelope.command).map_err(|error| undecodable(&error))?;
            self.members.apply(entry.index, &request);
        }
        if envelope.model == ModelId::KEYS {
            let command = keys::decode(&envelope.command).map_err(|error| undecodable(&error))?;
            let reply = self.reference.apply(&command, entry.term);
            if let Reply::LeaseExpire { expired, .. } = &reply {
                self.expired(expired, now)?;
            }
            expected = Some(quorate_models::Reply::Keys(reply));
        }
        if envelope.model == ModelId::TREE {
            let command =
                quorate_models::tree::decode(&envelope.command).map_err(|error| undecodable(&error))?;
            let stamps = Stamps {
                index: entry.index,
                term: entry.term,
                cluster_time: envelope.cluster_time,
                wall_time: envelope.wall_time,
            };
            expected = Some(quorate_models::Reply::Tree(self.tree.apply(&command, &stamps, now)?));
        }
        let Some(asked) = self.asked.get_mut(&envelope.origin) else { return Ok(()) };
        ensure!(
            asked.fate != Fate::Refused,
            "{:?} was told that nothing happened, yet it is committed at {}",
            envelope.origin,
            entry.index
        );
        ensure!(
            !asked.entered,
            "{:?} is in the log twice, the second time at {}",
            envelope.origin,
            entry.index
        );
        ensure!(
            entry.index > asked.floor.index,
            "{:?} began after index {} was known and lies before it, at {}",
            envelope.origin,
            asked.floor.index,
            entry.index
        );
        asked.entered = true;
        if let Some(expected) = expected {
            asked.expected = Some((entry.index, expected));
        }
        Ok(())
    }

    /// A client's command begins.
    pub fn asked(&mut self, origin: Origin) {
        let asked = Asked { floor: self.floor, fate: Fate::Open, entered: false, expected: None };
        let old = self.asked.insert(origin, asked);
        assert!(old.is_none(), "the simulator used {origin:?} twice");
    }

    /// A client's command got this answer, with every value loaded; `None` where a damaged disk kept one from it.
    pub fn answered(
        &mut self,
        origin: Origin,
        index: LogIndex,
        reply: Option<&quorate_models::Reply>,
    ) -> Checked {
        self.counts.answers += 1;
        let Some(asked) = self.asked.get(&origin) else {
            return Err(Violation(format!("{origin:?} was answered twice")));
        };
        let Some((at, expected)) = &asked.expected else {
            return Err(Violation(format!(
                "{origin:?} was acknowledged at index {index}, yet nobody committed it"
            )));
        };
        ensure!(*at == index, "{origin:?} was acknowledged at index {index}; it is in the log at {at}");
        if let Some(reply) = reply {
            let (got, wanted) = (plain(reply.clone()), plain(expected.clone()));
            ensure!(
                got == wanted,
                "{origin:?} at index {index} was answered\n  {got:?}\nbut must be answered\n  {wanted:?}"
            );
        }
        self.asked.remove(&origin);
        self.saw(index, Revision(self.revisions[index.0 as usize - 1]));
        Ok(())
    }

    /// The operator was told that its change of the members is committed, or that the log refused it.
    pub fn changed(&mut self, origin: Origin) -> Checked {
        let entered = self.asked.remove(&origin).is_some_and(|asked| asked.entered);
        ensure!(entered, "the change {origin:?} was acknowledged, yet nobody committed it");
        Ok(())
    }

    /// Whether anybody ever had a command committed.
    #[must_use]
    pub fn holds_anything(&self) -> bool {
        self.commands > 0
    }

    /// Whether a request is in the log.
    #[must_use]
    pub fn entered(&self, origin: Origin) -> bool {
        self.asked.get(&origin).is_some_and(|asked| asked.entered)
    }

    /// A client was told that its command did not happen (`certain`) or may have happened.
    pub fn failed(&mut self, origin: Origin, certain: bool) -> Checked {
        let Some(asked) = self.asked.get_mut(&origin) else {
            return Err(Violation(format!("{origin:?} was answered twice")));
        };
        ensure!(
            !certain || asked.expected.is_none(),
            "{origin:?} was told that nothing happened; it was committed at {:?}",
            asked.expected
        );
        asked.fate = if certain { Fate::Refused } else { Fate::Unknown };
        if certain {
            self.counts.refused += 1;
        } else {
            self.counts.unknown += 1;
        }
        Ok(())
    }

    /// A client knows that this lease lives on from `since` (virtual time) for its whole TTL: it asked then, and was
    /// told so.
    pub fn lease_confirmed(&mut self, id: i64, since: u64, ttl_seconds: i64) {
        // Members' clocks drift by less than half a percent.
        let ttl_nanos = ttl_seconds.unsigned_abs() * 1_000_000_000 / 1_000 * 995;
        let until = self.leases.entry(id).or_default();
        *until = (*until).max(since + ttl_nanos);
    }

    fn expired(&mut self, ids: &[i64], now: u64) -> Checked {
        for id in ids {
            self.counts.leases_expired += 1;
            let until = self.leases.remove(id).unwrap_or(0);
            ensure!(
                now >= until,
                "lease {id:x} expired {:.3} ms before its time",
                until.saturating_sub(now) as f64 / 1e6
            );
        }
        Ok(())
    }

    fn saw(&mut self, index: LogIndex, revision: Revision) {
        self.floor.index = self.floor.index.max(index);
        self.floor.revision = self.floor.revision.max(revision);
    }

    /// A linearizable read that began at `floor` may read from `index` on.
    pub fn read_index(&mut self, floor: Floor, index: LogIndex) -> Checked {
        ensure!(
            index >= floor.index,
            "a read that began when index {} was known was given index {index}",
            floor.index
        );
        Ok(())
    }

    /// A read of a member whose store stood at `got.revision` gave this. `floor` is `None` for a serializable read.
    pub fn read(
        &mut self,
        member: usize,
        floor: Option<Floor>,
        query: &RangeQuery,
        got: Result<RangeReply, KeysError>,
    ) -> Checked {
        match floor {
            Some(_) => self.counts.reads += 1,
            None => self.counts.serializable_reads += 1,
        }
        let got = match got {
            Ok(got) => got,
            Err(KeysError::Compacted { asked, .. }) if asked.0 < self.reference.compacted() => return Ok(()),
            Err(KeysError::FutureRevision { asked, current }) if asked > current => {
                let stale = floor.filter(|floor| current < floor.revision);
                ensure!(stale.is_none(), "member {member} says {current} is newest after {stale:?} was seen");
                return Ok(());
            }
            Err(error) => return Err(Violation(format!("member {member} refused {query:?}: {error}"))),
        };
        ensure!(
            got.revision.0 <= self.reference.revision(),
            "member {member} shows revision {}; only {} are committed",
            got.revision,
            self.reference.revision()
        );
        if let Some(floor) = floor {
            ensure!(
                got.revision >= floor.revision,
                "stale read: member {member} shows revision {} to a read that began when {} had been seen",
                got.revision,
                floor.revision
            );
            self.saw(LogIndex::ZERO, got.revision);
        }
        // The reference may have compacted further than the member had when it answered.
        if query.revision.0 != 0 && query.revision.0 < self.reference.compacted() {
            return Ok(());
        }
        let expected = self.reference.range(query, got.revision.0);
        ensure!(
            expected.as_ref() == Ok(&got),
            "member {member} answered {query:?} with\n  {got:?}\nbut the log says\n  {expected:?}"
        );
        Ok(())
    }

    /// The tables of `member` have this hash after `index`.
    pub fn hash(&mut self, member: usize, index: LogIndex, hash: u128) -> Checked {
        let (first, by) = *self.hashes.entry(index).or_insert((hash, member));
        self.counts.hashes_compared += u64::from(by != member);
        ensure!(first == hash, "members {by} and {member} hold different tables at applied index {index}");
        Ok(())
    }

    /// The term of a committed entry.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Term {
        let at = index.0.checked_sub(1).and_then(|at| self.log.get(at as usize));
        Term(at.map_or(0, |logged| logged.term))
    }

    /// The revision that a store at `index` is at.
    #[must_use]
    pub fn revision_at(&self, index: LogIndex) -> Revision {
        match index.0 {
            0 => Revision(1),
            index => Revision(self.revisions.get(index as usize - 1).copied().unwrap_or(0)),
        }
    }

    /// What watchers of all keys see at `revision`.
    #[must_use]
    pub fn events_at(&self, revision: u64) -> &[Event] {
        self.reference.events_at(revision)
    }
}

/// Inner answers carry no revision of their own that a client sees.
fn plain(reply: quorate_models::Reply) -> quorate_models::Reply {
    match reply {
        quorate_models::Reply::Keys(Reply::Txn(mut txn)) => {
            plain_ops(&mut txn.responses);
            quorate_models::Reply::Keys(Reply::Txn(txn))
        }
        other => other,
    }
}

fn plain_ops(ops: &mut [OpReply]) {
    for op in ops {
        match op {
            OpReply::Range(range) => range.revision = Revision::ZERO,
            OpReply::Put(put) => put.revision = Revision::ZERO,
            OpReply::DeleteRange(delete) => delete.revision = Revision::ZERO,
            OpReply::Txn(txn) => {
                txn.revision = Revision::ZERO;
                plain_ops(&mut txn.responses);
            }
        }
    }
}

/// Encodes a command as a client's face does.
#[must_use]
pub fn encoded(command: &Command) -> Bytes {
    keys::encode(command)
}
