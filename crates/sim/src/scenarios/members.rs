//! Changes of membership that went wrong.

use quorate_consensus::MessageKind;
use quorate_ids::{LogIndex, Term};
use quorate_member::MembershipRequest;

use super::{Scenario, puts, shows};
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};
use crate::world::script::Script;

pub const ALL: &[Scenario] = &[
    Scenario::new("a-change-at-the-start-of-a-term-overlaps-an-inherited-one", overlapping)
        .members(5)
        .spare(2),
    Scenario::new("a-removed-leader-goes-on-leading", removed_leader).spare(1),
    Scenario::new("the-leader-of-two-removes-itself-and-leaves-the-other-alone", leader_of_two)
        .members(2)
        .spare(1)
        .finds(&["leave-at-once"]),
    Scenario::new("a-removed-server-disrupts", disrupts).spare(1).tune(|plan, _| plan.pre_vote = false),
    Scenario::new("a-learner-without-the-log-becomes-a-voter", early_vote)
        .spare(1)
        .finds(&["promote-too-early"]),
];

/// A leader's addition reaches two others, of which it hears nothing; then it dies; the next one, which has it, is asked for another change
/// before anything of its own term is committed. (Single-server changes as first published missed that.)
fn overlapping(s: &mut Script) -> Checked {
    let first = s.leader()?;
    let have = [(first + 1) % 5, (first + 2) % 5];
    s.until("all are met", |s| s.all_applied() && (0..5).all(|member| s.is_known(member)))?;
    let before = s.oracle().committed_index();
    s.catch(move |_, to, message| {
        message.entries_count() > 0 && !have.contains(&to) || message.kind() == MessageKind::AppendResponse
    });
    s.begin_change(first, s.adding(201, 5))?;
    s.until("two have the addition", |s| have.iter().all(|member| last_index(s, *member) > before))?;
    s.pass(20_000_000)?;
    s.crash(first, CrashKind::Power);
    s.change_ends()?;
    ensure!(s.oracle().committed_index() == before, "the addition is committed already");
    // Nothing that the next leader appends is taken, so that it stands at the start of its term.
    s.catch(|_, _, message| message.entries_count() > 0);
    let leads = |s: &Script| have.into_iter().find(|member| s.leads(*member));
    s.until("one of them leads", |s| leads(s).is_some())?;
    let second = leads(s).expect("one of them leads");
    // It hears from the others by then, and would let them vote on more.
    s.pass(s.election_timeout_nanos() / 2)?;
    let at_start = last_index(s, second);
    s.begin_change(second, s.adding(202, 6))?;
    s.pass(3 * s.election_timeout_nanos() / 4)?;
    ensure!(s.leads(second), "the next leader leads no more");
    let last = last_index(s, second);
    ensure!(last == at_start, "another change is in the log at {last}, before the inherited one is made");
    s.release();
    s.change_ends()?;
    s.start(first)?;
    s.until("the addition that was inherited is made", |s| s.listed(5).is_some())?;
    s.look_after_machines();
    s.until("the new member has it all", |s| s.applied(5) == s.oracle().committed_index())?;
    if s.listed(6).is_none() {
        s.changes(second, &s.adding(203, 6))?;
    }
    s.look_after_machines();
    s.until("the other new member has it all", |s| s.applied(6) == s.oracle().committed_index())
}

fn last_index(s: &Script, member: usize) -> LogIndex {
    s.status(member).map_or(LogIndex::ZERO, |status| status.last_index)
}

/// The leader removes itself: it leads no more, and nothing is answered by it.
fn removed_leader(s: &mut Script) -> Checked {
    let old = s.leader()?;
    let others: Vec<usize> = (0..3).filter(|member| *member != old).collect();
    s.put(old, "k", "old")?;
    s.changes(old, &MembershipRequest::Remove { id: s.id(old) })?;
    s.until("the removed leader leads no more", |s| !s.leads(old))?;
    let new = s.leader_among(&others)?;
    s.put(new, "k", "new")?;
    if s.runs(old) {
        let asked = s.ask_read(old, "k")?;
        let told = s.hear(asked)?;
        ensure!(!told.is_done(), "a member that was removed answers {told:?}");
    }
    s.until("the removed member ends", |s| s.is_given_up(old))?;
    let reply = s.read(new, "k")?;
    ensure!(shows(&reply, "new"), "{reply:?}");
    Ok(())
}

