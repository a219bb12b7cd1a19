//! Reads that answered with old data.

use super::{Scenario, shows};
use crate::oracle::{Checked, ensure};
use crate::world::script::{Script, Told};

pub const ALL: &[Scenario] = &[
    Scenario::new("a-paused-leader-answers-with-old-data", paused_leader).finds(&["skip-read-round"]),
    Scenario::new("a-read-overtakes-the-writes-that-it-must-show", overtaking).finds(&["read-before-apply"]),
];

/// A leader is paused, alone or with its whole machine, and another is elected and takes a write; resumed, it still believes
/// that it leads, and is asked.
fn paused_leader(s: &mut Script) -> Checked {
    for sleeps in [false, true] {
        let old = s.leader()?;
        let others: Vec<usize> = (0..s.members()).filter(|member| *member != old).collect();
        s.put(old, "k", "old")?;
        if sleeps {
            s.sleep(old)
        } else {
            s.pause(old)
        }
        // One read waits in the member's inbox all the while, one comes as soon as it runs again.
        let early = s.ask_read(old, "k")?;
        s.cut_off(old);
        let new = s.leader_among(&others)?;
        s.put(new, "k", "new")?;
        ensure!(s.leads(old) && s.term(old) < s.term(new), "the old leader knows that it leads no more");
        let late = s.ask_read(old, "k")?;
        s.resume(old);
        // Cut off for longer than it can believe that it leads.
        s.until("the old leader gives up", |s| !s.leads(old))?;
        s.heal();
        for read in [early, late] {
            if let Told::Read(reply) = s.hear(read)? {
                ensure!(shows(&reply, "new"), "a leader of the past read {reply:?}");
            }
        }
        let reply = s.read(old, "k")?;
        ensure!(shows(&reply, "new"), "the old leader, a follower by now, read {reply:?}");
    }
    Ok(())
}

/// A follower hears from its leader all the while, but entries reach it late; it is asked for what the others know.
fn overtaking(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let late = (leader + 1) % s.members();
    s.put(leader, "k", "0")?;
    for round in 1..=5 {
        s.catch(move |_, to, message| to == late && message.entries_count() > 0);
        let value = round.to_string();
        s.put(leader, "k", &value)?;
        let asked = s.ask_read(late, "k")?;
        s.pass(s.election_timeout_nanos())?;
        ensure!(
            s.told(&asked).is_none() && s.applied(late) < s.applied(leader),
            "a follower without the entry was told {:?}",
            s.told(&asked)
        );
        s.release();
        let told = s.hear(asked)?;
        let shown = matches!(&told, Told::Read(reply) if shows(reply, &value));
        ensure!(shown, "a follower that was late read {told:?} after {value} was put");
    }
    Ok(())
}
