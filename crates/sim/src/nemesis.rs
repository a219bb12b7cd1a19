//! What goes wrong next: faults drawn from a seed's plan.
//!
//! Invariants: only faults that the plan allows are drawn; every fault that lasts has an end; damage to bytes at rest
//! hits fewer disks than a majority, so that the cluster can always be expected to survive it.

use crate::disk::{CrashKind, DiskFaults};
use crate::network::{NetworkFaults, SimNetwork};
use crate::rng::{Ppm, Rng};

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;

/// The faults of one seed: each kind may be off, so that others show without it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Machines. All of them are members from the start, unless members come and go.
    pub members: usize,
    /// Machines whose members found the cluster.
    pub founders: usize,
    pub clients: usize,
    /// How long faults go on.
    pub storm_nanos: u64,
    /// Mean time between two faults.
    pub fault_every_nanos: u64,
    pub crashes: bool,
    pub power_loss: bool,
    /// All members lose power at once.
    pub blackouts: bool,
    pub partitions: bool,
    pub lossy: bool,
    pub corrupt_frames: bool,
    pub pauses: bool,
    pub slow_disks: bool,
    pub disk_errors: bool,
    pub full_disks: bool,
    pub damage: bool,
    pub clock_jumps: bool,
    pub transfers: bool,
    /// Two members race for the vote of a third that reaches both, and dies right after each vote.
    pub vote_races: bool,
    /// The leader is cut off from all others, and from nobody else: its clients go on asking it.
    pub lonely_leaders: bool,
    /// Snapshots are cut off half way, and their bytes go bad.
    pub cut_snapshots: bool,
    /// Candidates ask before they disturb.
    pub pre_vote: bool,
    /// The file system takes O_DIRECT.
    pub direct: bool,
    /// Members lose their whole disk, where members come and go.
    pub wipes: bool,
}

impl Plan {
    pub fn draw(rng: &mut Rng) -> Self {
        let members = *rng.pick(&[1, 3, 3, 3, 3, 3, 5]);
        Self {
            members,
            founders: members,
            clients: rng.between(2, 7) as usize,
            storm_nanos: rng.between(4, 20) * SECOND,
            fault_every_nanos: *rng.pick(&[150 * MILLI, 500 * MILLI, 2 * SECOND]),
            crashes: !rng.one_in(5),
            power_loss: !rng.one_in(3),
            blackouts: rng.one_in(3),
            partitions: rng.one_in(2),
            lossy: rng.one_in(2),
            corrupt_frames: rng.one_in(4),
            pauses: rng.one_in(3),
            slow_disks: rng.one_in(3),
            disk_errors: rng.one_in(6),
            full_disks: rng.one_in(8),
            damage: rng.one_in(6),
            clock_jumps: rng.one_in(3),
            transfers: rng.one_in(3),
            vote_races: rng.one_in(6),
            lonely_leaders: rng.one_in(5),
            cut_snapshots: rng.one_in(3),
            pre_vote: !rng.one_in(4),
            direct: rng.one_in(2),
            wipes: false,
        }
    }

    /// A plan for a script: nothing goes wrong unless it says so.
    pub fn quiet(rng: &mut Rng, founders: usize, members: usize, clients: usize) -> Self {
        Self {
            members,
            founders,
            clients,
            storm_nanos: 0,
            fault_every_nanos: 0,
            crashes: false,
            power_loss: false,
            blackouts: false,
            partitions: false,
            lossy: false,
            corrupt_frames: false,
            pauses: false,
            slow_disks: false,
            disk_errors: false,
            full_disks: false,
            damage: false,
            clock_jumps: false,
            transfers: false,
            vote_races: false,
            lonely_leaders: false,
            cut_snapshots: false,
            pre_vote: true,
            direct: rng.one_in(2),
            wipes: false,
        }
    }

    /// Whether a part of the founders runs an older program at first. Not drawn, so that the seeds stay what they are.
    #[must_use]
    pub fn rolls(&self) -> bool {
        self.founders > 1 && self.clients % 4 == 3
    }

