//! Quorate beside etcd: the same load on three members of each, in turn, several rounds, durable, on one file system.
//!
//! Invariants: both get the same flags, endpoints order, keys, values and durations; the order of the two changes from
//! round to round; a ratio is taken inside a round, whose halves lie closest in time. A run with an error is no result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::cluster::{Cluster, End, System};
use crate::fanout;
use crate::load::{self, Load, Outcome, Pace, Until};
use crate::workload::{FILL_BATCH, Kind, Operation, Order, Workload};

const VALUE_SIZE_BYTES: usize = 256;
const CLIENTS: [usize; 3] = [1, 64, 640];
/// At 640 clients ten share a connection, as in etcd's own published figures.
const CONNECTIONS_MAX: usize = 64;
const FILL_CLIENTS: usize = 8;
const RANGE_LIMIT: u32 = 100;
/// Clients of open loops: enough that none is waited for.
const OPEN_CLIENTS: usize = 256;
/// Rates of open loops, which both systems can keep up with on a small machine.
const OPEN_PUTS_PER_SECOND: [f64; 2] = [500.0, 2000.0];
const OPEN_GETS_PER_SECOND: f64 = 2000.0;
/// Watchers on each member, beside one writer.
const WATCHERS: [usize; 2] = [10, 100];
/// Etcd refuses writes at 2 GiB by default, which overwritten values of a million keys reach; this is the most that it
/// does not warn of.
const QUOTA_BYTES: u64 = 8 << 30;
/// What is flushed late is on disk by then.
const SETTLE: Duration = Duration::from_secs(1);

/// How much to measure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Extent {
    pub keys: u64,
    pub rounds: u64,
    pub point: Duration,
    pub warm_up: Duration,
}

impl Extent {
    pub const QUICK: Self = Self {
        keys: 20_000,
        rounds: 3,
        point: Duration::from_millis(1500),
        warm_up: Duration::from_millis(300),
    };
    pub const FULL: Self =
        Self { keys: 1_000_000, rounds: 5, point: Duration::from_secs(10), warm_up: Duration::from_secs(2) };
}

/// Whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Better {
    More,
    Less,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub what: String,
    pub unit: &'static str,
    pub better: Better,
    pub quorate: f64,
    pub etcd: f64,
    /// How many times better Quorate is: the median over the rounds, the worst, the best.
    pub ratio: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub extent: Extent,
    pub versions: BTreeMap<&'static str, String>,
    pub lines: Vec<Line>,
}

