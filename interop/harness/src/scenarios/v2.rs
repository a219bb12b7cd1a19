//! The v2 API of `quorate server --enable-v2`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use quorate_interop::{Cluster, Process, free_port, http_get, wait_until};

use super::SIZE;
use crate::tools::{Tools, output};

const FLAGS: [&str; 1] = ["--enable-v2"];

fn script(tools: &Tools, name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(tools.python.as_ref().context("no Python")?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../python").join(name));
    Ok(command)
}

/// python-etcd and etcdctl, each against each member.
pub fn clients(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::plan(&tools.binary, scratch, SIZE, &FLAGS)?;
    cluster.start_all()?;
    output(script(tools, "smoke_v2.py")?.arg(cluster.endpoints()))?;
    for member in &cluster.members {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(tools.etcdctl.as_ref().context("no etcdctl")?);
            let endpoint = format!("http://{}", member.client);
            output(command.env("ETCDCTL_API", "2").args(["--endpoints", &endpoint]).args(arguments))
        };
        let expect = |arguments: &[&str], wanted: &str| -> anyhow::Result<()> {
            let got = run(arguments)?;
            ensure!(got.trim() == wanted, "{arguments:?} printed {got:?}, not {wanted:?}");
            Ok(())
        };
        expect(&["set", "/ctl/a", "1"], "1")?;
        expect(&["get", "--quorum", "/ctl/a"], "1")?;
        ensure!(run(&["mk", "/ctl/a", "2"]).is_err(), "a key that exists was made again");
        expect(&["set", "/ctl/a", "2", "--swap-with-value", "1"], "2")?;
        run(&["setdir", "/ctl/dir", "--ttl", "100"])?;
        expect(&["ls", "--recursive", "--sort", "-p", "--quorum", "/ctl"], "/ctl/a\n/ctl/dir/")?;
        let members = run(&["member", "list"])?;
        ensure!(members.lines().count() == SIZE && members.contains("isLeader=true"), "members: {members}");
        let health = run(&["cluster-health"])?;
        ensure!(health.contains("cluster is healthy"), "health: {health}");
        run(&["rm", "--recursive", "/ctl"])?;
    }
    cluster.terminate()
}

/// The same requests to etcd's own server: the answers are the same, field by field.
pub fn beside_etcd(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::plan(&tools.binary, scratch, 1, &FLAGS)?;
    cluster.start_all()?;
    let etcd = tools.etcd.as_ref().context("no etcd")?;
    let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(etcd);
    command.env_clear().args(["--name", "etcd", "--enable-v2"]);
    for (flag, value) in [
        ("--data-dir", scratch.join("etcd").display().to_string()),
        ("--listen-client-urls", format!("http://{client}")),
        ("--advertise-client-urls", format!("http://{client}")),
        ("--listen-peer-urls", format!("http://{peer}")),
        ("--initial-advertise-peer-urls", format!("http://{peer}")),
        ("--initial-cluster", format!("etcd=http://{peer}")),
    ] {
        command.arg(flag).arg(value);
    }
    let _etcd = Process::start(&mut command, &scratch.join("etcd.log"))?;
    wait_until("etcd serves", || matches!(http_get(&client, "/health"), Ok((200, _))))?;
    // Its own version is written last of what it writes for itself.
    wait_until("etcd has its version", || {
        http_get(&client, "/version").is_ok_and(|(_, version)| version.contains("\"etcdcluster\":\"3.4"))
    })?;
    let compared = output(
        script(tools, "compare_v2.py")?
            .arg(format!("http://{client}"))
            .arg(format!("http://{}", cluster.members[0].client)),
    )?;
    println!("         {}", compared.trim());
    cluster.terminate()
}
