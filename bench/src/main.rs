//! `quorate-bench`: load on etcd-compatible endpoints, and Quorate measured beside etcd.

#![forbid(unsafe_code)]

mod client;
mod cluster;
mod compare;
mod fanout;
mod latency;
mod leases;
mod load;
mod soak;
mod usage;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

use crate::cluster::System;
use crate::compare::Extent;
use crate::load::{Load, Pace, Until};
use crate::soak::{Output, Soak};
use crate::workload::{Kind, Operation, Order, Workload};

#[derive(Debug, Parser)]
#[command(about = "Load on etcd-compatible endpoints, and Quorate measured beside etcd")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on running endpoints and print what it gave.
    Run(RunOptions),
    /// Start three members of Quorate and of etcd in turn, and print a table of ratios.
    Compare(CompareOptions),
    /// Keep three members under steady load for a long time, and draw latencies, memory and disk.
    Soak(SoakOptions),
    /// Grant many leases, keep them alive under load, and let them run out.
    Leases(LeasesOptions),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Put,
    Get,
    Range,
    Mixed,
    /// Store all keys once, by transactions of 100 puts.
    Fill,
    /// One writer, and watchers of all keys on each endpoint.
    Watch,
}

#[derive(Debug, Args)]
struct RunOptions {
    what: What,
    /// host:port, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Default: as many as clients, at most 64.
    #[arg(long)]
    connections: Option<usize>,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Requests a second that are due whatever the answers do; without it each client waits for its answer.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Use keys in ascending order, not at random.
    #[arg(long)]
    sequential: bool,
    #[arg(long, default_value_t = 256)]
    value_size_bytes: usize,
    #[arg(long)]
    serializable: bool,
    /// Keys in an answer to a range, at most; each prefix has 100.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Share of gets in mixed load.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Watchers on each endpoint, for watch.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Server processes whose CPU time to sum, comma-separated.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CompareOptions {
    /// The `quorate` binary.
    #[arg(long)]
    quorate: PathBuf,
    /// The `etcd` binary.
    #[arg(long)]
    etcd: PathBuf,
    /// 1,000,000 keys, 10 s a point, 5 rounds; without it 20,000 keys, 1.5 s, 3 rounds.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// The default.
    #[arg(long)]
    quick: bool,
    #[arg(long)]
    rounds: Option<u64>,
    /// Keys, instead of those that --quick or --full say.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: Option<u64>,
    /// Seconds a point, likewise; a fifth of it is not measured, before.
    #[arg(long)]
    seconds: Option<f64>,
    /// Where data folders go while the comparison runs.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// A file for the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SoakOptions {
    /// The `quorate` binary.
    #[arg(long)]
    quorate: PathBuf,
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Requests a second that are due whatever the answers do.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Share of gets.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=99))]
    read_percent: u8,
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[arg(long, default_value_t = 256)]
    value_size_bytes: usize,
    /// Revisions that stay readable; older ones are compacted away every five minutes.
    #[arg(long, default_value_t = 10_000)]
    revisions: u64,
    /// Seconds that one row stands for.
    #[arg(long, default_value_t = 30.0)]
    window_seconds: f64,
    /// Where data folders, the CSV file and the plot go.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct LeasesOptions {
    /// The `quorate` binary.
    #[arg(long)]
    quorate: PathBuf,
    /// An `etcd` binary, to do the same with.
    #[arg(long)]
    etcd: Option<PathBuf>,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    leases: u64,
    /// Seconds that a lease lives after it was kept alive.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(i64).range(2..=3600))]
    ttl: i64,
    /// Every so many leases hold a key, by which their end is seen.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    key_of_each: u64,
    /// Where data folders go.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Compare(options) => compare(options),
        Command::Soak(options) => soak(options),
        Command::Leases(options) => leases(options),
    }
}

