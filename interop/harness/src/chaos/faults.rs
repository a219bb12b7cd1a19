//! What goes wrong, how it begins and how it ends.
//!
//! Invariant: once [`World::end`] has returned for each fault that began, every member was started again, every link is
//! open, every disk has room and every process goes on.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quorate_interop::{Cluster, WAIT_MAX};

use super::clock::Clocks;
use super::dice::Dice;
use super::disk::{FileDisk, SmallDisk};
use super::network::{Link, Network};
use crate::scenarios::membership;
use crate::tools::Tools;

/// A fault and whom it meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(usize),
    KillLeader(usize),
    KillMajority(Vec<usize>),
    KillAll,
    /// Killed again right after its start.
    KillTwice(usize),
    Stop(usize),
    StopAll,
    Pause(usize),
    PauseLeader(usize),
    PauseAll,
    /// Nobody hears it and it hears nobody.
    Isolate(usize),
    IsolateLeader(usize),
    /// Nobody hears it.
    Mute(usize),
    /// It hears nobody.
    Deaf(usize),
    /// Two members do not hear each other; others hear both.
    Split(usize, usize),
    /// Everyone is alone.
    SplitAll,
    /// Isolated and back, again and again.
    Flap(usize),
    /// All that it sends and gets takes its time.
    Slow(usize),
    FullDisk,
    StuckDisk,
    /// Stands still for moments, again and again.
    SlowDisk,
    /// The wall clock moves by seconds, and back.
    Clock(usize, i64),
    /// Removed, wiped, added again.
    Replace(usize),
    /// Killed and started again from the other binary.
    Swap(usize),
}

impl Fault {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill(_) => "killed",
            Self::KillLeader(_) => "leader killed",
            Self::KillMajority(_) => "majority killed",
            Self::KillAll => "all killed",
            Self::KillTwice(_) => "killed while it starts",
            Self::Stop(_) => "stopped and started",
            Self::StopAll => "all stopped and started",
            Self::Pause(_) => "paused",
            Self::PauseLeader(_) => "leader paused",
            Self::PauseAll => "all paused",
            Self::Isolate(_) => "isolated",
            Self::IsolateLeader(_) => "leader isolated",
            Self::Mute(_) => "mute",
            Self::Deaf(_) => "deaf",
            Self::Split(..) => "two members split",
            Self::SplitAll => "all split",
            Self::Flap(_) => "links flap",
            Self::Slow(_) => "links slow",
            Self::FullDisk => "disk full",
            Self::StuckDisk => "disk stuck",
            Self::SlowDisk => "disk slow",
            Self::Clock(..) => "wall clock jumps",
            Self::Replace(_) => "removed, wiped, added",
            Self::Swap(_) => "other binary",
        }
    }

    /// Whether it needs a majority that works, or takes longer than it may be chosen for.
    fn alone(&self) -> bool {
        matches!(self, Self::Replace(_) | Self::Swap(_) | Self::Stop(_) | Self::StopAll | Self::KillTwice(_))
    }

    /// What it takes hold of: of two faults at a time, no two have the same.
    fn part(&self) -> u8 {
        match self {
            Self::Isolate(_)
            | Self::IsolateLeader(_)
            | Self::Mute(_)
            | Self::Deaf(_)
            | Self::Split(..)
            | Self::SplitAll
            | Self::Flap(_)
            | Self::Slow(_) => 0,
            Self::FullDisk | Self::StuckDisk | Self::SlowDisk => 1,
            Self::Clock(..) => 2,
            _ => 3,
        }
    }
}

/// What faults are done to.
pub struct World<'a> {
    pub tools: &'a Tools,
    pub cluster: Cluster,
    pub network: Network,
    /// The last member's data, where it can be filled.
    pub small: Option<SmallDisk>,
    /// The last but one's.
    pub stuck: Option<FileDisk>,
    pub clocks: Option<Clocks>,
    pub leader: usize,
}

