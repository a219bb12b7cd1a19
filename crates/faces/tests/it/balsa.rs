//! balsa's face by plain HTTP: one member in memory, with etcd's face beside it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_faces::balsa::{Balsa, Config, Console, Sink};
use quorate_faces::etcd3::{self, Etcd3};
use quorate_faces::listener::{BodyBudget, Face, ListenConfig, Serving, Switch, serve};
use quorate_member::{Running, start};
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a console was told.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Sink for Heard {
    fn out(&self, line: &str) {
        self.0.lock().expect("no panic").push(line.to_owned());
    }

    fn log(&self, line: &str) {
        self.0.lock().expect("no panic").push(line.to_owned());
    }
}

struct Node {
    running: Option<Running>,
    serving: Option<Serving>,
    switch: Switch,
    addr: SocketAddr,
    heard: Arc<Heard>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

async fn member() -> Running {
    let config = quorate_member::Config {
        heartbeat_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        ..quorate_member::Config::new("n1")
    };
    let running = start(config).expect("a member in memory starts");
    running.handle().read_index().await.expect("a cluster of one elects itself");
    running
}

impl Node {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let heard = Arc::new(Heard::default());
        let console = Arc::new(Console::new(heard.clone(), "127.0.0.1:9000".to_owned()));
        let mut config =
            Config { console, election_timeout: Duration::from_millis(100), ..Config::default() };
        change(&mut config);
        let running = member().await;
        let faces: Vec<Arc<dyn Face>> = vec![
            Arc::new(Balsa::new(running.handle(), config)),
            Arc::new(Etcd3::new(running.handle(), etcd3::Config::default())),
        ];
        let switch = Switch::new(faces);
        let mut listen = ListenConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        listen.stop_timeout = Duration::from_millis(100);
        let serving = serve(listen, vec![Arc::new(switch.clone())]).expect("a free port");
        let addr = serving.addrs()[0];
        Self { running: Some(running), serving: Some(serving), switch, addr, heard }
    }

    /// Without chunks: HTTP/1.0 has none.
    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.addr).await.expect("the port is open");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        // A refusal may come, and the connection be closed, before a large body is through.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time");
        read.expect("an answer");
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
        Answer { status, head, body: answer[at + 4..].to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", b"").await
    }

    async fn form(&self, path: &str, body: &str) -> Answer {
        let kind = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n";
        self.send("POST", path, kind, body.as_bytes()).await
    }

    async fn expect(&self, path: &str, status: u16, text: &str) {
        let answer = self.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }

    fn heard(&self) -> Vec<String> {
        self.heard.0.lock().expect("no panic").clone()
    }

    async fn etcd(&self) -> KvClient<tonic::transport::Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.addr));
        let channel = endpoint.expect("an address").connect().await.expect("the port is open");
        KvClient::new(channel)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.stop();
        }
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

#[tokio::test]
async fn what_is_set_is_there_for_every_method_and_for_etcds_clients() {
    let node = Node::start().await;
    let set = node.get("/set?key=greeting&value=hello%20there").await;
    assert_eq!(set.status, 200, "{}", set.text());
    let told = set.json();
    assert_eq!(told["key"], "greeting");
    assert!(told["index"].as_u64() > Some(1) && told["term"] == 2, "{told}");
    assert_eq!(node.heard().first().map(String::as_str), Some("Set handler called"));
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        let got = node.send(method, "/get?key=greeting", "", b"").await;
        assert_eq!((got.status, got.text().as_str()), (200, "hello there"), "{method}");
    }
    for level in ["local", "leader", "linearizable"] {
        node.expect(&format!("/get?key=greeting&level={level}"), 200, "hello there").await;
    }
    let range = pb::RangeRequest { key: "balsa/greeting".into(), ..Default::default() };
    let seen = node.etcd().await.range(range).await.expect("a range").into_inner();
    assert_eq!(seen.kvs[0].value, "hello there");
    let put = pb::PutRequest { key: "balsa/other".into(), value: "from etcd".into(), ..Default::default() };
    node.etcd().await.put(put).await.expect("a put");
    node.expect("/get?key=other", 200, "from etcd").await;
    node.expect("/get?key=none", 404, "there is no key").await;
    let removed = node.get("/remove?key=greeting").await.json();
    assert_eq!((removed["removed"].as_u64(), removed["key"].as_str()), (Some(1), Some("greeting")));
    node.expect("/get?key=greeting", 404, "there is no key").await;
    assert_eq!(node.get("/remove?key=greeting").await.json()["removed"], 0);
}

