//! `quorate etcd2` from outside: command lines of etcd 0.4, founding, joining, discovery, restarts, TLS, removal.

use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_interop::{Ca, Cluster, Process, WAIT_MAX, free_port, http_get, http_send, wait_until};

use super::tls;
use super::{binary, quorate, scratch};

const READY: &str = "ready to serve client requests";

/// How a machine is started, and its process while it runs.
struct Machine {
    name: String,
    client: String,
    peer: String,
    folder: PathBuf,
    log: PathBuf,
    program: PathBuf,
    process: Option<Process>,
}

impl Machine {
    fn new(folder: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            client: format!("127.0.0.1:{}", free_port()),
            peer: format!("127.0.0.1:{}", free_port()),
            folder: folder.join(name),
            log: folder.join(format!("{name}.log")),
            program: binary().to_owned(),
            process: None,
        }
    }

    fn start(&mut self, flags: &[&str]) -> &mut Process {
        let mut command = Command::new(&self.program);
        if self.program == binary() {
            command.arg("etcd2");
        }
        command.env_clear().args(["-name", &self.name, "-addr", &self.client, "-peer-addr", &self.peer]);
        command.args(["-bind-addr", "127.0.0.1", "-peer-bind-addr", "127.0.0.1"]);
        command.arg("-data-dir").arg(&self.folder).args(flags);
        let process = Process::start(&mut command, &self.log).expect("started");
        self.process.insert(process)
    }

    fn run(&mut self, flags: &[&str]) {
        self.start(flags).wait_for_output(READY).expect("ready");
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn stop(&mut self) {
        let mut process = self.process.take().expect("it was started");
        process.signal("INT").expect("sent");
        assert_eq!(process.wait(WAIT_MAX).expect("a stop in bounded time").code(), Some(0));
    }

    fn put(&self, key: &str, value: &str) -> (u16, String) {
        http_send(&self.client, "PUT", &format!("/v2/keys/{key}"), &format!("value={value}"))
            .expect("an answer")
    }

    fn get(&self, path: &str) -> (u16, String) {
        http_get(&self.client, path).expect("an answer")
    }

    fn holds(&self, key: &str, value: &str) -> bool {
        http_get(&self.client, &format!("/v2/keys/{key}"))
            .is_ok_and(|(status, body)| status == 200 && body.contains(&format!("\"value\":\"{value}\"")))
    }
}

