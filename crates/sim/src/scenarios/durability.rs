//! Writes that were acknowledged, and gone after a loss of power.

use super::{Scenario, shows};
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};
use crate::world::script::{Script, Told, put};

pub const ALL: &[Scenario] = &[
    Scenario::new("a-lone-member-acknowledges-before-its-disk-has-it", lone_member)
        .members(1)
        .finds(&["skip-sync"]),
    Scenario::new("a-majority-acknowledges-before-its-disks-have-it", majority)
        .finds(&["skip-sync", "promise-before-write"]),
];

/// Its disk is slow; whenever it acknowledges a put, it loses its power in the same instant.
fn lone_member(s: &mut Script) -> Checked {
    for round in 0..8 {
        let value = round.to_string();
        s.leader()?;
        s.slow_disk(0, 50);
        let asked = s.ask(0, &put("k", &value))?;
        let told = s.hear(asked)?;
        ensure!(told.is_done(), "a lone member that leads says {told:?} to a put");
        s.crash(0, CrashKind::Power);
        s.slow_disk(0, 1);
        s.start(0)?;
        let reply = s.read(0, "k")?;
        ensure!(
            shows(&reply, &value),
            "put {value} was acknowledged; after the loss of power it is {reply:?}"
        );
    }
    Ok(())
}

/// All disks but one are slow, and all lose their power as soon as a put is acknowledged.
fn majority(s: &mut Script) -> Checked {
    for round in 0..6 {
        let value = round.to_string();
        let leader = s.leader()?;
        (0..s.members()).filter(|member| *member != leader).for_each(|member| s.slow_disk(member, 30));
        let asked = s.ask(leader, &put("k", &value))?;
        if !matches!(s.hear(asked)?, Told::Answer { .. }) {
            continue;
        }
        for member in 0..s.members() {
            s.crash(member, CrashKind::Power);
            s.slow_disk(member, 1);
        }
        // Whoever acknowledged it first has the least to lose: the others decide without it.
        for member in (0..s.members()).filter(|member| *member != leader) {
            s.start(member)?;
        }
        let new = s.leader()?;
        let reply = s.read(new, "k")?;
        ensure!(
            shows(&reply, &value),
            "put {value} was acknowledged; after the loss of power it is {reply:?}"
        );
        s.start(leader)?;
    }
    Ok(())
}
