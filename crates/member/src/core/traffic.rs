//! Counts this member's appends: how many, how fast they follow each other, how long followers take for them.
//!
//! Invariants:
//!
//! - Each append of entries that is sent while leading counts once more: as a success when it is acknowledged, as a failure
//!   when it is refused, lost with a connection, or sent again. Those still open at the end of a leadership count as neither.
//! - An append without entries is counted as sent, and is not waited for: one that tells of a commit need not be
//!   acknowledged.
//! - What is kept for a follower is bounded, however long it stays silent.

use std::collections::{BTreeMap, VecDeque};

use quorate_consensus::{AppendAnswer, AppendSpan, Message, MessageKind};
use quorate_ids::{LogIndex, MemberId, Monotonic};

use crate::membership::MemberList;
use crate::statistics::{AppendStatistics, Flow, FollowerStatistics, Latency, Rate, Statistics};

/// Messages that a rate is taken over.
const RATED_MAX: usize = 200;
/// A rate is told for so long after the last message.
const RATE_NANOS_MAX: u64 = 1_000_000_000;
/// Appends to one follower that may wait for an answer; a further one gives up the oldest. More than consensus lets be
/// under way.
const UNANSWERED_MAX: usize = 128;

#[derive(Clone, Copy)]
struct Rated {
    at: Monotonic,
    bytes: usize,
    is_heartbeat: bool,
}

/// Messages in one direction.
#[derive(Default)]
struct Direction {
    appends: u64,
    heartbeats: u64,
    recent: VecDeque<Rated>,
}

impl Direction {
    fn count(&mut self, is_heartbeat: bool, bytes: usize, now: Monotonic) {
        *(if is_heartbeat { &mut self.heartbeats } else { &mut self.appends }) += 1;
        if self.recent.len() == RATED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Rated { at: now, bytes, is_heartbeat });
    }

    fn flow(&self, with_heartbeats: bool, now: Monotonic) -> Flow {
        let counted = || self.recent.iter().filter(|rated| with_heartbeats || !rated.is_heartbeat);
        let count = self.appends + if with_heartbeats { self.heartbeats } else { 0 };
        let (Some(first), Some(last)) = (counted().next(), counted().next_back()) else {
            return Flow { count, rate: None };
        };
        let nanos = last.at.since(first.at);
        if nanos == 0 || now.since(last.at) > RATE_NANOS_MAX {
            return Flow { count, rate: None };
        }
        let per_second = |amount: usize| amount as f64 * 1e9 / nanos as f64;
        let rate = Rate {
            messages_per_second: per_second(counted().count()),
            bytes_per_second: per_second(counted().map(|rated| rated.bytes).sum()),
        };
        Flow { count, rate: Some(rate) }
    }
}

/// What became of messages to one follower. The times are in milliseconds.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    success: u64,
    fail: u64,
    current: f64,
    average: f64,
    /// Sum of the squares of the distances from the average (Welford's method: it loses no digits to large sums).
    spread: f64,
    minimum: f64,
    maximum: f64,
}

impl Outcomes {
    fn succeed(&mut self, nanos: u64) {
        let took = nanos as f64 / 1e6;
        self.success += 1;
        let distance = took - self.average;
        self.average += distance / self.success as f64;
        self.spread += distance * (took - self.average);
        self.current = took;
        self.minimum = if self.success == 1 { took } else { self.minimum.min(took) };
        self.maximum = self.maximum.max(took);
    }

    fn told(&self) -> FollowerStatistics {
        let latency = (self.success > 0).then(|| Latency {
            current_ms: self.current,
            // Of times that are all alike it may differ from them in the last digit.
            average_ms: self.average.clamp(self.minimum, self.maximum),
            standard_deviation_ms: (self.spread / self.success as f64).sqrt(),
            minimum_ms: self.minimum,
            maximum_ms: self.maximum,
        });
        FollowerStatistics { success: self.success, fail: self.fail, latency }
    }
}

struct Unanswered {
    span: AppendSpan,
    sent: Monotonic,
}

#[derive(Default)]
struct Follower {
    unanswered: VecDeque<Unanswered>,
    heartbeat_sent: Option<Monotonic>,
    appends: Outcomes,
    with_heartbeats: Outcomes,
}

