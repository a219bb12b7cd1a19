//! A script's operator: members that come and go, and machines that join by request.

use quorate_ids::{ClusterId, MemberId};
use quorate_member::MembershipRequest;

use super::Script;
use crate::disk::CrashKind;
use crate::oracle::{Checked, Violation};
use crate::world::founding::{CLUSTER, url};

impl Script {
    /// The id of the member on a machine.
    #[must_use]
    pub fn id(&self, machine: usize) -> MemberId {
        self.world.id_of(machine)
    }

    /// The member that the log has at a machine's address.
    #[must_use]
    pub fn listed(&self, machine: usize) -> Option<MemberId> {
        self.world.oracle.members.with_url(&url(machine))
    }

    /// Has the cluster's members changed, asking this member once; whether that was done.
    pub fn change(&mut self, through: usize, request: MembershipRequest) -> Checked<bool> {
        let made = self.counted("members: change made");
        self.begin_change(through, request)?;
        self.change_ends()?;
        Ok(self.counted("members: change made") > made)
    }

    /// Asks for a change, and goes on.
    pub fn begin_change(&mut self, through: usize, request: MembershipRequest) -> Checked {
        if let MembershipRequest::Add { id, peer_urls, .. } = &request
            && let Some(machine) = self.world.machine_at(&peer_urls[0])
        {
            self.world.numbers.insert(*id, machine);
        }
        self.world.change_through(through, request)
    }

    /// The change that was asked for was made, or not.
    pub fn change_ends(&mut self) -> Checked {
        self.until("the change of members ends", |script| {
            script.world.operator.as_ref().is_none_or(|operator| !operator.is_busy())
        })
    }

    /// The same, until it is done.
    pub fn changes(&mut self, through: usize, request: &MembershipRequest) -> Checked {
        for _ in 0..100 {
            self.until("the member runs", |script| script.world.serving_clients(through).is_some())?;
            if self.change(through, request.clone())? {
                return Ok(());
            }
            self.pass(self.election_timeout_nanos())?;
        }
        Err(Violation(format!("{request:?} is not made")))
    }

    /// A request for a new member on a machine.
    #[must_use]
    pub fn adding(&self, id: u64, machine: usize) -> MembershipRequest {
        let peer_urls = vec![url(machine)];
        MembershipRequest::Add { id: MemberId(id), name: String::new(), peer_urls, is_learner: false }
    }

    /// Whether the data folder of a machine's member is in the log.
    #[must_use]
    pub fn is_known(&self, machine: usize) -> bool {
        let (id, incarnation) = (self.id(machine), self.world.machines[machine].identity.incarnation);
        self.world.oracle.members.incarnation(id) == incarnation
    }

    /// Starts what was added on machines that stand empty, and turns off what was removed.
    pub fn look_after_machines(&mut self) {
        self.world.look_after_machines();
    }

    /// The machine is down, and gets a new disk.
    pub fn wipe(&mut self, machine: usize) {
        self.crash(machine, CrashKind::Power);
        self.world.lose_disk(machine);
    }

    /// Whether its member will not start again by itself.
    #[must_use]
    pub fn is_given_up(&self, machine: usize) -> bool {
        self.world.machines[machine].given_up
    }

    /// The machine stands empty from now on: its member is gone for good.
    pub fn empty(&mut self, machine: usize) {
        self.world.turn_off(machine);
    }

    // ---- joining by request ----

    /// The machine founds a cluster of its own.
    pub fn found_alone(&mut self, machine: usize) -> Checked {
        self.world.set_up(machine);
        self.start(machine)
    }

    #[must_use]
    pub fn cluster(&self, machine: usize) -> ClusterId {
        self.world.machines[machine].identity.cluster
    }

    #[must_use]
    pub fn is_of_the_first(&self, machine: usize) -> bool {
        self.cluster(machine) == CLUSTER
    }

    /// The cluster of a machine is asked to keep a key.
    pub fn keep_alone(&mut self, machine: usize) -> Checked {
        self.world.write_alone(machine)?;
        self.until("its cluster keeps a key", |script| {
            script.world.lone.get(&script.cluster(machine)).is_some_and(crate::oracle::Oracle::holds_anything)
        })
    }

    /// A member is told to absorb the cluster of a machine.
    pub fn absorb(&mut self, host: usize, machine: usize) -> Checked {
        self.begin_absorbing(host, machine)?;
        self.absorbing_ends()
    }

    /// The same, and goes on.
    pub fn begin_absorbing(&mut self, host: usize, machine: usize) -> Checked {
        self.world.absorb(host, &format!("m{machine}"), machine, true)
    }

    pub fn absorbing_ends(&mut self) -> Checked {
        self.until("the admission ends", |script| {
            script.world.newcomers.as_ref().is_none_or(|newcomers| newcomers.hosting.is_idle())
        })
    }

    /// The machine's member leads its own cluster.
    pub fn leads_alone(&mut self, machine: usize) -> Checked {
        self.until("it leads alone", |script| {
            script.leads(machine) && script.status(machine).is_some_and(|status| status.applied.0 > 1)
        })
    }
}
