//! The example daemon: three replicas in one process, then as processes that are killed.

#[path = "../../examples/payment_channels.rs"]
mod example;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use quorate_interop::{Process, free_port, wait_until};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

#[test]
fn three_replicas_in_one_process_do_what_the_example_says() {
    let folder = folder();
    example::in_one_process(folder.path()).expect("it runs to its end");
}

/// Set in processes of the example: the words that it is called with.
const WORDS: &str = "PAYMENT_CHANNELS_WORDS";
/// The test that is the example where [`WORDS`] are set.
const PLAYS_IT: &str = "payment_channels::a_killed_process_keeps_neither_the_channel_nor_the_storage";

/// The example as a process: this program again, so that nothing else needs to have been built.
fn replica(configuration: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", PLAYS_IT, "--nocapture"]);
    let configuration = configuration.to_str().expect("a path in UTF-8");
    command.env(WORDS, [&["--config", configuration], words].concat().join("\n"));
    command
}

/// The configuration of one replica, in a file of its own.
fn configuration(folder: &Path, name: &str, endpoints: &[String], server: &str) -> PathBuf {
    let path = folder.join(format!("{name}.json"));
    let text = format!(
        r#"{{
            "payment_channel_storage_client": {{"request_timeout": "20s", "endpoints": {endpoints:?}}},
            "payment_channel_storage_server": {server}
        }}"#
    );
    std::fs::write(&path, text).expect("written");
    path
}

/// Runs a replica to its end; what it printed.
fn run(configuration: &Path, words: &[&str]) -> String {
    let output = replica(configuration, words).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A replica that serves until its standard input closes.
fn serve(configuration: &Path) -> Child {
    replica(configuration, &["serve"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts")
}

#[test]
fn a_killed_process_keeps_neither_the_channel_nor_the_storage() {
    if let Ok(words) = std::env::var(WORDS) {
        let words: Vec<&str> = words.split('\n').collect();
        return example::as_a_process(&words).expect("it runs to its end");
    }
    let folder = folder();
    let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
    let endpoints: Vec<String> = ports.iter().map(|(client, _)| format!("127.0.0.1:{client}")).collect();
    let founders: Vec<String> =
        ports.iter().enumerate().map(|(number, (_, peer))| format!("s{number}=127.0.0.1:{peer}")).collect();
    let mut servers: Vec<Child> = ports
        .iter()
        .enumerate()
        .map(|(number, (client, peer))| {
            let data_dir = folder.path().join(format!("data-{number}"));
            let server = format!(
                r#"{{"id": "s{number}", "client_port": {client}, "peer_port": {peer}, "log_level": "error",
                     "cluster": "{}", "data_dir": {data_dir:?}}}"#,
                founders.join(",")
            );
            serve(&configuration(folder.path(), &format!("s{number}"), &endpoints, &server))
        })
        .collect();
    let client = configuration(folder.path(), "client", &endpoints, r#"{"enabled": false}"#);
    wait_until("the replicas serve", || {
        let shown = replica(&client, &["pay", "42", "1"]).output();
        shown.is_ok_and(|output| output.status.success())
    })
    .expect("they serve");
    // One holds the channel and is killed; one member is killed with it.
    let mut holder =
        Process::start(&mut replica(&client, &["hold", "42"]), &folder.path().join("holder.log"))
            .expect("it starts");
    holder.wait_for_output("holding").expect("it holds");
    holder.kill();
    let mut killed = servers.remove(0);
    killed.kill().expect("killed");
    killed.wait().expect("it ended");
    assert!(run(&client, &["pay", "42", "2"]).contains("Committed"), "the channel freed itself");
    assert!(run(&client, &["pay", "42", "98"]).contains("Aborted(NotEnough { left: 97 })"));
    let shown = run(&client, &["show", "42"]);
    assert!(shown.contains("Channel { nonce: 0, deposited: 100, spent: 3 }\n"), "{shown}");
    for mut server in servers {
        drop(server.stdin.take());
        assert!(server.wait().expect("it ended").success());
    }
}
