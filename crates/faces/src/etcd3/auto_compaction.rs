//! Compaction that nobody has to ask for: by age, or by number of revisions, as etcd's flags say.
//!
//! Every member keeps the schedule, so that a new leader can go on at once; only the leader compacts. Invariants: a
//! revision is compacted only once it is as old as was asked for (a member that just started waits a whole period), or
//! once so many newer ones are there; what the clock does to one member never shows in the log but as a compaction.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_ids::Revision;
use quorate_models::ModelId;
use quorate_models::keys::{self, Command, KeysError, Reply};

use super::Shared;

/// What is compacted without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    #[default]
    Off,
    /// What was superseded longer ago than this.
    OlderThan(Duration),
    /// What was superseded more than so many revisions ago.
    KeepRevisions(u64),
}

/// A longer period is looked after this often at least.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Looks at the revision in one interval.
const LOOKS_PER_INTERVAL: u32 = 10;
/// A shorter time between looks would only cost.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);
/// Between looks where revisions are counted.
const COUNT_EVERY: Duration = Duration::from_secs(300);

/// When to compact to what. Knows no clock: time is what the caller says.
#[derive(Debug)]
struct Schedule {
    rule: AutoCompaction,
    /// The revisions of the last looks, the oldest first; the oldest is as old as the period once all are there.
    looks: VecDeque<Revision>,
    looks_max: usize,
    compacted_at: Duration,
    /// The first compaction comes after a whole period; later ones after each interval.
    compacted_once: bool,
    last: Revision,
}

impl Schedule {
    fn new(rule: AutoCompaction) -> Self {
        let looks_max = match rule {
            AutoCompaction::OlderThan(period) => {
                let looks = period.as_nanos() / look_every(rule).as_nanos().max(1);
                usize::try_from(looks).unwrap_or(usize::MAX).saturating_add(1)
            }
            AutoCompaction::Off | AutoCompaction::KeepRevisions(_) => 0,
        };
        let (looks, last) = (VecDeque::new(), Revision::ZERO);
        Self { rule, looks, looks_max, compacted_at: Duration::ZERO, compacted_once: false, last }
    }

    /// What to compact to, `now` after the start. Called every [`look_every`].
    fn look(&mut self, now: Duration, newest: Revision) -> Option<Revision> {
        let due = match self.rule {
            AutoCompaction::Off => None,
            AutoCompaction::KeepRevisions(keep) => newest.0.checked_sub(keep).map(Revision),
            AutoCompaction::OlderThan(period) => {
                let wait = if self.compacted_once { period.min(INTERVAL_MAX) } else { period };
                let due = self.looks.front().copied().filter(|_| now >= self.compacted_at + wait);
                self.looks.push_back(newest);
                if self.looks.len() > self.looks_max {
                    self.looks.pop_front();
                }
                due
            }
        };
        due.filter(|revision| *revision > self.last)
    }

    fn done(&mut self, now: Duration, revision: Revision) {
        self.compacted_once = true;
        self.compacted_at = now;
        self.last = revision;
    }
}

fn look_every(rule: AutoCompaction) -> Duration {
    match rule {
        AutoCompaction::OlderThan(period) => {
            (period.min(INTERVAL_MAX) / LOOKS_PER_INTERVAL).max(LOOK_EVERY_MIN)
        }
        AutoCompaction::Off | AutoCompaction::KeepRevisions(_) => COUNT_EVERY,
    }
}

/// Keeps the schedule until the runtime ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let rule = shared.config.auto_compaction;
    let mut schedule = Schedule::new(rule);
    let start = tokio::time::Instant::now();
    let mut looks = tokio::time::interval(look_every(rule));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let newest = keys::current_revision(&shared.handle.store().read());
        let Some(revision) = schedule.look(start.elapsed(), newest) else { continue };
        if !shared.handle.status().is_leader {
            continue;
        }
        let command = keys::encode(&Command::Compact { revision });
        match shared.handle.propose(ModelId::KEYS, command).await.map(|applied| applied.reply) {
            Ok(quorate_member::ModelReply::Keys(
                Reply::Compact { .. } | Reply::Refused { error: KeysError::Compacted { .. }, .. },
            )) => {
                tracing::info!(%revision, "compacted, as the auto-compaction flags say");
                schedule.done(start.elapsed(), revision);
            }
            // Tried again at the next look.
            other => tracing::warn!(%revision, ?other, "the automatic compaction did not go through"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_period_is_compacted_each_interval() {
        let period = Duration::from_secs(600);
        let rule = AutoCompaction::OlderThan(period);
        let (mut schedule, every) = (Schedule::new(rule), look_every(rule));
        assert_eq!(every, Duration::from_secs(60));
        let mut compactions = Vec::new();
        // One revision a second.
        for look in 0..=30u32 {
            let now = every * look;
            if let Some(revision) = schedule.look(now, Revision(1 + now.as_secs())) {
                schedule.done(now, revision);
                compactions.push((now.as_secs(), revision.0));
            }
        }
        assert_eq!(compactions, [(600, 1), (1200, 541), (1800, 1141)], "never less than the period is left");
    }

    #[test]
    fn a_long_period_is_compacted_every_hour() {
        let rule = AutoCompaction::OlderThan(Duration::from_secs(5 * 3600));
        let (mut schedule, every) = (Schedule::new(rule), look_every(rule));
        let mut hours = Vec::new();
        for look in 0..=80u32 {
            let now = every * look;
            if let Some(revision) = schedule.look(now, Revision(1 + now.as_secs())) {
                assert!(now.as_secs() + 1 - revision.0 >= 5 * 3600, "{revision} at {now:?}");
                schedule.done(now, revision);
                hours.push(now.as_secs() / 3600);
            }
        }
        assert_eq!(hours, [5, 6, 7, 8]);
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let mut schedule = Schedule::new(AutoCompaction::KeepRevisions(100));
        assert_eq!(schedule.look(Duration::ZERO, Revision(100)), None);
        assert_eq!(schedule.look(COUNT_EVERY, Revision(150)), Some(Revision(50)));
        schedule.done(COUNT_EVERY, Revision(50));
        assert_eq!(schedule.look(COUNT_EVERY * 2, Revision(150)), None, "nothing new");
        assert_eq!(schedule.look(COUNT_EVERY * 3, Revision(151)), Some(Revision(51)));
    }

    #[test]
    fn what_did_not_go_through_is_tried_again() {
        let rule = AutoCompaction::OlderThan(Duration::from_secs(1));
        let mut schedule = Schedule::new(rule);
        for look in 0..=9u32 {
            assert_eq!(schedule.look(look_every(rule) * look, Revision(7)), None);
        }
        assert_eq!(schedule.look(Duration::from_secs(1), Revision(8)), Some(Revision(7)));
        assert_eq!(schedule.look(Duration::from_millis(1100), Revision(8)), Some(Revision(7)));
    }
}
