//! Deliberate mistakes, to prove that the simulator's oracles catch them. A normal build has none: `planted!` is false.

#[cfg(feature = "mutants")]
mod planting {
    use std::cell::Cell;

    /// A deliberate mistake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mutant {
        /// Some events never reach the watchers.
        DropWatchEvent,
        /// What watchers are given from memory after a snapshot is what was there before it.
        KeepWatchEvents,
        /// A transaction that changes nothing makes a revision.
        BumpEmptyRevision,
        /// Compaction forgets what is visible at the compacted revision.
        CompactTooFar,
        /// Some events of the tree reach no live watcher.
        DropTreeEvent,
        /// A node of the tree ends up to a second before its time.
        ExpireTreeEarly,
        /// A compare-and-swap of the tree does not look at the value.
        SwapWithoutCompare,
        /// A command takes effect though users and roles have changed since it was allowed.
        SkipAuthRevision,
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
        $crate::mutants::is_planted($crate::mutants::Mutant::$mutant)
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($mutant:ident) => {
        false
    };
}
pub(crate) use planted;
