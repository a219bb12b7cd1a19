//! `quorate etcd2` from outside: command lines of etcd 0.4, founding, joining, discovery, restarts, TLS, removal.

use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_interop::{Ca, Process, WAIT_MAX, free_port, http_get};

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

    fn stop(&mut self) {
        let mut process = self.process.take().expect("it was started");
        process.signal("INT").expect("sent");
        assert_eq!(process.wait(WAIT_MAX).expect("a stop in bounded time").code(), Some(0));
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
    assert_eq!(http_get(&machine.client, "/version").expect("an answer"), (200, "etcd 0.3.0+git".to_owned()));
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
