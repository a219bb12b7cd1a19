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
    #[cfg(feature = "mutants")]
    Consensus(quorate_consensus::Mutant),
    #[cfg(feature = "mutants")]
    Member(quorate_member::core::mutants::Mutant),
    #[cfg(feature = "mutants")]
    Store(quorate_store::mutants::Mutant),
    #[cfg(feature = "mutants")]
    Models(quorate_models::mutants::Mutant),
}

#[cfg(feature = "mutants")]
mod planted {
    use super::Mutant;
    use quorate_consensus::Mutant as Consensus;
    use quorate_member::core::mutants::Mutant as Member;
    use quorate_models::mutants::Mutant as Models;
    use quorate_store::mutants::Mutant as Store;

    pub const ALL: &[(&str, Mutant)] = &[
        ("skip-sync", Mutant::SkipSync),
        ("commit-without-quorum", Mutant::Consensus(Consensus::CommitWithoutQuorum)),
        ("forget-vote", Mutant::Consensus(Consensus::ForgetVote)),
        ("promise-before-write", Mutant::Member(Member::PromiseBeforeWrite)),
        ("apply-twice", Mutant::Member(Member::ApplyTwice)),
        ("apply-differently", Mutant::Member(Member::ApplyDifferently)),
        ("skip-read-round", Mutant::Member(Member::SkipReadRound)),
        ("read-before-apply", Mutant::Member(Member::ReadBeforeApply)),
        ("show-before-replay", Mutant::Member(Member::ShowBeforeReplay)),
        ("drop-watch-event", Mutant::Models(Models::DropWatchEvent)),
        ("keep-watch-events", Mutant::Models(Models::KeepWatchEvents)),
        ("forward-twice", Mutant::Member(Member::ForwardTwice)),
        ("refuse-the-unknown", Mutant::Member(Member::RefuseTheUnknown)),
        ("free-log-early", Mutant::Member(Member::FreeLogEarly)),
        ("follow-wall-clock", Mutant::Member(Member::FollowWallClock)),
        ("keep-lease-clock", Mutant::Member(Member::KeepLeaseClock)),
        ("revoke-in-a-later-term", Mutant::Member(Member::RevokeInALaterTerm)),
        ("confirm-lease-alone", Mutant::Member(Member::ConfirmLeaseAlone)),
        ("skip-checkpoint-sync", Mutant::Store(Store::SkipSync)),
        ("skip-body-check", Mutant::Store(Store::SkipBodyCheck)),
        ("skip-snapshot-check", Mutant::Store(Store::SkipSnapshotCheck)),
        ("keep-segments", Mutant::Store(Store::KeepSegments)),
        ("bump-empty-revision", Mutant::Models(Models::BumpEmptyRevision)),
        ("compact-too-far", Mutant::Models(Models::CompactTooFar)),
        ("drop-tree-event", Mutant::Models(Models::DropTreeEvent)),
        ("expire-tree-early", Mutant::Models(Models::ExpireTreeEarly)),
        ("swap-without-compare", Mutant::Models(Models::SwapWithoutCompare)),
        ("skip-auth-revision", Mutant::Models(Models::SkipAuthRevision)),
        ("forget-removed", Mutant::Member(Member::ForgetRemoved)),
        ("count-a-wiped-vote", Mutant::Member(Member::CountAWipedVote)),
        ("promote-too-early", Mutant::Member(Member::PromoteTooEarly)),
        ("leave-at-once", Mutant::Member(Member::LeaveAtOnce)),
        ("ignore-levels", Mutant::Member(Member::IgnoreLevels)),
    ];
}

impl Mutant {
    /// The mutants that this build has, by name.
    #[must_use]
    pub fn all() -> &'static [(&'static str, Self)] {
        #[cfg(feature = "mutants")]
        return planted::ALL;
        #[cfg(not(feature = "mutants"))]
        &[]
    }

    /// The mutant's name on the command line.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::all().iter().find(|(_, mutant)| *mutant == self).map(|(name, _)| *name)
    }

    /// Can the small world show it? It has neither store nor models nor a member's stages.
    #[must_use]
    pub fn shows_in_log_world(self) -> bool {
        match self {
            Self::None => true,
            #[cfg(feature = "mutants")]
            Self::SkipSync | Self::Consensus(_) => true,
            #[cfg(feature = "mutants")]
            _ => false,
        }
    }

    /// Can only the world in which members come and go show it?
    #[must_use]
    pub fn needs_changing_members(self) -> bool {
        #[cfg(feature = "mutants")]
        {
            use quorate_member::core::mutants::Mutant as Member;
            let planted = [
                Member::ForgetRemoved,
                Member::CountAWipedVote,
                Member::PromoteTooEarly,
                Member::LeaveAtOnce,
            ];
            matches!(self, Self::Member(mutant) if planted.contains(&mutant))
        }
        #[cfg(not(feature = "mutants"))]
        false
    }

    /// Is it left to the scenarios, because chance does not bring about what it takes?
    #[must_use]
    pub fn needs_a_script(self) -> bool {
        #[cfg(feature = "mutants")]
        return self == Self::Member(quorate_member::core::mutants::Mutant::RevokeInALaterTerm);
        #[cfg(not(feature = "mutants"))]
        false
    }

    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn of_consensus(self) -> quorate_consensus::Mutant {
        match self {
            Self::Consensus(mutant) => mutant,
            _ => quorate_consensus::Mutant::None,
        }
    }

    /// True for the mistake that only one member makes: members must find it themselves, so the simulator's own
    /// oracles leave that member alone.
    #[must_use]
    pub fn is_one_members_own(self) -> bool {
        #[cfg(feature = "mutants")]
        return self == Self::Member(quorate_member::core::mutants::Mutant::ApplyDifferently);
        #[cfg(not(feature = "mutants"))]
        false
    }

    /// Plants it in what runs on this thread from now on.
    pub fn plant(self) {
        #[cfg(feature = "mutants")]
        {
            quorate_member::core::mutants::plant(if let Self::Member(m) = self { Some(m) } else { None });
            quorate_store::mutants::plant(if let Self::Store(m) = self { Some(m) } else { None });
            quorate_models::mutants::plant(if let Self::Models(m) = self { Some(m) } else { None });
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
pub fn guarded(options: Options, run: impl FnOnce(Options) -> Outcome + std::panic::UnwindSafe) -> Outcome {
    options.mutant.plant();
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
