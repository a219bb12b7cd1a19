//! `quorate ctl` and `quorate cluster` against real members.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use quorate_interop::{Cluster, Process, wait_until};

use super::{binary, quorate, scratch};

const STOP_MAX: Duration = Duration::from_secs(30);

/// A cluster, and how commands reach it.
struct Rig {
    cluster: Cluster,
    folder: PathBuf,
    _guard: tempfile::TempDir,
}

impl Rig {
    fn start(size: usize, flags: &[&str]) -> Self {
        let (guard, folder) = scratch();
        let mut cluster = Cluster::plan(binary(), &folder, size, flags).expect("a plan");
        cluster.start_all().expect("members");
        Self { cluster, folder, _guard: guard }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("QUORATE_ENDPOINTS", self.cluster.endpoints());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// What a command prints that succeeds.
    fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["ctl"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What a command says that fails, with status 1 and nothing on standard output.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["ctl"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// A command with something to read.
    fn fed(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(&[&["ctl"], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    }

    /// A command that goes on; its output is in a file of this name.
    fn running(&self, name: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(&[&["ctl"], arguments].concat());
        Process::start(&mut command, &self.folder.join(name)).expect("started")
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn keys_are_written_read_and_deleted_with_etcdctls_lines() {
    let rig = Rig::start(1, &[]);
    assert_eq!(rig.ctl(&["put", "a", "1"]), "OK\n");
    assert_eq!(rig.ctl(&["put", "a", "2", "--prev-kv"]), "OK\na\n1\n");
    assert_eq!(rig.ctl(&["put", "b", "--", "-3"]), "OK\n");
    assert!(rig.fed(&["put", "c"], "line 1\nline 2").status.success());
    assert_eq!(rig.ctl(&["get", "c"]), "c\nline 1\nline 2\n");
    assert_eq!(rig.ctl(&["get", "a", "c"]), "a\n2\nb\n-3\n");
    assert_eq!(rig.ctl(&["get", "b", "--from-key", "--keys-only"]), "b\n\nc\n\n");
    assert_eq!(rig.ctl(&["get", "", "--prefix", "--count-only"]), "3\n");
    assert_eq!(rig.ctl(&["get", "a", "--print-value-only", "--rev", "2"]), "1\n");
    assert_eq!(
        rig.ctl(&["get", "", "--prefix", "--sort-by=modify", "--order=descend", "--limit=1", "--keys-only"]),
        "c\n\n"
    );
    assert_eq!(rig.ctl(&["get", "a", "--hex", "--consistency=s"]), "\\x61\n\\x32\n");
    assert_eq!(rig.ctl(&["get", "nothing"]), "");
    let found = json(&rig.ctl(&["get", "a", "-w", "json"]));
    assert_eq!((&found["kvs"][0]["value"], &found["count"]), (&"Mg==".into(), &1.into()));
    let table = rig.ctl(&["get", "a", "--write-out=table"]);
    assert!(table.contains("| a   | 2     | 2          | 3          | 2       |       |"), "{table}");
    assert_eq!(rig.ctl(&["del", "a", "--prev-kv"]), "1\na\n2\n");
    assert_eq!(rig.ctl(&["del", "", "--prefix"]), "2\n");
    assert_eq!(rig.ctl(&["compaction", "4", "--physical"]), "compacted revision 4\n");
    assert!(rig.fails(&["get", "a", "--rev", "3"]).contains("required revision has been compacted"));
    assert!(rig.fails(&["put", "", "x"]).contains("key is not provided"));
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_happens() {
    let rig = Rig::start(1, &[]);
    assert!(rig.fails(&["put", "a", "1", "--output", "table"]).contains("this command prints no table"));
    assert!(rig.fails(&["get", "a", "--hex", "-w", "json"]).contains("--hex is for --output simple"));
    assert!(rig.fails(&["put", "a", "1", "--cert", "x.pem"]).contains("--cert needs --key"));
    assert!(rig.fails(&["put", "a", "1", "--endpoints", "h:x"]).contains("is no endpoint"));
    assert!(rig.fails(&["put", "a", "1", "--endpoints", "https://127.0.0.1:1"]).contains("needs a CA file"));
    assert_eq!(rig.ctl(&["get", "a"]), "");
    for arguments in
        [&["ctl"][..], &["ctl", "fly"], &["ctl", "put"], &["ctl", "get", "a", "--fast"], &["cluster"]]
    {
        let output = rig.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: quorate"), "{output:?}");
    }
    let unheard = rig.fails(&["get", "a", "--endpoints", "127.0.0.1:1", "--command-timeout", "200ms"]);
    assert!(unheard.contains("127.0.0.1:1: cannot connect"), "{unheard}");
    let user = rig.command(&["ctl", "get", "a"]).env("ETCDCTL_USER", "root:x").output().expect("it runs");
    assert!(String::from_utf8_lossy(&user.stderr).contains("not supported yet"), "{user:?}");
}

#[test]
fn etcdctls_variables_count_and_ours_win() {
    let rig = Rig::start(1, &[]);
    rig.ctl(&["put", "a", "1"]);
    let mut command = rig.command(&["ctl", "get", "a"]);
    command.env_remove("QUORATE_ENDPOINTS").env("ETCDCTL_ENDPOINTS", rig.cluster.endpoints());
    let output = command.env("ETCDCTL_WRITE_OUT", "json").output().expect("it runs");
    assert_eq!(json(&String::from_utf8_lossy(&output.stdout))["kvs"][0]["value"], "MQ==");
    let output = command.env("QUORATE_OUTPUT", "simple").output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n1\n");
    let output = command.env("QUORATE_OUTPUT", "xml").output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("QUORATE_OUTPUT=xml"), "{output:?}");
}

#[test]
fn a_transaction_is_read_from_standard_input() {
    let rig = Rig::start(1, &[]);
    rig.ctl(&["put", "a", "1"]);
    let text = "value(\"a\") = \"1\"\nversion(\"z\") = \"0\"\n\nput b \"two words\"\nget a\n\ndel a\n\n";
    let output = rig.fed(&["txn"], text);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "SUCCESS\n\nOK\n\na\n1\n", "{output:?}");
    let output = rig.fed(&["txn", "-w", "json"], "mod(\"b\") > \"100\"\n\nget a\n\nget b\ndel b\n");
    let answer = json(&String::from_utf8_lossy(&output.stdout));
    let response = |number: usize| &answer["responses"][number]["Response"];
    assert_eq!(response(0)["ResponseRange"]["kvs"][0]["value"], "dHdvIHdvcmRz", "{answer}");
    assert_eq!(response(1)["ResponseDeleteRange"]["deleted"], 1, "{answer}");
    assert!(answer.get("succeeded").is_none(), "{answer}");
    let output = rig.fed(&["txn"], "mod(\"b\") > \"x\"\n\nget a\n\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 1: mod(\"b\") > \"x\""), "{output:?}");
}

#[test]
fn leases_are_granted_kept_alive_and_ended() {
    let rig = Rig::start(1, &[]);
    let granted = rig.ctl(&["lease", "grant", "100"]);
    let id = granted.split(' ').nth(1).expect("an id").to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    rig.ctl(&["put", "k", "v", "--lease", &id]);
    let left = rig.ctl(&["lease", "timetolive", &id, "--keys"]);
    assert!(left.starts_with(&format!("lease {id} granted with TTL(100s), remaining(")), "{left}");
    assert!(left.ends_with("attached keys([k])\n"), "{left}");
    let left = json(&rig.ctl(&["lease", "timetolive", &id, "--keys", "-w", "json"]));
    assert_eq!((&left["granted-ttl"], &left["keys"][0]), (&100.into(), &"aw==".into()));
    // The header's fields stand among the others, as etcdctl shows them.
    let names = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect();
    let mut named: Vec<String> = names(&left);
    named.sort();
    let header = ["cluster_id", "member_id", "raft_term", "revision"];
    assert_eq!(
        named,
        ["cluster_id", "granted-ttl", "id", "keys", "member_id", "raft_term", "revision", "ttl"]
    );
    for arguments in [
        &["lease", "timetolive", "1234"][..],
        &["lease", "list"],
        &["lease", "keep-alive", &id, "--once"],
        &["lease", "grant", "50"],
    ] {
        let answer = json(&rig.ctl(&[arguments, &["-w", "json"]].concat()));
        assert!(header.iter().all(|name| answer[*name].as_u64() > Some(0)), "{arguments:?}: {answer}");
    }
    let left = json(&rig.ctl(&["lease", "timetolive", "1234", "-w", "json"]));
    assert_eq!((&left["id"], &left["ttl"], &left["keys"]), (&0x1234.into(), &(-1).into(), &json("null")));
    let listed = rig.ctl(&["lease", "list"]);
    let other = listed.lines().find(|line| !line.contains(' ') && *line != id).expect("the other lease");
    rig.ctl(&["lease", "revoke", other]);
    assert_eq!(rig.ctl(&["lease", "list"]), format!("found 1 leases\n{id}\n"));
    let once = rig.ctl(&["lease", "keep-alive", &id, "--once"]);
    assert_eq!(once, format!("lease {id} keepalived with TTL(100)\n"));
    assert_eq!(rig.ctl(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(rig.ctl(&["get", "k"]), "");
    assert_eq!(rig.ctl(&["lease", "timetolive", &id]), format!("lease {id} already expired\n"));
    assert!(rig.fails(&["lease", "revoke", &id]).contains("requested lease not found"));
    // As etcdctl: the end of a lease is the end of the command; where one renewal is asked for, it is a failure.
    let gone = format!("lease {id} expired or revoked.\n");
    let kept = rig.ctl(&["lease", "grant", "10"]).split(' ').nth(1).expect("an id").to_owned();
    let mut keeper = rig.running("keeper", &["lease", "keep-alive", &kept]);
    keeper.wait_for_output("keepalived with TTL(10)").expect("it says so");
    rig.ctl(&["lease", "revoke", &kept]);
    assert_eq!(keeper.wait(STOP_MAX).expect("it ends").code(), Some(0));
    let told = keeper.output();
    assert!(told.ends_with(&format!("lease {kept} expired or revoked.\n")), "{told}");
    assert_eq!(rig.ctl(&["lease", "keep-alive", &id]), gone);
    assert_eq!(rig.ctl(&["lease", "keep-alive", &id, "-w", "json"]), "");
    assert!(rig.fails(&["lease", "keep-alive", "--once", &id]).contains("requested lease not found"));
    // One that nobody revokes.
    let short = rig.ctl(&["lease", "grant", "1"]).split(' ').nth(1).expect("an id").to_owned();
    wait_until("the lease is over", || rig.ctl(&["lease", "timetolive", &short]).contains("already expired"))
        .expect("it ends");
    assert!(rig.fails(&["lease", "keep-alive", "--once", &short]).contains("requested lease not found"));
}

#[test]
fn a_lock_is_held_while_its_command_runs() {
    let rig = Rig::start(1, &[]);
    let output = rig.run(&["ctl", "lock", "l", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.starts_with("l/") && told.trim().ends_with(" 2"), "{told}");
    let mut holder = rig.running("holder", &["lock", "l"]);
    holder.wait_for_output("l/").expect("it holds");
    let mut waiting = rig.running("waiting", &["lock", "l", "echo", "my turn"]);
    wait_until("the second is in the queue", || rig.ctl(&["get", "l/", "--prefix", "--count-only"]) == "2\n")
        .expect("it queues");
    assert!(!waiting.output().contains("my turn"));
    holder.signal("INT").expect("sent");
    assert_eq!(holder.wait(STOP_MAX).expect("it ends").code(), Some(0));
    assert_eq!(waiting.wait(STOP_MAX).expect("it ends").code(), Some(0));
    assert!(waiting.output().contains("my turn"), "{}", waiting.output());
    assert_eq!(rig.ctl(&["get", "l/", "--prefix", "--count-only"]), "0\n", "nothing is left behind");
    assert_eq!(rig.ctl(&["lease", "list"]), "found 0 leases\n");
}

#[test]
fn locks_are_listed_and_taken_away() {
    const NAME: &str = "net//{ID: 42}";
    let rig = Rig::start(1, &[]);
    assert_eq!(rig.ctl(&["lock", "ls"]), "");
    let mut holder = rig.running("holder", &["lock", NAME]);
    holder.wait_for_output("net//").expect("it holds");
    let listed = rig.ctl(&["lock", "ls", "net/"]);
    assert!(listed.starts_with("net//{ID: 42}, , ") && listed.ends_with(", 0\n"), "{listed}");
    assert_eq!(json(&rig.ctl(&["lock", "ls", "-w", "json"]))["locks"][0]["waiting"], 0);
    assert!(rig.ctl(&["lock", "ls", "-w", "table"]).contains("| SECONDS LEFT |"));
    assert_eq!(rig.ctl(&["lock", "ls", "other/"]), "");
    let mut waiting = rig.running("waiting", &["lock", NAME, "echo", "my turn"]);
    wait_until("the second waits", || rig.ctl(&["lock", "ls"]).ends_with(", 1\n")).expect("it queues");
    assert!(rig.fails(&["lock", "unlock", NAME, "--lease", "1"]).contains("nothing was done"));
    let taken = rig.ctl(&["lock", "unlock", NAME]);
    assert!(taken.starts_with("lock net//{ID: 42} taken from lease "), "{taken}");
    assert_eq!(waiting.wait(STOP_MAX).expect("it ends").code(), Some(0));
    assert!(waiting.output().contains("my turn"), "{}", waiting.output());
    assert!(rig.fails(&["lock", "unlock", NAME]).contains("nobody holds the lock"));
    assert_eq!(holder.wait(STOP_MAX).expect("it is told").code(), Some(1));
    let told = holder.output();
    assert!(told.contains("the lock was lost: it was taken away by force"), "{told}");
}

#[test]
fn a_signal_to_end_reaches_the_command_under_the_lock_and_so_does_the_loss_of_the_lock() {
    const LONG: &str = "trap 'echo told; exit 7' TERM; echo runs; while true; do sleep 0.05; done";
    let rig = Rig::start(1, &[]);
    let mut locked = rig.running("signalled", &["lock", "l", "sh", "-c", LONG]);
    locked.wait_for_output("runs").expect("it runs");
    locked.signal("TERM").expect("sent");
    assert_eq!(locked.wait(STOP_MAX).expect("it ends").code(), Some(7));
    assert!(locked.output().contains("told"), "{}", locked.output());
    let mut locked = rig.running("lost", &["lock", "l", "--ttl", "3", "sh", "-c", LONG]);
    locked.wait_for_output("runs").expect("it runs");
    let leases = rig.ctl(&["lease", "list"]);
    rig.ctl(&["lease", "revoke", leases.lines().nth(1).expect("a lease")]);
    assert_eq!(locked.wait(STOP_MAX).expect("it ends").code(), Some(1));
    let told = locked.output();
    assert!(told.contains("the lock was lost while sh ran (the lease expired or was revoked)"), "{told}");
    let mut locked = rig.running("taken", &["lock", "l", "sh", "-c", LONG]);
    locked.wait_for_output("runs").expect("it runs");
    rig.ctl(&["lock", "unlock", "l"]);
    assert_eq!(locked.wait(STOP_MAX).expect("it ends").code(), Some(1));
    let told = locked.output();
    assert!(told.contains("the lock was lost while sh ran (it was taken away by force)"), "{told}");
}

#[test]
fn one_of_two_candidates_leads_and_listeners_are_told() {
    let rig = Rig::start(1, &[]);
    let mut listener = rig.running("listener", &["elect", "e", "--listen"]);
    let mut first = rig.running("first", &["elect", "e", "first value"]);
    first.wait_for_output("first value").expect("elected");
    listener.wait_for_output("first value").expect("told");
    let mut second = rig.running("second", &["elect", "e", "second value"]);
    wait_until("both stand", || rig.ctl(&["get", "e/", "--prefix", "--count-only"]) == "2\n")
        .expect("they do");
    assert!(!second.output().contains("second value"));
    first.signal("INT").expect("sent");
    assert_eq!(first.wait(STOP_MAX).expect("it resigns").code(), Some(0));
    second.wait_for_output("second value").expect("elected");
    listener.wait_for_output("second value").expect("told");
}

#[test]
fn members_are_added_changed_and_removed() {
    let rig = Rig::start(1, &[]);
    let added = rig.ctl(&["member", "add", "m2", "--peer-urls=http://127.0.0.1:1", "--learner"]);
    let id = added.split(' ').nth(1).expect("an id").to_owned();
    assert!(added.contains("\nETCD_NAME=\"m2\"\n"), "{added}");
    assert!(added.contains("m2=http://127.0.0.1:1") && added.contains("m1=http://"), "{added}");
    assert!(added.ends_with("ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"), "{added}");
    let list = rig.ctl(&["member", "list"]);
    assert!(list.contains(&format!("{id}, unstarted, , http://127.0.0.1:1, , true\n")), "{list}");
    let listed = json(&rig.ctl(&["member", "list", "-w", "json"]));
    assert_eq!(listed["members"].as_array().map(Vec::len), Some(2), "{listed}");
    assert!(rig.fails(&["member", "promote", &id]).contains("in sync with leader"));
    let updated = rig.ctl(&["member", "update", &id, "--peer-urls=http://127.0.0.1:2"]);
    assert!(updated.starts_with(&format!("Member {id} updated in cluster ")), "{updated}");
    let info = String::from_utf8(rig.run(&["cluster", "info"]).stdout).expect("UTF-8");
    assert!(info.contains("not started"), "{info}");
    let removed = rig.ctl(&["member", "remove", &id]);
    assert!(removed.starts_with(&format!("Member {id} removed from cluster ")), "{removed}");
    assert!(rig.fails(&["member", "remove", &id]).contains("member not found"));
    assert_eq!(rig.run(&["ctl", "member", "remove", "m2"]).status.code(), Some(2));
}

/// The row of a member in the table of `cluster info`.
fn row(rig: &Rig, name: &str) -> String {
    let output = rig.run(&["cluster", "info"]);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let row = table.lines().find(|line| line.starts_with(&format!("| {name} "))).expect("a row");
    row.to_owned()
}

#[test]
fn a_cluster_is_shown_and_goes_on_when_its_leader_dies() {
    let mut rig = Rig::start(3, &[]);
    let leader = rig.cluster.leader().expect("a leader");
    let other = (leader + 1) % 3;
    let names: Vec<String> = rig.cluster.members.iter().map(|member| member.name.clone()).collect();
    let output = rig.run(&["cluster", "info"]);
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let head: Vec<&str> =
        table.lines().nth(1).expect("a head").split_whitespace().filter(|word| *word != "|").collect();
    assert_eq!(head, ["NAME", "HOST", "CLIENTPORT", "PEERPORT", "STATE", "LEADER"]);
    let port = rig.cluster.members[leader].client.split(':').next_back().expect("a port").to_owned();
    let leading = row(&rig, &names[leader]);
    assert!(leading.contains("127.0.0.1") && leading.contains(&port), "{leading}");
    assert!(leading.contains("serving") && leading.contains("True"), "{leading}");
    assert!(row(&rig, &names[other]).contains("False"));

    let status = json(&rig.ctl(&["endpoint", "status", "--cluster", "-w", "json"]));
    assert_eq!(status.as_array().map(Vec::len), Some(3), "{status}");
    let health = rig.ctl(&["endpoint", "health"]);
    assert_eq!(health.matches("is healthy: successfully committed proposal: took = ").count(), 3, "{health}");
    let hashes = json(&rig.ctl(&["endpoint", "hashkv", "-w", "json"]));
    assert_eq!(hashes[0]["HashKV"]["hash"], hashes[2]["HashKV"]["hash"], "{hashes}");

    let info = json(&String::from_utf8(rig.run(&["cluster", "info", "-w", "json"]).stdout).expect("UTF-8"));
    let id = |number: usize| info["members"][number]["id"].as_str().expect("an id").to_owned();
    let moved = rig.ctl(&["move-leader", &id(other)]);
    assert_eq!(moved, format!("Leadership transferred from {} to {}\n", id(leader), id(other)));
    assert!(row(&rig, &names[other]).contains("True"));

    let mut watch = rig.running("watch", &["watch", "k", "--prefix"]);
    let mut puts = 0;
    wait_until("the watch stands", || {
        puts += 1;
        rig.ctl(&["put", &format!("k{puts}"), "before"]);
        watch.output().contains("before")
    })
    .expect("it does");
    rig.cluster.members[other].kill();
    rig.ctl(&["put", "k", "after", "--command-timeout", "60s"]);
    watch.wait_for_output("after").expect("the watch goes on");
    wait_until("the next leader is shown", || {
        names.iter().enumerate().any(|(number, name)| number != other && row(&rig, name).contains("True"))
    })
    .expect("it is");
    assert!(row(&rig, &names[other]).contains("no answer"));
    let output = rig.run(&["ctl", "endpoint", "health", "--command-timeout", "2s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let unhealthy =
        format!("{} is unhealthy: failed to commit proposal: ", rig.cluster.members[other].client);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&unhealthy), "{output:?}");
}

#[test]
fn a_watch_runs_a_command_for_each_event() {
    let rig = Rig::start(1, &[]);
    rig.ctl(&["put", "a", "1"]);
    rig.ctl(&["del", "a"]);
    let script = "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
    let mut watch =
        rig.running("watch", &["watch", "a", "--rev", "1", "--prev-kv", "--", "sh", "-c", script]);
    watch.wait_for_output("\"DELETE\" \"a\" \"\"").expect("it runs");
    let expected = "PUT\na\n1\n\"PUT\" \"a\" \"1\"\nDELETE\na\n1\na\n\n\"DELETE\" \"a\" \"\"\n";
    assert_eq!(watch.output(), expected);
    rig.ctl(&["compaction", "3"]);
    assert!(rig.fails(&["watch", "a", "--rev", "1"]).contains("compacted"));
}

#[test]
fn an_alarm_is_listed_and_disarmed() {
    let rig = Rig::start(1, &["--quota-backend-bytes", "300000"]);
    assert_eq!(rig.ctl(&["alarm", "list"]), "");
    let value = "x".repeat(50_000);
    wait_until("the quota is used up", || {
        let output = rig.run(&["ctl", "put", "k", &value]);
        String::from_utf8_lossy(&output.stderr).contains("database space exceeded")
    })
    .expect("it is");
    // The refusal may come before the alarm that it raises.
    let mut alarms = String::new();
    wait_until("the alarm is raised", || {
        alarms = rig.ctl(&["alarm", "list"]);
        !alarms.is_empty()
    })
    .expect("it is");
    assert!(alarms.starts_with("memberID:") && alarms.ends_with(" alarm:NOSPACE\n"), "{alarms}");
    let output = rig.run(&["ctl", "endpoint", "health"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Active Alarm(s): NOSPACE"), "{output:?}");
    assert_eq!(json(&rig.ctl(&["alarm", "disarm", "-w", "json"]))["alarms"][0]["alarm"], 1);
    assert_eq!(rig.ctl(&["alarm", "list"]), "");
    let defragmented = rig.ctl(&["defrag"]);
    assert!(defragmented.starts_with("Finished defragmenting etcd member["), "{defragmented}");
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let rig = Rig::start(1, &[]);
    rig.ctl(&["put", "k", &"line\n".repeat(20_000)]);
    let script = format!("{} ctl get k | head -n 1", binary().display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("QUORATE_ENDPOINTS", rig.cluster.endpoints());
    let output = command.output().expect("a shell");
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"k\n"[..], &b""[..]));
}

#[test]
fn completions_and_pages_come_for_every_command() {
    let script = quorate(&["completions", "bash"], &[]);
    assert!(script.status.success(), "{script:?}");
    let (_guard, folder) = scratch();
    let file = folder.join("quorate.bash");
    std::fs::write(&file, &script.stdout).expect("written");
    let check = format!(
        ". {}; COMP_WORDS=(quorate ctl le); COMP_CWORD=2; _quorate quorate le ctl; echo ${{COMPREPLY[@]}}",
        file.display()
    );
    let output = Command::new("bash").args(["-c", &check]).output().expect("bash is there");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "lease\n", "{output:?}");
    for shell in ["zsh", "fish"] {
        assert!(
            quorate(&["completions", shell], &[]).stdout.starts_with(b"#compdef quorate") == (shell == "zsh")
        );
    }
    assert_eq!(quorate(&["completions", "tcsh"], &[]).status.code(), Some(2));
    let pages = folder.join("man");
    assert!(quorate(&["man", "--dir", &pages.display().to_string()], &[]).status.success());
    for page in [
        "quorate.1",
        "quorate-server.1",
        "quorate-ctl.1",
        "quorate-ctl-lease-grant.1",
        "quorate-cluster-info.1",
    ] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    let page = |path: &Path| std::fs::read_to_string(path).expect("readable");
    assert!(page(&pages.join("quorate-server.1")).contains("initial\\-cluster\\-state"));
    let printed = quorate(&["man", "ctl", "get"], &[]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("\\-\\-from\\-key"), "{printed:?}");
    assert_eq!(quorate(&["man", "fly"], &[]).status.code(), Some(1));
    for arguments in [&["help", "ctl"][..], &["help", "ctl", "get"], &["ctl", "--help"], &["help", "cluster"]]
    {
        let output = quorate(arguments, &[]);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: quorate "), "{output:?}");
    }
}
