//! The steps of `cargo xtask test`, in their order.

use std::process::Command;

use crate::clients::{self, Client};
use crate::command::{cargo, is_there, output, root, run, target};

/// How a step ended, if not in failure.
pub enum Outcome {
    Passed,
    /// Did not run, for this reason.
    Skipped(String),
}

pub struct Step {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn() -> anyhow::Result<Outcome>,
}

pub const DENY: Step =
    Step { name: "deny", what: "licences, bans and sources of the dependencies", run: check_dependencies };

pub const STEPS: &[Step] = &[
    Step { name: "fmt", what: "the formatter has nothing to change", run: check_format },
    Step { name: "clippy", what: "lints, warnings are errors", run: lint },
    Step { name: "unit", what: "unit and integration tests of the workspace", run: unit_tests },
    Step {
        name: "sim",
        what: "the simulator: fixed seeds, and seeds that come from the commit",
        run: simulator,
    },
    Step { name: "mutants", what: "the simulator finds each planted bug", run: mutants },
    Step {
        name: "processes",
        what: "real processes of the optimised binary: start, stop, bad input",
        run: processes,
    },
    Step {
        name: "clients",
        what: "other projects' clients against three processes; kills under load",
        run: clients,
    },
    DENY,
];

/// What the optimised builds of tests use: release, with every assertion on.
const CHECKED: &[&str] = &["--profile", "checked"];

fn check_format() -> anyhow::Result<Outcome> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn lint() -> anyhow::Result<Outcome> {
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(Outcome::Passed)
}

fn unit_tests() -> anyhow::Result<Outcome> {
    run(&mut cargo(&["test", "--workspace"]))?;
    Ok(Outcome::Passed)
}

/// Seeds for the simulator.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    pub count: u64,
    pub from: u64,
}

impl Default for Seeds {
    fn default() -> Self {
        Self { count: 100, from: 1 }
    }
}

/// Runs the simulator on `seeds`.
pub fn simulate(seeds: Seeds) -> anyhow::Result<Outcome> {
    let (count, from) = (seeds.count.to_string(), seeds.from.to_string());
    let mut command = cargo(&["run", "-q", "-p", "quorate-sim"]);
    run(command.args(CHECKED).args(["--", "--seeds", &count, "--from", &from]))?;
    Ok(Outcome::Passed)
}

fn simulator() -> anyhow::Result<Outcome> {
    const SEEDS_OF_THE_COMMIT: u64 = 100;
    simulate(Seeds::default())?;
    simulate(Seeds { count: SEEDS_OF_THE_COMMIT, from: seed_of_the_commit() })
}

const MUTANTS: &[&str] = &["skip-sync", "commit-without-quorum", "forget-vote"];

/// Bugs that normal builds do not have; a simulator that misses one could not be believed about the others.
fn mutants() -> anyhow::Result<Outcome> {
    const SEEDS_MAX: &str = "1000";
    for mutant in MUTANTS {
        let mut command = cargo(&["run", "-q", "-p", "quorate-sim", "--features", "mutants"]);
        run(command.args(CHECKED).args(["--", "--mutant", mutant, "--seeds", SEEDS_MAX]))?;
    }
    Ok(Outcome::Passed)
}

/// A seed that differs from commit to commit, so that new ground is covered, and that can be told from the commit.
fn seed_of_the_commit() -> u64 {
    const DIGITS: usize = 12;
    let head =
        output(Command::new("git").current_dir(root()).args(["rev-parse", "HEAD"])).unwrap_or_default();
    head.get(..DIGITS).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}

fn processes() -> anyhow::Result<Outcome> {
    run(cargo(&["test", "-p", "quorate-cli", "--test", "it"]).args(CHECKED))?;
    Ok(Outcome::Passed)
}

fn clients() -> anyhow::Result<Outcome> {
    let scratch = target().join("interop");
    std::fs::create_dir_all(&scratch)?;
    let mut arguments = vec![
        "--binary".to_owned(),
        target().join("checked/quorate").display().to_string(),
        "--folder".to_owned(),
        scratch.join("scratch").display().to_string(),
    ];
    let mut missing = Vec::new();
    for (flag, client) in [
        ("--etcdctl", clients::etcdctl(&scratch)?),
        ("--python", clients::python(&scratch)?),
        ("--go", clients::go(&scratch)?),
    ] {
        match client {
            Client::At(path) => arguments.extend([flag.to_owned(), path.display().to_string()]),
            Client::NoToolchain(why) => {
                println!("skipped: {why}");
                missing.push(why);
            }
        }
    }
    if arguments.len() == 4 {
        return Ok(Outcome::Skipped(missing.join("; ")));
    }
    run(cargo(&["build", "-p", "quorate-cli", "-p", "quorate-interop"]).args(CHECKED))?;
    run(Command::new(target().join("checked/quorate-interop")).current_dir(root()).args(&arguments))?;
    Ok(Outcome::Passed)
}

fn check_dependencies() -> anyhow::Result<Outcome> {
    if !is_there("cargo-deny") {
        return Ok(Outcome::Skipped("cargo-deny is not installed".to_owned()));
    }
    run(&mut cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed)
}
