//! Chaos: faults drawn from a seed on real processes while other projects' clients work; then their histories are judged.
//!
//! Usage: `quorate-interop chaos --binary quorate --folder scratch --go PATH [--etcdctl PATH] [--python PATH]
//! [--faketime LIBRARY] [--other-binary PATH] [--seconds N] [--seed N] [--members N] [--network auto|namespaces|proxies]`.
//!
//! The seed decides which faults come, not how threads and packets meet: a run that is repeated goes similar ways, not
//! the same. It ends with status 1 where something was seen that must never be, and keeps data and logs then.

mod clients;
mod clock;
mod dice;
mod disk;
mod faults;
mod namespaces;
mod network;
mod proxies;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use quorate_interop::{Cluster, http_get_within};

use crate::tools::Tools;
use clients::Clients;
use clock::Clocks;
use dice::Dice;
use disk::{FileDisk, SmallDisk};
use faults::{Fault, World};
use namespaces::Namespaces;
use network::Network;
use proxies::Proxies;

/// Once faults have ended and processes were started again, each member serves within this time, on a machine that has time
/// for it. Where one takes longer, it is said.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// Who does not serve by then never will, however slow the machine: that is a violation.
const SERVES_AT_ALL: Duration = Duration::from_secs(300);

/// What a run is told.
#[derive(Debug)]
pub struct Options {
    pub tools: Tools,
    pub folder: PathBuf,
    pub seconds: u64,
    pub seed: Option<u64>,
    pub members: Option<usize>,
    /// `auto`, `namespaces` or `proxies`; `inside`: we are in a namespace of our own already.
    pub network: String,
}

/// Runs; false where something was seen that must never be.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    ensure!(options.tools.go.is_some(), "--go is needed: what it does is what is judged");
    ensure!(options.members.is_none_or(|members| (3..=9).contains(&members)), "--members is 3 to 9");
    let proxies = match options.network.as_str() {
        "inside" => false,
        "proxies" => true,
        network @ ("auto" | "namespaces") => match namespaces::unshare() {
            // Does not return where it works.
            Some(unshare) => return Err(again(&unshare).into()),
            None if network == "auto" => {
                println!("skipped  namespaces: the system does not allow them here; proxies instead");
                true
            }
            None => {
                bail!("network namespaces are not to be had: they need unshare, nsenter, ip and the rights")
            }
        },
        other => bail!("--network {other} is not known: auto, namespaces, proxies"),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_nanos());
    let seed = options.seed.unwrap_or_else(|| u64::try_from(now % 1_000_000_007).expect("a small number"));
    let scratch = options.folder.join("chaos");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).context("what a run before has left")?;
    }
    std::fs::create_dir_all(&scratch)?;
    let mut dice = Dice::new(seed);
    let size = options.members.unwrap_or(if dice.chance(1, 4) { 5 } else { 3 });
    let network = if proxies {
        Network::Proxies(Proxies::new(size)?)
    } else {
        Network::Namespaces(Namespaces::new(size)?)
    };
    println!("chaos: seed {seed}, {size} members, {}, {} s", network.name(), options.seconds);
    let mut chaos = Chaos::new(options, network, size, &scratch)?;
    chaos.run(&mut dice)?;
    let clean = chaos.report();
    drop(chaos);
    if clean {
        std::fs::remove_dir_all(&scratch).context("the run's folder")?;
    } else {
        println!("data and logs: {}", scratch.display());
    }
    Ok(clean)
}

/// Starts this program again inside `unshare`; returns only where that fails.
fn again(unshare: &[&str]) -> std::io::Error {
    let mut command = Command::new(unshare[0]);
    command.args(&unshare[1..]);
    let program = std::env::current_exe().unwrap_or_else(|_| "quorate-interop".into());
    command.arg(program).args(std::env::args_os().skip(1)).args(["--network", "inside"]).exec()
}

/// A run.
struct Chaos<'a> {
    options: &'a Options,
    world: World<'a>,
    clients: Option<Clients>,
    faults: BTreeMap<&'static str, usize>,
    violations: Vec<String>,
    slowest: Duration,
    /// How often it took longer than [`SERVES_WITHIN`].
    late: usize,
}

impl<'a> Chaos<'a> {
    fn new(options: &'a Options, network: Network, size: usize, scratch: &Path) -> anyhow::Result<Self> {
        let tools = &options.tools;
        let homes = network.homes(scratch, size);
        let disk_of = |place: usize| homes[place].data_dir.parent().expect("data lies in a folder");
        let (mut small, mut stuck) = (None, None);
        if matches!(network, Network::Namespaces(_)) {
            small = said("disk full", SmallDisk::mount(disk_of(size - 1)));
            stuck = said("disk stuck", FileDisk::mount(&scratch.join("disk"), disk_of(size - 2)));
        } else {
            println!("skipped  disk full, disk stuck: they need a namespace of our own");
        }
        let mut cluster = Cluster::plan_at(&tools.binary, scratch, &homes, &[])?;
        let clocks = match &tools.faketime {
            Some(library) => Some(Clocks::new(library, scratch, &mut cluster.members)?),
            None => {
                println!("skipped  wall clock jumps: no libfaketime");
                None
            }
        };
        for (what, there) in [
            ("links slow", network.slows()),
            ("removed, wiped, added", tools.etcdctl.is_some()),
            ("other binary", tools.other_binary.is_some()),
        ] {
            if !there {
                println!("skipped  {what}");
            }
        }
        let mut world = World { tools, cluster, network, small, stuck, clocks, leader: 0 };
        world.start_all()?;
        let clients = Clients::start(tools, scratch, &world.cluster)?;
        Ok(Self {
            options,
            world,
            clients: Some(clients),
            faults: BTreeMap::new(),
            violations: Vec::new(),
            slowest: Duration::ZERO,
            late: 0,
        })
    }

