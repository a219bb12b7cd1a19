//! A leader that is cut off from the other members, and clients that go on keeping their leases alive through it.
//!
//! Whether such a leader still speaks for leases shows under narrow conditions only. Both lead for a while: the old leader
//! gives up one to two election timeouts after it was cut off (check-quorum), the others elect a new one, which grants all
//! leases their whole time, within about the same. What the old one says in between is wrong only if nobody renews the lease
//! through the new one, and if that one leads until the lease has ended. So the clients leave their leases to themselves once
//! they hear nothing any more, and nothing else goes wrong meanwhile.

use std::collections::BTreeSet;

use super::{Event, SECOND, World};
use crate::nemesis::Shape;

/// The leases of these clients last this long at most (see [`crate::workload::Mix::of_leases`]).
const LEASES_NANOS_MAX: u64 = 2 * SECOND;

/// See the module.
pub struct Vigil {
    leader: usize,
    until: u64,
    /// Who has heard from that leader ever since.
    keepers: BTreeSet<usize>,
}

impl World {
    /// Cuts a leader off for as long as its clients' leases may last beyond its time.
    pub(super) fn begin_vigil(&mut self, leader: usize) {
        let election_timeout_nanos = self.settings.tick_nanos * self.settings.election_ticks as u64;
        let nanos = 3 * election_timeout_nanos + LEASES_NANOS_MAX + SECOND;
        let until = self.events.now() + nanos;
        let keepers = (0..self.clients.len()).filter(|client| self.clients[*client].keeps_leases()).collect();
        self.vigil = Some(Vigil { leader, until, keepers });
        Shape::Alone { member: leader }.apply(&mut self.network, self.plan.members);
        self.events.after(nanos, Event::HealNetwork);
        self.count("network: leader cut off with clients that keep leases");
    }

    /// Nothing else goes wrong for the moment, and no partition that came before heals.
    pub(super) fn is_vigil(&self) -> bool {
        self.vigil.as_ref().is_some_and(|vigil| self.events.now() < vigil.until)
    }

    /// The leader that this client stays with.
    pub(super) fn stays_with(&self, client: usize) -> Option<usize> {
        let vigil = self.vigil.as_ref().filter(|_| self.is_vigil())?;
        vigil.keepers.contains(&client).then_some(vigil.leader)
    }

    /// The client's keep-alive came to nothing.
    pub(super) fn lost_touch(&mut self, client: usize) {
        self.clients[client].lost_touch();
        if let Some(vigil) = &mut self.vigil {
            vigil.keepers.remove(&client);
        }
    }
}