    /// A plan for a world in which members come and go: fewer founders than machines, and time for changes. Disks are
    /// lost as a whole there, too ([`Self::wipes`]).
    pub fn draw_for_members(rng: &mut Rng) -> Self {
        let plan = Self::draw(rng);
        let founders = *rng.pick(&[1, 2, 3, 3, 3, 4, 5]);
        Self {
            founders,
            members: founders + rng.between(2, 3) as usize,
            clients: plan.clients.min(4),
            storm_nanos: rng.between(8, 25) * SECOND,
            fault_every_nanos: *rng.pick(&[500 * MILLI, 1_500 * MILLI, 4 * SECOND]),
            blackouts: rng.one_in(2),
            vote_races: false,
            wipes: rng.one_in(2),
            damage: plan.damage || rng.one_in(4),
            ..plan
        }
    }

    /// A plan for a world in which members join by request.
    pub fn draw_for_joins(rng: &mut Rng) -> Self {
        let plan = Self::draw_for_members(rng);
        let founders = *rng.pick(&[1, 1, 2, 3, 3]);
        Self { founders, members: founders + rng.between(2, 4) as usize, ..plan }
    }

    /// A plan for a world in which disks get full: no disk fails in another way.
    pub fn draw_for_full_disks(rng: &mut Rng) -> Self {
        let plan = Self::draw(rng);
        Self {
            storm_nanos: rng.between(8, 20) * SECOND,
            fault_every_nanos: *rng.pick(&[500 * MILLI, 1_500 * MILLI, 4 * SECOND]),
            disk_errors: false,
            full_disks: false,
            damage: false,
            vote_races: false,
            ..plan
        }
    }

    /// How the network behaves during the storm.
    pub fn network_faults(&self, rng: &mut Rng) -> NetworkFaults {
        if !self.lossy {
            return NetworkFaults::default();
        }
        NetworkFaults {
            loss: Ppm(rng.below(50_000) as u32),
            duplicate: Ppm(rng.below(50_000) as u32),
            corrupt: Ppm(if self.corrupt_frames { rng.below(5_000) as u32 } else { 0 }),
            late: Ppm(rng.below(100_000) as u32),
            late_nanos_max: rng.between(1, 500) * MILLI,
        }
    }

    fn crash_kind(&self, rng: &mut Rng) -> CrashKind {
        if self.power_loss && !rng.one_in(3) { CrashKind::Power } else { CrashKind::Process }
    }

