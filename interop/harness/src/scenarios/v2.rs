//! The v2 API, as `quorate server --enable-v2` and as `quorate etcd2` speak it.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use quorate_interop::{Cluster, Process, WAIT_MAX, free_port, http_get, wait_until};

use super::SIZE;
use crate::tools::{Tools, output};

const FLAGS: [&str; 1] = ["--enable-v2"];

fn script(tools: &Tools, name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(tools.python.as_ref().context("no Python")?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../python").join(name));
    Ok(command)
}

/// A client that a scenario runs against all machines of a cluster.
type Run = fn(&Tools, &str, &[&str]) -> anyhow::Result<()>;

fn python_etcd(tools: &Tools, endpoints: &str, more: &[&str]) -> anyhow::Result<()> {
    output(script(tools, "smoke_v2.py")?.arg(endpoints).args(more)).map(drop)
}

fn node_etcd(tools: &Tools, endpoints: &str, more: &[&str]) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/v2.mjs");
    let folder = tools.node.as_ref().context("no npm folder")?;
    output(Command::new("node").arg(script).arg(endpoints).args(more).env("NODE_FOLDER", folder)).map(drop)
}

/// Go's `go.etcd.io/etcd/client/v2`.
fn go_client(tools: &Tools, endpoints: &str, more: &[&str]) -> anyhow::Result<()> {
    let more: Vec<&str> = more.iter().map(|&flag| if flag == "--old" { "-old" } else { flag }).collect();
    tools.go(&[&["v2", "-endpoints", endpoints], &more[..]].concat()).map(drop)
}

fn on_servers(tools: &Tools, scratch: &Path, run: Run) -> anyhow::Result<()> {
    let mut cluster = Cluster::plan(&tools.binary, scratch, SIZE, &FLAGS)?;
    cluster.start_all()?;
    run(tools, &cluster.endpoints(), &[])?;
    cluster.terminate()
}

/// Three machines as of etcd 0.4, whose followers send clients to the leader.
fn on_machines(tools: &Tools, scratch: &Path, run: Run) -> anyhow::Result<()> {
    let address = || format!("127.0.0.1:{}", free_port());
    let peers: Vec<String> = (0..SIZE).map(|_| address()).collect();
    let (mut clients, mut machines) = (Vec::new(), Vec::new());
    for (number, peer) in peers.iter().enumerate() {
        let (name, client) = (format!("machine{}", number + 1), address());
        let mut command = Command::new(&tools.binary);
        command.env_clear().args(["etcd2", "-name", &name, "-addr", &client, "-peer-addr", peer]);
        command.arg("-data-dir").arg(scratch.join(&name));
        if number > 0 {
            command.args(["-peers", &peers[..number].join(",")]);
        }
        let mut machine = Process::start(&mut command, &scratch.join(format!("{name}.log")))?;
        machine.wait_for_output("ready to serve client requests").with_context(|| name)?;
        machines.push(machine);
        clients.push(client);
    }
    run(tools, &clients.join(","), &["--old"])?;
    for mut machine in machines {
        machine.signal("TERM")?;
        let status = machine.wait(WAIT_MAX)?;
        ensure!(status.success(), "a machine ended with {status}");
    }
    Ok(())
}

pub fn python_on_servers(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_servers(tools, scratch, python_etcd)
}

pub fn python_on_machines(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_machines(tools, scratch, python_etcd)
}

pub fn node_on_servers(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_servers(tools, scratch, node_etcd)
}

pub fn node_on_machines(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_machines(tools, scratch, node_etcd)
}

pub fn go_on_servers(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_servers(tools, scratch, go_client)
}

pub fn go_on_machines(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_machines(tools, scratch, go_client)
}

