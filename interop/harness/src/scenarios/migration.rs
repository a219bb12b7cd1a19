//! What an etcd of the 3.4 series wrote through its v2 API, killed, and moved to processes of ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use quorate_interop::{Process, WAIT_MAX, free_port, http_get, http_send, wait_until};
use serde_json::Value;

use crate::tools::{Tools, output};

/// So few that there are snapshots, and a log beyond the last.
const SNAPSHOT_COUNT: &str = "25";
const KEYS: usize = 80;

/// What is compared of a node: value, whether it is a directory, indexes, and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    value: Option<String>,
    dir: bool,
    created: u64,
    modified: u64,
    expiration: Option<String>,
}

type Listing = BTreeMap<String, Seen>;

fn put(addr: &str, path: &str, form: &str) -> anyhow::Result<u64> {
    ask(addr, "PUT", path, form)
}

/// Changes something; the index that it took.
fn ask(addr: &str, method: &str, path: &str, form: &str) -> anyhow::Result<u64> {
    let (status, body) = http_send(addr, method, &format!("/v2/keys{path}"), form)?;
    ensure!(matches!(status, 200 | 201), "{method} {path} {form}: {status} {body}");
    let answer: Value = serde_json::from_str(&body)?;
    answer["node"]["modifiedIndex"].as_u64().context("an index")
}

