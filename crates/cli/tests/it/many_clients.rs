//! Clients by the thousand, file descriptors that run out, large writes without end: what a member does at its bounds.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate::Client;
use quorate::client::WatchOptions;
use quorate_interop::{Cluster, Home, Member, free_port, http_get, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{binary, scratch};

/// How a client of HTTP/2 begins: the preface, and settings without any.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that says what it speaks and is answered, and nothing more; `None` where it is closed instead.
fn idle(addr: &str) -> Option<TcpStream> {
    settled(begun(addr)?)
}

/// A connection that says what it speaks.
fn begun(addr: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(addr).expect("the port takes connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(HTTP2).ok()?;
    Some(stream)
}

/// The connection, once it is answered.
fn settled(mut stream: TcpStream) -> Option<TcpStream> {
    let mut head = [0; 9];
    match stream.read_exact(&mut head) {
        Ok(()) => assert_eq!(head[3], SETTINGS, "{head:?}"),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "neither answered nor closed");
            return None;
        }
    }
    Some(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    match stream.peek(&mut [0; 1]) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn serves(member: &Member) -> bool {
    matches!(http_get(&member.client, "/health"), Ok((200, _)))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn client(member: &Member) -> Client {
    Client::builder([format!("http://{}", member.client)])
        .request_timeout(PATIENCE)
        .build()
        .expect("a client")
}

/// File descriptors of a process.
fn open_files(member: &Member) -> usize {
    let pid = member.pid().expect("it runs");
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

#[test]
fn a_low_limit_on_open_files_bounds_clients_and_neither_other_members_nor_disks() {
    const OPEN_FILES_MAX: usize = 160;
    let (_guard, folder) = scratch();
    let limited = ["sh", "-c", &format!("ulimit -n {OPEN_FILES_MAX}; exec \"$0\" \"$@\"")].map(str::to_owned);
    let homes: Vec<Home> = (0..3)
        .map(|number| {
            let home = Home::on_free_ports(folder.join(format!("data{number}")));
            Home { launcher: limited.to_vec(), ..home }
        })
        .collect();
    let mut cluster = Cluster::plan_at(binary(), &folder, &homes, &[]).expect("a plan");
    cluster.start_all().expect("three members");
    let runtime = runtime();
    let (kept, other) = (client(&cluster.members[0]), client(&cluster.members[1]));
    let mut watch = runtime
        .block_on(async {
            kept.put("earlier", "1").await?;
            kept.watch("through another", WatchOptions::new()).await
        })
        .expect("it serves");

    let full = &cluster.members[0];
    let connections: Vec<TcpStream> = (0..OPEN_FILES_MAX).filter_map(|_| idle(&full.client)).collect();
    assert!(!connections.is_empty() && connections.len() <= OPEN_FILES_MAX / 2, "{}", connections.len());
    assert!(!serves(full), "one more is closed");
    assert!(full.logged().contains("as many as allowed are open"), "{}", full.logged());

    runtime
        .block_on(async {
            other.put("through another", "2").await?;
            watch.next().await.expect("it goes on")?;
            kept.put("through the full one", "3").await
        })
        .expect("clients that were there before are served");

    // One member comes back, another one goes: the full one is needed for a majority, and reaches who came back.
    cluster.members[2].kill();
    cluster.members[2].start().expect("started");
    cluster.members[2].wait_ready().expect("ready");
    cluster.members[2].wait_healthy().expect("healthy");
    cluster.members[1].kill();
    wait_until("the full one writes with who came back", || {
        runtime.block_on(kept.put("of two", "4")).is_ok()
    })
    .expect("a majority");
    assert!(connections.iter().all(is_open), "those that were taken stay");

    drop(connections);
    wait_until("new clients are served again", || serves(&cluster.members[0])).expect("it recovers");
    cluster.members[1].start().expect("started");
    cluster.members[1].wait_ready().expect("ready");
    cluster.terminate().expect("a clean end");
}

#[test]
fn a_limit_on_open_files_that_is_too_low_to_start_ends_the_start_with_the_reason() {
    let (_guard, folder) = scratch();
    let (client, peer) =
        (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
    let data_dir = folder.join("data");
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 16; exec \"$0\" \"$@\""])
        .arg(binary())
        .args(["server", "--name", "m1", "--data-dir", data_dir.to_str().expect("a path in UTF-8")])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("m1={peer}")])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the member stops") && said.contains("Too many open files"), "{said}");
}

/// Lets this process open as many files as it may; how many that are.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
    limit.maximum.unwrap_or(u64::MAX)
}