    /// The next fault; `None` where the plan allows none.
    pub fn next(&self, rng: &mut Rng) -> Option<Fault> {
        let mut kinds = Vec::new();
        let mut allow = |allowed: bool, times: usize, kind: Kind| {
            if allowed {
                kinds.extend(std::iter::repeat_n(kind, times));
            }
        };
        allow(self.crashes, 4, Kind::Crash);
        allow(self.crashes, 2, Kind::CrashWhileWriting);
        allow(self.crashes, 2, Kind::CrashAfterVote);
        allow(self.blackouts, 1, Kind::Blackout);
        allow(self.partitions, 3, Kind::Partition);
        allow(self.pauses, 2, Kind::Pause);
        allow(self.slow_disks, 2, Kind::SlowDisk);
        allow(self.disk_errors, 1, Kind::DiskErrors);
        allow(self.full_disks, 1, Kind::FullDisk);
        // Where members come and go, there is not always a disk that may be damaged.
        allow(self.damage, if self.founders < self.members { 3 } else { 1 }, Kind::Damage);
        allow(self.clock_jumps, 2, Kind::Clock);
        allow(self.transfers, 2, Kind::Transfer);
        allow(self.vote_races && self.members > 2, 4, Kind::VoteRace);
        allow(self.lonely_leaders && self.members > 2, 4, Kind::LonelyLeader);
        allow(self.cut_snapshots && self.members > 1, 2, Kind::CutSnapshot);
        allow(self.cut_snapshots && self.members > 1, 2, Kind::RotInSnapshot);
        if kinds.is_empty() {
            return None;
        }
        let member = rng.below(self.members as u64) as usize;
        let down_nanos =
            if rng.one_in(4) { rng.between(3, 8) * SECOND } else { rng.between(1, 1500) * MILLI };
        Some(match *rng.pick(&kinds) {
            Kind::Crash => Fault::Crash { member, kind: self.crash_kind(rng), down_nanos },
            Kind::CrashWhileWriting => {
                Fault::CrashWhileWriting { member, kind: self.crash_kind(rng), down_nanos }
            }
            Kind::CrashAfterVote => Fault::CrashAfterVote {
                member,
                kind: self.crash_kind(rng),
                down_nanos: rng.between(1, 100) * MILLI,
            },
            Kind::Blackout => Fault::Blackout { down_nanos },
            Kind::Partition => Fault::Partition {
                shape: Shape::draw(rng, self.members),
                nanos: rng.between(50, 6_000) * MILLI,
            },
            Kind::Pause => {
                let nanos = rng.between(10, 4_000) * MILLI;
                Fault::Pause { member, nanos, asleep: rng.one_in(3) }
            }
            Kind::SlowDisk => Fault::SlowDisk {
                member,
                factor: *rng.pick(&[10, 100, 1_000]),
                stuck: rng.one_in(3),
                nanos: rng.between(50, 5_000) * MILLI,
            },
            Kind::DiskErrors => {
                let some = |rng: &mut Rng| Ppm(rng.below(3_000) as u32);
                let faults = DiskFaults {
                    read_error: some(rng),
                    write_error: some(rng),
                    sync_error: some(rng),
                    error_budget: 1,
                    ..DiskFaults::default()
                };
                Fault::Disk { member, faults, nanos: rng.between(100, 3_000) * MILLI }
            }
            Kind::FullDisk => Fault::FullDisk { member, nanos: rng.between(100, 5_000) * MILLI },
            Kind::Damage => Fault::Damage {
                how: *rng.pick(&[
                    Damage::Rot,
                    Damage::RotInRecords,
                    Damage::RotInRecords,
                    Damage::RotInIndex,
                    Damage::RotInLog,
                    Damage::Misdirect,
                    Damage::StaleRead,
                ]),
            },
            Kind::LonelyLeader => {
                Fault::LonelyLeader { nanos: rng.between(500, 4_000) * MILLI, kept: rng.one_in(2) }
            }
            Kind::Clock => Fault::Clock {
                member,
                drift_ppm: rng.below(2_000) as i64 - 1_000,
                wall_nanos: (rng.below(7_200) as i64 - 3_600) * SECOND as i64,
                still_nanos: if rng.one_in(3) { rng.between(100, 5_000) * MILLI } else { 0 },
            },
            Kind::CutSnapshot => Fault::CutSnapshot {
                who: *rng.pick(&[Cut::Sender, Cut::Receiver, Cut::Link]),
                kind: self.crash_kind(rng),
                down_nanos,
            },
            Kind::RotInSnapshot => Fault::RotInSnapshot { at: *rng.pick(&[End::Sender, End::Receiver]) },
            Kind::Transfer => Fault::Transfer { to: member },
            Kind::VoteRace => Fault::VoteRace {
                hub: member,
                kind: self.crash_kind(rng),
                delay_nanos: rng.between(1, 150) * MILLI,
                nanos: rng.between(2_000, 8_000) * MILLI,
            },
        })
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Crash,
    CrashWhileWriting,
    CrashAfterVote,
    Blackout,
    Partition,
    Pause,
    SlowDisk,
    DiskErrors,
    FullDisk,
    Damage,
    Clock,
    Transfer,
    VoteRace,
    LonelyLeader,
    CutSnapshot,
    RotInSnapshot,
}

/// Who ends in the middle of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Sender,
    Receiver,
    Link,
}

/// An end of a snapshot's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Sender,
    Receiver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit of any file.
    Rot,
    /// Bits of what segments hold.
    RotInRecords,
    /// A bit of a footer or a manifest.
    RotInIndex,
    /// A bit of the log, not of what was written last.
    RotInLog,
    Misdirect,
    StaleRead,
}

