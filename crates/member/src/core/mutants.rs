//! Deliberate mistakes, to prove that the simulator's oracles catch them. A normal build has none: `planted!` is false.

#[cfg(feature = "mutants")]
mod planting {
    use std::cell::Cell;

    /// A deliberate mistake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mutant {
        /// Some commands are applied twice.
        ApplyTwice,
        /// Some commands are applied twice by member 2 alone.
        ApplyDifferently,
        /// A linearizable read asks no quorum.
        SkipReadRound,
        /// A linearizable read does not wait until its index is applied.
        ReadBeforeApply,
        /// A member that was started again answers at once whoever asks only it.
        ShowBeforeReplay,
        /// Votes and acknowledgements leave before what they promise is durable.
        PromiseBeforeWrite,
        /// Some requests are forwarded twice in one term.
        ForwardTwice,
        /// A request whose outcome is unknown is refused as if it had not happened.
        RefuseTheUnknown,
        /// The log is freed up to what is applied, not up to what a checkpoint holds.
        FreeLogEarly,
        /// A leader stamps entries with its wall clock, whatever the last stamp was.
        FollowWallClock,
        /// A leader goes on with the lease clock of an earlier term.
        KeepLeaseClock,
        /// What ran out in an earlier term is proposed as if it had run out in this one.
        RevokeInALaterTerm,
        /// A leader answers for leases without a quorum.
        ConfirmLeaseAlone,
        /// The member list does not remember who was removed.
        ForgetRemoved,
        /// A member that comes back with an empty folder is let in as if it were the one that it was.
        CountAWipedVote,
        /// A learner becomes a voter whatever it has of the log.
        PromoteTooEarly,
        /// A member that was removed ends at once, whatever the others know.
        LeaveAtOnce,
        /// A command is proposed whatever versions the members run.
        IgnoreLevels,
    }

    thread_local! {
        // The simulator runs a whole cluster on one thread.
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Plants a mistake in all that runs on this thread from now on.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    pub(crate) fn is_planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub(crate) use planting::is_planted;
#[cfg(feature = "mutants")]
pub use planting::{Mutant, plant};

#[cfg(feature = "mutants")]
macro_rules! planted {
    ($mutant:ident) => {
        $crate::core::mutants::is_planted($crate::core::mutants::Mutant::$mutant)
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($mutant:ident) => {
        false
    };
}
pub(crate) use planted;