impl World<'_> {
    fn size(&self) -> usize {
        self.cluster.members.len()
    }

    /// One or two faults that can be at the same time.
    pub fn draw(&mut self, dice: &mut Dice) -> anyhow::Result<Vec<Fault>> {
        self.leader = self.cluster.leader()?;
        let first = self.draw_one(dice);
        let mut drawn = vec![first];
        if !drawn[0].alone() && dice.chance(1, 3) {
            const TRIES: usize = 8;
            let other = (0..TRIES)
                .map(|_| self.draw_one(dice))
                .find(|other| !other.alone() && other.part() != drawn[0].part());
            drawn.extend(other);
        }
        Ok(drawn)
    }

    fn draw_one(&self, dice: &mut Dice) -> Fault {
        loop {
            let one = dice.place(self.size());
            let other = (one + 1 + dice.place(self.size() - 1)) % self.size();
            let fault = match dice.below(24) {
                0 => Fault::Kill(one),
                1 => Fault::KillLeader(self.leader),
                2 => Fault::KillMajority(
                    (0..=self.size() / 2).map(|more| (one + more) % self.size()).collect(),
                ),
                3 => Fault::KillAll,
                4 => Fault::KillTwice(one),
                5 => Fault::Stop(one),
                6 => Fault::StopAll,
                7 => Fault::Pause(one),
                8 => Fault::PauseLeader(self.leader),
                9 => Fault::PauseAll,
                10 => Fault::Isolate(one),
                11 => Fault::IsolateLeader(self.leader),
                12 => Fault::Mute(one),
                13 => Fault::Deaf(one),
                14 => Fault::Split(one, other),
                15 => Fault::SplitAll,
                16 => Fault::Flap(one),
                17 if self.network.slows() => Fault::Slow(one),
                18 if self.small.is_some() => Fault::FullDisk,
                19 if self.stuck.is_some() => Fault::StuckDisk,
                20 if self.stuck.is_some() => Fault::SlowDisk,
                21 if self.clocks.is_some() => Fault::Clock(one, jump(dice)),
                22 if self.tools.etcdctl.is_some() => Fault::Replace(one),
                23 if self.tools.other_binary.is_some() => Fault::Swap(one),
                _ => continue,
            };
            return fault;
        }
    }

    /// Begins a fault.
    pub fn begin(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(one) | Fault::KillLeader(one) | Fault::KillTwice(one) | Fault::Swap(one) => {
                self.cluster.members[*one].kill();
            }
            Fault::KillMajority(places) => self.kill(places),
            Fault::KillAll => self.kill(&(0..self.size()).collect::<Vec<_>>()),
            Fault::Stop(one) => self.stop(*one)?,
            Fault::StopAll => (0..self.size()).try_for_each(|one| self.stop(one))?,
            Fault::Pause(one) | Fault::PauseLeader(one) => self.signal(*one, "STOP")?,
            Fault::PauseAll => (0..self.size()).try_for_each(|one| self.signal(one, "STOP"))?,
            Fault::FullDisk => self.small.as_ref().context("a small disk")?.fill()?,
            Fault::StuckDisk => self.stuck.as_mut().context("a disk")?.freeze()?,
            Fault::Clock(one, seconds) => self.clocks.as_ref().context("clocks")?.set(*one, *seconds)?,
            Fault::Isolate(_)
            | Fault::IsolateLeader(_)
            | Fault::Mute(_)
            | Fault::Deaf(_)
            | Fault::Split(..)
            | Fault::SplitAll => self.links(fault, Link::Cut)?,
            Fault::Slow(one) => self.network.slow(*one, true)?,
            Fault::Flap(_) | Fault::SlowDisk | Fault::Replace(_) => {}
        }
        Ok(())
    }

    /// What goes on while a fault lasts, for that long.
    pub fn last(&mut self, faults: &[Fault], hold: Duration) -> anyhow::Result<()> {
        const FLAPS: u32 = 6;
        let turn = hold / FLAPS;
        for number in 0..FLAPS {
            for fault in faults {
                match fault {
                    Fault::Flap(_) if number % 2 == 0 => self.links(fault, Link::Cut)?,
                    Fault::Flap(_) => self.links(fault, Link::Open)?,
                    Fault::SlowDisk if number % 2 == 0 => self.stuck.as_mut().context("a disk")?.freeze()?,
                    Fault::SlowDisk => self.stuck.as_mut().context("a disk")?.thaw(),
                    _ => {}
                }
            }
            std::thread::sleep(turn);
        }
        Ok(())
    }

    /// Ends a fault.
    pub fn end(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillTwice(one) => {
                self.start(*one)?;
                std::thread::sleep(TWICE_AFTER);
                self.cluster.members[*one].kill();
            }
            Fault::Swap(one) => {
                let other = self.tools.other_binary.clone().context("another binary")?;
                let member = &mut self.cluster.members[*one];
                let is_other = member.binary == other;
                member.binary = if is_other { self.tools.binary.clone() } else { other };
            }
            Fault::Pause(one) | Fault::PauseLeader(one) => self.signal(*one, "CONT")?,
            Fault::PauseAll => (0..self.size()).try_for_each(|one| self.signal(one, "CONT"))?,
            Fault::FullDisk => self.small.as_ref().context("a small disk")?.free()?,
            Fault::StuckDisk => self.stuck.as_mut().context("a disk")?.thaw(),
            Fault::Clock(one, _) => self.clocks.as_ref().context("clocks")?.set(*one, 0)?,
            Fault::Slow(one) => self.network.slow(*one, false)?,
            Fault::Replace(one) => {
                let through = (*one + 1) % self.size();
                let network = &self.network;
                membership::replace(self.tools, &mut self.cluster, *one, through, &|cluster| {
                    network.note_pids(cluster);
                })?;
            }
            _ => self.links(fault, Link::Open)?,
        }
        Ok(())
    }

    /// Ends whatever may still go wrong, as well as it can: after a fault that could not be ended as it should.
    pub fn heal(&mut self) {
        for from in 0..self.size() {
            for to in (0..self.size()).filter(|&to| to != from) {
                let _ = self.network.set(from, to, Link::Open);
            }
            if self.network.slows() {
                let _ = self.network.slow(from, false);
            }
            let _ = self.signal(from, "CONT");
        }
        if let Some(disk) = &mut self.stuck {
            disk.thaw();
        }
        if let Some(disk) = &self.small {
            let _ = disk.free();
        }
        let _ = self.start_all();
    }

    /// Starts those that do not run, and waits until all say that they serve.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for place in 0..self.size() {
            if self.cluster.members[place].pid().is_none() {
                self.start(place)?;
            }
        }
        self.cluster.members.iter_mut().try_for_each(|member| member.wait_ready())
    }

    fn start(&mut self, place: usize) -> anyhow::Result<()> {
        self.cluster.members[place].start()?;
        self.network.note_pids(&self.cluster);
        Ok(())
    }

    fn kill(&mut self, places: &[usize]) {
        for &place in places {
            self.cluster.members[place].kill();
        }
    }

    fn stop(&mut self, place: usize) -> anyhow::Result<()> {
        let name = self.cluster.members[place].name.clone();
        let status = self.cluster.members[place].terminate(WAIT_MAX)?;
        ensure!(status.success(), "{name} was asked to end and ended with {status}");
        Ok(())
    }

    fn signal(&mut self, place: usize, name: &str) -> anyhow::Result<()> {
        // It may have been killed by another fault.
        match self.cluster.members[place].pid() {
            Some(_) => self.cluster.members[place].process().signal(name),
            None => Ok(()),
        }
    }

    /// Changes the links that a fault is about.
    fn links(&mut self, fault: &Fault, link: Link) -> anyhow::Result<()> {
        let size = self.size();
        for from in 0..size {
            for to in (0..size).filter(|&to| to != from) {
                let meant = match fault {
                    Fault::Isolate(one) | Fault::IsolateLeader(one) | Fault::Flap(one) => {
                        from == *one || to == *one
                    }
                    Fault::Mute(one) => from == *one,
                    Fault::Deaf(one) => to == *one,
                    Fault::Split(one, other) => (from, to) == (*one, *other) || (from, to) == (*other, *one),
                    Fault::SplitAll => true,
                    _ => false,
                };
                if meant {
                    self.network.set(from, to, link)?;
                }
            }
        }
        Ok(())
    }
}

/// In the middle of a start.
const TWICE_AFTER: Duration = Duration::from_millis(40);

/// Seconds by which a clock jumps: mostly a little, sometimes days.
fn jump(dice: &mut Dice) -> i64 {
    const DAYS_SECONDS: u64 = 3 * 24 * 60 * 60;
    let seconds = if dice.chance(1, 3) { dice.between(60, DAYS_SECONDS) } else { dice.between(1, 60) };
    let seconds = i64::try_from(seconds).expect("some days");
    if dice.chance(1, 2) { -seconds } else { seconds }
}