pub fn etcdctl_on_machines(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    on_machines(tools, scratch, |tools, endpoints, _| {
        for endpoint in endpoints.split(',') {
            // It would look for a member list, which 0.4 does not have.
            let run = |arguments: &[&str]| {
                output(etcdctl_command(tools, endpoint)?.arg("--no-sync").args(arguments))
            };
            keys_by_etcdctl(&run)?;
            run(&["rm", "--recursive", "/ctl"])?;
        }
        Ok(())
    })
}

fn etcdctl_command(tools: &Tools, endpoint: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(tools.etcdctl.as_ref().context("no etcdctl")?);
    command.env("ETCDCTL_API", "2").args(["--endpoints", &format!("http://{endpoint}")]);
    Ok(command)
}

/// Runs etcdctl's command of these arguments; what it printed.
type Runs<'a> = &'a dyn Fn(&[&str]) -> anyhow::Result<String>;

fn expect(run: Runs<'_>, arguments: &[&str], wanted: &str) -> anyhow::Result<()> {
    let got = run(arguments)?;
    ensure!(got.trim() == wanted, "{arguments:?} printed {got:?}, not {wanted:?}");
    Ok(())
}

fn keys_by_etcdctl(run: Runs<'_>) -> anyhow::Result<()> {
    expect(run, &["set", "/ctl/a", "1"], "1")?;
    expect(run, &["get", "--quorum", "/ctl/a"], "1")?;
    ensure!(run(&["mk", "/ctl/a", "2"]).is_err(), "a key that exists was made again");
    expect(run, &["set", "/ctl/a", "2", "--swap-with-value", "1"], "2")?;
    run(&["setdir", "/ctl/dir", "--ttl", "100"])?;
    expect(run, &["ls", "--recursive", "--sort", "-p", "--quorum", "/ctl"], "/ctl/a\n/ctl/dir/")
}

