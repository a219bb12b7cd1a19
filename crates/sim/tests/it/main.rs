//! The simulator itself: seeds repeat bit for bit, and worlds without faults find nothing.

mod scenarios;

use quorate_sim::report::{Options, Outcome, guarded, regressions};
use quorate_sim::{log_world, run_joins, run_members, world};

fn run(world: fn(Options) -> Outcome, seed: u64) -> Outcome {
    let outcome = guarded(Options { seed, ..Options::default() }, world);
    assert_eq!(
        outcome.violation, None,
        "seed {seed}; replay: cargo run -p quorate-sim -- --seeds 1 --from {seed} --trace"
    );
    outcome
}

#[test]
fn a_seed_of_the_small_world_repeats_bit_for_bit() {
    for seed in 1..=6 {
        let first = run(log_world::run, seed);
        assert!(first.events > 100, "seed {seed} did next to nothing");
        assert_eq!(first, run(log_world::run, seed), "seed {seed}");
    }
}

#[test]
fn a_seed_of_the_whole_world_repeats_bit_for_bit() {
    for seed in [2, 6] {
        let first = run(world::run, seed);
        assert!(first.events > 1_000, "seed {seed} did next to nothing");
        assert_eq!(first, run(world::run, seed), "seed {seed}");
    }
}

#[test]
fn a_seed_in_which_members_come_and_go_repeats_bit_for_bit() {
    let first = run(run_members, 2);
    assert!(first.faults["members: joined"] > 0 && first.faults["members: removed"] > 0, "{first:?}");
    assert_eq!(first, run(run_members, 2));
}

/// Each of these once found what a member that leads right after a snapshot, a joiner that asked a wiped member who it
/// is, or a removed leader of two members, did wrong.
#[test]
fn members_come_and_go_with_snapshots_wipes_and_power_losses() {
    for seed in [8, 40, 82] {
        let outcome = run(run_members, seed);
        assert!(outcome.faults["members: removed"] > 0, "seed {seed}");
    }
}

#[test]
fn a_seed_in_which_machines_join_by_request_repeats_bit_for_bit() {
    let first = run(run_joins, 3);
    assert!(first.faults["joins: admitted"] > 0, "{first:?}");
    assert_eq!(first, run(run_joins, 3));
}

/// Each of these once found what a founder that was killed while it founded, or one whose move could not be noted, did wrong.
#[test]
fn machines_join_by_request_with_crashes_and_errors_of_their_disks() {
    for seed in [9, 28] {
        let outcome = run(run_joins, seed);
        assert!(outcome.faults["joins: a founding given up"] > 0, "seed {seed}");
    }
}

#[test]
fn two_seeds_differ() {
    assert_ne!(run(log_world::run, 1).hash, run(log_world::run, 2).hash);
}

#[test]
fn the_list_of_regressions_reads() {
    assert_eq!(regressions("# why\n8  # what it found\n\n19\n"), [8, 19]);
    let mut known = regressions(include_str!("../../regressions.txt"));
    known.dedup();
    assert_eq!(
        known.len(),
        regressions(include_str!("../../regressions.txt")).len(),
        "a seed is listed once"
    );
}
