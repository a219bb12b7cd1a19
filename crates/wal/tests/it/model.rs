//! What a log must hold after a number of records, worked out the plain way, and a comparison with what it gave back.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_wal::{Config, HardState, Identity, Record, Recovered, RestartPoint};

pub const IDENTITY: Identity =
    Identity { cluster: ClusterId(0xc1), member: MemberId(0x3e), incarnation: Incarnation(0x1ca) };

/// Small segments, so that a few entries fill one.
pub fn small() -> Config {
    Config { segment_size_bytes: 16 << 10, payload_bytes_max: 8 << 10, ..Config::default() }
}

pub fn entry(index: u64, term: u64, payload_bytes: usize) -> Record {
    let payload: Vec<u8> =
        (0..payload_bytes).map(|i| (index as usize * 31 + term as usize * 7 + i) as u8).collect();
    Record::Entry { index: LogIndex(index), term: Term(term), payload: Bytes::from(payload) }
}

pub fn vote(term: u64, vote: u64, commit: u64) -> Record {
    Record::HardState(HardState { term: Term(term), vote: MemberId(vote), commit: LogIndex(commit) })
}

pub fn restart(index: u64, term: u64, store_generation: u64) -> Record {
    Record::Restart { index: LogIndex(index), term: Term(term), store_generation }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub hard_state: HardState,
    pub entries: BTreeMap<LogIndex, (Term, Bytes)>,
    pub restart: RestartPoint,
    pub store_generation: u64,
    pub last: (LogIndex, Term),
}

impl Model {
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::HardState(hard_state) => self.hard_state = *hard_state,
            Record::Entry { index, term, payload } => {
                self.entries.split_off(index);
                self.entries.insert(*index, (*term, payload.clone()));
                self.last = (*index, *term);
            }
            Record::Restart { index, term, store_generation } => {
                self.entries.clear();
                self.restart = RestartPoint { index: *index, term: *term };
                self.store_generation = *store_generation;
                self.last = (*index, *term);
            }
        }
    }

    pub fn of(store_generation: u64, records: &[Record]) -> Self {
        let mut model = Self { store_generation, ..Self::default() };
        records.iter().for_each(|record| model.take(record));
        model
    }

    /// What is wrong with `recovered`, if anything, where entries up to `released` need not be there.
    pub fn difference(&self, recovered: &Recovered, released: LogIndex) -> Option<String> {
        let differs = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            Some(format!("{what}: recovered {a:?}, expected {b:?}"))
        };
        if recovered.identity != IDENTITY {
            return differs("identity", &recovered.identity, &IDENTITY);
        }
        if recovered.hard_state != self.hard_state {
            return differs("hard state", &recovered.hard_state, &self.hard_state);
        }
        if (recovered.restart, recovered.store_generation) != (self.restart, self.store_generation) {
            return differs("restart point", &recovered.restart, &self.restart);
        }
        if (recovered.last_index, recovered.last_term) != self.last {
            return differs("last entry", &recovered.last_index, &self.last);
        }
        let first = recovered.first_index();
        let needed = self.entries.keys().find(|index| **index > released);
        if needed.is_some_and(|needed| first > *needed) {
            return differs("first entry", &first, &needed);
        }
        let expected: Vec<_> = self
            .entries
            .range(first..)
            .map(|(index, (term, payload))| (*index, *term, payload.clone()))
            .collect();
        if recovered.entries != expected {
            let indices = |entries: &[(LogIndex, Term, Bytes)]| {
                entries.iter().map(|(index, term, _)| (*index, *term)).collect::<Vec<_>>()
            };
            return differs("entries", &indices(&recovered.entries), &indices(&expected));
        }
        None
    }
}

/// Asserts that `recovered` is what some prefix of `records` adds up to that has at least the first `acknowledged`.
/// Returns its length.
pub fn assert_prefix(
    recovered: &Recovered,
    store_generation: u64,
    records: &[Record],
    acknowledged: usize,
    released: LogIndex,
) -> usize {
    let mut model = Model::of(store_generation, &records[..acknowledged]);
    let first_difference = model.difference(recovered, released);
    if first_difference.is_none() {
        return acknowledged;
    }
    for (at, record) in records.iter().enumerate().skip(acknowledged) {
        model.take(record);
        if model.difference(recovered, released).is_none() {
            return at + 1;
        }
    }
    panic!(
        "the log gave back no prefix of what was written that has all that was acknowledged \
         ({acknowledged} of {} records): {first_difference:?}",
        records.len()
    );
}
