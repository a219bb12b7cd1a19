//! What members have shown of their tables: no member ever shows less again, to whomever, over its restarts too.
//!
//! One case is excepted, as the product states it: a member that was started again and heard of no leader for ten
//! election timeouts may show what its log knows to be committed, although there is more in its log.

use quorate_ids::{Incarnation, LogIndex, MemberId, Revision, TreeIndex};
use quorate_member::{Identity, Status};

use super::World;
use super::member::Running;
use crate::oracle::{Checked, ensure};

const ALONE_ELECTION_TIMEOUTS: u64 = 10;

/// The newest that a member showed, out of which data folder and in which run. What a lost disk held is gone: whoever comes
/// back without it is another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    member: MemberId,
    incarnation: Incarnation,
    epoch: u64,
    revision: Revision,
    index: TreeIndex,
}

impl Running {
    /// Follows for how long the member has heard of no leader, and whether that is why it begins to answer.
    pub fn follow(&mut self, status: &Status, now: u64, log_end: LogIndex, election_timeout_nanos: u64) {
        if self.status.leader.is_some() && status.leader.is_none() {
            self.alone_since = now;
        }
        if status.replayed && !self.status.replayed {
            // Clocks drift by less than a thousandth.
            let patience = ALONE_ELECTION_TIMEOUTS * election_timeout_nanos / 1_000 * 999;
            let alone = status.leader.is_none() && now >= self.alone_since + patience;
            self.shows_less = alone && status.applied < log_end;
        }
    }
}

impl World {
    /// Whether a member answers whoever asks only it; else it is asked in vain.
    pub(super) fn answers_alone(&mut self, member: usize) -> bool {
        let replayed = self.machines[member].running.as_ref().is_some_and(|running| running.status.replayed);
        if !replayed {
            self.count("client: a member was asked that applied its log again");
        }
        replayed
    }

    /// A member showed this revision of the keys, or this index of the tree.
    pub(super) fn showed(
        &mut self,
        member: usize,
        revision: Option<Revision>,
        index: Option<TreeIndex>,
    ) -> Checked {
        let machine = &self.machines[member];
        let Identity { member: id, incarnation, .. } = machine.identity;
        let mut before = machine.shown;
        if (before.member, before.incarnation) != (id, incarnation) {
            before = Shown { member: id, incarnation, epoch: machine.epoch, ..Shown::default() };
        }
        let restarted = before.epoch != machine.epoch;
        let excepted = restarted && machine.running.as_ref().is_some_and(|running| running.shows_less);
        let now = Shown {
            member: id,
            incarnation,
            epoch: machine.epoch,
            revision: revision.unwrap_or(before.revision),
            index: index.unwrap_or(before.index),
        };
        let less = now.revision < before.revision || now.index < before.index;
        ensure!(
            !less || excepted,
            "reads of member {member} went back{} from revision {} and index {} to {} and {}",
            if restarted { ", over a restart," } else { "" },
            before.revision,
            before.index,
            now.revision,
            now.index
        );
        if restarted {
            self.count("oracle: members' reads compared over a restart");
        }
        if less {
            self.count("oracle: lone members that showed less than before");
        }
        // What a lone member shows is counted from anew.
        self.machines[member].shown = if excepted {
            Shown { revision: revision.unwrap_or_default(), index: index.unwrap_or_default(), ..now }
        } else {
            now
        };
        Ok(())
    }
}
