//! The storage library beside etcd's own clients and servers, and the calls of snet-daemon.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use quorate_client::Client;
use quorate_interop::{Cluster, Process, free_port, http_get, wait_until};
use quorate_storage::conformance::{self, CASES};
use quorate_storage::{AtomicStorage as _, Cluster as Storage, Locks};

use crate::scenarios::SIZE;
use crate::tools::Tools;

/// Go's client makes the daemon's own calls (status probe, session of 10 s, mutex, its forms of comparison) against
/// three embedded members, while the leader and then each member is killed.
pub fn snetd(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    const ROUNDS_BETWEEN: usize = 15;
    let mut cluster = Cluster::plan_snet(&tools.binary, scratch, SIZE)?;
    cluster.start_all()?;
    let rounds = scratch.join("rounds");
    let load = tools.start_snetd(&cluster.endpoints(), &rounds)?;
    load.wait_for(ROUNDS_BETWEEN)?;
    let leader = cluster.leader()?;
    cluster.members[leader].kill();
    load.wait_for(ROUNDS_BETWEEN).context("after the leader's death")?;
    cluster.start_all()?;
    for number in 0..SIZE {
        load.wait_for(ROUNDS_BETWEEN)?;
        cluster.members[number].kill();
        load.wait_for(ROUNDS_BETWEEN).with_context(|| format!("without m{}", number + 1))?;
        cluster.start_all()?;
    }
    load.finish()?;
    let told = std::fs::read_to_string(&rounds)?;
    println!("         {}", told.lines().last().unwrap_or_default());
    cluster.terminate()
}

fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

/// What etcdctl writes is read by the library, and the other way round; their locks keep each other out.
pub fn library(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let endpoints = cluster.endpoints();
    run(both_ways(tools, &endpoints))?;
    cluster.terminate()
}

async fn both_ways(tools: &Tools, endpoints: &str) -> anyhow::Result<()> {
    let storage = Arc::new(Storage::new(Client::new(endpoints.split(','))?));
    let key = "net//payment-channel/storage/{ID: 42}|a=b:c";
    let etcdctl = |arguments: &[&str]| tokio::task::block_in_place(|| tools.etcdctl(endpoints, arguments));
    etcdctl(&["put", key, "by etcdctl"])?;
    let found = storage.get(key.as_bytes()).await?.context("what etcdctl wrote")?;
    ensure!(found.value == "by etcdctl", "the library reads {found:?}");
    ensure!(storage.compare_and_swap(key.as_bytes(), b"by etcdctl", b"by the library").await?, "the swap");
    let printed = etcdctl(&["get", "net//", "--prefix"])?;
    ensure!(printed == format!("{key}\nby the library\n"), "etcdctl reads {printed:?}");
    // etcdctl's lock and the library's have one queue.
    let lock = Locks::new(storage.clone(), "library").try_lock(b"net//lock").await?;
    let queued = etcdctl(&["get", "net//lock/", "--prefix", "--keys-only"])?;
    ensure!(queued.trim().starts_with("net//lock/"), "etcdctl sees {queued:?}");
    let mut waiter = tools.etcdctl_command(endpoints)?;
    let waiter =
        waiter.args(["lock", "net//lock", "echo", "etcdctl has it"]).stdout(std::process::Stdio::piped());
    let child = waiter.spawn().context("etcdctl lock")?;
    let mut waiting = 0;
    while waiting == 0 {
        let state = quorate_storage::inspect_lock(&*storage, b"net//lock").await?.context("the lock")?;
        ensure!(state.holder.owner == "library", "{state:?}");
        waiting = state.waiting;
    }
    ensure!(lock.unlock().await?, "it was held");
    let output = tokio::task::block_in_place(|| child.wait_with_output())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && text.contains("etcdctl has it"), "etcdctl lock: {text}");
    Ok(())
}

/// Keys that mean something to paths, JSON, Go's printing or C, and ones of any bytes.
const OPAQUE_KEYS: [&[u8]; 8] = [
    b"sepolia/org/Z3JvdXA=//payment-channel/storage/{ID: 42}",
    b"sepolia/org/Z3JvdXA=//payment-channel/storage/{ID:11/P}",
    b"sepolia/org//",
    b"sepolia/org//a=b:c|d",
    b"sepolia/org/../%2f?x#y",
    b"sepolia/org/\0 in it\0",
    b"sepolia/org/\xff\xfe\x80",
    "sepolia/org/\u{e4}\u{1f511}".as_bytes(),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opaque keys and values: what the library writes Python's etcd3 reads, swaps and lists, and the other way round.
pub fn python(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&tools.binary, scratch, SIZE)?;
    let endpoints = cluster.endpoints();
    let python = tools.python.as_ref().context("no Python")?;
    let ask = |question: &serde_json::Value| -> anyhow::Result<serde_json::Value> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/storage.py");
        let first = endpoints.split(',').next().context("an endpoint")?;
        let file = scratch.join("question");
        std::fs::write(&file, question.to_string())?;
        let mut command = Command::new(python);
        let told = crate::tools::output(command.arg(script).arg(first).arg(&file))?;
        Ok(serde_json::from_str(&told)?)
    };
    run(opaque(&endpoints, &ask))?;
    cluster.terminate()
}

