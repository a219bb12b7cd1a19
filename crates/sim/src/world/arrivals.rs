//! How a machine's member begins where members join by request, and what it must be when it comes back.

use std::sync::Arc;

use quorate_disk::Disk;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId};
use quorate_member::core::{Founding, pending_move};
use quorate_member::joining::Offer;
use quorate_member::{Identity, MemberList, MembershipRequest};
use quorate_wal::Wal;

use super::founding::{Begins, NOBODY, url};
use super::newcomers::{Way, alone};
use super::{MILLI, World};
use crate::oracle::{Checked, Oracle, ensure};

impl World {
    /// The machine has no member: it gets the beginning of one.
    pub(super) fn set_up(&mut self, machine: usize) {
        let Some(newcomers) = &mut self.newcomers else { return };
        newcomers.next_id += 1;
        newcomers.off_at.remove(&machine);
        let id = newcomers.next_id;
        let incarnation = Incarnation(newcomers.rng.draw().max(1));
        let identity = match newcomers.way {
            Way::Absorbed => {
                Identity { cluster: ClusterId(1_000 + id), member: MemberId(10_000 + id), incarnation }
            }
            Way::Asks => NOBODY,
        };
        let here = &mut self.machines[machine];
        here.identity = identity;
        here.founded = (identity != NOBODY).then_some(identity);
        here.joins = true;
        here.moved = None;
        here.refused = None;
        here.asking = None;
        here.asks = identity == NOBODY;
        here.given_up = false;
        here.served = 0;
        here.written_term = 0;
        here.log_end = LogIndex::ZERO;
        here.kept = Arc::new(MemberList::default());
        if identity != NOBODY {
            self.numbers.insert(identity.member, machine);
            self.lone.insert(identity.cluster, Oracle::founded(&alone(machine, identity)));
        }
        self.trace(|| format!("m{machine} is set up as {:?}", identity.member));
    }

    /// What a machine's member starts from, where members join by request.
    pub(super) fn begins_newcomer(&mut self, machine: usize, wal: &quorate_wal::Config) -> Begins {
        let disk: Arc<dyn Disk> = Arc::new(self.machines[machine].disk.clone());
        let Ok(exists) = Wal::exists(disk.as_ref(), wal) else { return Begins::Later };
        match pending_move(disk.as_ref()) {
            Ok(Some(offer)) => self.is_now(machine, &offer),
            Ok(None) => {}
            Err(error) => {
                self.trace(|| format!("m{machine} can't read what it joins: {error}"));
                return Begins::Later;
            }
        }
        let moves = matches!(pending_move(disk.as_ref()), Ok(Some(_)));
        match self.machines[machine].founded {
            Some(founded) => {
                // Each start draws anew; the log keeps the one that it was begun with.
                let incarnation = Incarnation(self.newcomers_rng().draw().max(1));
                let identity = Identity { incarnation, ..founded };
                let members = alone(machine, identity);
                Begins::With(Some(Founding::Found { identity, members }))
            }
            // A founder that is one still.
            None if exists || moves => Begins::With(None),
            None => {
                self.begin_asking(machine);
                Begins::Never
            }
        }
    }

    /// A member says who it is at its start: what it was before, or what it said that it moved to.
    pub(super) fn came_back(&mut self, machine: usize, as_whom: Identity, list: &MemberList) -> Checked {
        let here = &mut self.machines[machine];
        if let Some(moved) = &here.moved {
            let wanted =
                Identity { cluster: moved.cluster, member: moved.member, incarnation: moved.incarnation };
            ensure!(
                as_whom == wanted,
                "m{machine} said that it moved to {wanted:?}, and came back as {as_whom:?}"
            );
        }
        ensure!(
            here.refused != Some(as_whom.member),
            "m{machine} refused to become {}, and came back as that",
            as_whom.member
        );
        let before = std::mem::replace(&mut here.identity, as_whom);
        let same = (as_whom.cluster, as_whom.member) == (before.cluster, before.member);
        ensure!(same, "m{machine} came back as {as_whom:?}, not as {before:?}");
        let listed = list.get(as_whom.member).map_or(Incarnation::ZERO, |me| me.incarnation);
        ensure!(
            listed == Incarnation::ZERO || listed == as_whom.incarnation,
            "m{machine} is {as_whom:?}, and its own list says that it is incarnation {listed}"
        );
        if as_whom.incarnation == before.incarnation {
            return Ok(());
        }
        // A founding that a crash cut short is begun anew, or goes on under the incarnation that the log noted.
        let founded = here.founded.is_some_and(|founded| founded.cluster == as_whom.cluster);
        let begun = self.oracle_at(machine).committed_index() > LogIndex::ZERO;
        ensure!(founded && !begun, "m{machine} came back as {as_whom:?}, not as {before:?}");
        self.lone.insert(as_whom.cluster, Oracle::founded(&alone(machine, as_whom)));
        Ok(())
    }

    /// Whether a peer says that the member of a machine that starts was removed while it was away.
    pub(super) fn is_told_that_it_was_removed(&self, machine: usize) -> bool {
        let asks = self.newcomers.as_ref().is_some_and(|newcomers| newcomers.way == Way::Asks);
        let now = self.events.now();
        let id = self.id_of(machine);
        asks && id != MemberId::ZERO
            && (0..self.plan.members)
                .filter(|other| *other != machine && self.machines[*other].serving(now).is_some())
                .filter(|other| !self.network.is_cut(now, *other, machine))
                .map(|other| self.machines[other].kept.was_removed(id))
                .next()
                .unwrap_or(false)
    }

    /// A member that was removed gives up what it has, and asks anew.
    pub(super) fn begin_anew(&mut self, machine: usize) -> Checked {
        self.count("joins: a removed member joins anew");
        self.trace(|| format!("m{machine} was removed while it was away; it asks anew"));
        self.machines[machine].disk.wipe();
        self.set_up(machine);
        self.restart_after(machine, MILLI);
        Ok(())
    }

    pub(super) fn is_now(&mut self, member: usize, offer: &Offer) {
        let machine = &mut self.machines[member];
        let identity =
            Identity { cluster: offer.cluster, member: offer.member, incarnation: offer.incarnation };
        if machine.identity != identity && machine.founded.is_some() {
            // What the machine was in its own cluster is no measure of what it is in this one.
            machine.log_end = LogIndex::ZERO;
            machine.kept = Arc::new(MemberList::default());
            machine.served = 0;
            machine.written_term = 0;
        }
        machine.identity = identity;
        self.numbers.insert(offer.member, member);
    }

    /// Newcomers are found by their URLs from the moment that they are members.
    pub(super) fn note_newcomer(&mut self, request: &MembershipRequest) {
        let MembershipRequest::Join { id, peer_urls, .. } = request else { return };
        let at = (0..self.plan.members).find(|member| peer_urls.contains(&url(*member)));
        if let Some(at) = at {
            self.numbers.entry(*id).or_insert(at);
        }
    }
}
