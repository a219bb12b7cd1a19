//! Drives three real `quorate server` processes with other projects' clients.
//!
//! Usage: `quorate-interop --binary quorate --folder scratch [--etcdctl PATH] [--etcd PATH] [--python PATH] [--go PATH]
//! [--etcdctl-distro PATH] [--aetcd PATH] [--gateway PATH] [--node FOLDER] [--rust PATH] [--only NAME] [--bulk N]
//! [--contention-minutes N] [--sizes 1,2,3]`. A scenario whose client is not given is listed as skipped. The last line counts.
//! `quorate-interop chaos` is told in `chaos/mod.rs`.

#![forbid(unsafe_code)]

mod chaos;
mod scenarios;
mod storage;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use scenarios::SCENARIOS;
use tools::Tools;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let chaotic = arguments.next_if(|first| first == "chaos").is_some();
    let ended = options(arguments)
        .and_then(|options| if chaotic { chaos::run(&options.chaos()) } else { run(options) });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quorate-interop: {error:#}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    tools: Tools,
    folder: PathBuf,
    only: Option<String>,
    seconds: u64,
    seed: Option<u64>,
    members: Option<usize>,
    network: String,
}

impl Options {
    fn chaos(self) -> chaos::Options {
        let Self { tools, folder, only: _, seconds, seed, members, network } = self;
        chaos::Options { tools, folder, seconds, seed, members, network }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    const CHAOS_SECONDS: u64 = 60;
    let mut tools = Tools::default();
    let (mut folder, mut only) = (None, None);
    let (mut seconds, mut seed, mut members, mut network) = (CHAOS_SECONDS, None, None, "auto".to_owned());
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{flag} needs a value"))?;
        match flag.as_str() {
            "--binary" => tools.binary = value.into(),
            "--folder" => folder = Some(PathBuf::from(value)),
            "--etcdctl" => tools.etcdctl = Some(value.into()),
            "--etcd" => tools.etcd = Some(value.into()),
            "--python" => tools.python = Some(value.into()),
            "--go" => tools.go = Some(value.into()),
            "--etcdctl-distro" => tools.etcdctl_distro = Some(value.into()),
            "--aetcd" => tools.aetcd = Some(value.into()),
            "--gateway" => tools.gateway = Some(value.into()),
            "--node" => tools.node = Some(value.into()),
            "--rust" => tools.rust = Some(value.into()),
            "--contention-minutes" => {
                tools.contention = Duration::try_from_secs_f64(value.parse::<f64>()? * 60.0)?;
            }
            "--sizes" => {
                let sizes = value.split(',').map(str::parse);
                tools.sizes = sizes.collect::<Result<_, _>>()?;
                anyhow::ensure!(tools.sizes.iter().all(|size| *size > 0), "--sizes: a cluster has a machine");
            }
            "--faketime" => tools.faketime = Some(value.into()),
            "--other-binary" => tools.other_binary = Some(value.into()),
            "--seconds" => seconds = value.parse()?,
            "--seed" => seed = Some(value.parse()?),
            "--members" => members = Some(value.parse()?),
            "--network" => network = value,
            "--only" => only = Some(value),
            "--bulk" => tools.bulk_puts = value.parse()?,
            _ => anyhow::bail!("{flag} is not known"),
        }
    }
    let folder = folder.ok_or_else(|| anyhow::anyhow!("--folder is needed"))?;
    anyhow::ensure!(tools.binary.is_file(), "--binary {} is no file", tools.binary.display());
    if let Some(other) = &tools.other_binary {
        anyhow::ensure!(other.is_file(), "--other-binary {} is no file", other.display());
    }
    Ok(Options { tools, folder, only, seconds, seed, members, network })
}

fn run(options: Options) -> anyhow::Result<bool> {
    let Options { tools, folder, only, .. } = options;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in SCENARIOS {
        if only.as_ref().is_some_and(|only| !scenario.name.contains(only.as_str())) {
            continue;
        }
        if !(scenario.needs)(&tools) {
            println!("skipped  {} (its client is not there)", scenario.name);
            skipped += 1;
            continue;
        }
        let scratch = folder.join(scenario.name.replace(' ', "-"));
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch)?;
        }
        std::fs::create_dir_all(&scratch)?;
        let start = Instant::now();
        match (scenario.run)(&tools, &scratch) {
            Ok(()) => {
                println!("passed   {} ({:.1} s)", scenario.name, start.elapsed().as_secs_f64());
                passed += 1;
            }
            Err(error) => {
                println!("FAILED   {} ({:.1} s): {error:#}", scenario.name, start.elapsed().as_secs_f64());
                println!("         logs: {}", scratch.display());
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && passed + skipped > 0)
}
