//! `quorate migrate` from outside: a folder of etcd 0.4 goes on as a machine of ours; what is refused, and how.

#[path = "../../../migrate/tests/it/written.rs"]
#[allow(dead_code, reason = "the readers' own tests write more than these")]
mod written;

use std::path::Path;

use quorate_interop::{Machine, WAIT_MAX, http_send, wait_until};

use self::written::goraft_entry;
use super::{binary, quorate, scratch};

const NEVER: &str = "0001-01-01T00:00:00Z";

/// A machine of etcd 0.4, stopped after these commands.
fn write_etcd04(folder: &Path) {
    let set = |key: &str, value: &str, expires: &str| {
        (
            "etcd:set",
            format!("{{\"key\":{key:?},\"value\":{value:?},\"expireTime\":{expires:?},\"dir\":false}}\n"),
        )
    };
    let join = "{\"minVersion\":2,\"maxVersion\":2,\"name\":\"machine1\",\"raftURL\":\"http://127.0.0.1:7001\",\
                \"etcdURL\":\"http://127.0.0.1:4001\"}\n";
    let commands = [
        ("raft:nop", String::new()),
        ("etcd:join", join.to_owned()),
        set("/foo", "bar", NEVER),
        set("/dir/file", "in it", NEVER),
        set("/ends", "late", "2100-01-01T00:00:00Z"),
        set("/foo", "baz", NEVER),
    ];
    let log = commands.iter().zip(1..).map(|((name, json), index)| goraft_entry(index, 1, name, json));
    std::fs::create_dir_all(folder).expect("made");
    std::fs::write(folder.join("log"), log.collect::<Vec<_>>().concat()).expect("written");
    std::fs::write(folder.join("conf"), "{\"commitIndex\":2,\"peers\":[]}").expect("written");
}