/// Of two members the leader is removed while the other hears nothing for a while: it must not be left without a majority.
fn leader_of_two(s: &mut Script) -> Checked {
    let old = s.leader()?;
    let other = 1 - old;
    s.put(old, "k", "1")?;
    s.until("both have it", Script::all_applied)?;
    // The other one gets the removal into its log, and hears nothing more: not that it is committed.
    let committed = s.oracle().committed_index();
    s.catch(move |from, _, message| from == old && message.entries_count() == 0);
    s.begin_change(old, MembershipRequest::Remove { id: s.id(old) })?;
    s.until("the removal is committed", |s| s.oracle().committed_index() > committed)?;
    s.pass(4 * s.election_timeout_nanos())?;
    s.release();
    s.change_ends()?;
    s.until("the other one leads alone", |s| s.leads(other) && s.oracle().members.voters() == [s.id(other)])?;
    s.put(other, "k", "2")?;
    s.until("the removed member ends", |s| s.is_given_up(old))
}

/// A member is removed while it is away, does not know, and asks for votes in ever newer terms, for there is no PreVote. Each
/// of two defences has to do alone: those who hear of their leader listen to nobody who asks for votes, so what comes over
/// connections of old changes nothing; and new ones are refused (which is looked at at every handshake).
fn disrupts(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let away = (leader + 1) % 3;
    s.put(leader, "k", "1")?;
    s.until("all are met", |s| s.all_applied())?;
    s.cut_off(away);
    s.catch(move |from, _, message| from == away && message.kind() == MessageKind::RequestVote);
    s.changes(leader, &MembershipRequest::Remove { id: s.id(away) })?;
    let leader = s.leader()?;
    let term = s.term(leader);
    let others: Vec<usize> = (0..3).filter(|member| *member != away).collect();
    s.until("it asks both for votes in newer terms", |s| {
        let asks = |to: usize| {
            s.caught().iter().filter(move |caught| caught.to == to && caught.message.term() > term)
        };
        others.iter().all(|to| asks(*to).count() >= 3)
    })?;
    ensure!(s.runs(away), "the member that is away knows of its removal");
    for asks in s.release() {
        s.deliver(&asks)?;
        s.pass(s.election_timeout_nanos() / 8)?;
    }
    s.pass(s.election_timeout_nanos())?;
    stays(s, leader, term)?;
    s.heal();
    s.until("it ends", |s| s.is_given_up(away))?;
    // Its operator starts it again, with what it has.
    s.pass(10 * s.election_timeout_nanos())?;
    s.put(leader, "k", "2")?;
    stays(s, leader, term)
}

fn stays(s: &Script, leader: usize, term: Term) -> Checked {
    ensure!(
        s.leads(leader) && s.term(leader) == term,
        "a removed member unseated the leader of term {term}: {:?}",
        s.status(leader)
    );
    Ok(())
}

/// A learner that has next to nothing of the log is to become a voter.
fn early_vote(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    puts(s, leader, 60, 500)?;
    let MembershipRequest::Add { id, name, peer_urls, .. } = s.adding(201, 3) else {
        unreachable!("it adds")
    };
    s.changes(leader, &MembershipRequest::Add { id, name, peer_urls, is_learner: true })?;
    // It is not even started.
    for _ in 0..3 {
        let made = s.change(leader, MembershipRequest::Promote { id })?;
        ensure!(!made, "a learner that never ran became a voter");
    }
    s.look_after_machines();
    s.until("the learner has it all", |s| s.applied(3) == s.oracle().committed_index())?;
    s.changes(leader, &MembershipRequest::Promote { id })
}