impl Follower {
    fn sent(&mut self, span: AppendSpan, now: Monotonic) {
        // Sent again from an earlier place: what was sent from there on did not arrive.
        while self.unanswered.back().is_some_and(|earlier| earlier.span.through > span.after) {
            self.unanswered.pop_back();
            self.fail(1);
        }
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.pop_front();
            self.fail(1);
        }
        self.unanswered.push_back(Unanswered { span, sent: now });
    }

    fn acknowledged(&mut self, through: LogIndex, now: Monotonic) {
        while let Some(append) = self.unanswered.front().filter(|append| append.span.through <= through) {
            let took = now.since(append.sent);
            self.appends.succeed(took);
            self.with_heartbeats.succeed(took);
            self.unanswered.pop_front();
        }
    }

    fn refused(&mut self, after: LogIndex) {
        if let Some(place) = self.unanswered.iter().position(|append| append.span.after == after) {
            self.unanswered.remove(place);
            self.fail(1);
        }
    }

    fn heartbeat(&mut self, now: Monotonic) {
        // The one before was not answered in a whole interval.
        if self.heartbeat_sent.replace(now).is_some() {
            self.with_heartbeats.fail += 1;
        }
    }

    fn heartbeat_answered(&mut self, now: Monotonic) {
        if let Some(sent) = self.heartbeat_sent.take() {
            self.with_heartbeats.succeed(now.since(sent));
        }
    }

    fn lost(&mut self) {
        let count = self.unanswered.len() as u64;
        self.unanswered.clear();
        self.fail(count);
        if self.heartbeat_sent.take().is_some() {
            self.with_heartbeats.fail += 1;
        }
    }

    fn fail(&mut self, count: u64) {
        self.appends.fail += count;
        self.with_heartbeats.fail += count;
    }

    fn forget_open(&mut self) {
        self.unanswered.clear();
        self.heartbeat_sent = None;
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Traffic {
    sent: Direction,
    received: Direction,
    followers: BTreeMap<MemberId, Follower>,
}

impl Traffic {
    /// `message` leaves, in a frame of `bytes`.
    pub fn sent(&mut self, message: &Message, bytes: usize, now: Monotonic) {
        if let Some(span) = message.append_span() {
            self.sent.count(false, bytes, now);
            if span.through > span.after {
                self.followers.entry(message.to()).or_default().sent(span, now);
            }
        } else if message.kind() == MessageKind::Heartbeat {
            self.sent.count(true, bytes, now);
            self.followers.entry(message.to()).or_default().heartbeat(now);
        }
    }

    /// `message` arrived, in a frame of `bytes`.
    pub fn received(&mut self, message: &Message, bytes: usize, now: Monotonic) {
        match message.kind() {
            MessageKind::Append => self.received.count(false, bytes, now),
            MessageKind::Heartbeat => self.received.count(true, bytes, now),
            MessageKind::AppendResponse => {
                let follower = self.followers.get_mut(&message.from());
                match (follower, message.append_answer()) {
                    (Some(follower), Some(AppendAnswer::Has { through })) => {
                        follower.acknowledged(through, now)
                    }
                    (Some(follower), Some(AppendAnswer::Rejects { after })) => follower.refused(after),
                    _ => {}
                }
            }
            MessageKind::HeartbeatResponse => {
                if let Some(follower) = self.followers.get_mut(&message.from()) {
                    follower.heartbeat_answered(now);
                }
            }
            _ => {}
        }
    }

    /// The connection to `peer` failed: what was sent to it may be lost.
    pub fn lost(&mut self, peer: MemberId) {
        if let Some(follower) = self.followers.get_mut(&peer) {
            follower.lost();
        }
    }

    /// A leadership ends or begins: answers to what an earlier one sent say nothing.
    pub fn role_changed(&mut self) {
        self.followers.values_mut().for_each(Follower::forget_open);
    }

    /// Forgets those that are no members any more.
    pub fn keep(&mut self, members: &MemberList) {
        self.followers.retain(|id, _| members.get(*id).is_some());
    }

    #[must_use]
    pub fn statistics(&self, now: Monotonic) -> Statistics {
        let told = |with_heartbeats: bool| AppendStatistics {
            sent: self.sent.flow(with_heartbeats, now),
            received: self.received.flow(with_heartbeats, now),
            followers: self
                .followers
                .iter()
                .map(|(id, follower)| {
                    let outcomes =
                        if with_heartbeats { &follower.with_heartbeats } else { &follower.appends };
                    (*id, outcomes.told())
                })
                .collect(),
        };
        Statistics { appends: told(false), with_heartbeats: told(true) }
    }
}

#[cfg(test)]
mod tests {
    use quorate_models::ModelId;

    use super::*;
    use crate::core::LogInput;
    use crate::core::leaving_tests::Two;
    use crate::core::tests as core_tests;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * MS)
    }

    fn span(after: u64, through: u64) -> AppendSpan {
        AppendSpan { after: LogIndex(after), through: LogIndex(through) }
    }

    #[test]
    fn a_follower_is_measured_from_sending_to_acknowledging() {
        let mut follower = Follower::default();
        follower.sent(span(10, 12), at(100));
        follower.sent(span(12, 13), at(101));
        follower.sent(span(13, 13), at(102));
        follower.acknowledged(LogIndex(12), at(104));
        assert_eq!((follower.appends.success, follower.appends.current), (1, 4.0));
        follower.acknowledged(LogIndex(13), at(111));
        let told = follower.appends.told();
        assert_eq!((told.success, told.fail), (3, 0));
        let latency = told.latency.expect("there were three");
        assert_eq!((latency.minimum_ms, latency.maximum_ms, latency.current_ms), (4.0, 10.0, 9.0));
        assert!((latency.average_ms - 23.0 / 3.0).abs() < 1e-9, "{latency:?}");
        // Of 4, 10 and 9: the mean square is 197/3, that of the mean 529/9.
        let deviation = (197.0f64 / 3.0 - 529.0 / 9.0).sqrt();
        assert!((latency.standard_deviation_ms - deviation).abs() < 1e-9, "{latency:?}");
    }

    #[test]
    fn what_is_refused_lost_or_sent_again_counts_as_failed_once() {
        let mut follower = Follower::default();
        follower.sent(span(10, 12), at(1));
        follower.sent(span(12, 14), at(1));
        follower.refused(LogIndex(12));
        assert_eq!(follower.appends.fail, 1, "the one after 12");
        follower.sent(span(10, 14), at(2));
        assert_eq!(follower.appends.fail, 2, "the one after 10 is sent again");
        follower.lost();
        follower.lost();
        follower.refused(LogIndex(10));
        follower.acknowledged(LogIndex(14), at(9));
        assert_eq!((follower.appends.success, follower.appends.fail), (0, 3));
        assert!(follower.appends.told().latency.is_none());
    }

    #[test]
    fn a_silent_follower_takes_a_bounded_amount_of_memory() {
        let mut follower = Follower::default();
        for index in 0..10_000 {
            follower.sent(span(index, index + 1), at(index));
            follower.heartbeat(at(index));
        }
        assert_eq!(follower.unanswered.len(), UNANSWERED_MAX);
        assert_eq!(follower.appends.fail, 10_000 - UNANSWERED_MAX as u64);
    }

    #[test]
    fn heartbeats_are_told_apart() {
        let mut follower = Follower::default();
        follower.heartbeat(at(1));
        follower.heartbeat_answered(at(3));
        follower.heartbeat_answered(at(4));
        follower.heartbeat(at(5));
        follower.heartbeat(at(6));
        let (appends, all) = (follower.appends.told(), follower.with_heartbeats.told());
        assert_eq!((appends.success, appends.fail, appends.latency), (0, 0, None));
        assert_eq!((all.success, all.fail, all.latency.map(|latency| latency.maximum_ms)), (1, 1, Some(2.0)));
    }

    #[test]
    fn a_rate_is_that_of_the_last_messages_and_ends_with_them() {
        let mut direction = Direction::default();
        direction.count(false, 100, at(0));
        assert_eq!(direction.flow(false, at(0)), Flow { count: 1, rate: None }, "one message has no rate");
        for number in 1..=1000 {
            direction.count(number % 2 == 1, 100, at(number));
        }
        // 200 messages within 199 ms, of which each second is a heartbeat.
        let all = direction.flow(true, at(1000)).rate.expect("it is recent");
        assert!((all.messages_per_second - 200.0 / 0.199).abs() < 1e-6, "{all:?}");
        assert!((all.bytes_per_second - 20_000.0 / 0.199).abs() < 1e-6, "{all:?}");
        let appends = direction.flow(false, at(1000));
        assert_eq!(appends.count, 501);
        let rate = appends.rate.expect("it is recent");
        assert!((rate.messages_per_second - 100.0 / 0.198).abs() < 1e-6, "{rate:?}");
        assert!(direction.flow(false, at(2000)).rate.is_some());
        assert_eq!(direction.flow(true, at(2001)).rate, None);
        assert_eq!(direction.recent.len(), RATED_MAX);
    }

    #[test]
    fn what_tells_of_a_commit_is_not_waited_for() {
        let (mut two, leader, follower) = Two::settled();
        for seq in [1, 2] {
            let now = core_tests::at(two.ticks * core_tests::TICK_NANOS);
            let command = core_tests::put();
            let model = ModelId::KEYS;
            two.members[leader].log_loop.step(LogInput::Propose { seq, model, command }, now);
            (0..50).for_each(|_| two.tick());
        }
        let now = core_tests::at(two.ticks * core_tests::TICK_NANOS);
        let told = two.members[leader].log_loop.statistics(now);
        let (_, of) = told.appends.followers.iter().next().expect("there is a follower");
        let latency = of.latency.expect("it acknowledged");
        assert_eq!(two.committed(leader), two.committed(follower));
        let ticks = latency.maximum_ms / (core_tests::TICK_NANOS as f64 / 1e6);
        assert!(ticks < 10.0, "{ticks} ticks until an append was acknowledged");
    }
}
