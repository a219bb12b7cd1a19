//! Votes, terms and what is committed in them.

use quorate_consensus::MessageKind;
use quorate_ids::LogIndex;

use super::{Scenario, shows};
use crate::disk::CrashKind;
use crate::nemesis::Shape;
use crate::oracle::{Checked, Violation, ensure};
use crate::world::script::{Script, put};

pub const ALL: &[Scenario] = &[
    Scenario::new("a-member-votes-twice-in-a-term-after-a-restart", |s| votes_twice(s, CrashKind::Power))
        .finds(&["forget-vote"]),
    Scenario::new("a-member-votes-twice-in-a-term-after-it-was-killed", |s| {
        votes_twice(s, CrashKind::Process)
    })
    .finds(&["forget-vote"]),
    Scenario::new("an-entry-of-an-earlier-term-is-committed-by-counting-copies", counts_copies)
        .members(5)
        .finds(&["commit-without-quorum"]),
    Scenario::new("a-member-that-comes-back-unseats-the-leader", unseats).load(2),
];

/// Two candidates ask a third in one term; it votes for the first, dies, and the second one's request reaches it after its
/// restart. (Raft, section 5.2: a vote is durable before it is answered.)
fn votes_twice(s: &mut Script, kind: CrashKind) -> Checked {
    for _ in 0..40 {
        let voter = s.leader()?;
        let (one, other) = ((voter + 1) % 3, (voter + 2) % 3);
        s.catch(move |_, to, message| to == voter && message.kind() == MessageKind::RequestVote);
        // Neither candidate hears the other, and the leader steps down.
        s.cut_all();
        s.until("the leader steps down", |s| !s.leads(voter))?;
        s.partition(&Shape::Star { hub: voter, delay_nanos: 0 });
        let pair = |s: &Script| {
            let newest = |from: usize| s.caught().iter().rposition(|caught| caught.from == from);
            let (first, second) = (newest(one)?, newest(other)?);
            let term = |at: usize| s.caught()[at].message.term();
            (term(first) == term(second)).then_some((first, second))
        };
        s.until("two ask for a vote in one term", |s| pair(s).is_some() || s.leads(voter))?;
        let Some((first, second)) = pair(s) else {
            s.release();
            s.heal();
            continue;
        };
        let caught = s.release();
        s.deliver(&caught[first])?;
        let term = caught[first].message.term();
        s.until("the vote is counted, or the term over", |s| s.leads(one) || s.term(one) > term)?;
        if s.leads(one) && s.term(one) == term && s.term(other) == term {
            s.crash(voter, kind);
            s.start(voter)?;
            s.deliver(&caught[second])?;
            s.until("another term begins, or the leader stays", |s| {
                s.leads(other) || s.term(voter) > term || s.applied(voter) == s.oracle().committed_index()
            })?;
            s.pass(s.election_timeout_nanos())?;
            s.heal();
            return Ok(());
        }
        s.heal();
    }
    Err(Violation("two candidates never asked in one term".to_owned()))
}

/// Figure 8 of the Raft paper: an entry of an earlier term lies on a majority, and is overwritten.
fn counts_copies(s: &mut Script) -> Checked {
    let first = s.leader()?;
    s.put(first, "k", "before")?;
    s.until("all have it", Script::all_applied)?;
    let mate = (first + 1) % 5;
    let others: Vec<usize> = (0..5).filter(|member| ![first, mate].contains(member)).collect();
    // (a) The leader has two entries, large ones, that nobody has but its mate.
    let entry = LogIndex(s.oracle().committed_index().0 + 1);
    let last = entry.next();
    s.partition(&Shape::Split((0..5).map(|member| others.contains(&member)).collect()));
    let asked =
        [s.ask(first, &put("k", &"x".repeat(200_000)))?, s.ask(first, &put("k", &"y".repeat(200_000)))?];
    s.until("its mate has them", |s| s.status(mate).is_some_and(|status| status.last_index >= last))?;
    s.pass(20_000_000)?;
    s.crash(first, CrashKind::Power);
    // (b) Another is elected by the rest; its own entry reaches nobody.
    s.catch(|_, _, message| message.kind() == MessageKind::Append && message.entries_count() > 0);
    let leads = |s: &Script| others.iter().copied().find(|member| s.leads(*member));
    s.until("another leads", |s| leads(s).is_some())?;
    let second = leads(s).expect("another leads");
    let term = s.term(second);
    s.until("it has an entry of its own", |s| {
        s.status(second).is_some_and(|status| status.last_index >= entry)
    })?;
    s.pass(20_000_000)?;
    s.crash(second, CrashKind::Power);
    // (c) One of the first two leads again; the others get its old entry, and nothing of its own term.
    let rest: Vec<usize> = others.iter().copied().filter(|member| *member != second).collect();
    let far = rest.clone();
    s.catch(move |_, to, message| {
        far.contains(&to)
            && message.append_span().is_some_and(|span| span.after == entry && span.through > entry)
    });
    s.heal();
    s.start(first)?;
    let leads =
        |s: &Script| [first, mate].into_iter().find(|member| s.leads(*member) && s.term(*member) > term);
    s.until("one of the two leads again", |s| leads(s).is_some())?;
    let again = leads(s).expect("one of the two leads");
    s.until("the old entry lies on a majority, and its leader knows", |s| {
        let has = |member: usize| s.status(member).is_some_and(|status| status.last_index >= entry);
        rest.iter().all(|member| has(*member) && s.caught().iter().any(|caught| caught.to == *member))
    })?;
    s.pass(s.election_timeout_nanos() / 2)?;
    ensure!(
        s.oracle().committed_index() < entry && s.status(again).is_none_or(|status| status.committed < entry),
        "the entry of an earlier term at {entry} was committed by counting its copies"
    );
    // (d) The one that led in between comes back, and overwrites it.
    s.crash(first, CrashKind::Power);
    s.crash(mate, CrashKind::Power);
    s.release();
    s.start(second)?;
    let leader = s.leader_among(&others)?;
    ensure!(leader == second, "m{second} has the newest entry, and m{leader} leads");
    s.put(second, "k", "after")?;
    s.start(first)?;
    s.start(mate)?;
    for asked in asked {
        ensure!(!s.hear(asked)?.is_done(), "a put was acknowledged that no majority had in its term");
    }
    let reply = s.read(first, "k")?;
    ensure!(shows(&reply, "after"), "{reply:?}");
    Ok(())
}

/// A follower is cut off for many election timeouts, and comes back: nobody else has a reason for a new term.
fn unseats(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let away = (leader + 1) % s.members();
    s.put(leader, "k", "1")?;
    let term = s.term(leader);
    s.cut_off(away);
    s.pass(20 * s.election_timeout_nanos())?;
    s.put(leader, "k", "2")?;
    ensure!(s.status(away).is_some_and(|status| status.leader.is_none()), "it still believes in its leader");
    s.heal();
    s.until("it follows again", |s| s.applied(away) == s.oracle().committed_index())?;
    s.pass(5 * s.election_timeout_nanos())?;
    ensure!(
        s.leads(leader) && s.term(leader) == term,
        "a member that came back unseated the leader of term {term}: {:?}",
        s.status(leader)
    );
    Ok(())
}
