//! Locks, elections, leases and watches while members are killed, paused and restarted.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use quorate_interop::Cluster;

use super::SIZE;
use crate::tools::Tools;

/// Locks that must be held, and released, between two faults.
const LOCKS_BETWEEN: usize = 20;
/// Longer than an election timeout, shorter than the shortest lease of the clients.
const PAUSE: Duration = Duration::from_secs(3);

/// Members are killed, or stopped for a while and continued, one after the other, until the time is over; the client
/// judges what it saw meanwhile.
pub fn faults_under_contention(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let contention = tools.start_contention(&cluster.endpoints())?;
    let end = Instant::now() + tools.contention;
    let (mut kills, mut pauses) = (0, 0);
    for round in 0.. {
        contention.wait_for(LOCKS_BETWEEN).context("before a fault")?;
        if round > 0 && Instant::now() > end {
            break;
        }
        // The leader every other time: which member leads changes with every fault.
        let victim = if round % 2 == 0 { cluster.leader()? } else { (round / 2) % SIZE };
        if round % 4 == 3 {
            pauses += 1;
            pause(&mut cluster, victim)?;
        } else {
            kills += 1;
            cluster.members[victim].kill();
            contention.wait_for(LOCKS_BETWEEN).context("with a dead member")?;
            cluster.start_all()?;
        }
    }
    println!("         {kills} kills, {pauses} pauses");
    println!("         {}", contention.finish()?);
    cluster.terminate()
}

/// Stops a member's process for a while: its clock goes on, it does not. Clients that hang on it may wait that long.
fn pause(cluster: &mut Cluster, victim: usize) -> anyhow::Result<()> {
    let process = cluster.members[victim].process();
    process.signal("STOP")?;
    std::thread::sleep(PAUSE);
    process.signal("CONT")
}
