//! Members added, removed and replaced with etcdctl, under load.

use std::path::Path;

use anyhow::{Context as _, ensure};
use quorate_interop::{Cluster, WAIT_MAX, wait_until};

use crate::tools::{Load, Tools};

const PUTS_BETWEEN: usize = 200;
const SIZE_MAX: usize = 5;

/// One member becomes five, the leader leaves, a wiped member is refused and then replaced, and one is left.
pub fn members_changed_under_load(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::plan(&tools.binary, scratch, SIZE_MAX, &[])?;
    let founder = format!("{}=http://{}", cluster.members[0].name, cluster.members[0].peer);
    cluster.members[0].start_with(&["--initial-cluster", &founder])?;
    cluster.members[0].wait_ready()?;
    let acknowledged = scratch.join("acknowledged");
    let load = tools.start_load(&cluster.endpoints(), &acknowledged)?;
    for newcomer in 1..SIZE_MAX {
        load.wait_for(PUTS_BETWEEN)?;
        let learner = newcomer % 2 == 0;
        add(tools, &mut cluster, newcomer, learner).with_context(|| format!("adding m{}", newcomer + 1))?;
    }
    load.wait_for(PUTS_BETWEEN)?;

    let leader = cluster.leader()?;
    remove(tools, &mut cluster, leader, (leader + 1) % SIZE_MAX).context("removing the leader")?;
    load.wait_for(PUTS_BETWEEN).context("after the leader was removed")?;

    let wiped = (leader + 2) % SIZE_MAX;
    let other = (leader + 1) % SIZE_MAX;
    replace_wiped(tools, &mut cluster, wiped, other, &load).context("a wiped member")?;

    for place in (0..SIZE_MAX).filter(|&place| place != leader && place != other) {
        remove(tools, &mut cluster, place, other).with_context(|| format!("removing m{}", place + 1))?;
        load.wait_for(PUTS_BETWEEN)?;
    }
    println!("         {}", load.finish()?);
    let path = acknowledged.display().to_string();
    let last = &cluster.members[other].client;
    println!("         {}", tools.go(&["verify", "-endpoints", last, "-in", &path])?.trim());
    cluster.terminate()
}

/// Adds a member through the first, and starts it with what etcdctl says.
fn add(tools: &Tools, cluster: &mut Cluster, newcomer: usize, learner: bool) -> anyhow::Result<()> {
    add_through(tools, cluster, newcomer, 0, learner, &|_| ())
}

/// `started` is called once the newcomer's process runs, before it serves.
fn add_through(
    tools: &Tools,
    cluster: &mut Cluster,
    newcomer: usize,
    through: usize,
    learner: bool,
    started: &dyn Fn(&Cluster),
) -> anyhow::Result<()> {
    let endpoint = cluster.members[through].client.clone();
    let member = &mut cluster.members[newcomer];
    let (name, peer) = (member.name.clone(), format!("http://{}", member.peer));
    let url = format!("--peer-urls={peer}");
    let mut arguments = vec!["member", "add", &name, &url];
    if learner {
        arguments.push("--learner");
    }
    // A change is refused while the one before it is not over, or a majority has not been connected for a while.
    let (mut founders, mut last) = (None, String::new());
    wait_until("the change is taken", || {
        let told = match tools.etcdctl(&endpoint, &arguments) {
            Ok(told) => told,
            Err(error) => {
                last = error.to_string();
                // The answer to the try before may have been lost, not the change.
                if last.contains("Peer URLs already exists") {
                    founders = initial_cluster(tools, &endpoint, (&name, &peer)).ok();
                }
                return founders.is_some();
            }
        };
        let line = told.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER="));
        founders = line.map(|line| line.trim_matches('"').to_owned());
        last = told;
        true
    })
    .with_context(|| last.clone())?;
    let founders = founders.with_context(|| format!("etcdctl names no initial cluster: {last}"))?;
    member.start_with(&["--initial-cluster", &founders, "--initial-cluster-state", "existing"])?;
    started(cluster);
    let member = &mut cluster.members[newcomer];
    member.wait_ready()?;
    if learner {
        let id = id_of(tools, &endpoint, &member.name)?;
        let mut last = String::new();
        wait_until("the learner is promoted", || {
            match tools.etcdctl(&endpoint, &["member", "promote", &id]) {
                Ok(_) => true,
                Err(error) => {
                    last = error.to_string();
                    // The answer to the try before may have been lost, not the promotion.
                    last.contains("can only promote a learner member") && !last.contains("in sync")
                }
            }
        })
        .context(last)?;
    }
    Ok(())
}

