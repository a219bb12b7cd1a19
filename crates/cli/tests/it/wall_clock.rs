//! A member whose wall clock jumps: nothing that has a time to live ends early, or not at all, and the cluster goes on.
//!
//! A small library that each member has loaded before itself moves its wall clock, and no other, by as many seconds as a file
//! says. It is made by the C compiler that builds the rest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quorate::Client;
use quorate::client::PutOptions;
use quorate_interop::{Cluster, http_get, http_send};

use super::{binary, scratch};

const SOURCE: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *ahead = MAP_FAILED;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("SECONDS_AHEAD"), O_RDONLY);
    ahead = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && ahead != MAP_FAILED) now->tv_sec += *ahead;
    return failed;
}
"#;
const HOUR: i64 = 3600;
const TTL: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);

/// A wall clock that can be moved.
struct WallClock {
    file: PathBuf,
    variables: [(String, String); 2],
}

impl WallClock {
    fn new(library: &Path, file: PathBuf) -> Self {
        let variables = [("LD_PRELOAD", library), ("SECONDS_AHEAD", &file)]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()));
        let clock = Self { file, variables };
        std::fs::write(&clock.file, 0_i64.to_ne_bytes()).expect("written");
        clock
    }

    /// Moves it: it is that many seconds ahead of the machine's.
    fn set(&self, seconds: i64) {
        // In place: whoever has it mapped sees it at once.
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.file).expect("it is there");
        std::io::Write::write_all(&mut file, &seconds.to_ne_bytes()).expect("written");
        let seen =
            Command::new("date").arg("+%s").envs(self.variables.iter().cloned()).output().expect("date");
        let seen: i64 = String::from_utf8_lossy(&seen.stdout).trim().parse().expect("seconds");
        let really = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64;
        assert!((seen - really - seconds).abs() < HOUR / 2, "a process sees {seen}, it is {really}");
    }
}

fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE).expect("written");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output();
    let made = made.expect("a C compiler");
    assert!(made.status.success(), "{made:?}");
    library
}

/// Whether they are there still: the key with a lease, and that of the tree.
async fn there(client: &Client, leader: &str) -> [bool; 2] {
    let leased = client.get("leased").await.expect("it serves").is_some();
    let (status, body) = http_get(leader, "/v2/keys/timed?quorum=true").expect("an answer");
    assert!(status == 200 || status == 404, "{status} {body}");
    [leased, status == 200]
}

#[test]
fn nothing_ends_early_or_late_where_the_leaders_wall_clock_jumps_by_an_hour_and_back() {
    let (_guard, folder) = scratch();
    let library = library(&folder);
    let mut cluster = Cluster::plan(binary(), &folder, 3, &["--enable-v2"]).expect("a plan");
    let mut clocks = Vec::new();
    for member in &mut cluster.members {
        let clock = WallClock::new(&library, folder.join(format!("{}.clock", member.name)));
        member.environment.extend(clock.variables.iter().cloned());
        clocks.push(clock);
    }
    cluster.start_all().expect("three members");
    let moved = cluster.leader().expect("a leader");
    let leader = cluster.members[moved].client.clone();
    let client = Client::builder([format!("http://{leader}")]).request_timeout(PATIENCE).build();
    let client = client.expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // Once in each direction from the machine's time: ahead and back, then behind and back.
        for jump in [HOUR, -HOUR] {
            let begun = Instant::now();
            let lease = client.lease_grant(TTL.as_secs() as i64).await.expect("a lease").id;
            client.put_with("leased", "", PutOptions::new().lease(lease)).await.expect("a put");
            let form = format!("value=v&ttl={}", TTL.as_secs());
            let (status, body) = http_send(&leader, "PUT", "/v2/keys/timed", &form).expect("an answer");
            assert!(status == 200 || status == 201, "{status} {body}");
            let mut jumps = [(TTL / 6, jump), (TTL / 3, 0)].into_iter().peekable();
            let mut puts = 0;
            loop {
                if let Some((_, seconds)) = jumps.next_if(|(after, _)| begun.elapsed() >= *after) {
                    clocks[moved].set(seconds);
                }
                client.put("counted", puts.to_string()).await.expect("the cluster goes on");
                puts += 1;
                let there = there(&client, &leader).await;
                let elapsed = begun.elapsed();
                assert!(elapsed >= TTL || there == [true; 2], "{jump}: {there:?} after {elapsed:?}");
                if there == [false; 2] {
                    break;
                }
                assert!(elapsed < PATIENCE, "{jump}: {there:?} after {elapsed:?}");
            }
            assert!(jumps.peek().is_none(), "both jumps came while they lived");
        }
    });
    cluster.terminate().expect("all stop");
}