async fn opaque(
    endpoints: &str,
    ask: &dyn Fn(&serde_json::Value) -> anyhow::Result<serde_json::Value>,
) -> anyhow::Result<()> {
    let storage = Storage::new(Client::new(endpoints.split(','))?);
    let value =
        |number: usize, key: &[u8]| [&[u8::try_from(number).unwrap_or(255), 0, 0xff, b'\n'], key].concat();
    let (ours, theirs) = OPAQUE_KEYS.split_at(OPAQUE_KEYS.len() / 2);
    let (mut read, mut swap, mut write) = (Vec::new(), serde_json::Map::new(), serde_json::Map::new());
    for (number, key) in ours.iter().enumerate() {
        storage.put(key, &value(number, key)).await?;
        read.push(hex(key));
        swap.insert(hex(key), serde_json::json!([hex(&value(number, key)), hex(&value(100 + number, key))]));
    }
    for (number, key) in theirs.iter().enumerate() {
        write.insert(hex(key), hex(&value(50 + number, key)).into());
    }
    let prefix: &[u8] = b"sepolia/org/";
    let question = serde_json::json!({ "read": read, "swap": swap, "write": write, "prefix": hex(prefix) });
    let answer = tokio::task::block_in_place(|| ask(&question))?;
    for (number, key) in ours.iter().enumerate() {
        let told = &answer["read"][hex(key)];
        ensure!(*told == hex(&value(number, key)), "etcd3 reads {told} under {}", key.escape_ascii());
    }
    let swapped = serde_json::json!(vec![true; ours.len()]);
    ensure!(answer["swapped"] == swapped, "etcd3 swaps what the library wrote: {}", answer["swapped"]);
    // Now both sides list all of them alike, and the library swaps what etcd3 wrote.
    let listed = storage.get_prefix(prefix).await?;
    let of_library: serde_json::Map<String, serde_json::Value> =
        listed.iter().map(|entry| (hex(&entry.key), hex(&entry.value).into())).collect();
    ensure!(answer["prefix"] == serde_json::Value::Object(of_library), "{} and {listed:?}", answer["prefix"]);
    ensure!(listed.len() == OPAQUE_KEYS.len(), "{} keys", listed.len());
    for (number, key) in ours.iter().enumerate() {
        let found = storage.get(key).await?.context("what etcd3 swapped")?;
        ensure!(found.value == value(100 + number, key), "the library reads {found:?}");
    }
    for (number, key) in theirs.iter().enumerate() {
        let old = value(50 + number, key);
        ensure!(storage.compare_and_swap(key, &old, b"swapped").await?, "{}", key.escape_ascii());
    }
    println!("         {} keys both ways", OPAQUE_KEYS.len());
    Ok(())
}

/// The suite that the library's back ends pass, against Debian's etcd.
pub fn on_etcd(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = Command::new(tools.etcd.as_ref().context("no etcd")?);
    command.env_clear().arg("--data-dir").arg(scratch.join("data")).args([
        "--name",
        "alone",
        "--listen-client-urls",
        &client_url,
        "--advertise-client-urls",
        &client_url,
        "--listen-peer-urls",
        &peer_url,
        "--initial-advertise-peer-urls",
        &peer_url,
        "--initial-cluster",
        &format!("alone={peer_url}"),
    ]);
    let _etcd = Process::start(&mut command, &scratch.join("etcd.log"))?;
    wait_until("etcd is healthy", || {
        http_get(&client, "/health").is_ok_and(|(_, body)| body.contains("true"))
    })?;
    run(async {
        let storage = Storage::new(Client::new([client])?);
        for case in CASES {
            // A case panics where a promise is not kept.
            let storage = Arc::new(storage.clone());
            tokio::spawn(conformance::run(case, storage, "suite"))
                .await
                .map_err(|error| anyhow::anyhow!("{}: {error}", case.name))?;
        }
        println!("         {} cases", CASES.len());
        Ok(())
    })
}
