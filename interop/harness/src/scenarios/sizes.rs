//! Clusters of one to nine machines of `quorate etcd2`: how many may be dead, and what slow ones cost the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use quorate_interop::{Machine, SlowWay, WAIT_MAX, wait_until};

use crate::tools::Tools;

/// Writes after each death, and after all are back.
const WRITES: usize = 5;
const ELECTION: [&str; 2] = ["-peer-election-timeout", "1000"];

/// Machines of one cluster, and what it acknowledged.
struct Machines {
    all: Vec<Machine>,
    acknowledged: BTreeMap<String, String>,
    written: usize,
}

impl Machines {
    /// Founds a cluster, lets the others join one by one, and waits until all vote.
    fn start(mut all: Vec<Machine>) -> anyhow::Result<Self> {
        let founder = all[0].peer.clone();
        for machine in &mut all {
            let peers = ["-peers", &founder];
            let joins = if machine.peer == founder { &[][..] } else { &peers };
            machine.run(&[&ELECTION, joins].concat())?;
        }
        let machines = Self { all, acknowledged: BTreeMap::new(), written: 0 };
        let count = machines.all.len();
        wait_until("all machines vote", || {
            let listed = machines.all[0].get_peer("/v2/admin/machines");
            listed.is_ok_and(|(_, listed)| listed.matches("\"mode\":\"peer\"").count() == count)
        })?;
        Ok(machines)
    }

    fn alive(&self) -> impl Iterator<Item = &Machine> {
        self.all.iter().filter(|machine| machine.is_started())
    }

    /// Starts the dead ones again, without waiting for more than that they serve.
    fn revive(&mut self) -> anyhow::Result<()> {
        for machine in self.all.iter_mut().filter(|machine| !machine.is_started()) {
            machine.start(&ELECTION)?;
        }
        self.all.iter_mut().try_for_each(Machine::wait_ready)
    }

