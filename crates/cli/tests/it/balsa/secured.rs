//! Nodes with certificates, and curl that checks them.

use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_interop::{Ca, free_port, wait_until};

use super::super::scratch;
use super::Node;

/// What curl was answered: the status, 0 where there was no answer, and the body or curl's own words.
fn curl(arguments: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["-s", "-S", "--max-time", "30", "-w", "\n%{http_code}"]).args(arguments);
    let output = command.output().expect("curl is there");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = told.rsplit_once('\n').unwrap_or(("", "0"));
    let why = String::from_utf8_lossy(&output.stderr);
    (status.parse().unwrap_or_default(), format!("{body}{why}"))
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

struct Secured {
    folder: PathBuf,
    ca: Ca,
}

impl Secured {
    /// A node whose ports show certificates of `signer`, which its peers check against the CA.
    fn plan(&self, name: &'static str, signer: &Ca) -> Node {
        let (cert, key) = signer.sign(&self.folder, name);
        let (cert, key) = (path(&cert), path(&key));
        Node::plan(&self.folder, name)
            .with("HTTP_CERT_FILE", &cert)
            .with("HTTP_KEY_FILE", &key)
            .with("RAFT_CERT_FILE", &cert)
            .with("RAFT_KEY_FILE", &key)
            .with("RAFT_CA_FILE", &path(&self.ca.file))
    }

    fn start(&self, name: &'static str) -> Node {
        let mut node = self.plan(name, &self.ca);
        node.spawn();
        self.ready(&node);
        node
    }

    fn ready(&self, node: &Node) {
        let ready = wait_until("a node with TLS", || self.get(node, "/readyz").0 == 200);
        ready.unwrap_or_else(|error| panic!("{error:#}\n{}", node.output()));
    }

    fn get(&self, node: &Node, path_and_query: &str) -> (u16, String) {
        let url = format!("https://127.0.0.1:{}{path_and_query}", node.http);
        curl(&["--cacert", &path(&self.ca.file), &url])
    }

    fn expect(&self, node: &Node, path_and_query: &str, status: u16, text: &str) {
        let (got, body) = self.get(node, path_and_query);
        assert!(got == status && body.contains(text), "{path_and_query}: {got} {body}\n{}", node.output());
    }
}

#[test]
fn nodes_with_certificates_are_joined_and_spoken_to_with_curls_cacert() {
    let (_guard, folder) = scratch();
    let secured = Secured { ca: Ca::new(&folder, "ca"), folder: folder.clone() };
    let (n1, n2) = (secured.start("n1"), secured.start("n2"));
    secured.expect(&n1, &format!("/join?nodeId=n2&raftPort={}", n2.raft), 200, r#""settled":true"#);
    secured.expect(&n2, "/set?key=k&value=v", 200, r#""key":"k""#);
    for node in [&n1, &n2] {
        secured.expect(node, "/get?key=k", 200, "v");
        secured.expect(node, "/leader", 200, &format!("https://127.0.0.1:{}", n1.http));
    }
    secured.expect(&n2, "/set?key=k&value=no&forward=false", 421, &format!("https://127.0.0.1:{}", n1.http));
    secured.expect(&n2, "/transfer?to=n2", 200, r#""node_id":"n2""#);
    secured.expect(&n1, "/set?key=after&value=1", 200, "");

    // Who does not check, or does not speak TLS, learns nothing.
    let url = format!("https://127.0.0.1:{}/get?key=k", n1.http);
    let (status, why) = curl(&[&url]);
    assert!(status == 0 && why.contains("certificate"), "{status} {why}");
    let (status, why) = curl(&[&format!("http://127.0.0.1:{}/get?key=k", n1.http)]);
    assert!(status != 200 && !why.contains('v'), "{status} {why}");

    // A node without certificates, and one with certificates of strangers.
    let mut plain = Node::plan(&folder, "n3");
    plain.start();
    secured.expect(&n1, &format!("/join?nodeId=n3&raftPort={}", plain.raft), 502, "no answer of a member");
    let strangers = Ca::new(&folder, "strangers");
    let mut foreign = secured.plan("n4", &strangers);
    foreign.spawn();
    let strange = path(&strangers.file);
    let healthz = format!("https://127.0.0.1:{}/healthz", foreign.http);
    wait_until("the strangers' node", || curl(&["--cacert", &strange, &healthz]).0 == 200).expect("it runs");
    secured.expect(&n1, &format!("/join?nodeId=n4&raftPort={}", foreign.raft), 502, "certificate");
    secured.expect(&n1, "/members", 200, r#""node_id":"n2""#);
    let (_, members) = secured.get(&n1, "/members");
    assert!(!members.contains("n3") && !members.contains("n4"), "{members}");
}

#[test]
fn a_node_may_demand_certificates_of_its_clients_too() {
    let (_guard, folder) = scratch();
    let secured = Secured { ca: Ca::new(&folder, "ca"), folder: folder.clone() };
    let ca = path(&secured.ca.file);
    let mut node = secured.plan("n1", &secured.ca).with("HTTP_CA_FILE", &ca);
    let (cert, key) = secured.ca.sign(&folder, "client");
    node.spawn();
    let url = format!("https://127.0.0.1:{}/readyz", node.http);
    let shown = ["--cacert", &ca, "--cert", &path(&cert), "--key", &path(&key), &url];
    wait_until("a node that knows its client", || curl(&shown).0 == 200)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", node.output()));
    let (status, why) = curl(&["--cacert", &ca, &url]);
    assert!(status == 0, "{status} {why}");
}

#[test]
fn certificates_that_can_not_be_used_end_the_start_with_their_variable() {
    let (_guard, folder) = scratch();
    let (cert, key) = Ca::new(&folder, "ca").sign(&folder, "n1");
    let mut plan = Node::plan(&folder, "n1");
    plan.raft = free_port();
    let mut node = plan.with("HTTP_CERT_FILE", &path(&key)).with("HTTP_KEY_FILE", &path(&cert));
    node.spawn();
    let mut process = node.process.take().expect("it was started");
    let status = process.wait(quorate_interop::WAIT_MAX).expect("it ends");
    let told = process.output();
    assert!(status.code() == Some(1) && told.contains(&path(&key)), "{status}: {told}");
    assert!(!node.volume.join("wal").exists(), "nothing was begun");
}