/// Something goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    Crash {
        member: usize,
        kind: CrashKind,
        down_nanos: u64,
    },
    /// The member dies in the middle of its next disk call.
    CrashWhileWriting {
        member: usize,
        kind: CrashKind,
        down_nanos: u64,
    },
    /// The member dies soon after it made its next vote durable, and is back before the election is over.
    CrashAfterVote {
        member: usize,
        kind: CrashKind,
        down_nanos: u64,
    },
    Blackout {
        down_nanos: u64,
    },
    Partition {
        shape: Shape,
        nanos: u64,
    },
    /// Nothing of the member runs; asleep with its machine, its monotonic clock stands still, too.
    Pause {
        member: usize,
        nanos: u64,
        asleep: bool,
    },
    SlowDisk {
        member: usize,
        factor: u64,
        stuck: bool,
        nanos: u64,
    },
    Disk {
        member: usize,
        faults: DiskFaults,
        nanos: u64,
    },
    FullDisk {
        member: usize,
        nanos: u64,
    },
    Damage {
        how: Damage,
    },
    Clock {
        member: usize,
        drift_ppm: i64,
        wall_nanos: i64,
        /// The monotonic clock stands still while the member runs.
        still_nanos: u64,
    },
    Transfer {
        to: usize,
    },
    /// The next snapshot, or one that is under way, ends in its middle.
    CutSnapshot {
        who: Cut,
        kind: CrashKind,
        down_nanos: u64,
    },
    /// Bits of the next snapshot flip before they are sent, or before they are looked at.
    RotInSnapshot {
        at: End,
    },
    /// Whoever leads then is cut off from the other members.
    LonelyLeader {
        nanos: u64,
        /// For as long as leases last instead, and nothing else goes wrong meanwhile.
        kept: bool,
    },
    /// The others reach only this member, over slow links; it dies whenever a vote of its is durable, and is back in
    /// milliseconds.
    VoteRace {
        hub: usize,
        kind: CrashKind,
        delay_nanos: u64,
        nanos: u64,
    },
}

/// Which links a partition cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One side hears nothing of the other, and the other way round.
    Split(Vec<bool>),
    /// One direction of one link.
    OneWay {
        from: usize,
        to: usize,
    },
    /// A member is heard by nobody, but hears all (or the other way round).
    Deaf {
        member: usize,
        hears: bool,
    },
    Flapping {
        from: usize,
        to: usize,
        period_nanos: u64,
    },
    Slow {
        from: usize,
        to: usize,
        delay_nanos: u64,
    },
    /// One member hears nobody, and is heard by none.
    Alone {
        member: usize,
    },
    /// All reach one member alone, over slow links.
    Star {
        hub: usize,
        delay_nanos: u64,
    },
}

impl Shape {
    fn draw(rng: &mut Rng, members: usize) -> Self {
        let from = rng.below(members as u64) as usize;
        let to =
            if members > 1 { (from + 1 + rng.below(members as u64 - 1) as usize) % members } else { from };
        match rng.below(6) {
            0 => Self::OneWay { from, to },
            1 => Self::Deaf { member: from, hears: rng.one_in(2) },
            2 => Self::Flapping { from, to, period_nanos: rng.between(5, 400) * MILLI },
            3 => Self::Slow { from, to, delay_nanos: rng.between(5, 1_500) * MILLI },
            _ => Self::Split((0..members).map(|_| rng.one_in(2)).collect()),
        }
    }

    /// Puts the partition in place of whatever was there.
    pub fn apply(&self, network: &mut SimNetwork, members: usize) {
        network.heal();
        network.counts.partitions += 1;
        for from in 0..members {
            for to in (0..members).filter(|to| *to != from) {
                let cut = match self {
                    Self::Split(side) => side[from] != side[to],
                    Self::OneWay { from: a, to: b } => (from, to) == (*a, *b),
                    Self::Alone { member } => from == *member || to == *member,
                    Self::Deaf { member, hears: true } => from == *member,
                    Self::Deaf { member, hears: false } => to == *member,
                    Self::Flapping { from: a, to: b, period_nanos } => {
                        if (from, to) == (*a, *b) {
                            network.flap(from, to, *period_nanos);
                        }
                        false
                    }
                    Self::Star { hub, delay_nanos } => {
                        network.slow(from, to, *delay_nanos);
                        from != *hub && to != *hub
                    }
                    Self::Slow { from: a, to: b, delay_nanos } => {
                        if (from, to) == (*a, *b) {
                            network.slow(from, to, *delay_nanos);
                        }
                        false
                    }
                };
                if cut {
                    network.cut(from, to);
                }
            }
        }
    }
}