fn remove(tools: &Tools, cluster: &mut Cluster, place: usize, through: usize) -> anyhow::Result<()> {
    let endpoint = cluster.members[through].client.clone();
    let id = id_of(tools, &endpoint, &cluster.members[place].name)?;
    let mut last = String::new();
    wait_until("the removal is taken", || match tools.etcdctl(&endpoint, &["member", "remove", &id]) {
        Ok(_) => true,
        Err(error) => {
            last = error.to_string();
            // The answer to the try before may have been lost, not the change.
            last.contains("not found")
        }
    })
    .context(last)?;
    // A removed member ends by itself.
    let status = cluster.members[place].process().wait(WAIT_MAX)?;
    ensure!(status.success(), "the removed member ended with {status}");
    cluster.members[place].kill();
    Ok(())
}

fn replace_wiped(
    tools: &Tools,
    cluster: &mut Cluster,
    wiped: usize,
    through: usize,
    load: &Load,
) -> anyhow::Result<()> {
    let member = &mut cluster.members[wiped];
    member.kill();
    std::fs::remove_dir_all(&member.data_dir)?;
    // It comes back as it joined, with nothing: the others must not take it for who it was.
    let endpoint = cluster.members[through].client.clone();
    let member = &mut cluster.members[wiped];
    let founders = initial_cluster(tools, &endpoint, (&member.name, &format!("http://{}", member.peer)))?;
    member.start_with(&["--initial-cluster", &founders, "--initial-cluster-state", "existing"])?;
    member
        .process()
        .wait_for_output("remove it from the cluster and add it again")
        .context("a wiped member is told to be removed and added")?;
    load.wait_for(PUTS_BETWEEN).context("while the wiped member is refused")?;
    member.kill();
    let id = id_of(tools, &endpoint, &cluster.members[wiped].name)?;
    tools.etcdctl(&endpoint, &["member", "remove", &id])?;
    let member = &cluster.members[wiped];
    if member.data_dir.exists() {
        std::fs::remove_dir_all(&member.data_dir)?;
    }
    add_through(tools, cluster, wiped, through, false, &|_| ())?;
    load.wait_for(PUTS_BETWEEN).context("after it was replaced")
}

/// Removes a member, takes its data away and adds it again. `started` is called once its new process runs.
pub fn replace(
    tools: &Tools,
    cluster: &mut Cluster,
    place: usize,
    through: usize,
    started: &dyn Fn(&Cluster),
) -> anyhow::Result<()> {
    remove(tools, cluster, place, through).context("removing it")?;
    std::fs::remove_dir_all(&cluster.members[place].data_dir).context("its data")?;
    let learner = place.is_multiple_of(2);
    add_through(tools, cluster, place, through, learner, started).context("adding it again")
}

/// The members as `--initial-cluster` wants them; who was not started has no name yet but in `newcomer`, by its address.
fn initial_cluster(tools: &Tools, endpoint: &str, newcomer: (&str, &str)) -> anyhow::Result<String> {
    let list = listed(tools, endpoint)?;
    let pairs = list.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(", ").collect();
        let (name, peer) = (*fields.get(2)?, *fields.get(3)?);
        Some(format!("{}={peer}", if peer == newcomer.1 { newcomer.0 } else { name }))
    });
    Ok(pairs.collect::<Vec<_>>().join(","))
}

/// The id of a started member, as etcdctl lists it.
fn id_of(tools: &Tools, endpoint: &str, name: &str) -> anyhow::Result<String> {
    let list = listed(tools, endpoint)?;
    list.lines()
        .map(|line| line.split(", ").collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&name))
        .map(|fields| fields[0].to_owned())
        .with_context(|| format!("{name} is not listed: {list}"))
}

/// The list of members, a line each. While leaders change an answer may be long in coming.
fn listed(tools: &Tools, endpoint: &str) -> anyhow::Result<String> {
    let mut told = Err(anyhow::anyhow!("not asked"));
    let waited = wait_until("the list of members", || {
        told = tools.etcdctl(endpoint, &["member", "list"]);
        told.is_ok()
    });
    waited.and(told)
}
