//! Who the members are at their start: founders, and those that were added to a cluster that runs.
//!
//! Where members come and go a machine's member is found by its peer URL, as a real one is: one that was added asks a
//! member that runs who it is, notes the answer durably, and begins.

use std::sync::Arc;

use quorate_disk::Disk;
use quorate_ids::{ClusterId, Incarnation, MemberId};
use quorate_member::core::{Founding, LogInput, move_to, pending_move};
use quorate_member::joining::{Offer, Told, believed};
use quorate_member::{Identity, Member, MemberList};
use quorate_wal::Wal;

use super::member::Input;
use super::{Event, Kind, World, member_id};
use crate::oracle::Checked;

pub(super) const CLUSTER: ClusterId = ClusterId(77);
/// The member of a machine that stands empty.
pub(super) const NOBODY: Identity =
    Identity { cluster: CLUSTER, member: MemberId::ZERO, incarnation: Incarnation::ZERO };

/// The founder on this machine.
pub(super) fn identity(member: usize) -> Identity {
    Identity { cluster: CLUSTER, member: member_id(member), incarnation: Incarnation(1_000 + member as u64) }
}

pub(super) fn url(member: usize) -> String {
    format!("http://m{member}:2380")
}

/// The members at the founding, as every founder's settings name them.
fn members(founders: usize) -> MemberList {
    MemberList::founded_by((0..founders).map(|member| Member {
        id: member_id(member),
        name: format!("m{member}"),
        peer_urls: vec![url(member)],
        ..Member::default()
    }))
}

/// The members as the founders begin with them. Founders do not know each other's incarnations; where members stay, nobody
/// need learn them.
pub(super) fn founders(kind: Kind, founders: usize) -> MemberList {
    match kind {
        Kind::Members | Kind::Joins => members(founders),
        Kind::Fixed | Kind::Full => members(founders).with_incarnations(|id| Some(Incarnation(999 + id.0))),
    }
}

/// What a start begins with.
pub(super) enum Begins {
    With(Option<Founding>),
    /// Nobody tells who it is, now.
    Later,
    /// It was told that it must not.
    Never,
}

impl World {
    /// What the member of this machine starts from. One that was added and has no data asks who it is.
    pub(super) fn begins(&mut self, member: usize, wal: &quorate_wal::Config) -> Begins {
        let identity = self.machines[member].identity;
        if !self.machines[member].joins {
            let members = founders(self.kind, self.plan.founders);
            return Begins::With(Some(Founding::Found { identity, members }));
        }
        if self.joins_by_request() {
            return self.begins_newcomer(member, wal);
        }
        let disk: Arc<dyn Disk> = Arc::new(self.machines[member].disk.clone());
        let Ok(exists) = Wal::exists(disk.as_ref(), wal) else { return Begins::Later };
        match pending_move(disk.as_ref()) {
            Ok(Some(offer)) => {
                self.is_now(member, &offer);
                return Begins::With(None);
            }
            Ok(None) if exists => return Begins::With(None),
            Ok(None) => {}
            Err(error) => {
                self.trace(|| format!("m{member} can't read what it joins: {error}"));
                return Begins::Later;
            }
        }
        self.ask_who_it_is(member, &disk)
    }

    fn ask_who_it_is(&mut self, member: usize, disk: &Arc<dyn Disk>) -> Begins {
        let now = self.events.now();
        let told: Vec<usize> = (0..self.plan.members)
            .filter(|other| *other != member && self.machines[*other].serving(now).is_some())
            .filter(|other| {
                !self.network.is_cut(now, *other, member) && !self.network.is_cut(now, member, *other)
            })
            .collect();
        // Some of them are asked, as its settings name them.
        let told: Vec<Told> = told
            .into_iter()
            .filter(|_| !self.rng.one_in(3))
            .filter_map(|other| {
                let machine = &self.machines[other];
                machine.running.as_ref()?;
                Some(Told { cluster: CLUSTER, by: machine.identity.member, members: (*machine.kept).clone() })
            })
            .collect();
        let mine = [url(member)];
        let Some(Told { members: list, .. }) = believed(&told, &mine) else { return Begins::Later };
        let Some(me) = list.iter().find(|peer| peer.peer_urls.contains(&mine[0])) else {
            return Begins::Later;
        };
        if me.incarnation != Incarnation::ZERO {
            self.trace(|| format!("m{member} was {} with another folder; it does not start", me.id));
            self.count("members: wiped, refused at its start");
            self.machines[member].given_up = true;
            return Begins::Never;
        }
        let incarnation = Incarnation(self.rng.draw().max(1));
        let offer = Offer { cluster: CLUSTER, member: me.id, incarnation, members: list.clone() };
        if move_to(disk.as_ref(), &offer).is_err() {
            return Begins::Later;
        }
        self.is_now(member, &offer);
        Begins::With(None)
    }

    /// A member that starts tells its log loop whom it met in earlier runs.
    pub(super) fn tell_met(&mut self, member: usize, at: u64) -> Checked {
        let Some(running) = &self.machines[member].running else { return Ok(()) };
        let Some(book) = &running.book else { return Ok(()) };
        let epoch = self.machines[member].epoch;
        for (id, incarnation) in book.all() {
            let input = Input::Log(LogInput::Met { member: id, incarnation });
            self.events.at(at, Event::Hand { member, epoch, input });
        }
        Ok(())
    }
}
