//! Watches that lost events, or went back.

use quorate_ids::Revision;
use quorate_models::keys::Command;

use super::{Scenario, puts};
use crate::oracle::{Checked, ensure};
use crate::world::script::Script;

pub const ALL: &[Scenario] = &[
    Scenario::new("a-watch-loses-events-or-goes-back", reconnecting)
        .tune(|_, settings| settings.feed_bytes_max = 64 << 10)
        .finds(&["drop-watch-event"]),
    Scenario::new("a-watch-loses-what-a-snapshot-jumped-over", across_a_snapshot)
        .tune(|_, settings| {
            (settings.checkpoint_entries, settings.log_retained_bytes) = (15, 0);
            settings.feed_bytes_max = 1 << 20;
        })
        .finds(&["keep-watch-events"]),
];

/// A slow watcher falls back to history, goes on at a member that is behind, and then where compaction has been.
fn reconnecting(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let (slow, quick) = (s.watch(), s.watch());
    let behind = (leader + 1) % s.members();
    let third = (leader + 2) % s.members();
    puts(s, leader, 30, 1_000)?;
    s.look(slow, leader)?;
    s.cut_off(behind);
    for _ in 0..10 {
        puts(s, leader, 12, 1_000)?;
        s.watch_all(quick, third)?;
        // The member that is behind shows nothing twice, and nothing that it has not.
        s.look(quick, behind)?;
    }
    s.until("the third member has it all", |s| s.applied(third) == s.applied(leader))?;
    s.watch_all(slow, third)?;
    s.heal();
    puts(s, leader, 20, 1_000)?;
    s.watch_all(slow, behind)?;
    // Compaction overtakes one of them.
    puts(s, leader, 60, 1_000)?;
    let compacted = Revision(s.oracle().reference().revision() - 5);
    s.does(leader, &Command::Compact { revision: compacted })?;
    s.until("all have forgotten", |s| {
        s.all_applied() && (0..s.members()).all(|member| s.is_compacted(member))
    })?;
    let fell_behind = s.counted("client: a watch fell behind compaction");
    s.watch_all(slow, leader)?;
    s.watch_all(quick, behind)?;
    ensure!(
        s.counted("client: a watch fell behind compaction") > fell_behind,
        "no watcher was told that it fell behind compaction"
    );
    Ok(())
}

/// A watcher stays with a member that is away for so long that it needs a snapshot, which jumps over more revisions than the
/// member keeps in memory for watchers, or over fewer: those in memory, counted back from the snapshot's, then seem to be
/// the ones that the watcher asks for.
fn across_a_snapshot(s: &mut Script) -> Checked {
    for (kept, missed) in [(20, 120), (150, 60)] {
        let leader = s.leader()?;
        let away = (leader + 1) % s.members();
        let watcher = s.watch();
        puts(s, leader, kept, 1_000)?;
        s.watch_all(watcher, away)?;
        s.cut_off(away);
        puts(s, leader, missed, 2_000)?;
        s.checkpoint(leader)?;
        let installed = s.counted("snapshot: installed");
        s.heal();
        // It looks all the while, for what is there.
        while s.counted("snapshot: installed") == installed {
            s.look(watcher, away)?;
            let leader = s.leader()?;
            puts(s, leader, 1, 1_000)?;
        }
        let leader = s.leader()?;
        puts(s, leader, 10, 1_000)?;
        s.watch_all(watcher, away)?;
    }
    Ok(())
}
