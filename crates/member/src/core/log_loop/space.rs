//! What is refused where a disk is full, so that it can be emptied.
//!
//! Every member tells its leader how much space its disk has. The leader refuses what takes space if its own disk is full,
//! or if some member's is and those with enough space are no majority: then the reserves of the others are needed, too.
//! One full disk of three is passed by; three that fill up together are stopped while each can still be emptied.
//! Invariant: what frees space is refused only where nothing at all can be written any more.

use std::collections::BTreeMap;

use super::*;
use crate::frame::Space;

/// A member that is not heard of for so many election timeouts has said nothing.
const HEARD_TIMEOUTS_MAX: u64 = 3;
/// While a disk is full, checkpoints that give space back are this far apart: between them is time for rewriting.
const FREE_EVERY_NANOS: u64 = 2_000_000_000;

/// What is known of space.
#[derive(Debug, Default)]
pub(super) struct SpaceBook {
    log: Space,
    store: Space,
    /// A snapshot that this member needs does not fit its disk.
    snapshot: Option<SnapshotPoint>,
    peers: BTreeMap<MemberId, (Space, Monotonic)>,
    /// Whom this member told what, and when.
    told: Option<(MemberId, Space, Monotonic)>,
    /// As the leader: what takes space is refused.
    refuses: bool,
    /// As a follower: the leader said then that a majority does without this member.
    spared: Option<Monotonic>,
    /// A checkpoint was asked for at this index, so that space comes back.
    freeing: (LogIndex, Monotonic),
}

impl SpaceBook {
    /// The worst of all: what takes space takes it on both disks. A member that can't take the snapshot that it needs is
    /// full, too: those that have space go on without it, but do not fill up while it could still be helped by emptying.
    pub fn own(&self) -> Space {
        self.disks().max(if self.snapshot.is_some() { Space::Short } else { Space::Enough })
    }

    /// Whether a follower may refuse entries: see [`LogLoop::has_no_space_for`].
    pub fn has_refusing_peer(&self) -> bool {
        self.peers.values().any(|(space, _)| *space == Space::Last)
    }

    fn disks(&self) -> Space {
        self.log.max(self.store)
    }
}

impl LogLoop {
    pub(super) fn own_space(&mut self, log: Option<Space>, store: Option<Space>, now: Now) {
        let before = self.space.disks();
        self.space.log = log.unwrap_or(self.space.log);
        self.space.store = store.unwrap_or(self.space.store);
        let space = self.space.disks();
        match (before.is_full(), space.is_full()) {
            (false, true) => tracing::warn!(
                "the disk is full: a reserve is used so that it can be emptied; delete keys and compact, or give it space"
            ),
            (true, false) => tracing::info!("the disk has space again"),
            _ => {}
        }
        self.look_at_space(now);
    }

    pub(super) fn snapshot_has_no_room(&mut self, point: SnapshotPoint, (bytes, room): (u64, u64), now: Now) {
        if self.space.snapshot.replace(point).is_none() {
            tracing::warn!(
                index = %point.index, bytes, room,
                "a snapshot does not fit the disk: give it space, or delete keys and compact, so that one does"
            );
        }
        self.look_at_space(now);
    }

    pub(super) fn peer_space(&mut self, peer: MemberId, space: Space, now: Now) {
        self.space.peers.insert(peer, (space, now.monotonic));
        self.look_at_space(now);
        if space == Space::Last && self.leads() && !self.space.refuses {
            self.send(peer, Lane::Control, &Frame::Spared { term: self.consensus.leadership().2 });
        }
    }

    pub(super) fn spared(&mut self, term: Term, now: Now) {
        if self.consensus.leadership().2 == term {
            self.space.spared = Some(now.monotonic);
        }
    }

    /// Tells the leader of this member's space; as the leader, decides what is refused.
    pub(super) fn look_at_space(&mut self, now: Now) {
        // It came in the end, or the log did.
        self.space.snapshot.take_if(|point| point.index <= self.committed);
        let patience = HEARD_TIMEOUTS_MAX * self.config.election_timeout_nanos;
        self.space.peers.retain(|_, (_, heard)| now.monotonic.since(*heard) < patience);
        let (role, leader, _) = self.consensus.leadership();
        let refuses = role == Role::Leader && self.must_refuse();
        if refuses != self.space.refuses {
            self.space.refuses = refuses;
            let full: Vec<String> = self.full_members().map(|member| member.to_string()).collect();
            match refuses {
                true => {
                    tracing::warn!(?full, "writes that take space are refused: disks of members are full")
                }
                false => tracing::info!("writes that take space are accepted again"),
            }
        }
        if let (Role::Follower, Some(leader)) = (role, leader) {
            self.tell_space(leader, now);
        }
        self.free_space(now);
    }