#[tokio::test]
async fn forms_carry_any_bytes_and_count_before_the_query() {
    let node = Node::start().await;
    let set = node.form("/set?key=query&value=query", "key=a%2Fb%3D+%00&value=%ff%0a").await;
    assert_eq!(set.status, 200, "{}", set.text());
    let got = node.get("/get?key=a%2Fb%3D%20%00").await;
    assert_eq!((got.status, got.body), (200, b"\xff\n".to_vec()));
    node.expect("/get?key=query", 404, "").await;
    let parts =
        node.send("POST", "/set", "Content-Type: multipart/form-data; boundary=x\r\n", b"--x--").await;
    assert_eq!(parts.status, 415, "{}", parts.text());
}

#[tokio::test]
async fn keys_are_listed_by_prefix_in_pages() {
    let node = Node::start().await;
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        node.expect(&format!("/set?key={key}&value=v"), 200, "").await;
    }
    // Not of this face: it has another prefix.
    let put = pb::PutRequest { key: "elsewhere".into(), ..Default::default() };
    node.etcd().await.put(put).await.expect("a put");
    let all = node.get("/keys").await.json();
    assert_eq!(all, serde_json::json!({ "keys": ["a/1", "a/2", "a/3", "b/1"], "more": false }));
    let page = node.get("/keys?prefix=a/&limit=2").await.json();
    assert_eq!(page, serde_json::json!({ "keys": ["a/1", "a/2"], "more": true }));
    let rest = node.get("/keys?prefix=a/&limit=2&after=a/2").await.json();
    assert_eq!(rest, serde_json::json!({ "keys": ["a/3"], "more": false }));
    assert_eq!(node.get("/status").await.json()["keys"], 4);
}