/// What the command says, and whether it succeeded.
fn migrate(from: &Path, to: &Path, more: &[&str]) -> (bool, String) {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let arguments = [&["migrate", "--from", &from, "--data-dir", &to], more].concat();
    let output = quorate(&arguments, &[]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_machine_of_etcd_0_4_goes_on_with_its_keys_indexes_and_ttls_and_others_join_it() {
    let (_guard, folder) = scratch();
    let from = folder.join("etcd");
    write_etcd04(&from);
    let mut first = Machine::new(binary(), &folder, "machine1");
    let (done, said) = migrate(&from, &first.folder, &["--name", "machine1"]);
    assert!(done && said.contains("5 nodes") && said.contains("index 5"), "{said}");
    assert!(said.contains("quorate etcd2 -data-dir"), "it says how to go on: {said}");
    first.run(&[]).expect("ready");
    let (status, body) = first.get("/v2/keys/foo").expect("an answer");
    assert_eq!(status, 200);
    assert!(body.contains("\"value\":\"baz\",\"modifiedIndex\":5,\"createdIndex\":5"), "{body}");
    let (_, body) = first.get("/v2/keys/ends").expect("an answer");
    assert!(body.contains("\"expiration\":\"2100-01-01T00:00:00Z\""), "{body}");
    let (status, body) = first.get("/v2/keys/foo?wait=true&waitIndex=2").expect("an answer");
    assert_eq!(status, 400, "history starts anew: {body}");
    assert!(body.contains("\"errorCode\":401"), "{body}");
    wait_until("it is listed", || first.get("/v2/keys/_etcd/machines/machine1").is_ok_and(|(s, _)| s == 200))
        .expect("listed");
    let (status, body) = first.put("/foo", "after").expect("an answer");
    assert_eq!(status, 200);
    assert!(body.contains("\"modifiedIndex\":7") && body.contains("\"prevNode\""), "{body}");
    let mut second = Machine::new(binary(), &folder, "machine2");
    let peer = first.peer.clone();
    second.run(&["-peers", &peer]).expect("ready");
    wait_until("the second machine has all", || second.holds("/dir/file", "in it")).expect("replicated");
    // The etcd's own folder is as it was, and a second run is refused.
    let (done, said) = migrate(&from, &first.folder, &["--name", "machine1"]);
    assert!(!done && said.contains("holds something already"), "{said}");
    let (done, said) = migrate(&from, &folder.join("again"), &["--dry-run"]);
    assert!(done && said.contains("the log ends at entry 6 of term 1"), "{said}");
    assert!(!folder.join("again").exists());
}

#[test]
fn a_tree_becomes_keys_of_v3() {
    let (_guard, folder) = scratch();
    let from = folder.join("etcd");
    write_etcd04(&from);
    let to = folder.join("moved");
    let (done, said) =
        migrate(&from, &to, &["--to", "both", "--prefix", "v2", "--for", "server", "--name", "m1"]);
    assert!(done && said.contains("3 keys of v3"), "{said}");
    let mut command = std::process::Command::new(binary());
    let (client, peer) = (quorate_interop::free_port(), quorate_interop::free_port());
    let client = format!("127.0.0.1:{client}");
    command.env_clear().args(["server", "--enable-v2", "--name", "m1", "--data-dir"]).arg(&to);
    command.arg(format!("--listen-client-urls=http://{client}"));
    command.arg(format!("--advertise-client-urls=http://{client}"));
    command.arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"));
    let mut process = quorate_interop::Process::start(&mut command, &folder.join("log")).expect("started");
    process.wait_for_output("ready to serve client requests").expect("ready");
    let ctl = |arguments: &[&str]| {
        let output = quorate(&[&["ctl", "--endpoints", &client], arguments].concat(), &[]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(ctl(&["get", "v2/", "--prefix"]), "v2/dir/file\nin it\nv2/ends\nlate\nv2/foo\nbaz\n");
    assert!(ctl(&["lease", "list"]).contains("found 1 lease"), "what ends has a lease");
    let (status, body) = http_send(&client, "PUT", "/v2/keys/new", "value=x").expect("an answer");
    assert_eq!(status, 201);
    assert!(body.contains("\"modifiedIndex\":6"), "the tree is there, too: {body}");
    process.signal("TERM").expect("sent");
    process.wait(WAIT_MAX).expect("a stop in bounded time");
}

#[test]
fn what_can_not_be_moved_is_told_and_leaves_no_folder() {
    let (_guard, folder) = scratch();
    let (from, to) = (folder.join("etcd"), folder.join("to/be/made"));
    std::fs::create_dir(&from).expect("made");
    let (done, said) = migrate(&from, &to, &[]);
    assert!(!done && said.contains("holds no data of an etcd"), "{said}");
    write_etcd04(&from);
    let log = from.join("log");
    let whole = std::fs::read(&log).expect("read");
    let mut damaged = whole.clone();
    damaged[20] ^= 0xff;
    std::fs::write(&log, &damaged).expect("written");
    let (done, said) = migrate(&from, &to, &["--name", "m"]);
    assert!(!done && said.contains(&format!("{} is damaged at byte", log.display())), "{said}");
    std::fs::write(&log, &whole).expect("written");
    for (flags, expected) in [
        (&["--name", "a/b"][..], "the name \"a/b\" is not possible"),
        (&["--name", "m", "--peer-url", "h:1"], "the peer URL \"h:1\" is not usable"),
    ] {
        let (done, said) = migrate(&from, &to, flags);
        assert!(!done && said.contains(expected), "{said}");
    }
    // What an earlier migration left when it was stopped is made anew; what anybody else left is not touched.
    let beside = folder.join("to/be/made.migrating");
    std::fs::create_dir_all(&beside).expect("made");
    std::fs::write(beside.join("precious"), "x").expect("written");
    let (done, said) = migrate(&from, &to, &["--name", "m"]);
    assert!(!done && said.contains("no migration left it there"), "{said}");
    std::fs::write(beside.join("migrating"), "").expect("written");
    let (done, said) = migrate(&from, &to, &["--name", "m"]);
    assert!(done, "{said}");
    assert!(to.join("protocol").is_file() && !beside.exists() && !to.join("precious").exists());
}