/// Users and roles, made through one member and asked for through another.
fn users_by_etcdctl(tools: &Tools, cluster: &Cluster) -> anyhow::Result<()> {
    let (one, other) = (&cluster.members[0].client, &cluster.members[SIZE - 1].client);
    let by = |endpoint: &str, user: &str, arguments: &[&str]| -> anyhow::Result<Output> {
        let mut command = etcdctl_command(tools, endpoint)?;
        if !user.is_empty() {
            command.args(["-u", user]);
        }
        command.args(arguments).output().context("etcdctl")
    };
    let run = |endpoint: &str, user: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let output = by(endpoint, user, arguments)?;
        ensure!(output.status.success(), "{arguments:?} as {user:?}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    const ROOT: &str = "root:rootpw";
    run(one, "", &["user", "add", ROOT])?;
    run(one, "", &["role", "add", "ctl"])?;
    run(one, "", &["role", "grant", "ctl", "--path", "/ctl/*", "--readwrite"])?;
    run(one, "", &["user", "add", "someone:pw"])?;
    run(one, "", &["user", "grant", "someone", "--roles", "ctl"])?;
    run(one, "", &["auth", "enable"])?;
    expect(&|arguments| run(other, "someone:pw", arguments), &["set", "/ctl/x", "1"], "1")?;
    for (user, arguments) in [
        ("someone:pw", &["set", "/other", "1"][..]),
        ("someone:guess", &["get", "/ctl/x"]),
        ("someone:pw", &["user", "list"]),
        ("", &["auth", "disable"]),
    ] {
        let output = by(other, user, arguments)?;
        ensure!(!output.status.success(), "{arguments:?} as {user:?} is allowed: {output:?}");
    }
    expect(&|arguments| run(other, ROOT, arguments), &["user", "list"], "root\nsomeone")?;
    expect(&|arguments| run(other, ROOT, arguments), &["role", "list"], "ctl\nguest\nroot")?;
    run(other, ROOT, &["auth", "disable"])?;
    for arguments in [["user", "remove", "someone"], ["role", "remove", "ctl"], ["user", "remove", "root"]] {
        run(one, "", &arguments)?;
    }
    run(one, "", &["rm", "--recursive", "/ctl"]).map(drop)
}

/// etcdctl against each member.
pub fn etcdctl_on_servers(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::plan(&tools.binary, scratch, SIZE, &FLAGS)?;
    cluster.start_all()?;
    for member in &cluster.members {
        let run = |arguments: &[&str]| output(etcdctl_command(tools, &member.client)?.args(arguments));
        keys_by_etcdctl(&run)?;
        let members = run(&["member", "list"])?;
        ensure!(members.lines().count() == SIZE && members.contains("isLeader=true"), "members: {members}");
        let health = run(&["cluster-health"])?;
        ensure!(health.contains("cluster is healthy"), "health: {health}");
        run(&["rm", "--recursive", "/ctl"])?;
    }
    users_by_etcdctl(tools, &cluster)?;
    cluster.terminate()
}

/// A server of etcd's own, with the v2 API.
struct Etcd {
    name: String,
    client: String,
    peer: String,
}

/// So many of them as one cluster, ready to serve; they end with what is returned.
fn start_etcd(tools: &Tools, scratch: &Path, size: usize) -> anyhow::Result<(Vec<Etcd>, Vec<Process>)> {
    let etcd = tools.etcd.as_ref().context("no etcd")?;
    let address = || format!("127.0.0.1:{}", free_port());
    let servers: Vec<Etcd> = (1..=size)
        .map(|number| Etcd { name: format!("etcd{number}"), client: address(), peer: address() })
        .collect();
    let all: Vec<String> = servers.iter().map(|it| format!("{}=http://{}", it.name, it.peer)).collect();
    let all = all.join(",");
    let mut running = Vec::new();
    for Etcd { name, client, peer } in &servers {
        let mut command = Command::new(etcd);
        command.env_clear().args(["--name", name, "--enable-v2", "--initial-cluster", &all]);
        for (flag, value) in [
            ("--data-dir", scratch.join(name).display().to_string()),
            ("--listen-client-urls", format!("http://{client}")),
            ("--advertise-client-urls", format!("http://{client}")),
            ("--listen-peer-urls", format!("http://{peer}")),
            ("--initial-advertise-peer-urls", format!("http://{peer}")),
        ] {
            command.arg(flag).arg(value);
        }
        running.push(Process::start(&mut command, &scratch.join(format!("{name}.log")))?);
    }
    for Etcd { client, .. } in &servers {
        wait_until("etcd serves", || matches!(http_get(client, "/health"), Ok((200, _))))?;
        // Its own version is written last of what it writes for itself.
        wait_until("etcd has its version", || {
            http_get(client, "/version").is_ok_and(|(_, version)| version.contains("\"etcdcluster\":\"3.4"))
        })?;
    }
    Ok((servers, running))
}

fn compare(tools: &Tools, name: &str, theirs: &[String], ours: &[String]) -> anyhow::Result<()> {
    let compared = output(script(tools, name)?.arg(theirs.join(",")).arg(ours.join(",")))?;
    println!("         {}", compared.trim());
    Ok(())
}

fn urls<'a>(clients: impl Iterator<Item = &'a String>) -> Vec<String> {
    clients.map(|client| format!("http://{client}")).collect()
}

/// The same requests to etcd's own server: the answers are the same, field by field. The same load on three of each: what they
/// tell of their appends has the same fields.
pub fn beside_etcd(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    for (size, name) in [(1, "compare_v2.py"), (SIZE, "compare_v2_stats.py")] {
        let scratch = scratch.join(name);
        let mut cluster = Cluster::plan(&tools.binary, &scratch, size, &FLAGS)?;
        cluster.start_all()?;
        let (servers, _running) = start_etcd(tools, &scratch, size)?;
        let theirs = urls(servers.iter().map(|server| &server.client));
        let ours = urls(cluster.members.iter().map(|member| &member.client));
        compare(tools, name, &theirs, &ours)?;
        cluster.terminate()?;
    }
    Ok(())
}
