//! Snapshots that met one another, or newer data.

use quorate_consensus::MessageKind;

use super::{Scenario, puts};
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};
use crate::world::script::Script;

pub const ALL: &[Scenario] = &[
    Scenario::new("two-snapshots-in-a-row-from-one-leader", |s| two_in_a_row(s, false))
        .members(5)
        .tune(small_log),
    Scenario::new("two-snapshots-in-a-row-across-a-change-of-leader", |s| two_in_a_row(s, true))
        .members(5)
        .tune(small_log),
    Scenario::new("a-stale-snapshot-takes-the-place-of-newer-data", stale).tune(small_log),
];

fn small_log(_: &mut crate::nemesis::Plan, settings: &mut crate::world::Settings) {
    (settings.checkpoint_entries, settings.log_retained_bytes) = (15, 0);
    settings.wal_segment_bytes = 1 << 20;
}

/// A member fetches a snapshot over slow links, while so much more is written that another one is offered.
fn two_in_a_row(s: &mut Script, leader_changes: bool) -> Checked {
    let leader = s.leader()?;
    let (away, next) = ((leader + 1) % 5, (leader + 2) % 5);
    s.cut_off(away);
    puts(s, leader, 150, 20_000)?;
    s.until("all others have it", |s| {
        (0..5).filter(|m| *m != away).all(|m| s.applied(m) >= s.applied(leader))
    })?;
    s.heal();
    (0..5).filter(|member| *member != away).for_each(|member| s.slow_link(member, away, 100_000_000));
    s.until("it fetches a snapshot", |s| s.counted("snapshot: fetch begun") > 0)?;
    let installed = s.counted("snapshot: installed");
    if leader_changes {
        s.elect(next)?;
    }
    ensure!(s.counted("snapshot: installed") == installed, "the first snapshot was too quick");
    // However far it is with the first one: more is written, and checkpointed, until it is offered another.
    let begun = s.counted("snapshot: fetch begun");
    let mut rounds = 0;
    while s.counted("snapshot: fetch begun") == begun {
        rounds += 1;
        ensure!(rounds < 200, "no second snapshot was ever offered");
        let leader = s.leader()?;
        puts(s, leader, 20, 20_000)?;
    }
    s.heal();
    s.until("the member has caught up", |s| {
        s.counted("snapshot: installed") > installed && s.applied(away) == s.oracle().committed_index()
    })?;
    // What it installed is what it starts from.
    s.crash(away, CrashKind::Power);
    s.start(away)
}

/// The message that offered a snapshot comes again, after the member has gone on.
fn stale(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let away = (leader + 1) % s.members();
    s.cut_off(away);
    puts(s, leader, 150, 2_000)?;
    s.copy(move |_, to, message| to == away && message.kind() == MessageKind::Snapshot);
    s.heal();
    s.until("it installed the snapshot", |s| s.counted("snapshot: installed") > 0)?;
    let old = s.release();
    ensure!(!old.is_empty(), "nobody offered a snapshot");
    // First while the sender has it still, then when the member was started again, then when it is long gone.
    for (count, crash) in [(3, false), (3, true), (100, false)] {
        let leader = s.leader()?;
        puts(s, leader, count, 2_000)?;
        if crash {
            s.crash(away, CrashKind::Power);
            s.start(away)?;
        }
        s.until("it has all", |s| s.applied(away) == s.oracle().committed_index())?;
        let (applied, begun) = (s.applied(away), s.counted("snapshot: fetch begun"));
        for caught in &old {
            s.deliver(caught)?;
        }
        puts(s, leader, 2, 100)?;
        s.until("it goes on", |s| s.applied(away) > applied)?;
        s.pass(s.election_timeout_nanos() / 2)?;
        ensure!(s.counted("snapshot: fetch begun") == begun, "a snapshot of the past is fetched");
    }
    Ok(())
}