/// What one system showed in one round, in the order measured.
#[derive(Debug, Default)]
struct Figures(Vec<(String, &'static str, Better, f64)>);

/// Runs all rounds. `folder` is created, and removed at the end.
pub fn compare(quorate: PathBuf, etcd: PathBuf, folder: &Path, extent: Extent) -> anyhow::Result<Report> {
    let quota = format!("--quota-backend-bytes={QUOTA_BYTES}");
    let leading = vec!["server".to_owned(), quota.clone()];
    let quorate = System { name: "quorate", program: quorate, leading };
    let etcd = System { name: "etcd", program: etcd, leading: vec![quota] };
    let versions = [&quorate, &etcd]
        .into_iter()
        .map(|system| Ok((system.name, version(system)?)))
        .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let mut rounds = Vec::new();
    for round in 0..extent.rounds {
        let measure = |system: &System| {
            eprintln!("round {} of {}: {}", round + 1, extent.rounds, system.name);
            let place = folder.join(format!("{}-{round}", system.name));
            let figures = measure(system, &place, extent, round)
                .with_context(|| format!("{} in round {}", system.name, round + 1))?;
            std::fs::remove_dir_all(&place)?;
            Ok::<_, anyhow::Error>(figures)
        };
        rounds.push(if round % 2 == 0 {
            let ours = measure(&quorate)?;
            (ours, measure(&etcd)?)
        } else {
            let theirs = measure(&etcd)?;
            (measure(&quorate)?, theirs)
        });
    }
    Ok(Report { extent, versions, lines: lines(&rounds) })
}

fn version(system: &System) -> anyhow::Result<String> {
    let output = std::process::Command::new(&system.program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", system.program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Quorate first names the etcd version that clients are told.
    let own = text.lines().find(|line| line.to_lowercase().starts_with(&format!("{} version", system.name)));
    Ok(own.unwrap_or("unknown version").to_owned())
}

fn measure(system: &System, folder: &Path, extent: Extent, round: u64) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let mut cluster = Cluster::start(system, folder)?;
    fill(&cluster, extent.keys, VALUE_SIZE_BYTES, round)?;
    std::thread::sleep(SETTLE);
    let footprint = cluster.footprint()?;
    figures.add(
        format!("memory at {} keys", extent.keys),
        "MB",
        Better::Less,
        megabytes(footprint.resident_bytes),
    );
    figures.add(
        format!("disk at {} keys", extent.keys),
        "MB",
        Better::Less,
        megabytes(footprint.allocated_bytes),
    );
    let get = |serializable| Operation::Get { serializable };
    for (name, operation) in
        [("put", Operation::Put), ("linearizable get", get(false)), ("serializable get", get(true))]
    {
        for clients in CLIENTS {
            let pace = Pace::Closed;
            point(&cluster, extent, round, &Point { name, operation, clients, pace }, &mut figures)?;
        }
    }
    let range = Operation::PrefixRange { limit: RANGE_LIMIT, serializable: false };
    let mixed = Operation::Mixed { read_percent: 80, serializable: false };
    for (name, operation) in [("range of 100 keys", range), ("80 % get, 20 % put", mixed)] {
        let of = Point { name, operation, clients: 64, pace: Pace::Closed };
        point(&cluster, extent, round, &of, &mut figures)?;
    }
    let puts = OPEN_PUTS_PER_SECOND.map(|rate| ("put", Operation::Put, rate));
    for (name, operation, requests_per_second) in
        puts.into_iter().chain([("linearizable get", get(false), OPEN_GETS_PER_SECOND)])
    {
        let pace = Pace::Open { requests_per_second };
        let of = Point { name, operation, clients: OPEN_CLIENTS, pace };
        point(&cluster, extent, round, &of, &mut figures)?;
    }
    for watchers in WATCHERS {
        fan_out(&cluster, extent, round, watchers, &mut figures)?;
    }
    let follower = cluster.endpoints()?.pop().context("a cluster has members")?;
    for (end, how) in [(End::Stop, "clean stop"), (End::Kill, "kill -9")] {
        let one = cluster.restart_one(&follower, end)?;
        figures.add(format!("follower serves after {how}"), "ms", Better::Less, one.as_secs_f64() * 1e3);
        let all = cluster.restart_all(end)?;
        figures.add(format!("all members serve after {how}"), "ms", Better::Less, all.as_secs_f64() * 1e3);
    }
    Ok(figures)
}

/// Stores all keys once.
pub fn fill(cluster: &Cluster, keys: u64, value_size_bytes: usize, seed: u64) -> anyhow::Result<()> {
    let workload = Workload::new(Operation::Fill, Order::Sequential, keys, value_size_bytes, seed);
    let load = Load {
        clients: FILL_CLIENTS,
        connections: FILL_CLIENTS,
        threads: 1,
        pace: Pace::Closed,
        warm_up: Duration::ZERO,
        until: Until::Requests(keys.div_ceil(FILL_BATCH)),
    };
    let (outcome, ..) = load::run(&load, &cluster.endpoints()?, &workload, || ())?;
    check(&outcome).context("filling the store")
}

/// A run with an error, or without an answer, is no result.
pub fn check(outcome: &Outcome) -> anyhow::Result<()> {
    let first = outcome.first_error.as_deref().unwrap_or("no answer within 10 s");
    let (errors, unfinished) = (outcome.errors, outcome.unfinished);
    anyhow::ensure!(errors + unfinished == 0, "{errors} errors, {unfinished} unanswered; first: {first}");
    anyhow::ensure!(outcome.answers > 0, "no answer at all");
    Ok(())
}

/// What is measured at a time.
struct Point<'a> {
    name: &'a str,
    operation: Operation,
    clients: usize,
    pace: Pace,
}

impl Point<'_> {
    fn told(&self) -> String {
        let (name, clients) = (self.name, self.clients);
        let plural = if clients == 1 { "" } else { "s" };
        match self.pace {
            Pace::Closed => format!("{name}, {clients} client{plural}"),
            Pace::Open { requests_per_second } => format!("{name}, {requests_per_second:.0} due a second"),
        }
    }
}

fn point(
    cluster: &Cluster,
    extent: Extent,
    seed: u64,
    of: &Point<'_>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let workload = Workload::new(of.operation, Order::Random, extent.keys, VALUE_SIZE_BYTES, seed);
    let load = Load {
        clients: of.clients,
        connections: of.clients.min(CONNECTIONS_MAX),
        threads: 1,
        pace: of.pace,
        warm_up: extent.warm_up,
        until: Until::Elapsed(extent.point),
    };
    let (outcome, before, after) = load::run(&load, &cluster.endpoints()?, &workload, || cluster.cpu_time())?;
    check(&outcome).with_context(|| of.told())?;
    let what = |figure: &str| format!("{}: {figure}", of.told());
    // At a rate, what is answered is what is asked.
    if of.pace == Pace::Closed {
        figures.add(what("throughput"), "/s", Better::More, outcome.rate());
    }
    for (kind, prefix) in [(Kind::Read, "read "), (Kind::Write, "write ")] {
        let Some(quantiles) = outcome.latencies.of(kind) else { continue };
        let prefix = if matches!(of.operation, Operation::Mixed { .. }) { prefix } else { "" };
        figures.add(what(&format!("{prefix}p50")), "us", Better::Less, quantiles.p50_us);
        figures.add(what(&format!("{prefix}p99")), "us", Better::Less, quantiles.p99_us);
    }
    let cpu = after?.saturating_sub(before?);
    figures.add(what("server CPU per operation"), "us", Better::Less, micros_each(cpu, outcome.answers));
    Ok(())
}

