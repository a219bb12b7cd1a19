//! Joins after which members, or clusters, differed and nobody said so.

use quorate_member::MembershipRequest;

use super::{Scenario, puts, shows};
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};
use crate::world::script::Script;

pub const ALL: &[Scenario] = &[
    Scenario::new("a-wiped-member-comes-back-under-its-name", wiped).spare(1).finds(&["count-a-wiped-vote"]),
    Scenario::new("a-joiner-has-the-data-of-another-life", old_folder).spare(1).finds(&["forget-removed"]),
    Scenario::new("founders-are-killed-while-they-found", founding).spare(1).down(),
    Scenario::new("a-lone-founder-is-killed-while-it-founds", lone_founder).lone(1),
    Scenario::new("two-clusters-merge", merging).lone(3),
];

const OF_ANOTHER: &str = "handshake: refused, of another cluster";

/// A member loses its disk and comes back under its name: it has no vote until it is removed and another added.
fn wiped(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let lost = (leader + 1) % 3;
    let third = (leader + 2) % 3;
    s.until("all are met", |s| s.all_applied() && s.is_known(lost))?;
    // What it acknowledged is on its disk and the leader's.
    s.catch(move |_, to, message| to == third && message.entries_count() > 0);
    s.put(leader, "k", "1")?;
    s.wipe(lost);
    s.crash(leader, CrashKind::Power);
    s.release();
    s.start(lost)?;
    // With the one that never heard of the put it would be a majority.
    s.pass(20 * s.election_timeout_nanos())?;
    ensure!(!s.leads(third) && !s.leads(lost), "a member without its disk made a majority");
    s.start(leader)?;
    let leader = s.leader()?;
    let reply = s.read(leader, "k")?;
    ensure!(shows(&reply, "1"), "{reply:?}");
    s.changes(leader, &MembershipRequest::Remove { id: s.id(lost) })?;
    s.empty(lost);
    s.changes(leader, &s.adding(201, lost))?;
    s.look_after_machines();
    s.until("the new member has it all", |s| s.applied(lost) == s.oracle().committed_index())
}

/// A member is removed while it is down, another one added at its address, and the machine started with the old folder.
fn old_folder(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let down = (leader + 1) % 3;
    puts(s, leader, 20, 100)?;
    s.until("all are met", |s| s.all_applied() && s.is_known(down))?;
    let old = s.id(down);
    s.crash(down, CrashKind::Process);
    s.changes(leader, &MembershipRequest::Remove { id: old })?;
    puts(s, leader, 20, 100)?;
    s.changes(leader, &s.adding(201, down))?;
    s.start(down)?;
    s.until("it ends", |s| s.is_given_up(down))?;
    ensure!(s.id(down) == old, "it became another with the old data");
    puts(s, leader, 5, 100)?;
    // Emptied, it is who was added.
    s.empty(down);
    s.look_after_machines();
    s.until("the new member has it all", |s| s.applied(down) == s.oracle().committed_index())?;
    ensure!(s.id(down) != old, "it is still the member that was removed");
    Ok(())
}

/// Each founder loses its power, or is killed, in the midst of its first starts, again and again.
fn founding(s: &mut Script) -> Checked {
    for round in 0..12u64 {
        for member in 0..3 {
            s.start(member)?;
        }
        // The disk calls of its opening take some ten milliseconds.
        s.pass(round * 1_500_000)?;
        let kind = if round % 3 == 0 { CrashKind::Process } else { CrashKind::Power };
        (0..3).for_each(|member| s.crash(member, kind));
    }
    for member in 0..3 {
        s.start(member)?;
    }
    let leader = s.leader()?;
    s.put(leader, "k", "1")?;
    ensure!(s.oracle().members.voters().len() == 3, "{:?}", s.oracle().members.voters());
    s.changes(leader, &s.adding(201, 3))?;
    s.look_after_machines();
    s.until("the new member has it all", |s| s.applied(3) == s.oracle().committed_index())
}

/// A machine that founds a cluster of its own is killed meanwhile, and is absorbed afterwards.
fn lone_founder(s: &mut Script) -> Checked {
    let host = s.leader()?;
    s.put(host, "k", "1")?;
    s.found_alone(3)?;
    for round in 0..10u64 {
        s.pass(round * 2_000_000)?;
        s.crash(3, if round % 2 == 0 { CrashKind::Power } else { CrashKind::Process });
        s.start(3)?;
    }
    s.leads_alone(3)?;
    s.absorb(host, 3)?;
    s.until("it is a member", |s| s.is_of_the_first(3) && s.oracle().members.is_voter(s.id(3)))?;
    s.until("it has it all", |s| s.applied(3) == s.oracle().committed_index())
}

/// Machines have clusters of their own. One that had several members, or keeps a key, is never absorbed, whoever asks; not
/// even where the key came after it had said that it holds nothing. One that is empty is. (Several members show twice: in the
/// list, and in a log in which each has published itself. A key that comes late is looked for twice: when the offer comes, and
/// once nothing is under way any more.)
fn merging(s: &mut Script) -> Checked {
    let host = s.leader()?;
    let (keeps, empty, late) = (3, 4, 5);
    for machine in [keeps, empty, late] {
        s.found_alone(machine)?;
        s.leads_alone(machine)?;
    }
    // The first cluster holds nothing by now.
    s.absorb(keeps, host)?;
    ensure!(s.is_of_the_first(host), "a cluster of three was given up");
    s.put(host, "k", "1")?;
    s.keep_alone(keeps)?;
    let cluster = s.cluster(keeps);
    for _ in 0..3 {
        s.absorb(host, keeps)?;
        ensure!(s.cluster(keeps) == cluster, "a cluster that keeps a key was given up");
    }
    // Each tells the other to come.
    s.absorb(keeps, host)?;
    // It is a member by the log already, and about to be told so.
    (0..3).for_each(|member| s.slow_link(member, late, 100_000_000));
    let refused = s.counted(OF_ANOTHER);
    s.begin_absorbing(host, late)?;
    s.until("the log has it", |s| s.listed(late).is_some())?;
    s.keep_alone(late)?;
    s.absorbing_ends()?;
    s.until("the log's messages to it are refused", |s| s.counted(OF_ANOTHER) > refused)?;
    s.heal();
    ensure!(!s.is_of_the_first(late), "a cluster that came to keep a key was given up");
    s.until("its admission is undone", |s| s.listed(late).is_none())?;
    s.absorb(host, empty)?;
    s.until("the empty one is a member", |s| {
        s.is_of_the_first(empty) && s.oracle().members.is_voter(s.id(empty))
    })?;
    s.crash(keeps, CrashKind::Power);
    s.start(keeps)?;
    s.leads_alone(keeps)?;
    ensure!(s.cluster(keeps) == cluster && s.listed(keeps).is_none(), "two clusters are one");
    Ok(())
}
