//! Leases that leaders of the past ended.

use quorate_member::LeaseAnswer;
use quorate_models::keys::{Command, Put, Reply};

use super::{Scenario, shows};
use crate::oracle::{Checked, Violation, ensure};
use crate::world::script::{Script, Told, put};

const SECOND: u64 = 1_000_000_000;
const TTL_SECONDS: i64 = 12;
const LEASE: i64 = 7;

pub const ALL: &[Scenario] = &[
    Scenario::new("an-old-leader-revokes-a-lease-that-was-renewed", old_leader)
        .finds(&["revoke-in-a-later-term"]),
    Scenario::new("a-leader-of-the-past-keeps-a-lease-alive", keeps_alive).finds(&["confirm-lease-alone"]),
    Scenario::new("a-leader-comes-back-with-the-lease-clock-of-its-last-term", comes_back)
        .finds(&["keep-lease-clock"]),
];

fn grant(s: &mut Script, leader: usize, lease: i64) -> Checked {
    s.does(leader, &Command::LeaseGrant { id: lease, ttl_seconds: TTL_SECONDS })?;
    let Command::Put(put) = put("k", "leased") else { return Err(Violation("no put".to_owned())) };
    let reply = s.does(leader, &Command::Put(Put { lease, ..put }))?;
    ensure!(matches!(reply, Reply::Put(_)), "{reply:?}");
    Ok(())
}

fn renew(s: &mut Script, member: usize, lease: i64) -> Checked<Told> {
    let asked = s.ask_lease(member, lease)?;
    s.hear(asked)
}

fn is_alive(told: &Told) -> bool {
    matches!(told, Told::Lease(LeaseAnswer::Alive { .. }))
}

/// The leader applies nothing from before a lease runs out until it has lost its leadership to another, at which the lease is
/// kept alive all the while. Then it goes on, with an entry of its old term to apply: there it finds that by the clock of
/// that term the lease ran out, before it comes to what says that the term is over. Its log by then follows the other leader,
/// or leads a later term: what was decided in the old one must be dropped by the one, and by the other.
fn old_leader(s: &mut Script) -> Checked {
    for (lease, leads_again) in [(LEASE, true), (LEASE + 1, false)] {
        let old = s.leader()?;
        let new = (old + 1) % s.members();
        grant(s, old, lease)?;
        let until = s.now() + (TTL_SECONDS as u64 + 1) * SECOND;
        s.stall_applying(old);
        let committed = s.oracle().committed_index();
        let asked = s.ask(old, &put("p", "to be applied"))?;
        s.until("the last entry of its term is committed", |s| {
            s.status(old).is_some_and(|status| status.committed > committed)
        })?;
        let term = s.term(old);
        s.elect_at_once(new)?;
        while s.now() < until {
            let told = renew(s, new, lease)?;
            ensure!(is_alive(&told), "the new leader says {told:?} of a lease that is kept alive");
            s.pass(SECOND)?;
        }
        if leads_again {
            s.elect_at_once(old)?;
        }
        ensure!(s.applied(old) <= committed && s.term(old) > term, "it knew before the lease ran out");
        s.go_on_applying(old);
        s.pass(s.election_timeout_nanos())?;
        s.hear(asked)?;
        s.elect(old)?;
        s.pass(s.election_timeout_nanos())?;
        let told = renew(s, old, lease)?;
        ensure!(is_alive(&told), "a lease that was kept alive is {told:?}");
        let reply = s.read(old, "k")?;
        ensure!(shows(&reply, "leased"), "the key of a lease that was kept alive is {reply:?}");
    }
    Ok(())
}

/// The machine of the leader sleeps, is cut off when it wakes, and asked at once to keep a lease alive of which the next leader hears nothing.
fn keeps_alive(s: &mut Script) -> Checked {
    let old = s.leader()?;
    grant(s, old, LEASE)?;
    s.sleep(old);
    s.cut_off(old);
    let others: Vec<usize> = (0..s.members()).filter(|member| *member != old).collect();
    let new = s.leader_among(&others)?;
    s.pass(SECOND)?;
    ensure!(s.leads(old), "the old leader knows that it leads no more");
    // What is answered now is judged when the lease ends: by the next leader's clock, a second earlier.
    let asked = s.ask_lease(old, LEASE)?;
    s.resume(old);
    s.hear(asked)?;
    s.until("the lease ends", |s| s.oracle().reference().leases() == 0)?;
    s.heal();
    let reply = s.read(new, "k")?;
    ensure!(reply.kvs.is_empty(), "the key of a lease that ended is {reply:?}");
    Ok(())
}

/// A lease is kept alive at another leader, beyond the time that it had at the first; then the first leads again.
fn comes_back(s: &mut Script) -> Checked {
    let first = s.leader()?;
    grant(s, first, LEASE)?;
    let second = (first + 1) % s.members();
    s.elect(second)?;
    let until = s.now() + (TTL_SECONDS as u64 + 2) * SECOND;
    while s.now() < until {
        let told = renew(s, second, LEASE)?;
        ensure!(is_alive(&told), "{told:?}");
        s.pass(SECOND)?;
    }
    s.elect(first)?;
    s.pass(2 * SECOND)?;
    let told = renew(s, first, LEASE)?;
    ensure!(is_alive(&told), "a lease that was renewed moments ago is {told:?}");
    Ok(())
}
