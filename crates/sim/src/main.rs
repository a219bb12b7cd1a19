//! `quorate-sim`: runs seeds of the simulator and says what broke.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use quorate_sim::report::{Mutant, Options, Outcome, Totals, guarded};
use quorate_sim::scenarios;

const USAGE: &str = "\
quorate-sim: whole clusters on one thread, from one seed, with a hostile disk, network and clock

  --seeds N       how many seeds to run (200)
  --from S        the first seed (1)
  --world NAME    log: consensus and the write-ahead log alone; whole: members with all their stages;
                  both: one after the other for each seed (the default);
                  members: the whole world, in which members are added, promoted, removed, replaced and wiped;
                  joins: the whole world, in which machines join by request, or give up a cluster of their own;
                  full: the whole world, on small disks that get full and have to be emptied
  --scenario NAME a script of what went wrong elsewhere instead of a world, in a few seeds from --from on; all: each of them;
                  list: their names. With '--mutant all': each has to find the planted bugs that belong to it
  --mutant NAME   plant a known bug; the run succeeds once a seed finds it (builds with the feature `mutants` only);
                  all: hunt for each of them in turn, and print a table
  --keep-going    run on after a seed that failed
  --trace         print what happens in each seed";

/// Seeds that once found a bug, always run.
const REGRESSIONS: &str = include_str!("../regressions.txt");

struct Arguments {
    seeds: u64,
    scenario: Option<String>,
    /// How many seeds of each scenario, where that was said.
    scenario_seeds: Option<u64>,
    from: u64,
    world: String,
    run: fn(Options) -> Outcome,
    mutant: Mutant,
    all_mutants: bool,
    keep_going: bool,
    trace: bool,
}

fn parse() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seeds: 200,
        scenario: None,
        scenario_seeds: None,
        from: 1,
        world: "both".to_owned(),
        run: quorate_sim::run_both,
        mutant: Mutant::None,
        all_mutants: false,
        keep_going: false,
        trace: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{flag} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match flag.as_str() {
            "--seeds" => {
                arguments.seeds = number(value()?)?;
                arguments.scenario_seeds = Some(arguments.seeds);
            }
            "--scenario" => arguments.scenario = Some(value()?),
            "--from" => arguments.from = number(value()?)?,
            "--world" => {
                arguments.world = value()?;
                arguments.run = match arguments.world.as_str() {
                    "both" => quorate_sim::run_both,
                    "whole" => quorate_sim::world::run,
                    "log" => quorate_sim::log_world::run,
                    "members" => quorate_sim::run_members,
                    "joins" => quorate_sim::run_joins,
                    "full" => quorate_sim::run_full,
                    other => return Err(format!("there is no world {other}")),
                };
            }
            "--mutant" => {
                let name = value()?;
                if name == "all" {
                    arguments.all_mutants = true;
                    continue;
                }
                let known = Mutant::all().iter().find(|(known, _)| *known == name);
                let names: Vec<_> = Mutant::all().iter().map(|(name, _)| *name).collect();
                arguments.mutant =
                    known.ok_or_else(|| format!("this build has no mutant {name}; it has {names:?}"))?.1;
            }
            "--keep-going" => arguments.keep_going = true,
            "--trace" => arguments.trace = true,
            "--help" | "-h" => return Err(USAGE.to_owned()),
            other => return Err(format!("{other} is not known\n\n{USAGE}")),
        }
    }
    if arguments.mutant.needs_changing_members() {
        (arguments.world, arguments.run) = ("members".to_owned(), quorate_sim::run_members);
    }
    Ok(arguments)
}

