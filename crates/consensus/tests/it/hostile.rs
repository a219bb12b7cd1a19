//! Whatever peers send, in whatever order, between whatever else happens: no panic. Nothing is caught here, so any abort
//! inside the raft crate fails the test; overflow checks are on.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_consensus::{
    Config, Consensus, EntryKind, MembershipChange, MembershipEntry, Message, Ready, Restored, StepError,
};
use quorate_ids::{LogIndex, MemberId};

use crate::network::{id, members};
use crate::wire;

/// Something that happens to member 1.
#[derive(Clone, Debug)]
enum Event {
    Forged(Forged),
    Tick(u8),
    Propose(u8),
    ProposeMembership(MembershipChange),
    Read(u64),
    Transfer(u64),
    Campaign,
    Unreachable(u64),
    SnapshotReport(u64, bool),
    /// Take readies, judge and apply what they commit.
    Ready,
    /// The oldest outstanding ready is durable.
    Persist,
    Compact,
    OfferSnapshot,
}

fn peer() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 2..4u64, 1 => 4..6u64]
}

/// Mostly near what the run will be at, now and then as large as a message may say.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0..12u64, 1 => Just(1u64 << 62)]
}

fn entries() -> impl Strategy<Value = Vec<(u8, u64, Vec<u8>)>> {
    let data = prop_oneof![
        4 => Just((0u8, Vec::new())),
        4 => proptest::collection::vec(any::<u8>(), 1..5).prop_map(|data| (1u8, data)),
        2 => change().prop_map(|change| {
            (2u8, MembershipEntry { change, context: Default::default() }.encode().to_vec())
        }),
        1 => Just((2u8, vec![9, 9])),
    ];
    proptest::collection::vec((0..2u64, data), 0..5)
        .prop_map(|entries| entries.into_iter().map(|(more, (kind, data))| (kind, more, data)).collect())
}

fn change() -> impl Strategy<Value = MembershipChange> {
    (0..4u8, 1..6u64).prop_map(|(what, member)| match what {
        0 => MembershipChange::AddLearner(id(member)),
        1 => MembershipChange::AddVoter(id(member)),
        2 => MembershipChange::Promote(id(member)),
        _ => MembershipChange::Remove(id(member)),
    })
}

/// A message that is not built until it happens, so that it can be near what the victim is at.
#[derive(Clone, Debug)]
struct Forged {
    kind: u8,
    from: u64,
    term: Number,
    index: Number,
    other_index: Number,
    /// Take the term that the victim has at `index`.
    fitting: bool,
    flag: bool,
    small: u64,
    entries: Vec<(u8, u64, Vec<u8>)>,
}

/// A number relative to the victim's own (its term, its last index), or its commit index, or as it is.
#[derive(Clone, Debug)]
enum Number {
    Near(i64),
    Commit(i64),
    Exactly(u64),
}

impl Number {
    fn from(&self, own: u64, commit: u64) -> u64 {
        match *self {
            Self::Near(delta) => own.saturating_add_signed(delta),
            Self::Commit(delta) => commit.saturating_add_signed(delta),
            Self::Exactly(number) => number,
        }
        .min(1 << 62)
    }
}

fn forged() -> impl Strategy<Value = Forged> {
    let term = prop_oneof![
        12 => Just(Number::Near(0)),
        3 => Just(Number::Near(1)),
        1 => (-2..3i64).prop_map(Number::Near),
        1 => Just(Number::Exactly((1 << 62) - 1)),
    ]
    .boxed();
    let index = prop_oneof![
        6 => (-3..3i64).prop_map(Number::Near),
        4 => (-2..3i64).prop_map(Number::Commit),
        2 => number().prop_map(Number::Exactly),
    ]
    .boxed();
    let kind = prop_oneof![
        6 => Just(1u8), 5 => Just(2u8), 1 => Just(3u8), 6 => Just(4u8), 1 => Just(5u8), 6 => Just(6u8), 1 => Just(7u8),
        3 => Just(8u8), 2 => Just(9u8), 1 => Just(10u8), 1 => Just(11u8), 1 => Just(12u8),
    ];
    let flags = (prop::bool::weighted(0.7), prop::bool::weighted(0.25), 0..4u64);
    (kind, peer(), term, index.clone(), index, flags, entries()).prop_map(
        |(kind, from, term, index, other_index, (fitting, flag, small), entries)| Forged {
            kind,
            from,
            term,
            index,
            other_index,
            fitting,
            flag,
            small,
            entries,
        },
    )
}

