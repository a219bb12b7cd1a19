//! What a member takes of its host's process.

use std::collections::BTreeMap;
use std::process::Command;

use quorate::client::WatchOptions;
use quorate::{Config, Server};
use quorate_interop::wait_until;

/// Set in the process that is the host.
const HOST: &str = "QUORATE_TEST_HOST";
const NAME: &str = "threads::a_member_takes_few_threads_that_bear_its_name_and_gives_them_back";
/// Besides one for each core.
const THREADS_MAX: usize = 12;

/// The threads of this process, by their ids.
fn threads() -> BTreeMap<String, String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
    let named = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), name.trim_end().to_owned()))
    });
    named.collect()
}

#[test]
fn a_member_takes_few_threads_that_bear_its_name_and_gives_them_back() {
    if std::env::var_os(HOST).is_none() {
        // A process of its own: other tests have members in this one.
        let mut host = Command::new(std::env::current_exe().expect("this program"));
        let output = host.args(["--exact", NAME, "--nocapture"]).env(HOST, "1").output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let before = threads();
    let taken = || {
        let mut now = threads();
        now.retain(|id, _| !before.contains_key(id));
        now
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let config = Config::new("guest")
            .memory_only()
            .listen_client_urls(["http://127.0.0.1:0"])
            .listen_peer_urls(["http://127.0.0.1:0"]);
        let server = Server::start(config).expect("a member");
        server.ready().await.expect("ready");
        let mut watches = Vec::new();
        for number in 0..50 {
            let client = server.client();
            watches.push(client.watch(format!("k/{number}"), WatchOptions::new()).await.expect("a watch"));
            client.put(format!("k/{number}"), "v").await.expect("put");
        }
        let working = taken();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(working.len() <= THREADS_MAX + cores, "{working:?}");
        assert!(working.values().all(|name| name.starts_with("quorate-")), "{working:?}");
        server.shutdown().await;
    });
    wait_until("its threads have ended", || taken().is_empty()).expect("nothing of it goes on");
}