    /// Faults until the time is over or something is wrong, then the verdicts.
    fn run(&mut self, dice: &mut Dice) -> anyhow::Result<()> {
        let begin = Instant::now();
        let end = begin + Duration::from_secs(self.options.seconds);
        if let Err(error) = self.serve_again(begin) {
            self.violations.push(format!("before any fault: {error:#}"));
        }
        while Instant::now() < end && self.violations.is_empty() {
            let drawn = self.world.draw(dice)?;
            let hold = Duration::from_millis(if dice.chance(1, 4) {
                dice.between(2500, 7000)
            } else {
                dice.between(50, 2500)
            });
            let told: Vec<String> = drawn.iter().map(|fault| format!("{fault:?}")).collect();
            println!("{:>7.1} s  {} for {hold:?}", begin.elapsed().as_secs_f64(), told.join(" and "));
            for fault in &drawn {
                *self.faults.entry(fault.name()).or_default() += 1;
            }
            if let Err(error) = self.go_through(&drawn, hold) {
                println!("violation: {error:#}");
                self.violations.push(format!("{}: {error:#}", told.join(" and ")));
                self.world.heal();
                break;
            }
            std::thread::sleep(Duration::from_millis(dice.between(100, 1500)));
        }
        let clients = self.clients.take().context("clients run")?;
        self.violations.extend(clients.judge(self.world.tools, &self.world.cluster));
        for member in &self.world.cluster.members {
            if let Some(line) = member.logged().lines().find(|line| line.contains("panicked")) {
                self.violations.push(format!("{} panicked: {line}", member.name));
            }
        }
        if self.violations.is_empty()
            && let Err(error) = self.world.cluster.terminate()
        {
            self.violations.push(format!("{error:#}"));
        }
        Ok(())
    }

    fn go_through(&mut self, faults: &[Fault], hold: Duration) -> anyhow::Result<()> {
        faults.iter().try_for_each(|fault| self.world.begin(fault))?;
        self.world.last(faults, hold)?;
        for member in &mut self.world.cluster.members {
            let ended = member.pid().is_some() && !member.is_running();
            ensure!(!ended, "{} ended by itself:\n{}", member.name, tail(&member.logged()));
        }
        faults.iter().try_for_each(|fault| self.world.end(fault))?;
        let ended = Instant::now();
        self.world.start_all()?;
        self.serve_again(ended)
    }

    /// Waits until each member calls itself healthy and answers those who talk to it alone.
    fn serve_again(&mut self, begin: Instant) -> anyhow::Result<()> {
        const POLL: Duration = Duration::from_millis(20);
        const PROBE: Duration = Duration::from_secs(5);
        let clients = self.clients.as_mut().context("clients run")?;
        let mut waiting = String::new();
        let answered = clients.answered();
        while begin.elapsed() < SERVES_AT_ALL {
            clients.alive()?;
            let now = clients.answered();
            let waits = self.world.cluster.members.iter().enumerate().find_map(|(place, member)| {
                if now.get(place) <= answered.get(place) {
                    return Some(format!("{} answers no client", member.name));
                }
                let health = http_get_within(&member.client, "/health", PROBE);
                let healthy = matches!(&health, Ok((200, body)) if body.contains("\"health\":\"true\""));
                (!healthy).then(|| format!("{} is not healthy: {health:?}", member.name))
            });
            match waits {
                None => {
                    let took = begin.elapsed();
                    if took > SERVES_WITHIN {
                        println!("{:>9}  all served again after {:.1} s", "late", took.as_secs_f64());
                        self.late += 1;
                    }
                    self.slowest = self.slowest.max(took);
                    return Ok(());
                }
                Some(what) => waiting = what,
            }
            std::thread::sleep(POLL);
        }
        bail!("{waiting}, {SERVES_AT_ALL:?} after all faults had ended")
    }

    fn report(&self) -> bool {
        let total: usize = self.faults.values().sum();
        println!("faults: {total}");
        for (name, times) in &self.faults {
            println!("  {times:>5} {name}");
        }
        println!(
            "all members served again within {:.1} s; {} times later than {SERVES_WITHIN:?}",
            self.slowest.as_secs_f64(),
            self.late
        );
        for violation in &self.violations {
            println!("violation: {violation}");
        }
        println!("chaos: {total} faults, {} violations", self.violations.len());
        self.violations.is_empty()
    }
}

/// What there is of something that not every machine has; says so where there is nothing.
fn said<T>(what: &str, got: anyhow::Result<T>) -> Option<T> {
    got.inspect_err(|error| println!("skipped  {what}: {}", format!("{error:#}").replace('\n', " "))).ok()
}

fn tail(log: &str) -> String {
    const LINES: usize = 15;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

impl Drop for Chaos<'_> {
    fn drop(&mut self) {
        // A process that stands still on a frozen disk could not be killed.
        if let Some(disk) = &mut self.world.stuck {
            disk.thaw();
        }
        for member in &mut self.world.cluster.members {
            member.kill();
        }
    }
}