impl Forged {
    fn bytes(&self, victim: &Victim) -> Vec<u8> {
        let status = victim.consensus.status();
        let term = self.term.from(status.term.0, 0).max(1);
        let index = self.index.from(status.last_index.0, status.commit.0);
        let other = self.other_index.from(status.last_index.0, status.commit.0);
        let own_term = victim.terms.get(&index).copied().unwrap_or(1);
        let at_term = if self.fitting { own_term } else { self.small.max(1) };
        let at_term = if index == 0 { 0 } else { at_term };
        let term_ahead = term.saturating_add(1).min(1 << 62);
        let (from, flag) = (self.from, self.flag);
        match self.kind {
            1 => {
                let mut entry_term = at_term.max(1);
                let mut entries = Vec::new();
                for (kind, more, data) in &self.entries {
                    entry_term = if self.flag { term } else { entry_term + more };
                    entries.push((*kind, entry_term, data.as_slice()));
                }
                wire::append(from, 1, term.max(entry_term).max(at_term), (index, at_term), other, &entries)
            }
            2 => wire::append_response(
                from,
                1,
                term,
                index,
                other,
                flag.then_some((other.min(index), at_term)),
            ),
            3 | 5 => {
                let commit = (other.min(index), self.small.min(at_term));
                wire::vote(self.kind, from, 1, term.max(at_term), flag, (index, at_term), commit)
            }
            4 => wire::vote_response(4, from, 1, term, flag, (other, at_term)),
            6 => {
                wire::vote_response(6, from, 1, if flag { term } else { term_ahead }, flag, (other, at_term))
            }
            7 => {
                let (voters, learners): (&[u64], &[u64]) = match self.small {
                    0 => (&[1, 2, 3], &[]),
                    1 => (&[1], &[2]),
                    2 => (&[2, 3], &[1]),
                    _ => (&[2, 3], &[4]),
                };
                let at_term = at_term.max(1);
                wire::snapshot(from, 1, term.max(at_term), (index.max(1), at_term), voters, learners)
            }
            8 | 9 => wire::heartbeat(self.kind, from, 1, term, other, flag.then_some((1, self.small))),
            10 => wire::header(10, from, 1, term),
            11 => wire::read_index(11, from, 1, 0, 0, (from, self.small)),
            _ => wire::read_index(12, from, 1, term, index, (1, self.small)),
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => forged().prop_map(Event::Forged),
        4 => (1..25u8).prop_map(Event::Tick),
        4 => (1..4u8).prop_map(Event::Propose),
        2 => change().prop_map(Event::ProposeMembership),
        2 => (0..5u64).prop_map(Event::Read),
        1 => (1..6u64).prop_map(Event::Transfer),
        3 => Just(Event::Campaign),
        1 => (1..6u64).prop_map(Event::Unreachable),
        1 => (1..6u64, any::<bool>()).prop_map(|(id, ok)| Event::SnapshotReport(id, ok)),
        12 => Just(Event::Ready),
        12 => Just(Event::Persist),
        2 => Just(Event::Compact),
        2 => Just(Event::OfferSnapshot),
    ]
}

/// Member 1 with a disk that is as slow as the events say.
struct Victim {
    consensus: Consensus,
    outstanding: Vec<Ready>,
    applied: LogIndex,
    /// The terms of the log, by index.
    terms: BTreeMap<u64, u64>,
}

impl Victim {
    fn new(voters: &[u64]) -> Self {
        let disk = match voters {
            [] => Restored::joining(),
            voters => Restored::founding(members(voters, &[])),
        };
        let applied = disk.applied;
        Self {
            consensus: Consensus::new(Config::new(id(1), 9), disk).unwrap(),
            outstanding: Vec::new(),
            applied,
            terms: BTreeMap::new(),
        }
    }

