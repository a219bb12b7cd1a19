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
    Scenario::new("an-old-leader-revokes-a-lease-that-was-renewed", old_leader),
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

/// The leader that granted it is paused until after its time; the lease is kept alive at the next one all the while. Resumed,
/// the old leader either leads by its own lights for a while, or finds the news of the next term in its inbox.
fn old_leader(s: &mut Script) -> Checked {
    for (lease, hears) in [(LEASE, false), (LEASE + 1, true)] {
        let old = s.leader()?;
        grant(s, old, lease)?;
        s.pause(old);
        if !hears {
            s.cut_off(old);
        }
        let others: Vec<usize> = (0..s.members()).filter(|member| *member != old).collect();
        let new = s.leader_among(&others)?;
        let until = s.now() + (TTL_SECONDS as u64 + 4) * SECOND;
        while s.now() < until {
            let told = renew(s, new, lease)?;
            ensure!(is_alive(&told), "the new leader says {told:?} of a lease that is kept alive");
            s.pass(SECOND)?;
        }
        ensure!(s.leads(old), "the old leader knows that it leads no more");
        s.resume(old);
        s.until("the old leader gives up", |s| !s.leads(old))?;
        s.heal();
        s.until("the old leader follows", |s| s.term(old) == s.term(new))?;
        s.pass(s.election_timeout_nanos())?;
        // What it decided as a leader of the past is nothing to it when it leads again.
        s.elect(old)?;
        s.pass(s.election_timeout_nanos())?;
        let reply = s.read(old, "k")?;
        ensure!(shows(&reply, "leased"), "the key of a lease that was kept alive is {reply:?}");
        let told = renew(s, old, lease)?;
        ensure!(is_alive(&told), "a lease that was kept alive is {told:?}");
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
