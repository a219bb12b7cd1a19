//! Giving up a founding: what is asked, what is refused, and crashes at every step of the move.

use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_ids::{ClusterId, Incarnation, MemberId};
use quorate_models::ModelId;
use quorate_store::Store;
use quorate_wal::Wal;

use super::tests::{self, TICK_NANOS, at, config, founding, identity, opened};
use super::{ApplyOutput, LogInput, LogOutput, Stages, move_to, pending_move, reply_to_offer};
use crate::handle::{Identity, RequestError};
use crate::joining::{AbsorbRefusal, JoinRefusal, Offer, Question, Reply};
use crate::membership::{Member, MemberList, MembershipRequest};

fn offer() -> Offer {
    let member = |id, is_learner| Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://m{id}:2380")],
        is_learner,
        ..Member::default()
    };
    Offer {
        cluster: ClusterId(8),
        member: MemberId(5),
        incarnation: identity().incarnation,
        members: MemberList::founded_by([member(4, false), member(5, true)]),
    }
}

fn put() -> LogInput {
    LogInput::Propose { seq: 1, model: ModelId::KEYS, command: tests::put() }
}

/// A member whose stages run one after the other.
struct Rig {
    stages: Stages,
    ticks: u64,
    said: Vec<LogOutput>,
}

impl Rig {
    /// A member that has founded its cluster with so many voters.
    fn founded(members: u64) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let stages = opened(&disk, Some(&founding(members))).expect("a founding");
        Self { stages, ticks: 0, said: Vec::new() }
    }

    /// One that leads, alone.
    fn leading() -> Self {
        let mut rig = Self::founded(1);
        rig.settle(100);
        assert!(rig.stages.log_loop.status().is_leader);
        rig
    }

    fn take(&mut self, input: LogInput) {
        self.stages.log_loop.step(input, at(self.ticks * TICK_NANOS));
    }

    fn ask(&mut self, question: Question, hosts: bool) {
        self.take(LogInput::JoinQuestion { ask: 7, question, hosts });
    }

    /// Lets so many ticks pass, everything between the stages being done at once.
    fn settle(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.ticks += 1;
            let now = at(self.ticks * TICK_NANOS);
            for output in self.stages.log_loop.turn(now) {
                match output {
                    LogOutput::Write(batch) => {
                        let written = self.stages.log_writer.step(batch);
                        self.stages.log_loop.step(written, now);
                    }
                    LogOutput::Apply(input) => self.stages.apply.step(input),
                    other => self.said.push(other),
                }
            }
            for output in self.stages.apply.work(now) {
                if let ApplyOutput::Applied { index } = output {
                    self.stages.log_loop.step(LogInput::Applied { index }, now);
                }
            }
        }
    }

    fn reply(&self) -> Option<&Reply> {
        self.said.iter().rev().find_map(|output| match output {
            LogOutput::JoinReply { ask: 7, reply } => Some(reply),
            _ => None,
        })
    }

    fn gave_up(&self) -> bool {
        self.said.iter().any(|output| matches!(output, LogOutput::GiveUp { ask: 7, .. }))
    }

    fn refusal(&self) -> Option<AbsorbRefusal> {
        match self.reply() {
            Some(Reply::Refused(JoinRefusal::Newcomer(refusal))) => Some(*refusal),
            Some(Reply::Me(me)) => me.refuses,
            _ => None,
        }
    }
}

#[test]
fn a_member_with_nothing_but_its_founding_gives_it_up_and_takes_no_more_commands() {
    let mut rig = Rig::leading();
    let publish = MembershipRequest::Publish {
        id: identity().member,
        name: "n".to_owned(),
        client_urls: vec!["http://c".to_owned()],
    };
    rig.take(LogInput::ChangeMembership { seq: 9, request: publish });
    rig.settle(3);
    rig.ask(Question::Who, false);
    rig.settle(1);
    assert!(matches!(rig.reply(), Some(Reply::Me(me)) if me.refuses.is_none() && me.name == "n"));
    rig.ask(Question::Absorb(offer()), false);
    rig.settle(3);
    assert!(rig.gave_up(), "{:?}", rig.said);
    rig.take(put());
    rig.settle(1);
    let refused =
        |output: &LogOutput| matches!(output, LogOutput::Refuse { seq: 1, error: RequestError::Moving });
    assert!(rig.said.iter().any(refused), "{:?}", rig.said);
    rig.ask(Question::Absorb(Offer { cluster: ClusterId(99), ..offer() }), false);
    rig.settle(1);
    assert_eq!(rig.refusal(), Some(AbsorbRefusal::Promised));
}