    fn ready(&mut self) {
        while let Some(ready) = self.consensus.ready() {
            for entry in &ready.committed {
                if entry.kind == EntryKind::Membership {
                    let decoded = MembershipEntry::decode(&entry.data).ok();
                    let change = decoded.as_ref().map(|entry| &entry.change);
                    // Refusals are expected; every member would refuse the same.
                    let _ = self.consensus.apply_membership(entry.index, change);
                }
                self.applied = entry.index;
                self.consensus.applied(entry.index);
            }
            if let Some(point) = &ready.snapshot {
                self.applied = point.index;
                self.terms.insert(point.index.0, point.term.0);
            }
            self.terms.extend(ready.entries.iter().map(|entry| (entry.index.0, entry.term.0)));
            self.outstanding.push(ready);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Forged(forged) => {
                if let Ok(message) = Message::decode(&forged.bytes(self)) {
                    let refused = self.consensus.step(message);
                    assert!(
                        !matches!(refused, Err(StepError::Refused(_))),
                        "an unforeseen refusal: {refused:?}"
                    );
                }
            }
            Event::Tick(count) => (0..count).for_each(|_| self.consensus.tick()),
            Event::Propose(count) => {
                let _ = self.consensus.propose_batch(vec![bytes::Bytes::from_static(b"x"); count.into()]);
            }
            Event::ProposeMembership(change) => {
                let _ = self.consensus.propose_membership(change, Default::default());
            }
            Event::Read(number) => {
                let _ = self.consensus.read_index(number);
            }
            Event::Transfer(to) => {
                let _ = self.consensus.transfer_leadership(MemberId(to));
            }
            Event::Campaign => {
                self.consensus.campaign();
            }
            Event::Unreachable(peer) => self.consensus.report_unreachable(id(peer)),
            Event::SnapshotReport(peer, ok) => self.consensus.report_snapshot(id(peer), ok),
            Event::Ready => self.ready(),
            Event::Persist if self.outstanding.is_empty() => {}
            Event::Persist => {
                let ready = self.outstanding.remove(0);
                self.consensus.persisted(ready.number);
            }
            Event::Compact => {
                let _ = self.consensus.compact(self.consensus.status().applied);
            }
            Event::OfferSnapshot => {
                let status = self.consensus.status();
                let membership = self.consensus.membership();
                for term in 1..=status.term.0.min(6) {
                    let point = quorate_consensus::SnapshotPoint {
                        index: status.applied,
                        term: quorate_ids::Term(term),
                        membership: membership.clone(),
                    };
                    let _ = self.consensus.set_snapshot_point(Some(point));
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let status = self.consensus.status();
        assert!(status.applied <= status.commit && status.commit <= status.last_index);
        assert!(status.persisted <= status.last_index);
        assert!(self.applied >= status.applied || !self.outstanding.is_empty());
        let led = status.role == quorate_consensus::Role::Leader;
        assert!(!led || self.consensus.membership().is_voter(id(1)), "only a voter leads");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn a_voter_survives_hostile_peers(events in proptest::collection::vec(event(), 1..120)) {
        let mut victim = Victim::new(&[1, 2, 3]);
        events.into_iter().for_each(|event| victim.happen(event));
    }

    #[test]
    fn a_sole_voter_survives_hostile_peers(events in proptest::collection::vec(event(), 1..120)) {
        let mut victim = Victim::new(&[1]);
        events.into_iter().for_each(|event| victim.happen(event));
    }

    #[test]
    fn a_joiner_survives_hostile_peers(events in proptest::collection::vec(event(), 1..120)) {
        let mut victim = Victim::new(&[]);
        events.into_iter().for_each(|event| victim.happen(event));
    }

    #[test]
    fn an_even_pair_survives_hostile_peers(events in proptest::collection::vec(event(), 1..120)) {
        let mut victim = Victim::new(&[1, 2]);
        events.into_iter().for_each(|event| victim.happen(event));
    }
}
