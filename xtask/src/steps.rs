//! The steps of `cargo xtask test`, in their order.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::clients::{Client, SOURCES};
use crate::command::{Job, cargo, is_there, output, root, target};

/// How a step ended, if not in failure.
pub enum Outcome {
    /// What there is to say of it, if anything.
    Passed(String),
    /// Did not run, for this reason.
    Skipped(String),
}

pub struct Step {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&mut Job) -> anyhow::Result<Outcome>,
}

pub const DENY: Step =
    Step { name: "deny", what: "licences, bans and sources of the dependencies", run: check_dependencies };

pub const STEPS: &[Step] = &[
    Step { name: "fmt", what: "the formatter has nothing to change", run: check_format },
    Step { name: "clippy", what: "lints of all code, warnings are errors", run: lint },
    Step { name: "unit", what: "tests of the workspace, doc tests included", run: unit_tests },
    Step {
        name: "sim",
        what: "the simulator: seeds that once failed, fixed ones, those that come from the commit; scenarios",
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
    Step {
        name: "chaos",
        what: "faults on real processes, drawn from the commit, while other projects' clients work",
        run: chaos_of_the_commit,
    },
    DENY,
];

/// What the optimised builds of tests use: release, with every assertion on.
const CHECKED: &str = "--profile=checked";
/// What is built in that profile. Named together each time, so that no dependency is built twice with other features.
const CHECKED_PACKAGES: [&str; 3] = ["-pquorate-cli", "-pquorate-interop", "-pquorate-sim"];
/// The test binary of the command line; it runs optimised, and therefore not among the unit tests.
const PROCESS_TESTS: &str = "quorate-cli";

fn check_format(job: &mut Job) -> anyhow::Result<Outcome> {
    job.run(&mut cargo(&["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed(String::new()))
}

fn lint(job: &mut Job) -> anyhow::Result<Outcome> {
    job.run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(Outcome::Passed(String::new()))
}

fn unit_tests(job: &mut Job) -> anyhow::Result<Outcome> {
    job.run(&mut cargo(&["test", "--workspace", "--exclude", PROCESS_TESTS]))?;
    counted(job)
}

/// Adds up what the test runners in the log say; a run without tests has failed.
fn counted(job: &Job) -> anyhow::Result<Outcome> {
    let (mut passed, mut ignored) = (0_u64, 0_u64);
    // test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
    for line in job.text().lines().filter_map(|line| line.strip_prefix("test result: ok. ")) {
        for part in line.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => passed += number.parse::<u64>()?,
                Some((number, "ignored")) => ignored += number.parse::<u64>()?,
                _ => {}
            }
        }
    }
    anyhow::ensure!(passed > 0, "no test ran");
    let ignored = if ignored > 0 { format!(", {ignored} ignored") } else { String::new() };
    Ok(Outcome::Passed(format!("{passed} tests{ignored}")))
}

/// A cargo command for `targets` of the packages that are tested optimised.
fn checked(task: &str, targets: &[&str]) -> Command {
    let mut command = cargo(&[task, CHECKED]);
    command.args(CHECKED_PACKAGES).args(targets);
    command
}

fn build_checked(job: &mut Job) -> anyhow::Result<()> {
    job.run(&mut checked("build", &["--bins"]))
}

/// A program of the optimised build.
fn program(name: &str) -> Command {
    let mut command = Command::new(target().join("checked").join(name));
    command.current_dir(root());
    command
}

fn simulator(job: &mut Job) -> anyhow::Result<Outcome> {
    const SEEDS_FIXED: u64 = 100;
    const SEEDS_OF_THE_COMMIT: u64 = 100;
    const SEEDS_WITH_CHANGING_MEMBERS: u64 = 20;
    const SEEDS_WITH_JOINS: u64 = 30;
    const SEEDS_WITH_FULL_DISKS: u64 = 60;
    build_checked(job)?;
    for (world, count, from) in [
        ("both", SEEDS_FIXED, 1),
        ("both", SEEDS_OF_THE_COMMIT, seed_of_the_commit()),
        ("members", SEEDS_WITH_CHANGING_MEMBERS, 1),
        ("joins", SEEDS_WITH_JOINS, 1),
        ("full", SEEDS_WITH_FULL_DISKS, 1),
    ] {
        let (count, from) = (count.to_string(), from.to_string());
        job.run(program("quorate-sim").args(["--world", world, "--seeds", &count, "--from", &from]))?;
    }
    job.run(program("quorate-sim").args(["--scenario", "all"]))?;
    // Each run closes with a table that has a line 'seeds NUMBER'.
    let text = job.text();
    let runs = text.lines().filter_map(|line| line.strip_prefix("seeds ")?.trim().parse::<u64>().ok());
    let seeds: u64 = runs.sum();
    let wanted = SEEDS_FIXED
        + SEEDS_OF_THE_COMMIT
        + SEEDS_WITH_CHANGING_MEMBERS
        + SEEDS_WITH_JOINS
        + SEEDS_WITH_FULL_DISKS;
    anyhow::ensure!(seeds >= wanted, "only {seeds} seeds ran");
    Ok(Outcome::Passed(format!("{seeds} seeds")))
}

/// A seed that differs from commit to commit, so that new ground is covered, and that can be told from the commit.
fn seed_of_the_commit() -> u64 {
    const DIGITS: usize = 12;
    let head =
        output(Command::new("git").current_dir(root()).args(["rev-parse", "HEAD"])).unwrap_or_default();
    head.get(..DIGITS).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}

/// Bugs that normal builds do not have; a simulator that misses one could not be believed about the others.
fn mutants(job: &mut Job) -> anyhow::Result<Outcome> {
    const SEEDS_MAX: &str = "1000";
    // Only the simulator is built with bugs to plant; the step that wants it without builds it before each use.
    job.run(&mut checked("build", &["--bin=quorate-sim", "--features=quorate-sim/mutants"]))?;
    job.run(program("quorate-sim").args(["--scenario", "all", "--mutant", "all"]))?;
    job.run(program("quorate-sim").args(["--mutant", "all", "--seeds", SEEDS_MAX]))?;
    Ok(Outcome::Passed(job.tail(1)))
}

fn processes(job: &mut Job) -> anyhow::Result<Outcome> {
    job.run(&mut cargo(&["test", CHECKED, "-p", PROCESS_TESTS]))?;
    counted(job)
}

fn clients(job: &mut Job) -> anyhow::Result<Outcome> {
    let fetched = fetch_clients(job, |flag| flag != FAKETIME)?;
    if fetched.flags.is_empty() {
        return Ok(Outcome::Skipped(fetched.missing.join("; ")));
    }
    build_checked(job)?;
    job.run(&mut fetched.command(&[]))?;
    let mut told = vec![job.tail(1)];
    told.extend(fetched.missing.iter().map(|why| format!("without {why}")));
    Ok(Outcome::Passed(told.join("; ")))
}

/// The clients that are there, as the scenarios' program wants them.
struct Fetched {
    flags: Vec<OsString>,
    /// What is not there, and why.
    missing: Vec<String>,
    scratch: PathBuf,
}

/// What moves clocks: of use to chaos alone.
const FAKETIME: &str = "--faketime";
/// What chaos uses.
const OF_CHAOS: [&str; 4] = ["--go", "--etcdctl", "--python", FAKETIME];

/// Gets the clients whose flag is `wanted`.
fn fetch_clients(job: &mut Job, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Fetched> {
    let scratch = target().join("interop");
    std::fs::create_dir_all(&scratch)?;
    let mut fetched = Fetched { flags: Vec::new(), missing: Vec::new(), scratch: scratch.join("scratch") };
    for source in SOURCES.iter().filter(|source| wanted(source.flag)) {
        match source.get(job, &scratch)? {
            Client::At(path) => fetched.flags.extend([source.flag.into(), path.into()]),
            Client::Missing(why) => {
                job.note(&format!("skipped: {why}"))?;
                fetched.missing.push(why);
            }
        }
    }
    Ok(fetched)
}

impl Fetched {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }

    /// The scenarios' program, told what to do, with the binary, a folder and the clients.
    fn command(&self, what: &[&str]) -> Command {
        let mut command = program("quorate-interop");
        command.args(what).arg("--binary").arg(target().join("checked/quorate"));
        command.arg("--folder").arg(&self.scratch).args(&self.flags);
        command
    }
}

/// Two short runs, whose faults differ from commit to commit: one in network namespaces where the machine allows them, and one
/// on loopback.
fn chaos_of_the_commit(job: &mut Job) -> anyhow::Result<Outcome> {
    const SECONDS: &str = "25";
    let fetched = fetch_clients(job, |flag| OF_CHAOS.contains(&flag))?;
    if !fetched.has("--go") {
        return Ok(Outcome::Skipped(fetched.missing.join("; ")));
    }
    build_checked(job)?;
    let seed = seed_of_the_commit();
    let mut told = Vec::new();
    for (network, seed) in [("auto", seed), ("proxies", seed + 1)] {
        let seed = seed.to_string();
        let options = ["--seconds", SECONDS, "--seed", &seed, "--network", network];
        job.run(fetched.command(&["chaos"]).args(options))?;
        let operations = job
            .text()
            .lines()
            .rev()
            .find_map(|line| Some(line.strip_prefix("operations: ")?.split_once(';')?.0.to_owned()));
        let counts = job.tail(1);
        let counts = counts.trim().strip_prefix("chaos: ").unwrap_or(&counts).to_owned();
        told.push(format!("seed {seed}: {} operations, {counts}", operations.unwrap_or_default()));
    }
    Ok(Outcome::Passed(told.join("; ")))
}

/// Runs chaos alone, with what it prints shown as it comes.
pub fn chaos(options: &[&str]) -> anyhow::Result<bool> {
    let mut job = Job::open("chaos")?;
    let fetched = fetch_clients(&mut job, |flag| OF_CHAOS.contains(&flag))?;
    anyhow::ensure!(fetched.has("--go"), "no Go client: {}", fetched.missing.join("; "));
    build_checked(&mut job)?;
    let mut command = fetched.command(&["chaos"]);
    Ok(command.args(options).stdin(Stdio::null()).status()?.success())
}

fn check_dependencies(job: &mut Job) -> anyhow::Result<Outcome> {
    if !is_there("cargo-deny") {
        return Ok(Outcome::Skipped("cargo-deny is not installed".to_owned()));
    }
    job.run(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed(String::new()))
}