#[tokio::test]
async fn a_key_with_a_time_to_live_goes_by_itself() {
    let node = Node::start().await;
    let set = node.get("/set?key=short&value=v&ttl=1").await;
    assert_eq!((set.status, &set.json()["ttl"]), (200, &1.into()), "{}", set.text());
    node.expect("/get?key=short", 200, "v").await;
    let gone = async {
        while node.get("/get?key=short").await.status != 404 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it ends");
    node.expect("/set?key=k&value=v&ttl=0", 400, "ttl").await;
    node.expect("/set?key=k&value=v&ttl=soon", 400, "ttl").await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let node = Node::start().await;
    for (path, status, text) in [
        ("/set", 400, r#"the parameter \"key\" is missing"#),
        ("/set?key=&value=v", 400, "is missing"),
        ("/set?key=k&vale=v", 400, "the parameters are: key, value, ttl, forward"),
        ("/set?key=%zz&value=v", 400, "hexadecimal"),
        ("/set?key=k&value=v&forward=perhaps", 400, "neither true nor false"),
        ("/get?key=k&level=fresh", 400, "none of local, leader, linearizable"),
        ("/get?key=k&max_stale=soon", 400, "is no length of time"),
        ("/get?key=k&max_stale=-1s", 400, "is no length of time"),
        ("/get?key=k&max_stale=5s&level=linearizable", 400, "max_stale belongs to level=local"),
        ("/keys?limit=0", 400, "no number from 1"),
        ("/log?from=x", 400, "no number"),
        ("/join?nodeId=n2&raftPort=90o1", 400, "raftPort: "),
        ("/join?nodeId=n2&raftPort=70000", 400, "a number from 1 to 65535"),
        ("/join?nodeId=n2", 400, "raftPort"),
        ("/join?raftPort=9001", 400, "nodeId"),
        ("/join?nodeId=a%0ab&raftPort=9001", 400, "nodeId"),
        ("/join?nodeId=n2&raftAddr=nowhere", 400, "host:port"),
        ("/remove", 400, "nodeId"),
        ("/remove?nodeId=n9", 404, "there is no node"),
        ("/leave", 409, "the last voter"),
        ("/transfer?to=n9", 404, "there is no node"),
        ("/snapshot?op=burn", 400, "none of take, download, restore"),
        ("/snapshot?op=restore", 400, "there is no body"),
        ("/members?verbose=1", 400, "nor any other"),
        ("/no/such/path", 404, ""),
    ] {
        node.expect(path, status, text).await;
    }
    let port = free_port().await;
    let unreachable = node.get(&format!("/join?nodeId=n2&raftPort={port}")).await;
    assert_eq!(unreachable.status, 502, "{}", unreachable.text());
    let heard = node.heard();
    assert!(heard.iter().any(|line| line == "Join handler called"), "{heard:?}");
    assert!(heard.iter().any(|line| line.ends_with(" node is n2")), "{heard:?}");
    node.expect("/set?key=alive&value=1", 200, "").await;
}

async fn free_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").port()
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_costs_nothing() {
    let node = Node::with(|config| config.request_bytes_max = 100_000).await;
    let value = "v".repeat(150_000);
    let large = node.form("/set", &format!("key=k&value={value}")).await;
    assert_eq!(large.status, 413, "{}", large.text());
    let key = "k".repeat(70_000);
    let long = node.form("/set", &format!("key={key}&value=v")).await;
    assert_eq!(long.status, 413, "{}", long.text());
    let huge = node.form("/set", &format!("key=k&value={}", "v".repeat(400_000))).await;
    assert_eq!(huge.status, 413, "{}", huge.text());
    node.expect("/get?key=k", 404, "").await;
    node.expect("/set?key=k&value=fits", 200, "").await;
}

#[tokio::test]
async fn a_token_is_asked_for_everywhere_but_for_health() {
    let node = Node::with(|config| config.token = Some("secret".to_owned())).await;
    for path in ["/set?key=k&value=v", "/get?key=k&token=wrong", "/status", "/snapshot?op=download"] {
        let refused = node.get(path).await;
        assert_eq!(refused.status, 401, "{path}: {}", refused.text());
        assert!(refused.head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{}", refused.head);
    }
    node.expect("/healthz", 200, "ok").await;
    node.expect("/readyz", 200, "ok").await;
    node.expect("/set?key=k&value=v&token=secret", 200, "").await;
    let shown = node.send("GET", "/get?key=k", "Authorization: Bearer secret\r\n", b"").await;
    assert_eq!((shown.status, shown.text().as_str()), (200, "v"));
    assert_eq!(node.form("/set", "key=f&value=v&token=secret").await.status, 200);
    assert_eq!(node.form("/set", "key=g&value=v").await.status, 401);
    assert_eq!(node.form("/set", "key=g&value=v&token=secret2").await.status, 401);
    node.expect("/get?key=g&token=secret", 404, "").await;
}

#[tokio::test]
async fn the_log_tells_what_was_agreed_on() {
    let node = Node::start().await;
    node.expect("/set?key=k&value=v", 200, "").await;
    node.expect("/remove?key=k", 200, "").await;
    let log = node.get("/log?from=2").await.json();
    let entries = log["entries"].as_array().expect("entries");
    let what: Vec<&str> = entries.iter().filter_map(|entry| entry["what"].as_str()).collect();
    assert_eq!(what, ["a leader begins term 2", "SET k = v", "DELETE k"], "{log}");
    assert_eq!(entries[0]["kind"], "noop");
    assert_eq!(log["committed"], log["last"]);
    let last = node.get(&format!("/log?from={}&limit=1", log["last"])).await.json();
    assert_eq!(last["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(last["entries"][0]["what"], "DELETE k");
}

#[tokio::test]
async fn a_snapshot_is_taken_downloaded_and_restored_elsewhere() {
    let node = Node::start().await;
    for number in 0..300 {
        node.expect(&format!("/set?key=key{number:03}&value=value{number}"), 200, "").await;
    }
    node.expect("/set?key=%ff&value=%00%01", 200, "").await;
    node.expect("/set?key=leased&value=v&ttl=1000", 200, "").await;
    let taken = node.get("/snapshot").await;
    assert_eq!(taken.status, 200, "{}", taken.text());
    assert!(
        node.get("/status").await.json()["last_snapshot_index"].as_u64() >= taken.json()["index"].as_u64()
    );
    let download = node.get("/snapshot?op=download").await;
    assert_eq!(download.status, 200);
    assert!(download.text().contains(r#""with_ttl":1"#), "{}", download.text());

    let other = Node::start().await;
    let restored = other.send("POST", "/snapshot?op=restore", "", &download.body).await;
    assert_eq!(restored.status, 200, "{}", restored.text());
    assert_eq!(restored.json()["keys"], 301);
    other.expect("/get?key=key299", 200, "value299").await;
    assert_eq!(other.get("/get?key=%ff").await.body, b"\0\x01");
    let again = other.send("POST", "/snapshot?op=restore", "", &download.body).await;
    assert_eq!(again.status, 409, "{}", again.text());
    other.expect("/set?key=extra&value=1", 200, "").await;
    let cut = &download.body[..download.body.len() - 10];
    let refused = other.send("POST", "/snapshot?op=restore&replace=true", "", cut).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    other.expect("/get?key=extra", 200, "1").await;
    let replaced = other.send("POST", "/snapshot?op=restore&replace=true", "", &download.body).await;
    assert_eq!(replaced.status, 200, "{}", replaced.text());
    other.expect("/get?key=extra", 404, "").await;
    other.expect("/get?key=key000", 200, "value0").await;
}

#[tokio::test]
async fn the_node_tells_of_itself_and_its_cluster() {
    let node = Node::start().await;
    let status = node.get("/status").await.json();
    assert_eq!((&status["state"], &status["node_id"]), (&"Leader".into(), &"n1".into()), "{status}");
    assert_eq!(status["num_peers"], 0);
    let configuration = status["latest_configuration"].as_str().unwrap_or_default();
    assert!(configuration.starts_with("[{Suffrage:Voter ID:n1 Address:127.0.0.1:"), "{configuration}");
    let members = node.get("/members").await.json();
    assert_eq!((members[0]["node_id"].as_str(), &members[0]["leader"]), (Some("n1"), &true.into()));
    assert_eq!(node.get("/leader").await.json()["node_id"], "n1");
    assert_eq!(node.get("/transfer?to=n1").await.status, 200);
    // The one who leads takes the write whatever is asked about forwarding.
    node.expect("/set?key=k&value=v&forward=false", 200, "").await;
}

#[tokio::test]
async fn faces_are_exchanged_behind_an_open_port() {
    let node = Node::start().await;
    node.expect("/set?key=k&value=first", 200, "").await;
    let second = member().await;
    node.switch.replace(vec![Arc::new(Balsa::new(second.handle(), Config::default()))]);
    node.expect("/get?key=k", 404, "there is no key").await;
    node.expect("/set?key=k&value=second", 200, "").await;
    node.expect("/get?key=k", 200, "second").await;
    node.expect("/version", 404, "404 page not found").await;
    node.switch.replace(Vec::new());
    node.expect("/get?key=k", 404, "404 page not found").await;
    second.stop();
}

#[tokio::test]
async fn keys_of_a_restore_that_is_under_way_are_nowhere_to_be_seen() {
    let node = Node::with(|config| config.prefix.clear()).await;
    node.expect("/set?key=k&value=v", 200, "").await;
    let mut etcd = node.etcd().await;
    let staged = pb::PutRequest {
        key: b"\0restore/0000000000000007/k2"[..].into(),
        value: b"v"[..].into(),
        ..pb::PutRequest::default()
    };
    etcd.put(staged).await.expect("put");
    let listed = node.get("/keys").await.json();
    assert_eq!((&listed["keys"], &listed["more"]), (&serde_json::json!(["k"]), &false.into()));
    assert_eq!(node.get("/keys?prefix=%00").await.json()["keys"], serde_json::json!([]));
    for request in ["/get?", "/set?value=v&", "/remove?"] {
        let path = format!("{request}key=%00restore/0000000000000007/k2");
        node.expect(&path, 400, "begins as keys of a restore do").await;
    }
    let download = node.get("/snapshot?op=download").await.text();
    assert!(download.contains(r#""key":"k""#) && !download.contains("k2"), "{download}");
    assert!(download.contains(r#""keys":1"#), "{download}");
}

#[tokio::test]
async fn a_body_for_which_there_is_no_memory_is_refused_and_taken_later() {
    let budget = BodyBudget::new(1000).with_timeout(Duration::from_millis(50));
    let node = Node::with(|config| config.bodies = budget.clone()).await;
    let head = "POST /set HTTP/1.1\r\nHost: n1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ";
    let mut slow = TcpStream::connect(node.addr).await.expect("the port is open");
    slow.write_all(format!("{head}900\r\n\r\nkey=slow&value={}", "v".repeat(880)).as_bytes())
        .await
        .expect("sent");
    let form = format!("key=k&value={}", "v".repeat(500));
    let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
    super::etcd2::until("the slow one holds its share", async || budget.bytes_left() < 200).await;
    let refused = node.send("POST", "/set", kind, form.as_bytes()).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.json()["error"].as_str().expect("a reason").contains("nothing was done, try again"));
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", refused.head);
    slow.write_all(b"vvvvv").await.expect("sent");
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    super::etcd2::until("all of it is back", async || budget.bytes_left() == 1000).await;
    assert_eq!(node.send("POST", "/set", kind, form.as_bytes()).await.status, 200);
}