/// Hunts for each planted bug; prints a table for `docs/testing.md`.
fn hunt_all(arguments: &Arguments) -> ExitCode {
    println!("| planted bug | first seed | what says so |\n|---|---|---|");
    let mut missed = 0u32;
    for (name, mutant) in Mutant::all() {
        if mutant.needs_a_script() {
            let finds = scenarios::all().find(|scenario| scenario.finds.contains(name));
            missed += u32::from(finds.is_none());
            let by = finds.map_or("left to a scenario, and in none", |scenario| scenario.name);
            println!("| `{name}` | | {by} |");
            continue;
        }
        let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
        let run = if mutant.needs_changing_members() { quorate_sim::run_members } else { arguments.run };
        let found = seeds.into_iter().find_map(|seed| {
            let options = Options { seed, mutant: *mutant, trace: false };
            guarded(options, run).violation.map(|what| (seed, what))
        });
        match found {
            Some((seed, what)) => {
                let what = what.split_once(" ms: ").map_or(&*what, |(_, what)| what);
                let line: String = what.lines().next().unwrap_or_default().chars().take(110).collect();
                println!("| `{name}` | {seed} | {line} |");
            }
            None => {
                missed += 1;
                println!("| `{name}` | not within {} | |", arguments.seeds);
            }
        }
    }
    println!("{} planted bugs, {missed} missed", Mutant::all().len());
    if missed == 0 && !Mutant::all().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs scenarios in their seeds, each with the planted bugs that it has to find where all are asked for.
fn run_scenarios(arguments: &Arguments, name: &str) -> ExitCode {
    if name == "list" {
        scenarios::all().for_each(|scenario| println!("{}", scenario.name));
        return ExitCode::SUCCESS;
    }
    let chosen = scenarios::named(name);
    if chosen.is_empty() {
        eprintln!("there is no scenario {name}; --scenario list names them");
        return ExitCode::from(2);
    }
    let mut wrong = 0;
    for scenario in &chosen {
        let mutants = match arguments.all_mutants {
            true => scenario.mutants().map(|(_, mutant)| mutant).collect(),
            false => vec![arguments.mutant],
        };
        for mutant in mutants {
            let (begun, mut totals, mut found) = (Instant::now(), Totals::default(), None);
            let seeds = arguments.scenario_seeds.unwrap_or(scenario.seeds);
            for seed in arguments.from..arguments.from.saturating_add(seeds) {
                let options = Options { seed, mutant, trace: arguments.trace };
                let outcome = guarded(options, |options| scenario.run(options));
                totals.add(&outcome);
                if let Some(violation) = outcome.violation {
                    found = Some((seed, violation));
                    break;
                }
            }
            let planted = mutant.name().map(|name| format!(" --mutant {name}")).unwrap_or_default();
            let expected = found.is_some() == (mutant != Mutant::None);
            wrong += u32::from(!expected);
            let verdict = if expected { "ok" } else { "WRONG" };
            let (name, events, took) = (scenario.name, totals.events, begun.elapsed().as_secs_f64());
            println!("{verdict:<6}{name}{planted}: {} seeds, {events} events, {took:.1} s", totals.seeds);
            if let Some((seed, violation)) = found {
                println!("      seed {seed}: {violation}");
                println!(
                    "      replay: cargo xtask sim --scenario {name} --seeds 1 --from {seed}{planted} --trace"
                );
            }
        }
    }
    println!("{} scenarios, {wrong} wrong", chosen.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(name) = &arguments.scenario {
        return run_scenarios(&arguments, name);
    }
    if arguments.all_mutants {
        return hunt_all(&arguments);
    }
    let (begun, mut said, mut totals) = (Instant::now(), Instant::now(), Totals::default());
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    // Seeds that once found a bug come first, but for the replay of a single seed or the hunt for a planted bug.
    let known = if arguments.seeds > 1 && arguments.mutant == Mutant::None { REGRESSIONS } else { "" };
    for seed in quorate_sim::report::regressions(known).into_iter().chain(seeds) {
        let options = Options { seed, mutant: arguments.mutant, trace: arguments.trace };
        let outcome = guarded(options, arguments.run);
        totals.add(&outcome);
        if let Some(violation) = &outcome.violation {
            println!("seed {seed} FAILED {violation}");
            let mutant = arguments.mutant.name().map(|name| format!(" --mutant {name}")).unwrap_or_default();
            println!(
                "replay: cargo xtask sim --seeds 1 --from {seed} --world {}{mutant} --trace",
                arguments.world
            );
            if !arguments.keep_going {
                break;
            }
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            eprintln!(
                "seed {seed}: {} seeds, {} failed, {} events",
                totals.seeds, totals.failed, totals.events
            );
        }
    }
    println!("{}", totals.table(begun.elapsed()));
    let found = totals.failed > 0;
    let planted = arguments.mutant != Mutant::None;
    if found == planted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
