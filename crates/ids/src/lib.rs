//! The numbers that must not be mixed up, as newtypes.
//!
//! Every crate of the house shares these; they carry no behaviour beyond ordering, printing and a successor.

#![forbid(unsafe_code)]

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $display:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            pub const ZERO: Self = Self(0);

            /// The next value. Panics on overflow: at a million a second that takes 584,000 years.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect(concat!(stringify!($name), " overflow")))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $display, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $display, ")"), self.0)
            }
        }
    };
}

number!(
    /// A Raft term.
    Term, "{}"
);
number!(
    /// A place in the replicated log, counted from 1; 0 is "before the first entry".
    LogIndex, "{}"
);
number!(
    /// One incarnation of one member: its Raft id. Never used again once removed. Never 0.
    MemberId, "{:x}"
);
number!(
    /// A cluster. Never 0.
    ClusterId, "{:x}"
);
number!(
    /// The random number that a data folder gets when it is made: tells a wiped member from the one before.
    Incarnation, "{:x}"
);
number!(
    /// A revision of the keys model: counts the changes of the whole key space. An empty store is at 1.
    Revision, "{}"
);
number!(
    /// An index of the tree model: counts the changes of the whole tree. A tree that never changed is at 0.
    TreeIndex, "{}"
);
number!(
    /// Nanoseconds on a clock that never goes back within one process and means nothing outside it.
    Monotonic, "{}"
);
number!(
    /// Cluster time in nanoseconds: the leader's monotonic clock, carried by every entry, never going back.
    ClusterTime, "{}"
);
number!(
    /// Wall time in nanoseconds since 1970-01-01 UTC, never going back within a log.
    WallTime, "{}"
);

impl Monotonic {
    /// Nanoseconds since `earlier`; 0 where `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This time plus `nanos`.
    #[must_use]
    pub fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}
