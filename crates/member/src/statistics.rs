//! What a member counts of its appends, for people and for etcd's statistics.

use std::collections::BTreeMap;

use quorate_ids::MemberId;

/// See [`crate::Handle::statistics`]. All since the member's start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Appends alone: entries, and word of what is committed.
    pub appends: AppendStatistics,
    /// Heartbeats counted as appends without entries, which they are in older implementations of Raft.
    pub with_heartbeats: AppendStatistics,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppendStatistics {
    pub sent: Flow,
    pub received: Flow,
    /// Those that this member sent appends to while it led.
    pub followers: BTreeMap<MemberId, FollowerStatistics>,
}

/// Messages in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    pub count: u64,
    /// Over the last 200 of them; `None` where the last is more than a second old.
    pub rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub messages_per_second: f64,
    pub bytes_per_second: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FollowerStatistics {
    /// What was sent and acknowledged.
    pub success: u64,
    /// What was refused, lost with a connection, or had to be sent again.
    pub fail: u64,
    /// From sending to the acknowledgement, which comes once the follower has it on disk. `None` before the first.
    pub latency: Option<Latency>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub current_ms: f64,
    pub average_ms: f64,
    pub standard_deviation_ms: f64,
    pub minimum_ms: f64,
    pub maximum_ms: f64,
}
