//! Of two voters one is removed while it leads: the other must be able to go on, whatever is lost on the way.

use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk};
use quorate_ids::{ClusterId, Incarnation, MemberId};
use quorate_models::Feeds;

use super::tests::{TICK_NANOS, at, config};
use super::{ApplyOutput, Founding, LogInput, LogOutput, OpenConfig, Stages, open};
use crate::handle::{Identity, RequestError};
use crate::joining::{Question, Reply, Told};
use crate::membership::{Member, MemberList, MembershipRequest};

pub(super) const IDS: [MemberId; 2] = [MemberId(1), MemberId(2)];

/// Two members whose stages run one after the other.
pub(super) struct Two {
    pub members: [Stages; 2],
    pub ticks: u64,
    /// Nothing reaches this one.
    deaf: Option<usize>,
    ended: [bool; 2],
    asks: bool,
    /// Requests that were refused: by which member, which, and why.
    pub refused: Vec<(usize, u64, RequestError)>,
    /// Reads that were answered: by which member, and which.
    pub read: Vec<(usize, u64)>,
}

impl Two {
    fn founded() -> Self {
        Self::founded_with(|_, _| {})
    }

    pub fn founded_with(change: impl Fn(MemberId, &mut OpenConfig)) -> Self {
        let list = MemberList::founded_by(IDS.map(|id| Member { id, ..Member::default() }));
        let members = IDS.map(|member| {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
            let identity = Identity { cluster: ClusterId(7), member, incarnation: Incarnation(member.0) };
            let founding = Founding::Found { identity, members: list.clone() };
            let mut config = config();
            config.consensus.seed = member.0;
            config.log_loop.identity = identity;
            change(member, &mut config);
            open(&disk, &disk, config, Some(&founding), Feeds::new(0), at(0)).expect("a founding")
        });
        Self {
            members,
            ticks: 0,
            deaf: None,
            ended: [false; 2],
            asks: false,
            refused: Vec::new(),
            read: Vec::new(),
        }
    }

    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| member.log_loop.status().is_leader)
    }

    pub fn committed(&self, member: usize) -> u64 {
        self.members[member].log_loop.status().committed.0
    }

    pub fn tick(&mut self) {
        self.ticks += 1;
        let now = at(self.ticks * TICK_NANOS);
        for me in [0, 1] {
            for output in self.members[me].log_loop.turn(now) {
                self.output(me, output);
            }
            for output in self.members[me].apply.work(now) {
                match output {
                    ApplyOutput::Applied { index } => {
                        self.members[me].log_loop.step(LogInput::Applied { index }, now);
                    }
                    ApplyOutput::AnswerRead { seq, .. } => self.read.push((me, seq)),
                    _ => {}
                }
            }
        }
    }

    fn output(&mut self, me: usize, output: LogOutput) {
        let (now, other) = (at(self.ticks * TICK_NANOS), 1 - me);
        let hears = self.deaf != Some(other) && !self.ended[other];
        match output {
            LogOutput::Write(batch) => {
                let written = self.members[me].log_writer.step(batch);
                self.members[me].log_loop.step(written, now);
            }
            LogOutput::Apply(input) => self.members[me].apply.step(input),
            LogOutput::Send { frame, .. } if hears => {
                self.members[other].log_loop.step(LogInput::Frame { from: IDS[me], frame }, now);
            }
            LogOutput::AskMembers(_) => {
                self.asks = true;
                if hears {
                    let question =
                        LogInput::JoinQuestion { ask: 1, question: Question::Members, hosts: false };
                    self.members[other].log_loop.step(question, now);
                }
            }
            LogOutput::JoinReply { reply: Reply::Members(Told { by, members, .. }), .. } => {
                self.members[other].log_loop.step(LogInput::MembersTold { by, members }, now);
            }
            LogOutput::Removed => self.ended[me] = true,
            LogOutput::Refuse { seq, error } => self.refused.push((me, seq, error)),
            _ => {}
        }
    }

    /// Two that lead and follow for a while: who leads, and who follows.
    pub fn settled() -> (Self, usize, usize) {
        let mut two = Self::founded();
        two.until("a leader that committed in its term", |two| {
            two.leader().is_some_and(|at| two.committed(at) > 1)
        });
        let leader = two.leader().expect("a leader");
        for _ in 0..20 {
            two.tick();
        }
        (two, leader, 1 - leader)
    }

    /// The member at `leader` is asked to remove the one at `who`.
    fn remove(&mut self, leader: usize, who: usize) {
        let remove = MembershipRequest::Remove { id: IDS[who] };
        let now = at(self.ticks * TICK_NANOS);
        self.members[leader].log_loop.step(LogInput::ChangeMembership { seq: 1, request: remove }, now);
    }

    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("never: {what}");
    }
}

#[test]
fn a_leader_of_two_that_removes_itself_stays_until_the_other_knows() {
    let (mut two, leader, other) = Two::settled();
    let before = two.committed(leader);
    two.remove(leader, leader);
    // The other acknowledges the entry, and hears nothing more: not that it is committed.
    while two.committed(leader) == before {
        two.tick();
        let status = two.members[other].log_loop.status().clone();
        if status.last_index.0 > before {
            two.deaf = Some(other);
        }
    }
    for _ in 0..50 {
        two.tick();
    }
    assert_eq!(two.committed(other), before, "the other does not know");
    assert!(two.asks && !two.ended[leader], "the leader stays for as long as it is needed");
    two.deaf = None;
    two.until("the other leads alone, and the removed one ended", |two| {
        two.ended[leader] && two.leader() == Some(other) && two.committed(other) > before
    });
    two.until("the other commits alone", |two| two.committed(other) > before + 1);
}

#[test]
fn a_follower_of_two_that_never_hears_of_its_removal_asks_and_ends() {
    let (mut two, leader, other) = Two::settled();
    let before = two.committed(leader);
    two.remove(leader, other);
    // It acknowledges the entry that removes it, and hears nothing more of the one that leads.
    while two.committed(leader) == before {
        two.tick();
        if two.members[other].log_loop.status().last_index.0 > before {
            two.deaf = Some(other);
        }
    }
    assert_eq!(two.committed(other), before, "it does not know");
    two.until("it ends", |two| two.ended[other]);
    assert!(two.leader() == Some(leader) && !two.ended[leader]);
}
