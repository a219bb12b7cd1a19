//! Deliberate mistakes, to prove that the simulator's oracles catch them. A normal build has none: `planted!` is false.

#[cfg(feature = "mutants")]
mod planting {
    use std::cell::Cell;

    /// A deliberate mistake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mutant {
        /// The checksum of a body is not looked at.
        SkipBodyCheck,
        /// The checksums of received files are not looked at.
        SkipSnapshotCheck,
        /// What a checkpoint writes is not synced.
        SkipSync,
        /// A segment that is not needed any more is not unlinked.
        KeepSegments,
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
