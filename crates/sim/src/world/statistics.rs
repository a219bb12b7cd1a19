//! What leaders count of their appends must make sense at any time.

use quorate_member::{AppendStatistics, FollowerStatistics};

use super::World;
use crate::oracle::{Checked, ensure};

impl World {
    /// `member` leads: no follower is said to be faster, slower or busier than it can have been.
    pub(super) fn look_at_statistics(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let time = machine.now(now);
        let Some(running) = &machine.running else { return Ok(()) };
        let statistics = running.stages.log_loop.statistics(time);
        let nanos_max = time.monotonic.0;
        let (appends, all) = (&statistics.appends, &statistics.with_heartbeats);
        make_sense(appends, nanos_max)?;
        make_sense(all, nanos_max)?;
        ensure!(
            appends.followers.iter().all(|(id, follower)| {
                let all = &all.followers[id];
                follower.success <= all.success && follower.fail <= all.fail
            }),
            "member {member} counts fewer with heartbeats than without: {statistics:?}"
        );
        if all.followers.values().any(|follower| follower.latency.is_some()) {
            self.count("statistics: a leader measured a follower");
        }
        Ok(())
    }
}

fn make_sense(statistics: &AppendStatistics, nanos_max: u64) -> Checked {
    let settled = |follower: &FollowerStatistics| follower.success + follower.fail;
    ensure!(
        statistics.followers.values().map(settled).sum::<u64>() <= statistics.sent.count,
        "more appends are answered or failed than were sent: {statistics:?}"
    );
    for follower in statistics.followers.values() {
        let Some(latency) = follower.latency else { continue };
        let spread = latency.maximum_ms - latency.minimum_ms;
        ensure!(
            follower.success > 0
                && (latency.minimum_ms..=latency.maximum_ms).contains(&latency.current_ms)
                && (latency.minimum_ms..=latency.maximum_ms).contains(&latency.average_ms)
                && (0.0..=spread + 1e-6).contains(&latency.standard_deviation_ms)
                && latency.minimum_ms >= 0.0
                && latency.maximum_ms <= nanos_max as f64 / 1e6,
            "times of a follower that can't be: {follower:?}"
        );
    }
    Ok(())
}
