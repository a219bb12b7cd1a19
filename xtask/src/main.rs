//! `cargo xtask`: the project's own tasks.
//!
//! Invariants: nothing is written outside the target folder, nothing needs more rights than a build; a step that did
//! not run is never counted as passed.

#![forbid(unsafe_code)]

mod clients;
mod command;
mod steps;

use std::process::ExitCode;
use std::time::Instant;

use steps::{Outcome, STEPS, Seeds, Step};

const USAGE: &str = "\
Usage: cargo xtask TASK

Tasks:
  test [--only STEP]                run the steps below in order; stop at the first that fails
  sim [--seeds N] [--from SEED]     run the simulator on N seeds, from SEED on
  deny                              check licences, bans and sources of all dependencies
  steps                             list the steps of 'test'
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(words: &[&str]) -> anyhow::Result<bool> {
    match words {
        ["test"] => Ok(test(STEPS)),
        ["test", "--only", name] => {
            let step = STEPS.iter().find(|step| step.name == *name);
            let step =
                step.ok_or_else(|| anyhow::anyhow!("there is no step {name:?}; see 'cargo xtask steps'"))?;
            Ok(test(std::slice::from_ref(step)))
        }
        ["sim", options @ ..] => {
            let seeds = sim_options(options)?;
            Ok(matches!(steps::simulate(seeds), Ok(Outcome::Passed)))
        }
        ["deny"] => Ok(test(&[steps::DENY])),
        ["steps"] => {
            for step in STEPS {
                println!("{:<12} {}", step.name, step.what);
            }
            Ok(true)
        }
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(true)
        }
        [other, ..] => anyhow::bail!("{other:?} is no task, or its options are not understood"),
    }
}

fn sim_options(options: &[&str]) -> anyhow::Result<Seeds> {
    let mut seeds = Seeds::default();
    let mut rest = options.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().ok_or_else(|| anyhow::anyhow!("{flag} needs a value"))?.parse()?;
        match *flag {
            "--seeds" => seeds.count = value,
            "--from" => seeds.from = value,
            other => anyhow::bail!("{other:?} is no option of sim"),
        }
    }
    Ok(seeds)
}

/// Runs steps in order, up to the first failure; prints how each went, and closes with the counts.
fn test(steps: &[Step]) -> bool {
    let start = Instant::now();
    let mut lines = Vec::new();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for step in steps {
        println!("\n==> {}: {}", step.name, step.what);
        let step_start = Instant::now();
        let outcome = (step.run)();
        let seconds = step_start.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Passed) => {
                passed += 1;
                lines.push(format!("passed   {:<12} {seconds:>7.1} s", step.name));
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                lines.push(format!("skipped  {:<12} {why}", step.name));
            }
            Err(error) => {
                failed += 1;
                lines.push(format!("FAILED   {:<12} {seconds:>7.1} s  {error:#}", step.name));
                break;
            }
        }
    }
    println!("\nSteps, {:.0} s in all:", start.elapsed().as_secs_f64());
    for line in &lines {
        println!("  {line}");
    }
    let not_run = steps.len() - lines.len();
    if not_run > 0 {
        println!("  {not_run} more did not run");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0 && passed > 0
}
