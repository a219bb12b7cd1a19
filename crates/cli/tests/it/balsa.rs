//! `quorate balsa` from outside: the flow that its users know, with their own curl lines and console lines, and what
//! happens to it when nodes die, are wiped, or are asked for nonsense.

mod restored;
mod secured;

use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_interop::{Process, WAIT_MAX, free_port, http_get, wait_until};

use super::{binary, quorate, scratch};

/// One node, with the variables that its users set.
struct Node {
    name: &'static str,
    http: u16,
    raft: u16,
    volume: PathBuf,
    log: PathBuf,
    variables: Vec<(&'static str, String)>,
    process: Option<Process>,
}

impl Node {
    fn plan(folder: &Path, name: &'static str) -> Self {
        Self {
            name,
            http: free_port(),
            raft: free_port(),
            volume: folder.join(name),
            log: folder.join(format!("{name}.log")),
            variables: Vec::new(),
            process: None,
        }
    }

    fn with(mut self, variable: &'static str, text: &str) -> Self {
        self.variables.push((variable, text.to_owned()));
        self
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("HTTP_SERVER_PORT", self.http.to_string()),
            ("RAFT_SERVER_PORT", self.raft.to_string()),
            ("RAFT_NODE_ID", self.name.to_owned()),
            ("RAFT_VOLUME_DIR", self.volume.display().to_string()),
        ];
        all.extend(self.variables.iter().cloned());
        all
    }

    fn start(&mut self) {
        self.spawn();
        self.ready();
    }

    fn spawn(&mut self) {
        let mut command = Command::new(binary());
        command.arg("balsa").env_clear().envs(self.environment());
        self.process = Some(Process::start(&mut command, &self.log).expect("it starts"));
    }

    /// Starts it as its users do.
    fn start_by_script(&mut self) {
        let script = examples().join(format!("start{}.sh", self.name));
        let mut command = Command::new(script);
        command.envs(self.environment()).env("BALSA", binary());
        self.process = Some(Process::start(&mut command, &self.log).expect("it starts"));
        self.ready();
    }

    fn ready(&mut self) {
        let name = self.name;
        let ready = wait_until(&format!("{name} is ready"), || {
            http_get(&self.address(), "/readyz").is_ok_and(|(status, _)| status == 200)
        });
        ready.unwrap_or_else(|error| panic!("{error:#}\n{}", self.output()));
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    fn get(&self, path: &str) -> (u16, String) {
        http_get(&self.address(), path).unwrap_or_else(|error| panic!("{path}: {error:#}\n{}", self.output()))
    }

    fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}\n{}", self.output());
        serde_json::from_str(&body).expect("JSON")
    }

    /// As the page does it.
    fn curl_join(&self, newcomer: &Self) {
        let url = format!(
            "http://localhost:{}/join?nodeId={}&raftPort={}",
            self.http, newcomer.name, newcomer.raft
        );
        let answer = Command::new("curl").args(["-s", "-f", &url]).output().expect("curl is there");
        let (told, why) = (&answer.stdout, &answer.stderr);
        let shown = String::from_utf8_lossy(told);
        assert!(answer.status.success(), "{url}: {shown}{}\n{}", String::from_utf8_lossy(why), self.output());
        let told: serde_json::Value = serde_json::from_slice(told).expect("JSON");
        assert_eq!(told["settled"], true, "{told}");
        let joined = told["members"].as_array().into_iter().flatten();
        let joined: Vec<_> = joined.filter(|member| member["node_id"] == newcomer.name).collect();
        assert_eq!(joined.len(), 1, "{told}");
        assert_eq!(joined[0]["suffrage"], "Voter", "{told}");
    }

    /// Whether the console showed these lines, in this order. `*` stands for anything within a line.
    fn showed(&self, lines: &[&str]) {
        let output = self.output();
        let mut rest = output.lines();
        for line in lines {
            let found = rest.any(|shown| matches(shown, line));
            assert!(found, "{} did not show {line:?}, or not in its place:\n{output}", self.name);
        }
    }

    /// None of these texts is on the console.
    fn shows_nothing_of(&self, texts: &[&str]) {
        let output = self.output();
        for text in texts {
            assert!(!output.contains(text), "{} shows {text:?}:\n{output}", self.name);
        }
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn terminate(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM").expect("sent");
        let status = process.wait(WAIT_MAX).expect("it ends");
        assert!(status.success(), "{status}\n{}", process.output());
    }
}

