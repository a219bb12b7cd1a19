//! Members of two versions in one cluster, as while it is upgraded member by member.
//!
//! In some worlds a part of the founders runs an older program until they are first started again, at the latest once the
//! faults have ended. Two kinds of commands
//! are taken for new there. Invariant checked here: no entry reaches a member whose program does not know its kind.

use quorate_consensus::Entry;
use quorate_member::core::envelope_of;
use quorate_member::kinds::{Kinds, Level, Row};
use quorate_models::ModelId;

use super::member::Running;
use super::{Event, MILLI, SECOND, World};
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};

const OLD: Level = Level::BASE;
const NEW: Level = Level(2);

const fn row(model: ModelId, first: u8, last: u8, since: Level) -> Row {
    Row { model, first, last, version: 1, since }
}

/// Transactions of the keys and updates of the tree are new.
static TABLE: [Row; 8] = [
    row(ModelId::KEYS, 1, 2, OLD),
    row(ModelId::KEYS, 3, 3, NEW),
    row(ModelId::KEYS, 4, 10, OLD),
    row(ModelId::TREE, 1, 3, OLD),
    row(ModelId::TREE, 4, 4, NEW),
    row(ModelId::TREE, 5, 12, OLD),
    row(ModelId::TREE, 20, 21, OLD),
    row(ModelId::MEMBER, 1, 8, OLD),
];

impl World {
    /// What the program knows that a machine runs at its next start.
    pub(super) fn kinds(&self, member: usize) -> Kinds {
        if !self.plan.rolls() {
            return Kinds::default();
        }
        let starts_first = self.machines[member].epoch == 0;
        let is_old = starts_first && member < self.plan.founders && member.is_multiple_of(2);
        Kinds { table: &TABLE, own: if is_old { OLD } else { NEW } }
    }

    /// The faults are over: whoever still runs the older program is upgraded, one after the other.
    pub(super) fn finish_upgrade(&mut self) {
        let mut wait = 0;
        for member in 0..self.plan.founders {
            let machine = &self.machines[member];
            let runs_old = |running: &Running| running.kinds.own == OLD && self.plan.rolls();
            if !machine.running.as_deref().is_some_and(runs_old) {
                continue;
            }
            wait += SECOND;
            let epoch = machine.epoch;
            let down_nanos = 50 * MILLI;
            self.events.after(wait, Event::Crash { member, epoch, kind: CrashKind::Process, down_nanos });
        }
    }

    /// An entry is committed at a member.
    pub(super) fn is_known(&mut self, member: usize, entry: &Entry) -> Checked {
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let Some(Ok(envelope)) = envelope_of(entry) else { return Ok(()) };
        let needs = running.kinds.needs(envelope.model, &envelope.command);
        ensure!(
            needs.is_some(),
            "log entry {} is of a kind that the program of member {member} does not know: {:?}",
            entry.index,
            &envelope.command[..envelope.command.len().min(2)]
        );
        if needs > Some(OLD) {
            self.count("versions: a new kind was committed");
        }
        Ok(())
    }
}
