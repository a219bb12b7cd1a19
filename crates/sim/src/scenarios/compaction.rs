//! What compaction did to revisions, and to members that crashed in the midst of it.

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_models::keys::{
    Command, DeleteRange, RangeEnd, RangeQuery, compacted_revision, current_revision, forgotten_revision,
    hash_kv,
};

use super::Scenario;
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};
use crate::world::script::{Script, Told};

pub const ALL: &[Scenario] = &[
    Scenario::new("the-revision-goes-back-at-compaction", revision),
    Scenario::new("members-differ-where-a-compaction-was-cut-short", cut_short)
        .tune(|_, settings| settings.checkpoint_entries = 100_000),
];

/// A deletion comes last, all of it is compacted and forgotten, and all members start from what is on their disks.
fn revision(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    for value in ["1", "2", "3"] {
        s.put(leader, "k", value)?;
    }
    let delete = DeleteRange { key: Bytes::from_static(b"k"), end: RangeEnd::Single, prev_kv: false };
    s.does(leader, &Command::DeleteRange(delete))?;
    let last = Revision(s.oracle().reference().revision());
    s.does(leader, &Command::Compact { revision: last })?;
    s.until("all have forgotten what was compacted", |s| {
        s.all_applied() && (0..s.members()).all(|member| s.is_compacted(member))
    })?;
    for kind in [CrashKind::Process, CrashKind::Power] {
        for member in 0..s.members() {
            // So nothing of it is applied again.
            s.checkpoint(member)?;
        }
        (0..s.members()).for_each(|member| s.crash(member, kind));
        for member in 0..s.members() {
            s.start(member)?;
            let there = s.store(member).map(|store| current_revision(&store.read()));
            ensure!(there == Some(last), "m{member} starts at revision {there:?} of {last}");
        }
        s.leader()?;
    }
    let leader = s.leader()?;
    let next = s.put(leader, "k", "4")?;
    ensure!(next == last.next(), "the put after revision {last} is revision {next}");
    Ok(())
}

/// One member loses its power in the midst of a compaction, another is killed; both go on with it afterwards.
fn cut_short(s: &mut Script) -> Checked {
    const KEYS: u64 = 40;
    const VERSIONS: u64 = 120;
    let leader = s.leader()?;
    let mut asked = Vec::new();
    for number in 0..KEYS * VERSIONS {
        let key = format!("k{:02}", number % KEYS);
        asked.push(s.ask(leader, &crate::world::script::put(&key, &number.to_string()))?);
        if asked.len() == 200 {
            for asked in asked.drain(..) {
                s.hear(asked)?;
            }
        }
    }
    let last = Revision(s.oracle().reference().revision());
    ensure!(last.0 > KEYS * VERSIONS / 2, "most puts were refused");
    s.until("all have applied it", Script::all_applied)?;
    let compacted = Revision(last.0 - KEYS / 2);
    let others: Vec<usize> = (0..s.members()).filter(|member| *member != leader).collect();
    let ask = s.ask(leader, &Command::Compact { revision: compacted })?;
    for (&member, kind) in others.iter().zip([CrashKind::Power, CrashKind::Process]) {
        s.until("it is in the midst of forgetting", |s| has_begun(s, member) && !s.is_compacted(member))?;
        // Some of it is on its disk as well, in one of them.
        if kind == CrashKind::Process {
            s.checkpoint(member)?;
        }
        s.crash(member, kind);
        s.start(member)?;
    }
    s.hear(ask)?;
    s.until("all have forgotten what was compacted", |s| {
        s.all_applied()
            && (0..s.members())
                .all(|member| forgotten(s, member) == Some(compacted) && s.is_compacted(member))
    })?;
    let hashes: Vec<_> = (0..s.members())
        .map(|member| s.store(member).map(|store| (hash_kv(store, Revision(0)), hash_kv(store, compacted))))
        .collect();
    ensure!(hashes.iter().all(|hash| hash == &hashes[0]), "members differ after the compaction: {hashes:?}");
    // What is left of the past is what the log says, on each.
    for member in 0..s.members() {
        for revision in [compacted, Revision(compacted.0 + 1), last] {
            let everything =
                RangeQuery { revision, ..RangeQuery::new(Bytes::from_static(b"\0"), RangeEnd::Unbounded) };
            let told = s.query(member, &everything)?;
            ensure!(matches!(told, Told::Read(_)), "m{member} reads revision {revision} as {told:?}");
        }
        let before = RangeQuery {
            revision: Revision(compacted.0 - 1),
            ..RangeQuery::new(Bytes::from_static(b"\0"), RangeEnd::Unbounded)
        };
        let told = s.query(member, &before)?;
        ensure!(matches!(told, Told::ReadRefused(_)), "m{member} reads what was compacted as {told:?}");
    }
    Ok(())
}

fn forgotten(s: &Script, member: usize) -> Option<Revision> {
    s.store(member).map(|store| forgotten_revision(&store.read()))
}

fn has_begun(s: &Script, member: usize) -> bool {
    s.store(member).is_some_and(|store| compacted_revision(&store.read()) > Revision::ZERO)
}