fn matches(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/balsa")
}

fn leader(nodes: &[Node]) -> usize {
    let mut found = None;
    wait_until("a leader", || {
        found = nodes.iter().position(|node| {
            node.process.is_some()
                && http_get(&node.address(), "/status")
                    .is_ok_and(|(status, body)| status == 200 && body.contains(r#""state":"Leader""#))
        });
        found.is_some()
    })
    .expect("somebody leads");
    found.expect("just found")
}

/// Every node that runs answers every key, from what it has itself.
fn all_have(nodes: &[Node], keys: u64) {
    for node in nodes.iter().filter(|node| node.process.is_some()) {
        node.ready_to_read();
        for key in 1..=keys {
            let got = node.get(&format!("/get?key={key}&level=local"));
            assert_eq!(got, (200, key.to_string()), "{} on {}", key, node.name);
        }
    }
}

impl Node {
    /// After this, what was acknowledged before is here.
    fn ready_to_read(&self) {
        wait_until("a read of all that was acknowledged", || {
            http_get(&self.address(), "/get?key=1").is_ok_and(|(status, _)| status == 200)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.output()));
    }
}

#[test]
fn three_nodes_started_one_by_one_joined_by_curl_and_pumped_while_the_leader_dies() {
    const KEYS: u64 = 1000;
    let (_guard, folder) = scratch();
    let mut nodes = ["n1", "n2", "n3"].map(|name| Node::plan(&folder, name));
    nodes.iter_mut().for_each(Node::start_by_script);
    for node in &nodes {
        let at = format!("127.0.0.1:{}", node.raft);
        node.showed(&[
            &format!("Starting node{}", &node.name[1..]),
            "Cleaning the raft volumes.",
            "*T*+0000 [INFO] raft: initial configuration: index=0 servers=[]",
            &format!("*[INFO] raft: entering follower state: follower=\"Node at {at} [Follower]\" leader="),
            "*[WARN] raft: heartbeat timeout reached, starting election: last-leader=",
            &format!("*[INFO] raft: entering candidate state: node=\"Node at {at} [Candidate]\" term=2"),
            "*[DEBUG] raft: votes: needed=1",
            &format!("*[DEBUG] raft: vote granted: from={} term=2 tally=1", node.name),
            "*[INFO] raft: election won: tally=1",
            &format!("*[INFO] raft: entering leader state: leader=\"Node at {at} [Leader]\""),
        ]);
    }
    let [n1, n2, n3] = &nodes;
    n1.curl_join(n2);
    n1.curl_join(n3);
    let (a1, a2, a3) = (
        format!("127.0.0.1:{}", n1.raft),
        format!("127.0.0.1:{}", n2.raft),
        format!("127.0.0.1:{}", n3.raft),
    );
    let two = format!("{{Suffrage:Voter ID:n1 Address:{a1}}} {{Suffrage:Voter ID:n2 Address:{a2}}}");
    n1.showed(&[
        "Join handler called",
        "*/*/* *:*:* node is n2",
        &format!("INFO[*] Joining node n2 on host {a2} source=\"handler.go:28\""),
        &format!(
            "*[INFO] raft: updating configuration: command=AddStaging server-id=n2 server-addr={a2} servers=\"[{two}]\""
        ),
        "*[INFO] raft: added peer, starting replication: peer=n2",
        &format!("*[WARN] raft: appendEntries rejected, sending older logs: peer=\"{{Voter n2 {a2}}}\" next=*"),
        &format!("*[INFO] raft: pipelining replication: peer=\"{{Voter n2 {a2}}}\""),
        "Join handler called",
        "*/*/* *:*:* node is n3",
        &format!("INFO[*] Joining node n3 on host {a3} source=\"handler.go:28\""),
        &format!(
            "*[INFO] raft: updating configuration: command=AddStaging server-id=n3 server-addr={a3} servers=\"[{two} {{Suffrage:Voter ID:n3 Address:{a3}}}]\""
        ),
        "*[INFO] raft: added peer, starting replication: peer=n3",
        &format!("*[WARN] raft: appendEntries rejected, sending older logs: peer=\"{{Voter n3 {a3}}}\" next=*"),
        &format!("*[INFO] raft: pipelining replication: peer=\"{{Voter n3 {a3}}}\""),
    ]);
    n1.shows_nothing_of(&["command=AddNonvoter", "Nonvoter"]);
    for joined in [n2, n3] {
        let at = format!("127.0.0.1:{}", joined.raft);
        let after: Vec<String> = joined
            .output()
            .lines()
            .skip_while(|line| !line.contains("entering leader state"))
            .map(str::to_owned)
            .collect();
        let after: Vec<&str> = after.iter().skip(1).map(String::as_str).collect();
        let expected = [
            "*[WARN] raft: failed to get previous log: previous-index=* last-index=* error=\"log not found\""
                .to_owned(),
            format!(
                "*[INFO] raft: entering follower state: follower=\"Node at {at} [Follower]\" leader={a1}"
            ),
        ];
        assert!(after.len() >= 2, "{after:#?}");
        for (line, expected) in after.iter().zip(&expected) {
            assert!(matches(line, expected), "{line:?} is not {expected:?} in {after:#?}");
        }
    }
    followers_forward_or_say_who_leads(&nodes);

    let acknowledged = folder.join("acknowledged");
    let nodes_text = nodes.iter().map(Node::address).collect::<Vec<_>>().join(" ");
    let mut pump = Command::new(examples().join("pump.sh"));
    pump.env("NODES", nodes_text).env("COUNT", KEYS.to_string()).env("ACKNOWLEDGED", &acknowledged);
    let mut pump = Process::start(&mut pump, &folder.join("pump.log")).expect("it starts");
    let pumped = || std::fs::read_to_string(&acknowledged).unwrap_or_default().lines().count();
    wait_until("a third is set", || pumped() >= 300).expect("the pump works");
    let first = leader(&nodes);
    nodes[first].kill();
    assert!(pumped() < 1000, "the leader died while the pump worked");
    let status = pump.wait(4 * WAIT_MAX).expect("it ends");
    assert!(status.success(), "{}", pump.output());
    assert_eq!(pumped(), 1000);
    assert_ne!(leader(&nodes), first);
    nodes[first].start();
    all_have(&nodes, KEYS);

    for node in &mut nodes {
        node.terminate();
    }
    nodes.iter_mut().for_each(Node::spawn);
    nodes.iter_mut().for_each(Node::ready);
    all_have(&nodes, KEYS);
    nodes[0].showed(&["*[INFO] raft: initial configuration: index=* servers=\"[{Suffrage:Voter ID:*}]\""]);

    // Its script wipes it: the others know the name, and nothing answers under it.
    nodes[1].kill();
    nodes[1].start_by_script();
    nodes[0].curl_join(&nodes[1]);
    all_have(&nodes, KEYS);
    assert_eq!(nodes[2].json("/members").as_array().map(Vec::len), Some(3));
}

fn followers_forward_or_say_who_leads(nodes: &[Node]) {
    let [n1, n2, _] = nodes else { panic!("three nodes") };
    let (status, body) = n2.get("/set?key=forwarded&value=no&forward=false");
    assert_eq!(status, 421, "{body}");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(told["leader"], format!("http://{}", n1.address()));
    assert_eq!(n2.get("/get?key=forwarded").0, 404);
    assert_eq!(n2.get("/set?key=forwarded&value=yes").0, 200);
    assert_eq!(n1.get("/get?key=forwarded"), (200, "yes".to_owned()));
    let address = n1.address();
    n2.showed(&[
        "Set handler called",
        "*/*/* *:*:* Not a leader, do nothing",
        "Set handler called",
        &format!("*/*/* *:*:* Not a leader, forwarding to n1 at http://{address}"),
    ]);
    let (status, body) = n2.get("/transfer?to=n2&forward=false");
    assert!(status == 421 && body.contains(&address), "{status} {body}");
    assert_eq!(n2.get("/transfer?to=n2").0, 200, "a follower passes it on");
    assert_eq!(n2.json("/status")["state"], "Leader");
    assert_eq!(n2.get("/transfer?to=n1").0, 200);
    assert_eq!(n1.json("/status")["state"], "Leader");
    let (status, body) = n2.get("/transfer?to=nobody");
    assert!(status == 404 && body.contains("there is no node"), "{status} {body}");
}

#[test]
fn a_read_may_be_stale_but_not_for_longer_than_it_says() {
    let (_guard, folder) = scratch();
    let mut nodes = ["n1", "n2"].map(|name| Node::plan(&folder, name));
    nodes.iter_mut().for_each(Node::start);
    nodes[0].curl_join(&nodes[1]);
    assert_eq!(nodes[0].get("/set?key=k&value=v").0, 200);
    // Nothing is known of how old it is: it is made sure of once.
    assert_eq!(nodes[1].get("/get?key=k&max_stale=1h"), (200, "v".to_owned()));
    nodes[0].kill();
    assert_eq!(nodes[1].get("/get?key=k&max_stale=1h&level=local"), (200, "v".to_owned()));
    assert_eq!(nodes[1].json("/keys?max_stale=1h")["keys"][0], "k");
    let (status, body) = nodes[1].get("/get?key=k&max_stale=0s");
    assert!(status == 503 || status == 504, "{status} {body}");
    nodes[0].start();
    assert_eq!(nodes[1].get("/get?key=k&max_stale=0s"), (200, "v".to_owned()));
}

#[test]
fn a_fourth_node_joins_after_the_log_was_compacted_and_one_leaves() {
    let (_guard, folder) = scratch();
    let small = |name| Node::plan(&folder, name).with("RAFT_LOG_RETAINED_BYTES", "0");
    let mut nodes = ["n1", "n2"].map(small);
    nodes.iter_mut().for_each(Node::start);
    nodes[0].curl_join(&nodes[1]);
    for key in 1..=50 {
        assert_eq!(nodes[0].get(&format!("/set?key={key}&value={key}")).0, 200);
    }
    let taken = nodes[0].json("/snapshot")["index"].as_u64().expect("an index");
    wait_until("the log is compacted", || nodes[0].json("/log")["first"].as_u64() > Some(taken / 2))
        .expect("it is");
    let mut fourth = Node::plan(&folder, "n4");
    fourth.start();
    nodes[0].curl_join(&fourth);
    all_have(std::slice::from_ref(&fourth), 50);
    assert_eq!(fourth.json("/status")["cluster_id"], nodes[0].json("/status")["cluster_id"]);

    let led = leader(&nodes);
    assert_eq!(nodes[led].get("/transfer?to=n4").0, 200);
    assert_eq!(fourth.json("/status")["state"], "Leader");
    assert_eq!(fourth.get("/remove?nodeId=n2").0, 200);
    let mut gone = nodes[1].process.take().expect("it runs");
    let status = gone.wait(WAIT_MAX).expect("a node that was removed ends");
    assert!(status.success() && gone.output().contains("was removed from its cluster"), "{}", gone.output());
    assert_eq!(fourth.json("/members").as_array().map(Vec::len), Some(2));
    assert_eq!(fourth.get("/set?key=after&value=1").0, 200);
}

#[test]
fn a_node_that_holds_keys_is_refused_with_the_cure_and_lives_on() {
    let (_guard, folder) = scratch();
    let mut nodes = ["n1", "n2"].map(|name| Node::plan(&folder, name));
    nodes.iter_mut().for_each(Node::start);
    assert_eq!(nodes[1].get("/set?key=mine&value=1").0, 200);
    let join = format!("/join?nodeId=n2&raftPort={}", nodes[1].raft);
    let (status, body) = nodes[0].get(&join);
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("would be lost") && body.contains("remove its data folder"), "{body}");
    assert_eq!(nodes[1].get("/get?key=mine"), (200, "1".to_owned()));
    let (status, body) = nodes[0].get(&format!("/join?nodeId=other&raftPort={}", nodes[1].raft));
    assert_eq!(status, 409, "{body}");
    for (path, expected) in [
        ("/join?nodeId=n2&raftPort=nine", 400),
        ("/join?nodeId=n2&raftPort=99999", 400),
        ("/join?nodeId=n2&raftPort=", 400),
    ] {
        assert_eq!(nodes[0].get(path).0, expected, "{path}");
    }
    let (status, body) = nodes[0].get(&format!("/join?nodeId=n2&raftPort={}", free_port()));
    assert_eq!(status, 502, "{body}");
    let (status, body) = nodes[0].get(&format!("/join?nodeId=n1&raftPort={}", nodes[0].raft));
    assert_eq!(status, 409, "{body}");

    // The cure: an empty volume.
    nodes[1].terminate();
    std::fs::remove_dir_all(&nodes[1].volume).expect("removed");
    nodes[1].start();
    nodes[0].curl_join(&nodes[1]);
    nodes[0].curl_join(&nodes[1]);
    let mut imposter = Node::plan(&folder, "n2");
    imposter.volume = folder.join("imposter");
    imposter.log = folder.join("imposter.log");
    imposter.start();
    let (status, body) = nodes[0].get(&format!("/join?nodeId=n2&raftPort={}", imposter.raft));
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("still answers"), "{body}");
    assert_eq!(nodes[0].json("/members").as_array().map(Vec::len), Some(2));
    assert!(imposter.process.as_mut().is_some_and(Process::is_running));
}

