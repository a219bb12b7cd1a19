//! The simulator: whole clusters on one thread, from one seed, with a hostile disk, network and clock.
//!
//! Invariants: a run depends on its seed and options alone (no wall clock, no thread, no address, no hash-map order);
//! two runs of one seed have the same event hash. A violation names what broke, at which virtual time, and the seed.

#![forbid(unsafe_code)]

pub mod clock;
pub mod disk;
pub mod events;
pub mod log_world;
pub mod nemesis;
pub mod network;
pub mod oracle;
pub mod report;
pub mod rng;
pub mod scenarios;
pub mod workload;
pub mod world;

/// Runs a seed in the world in which members come and go.
#[must_use]
pub fn run_members(options: report::Options) -> report::Outcome {
    world::run_with(options, world::Kind::Members)
}

/// Runs a seed in the world in which members join by request.
#[must_use]
pub fn run_joins(options: report::Options) -> report::Outcome {
    world::run_with(options, world::Kind::Joins)
}

/// Runs a seed in the world in which disks get full.
#[must_use]
pub fn run_full(options: report::Options) -> report::Outcome {
    world::run_with(options, world::Kind::Full)
}

/// Runs a seed in the small world and, where nothing broke there, in the whole one.
#[must_use]
pub fn run_both(options: report::Options) -> report::Outcome {
    if !options.mutant.shows_in_log_world() {
        return world::run(options);
    }
    let small = log_world::run(options);
    if small.violation.is_some() { small } else { small.and(world::run(options)) }
}
