//! How a seed is run, what came of it, and the sums over many.

use std::collections::BTreeMap;

/// A planted bug. Normal builds have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutant {
    #[default]
    None,
    /// The log acknowledges batches that it did not sync.
    #[cfg(feature = "mutants")]
    SkipSync,
    /// A leader commits what it alone holds.
    #[cfg(feature = "mutants")]
    CommitWithoutQuorum,
    /// The vote is missing from every persisted hard state.
    #[cfg(feature = "mutants")]
    ForgetVote,
}

impl Mutant {
    /// The mutants that this build has, by name.
    #[must_use]
    pub fn all() -> &'static [(&'static str, Self)] {
        &[
            #[cfg(feature = "mutants")]
            ("skip-sync", Self::SkipSync),
            #[cfg(feature = "mutants")]
            ("commit-without-quorum", Self::CommitWithoutQuorum),
            #[cfg(feature = "mutants")]
            ("forget-vote", Self::ForgetVote),
        ]
    }

    /// The mutant's name on the command line.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::all().iter().find(|(_, mutant)| *mutant == self).map(|(name, _)| *name)
    }

    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn of_consensus(self) -> quorate_consensus::Mutant {
        match self {
            Self::CommitWithoutQuorum => quorate_consensus::Mutant::CommitWithoutQuorum,
            Self::ForgetVote => quorate_consensus::Mutant::ForgetVote,
            Self::None | Self::SkipSync => quorate_consensus::Mutant::None,
        }
    }
}

/// How to run one seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub seed: u64,
    pub mutant: Mutant,
    /// Print what happens.
    pub trace: bool,
}

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    /// What broke, and when.
    pub violation: Option<String>,
    pub events: u64,
    pub virtual_nanos: u64,
    pub hash: u64,
    /// Client operations with a known outcome.
    pub operations: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// This run and another of the same seed, as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        Self {
            seed: self.seed,
            violation: self.violation.or(other.violation),
            events: self.events + other.events,
            virtual_nanos: self.virtual_nanos + other.virtual_nanos,
            hash: self.hash.rotate_left(1) ^ other.hash,
            operations: self.operations + other.operations,
            faults: self.faults,
        }
    }
}

/// The seeds that a list names: one a line, what it found after a `#`.
///
/// Panics on a line that is none: the list is part of the program.
#[must_use]
pub fn regressions(list: &str) -> Vec<u64> {
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed a line")).collect()
}

/// Sums over seeds.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub failed: u64,
    pub events: u64,
    pub virtual_nanos: u64,
    pub operations: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

impl Totals {
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(outcome.violation.is_some());
        self.events += outcome.events;
        self.virtual_nanos += outcome.virtual_nanos;
        self.operations += outcome.operations;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// A table for people; `elapsed` is real time.
    #[must_use]
    pub fn table(&self, elapsed: std::time::Duration) -> String {
        let per_second = self.events as f64 / elapsed.as_secs_f64().max(1e-9);
        let mut lines = vec![
            format!("{:<42}{:>14}", "seeds", self.seeds),
            format!("{:<42}{:>14}", "seeds that failed", self.failed),
            format!("{:<42}{:>14.2}", "virtual hours", self.virtual_nanos as f64 / 3.6e12),
            format!("{:<42}{:>14}", "events", self.events),
            format!("{:<42}{:>14.0}", "events a second", per_second),
            format!("{:<42}{:>14}", "client operations with a known outcome", self.operations),
        ];
        lines.extend(self.faults.iter().map(|(kind, count)| format!("{kind:<42}{count:>14}")));
        lines.join("\n")
    }
}

/// Runs a seed; a panic inside it is a violation like any other.
#[must_use]
pub fn guarded(options: Options, run: fn(Options) -> Outcome) -> Outcome {
    std::panic::catch_unwind(|| run(options)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Outcome {
            seed: options.seed,
            violation: Some(format!("panic: {}", what.unwrap_or_else(|| "of an unknown kind".to_owned()))),
            events: 0,
            virtual_nanos: 0,
            hash: 0,
            operations: 0,
            faults: BTreeMap::new(),
        }
    })
}