fn run(options: &RunOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.rate.is_none_or(|rate| rate > 0.0 && rate <= 1e9),
        "--rate: above 0, at most 1e9"
    );
    anyhow::ensure!((1..=1_000_000_000).contains(&options.keys), "--keys: 1 to 1,000,000,000");
    anyhow::ensure!(options.value_size_bytes <= 1 << 20, "--value-size-bytes: at most 1 MiB");
    let serializable = options.serializable;
    let (operation, order) = match options.what {
        What::Put => (Operation::Put, Order::Random),
        What::Get => (Operation::Get { serializable }, Order::Random),
        What::Range => (Operation::PrefixRange { limit: options.limit, serializable }, Order::Random),
        What::Mixed => (Operation::Mixed { read_percent: options.read_percent, serializable }, Order::Random),
        What::Fill => (Operation::Fill, Order::Sequential),
        What::Watch => return watch(options),
    };
    let order = if options.sequential { Order::Sequential } else { order };
    let workload = Workload::new(operation, order, options.keys, options.value_size_bytes, options.seed);
    let fills = matches!(options.what, What::Fill);
    let load = Load {
        clients: options.clients,
        connections: options.connections.unwrap_or(options.clients.min(64)),
        threads: options.threads,
        pace: options.rate.map_or(Pace::Closed, |requests_per_second| Pace::Open { requests_per_second }),
        warm_up: if fills { Duration::ZERO } else { Duration::try_from_secs_f64(options.warm_up_seconds)? },
        until: if fills {
            Until::Requests(options.keys.div_ceil(workload::FILL_BATCH))
        } else {
            Until::Elapsed(Duration::try_from_secs_f64(options.seconds)?)
        },
    };
    let cpu = || options.pids.iter().copied().map(usage::cpu_time).sum::<anyhow::Result<Duration>>();
    let own_pid = std::process::id();
    let probe = || Ok::<_, anyhow::Error>((cpu()?, usage::cpu_time(own_pid)?));
    let (outcome, before, after) = load::run(&load, &options.endpoints, &workload, probe)?;
    let (before, after) = (before?, after?);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 answers")]
    let per_answer_us = |time: Duration| time.as_secs_f64() * 1e6 / outcome.answers.max(1) as f64;
    let (reads, writes) = (outcome.latencies.of(Kind::Read), outcome.latencies.of(Kind::Write));
    let server_cpu_us = (!options.pids.is_empty()).then(|| per_answer_us(after.0.saturating_sub(before.0)));
    let client_cpu_us = per_answer_us(after.1.saturating_sub(before.1));
    if options.json {
        let report = json!({
            "answers": outcome.answers, "errors": outcome.errors, "unfinished": outcome.unfinished,
            "first_error": outcome.first_error, "seconds": outcome.elapsed.as_secs_f64(),
            "per_second": outcome.rate(), "reads": reads, "writes": writes,
            "server_cpu_us": server_cpu_us, "client_cpu_us": client_cpu_us,
        });
        println!("{report:#}");
    } else {
        println!("{:.0} answers a second, {} in {:.2?}", outcome.rate(), outcome.answers, outcome.elapsed);
        for (name, quantiles) in [("reads", reads), ("writes", writes)] {
            let Some(of) = quantiles else { continue };
            println!(
                "{name}: p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, max {:.0} us",
                of.p50_us, of.p90_us, of.p99_us, of.max_us
            );
        }
        if let Some(server_cpu_us) = server_cpu_us {
            println!("server CPU: {server_cpu_us:.1} us an answer");
        }
        println!("client CPU: {client_cpu_us:.1} us an answer");
    }
    let bad = outcome.errors + outcome.unfinished;
    let first = outcome.first_error.unwrap_or_default();
    anyhow::ensure!(bad == 0, "{} errors, {} never answered {first}", outcome.errors, outcome.unfinished);
    Ok(())
}

fn watch(options: &RunOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.rate.is_none() && options.clients == 1,
        "watch: one writer, as fast as it is answered"
    );
    let workload =
        Workload::new(Operation::Put, Order::Random, options.keys, options.value_size_bytes, options.seed);
    let cpu = || options.pids.iter().copied().map(usage::cpu_time).sum::<anyhow::Result<Duration>>();
    let time = Duration::try_from_secs_f64(options.seconds)?;
    let watchers = usize::try_from(options.watchers)?;
    let delivered = fanout::run(&options.endpoints, watchers, &workload, time, cpu)?;
    let spent = delivered.after?.saturating_sub(delivered.before?);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    let (puts, events) = (delivered.puts as f64, delivered.events as f64);
    let seconds = delivered.elapsed.as_secs_f64();
    let server_cpu_us = (!options.pids.is_empty()).then(|| spent.as_secs_f64() * 1e6 / events.max(1.0));
    if options.json {
        let report = json!({
            "puts": delivered.puts, "events": delivered.events, "seconds": seconds,
            "puts_per_second": puts / seconds, "events_per_second": events / seconds,
            "server_cpu_us": server_cpu_us,
        });
        println!("{report:#}");
        return Ok(());
    }
    println!("{:.0} puts and {:.0} events a second, in {seconds:.2} s", puts / seconds, events / seconds);
    if let Some(server_cpu_us) = server_cpu_us {
        println!("server CPU: {server_cpu_us:.1} us an event");
    }
    Ok(())
}

