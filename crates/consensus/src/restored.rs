//! What a member starts from: the state that its disk gave back.

use quorate_ids::{LogIndex, Term};

use crate::entry::{Entry, HardState};
use crate::membership::{Membership, MembershipError};
use crate::{ENTRY_BYTES_MAX, NUMBER_MAX};

/// The durable state at start.
///
/// `compacted` is the point before the first entry: everything up to it lives only in the store. A member of a new
/// cluster starts from [`Restored::founding`], one that joins an existing cluster from [`Restored::joining`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The last hard state that is durable.
    pub hard_state: HardState,
    /// The members as of `applied`.
    pub membership: Membership,
    /// The index and term just before `entries`; (0, 0) only where nothing was ever received.
    pub compacted: (LogIndex, Term),
    /// The log after `compacted`, without a gap.
    pub entries: Vec<Entry>,
    /// The store contains the effects of every entry up to here.
    pub applied: LogIndex,
}

impl Restored {
    /// The start of every voter of a new cluster: as if a snapshot at index 1 had been installed that holds nothing but
    /// the members. So the first entry has index 2, and whoever joins later gets the founding members by snapshot.
    #[must_use]
    pub fn founding(membership: Membership) -> Self {
        let (index, term) = (LogIndex(1), Term(1));
        Self {
            hard_state: HardState { term, vote: None, commit: index },
            membership,
            compacted: (index, term),
            entries: Vec::new(),
            applied: index,
        }
    }

    /// The start of a member that waits to be sent a snapshot: no members, no log.
    #[must_use]
    pub fn joining() -> Self {
        Self {
            hard_state: HardState::default(),
            membership: Membership::default(),
            compacted: (LogIndex::ZERO, Term::ZERO),
            entries: Vec::new(),
            applied: LogIndex::ZERO,
        }
    }

    /// The index of the last entry, or of the compacted point where there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.entries.last().map_or(self.compacted.0, |entry| entry.index)
    }

    /// The commit index to start with: what the hard state says, or what is applied, if that is more (the store's
    /// checkpoint may be newer than the hard state's last commit).
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.hard_state.commit.max(self.applied)
    }

    pub(crate) fn validate(&self) -> Result<(), RestoredError> {
        let (compacted, compacted_term) = self.compacted;
        let mut index = compacted;
        let mut term = compacted_term;
        if compacted.0 > NUMBER_MAX || self.hard_state.term.0 > NUMBER_MAX {
            return Err(RestoredError::TooLarge);
        }
        if (compacted == LogIndex::ZERO) != (compacted_term == Term::ZERO) {
            return Err(RestoredError::CompactedTerm { compacted, term: compacted_term });
        }
        for entry in &self.entries {
            if entry.index != index.next() {
                return Err(RestoredError::Gap { after: index, found: entry.index });
            }
            if entry.term < term || entry.term > self.hard_state.term || entry.term == Term::ZERO {
                return Err(RestoredError::EntryTerm { index: entry.index, term: entry.term });
            }
            if entry.data.len() > ENTRY_BYTES_MAX || !entry.kind.admits_len(entry.data.len()) {
                return Err(RestoredError::EntryData { index: entry.index, len: entry.data.len() });
            }
            (index, term) = (entry.index, entry.term);
        }
        if term > self.hard_state.term {
            return Err(RestoredError::HardStateTerm { hard_state: self.hard_state.term, log: term });
        }
        let last = self.last_index();
        if self.applied > last {
            return Err(RestoredError::AppliedBeyondLog { applied: self.applied, last });
        }
        if self.applied < compacted {
            return Err(RestoredError::AppliedBelowLog { applied: self.applied, compacted });
        }
        if self.commit() > last {
            return Err(RestoredError::CommitBeyondLog { commit: self.commit(), last });
        }
        self.membership.check()?;
        if self.membership.is_empty() != (self.applied == LogIndex::ZERO) {
            return Err(RestoredError::MembershipWithoutIndex);
        }
        Ok(())
    }
}

/// Why a member cannot start from what its disk gave back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoredError {
    #[error(
        "the log has entry {found} after {after}: entries are missing; restore this member from its peers"
    )]
    Gap { after: LogIndex, found: LogIndex },
    #[error("log entry {index} has term {term}, which does not fit its neighbours or the hard state")]
    EntryTerm { index: LogIndex, term: Term },
    #[error("log entry {index} has {len} bytes of data, which its kind does not allow")]
    EntryData { index: LogIndex, len: usize },
    #[error(
        "the log starts after index {compacted} of term {term}: one of the two is 0 and the other is not"
    )]
    CompactedTerm { compacted: LogIndex, term: Term },
    #[error("the hard state has term {hard_state}, the log already term {log}: a hard state was lost")]
    HardStateTerm { hard_state: Term, log: Term },
    #[error(
        "the store has applied index {applied}, the log ends at {last}: log entries were lost; refusing to start"
    )]
    AppliedBeyondLog { applied: LogIndex, last: LogIndex },
    #[error(
        "the store has applied index {applied}, the log starts after {compacted}: entries between are missing"
    )]
    AppliedBelowLog { applied: LogIndex, compacted: LogIndex },
    #[error("index {commit} is committed, the log ends at {last}: log entries were lost; refusing to start")]
    CommitBeyondLog { commit: LogIndex, last: LogIndex },
    #[error(
        "members are known exactly if something is applied: start from Restored::founding or Restored::joining"
    )]
    MembershipWithoutIndex,
    #[error("a term or index is larger than any real one")]
    TooLarge,
    #[error("the restored membership is refused: {0}")]
    Membership(#[from] MembershipError),
}