/// All that a server shows: what is hidden too, where it is known.
fn listing(addr: &str) -> anyhow::Result<Listing> {
    let mut all = Listing::new();
    for root in ["/", "/_hidden"] {
        let (status, body) = http_get(addr, &format!("/v2/keys{root}?recursive=true&quorum=true"))?;
        ensure!(status == 200, "{root}: {status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        collect(&answer["node"], &mut all)?;
    }
    Ok(all)
}

fn collect(node: &Value, all: &mut Listing) -> anyhow::Result<()> {
    let text = |name: &str| node[name].as_str().map(str::to_owned);
    if let Some(key) = text("key").filter(|key| key != "/") {
        let number = |name: &str| node[name].as_u64().with_context(|| format!("{name} of {key}"));
        let seen = Seen {
            value: text("value"),
            dir: node["dir"] == true,
            created: number("createdIndex")?,
            modified: number("modifiedIndex")?,
            expiration: text("expiration"),
        };
        all.insert(key, seen);
    }
    for below in node["nodes"].as_array().into_iter().flatten() {
        collect(below, all)?;
    }
    Ok(())
}

fn same(what: &str, expected: &Listing, got: &Listing) -> anyhow::Result<()> {
    for (key, seen) in expected {
        let there = got.get(key).with_context(|| format!("{what}: {key} is missing"))?;
        ensure!(there == seen, "{what}: {key} is {there:?}, and was {seen:?}");
    }
    let more: Vec<_> = got.keys().filter(|key| !expected.contains_key(*key)).collect();
    ensure!(more.is_empty(), "{what}: {more:?} were not there");
    Ok(())
}

/// Files, directories, keys in order, hidden ones, TTLs, changes, deletes, and an end by TTL; the last index.
fn fill(addr: &str) -> anyhow::Result<u64> {
    for number in 0..KEYS {
        put(addr, &format!("/many/{}/{number}", number % 4), &format!("value=v%20{number}%3C%26%3E"))?;
    }
    put(addr, "/empty", "value=")?;
    put(addr, "/directory", "dir=true")?;
    put(addr, "/ends/later", "value=x&ttl=5000")?;
    put(addr, "/ends/directory", "dir=true&ttl=6000")?;
    put(addr, "/ends/directory/file", "value=in%20it")?;
    put(addr, "/ends/soon", "value=x&ttl=1")?;
    put(addr, "/_hidden/file", "value=h")?;
    for job in 0..5 {
        ask(addr, "POST", "/queue", &format!("value=job{job}"))?;
    }
    put(addr, "/many/0/0", "value=changed&prevExist=true")?;
    put(addr, "/many/0/4", "value=swapped&prevValue=v%204%3C%26%3E")?;
    put(addr, "/many/0/8", "ttl=7000&refresh=true&prevExist=true")?;
    put(addr, "/ends/directory", "dir=true&ttl=8000&prevExist=true")?;
    ask(addr, "DELETE", "/many/1?recursive=true", "")?;
    ask(addr, "DELETE", "/many/2/2", "")?;
    let (status, _) = http_send(addr, "PUT", "/v2/keys/many/0/0", "value=no&prevExist=false")?;
    ensure!(status == 412, "a refused write took an index: {status}");
    wait_until("a TTL runs out", || matches!(http_get(addr, "/v2/keys/ends/soon"), Ok((404, _))))?;
    put(addr, "/last", "value=of%20all")
}

fn start_etcd(etcd: &Path, folder: &Path, log: &Path) -> anyhow::Result<(Process, String)> {
    let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(etcd);
    command.env_clear().args(["--name", "etcd", "--enable-v2", "--snapshot-count", SNAPSHOT_COUNT]);
    command.arg("--data-dir").arg(folder);
    for (flag, addr) in [
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
    ] {
        command.arg(flag).arg(format!("http://{addr}"));
    }
    command.arg("--initial-cluster").arg(format!("etcd=http://{peer}"));
    let process = Process::start(&mut command, log)?;
    wait_until("etcd serves", || matches!(http_get(&client, "/health"), Ok((200, _))))?;
    wait_until("etcd has its version", || {
        http_get(&client, "/version").is_ok_and(|(_, version)| version.contains("\"etcdcluster\":\"3.4"))
    })?;
    // What it writes about itself takes an index, too, and may come late.
    let published = format!("\"clientURLs\":[\"http://{client}\"]");
    wait_until("etcd has published where it serves", || {
        http_get(&client, "/v2/members").is_ok_and(|(_, members)| members.contains(&published))
    })?;
    Ok((process, client))
}

fn migrate(tools: &Tools, from: &Path, to: &Path, more: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(&tools.binary);
    command.arg("migrate").arg("--from").arg(from).arg("--data-dir").arg(to).args(more);
    output(&mut command)
}

/// What `migrate` says where it has to refuse.
fn refusal(tools: &Tools, from: &Path, to: &Path) -> anyhow::Result<String> {
    match migrate(tools, from, to, &[]) {
        Ok(said) => bail!("{} was migrated: {said}", from.display()),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// A machine of ours that was moved here.
fn start(tools: &Tools, log: &Path, arguments: &[String], client: &str) -> anyhow::Result<Process> {
    let mut process = Process::start(Command::new(&tools.binary).env_clear().args(arguments), log)?;
    process.wait_for_output("ready to serve client requests")?;
    wait_until("it serves", || matches!(http_get(client, "/v2/keys/"), Ok((200, _))))?;
    Ok(process)
}

/// The v2 API's tree of etcd 3.4, with every index and TTL, on `quorate server`, on `quorate etcd2`, and as keys of v3.
pub fn from_etcd(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let etcd = tools.etcd.as_ref().context("no etcd")?;
    let from = scratch.join("etcd");
    let (mut process, client) = start_etcd(etcd, &from, &scratch.join("etcd.log"))?;
    let last = fill(&client)?;
    let expected = listing(&client)?;
    let said = refusal(tools, &from, &scratch.join("too-early"))?;
    ensure!(said.contains("an etcd still runs on this folder"), "a running etcd's folder: {said}");
    process.kill();
    let snapshots = std::fs::read_dir(from.join("member/snap"))?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "snap"));
    ensure!(snapshots.count() > 0, "etcd made no snapshot");

    to_server(tools, scratch, &from, &expected, last)?;
    to_etcd2(tools, scratch, &from, &expected, last)?;
    to_keys(tools, scratch, &from, &expected)?;
    damaged(tools, scratch, &from)?;
    println!("         {} nodes, the last change took index {last}", expected.len());
    Ok(())
}

fn to_server(
    tools: &Tools,
    scratch: &Path,
    from: &Path,
    expected: &Listing,
    last: u64,
) -> anyhow::Result<()> {
    let to = scratch.join("server");
    let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let peer_url = format!("http://{peer}");
    migrate(tools, from, &to, &["--name", "m1", "--peer-url", &peer_url])?;
    let said = refusal(tools, from, &to)?;
    ensure!(said.contains("holds something already"), "a second run: {said}");
    let mut arguments = vec!["server".to_owned(), "--enable-v2".to_owned()];
    for (flag, value) in [
        ("--name", "m1"),
        ("--data-dir", &to.display().to_string()),
        ("--listen-client-urls", &format!("http://{client}")),
        ("--advertise-client-urls", &format!("http://{client}")),
        ("--listen-peer-urls", &peer_url),
        ("--initial-advertise-peer-urls", &peer_url),
    ] {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    let log = scratch.join("server.log");
    for round in 0..2u64 {
        let mut process = start(tools, &log, &arguments, &client)?;
        let mut got = listing(&client)?;
        if round > 0 {
            got.remove("/after");
        }
        same("on quorate server", expected, &got)?;
        let index = put(&client, "/after", "value=x")?;
        ensure!(index == last + 1 + round, "the next change took index {index}, not {}", last + 1 + round);
        process.signal("TERM")?;
        process.wait(WAIT_MAX)?;
    }
    Ok(())
}

/// The first machine is moved, a second one joins it.
fn to_etcd2(tools: &Tools, scratch: &Path, from: &Path, expected: &Listing, last: u64) -> anyhow::Result<()> {
    let to = scratch.join("machine1");
    let addresses: Vec<String> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    // A machine that starts with another peer address than it has may be listed twice, which takes an index more.
    let peer_url = format!("http://{}", addresses[1]);
    migrate(tools, from, &to, &["--for", "etcd2", "--name", "machine1", "--peer-url", &peer_url])?;
    let arguments = |number: usize, folder: &Path| {
        let mut arguments = vec!["etcd2".to_owned()];
        for (flag, value) in [
            ("-name", format!("machine{number}")),
            ("-data-dir", folder.display().to_string()),
            ("-addr", addresses[2 * number - 2].clone()),
            ("-peer-addr", addresses[2 * number - 1].clone()),
            ("-bind-addr", "127.0.0.1".to_owned()),
            ("-peer-bind-addr", "127.0.0.1".to_owned()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments
    };
    let _first = start(tools, &scratch.join("machine1.log"), &arguments(1, &to), &addresses[0])?;
    let mut second = arguments(2, &scratch.join("machine2"));
    second.extend(["-peers".to_owned(), addresses[1].clone()]);
    let _second = start(tools, &scratch.join("machine2.log"), &second, &addresses[2])?;
    for addr in [&addresses[0], &addresses[2]] {
        same("on quorate etcd2", expected, &listing(addr)?)?;
    }
    let index = put(&addresses[0], "/after", "value=x")?;
    // Both machines' registrations come first.
    ensure!(index == last + 3, "the next change took index {index}, not {}", last + 3);
    Ok(())
}

fn to_keys(tools: &Tools, scratch: &Path, from: &Path, expected: &Listing) -> anyhow::Result<()> {
    let to = scratch.join("keys");
    let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let peer_url = format!("http://{peer}");
    migrate(tools, from, &to, &["--to", "v3", "--prefix", "old", "--name", "m1", "--peer-url", &peer_url])?;
    let mut arguments = vec!["server".to_owned(), "--enable-v2".to_owned()];
    for (flag, value) in [
        ("--name", "m1"),
        ("--data-dir", &to.display().to_string()),
        ("--listen-client-urls", &format!("http://{client}")),
        ("--advertise-client-urls", &format!("http://{client}")),
        ("--listen-peer-urls", &peer_url),
        ("--initial-advertise-peer-urls", &peer_url),
    ] {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    let _process = start(tools, &scratch.join("keys.log"), &arguments, &client)?;
    let ctl = |arguments: &[&str]| {
        output(Command::new(&tools.binary).args(["ctl", "--endpoints", &client]).args(arguments))
    };
    let keys = ctl(&["get", "old/", "--prefix", "--keys-only"])?;
    let got: Vec<&str> = keys.lines().filter(|line| !line.is_empty()).collect();
    let files = expected.iter().filter(|(_, seen)| !seen.dir).map(|(key, _)| format!("old{key}"));
    let mut files: Vec<String> = files.collect();
    files.sort();
    ensure!(got == files, "keys of v3: {got:?}, not {files:?}");
    let value = ctl(&["get", "old/many/0/4", "--print-value-only"])?;
    ensure!(value.trim() == "swapped", "old/many/0/4: {value:?}");
    let leases = ctl(&["lease", "list"])?;
    // /ends/later, /ends/directory/file by its directory, and /many/0/8.
    ensure!(leases.contains("found 3 leases"), "leases: {leases}");
    Ok(())
}

/// A byte of the log is another one: file and place are told, and nothing is written.
fn damaged(tools: &Tools, scratch: &Path, from: &Path) -> anyhow::Result<()> {
    let folder = from.join("member/wal");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    files.sort();
    let file = files.last().context("a log")?;
    let mut bytes = std::fs::read(file)?;
    let value = b"of all";
    let at = bytes.windows(value.len()).rposition(|window| window == value).context("the last value")?;
    bytes[at] ^= 1;
    std::fs::write(file, &bytes)?;
    let to = scratch.join("damaged");
    let said = refusal(tools, from, &to)?;
    let name = file.display().to_string();
    ensure!(said.contains(&format!("{name} is damaged at byte ")), "a damaged log: {said}");
    ensure!(!to.exists(), "a folder was made of a damaged log");
    Ok(())
}