fn compare(options: CompareOptions) -> anyhow::Result<()> {
    let mut extent = if options.full { Extent::FULL } else { Extent::QUICK };
    extent.rounds = options.rounds.unwrap_or(extent.rounds);
    anyhow::ensure!(extent.rounds > 0, "--rounds: at least 1");
    extent.keys = options.keys.unwrap_or(extent.keys);
    if let Some(seconds) = options.seconds {
        anyhow::ensure!((0.1..=3600.0).contains(&seconds), "--seconds: 0.1 to 3600");
        extent.point = Duration::from_secs_f64(seconds);
        extent.warm_up = extent.point / 5;
    }
    let folder = std::path::absolute(options.folder.join(format!("compare-{}", std::process::id())))?;
    let result = compare::compare(options.quorate, options.etcd, &folder, extent);
    if result.is_ok() {
        std::fs::remove_dir_all(&folder)?;
    } else {
        eprintln!("what the members wrote is left in {}", folder.display());
    }
    let report = result?;
    print!("{}", report.table());
    if let Some(path) = options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

fn soak(options: SoakOptions) -> anyhow::Result<()> {
    anyhow::ensure!(options.rate >= 1.0 && options.rate <= 1e6, "--rate: 1 to 1e6");
    anyhow::ensure!((1..=1_000_000_000).contains(&options.keys), "--keys: 1 to 1,000,000,000");
    anyhow::ensure!(options.value_size_bytes <= 1 << 20, "--value-size-bytes: at most 1 MiB");
    anyhow::ensure!(options.window_seconds >= 1.0, "--window-seconds: at least 1");
    let folder = std::path::absolute(options.folder.join(format!("soak-{}", std::process::id())))?;
    let system = System {
        name: "quorate",
        program: options.quorate,
        leading: vec![
            "server".to_owned(),
            "--auto-compaction-mode=revision".to_owned(),
            format!("--auto-compaction-retention={}", options.revisions),
        ],
    };
    let what = Soak {
        requests_per_second: options.rate,
        read_percent: options.read_percent,
        keys: options.keys,
        value_size_bytes: options.value_size_bytes,
        elapsed: Duration::try_from_secs_f64(options.minutes * 60.0)?,
        window: Duration::try_from_secs_f64(options.window_seconds)?,
    };
    std::fs::create_dir_all(&options.folder)?;
    let output = Output { csv: options.folder.join("soak.csv"), plot: options.folder.join("soak.svg") };
    let rows = soak::soak(&system, &folder, &what, &output)?;
    std::fs::remove_dir_all(&folder)?;
    println!("{} windows; {} and {}", rows.len(), output.csv.display(), output.plot.display());
    Ok(())
}

fn leases(options: LeasesOptions) -> anyhow::Result<()> {
    let folder = std::path::absolute(options.folder.join(format!("leases-{}", std::process::id())))?;
    let what =
        leases::Leases { leases: options.leases, ttl_seconds: options.ttl, key_of_each: options.key_of_each };
    let quorate = System { name: "quorate", program: options.quorate, leading: vec!["server".to_owned()] };
    let etcd = options.etcd.map(|program| System { name: "etcd", program, leading: Vec::new() });
    for system in [Some(quorate), etcd].into_iter().flatten() {
        let figures = leases::run(&system, &folder.join(system.name), &what)?;
        println!("{}: {} leases of {} s", system.name, options.leases, options.ttl);
        figures.iter().for_each(|(what, unit, value)| println!("  {what}: {value:.1} {unit}"));
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