#[test]
fn thousands_of_idle_connections_and_watches_are_carried_and_cleared_away() {
    const THREADS: usize = 8;
    const WATCHES: usize = 1500;
    /// Of a member, for each connection and watch.
    const KIB_EACH_MAX: u64 = 48;
    // A system that allows fewer open files gets fewer connections, never fewer than hundreds.
    let connections_max = usize::try_from(raise_open_files() / 4).unwrap_or(usize::MAX).min(5000);
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 1).expect("a member");
    let runtime = runtime();
    let client = client(&cluster.members[0]);
    runtime.block_on(client.put("key", "0")).expect("it serves");
    let files_before = open_files(&cluster.members[0]);
    let memory_before = cluster.members[0].process().memory_kib().expect("a size");

    let addr = cluster.members[0].client.clone();
    // All of a thread's are there before the first is looked after: more than the system's queue of the port holds.
    let burst = || {
        let begun: Option<Vec<_>> = (0..connections_max / THREADS).map(|_| begun(&addr)).collect();
        begun?.into_iter().map(settled).collect::<Option<Vec<_>>>()
    };
    let connections: Vec<TcpStream> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(burst)).collect();
        let each = threads.into_iter().map(|thread| thread.join().expect("it ends"));
        each.collect::<Option<Vec<_>>>().expect("none is closed").into_iter().flatten().collect()
    });
    let mut watches = runtime.block_on(async {
        let mut watches = Vec::new();
        for number in 0..WATCHES {
            watches
                .push(client.watch(format!("watched/{number}"), WatchOptions::new()).await.expect("a watch"));
        }
        watches
    });
    runtime.block_on(async {
        for number in (0..WATCHES).step_by(97) {
            let key = format!("watched/{number}");
            client.put(&key, "1").await.expect("it serves");
            let told = watches[number].next().await.expect("it goes on").expect("an event");
            assert_eq!(
                told.events.iter().map(|event| &event.kv.key[..]).collect::<Vec<_>>(),
                [key.as_bytes()]
            );
        }
    });
    let memory = cluster.members[0].process().memory_kib().expect("a size");
    let bound = memory_before + (connections.len() + WATCHES) as u64 * KIB_EACH_MAX;
    assert!(memory <= bound, "{memory_before} KiB became {memory} with {} connections", connections.len());
    assert!(connections.iter().all(is_open), "each is still there");

    drop((connections, watches));
    wait_until("what they took is free again", || open_files(&cluster.members[0]) <= files_before + 8)
        .expect("nothing stays open");
    runtime.block_on(client.put("key", "2")).expect("it serves");
    cluster.terminate().expect("a clean end");
}

#[test]
fn large_writes_without_end_hold_up_neither_small_ones_nor_memory() {
    const WRITERS: usize = 4;
    const WRITES_EACH: usize = 80;
    const VALUE_BYTES: usize = 512 << 10;
    /// What large writes may get done while one small write and read do.
    const LARGE_BYTES_BETWEEN_MAX: u64 = 64 << 20;
    /// Beyond what the member had before: two fronts, the log that is kept, what is in flight, and caches.
    const MEMORY_KIB_MAX: u64 = 192 << 10;
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 1).expect("a member");
    let member = &mut cluster.members[0];
    let memory_before = member.process().memory_kib().expect("a size");
    let checkpoints = |member: &Member| {
        member.metric("etcd_disk_backend_commit_duration_seconds_count").expect("a counter")
    };
    let checkpoints_before = checkpoints(member);

    let written = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let (mut most_between, mut memory_most, mut rounds) = (0, 0, 0u64);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (client, written) = (client(member), &written);
                scope.spawn(move || {
                    let value = vec![b'x'; VALUE_BYTES];
                    runtime().block_on(async {
                        for number in 0..WRITES_EACH {
                            let key = format!("large/{writer}/{}", number % 8);
                            // A member that can't keep up says so, and is asked again.
                            while let Err(error) = client.put(&key, &value).await {
                                assert!(error.to_string().contains("too many requests"), "{error}");
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            written.fetch_add(VALUE_BYTES as u64, Ordering::Relaxed);
                        }
                    });
                })
            })
            .collect();
        let is_over = &is_over;
        scope.spawn(move || {
            let ended: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            is_over.store(true, Ordering::Release);
            assert!(ended.iter().all(Result::is_ok), "a writer failed");
        });
        let (client, runtime) = (client(member), runtime());
        while !is_over.load(Ordering::Acquire) {
            let before = written.load(Ordering::Relaxed);
            let value = rounds.to_string();
            let read = runtime.block_on(async {
                while let Err(error) = client.put("small", &value).await {
                    assert!(error.to_string().contains("too many requests"), "{error}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                client.get("small").await.expect("reads go on")
            });
            assert_eq!(read.expect("it is there").value, value.as_bytes());
            most_between = most_between.max(written.load(Ordering::Relaxed) - before);
            memory_most = memory_most.max(member.process().memory_kib().expect("a size"));
            rounds += 1;
        }
    });
    let made = checkpoints(member) - checkpoints_before;
    eprintln!(
        "{rounds} small writes and reads, {made} checkpoints, at most {most_between} bytes between two, {memory_before} KiB \
         became {memory_most}"
    );
    assert!(made >= 3.0, "checkpoints came between: {made}");
    assert!(most_between <= LARGE_BYTES_BETWEEN_MAX, "{most_between} bytes while one small write waited");
    assert!(memory_most <= memory_before + MEMORY_KIB_MAX, "{memory_before} KiB became {memory_most}");
    cluster.terminate().expect("a clean end");
}
