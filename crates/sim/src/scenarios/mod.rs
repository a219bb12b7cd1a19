//! The bugs that others had: a script for each, named after what went wrong.
//!
//! A scenario runs whole members through what led to the bug, in a few seeds, so that timings differ. It is judged by the
//! oracles of every world, and says itself what must be seen besides. Invariant: each makes sure that it got to where the bug
//! would show ([`Script::until`], `ensure!`), so that none passes by missing it.

mod auth;
mod compaction;
mod durability;
mod elections;
mod joins;
mod leases;
mod members;
mod reads;
mod snapshots;
mod watches;

use quorate_models::keys::{RangeReply, Value};

use crate::nemesis::Plan;
use crate::oracle::Checked;
use crate::report::{Mutant, Options, Outcome};
use crate::world::script::{self, Script, Setting};
use crate::world::{Kind, Settings, Way};

/// One scripted world.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    setting: Setting,
    steps: fn(&mut Script) -> Checked,
    /// In how many seeds it is run.
    pub seeds: u64,
    /// The planted bugs that it must find.
    pub finds: &'static [&'static str],
}

impl Scenario {
    /// Three members that stay, and nobody else who asks for anything.
    const fn new(name: &'static str, steps: fn(&mut Script) -> Checked) -> Self {
        let setting = Setting {
            kind: Kind::Fixed,
            founders: 3,
            machines: 3,
            starts_founders: true,
            load: 0,
            way: Way::Absorbed,
            tune: |_, _| {},
        };
        Self { name, setting, steps, seeds: 6, finds: &[] }
    }

    const fn members(mut self, members: usize) -> Self {
        (self.setting.founders, self.setting.machines) = (members, members);
        self
    }

    /// Members come and go: so many machines stand empty at first.
    const fn spare(mut self, machines: usize) -> Self {
        self.setting.kind = Kind::Members;
        self.setting.machines += machines;
        self
    }

    /// So many machines found clusters of their own, and may be absorbed.
    const fn lone(mut self, machines: usize) -> Self {
        self.setting.kind = Kind::Joins;
        self.setting.machines += machines;
        self
    }

    /// Nobody runs when the script begins.
    const fn down(mut self) -> Self {
        self.setting.starts_founders = false;
        self
    }

    const fn tune(mut self, tune: fn(&mut Plan, &mut Settings)) -> Self {
        self.setting.tune = tune;
        self
    }

    const fn load(mut self, clients: usize) -> Self {
        self.setting.load = clients;
        self
    }

    const fn finds(mut self, mutants: &'static [&'static str]) -> Self {
        self.finds = mutants;
        self
    }

    #[must_use]
    pub fn run(&self, options: Options) -> Outcome {
        script::run(options, self.setting, self.steps)
    }

    /// The planted bugs of this build that it must find.
    pub fn mutants(&self) -> impl Iterator<Item = (&'static str, Mutant)> {
        let finds = self.finds;
        Mutant::all().iter().copied().filter(move |(name, _)| finds.contains(name))
    }
}

/// All of them.
pub const ALL: &[&[Scenario]] = &[
    durability::ALL,
    compaction::ALL,
    reads::ALL,
    watches::ALL,
    snapshots::ALL,
    leases::ALL,
    auth::ALL,
    elections::ALL,
    members::ALL,
    joins::ALL,
];

/// The scenario of this name, or all of them.
#[must_use]
pub fn named(name: &str) -> Vec<Scenario> {
    all().filter(|scenario| name == "all" || name == scenario.name).collect()
}

pub fn all() -> impl Iterator<Item = Scenario> {
    ALL.iter().copied().flatten().copied()
}

/// Whether a read of one key shows this value.
fn shows(reply: &RangeReply, value: &str) -> bool {
    let [kv] = &reply.kvs[..] else { return false };
    matches!(&kv.value, Value::Here(bytes) if bytes == value.as_bytes())
}

/// So many puts of values of so many bytes, one after the other, over a few keys.
fn puts(s: &mut Script, member: usize, count: usize, bytes: usize) -> Checked {
    for number in 0..count {
        let value = format!("{}.{number}.{}", s.now(), "x".repeat(bytes));
        s.put(member, &format!("p{}", number % 7), &value)?;
    }
    Ok(())
}