    /// Checkpoints are what gives space back: of the log, and of what was deleted. While a disk is full nobody waits until
    /// much has been written; for another's disk the leader does the same, as a smaller snapshot may fit there.
    fn free_space(&mut self, now: Now) {
        let (index, asked) = self.space.freeing;
        let due = now.monotonic.since(asked) >= FREE_EVERY_NANOS && self.applied > index;
        if due && (self.space.own().is_full() || (self.leads() && self.full_members().next().is_some())) {
            self.space.freeing = (self.applied, now.monotonic);
            self.out.push(LogOutput::Apply(ApplyInput::CheckpointNow));
        }
    }

    fn full_members(&self) -> impl Iterator<Item = MemberId> + '_ {
        let own = self.space.own().is_full().then_some(self.config.identity.member);
        let peers = self.space.peers.iter().filter(|(_, (space, _))| space.is_full());
        own.into_iter().chain(peers.map(|(id, _)| *id))
    }

    fn must_refuse(&self) -> bool {
        let voters = &self.membership.voters;
        self.space.own().is_full()
            || (self.full_members().any(|id| voters.contains(&id)) && !self.majority_has_space())
    }

    /// Whether a leader whose disk is full could be replaced by one that need not refuse anything.
    pub(super) fn others_have_space(&self) -> bool {
        self.space.own().is_full() && self.majority_has_space()
    }

    fn majority_has_space(&self) -> bool {
        let status = self.consensus.status();
        let active = |id: &MemberId| {
            *id == self.config.identity.member
                || status.progress.get(id).is_some_and(|follower| follower.recent_active)
        };
        let voters = &self.membership.voters;
        let enough = voters.iter().filter(|id| active(id) && self.has_enough_space(**id)).count();
        enough >= quorum(voters.len())
    }

    /// As far as it said anything.
    pub(super) fn has_enough_space(&self, member: MemberId) -> bool {
        let said = self.space.peers.get(&member).map_or(Space::Enough, |(space, _)| *space);
        let space = if member == self.config.identity.member { self.space.own() } else { said };
        space == Space::Enough
    }

    fn tell_space(&mut self, leader: MemberId, now: Now) {
        let space = self.space.own();
        let news = match self.space.told {
            Some((to, said, at)) if to == leader => {
                let due = now.monotonic.since(at) >= self.config.election_timeout_nanos;
                said != space || (space != Space::Enough && due)
            }
            _ => space != Space::Enough,
        };
        if news {
            self.space.told = Some((leader, space, now.monotonic));
            self.send(leader, Lane::Control, &Frame::Space(space));
        }
    }

    /// Whether a request that came to this member is refused for want of space.
    pub(super) fn refuses_for_space(&self, request: &Request) -> bool {
        // A member with so little left may not see the end of a put.
        let refuses = self.space.refuses || self.space.own() == Space::Last;
        refuses && takes_space(request)
    }

    /// Entries that a follower does not take any more: a majority does without it, and it keeps what is left of its
    /// reserve for votes and for what frees space.
    pub(super) fn has_no_space_for(&self, message: &Message, now: Now) -> bool {
        let patience = HEARD_TIMEOUTS_MAX * self.config.election_timeout_nanos;
        let spared = self.space.spared.is_some_and(|said| now.monotonic.since(said) < patience);
        spared
            && self.space.own() == Space::Last
            && message.entries().any(|entry| match envelope_of(&entry) {
                Some(Ok(envelope)) if envelope.model != quorate_models::ModelId::MEMBER => {
                    takes_space(&Request::Command { model: envelope.model, command: envelope.command })
                }
                _ => false,
            })
    }
}

fn takes_space(request: &Request) -> bool {
    match request {
        Request::Command { model, command } => {
            quorate_models::Command::decode(*model, command).is_ok_and(|command| command.takes_space())
        }
        Request::Membership(_) => false,
    }
}