/// Standard error and status of a command that has to fail.
fn failure(arguments: &[&str]) -> (String, Option<i32>) {
    let output = quorate(arguments, &[]);
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

#[test]
fn mistakes_on_the_command_line_say_what_is_wrong() {
    let (said, status) = failure(&["etcd2", "-no-such-flag"]);
    assert!(
        said.contains("Usage:") && said.contains("flag provided but not defined: -no-such-flag"),
        "{said}"
    );
    assert_eq!(status, Some(1));
    for (flags, expected) in [
        (
            &["-addr", "http://127.0.0.1:4001"][..],
            "-addr: \"http://127.0.0.1:4001\" must have the form HOST:PORT",
        ),
        (&["-bind-addr", ":4001"], "-bind-addr: \":4001\": IP required can't use a port only"),
        (&["-peers", "127.0.0.1"], "-peers: \"127.0.0.1\" must have the form HOST:PORT"),
        (&["-snapshot-count", "many"], "invalid value \"many\" for flag -snapshot-count"),
        (&["-cert-file", "a.pem"], "-cert-file and -key-file belong together"),
        (&["-peers-file", "/no/such/file"], "-peers-file: cannot read /no/such/file"),
        (&["-name", "a/b"], "-name: \"a/b\" holds a character"),
    ] {
        let (said, status) = failure(&[&["etcd2", "-data-dir", "/no/such"], flags].concat());
        assert!(said.contains(expected), "{flags:?}: {said}");
        assert_eq!(status, Some(1), "{flags:?}");
    }
    let help = quorate(&["etcd2", "-help"], &[]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("-peer-bind-addr"));
}

#[test]
fn peers_that_do_not_answer_are_given_up_in_words() {
    let (_guard, folder) = scratch();
    let mut machine = Machine::new(&folder, "m1");
    let process = machine.start(&["-peers", "127.0.0.1:1,127.0.0.1:2", "-r", "1", "-retry-interval", "0"]);
    assert_eq!(process.wait(WAIT_MAX).expect("it ends").code(), Some(1));
    let said = process.output();
    assert!(said.contains("cannot connect to existing cluster"), "{said}");
    assert!(said.contains("[deprecated] use -max-retry-attempts, not -r"), "{said}");
}

#[test]
fn called_etcd_it_runs_as_the_etcd_that_flags_and_folder_are_of() {
    let (_guard, folder) = scratch();
    let etcd = folder.join("etcd");
    std::os::unix::fs::symlink(binary(), &etcd).expect("linked");
    let mut machine = Machine::new(&folder, "m1");
    machine.program = etcd.clone();
    machine.run(&[]);
    let said = machine.process().output();
    assert!(said.contains("running 'quorate etcd2', because -"), "{said}");
    assert_eq!(machine.get("/version"), (200, "etcd 0.3.0+git".to_owned()));
    machine.stop();
    // The folder says it, too, to flags that are of both; its addresses are free to take others.
    let mut command = Command::new(&etcd);
    command.env_clear().arg("--data-dir").arg(&machine.folder).args([
        "--name",
        "m1",
        "--listen-client-urls",
        "x",
    ]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("flag provided but not defined: -listen-client-urls"), "{said}");
    // And 'quorate server' takes none of it.
    let (said, _) = failure(&["server", "-peer-addr", "127.0.0.1:1"]);
    assert!(said.contains("flag provided but not defined: -peer-addr"), "{said}");
}

#[test]
fn a_folder_of_the_other_command_is_left_alone() {
    let (_guard, folder) = scratch();
    let mut machine = Machine::new(&folder, "m1");
    machine.run(&[]);
    assert_eq!(machine.put("foo", "bar").0, 201);
    machine.stop();
    let mut server = Cluster::plan(binary(), &folder, 1, &[]).expect("a plan");
    assert_eq!(server.members[0].data_dir, machine.folder);
    let process = server.members[0].start().expect("started");
    assert_eq!(process.wait(WAIT_MAX).expect("it ends").code(), Some(1));
    let said = process.output();
    let path = machine.folder.display();
    assert!(
        said.contains(&format!("the folder {path} is of 'quorate etcd2', not of 'quorate server'")),
        "{said}"
    );
    machine.run(&[]);
    assert!(machine.holds("foo", "bar"), "nothing was touched");
    machine.stop();

    let mut cluster = Cluster::plan(binary(), &folder.join("server"), 1, &[]).expect("a plan");
    cluster.start_all().expect("it serves");
    cluster.terminate().expect("a clean stop");
    let mut other = Machine::new(&folder, "m2");
    other.folder.clone_from(&cluster.members[0].data_dir);
    for flags in [&[][..], &["-f"]] {
        assert_eq!(other.start(flags).wait(WAIT_MAX).expect("it ends").code(), Some(1));
        let said = other.process().output();
        assert!(said.contains("is of 'quorate server', not of 'quorate etcd2'"), "{said}");
    }
    cluster.start_all().expect("its folder is as it was");
    cluster.terminate().expect("a clean stop");
}

#[test]
fn a_machine_keeps_its_data_until_it_is_told_to_start_afresh() {
    let (_guard, folder) = scratch();
    let mut machine = Machine::new(&folder, "m1");
    machine.run(&[]);
    let (status, body) = machine.put("foo", "bar");
    assert_eq!(status, 201, "{body}");
    assert!(body.contains("\"modifiedIndex\":2"), "the machine's own join is index 1: {body}");
    machine.kill();
    machine.run(&["-peers", "127.0.0.1:1"]);
    assert!(machine.holds("foo", "bar"));
    machine.stop();
    machine.run(&["-f"]);
    let (status, body) = machine.get("/v2/keys/foo");
    assert_eq!(status, 404, "{body}");
    machine.stop();
    let mut other = Machine::new(&folder, "m2");
    other.folder.clone_from(&machine.folder);
    assert_eq!(other.start(&[]).wait(WAIT_MAX).expect("it ends").code(), Some(1));
    let said = other.process().output();
    assert!(said.contains("the data folder belongs to member"), "{said}");
}

#[test]
fn machines_find_each_other_through_discovery() {
    let (_guard, folder) = scratch();
    let mut service = Machine::new(&folder, "service");
    service.run(&[]);
    let url = format!("http://{}/v2/keys/_etcd/registry/token", service.client);
    let mut first = Machine::new(&folder, "m1");
    first.run(&["-discovery", &url]);
    let mut second = Machine::new(&folder, "m2");
    second.run(&["-discovery", &url]);
    assert_eq!(first.put("foo", "bar").0, 201);
    wait_until("the second machine has it", || second.holds("foo", "bar")).expect("replicated");
    let (_, listed) = service.get("/v2/keys/_etcd/registry/token");
    assert!(listed.contains(&first.peer) && listed.contains(&second.peer), "{listed}");
    // A service that does not answer, and nobody named beside it.
    let mut alone = Machine::new(&folder, "m3");
    let process = alone.start(&["-discovery", "http://127.0.0.1:1/token"]);
    assert_eq!(process.wait(WAIT_MAX).expect("it ends").code(), Some(1));
    let said = process.output();
    assert!(said.contains("must register itself to discovery service as required"), "{said}");
}

#[test]
fn a_machine_that_comes_back_at_other_addresses_takes_one_index() {
    let (_guard, folder) = scratch();
    let index = |machine: &Machine, key: &str| {
        let (status, body) = machine.put(key, "bar");
        assert_eq!(status, 201, "{body}");
        let index = body.split("\"modifiedIndex\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
        index.and_then(|index| index.parse::<u64>().ok()).expect("an index")
    };
    let moves = |machine: &mut Machine| {
        machine.stop();
        machine.client = format!("127.0.0.1:{}", free_port());
        machine.peer = format!("127.0.0.1:{}", free_port());
        machine.run(&[]);
    };
    let is_listed = |by: &Machine, machine: &Machine| {
        let port = |address: &str| address.rsplit(':').next().expect("a port").to_owned();
        let (_, listed) = by.get(&format!("/v2/keys/_etcd/machines/{}", machine.name));
        listed.contains(&port(&machine.client)) && listed.contains(&port(&machine.peer))
    };
    let mut first = Machine::new(&folder, "m1");
    first.run(&[]);
    assert_eq!(index(&first, "alone"), 2);
    moves(&mut first);
    wait_until("it is listed where it is", || is_listed(&first, &first)).expect("listed");
    assert_eq!(index(&first, "moved"), 4);
    let (mut second, mut third) = (Machine::new(&folder, "m2"), Machine::new(&folder, "m3"));
    second.run(&["-peers", &first.peer]);
    third.run(&["-peers", &first.peer]);
    assert_eq!(index(&first, "three"), 7);
    moves(&mut third);
    wait_until("it is listed where it is", || is_listed(&first, &third)).expect("listed");
    assert_eq!(index(&first, "three-moved"), 9);
}

#[test]
fn a_removed_machine_leaves_with_status_0_and_joins_again_as_a_new_one() {
    let (_guard, folder) = scratch();
    let mut first = Machine::new(&folder, "m1");
    first.run(&[]);
    let mut second = Machine::new(&folder, "m2");
    second.run(&["-peers", &first.peer]);
    let id = |machine: &mut Machine| {
        let said = machine.process().output();
        said.split("member=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an id").to_owned()
    };
    let before = id(&mut second);
    let (status, body) = http_send(&first.peer, "DELETE", "/v2/admin/machines/m2", "").expect("an answer");
    assert_eq!(status, 200, "{body}");
    assert_eq!(second.process().wait(WAIT_MAX).expect("it leaves").code(), Some(0));
    wait_until("it is no longer listed", || first.get("/v2/keys/_etcd/machines/m2").0 == 404)
        .expect("unlisted");
    let (status, body) = http_send(&first.peer, "DELETE", "/remove/m2", "").expect("an answer");
    assert_eq!(status, 404, "{body}");
    // It remembers where the others are.
    second.run(&[]);
    assert_ne!(id(&mut second), before);
    assert_eq!(first.put("foo", "bar").0, 201);
    wait_until("it has what was written", || second.holds("foo", "bar")).expect("replicated");
}

#[test]
fn beyond_the_active_size_machines_stand_by_until_there_is_room() {
    let (_guard, folder) = scratch();
    let mut machines: Vec<Machine> = (1..=4).map(|n| Machine::new(&folder, &format!("m{n}"))).collect();
    let peer = machines[0].peer.clone();
    machines[0].run(&["-cluster-active-size", "3"]);
    for machine in &mut machines[1..] {
        machine.run(&["-peers", &peer]);
    }
    let modes = |peer: &str| http_get(peer, "/v2/admin/machines").expect("an answer").1;
    // A vote that is given while the machine is very busy may be given twice, and is taken back then.
    let mut listed = String::new();
    wait_until("three vote and one stands by", || {
        listed = modes(&peer);
        listed.matches("\"mode\":\"peer\"").count() == 3
            && listed.matches("\"mode\":\"standby\"").count() == 1
    })
    .unwrap_or_else(|error| panic!("{error:#}: {listed}"));
    wait_until("the tree says so", || {
        machines[0].get("/v2/keys/_etcd/standbys/m4").0 == 200
            && machines[0].get("/v2/keys/_etcd/machines/m4").0 == 404
    })
    .expect("listed");
    // A place becomes free.
    assert_eq!(http_send(&peer, "DELETE", "/v2/admin/machines/m3", "").expect("an answer").0, 200);
    wait_until("the standby votes", || machines[0].get("/v2/keys/_etcd/machines/m4").0 == 200)
        .expect("promoted");
    wait_until("it no longer stands by", || machines[0].get("/v2/keys/_etcd/standbys/m4").0 == 404)
        .expect("unlisted");
    machines[2].process().wait(WAIT_MAX).expect("a removed machine ends");
    // Or the cluster may be larger.
    machines[2].run(&["-peers", &peer]);
    wait_until("it stands by", || machines[0].get("/v2/keys/_etcd/standbys/m3").0 == 200).expect("a standby");
    let (status, body) =
        http_send(&machines[1].peer, "PUT", "/v2/admin/config", "{\"activeSize\":5}").expect("an answer");
    assert_eq!((status, body.contains("\"activeSize\":5")), (200, true), "{body}");
    wait_until("it votes", || machines[0].get("/v2/keys/_etcd/machines/m3").0 == 200).expect("promoted");
}

#[test]
fn both_ports_speak_tls_and_plain_text_is_told_so() {
    let (_guard, folder) = scratch();
    let ca = Ca::new(&folder, "ca");
    let files = ca.sign(&folder, "machine");
    let path = |path: &Path| path.display().to_string();
    let mut flags = Vec::new();
    for prefix in ["", "peer-"] {
        flags.extend([
            format!("-{prefix}ca-file"),
            path(&ca.file),
            format!("-{prefix}cert-file"),
            path(&files.0),
        ]);
        flags.extend([format!("-{prefix}key-file"), path(&files.1)]);
    }
    let mut first = Machine::new(&folder, "m1");
    first.run(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let mut second = Machine::new(&folder, "m2");
    flags.extend(["-peers".to_owned(), first.peer.clone()]);
    second.run(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let machines = tls::get(&second.client, "/v2/machines", &ca.file, Some(&files)).expect("an answer");
    assert!(machines.contains(&format!("https://{}", first.client)), "{machines}");
    let name = tls::get(&first.peer, "/name", &ca.file, Some(&files)).expect("an answer");
    assert!(name.ends_with("m1"), "{name}");
    assert!(tls::get(&first.client, "/v2/machines", &ca.file, None).is_err(), "a certificate is demanded");
    // Plain text meets TLS: both say so.
    let (status, body) = http_get(&first.peer, "/name").expect("an answer");
    assert_eq!((status, body.as_str()), (400, "this port has TLS: use https://\n"));
    let mut plain = Machine::new(&folder, "m3");
    let process = plain.start(&["-peers", &first.peer, "-max-retry-attempts", "1", "-retry-interval", "0"]);
    assert_eq!(process.wait(WAIT_MAX).expect("it ends").code(), Some(1));
    let said = process.output();
    assert!(said.contains("peer port has TLS"), "{said}");
    first.process().wait_for_output("it speaks plain text").expect("it says so");
}