#[test]
fn a_node_asks_to_be_admitted_where_its_variables_say_so() {
    let (_guard, folder) = scratch();
    let mut founder = Node::plan(&folder, "n1");
    founder.start();
    assert_eq!(founder.get("/set?key=1&value=1").0, 200);
    let peers = format!("127.0.0.1:{}", founder.raft);
    let mut learner = Node::plan(&folder, "n2").with("RAFT_JOIN", &peers).with("RAFT_VOTER", "false");
    learner.start();
    all_have(std::slice::from_ref(&learner), 1);
    let told = learner.json("/status");
    assert_eq!((&told["suffrage"], &told["leader"]), (&"Nonvoter".into(), &"n1".into()), "{told}");
    learner.terminate();
    learner.start();
    assert_eq!(learner.get("/set?key=2&value=2").0, 200, "a learner forwards");
    assert_eq!(founder.get("/get?key=2"), (200, "2".to_owned()));
}

#[test]
fn variables_that_are_missing_or_malformed_end_the_start_with_their_names() {
    let none = quorate(&["balsa"], &[]);
    assert_eq!(none.status.code(), Some(1));
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    for variable in ["HTTP_SERVER_PORT", "RAFT_SERVER_PORT", "RAFT_NODE_ID", "RAFT_VOLUME_DIR"] {
        assert!(told.contains(&format!("{variable} is not set")), "{told}");
    }
    let (_guard, folder) = scratch();
    let volume = folder.join("n1").display().to_string();
    let four = [("HTTP_SERVER_PORT", "x"), ("RAFT_SERVER_PORT", "9000"), ("RAFT_NODE_ID", "n1")];
    let mut variables = four.to_vec();
    variables.push(("RAFT_VOLUME_DIR", &volume));
    let bad = quorate(&["balsa"], &variables);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("HTTP_SERVER_PORT: \"x\" is no port"));
    assert!(!Path::new(&volume).exists(), "nothing was begun");
    assert_eq!(quorate(&["balsa", "--data-dir", "x"], &variables).status.code(), Some(2));
    let help = quorate(&["balsa", "--help"], &[]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("RAFT_NODE_ID"));
}

#[test]
fn a_program_called_balsa_is_a_node() {
    let (_guard, folder) = scratch();
    let link = folder.join("balsa");
    std::os::unix::fs::symlink(binary(), &link).expect("a link");
    let mut node = Node::plan(&folder, "n1");
    let mut command = Command::new(&link);
    command.env_clear().envs(node.environment());
    node.process = Some(Process::start(&mut command, &node.log).expect("it starts"));
    node.ready();
    assert_eq!(node.json("/status")["node_id"], "n1");
    node.terminate();
    let help = Command::new(&link).arg("--help").output().expect("it runs");
    assert!(String::from_utf8_lossy(&help.stdout).contains("RAFT_VOLUME_DIR"));
}