fn fan_out(
    cluster: &Cluster,
    extent: Extent,
    seed: u64,
    watchers: usize,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let workload = Workload::new(Operation::Put, Order::Random, extent.keys, VALUE_SIZE_BYTES, seed);
    let told = format!("1 writer, {watchers} watchers on each member");
    let got = fanout::run(&cluster.endpoints()?, watchers, &workload, extent.point, || cluster.cpu_time())
        .with_context(|| told.clone())?;
    let cpu = got.after?.saturating_sub(got.before?);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 events")]
    let rate = |count: u64| count as f64 / got.elapsed.as_secs_f64();
    figures.add(format!("{told}: puts"), "/s", Better::More, rate(got.puts));
    figures.add(format!("{told}: events delivered"), "/s", Better::More, rate(got.events));
    let each = micros_each(cpu, got.events);
    figures.add(format!("{told}: server CPU per delivered event"), "us", Better::Less, each);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 operations")]
fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

impl Figures {
    fn add(&mut self, what: String, unit: &'static str, better: Better, value: f64) {
        self.0.push((what, unit, better, value));
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn lines(rounds: &[(Figures, Figures)]) -> Vec<Line> {
    let Some((first, _)) = rounds.first() else { return Vec::new() };
    let places = first.0.iter().enumerate();
    places
        .map(|(place, (what, unit, better, _))| {
            let ours: Vec<f64> = rounds.iter().map(|(ours, _)| ours.0[place].3).collect();
            let theirs: Vec<f64> = rounds.iter().map(|(_, theirs)| theirs.0[place].3).collect();
            let ratios: Vec<f64> = ours
                .iter()
                .zip(&theirs)
                .map(|(ours, theirs)| match better {
                    Better::More => ours / theirs,
                    Better::Less => theirs / ours,
                })
                .collect();
            Line {
                what: what.clone(),
                unit,
                better: *better,
                quorate: median(ours),
                etcd: median(theirs),
                ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
                ratio_max: ratios.iter().copied().fold(0.0, f64::max),
                ratio: median(ratios),
            }
        })
        .collect()
}

/// The middle value; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

impl Report {
    /// The table, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for (name, version) in &self.versions {
            writeln!(text, "{name}: {version}").expect("a string takes all");
        }
        writeln!(
            text,
            "{} keys, values of {VALUE_SIZE_BYTES} B, {} rounds, {:?} a point; medians. A ratio above 1: Quorate is ahead.\n",
            self.extent.keys, self.extent.rounds, self.extent.point
        )
        .expect("a string takes all");
        text.push_str(
            "| | unit | Quorate | etcd | ratio | lowest to highest |\n|---|---|---:|---:|---:|---:|\n",
        );
        for line in &self.lines {
            writeln!(
                text,
                "| {} | {} | {:.*} | {:.*} | {:.2} | {:.2} to {:.2} |",
                line.what,
                line.unit,
                digits(line.quorate),
                line.quorate,
                digits(line.etcd),
                line.etcd,
                line.ratio,
                line.ratio_min,
                line.ratio_max
            )
            .expect("a string takes all");
        }
        text
    }
}

fn digits(value: f64) -> usize {
    if value < 100.0 { 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rate: f64, latency: f64) -> Figures {
        let mut figures = Figures::default();
        figures.add("rate".to_owned(), "/s", Better::More, rate);
        figures.add("latency".to_owned(), "us", Better::Less, latency);
        figures
    }

    #[test]
    fn a_ratio_is_taken_inside_a_round_and_says_how_many_times_better() {
        let rounds = [
            (figures(200.0, 10.0), figures(100.0, 30.0)),
            (figures(20.0, 100.0), figures(10.0, 300.0)),
            (figures(90.0, 10.0), figures(30.0, 5.0)),
        ];
        let lines = lines(&rounds);
        assert_eq!((lines[0].quorate, lines[0].etcd, lines[0].ratio), (90.0, 30.0, 2.0));
        assert_eq!((lines[1].ratio, lines[1].ratio_min, lines[1].ratio_max), (3.0, 0.5, 3.0));
    }
}
