//! Reading all that a member's disk holds, as an operator would who suspects it: what is damaged is mended.
//!
//! Invariant: once the faults have ended and the other members serve, every record of a damaged disk can be mended: the
//! others have it.

use quorate_member::core::TransferInput;
use quorate_models::tables::{HISTORY, KEYS, TREE, TREE_VALUES};
use quorate_store::{Location, Store};

use super::member::Input;
use super::{Event, MILLI, World};
use crate::oracle::{Checked, Violation, ensure};

/// Between two looks at a disk while its records are mended.
const SCRUB_NANOS: u64 = 400 * MILLI;
/// After so many looks all must be mended.
const SCRUBS_MAX: u32 = 60;
/// Keys looked at in a step.
const KEYS_MAX: usize = 1_000;

impl World {
    /// Has a member look through its records soon, for a client could not read one.
    pub(super) fn scrub_soon(&mut self, member: usize) {
        let epoch = self.machines[member].epoch;
        let wait = self.rng.below(SCRUB_NANOS);
        self.events.after(wait, Event::Scrub { member, epoch });
    }

    /// Has a member mend what it can't read; how many records that are.
    pub(super) fn scrub(&mut self, member: usize) -> usize {
        let now = self.events.now();
        let Some(running) = self.machines[member].serving(now) else { return 0 };
        let damaged = damaged(&running.stages.store);
        for &at in &damaged {
            self.count("record: found damaged by a reader");
            self.hand(member, now, Input::Transfer(TransferInput::Mend(at)));
        }
        damaged.len()
    }

    /// True once every record of every member can be read; else what can't be is on its way.
    pub(super) fn is_sound(&mut self) -> Result<bool, Violation> {
        let now = self.events.now();
        if now < self.scrub_due_at {
            return Ok(false);
        }
        self.scrub_due_at = now + SCRUB_NANOS;
        self.scrubs += 1;
        let counts = |member: &usize| self.operator.is_none() || self.is_member(*member);
        let damaged = (0..self.machines.len()).filter(counts).filter(|&member| self.machines[member].damaged);
        for member in damaged.collect::<Vec<_>>() {
            let left = self.scrub(member);
            ensure!(
                left == 0 || self.scrubs <= SCRUBS_MAX,
                "{left} records of member {member} are damaged and were not mended, though the others have them"
            );
            if left > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl World {
    /// What a member got in a snapshot is sound, whatever the disk of the sender has: it was checked before it was taken.
    pub(super) fn judge_installed(&self, member: usize) -> Checked {
        let machine = &self.machines[member];
        if (self.damaged.is_none() && !self.rot_was_received) || machine.damaged || machine.errors {
            return Ok(());
        }
        let Some(running) = &machine.running else { return Ok(()) };
        let found = damaged(&running.stages.store).len();
        ensure!(found == 0, "member {member} took a snapshot in which {found} records are damaged");
        Ok(())
    }
}

fn damaged(store: &Store) -> Vec<Location> {
    let mut found = Vec::new();
    for table in [KEYS, HISTORY, TREE, TREE_VALUES] {
        let mut from = Vec::new();
        // A read that fails for another reason than damage is tried again at the next look.
        while let Ok(part) = store.verify(table, &from, KEYS_MAX) {
            found.extend(part.damaged.into_iter().map(|(_, at, _)| at));
            match part.next {
                Some(next) => from = next,
                None => break,
            }
        }
    }
    found
}
