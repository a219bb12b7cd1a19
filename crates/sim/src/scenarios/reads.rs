//! Reads that answered with old data.

use super::Scenario;
use crate::oracle::{Checked, ensure};
use crate::world::script::{Script, Told};

pub const ALL: &[Scenario] =
    &[Scenario::new("a-paused-leader-answers-with-old-data", paused_leader).finds(&["skip-read-round"])];

/// A leader is paused, another is elected and takes a write; resumed, it still believes that it leads, and is asked.
fn paused_leader(s: &mut Script) -> Checked {
    let old = s.leader()?;
    let others: Vec<usize> = (0..s.members()).filter(|member| *member != old).collect();
    s.put(old, "k", "old")?;
    // One read waits in the member's inbox all the while, one comes as soon as it runs again.
    s.pause(old);
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
    Ok(())
}

pub(super) fn shows(reply: &quorate_models::keys::RangeReply, value: &str) -> bool {
    let here = |kv: &quorate_models::keys::KeyValue| matches!(&kv.value, quorate_models::keys::Value::Here(bytes) if bytes == value.as_bytes());
    reply.kvs.len() == 1 && reply.kvs.iter().all(here)
}
