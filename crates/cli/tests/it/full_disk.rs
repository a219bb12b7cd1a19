//! Three members, each on a small disk of its own: filled up, killed while full, started again, emptied.
//!
//! The disks are file systems in memory. They need a mount namespace of our own, in which the test starts itself again; with
//! it they go, whatever becomes of the test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quorate::Client;
use quorate::client::{Error, ErrorKind, Keys};
use quorate_interop::{Cluster, Home};

use super::{binary, scratch};

/// Names the folder in which the test that was started again works.
const INSIDE: &str = "QUORATE_TEST_SMALL_DISKS";
const TEST: &str = "full_disk::members_that_were_killed_with_full_disks_are_emptied_and_take_puts_again";
const DISK: &str = "size=192m";
const PATIENCE: Duration = Duration::from_secs(120);
const LARGE_BYTES: usize = 1 << 20;

/// A command in a mount namespace of its own, where that is allowed.
fn unshared() -> Option<Command> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let allowed = |way: &&&[&str]| {
        let trial =
            Command::new("unshare").args(**way).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
        trial.is_ok_and(|output| output.status.success())
    };
    ways.iter().find(allowed).map(|way| {
        let mut command = Command::new("unshare");
        command.args(*way);
        command
    })
}

#[test]
fn members_that_were_killed_with_full_disks_are_emptied_and_take_puts_again() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        on_small_disks(Path::new(&folder));
        return;
    }
    let Some(mut command) = unshared() else {
        let why = "skipped: full disks need 'unshare --mount' and 'mount', as root or with user namespaces";
        // Past what the test runner captures.
        writeln!(std::io::stderr(), "{why}").expect("said");
        return;
    };
    let (_guard, folder) = scratch();
    let itself = std::env::current_exe().expect("a path");
    let output = command.arg(itself).args(["--exact", TEST, "--nocapture"]).env(INSIDE, &folder).output();
    let output = output.expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{output:?}");
}

fn disk(folder: &Path, name: &str) -> PathBuf {
    let at = folder.join(name);
    std::fs::create_dir(&at).expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "none"]).arg(&at).output();
    let mounted = mounted.expect("mount runs");
    assert!(mounted.status.success(), "{mounted:?}");
    at
}

fn on_small_disks(folder: &Path) {
    let homes = ["disk1", "disk2", "disk3"].map(|name| Home::on_free_ports(disk(folder, name).join("data")));
    let mut cluster = Cluster::plan_at(binary(), folder, &homes, &[]).expect("a plan");
    cluster.start_all().expect("three members");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kept = runtime.block_on(fill(&client(&cluster.endpoints()), 0));
    cluster.members.iter_mut().for_each(quorate_interop::Member::kill);
    cluster.start_all().expect("a full disk keeps no member from starting");
    runtime.block_on(async {
        let all = client(&cluster.endpoints());
        // What a start writes out lets the log go, which may be some space.
        let kept = fill(&all, kept).await;
        let deleted = eventually("a delete", async || all.delete(Keys::prefix("large/")).await).await;
        let revision = deleted.header.expect("a header").revision;
        eventually("a compaction", async || all.compact(revision, false).await).await;
        eventually("puts are taken again", async || all.put("late", "").await).await;
        for member in &cluster.members {
            let one = client(&member.client);
            for number in 0..kept {
                let value = one.get(format!("small/{number}")).await.expect("it serves");
                let value = value.unwrap_or_else(|| panic!("{} lost small/{number}", member.name)).value;
                assert_eq!(value, number.to_string().as_bytes());
            }
        }
    });
    cluster.terminate().expect("all stop");
}

/// Puts until there is no space, numbered from `first` on; the number that was refused.
async fn fill(client: &Client, first: usize) -> usize {
    let large = vec![b'x'; LARGE_BYTES];
    for number in first.. {
        let small = client.put(format!("small/{number}"), number.to_string()).await.map(drop);
        if is_full(&small) {
            return number;
        }
        small.expect("a put");
        let put = client.put(format!("large/{number}"), &large).await.map(drop);
        assert!(put.is_ok() || is_full(&put), "{put:?}");
    }
    unreachable!("the disks are small")
}

fn is_full(answer: &Result<(), Error>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace)
}

/// Asks again, as long as the answer is that there is no leader, or no space.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn client(endpoints: &str) -> Client {
    let endpoints = endpoints.split(',').map(|endpoint| format!("http://{endpoint}"));
    Client::builder(endpoints).request_timeout(PATIENCE).build().expect("a client")
}
