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
    Scenario::new("more-disks-are-damaged-than-a-cluster-tolerates", too_many_disks),
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

/// Two of three disks are damaged where acknowledged writes lie: no member may serve what is left as if it were everything. Those
/// two must name the damage, the third can't go on alone; and nothing is lost once the two disks are as they were.
fn too_many_disks(s: &mut Script) -> Checked {
    let survivor = s.leader()?;
    let others: Vec<usize> = (0..s.members()).filter(|member| *member != survivor).collect();
    for number in 0..20 {
        s.put(survivor, &format!("k{number}"), "kept")?;
    }
    s.until("all have applied that", Script::all_applied)?;
    let mut bits = Vec::new();
    for &member in &others {
        bits.push(s.bit_of_log(member)?);
    }
    // What follows proves what was there.
    for number in 0..5 {
        s.put(survivor, "later", &number.to_string())?;
    }
    s.until("all have applied that, too", Script::all_applied)?;
    (0..s.members()).for_each(|member| s.crash(member, CrashKind::Process));
    for (&member, bit) in others.iter().zip(&bits) {
        s.damage(bit)?;
        s.start(member)?;
        ensure!(!s.runs(member), "member {member} starts with a damaged log, as if nothing were missing");
    }
    s.start(survivor)?;
    let alone_until = s.now() + 20 * s.election_timeout_nanos();
    while s.now() < alone_until {
        let read = s.ask_read(survivor, "k0")?;
        let write = s.ask(survivor, &put("k0", "alone"))?;
        for asked in [read, write] {
            let told = s.hear(asked)?;
            ensure!(!told.is_done(), "one member of three went on alone: {told:?}");
        }
    }
    s.until("both are given up", |s| others.iter().all(|member| s.is_given_up(*member)))?;
    for (&member, bit) in others.iter().zip(&bits) {
        s.undo_damage(bit)?;
        s.start(member)?;
    }
    let leader = s.leader()?;
    for number in 0..20 {
        let reply = s.read(leader, &format!("k{number}"))?;
        // The puts of the time alone have no outcome that is known: the first key may have the one or the other value.
        let kept = shows(&reply, "kept") || number == 0 && shows(&reply, "alone");
        ensure!(kept, "k{number} was acknowledged; with all disks back it is {reply:?}");
    }
    Ok(())
}
