//! `cargo xtask`: the project's own tasks.
//!
//! Invariants: nothing is written outside the target folder, nothing needs more rights than a build; a step that did
//! not run is never counted as passed; no process outlives its step.

#![forbid(unsafe_code)]

mod bench;
mod clients;
mod command;
mod fuzz;
mod steps;

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use command::{Job, cargo, cpu_time};
use steps::{Outcome, STEPS, Step};

const USAGE: &str = "\
Usage: cargo xtask TASK

Tasks:
  test [--only STEP]    run the steps below in order; stop at the first that fails
  sim [OPTIONS]         run the simulator; 'cargo xtask sim --help' lists its options
  chaos [OPTIONS]       faults on real processes while other projects' clients work: --seconds N, --seed N, --members N,
                        --network auto|namespaces|proxies, --other-binary PATH (members swap between the two)
  fuzz TARGET [OPTIONS] one target of fuzz/ under libFuzzer, whose options those are: -max_total_time=SECONDS
  bench compare [OPTIONS]
                        measure Quorate beside Debian's etcd; --quick (default) or --full
  deny                  check licences, bans and sources of all dependencies
  steps                 list the steps of 'test'
";

/// How much of a failed step's log is shown.
const TAIL_LINES: usize = 60;

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
        ["test"] => test(STEPS),
        ["test", "--only", name] => {
            let step = STEPS.iter().find(|step| step.name == *name);
            let step =
                step.ok_or_else(|| anyhow::anyhow!("there is no step {name:?}; see 'cargo xtask steps'"))?;
            test(std::slice::from_ref(step))
        }
        ["sim", options @ ..] => simulate(options),
        ["chaos", options @ ..] => steps::chaos(options),
        ["fuzz", words @ ..] => fuzz::fuzz(words),
        ["bench", words @ ..] => bench::bench(words),
        ["deny"] => test(&[steps::DENY]),
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

/// Runs the simulator alone, with what it prints shown as it comes. A planted bug needs a build that has some.
fn simulate(options: &[&str]) -> anyhow::Result<bool> {
    let mut command = cargo(&["run", "-q", "--profile=checked", "-pquorate-sim"]);
    if options.contains(&"--mutant") {
        command.arg("--features=mutants");
    }
    Ok(command.arg("--").args(options).stdin(Stdio::null()).status()?.success())
}

/// Runs steps in order, up to the first failure; prints how each went, and closes with the counts.
fn test(steps: &[Step]) -> anyhow::Result<bool> {
    command::end_commands_with_us()?;
    let start = Instant::now();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for step in steps {
        let mut job = Job::open(step.name)?;
        println!("==> {}: {}", step.name, step.what);
        let (step_start, cpu_start) = (Instant::now(), cpu_time());
        let outcome = (step.run)(&mut job);
        let time = time(step_start.elapsed(), cpu_start);
        match outcome {
            Ok(Outcome::Passed(what)) => {
                passed += 1;
                job.passed();
                println!("    passed   {time}  {what}");
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                println!("    skipped  {why}");
            }
            Err(error) => {
                failed += 1;
                println!("    FAILED   {time}  {error:#}");
                if let Some(bytes) = command::free_disk_bytes() {
                    println!("    {} MB of disk are free", bytes / 1_000_000);
                }
                println!("---- the end of {}", job.log_path().display());
                println!("{}", job.tail(TAIL_LINES));
                println!("----");
                break;
            }
        }
    }
    let not_run = steps.len() - passed - failed - skipped;
    if not_run > 0 {
        println!("{not_run} more steps did not run");
    }
    println!("{} in all", time(start.elapsed(), Some(Duration::ZERO)));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && passed > 0)
}

/// A step's time, and that of the processors, which on a busy machine says more.
fn time(elapsed: Duration, cpu_start: Option<Duration>) -> String {
    let cpu = cpu_time()
        .zip(cpu_start)
        .map(|(now, start)| format!(", {:.0} s of CPU", (now - start).as_secs_f64()));
    format!("{:.0} s{}", elapsed.as_secs_f64(), cpu.unwrap_or_default())
}