    /// Writes a value through whoever takes it. A write whose outcome nobody told is not counted.
    fn write(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut last = String::new();
        while Instant::now() < deadline {
            for place in 0..self.all.len() {
                if !self.all[place].is_started() {
                    continue;
                }
                self.written += 1;
                let (key, value) = (format!("/written/{}", self.written), format!("v{}", self.written));
                match self.all[place].put(&key, &value) {
                    Ok((200 | 201, _)) => {
                        self.acknowledged.insert(key, value);
                        return Ok(());
                    }
                    // Who does not lead tells who does.
                    Ok((307, _)) => {}
                    Ok((_, body)) => last = body,
                    Err(error) => last = format!("{error:#}"),
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no machine takes a write: {last}")
    }

    fn writes(&mut self) -> anyhow::Result<()> {
        (0..WRITES).try_for_each(|_| self.write())
    }

    /// The place of the leader, as the machine at `place` knows it.
    fn leader(&self) -> anyhow::Result<usize> {
        let mut leader = None;
        wait_until("a leader", || {
            let told: Vec<String> = self
                .alive()
                .filter_map(|machine| machine.get("/v2/leader").ok().filter(|(status, _)| *status == 200))
                .map(|(_, url)| url)
                .collect();
            leader = self.all.iter().position(|machine| {
                machine.is_started() && told.iter().any(|url| *url == format!("http://{}", machine.peer))
            });
            leader.is_some()
        })?;
        leader.context("a leader")
    }

    /// Every machine that lives refuses writes in words, and still answers reads.
    fn refuse(&self) -> anyhow::Result<()> {
        for machine in self.alive() {
            let mut last = String::new();
            wait_until(&format!("{} refuses writes", machine.name), || {
                let answer = machine.put("/refused", "x");
                last = format!("{answer:?}");
                matches!(&answer, Ok((500, body)) if body.contains("\"errorCode\":300"))
            })
            .with_context(|| last)?;
            wait_until(
                &format!("{} knows of no leader", machine.name),
                || matches!(&machine.get("/v2/leader"), Ok((500, body)) if body.contains("\"errorCode\":301")),
            )?;
            if let Some((key, value)) = self.acknowledged.iter().next() {
                ensure!(machine.holds(key, value), "{} does not answer a read of {key}", machine.name);
            }
        }
        Ok(())
    }

    /// Everything that was acknowledged is on every machine.
    fn check(&self) -> anyhow::Result<()> {
        for machine in &self.all {
            for (key, value) in &self.acknowledged {
                wait_until(&format!("{} has {key}", machine.name), || machine.holds(key, value))?;
            }
        }
        Ok(())
    }
}

/// The guide's last section: (n-1)/2 machines dead, it goes on; one more, writes are refused and nothing is lost.
pub fn as_many_dead_as_may_be(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    for size in &tools.sizes {
        let start = Instant::now();
        let folder = scratch.join(format!("of-{size}"));
        std::fs::create_dir_all(&folder)?;
        let machines = (1..=*size).map(|n| Machine::new(&tools.binary, &folder, &format!("machine{n}")));
        let mut machines = Machines::start(machines.collect())?;
        machines.writes()?;
        for _ in 0..(size - 1) / 2 {
            // Whoever leads: each death costs an election, too.
            let victim = machines.leader()?;
            machines.all[victim].kill();
            machines.writes().with_context(|| format!("{size} machines, as many dead as may be"))?;
        }
        let one_more = machines.leader()?;
        machines.all[one_more].kill();
        machines.refuse().with_context(|| format!("{size} machines, one more dead than may be"))?;
        machines.revive()?;
        machines.writes().with_context(|| format!("{size} machines, all back"))?;
        machines.check()?;
        println!(
            "         {size} machines: {} dead, then {}; {} writes acknowledged, all there ({:.1} s)",
            (size - 1) / 2,
            size.div_ceil(2),
            machines.acknowledged.len(),
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

const SLOW_BY: Duration = Duration::from_millis(500);
const MEASURED_WRITES: usize = 100;
/// What four machines would be behind, many times over, if nothing bounded what waits for them.
const BULK_WRITES: usize = 600;
const BULK_BYTES: usize = 8 * 1024;
const MEMORY_GROWTH_KIB_MAX: u64 = 256 * 1024;

/// Nine machines, four of them slow: the cluster goes at the speed of the fastest five.
pub fn at_the_speed_of_the_fastest(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    const SIZE: usize = 9;
    const SLOW: usize = 4;
    let mut ways = Vec::new();
    let mut all = Vec::new();
    for number in 1..=SIZE {
        let mut machine = Machine::new(&tools.binary, scratch, &format!("machine{number}"));
        if number > SIZE - SLOW {
            let way = SlowWay::to(&machine.peer_listen)?;
            machine.peer.clone_from(&way.addr);
            ways.push(way);
        }
        all.push(machine);
    }
    let mut machines = Machines::start(all)?;
    machines.write()?;
    let leader = machines.leader()?;
    ensure!(leader < SIZE - SLOW, "{} leads, which is to be slow", machines.all[leader].name);
    let before = median_write(&machines.all[leader], "before")?;
    let memory_before = machines.all[leader].process().memory_kib()?;
    ways.iter().for_each(|way| way.delay(SLOW_BY));
    let during = median_write(&machines.all[leader], "during")?;
    // Waiting for one of the slow ones would take at least their delay.
    ensure!(
        during < SLOW_BY,
        "a write takes {during:?} while others are slow by {SLOW_BY:?}, and {before:?} else"
    );
    let value = "x".repeat(BULK_BYTES);
    for number in 0..BULK_WRITES {
        let (status, body) = machines.all[leader].put(&format!("/bulk/{}", number % 50), &value)?;
        ensure!(matches!(status, 200 | 201), "bulk write {number}: {status} {body}");
    }
    let memory = machines.all[leader].process().memory_kib()?;
    ensure!(
        memory < memory_before + MEMORY_GROWTH_KIB_MAX,
        "the leader's memory grew from {memory_before} to {memory} KiB while others were slow"
    );
    ensure!(machines.leader()? == leader, "leadership moved because of slow machines");
    ways.iter().for_each(|way| way.delay(Duration::ZERO));
    machines.write()?;
    machines.check()?;
    println!(
        "         median write {before:.1?}, with 4 of 9 slowed by 500 ms {during:.1?}; the leader's memory {} MiB, then {} MiB",
        memory_before / 1024,
        memory / 1024
    );
    Ok(())
}

fn median_write(leader: &Machine, prefix: &str) -> anyhow::Result<Duration> {
    let mut took = Vec::with_capacity(MEASURED_WRITES);
    for number in 0..MEASURED_WRITES {
        let start = Instant::now();
        let (status, body) = leader.put(&format!("/{prefix}/{number}"), "x")?;
        ensure!(matches!(status, 200 | 201), "write {number} {prefix}: {status} {body}");
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Ok(took[MEASURED_WRITES / 2])
}