#[test]
fn a_command_that_was_on_its_way_when_the_offer_came_keeps_the_cluster() {
    let mut rig = Rig::leading();
    rig.take(put());
    rig.ask(Question::Absorb(offer()), false);
    assert_eq!(rig.reply(), None, "the log was clean so far");
    rig.settle(5);
    assert!(!rig.gave_up());
    assert_eq!(rig.refusal(), Some(AbsorbRefusal::HoldsCommands));
    // It goes on as if nothing had been asked.
    let before = rig.stages.apply.applied_index();
    rig.take(put());
    rig.settle(3);
    assert!(rig.stages.apply.applied_index() > before);
}

#[test]
fn offers_that_are_not_for_a_founder_at_rest_are_refused_by_their_reason() {
    let mut rig = Rig::leading();
    rig.ask(Question::Absorb(offer()), true);
    rig.settle(1);
    assert_eq!(rig.refusal(), Some(AbsorbRefusal::Hosts));
    rig.ask(Question::Absorb(Offer { incarnation: Incarnation(1), ..offer() }), false);
    rig.settle(1);
    assert_eq!(rig.refusal(), Some(AbsorbRefusal::StartedAnew));
    rig.take(put());
    rig.settle(3);
    for question in [Question::Who, Question::Absorb(offer())] {
        rig.ask(question, false);
        rig.settle(1);
        assert_eq!(rig.refusal(), Some(AbsorbRefusal::HoldsCommands));
    }
    let mut of_three = Rig::founded(3);
    of_three.ask(Question::Absorb(offer()), false);
    of_three.settle(1);
    assert_eq!(of_three.refusal(), Some(AbsorbRefusal::HadMembers));
    assert!(!rig.gave_up() && !of_three.gave_up());
}

#[test]
fn what_a_member_is_already_it_confirms() {
    let mut rig = Rig::leading();
    let me = identity();
    let same = Offer { cluster: me.cluster, member: me.member, ..offer() };
    rig.ask(Question::Absorb(same), false);
    rig.settle(1);
    assert_eq!(rig.reply(), Some(&Reply::Absorbed));
}

fn moved() -> Identity {
    Identity { cluster: ClusterId(8), member: MemberId(5), incarnation: identity().incarnation }
}

/// A founded member's disk with the record of its move.
fn disk_that_moves() -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(opened(&disk, Some(&founding(1))).expect("a founding"));
    move_to(disk.as_ref(), &offer()).expect("noted");
    disk
}

#[test]
fn a_crash_at_any_step_of_the_move_leaves_a_member_of_the_other_cluster() {
    let identity = |id: Identity| quorate_wal::Identity {
        cluster: id.cluster,
        member: id.member,
        incarnation: id.incarnation,
    };
    type Step = fn(&Arc<dyn Disk>, quorate_wal::Identity);
    let steps: [Step; 4] = [
        |disk, _| Wal::remove(disk.clone(), config().wal).expect("removed"),
        |disk, _| Store::erase(disk.as_ref(), 1).expect("erased"),
        |disk, new| drop(Wal::create(disk.clone(), config().wal, new, 1).expect("a new log")),
        |disk, new| {
            let new = quorate_store::Identity {
                cluster: new.cluster,
                member: new.member,
                incarnation: new.incarnation,
            };
            drop(Store::create(disk.clone(), config().store, new, 1).expect("a new store"));
        },
    ];
    for crash_after in 0..=steps.len() {
        let disk = disk_that_moves();
        for step in &steps[..crash_after] {
            step(&disk, identity(moved()));
        }
        // The settings are still those of its founding.
        let stages = opened(&disk, Some(&founding(1))).expect("it starts");
        assert_eq!(stages.identity, moved(), "after step {crash_after}");
        assert_eq!(stages.members.iter().count(), 2);
        assert_eq!(pending_move(disk.as_ref()).expect("read"), None);
        drop(stages);
        let again = opened(&disk, Some(&founding(1))).expect("it starts again");
        assert_eq!(again.identity, moved());
    }
}

#[test]
fn a_record_that_was_not_finished_moves_nobody() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    drop(opened(&disk, Some(&founding(1))).expect("a founding"));
    let file = disk.open("joining.new", Mode { create: true, ..Mode::default() }).expect("a file");
    file.write_at(b"half", 0).expect("written");
    assert_eq!(opened(&disk, Some(&founding(1))).expect("it starts").identity, identity());
}

/// The folder may not be synced, and still have the record: the host must not take the place away again.
#[test]
fn a_move_that_may_have_been_noted_is_not_refused() {
    let failed = Err(std::io::Error::other("the disk is gone"));
    assert!(matches!(reply_to_offer(&failed), Reply::Later { .. }), "{:?}", reply_to_offer(&failed));
    assert_eq!(reply_to_offer(&Ok(())), Reply::Absorbed);
}

#[test]
fn a_damaged_record_is_an_error_that_names_the_cure() {
    let disk = disk_that_moves();
    let file = disk.open("joining", Mode::default()).expect("the record");
    file.write_at(&[0xff], 12).expect("written");
    let error = opened(&disk, Some(&founding(1))).err().expect("refused").to_string();
    assert!(error.contains("--give-up-data"), "{error}");
}
