//! The scenarios: each holds in the product as it is, and repeats bit for bit.

use quorate_sim::report::{Options, guarded};
use quorate_sim::scenarios;

#[test]
fn every_scenario_holds_and_repeats_bit_for_bit() {
    for scenario in scenarios::all() {
        let options = Options { seed: 1, ..Options::default() };
        let run = || guarded(options, |options| scenario.run(options));
        let first = run();
        assert_eq!(
            first.violation, None,
            "{}; replay: cargo xtask sim --scenario {0} --trace",
            scenario.name
        );
        assert_eq!(first, run(), "{}", scenario.name);
    }
}

#[test]
fn scenarios_have_names_of_their_own() {
    let mut names: Vec<_> = scenarios::all().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(names.iter().all(|name| scenarios::named(name).len() == 1 && *name != "all" && *name != "list"));
}

/// A build with planted bugs: each that belongs to a scenario is found by it.
#[cfg(feature = "mutants")]
#[test]
fn every_scenario_finds_the_planted_bugs_that_belong_to_it() {
    for scenario in scenarios::all() {
        let known: Vec<_> = scenario.mutants().collect();
        assert_eq!(known.len(), scenario.finds.len(), "{} names a bug that nobody can plant", scenario.name);
        for (name, mutant) in known {
            let found = (1..=scenario.seeds).any(|seed| {
                let options = Options { seed, mutant, trace: false };
                guarded(options, |options| scenario.run(options)).violation.is_some()
            });
            assert!(found, "{} does not find {name}", scenario.name);
        }
    }
}
