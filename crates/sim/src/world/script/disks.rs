//! What a script does to bytes at rest.

use super::Script;
use crate::disk::{Rot, Spot};
use crate::oracle::{Checked, Violation, ensure};

/// A bit of a member's log, of a time at which it was durable.
pub struct Bit {
    member: usize,
    spot: Spot,
}

impl Script {
    /// Chooses a bit of what this member has written to its log so far.
    pub fn bit_of_log(&self, member: usize) -> Checked<Bit> {
        let disk = &self.world.machines[member].disk;
        // Nothing was written yet to a segment that is spare.
        let spot = (0..100).find_map(|_| disk.spot(Rot::WrittenByte, &|path| path.starts_with("wal/")));
        let spot =
            spot.ok_or_else(|| Violation(format!("member {member} has written nothing to its log")))?;
        Ok(Bit { member, spot })
    }

    /// Flips the bit: the member may refuse to start, saying why.
    pub fn damage(&mut self, bit: &Bit) -> Checked {
        self.say(|| format!("m{}: a bit of {} at {} is flipped", bit.member, bit.spot.path, bit.spot.offset));
        let machine = &mut self.world.machines[bit.member];
        ensure!(machine.disk.flip(&bit.spot), "the log of member {} has moved on", bit.member);
        machine.damaged = true;
        Ok(())
    }

    /// Flips it back: the disk is as it was.
    pub fn undo_damage(&mut self, bit: &Bit) -> Checked {
        self.damage(bit)?;
        let machine = &mut self.world.machines[bit.member];
        (machine.damaged, machine.given_up, machine.failures) = (false, false, 0);
        Ok(())
    }
}
