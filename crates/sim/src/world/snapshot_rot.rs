//! Snapshots whose bytes go bad: at the sender before it reads them, or at the receiver before it has looked at all of them.
//!
//! Neither may be installed. What the receiver has of a snapshot counts only once it was read back whole, so bits of it may
//! flip without its disk being a damaged one; the sender's disk is one from then on.

use super::World;
use crate::disk::Rot;
use crate::nemesis::{Damage, End};

impl World {
    /// A snapshot's manifest is on its way: its files are read next.
    pub(super) fn rot_at_sender(&mut self, member: usize) {
        if self.rot_in_snapshot != Some(End::Sender) || !self.storm || !self.may_damage(member) {
            return;
        }
        self.rot_in_snapshot = None;
        self.damage_disk_of(member, Damage::RotInRecords);
        self.count("snapshot: bits flipped at the sender");
        self.trace(|| format!("m{member}: bits flip in what it sends"));
    }

    /// A member took pieces of a snapshot.
    pub(super) fn rot_at_receiver(&mut self, member: usize) {
        if self.rot_in_snapshot != Some(End::Receiver) || !self.storm {
            return;
        }
        let disk = self.machines[member].disk.clone();
        let files = disk.listing();
        // What has a manifest was looked at already.
        let is_store = |folder: &str| files.iter().any(|(path, _)| *path == format!("{folder}/manifest"));
        let incoming = |path: &str| {
            path.split_once('/').is_some_and(|(folder, _)| folder.starts_with("store-") && !is_store(folder))
        };
        if let Some((path, offset)) = disk.rot(Rot::WrittenByte, &incoming) {
            self.rot_in_snapshot = None;
            self.rot_was_received = true;
            self.count("snapshot: bit flipped at the receiver");
            self.trace(|| format!("m{member}: a bit of {path} flips at {offset} while it is received"));
        }
    }
}
