//! What clients of the v2 API rely on, in both dialects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_faces::etcd2::{Config, Dialect, Etcd2};
use quorate_faces::listener::{BodyBudget, ListenConfig, Serving, serve};
use quorate_member::{Running, start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

/// A member and its port.
pub(crate) struct Machine {
    running: Option<Running>,
    serving: Option<Serving>,
    pub(crate) addr: SocketAddr,
}

impl Machine {
    fn start(member: quorate_member::Config, face: Config, port: u16) -> Self {
        let mut listen = ListenConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
        listen.stop_timeout = Duration::from_millis(100);
        listen.net_threads = 1;
        let running = start(member).expect("a member in memory starts");
        let face = Etcd2::new(running.handle(), face);
        let serving = serve(listen, vec![Arc::new(face)]).expect("a free port");
        let addr = serving.addrs()[0];
        Self { running: Some(running), serving: Some(serving), addr }
    }

    async fn alone(face: Config) -> Self {
        let member = quorate_member::Config {
            heartbeat_interval: Duration::from_millis(10),
            election_timeout: Duration::from_millis(100),
            ..quorate_member::Config::new("machine1")
        };
        let machine = Self::start(member, face, 0);
        machine.running().handle().read_index().await.expect("a cluster of one elects itself");
        machine
    }

    pub(crate) async fn of(dialect: Dialect) -> Self {
        Self::alone(Config::new(dialect, "machine1")).await
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    async fn ask(&self, method: &str, path: &str, form: &str) -> Answered {
        ask(self.addr, method, path, form).await
    }

    /// The status and the body, without the line's end.
    pub(crate) async fn said(&self, method: &str, path: &str, form: &str) -> (u16, String) {
        let answered = self.ask(method, path, form).await;
        (answered.status, answered.body.trim_end().to_owned())
    }

    async fn counted(&self, name: &str) -> u64 {
        let (_, stats) = self.said("GET", "/v2/stats/store", "").await;
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        stats[name].as_u64().expect("a count")
    }

    async fn until_watchers(&self, count: u64) {
        until(&format!("{count} watchers"), async || self.counted("watchers").await == count).await;
    }

    /// Another port for the same member.
    pub(crate) fn beside(&self, face: Config) -> Serving {
        let mut listen = ListenConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        listen.stop_timeout = Duration::from_millis(100);
        listen.net_threads = 1;
        let face = Etcd2::new(self.running().handle(), face);
        serve(listen, vec![Arc::new(face)]).expect("a free port")
    }

    fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.stop();
        }
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn request(method: &str, path: &str, form: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    if !form.is_empty() {
        text +=
            &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len());
    }
    text + "\r\n" + form
}

pub(crate) async fn ask(addr: SocketAddr, method: &str, path: &str, form: &str) -> Answered {
    send(addr, &request(method, path, form)).await
}

/// Sends a request as it is, which closes its connection.
pub(crate) async fn send(addr: SocketAddr, request: &str) -> Answered {
    let asking = async {
        let mut stream = TcpStream::connect(addr).await.expect("the port is open");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("an answer");
        read(&String::from_utf8(bytes).expect("text"))
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no answer to {request}"))
}

/// Reads an answer; one in chunks is put together.
fn read(text: &str) -> Answered {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    let mut whole = String::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        let mut rest = body;
        while let Some((length, after)) = rest.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16).expect("a chunk's length");
            whole.push_str(&after[..length]);
            rest = after[length..].trim_start_matches("\r\n");
        }
    } else {
        whole.push_str(body);
    }
    Answered { status, head: head.to_owned(), body: whole }
}

#[tokio::test]
async fn keys_are_written_read_and_deleted_as_0_4_does_it() {
    let machine = Machine::of(Dialect::V04).await;
    for (method, path, form, status, body) in [
        (
            "PUT",
            "/v2/keys/foo",
            "value=bar",
            201,
            r#"{"action":"set","node":{"key":"/foo","value":"bar","modifiedIndex":1,"createdIndex":1}}"#,
        ),
        (
            "GET",
            "/v2/keys/foo",
            "",
            200,
            r#"{"action":"get","node":{"key":"/foo","value":"bar","modifiedIndex":1,"createdIndex":1}}"#,
        ),
        (
            "PUT",
            "/v2/keys/foo",
            "value=2&prevValue=x",
            412,
            r#"{"errorCode":101,"message":"Compare failed","cause":"[x != bar]","index":1}"#,
        ),
        (
            "PUT",
            "/v2/keys/foo",
            "value=2&prevIndex=1",
            200,
            r#"{"action":"compareAndSwap","node":{"key":"/foo","value":"2","modifiedIndex":2,"createdIndex":1},"prevNode":{"key":"/foo","value":"bar","modifiedIndex":1,"createdIndex":1}}"#,
        ),
        (
            "POST",
            "/v2/keys/q",
            "value=a",
            201,
            r#"{"action":"create","node":{"key":"/q/3","value":"a","modifiedIndex":3,"createdIndex":3}}"#,
        ),
        (
            "GET",
            "/v2/keys/",
            "",
            200,
            r#"{"action":"get","node":{"key":"/","dir":true,"nodes":[{"key":"/foo","value":"2","modifiedIndex":2,"createdIndex":1},{"key":"/q","dir":true,"modifiedIndex":3,"createdIndex":3}]}}"#,
        ),
        (
            "GET",
            "/v2/keys/?recursive=true&quorum=true",
            "",
            200,
            r#"{"action":"get","node":{"key":"/","dir":true,"nodes":[{"key":"/foo","value":"2","modifiedIndex":2,"createdIndex":1},{"key":"/q","dir":true,"nodes":[{"key":"/q/3","value":"a","modifiedIndex":3,"createdIndex":3}],"modifiedIndex":3,"createdIndex":3}]}}"#,
        ),
        (
            "DELETE",
            "/v2/keys/q",
            "",
            403,
            r#"{"errorCode":102,"message":"Not a file","cause":"/q","index":3}"#,
        ),
        (
            "DELETE",
            "/v2/keys/q?recursive=true",
            "",
            200,
            r#"{"action":"delete","node":{"key":"/q","dir":true,"modifiedIndex":4,"createdIndex":3},"prevNode":{"key":"/q","dir":true,"modifiedIndex":3,"createdIndex":3}}"#,
        ),
        (
            "GET",
            "/v2/keys/q",
            "",
            404,
            r#"{"errorCode":100,"message":"Key not found","cause":"/q","index":4}"#,
        ),
        ("GET", "/v1/keys/foo", "", 200, r#"{"action":"get","key":"/foo","value":"2","index":4}"#),
        (
            "POST",
            "/v1/keys/foo",
            "value=3&prevValue=2",
            200,
            r#"{"action":"testAndSet","key":"/foo","prevValue":"2","value":"3","index":5}"#,
        ),
        ("GET", "/version", "", 200, "etcd 0.3.0+git"),
        ("GET", "/v2/leader", "", 200, ""),
        ("PATCH", "/v2/keys/foo", "", 404, "404 page not found"),
    ] {
        if path == "/v2/leader" {
            let (status, url) = machine.said(method, path, form).await;
            assert!(status == 200 && url.starts_with("http://127.0.0.1:"), "{url}");
            continue;
        }
        let said = machine.said(method, path, form).await;
        assert_eq!(said, (status, body.to_owned()), "{method} {path} {form}");
    }
    let answered = machine.ask("GET", "/v2/keys/foo", "").await;
    assert_eq!(answered.header("X-Etcd-Index"), Some("5"), "{}", answered.head);
    assert!(answered.header("X-Raft-Index").is_some() && answered.header("X-Raft-Term").is_some());
    assert!(answered.header("X-Leader-Peer-Url").is_some_and(|url| url.starts_with("http://")));
    assert_eq!(answered.header("Content-Type"), Some("application/json"));
    let head = machine.ask("HEAD", "/v2/keys/foo", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn keys_are_written_read_and_deleted_as_2_x_does_it() {
    let machine = Machine::of(Dialect::V2).await;
    for (method, path, form, status, body) in [
        (
            "PUT",
            "/v2/keys/foo",
            "value=bar",
            201,
            r#"{"action":"set","node":{"key":"/foo","value":"bar","modifiedIndex":1,"createdIndex":1}}"#,
        ),
        (
            "POST",
            "/v2/keys/q",
            "value=a",
            201,
            r#"{"action":"create","node":{"key":"/q/00000000000000000002","value":"a","modifiedIndex":2,"createdIndex":2}}"#,
        ),
        (
            "GET",
            "/v2/keys?sorted=1",
            "",
            200,
            r#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/foo","value":"bar","modifiedIndex":1,"createdIndex":1},{"key":"/q","dir":true,"modifiedIndex":2,"createdIndex":2}]}}"#,
        ),
        ("PUT", "/v2/keys/foo", "value=2&noValueOnSuccess=true", 200, r#"{"action":"set"}"#),
        (
            "PUT",
            "/v2/keys/foo",
            "recursive=maybe",
            400,
            r#"{"errorCode":209,"message":"Invalid field","cause":"invalid value for \"recursive\"","index":0}"#,
        ),
        (
            "PUT",
            "/v2/keys/foo",
            "refresh=true",
            400,
            r#"{"errorCode":212,"message":"A TTL must be provided on refresh","cause":"No TTL value set","index":0}"#,
        ),
        (
            "PUT",
            "/v2/keys/none",
            "refresh=true&ttl=5",
            404,
            r#"{"errorCode":100,"message":"Key not found","cause":"/none","index":3}"#,
        ),
        ("GET", "/v2/auth/enable", "", 200, r#"{"enabled":false}"#),
        ("GET", "/v2/members/none", "", 404, r#"{"message":"Not found"}"#),
        ("DELETE", "/v2/members/12", "", 404, r#"{"message":"No such member: 12"}"#),
        (
            "POST",
            "/v2/members",
            "x=1",
            415,
            r#"{"message":"Bad Content-Type application/x-www-form-urlencoded, accept application/json"}"#,
        ),
        ("PATCH", "/v2/keys/foo", "", 405, "Method Not Allowed"),
        ("DELETE", "/v2/keys/?prevValue=1", "", 403, r#"{"errorCode":102,"message":"Not a file","index":3}"#),
        (
            "DELETE",
            "/v2/keys/?dir=true",
            "",
            400,
            r#"{"errorCode":107,"message":"Root is read only","cause":"/","index":3}"#,
        ),
        ("DELETE", "/v2/members", "", 405, "Method Not Allowed"),
        ("GET", "/v2/leader", "", 404, "404 page not found"),
    ] {
        let said = machine.said(method, path, form).await;
        assert_eq!(said, (status, body.to_owned()), "{method} {path} {form}");
    }
    let answered = machine.ask("PUT", "/v2/keys/foo", "value=3").await;
    assert!(answered.body.ends_with("}\n"), "{:?}", answered.body);
    assert_eq!(answered.header("X-Etcd-Index"), Some("4"));
    let cluster = machine.running().handle().identity().cluster.to_string();
    assert_eq!(answered.header("X-Etcd-Cluster-Id"), Some(cluster.as_str()));
    let refreshed = machine.ask("PUT", "/v2/keys/foo", "refresh=true&ttl=100&prevExist=true").await;
    assert!(refreshed.body.contains(r#""value":"3","expiration":""#), "{}", refreshed.body);
    assert!(refreshed.body.contains(r#""ttl":100,"#), "{}", refreshed.body);
}

#[tokio::test]
async fn malformed_and_oversized_requests_get_the_protocols_own_errors() {
    let machine = Machine::of(Dialect::V04).await;
    let deep = format!("/v2/keys{}", "/d".repeat(1025));
    let long = format!("/v2/keys/{}", "k".repeat(33 * 1024));
    let huge = format!("value={}", "v".repeat(1600 * 1024));
    let larger = format!("value={}", "v".repeat(8 << 20));
    for (method, path, form, status, code) in [
        ("PUT", "/v2/keys/a", "value=1&ttl=5s", 400, 202),
        ("PUT", "/v2/keys/a", "value=1&ttl=99999999999999999999", 400, 202),
        ("PUT", "/v2/keys/a", "value=1&ttl=9223372036854775807", 400, 202),
        ("PUT", "/v2/keys/a", "value=1&prevIndex=-1", 400, 203),
        ("GET", "/v2/keys/a?wait=true&waitIndex=1e3", "", 400, 203),
        ("PUT", "/v2/keys/a", "value=%zz", 400, 210),
        ("GET", "/v2/keys/%zz", "", 400, 210),
        ("PUT", &deep, "value=1", 400, 209),
        ("GET", &long, "", 400, 209),
        ("PUT", "/v2/keys/a", &huge, 413, 210),
        ("PUT", "/v2/keys/a", &larger, 413, 210),
        ("PUT", "/v2/keys/", "value=1", 400, 107),
    ] {
        let (got, body) = machine.said(method, path, form).await;
        let shown = (&path[..path.len().min(60)], &form[..form.len().min(60)]);
        assert_eq!(got, status, "{method} {shown:?}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["errorCode"], code, "{shown:?}: {body}");
        assert!(!body["cause"].as_str().expect("a cause").is_empty(), "{shown:?}");
    }
    let answered = machine.ask("GET", "/v2/keys/a", "").await;
    assert_eq!(answered.header("X-Etcd-Index"), Some("0"), "nothing was changed");
}

#[tokio::test]
async fn a_watch_sees_the_past_what_comes_and_what_is_below() {
    let machine = Machine::of(Dialect::V04).await;
    for value in ["1", "2", "3"] {
        machine.ask("PUT", "/v2/keys/w/a", &format!("value={value}")).await;
    }
    let past = machine.said("GET", "/v2/keys/w/a?wait=true&waitIndex=2", "").await;
    assert!(past.1.contains(r#""value":"2""#), "{past:?}");
    let first = machine.said("GET", "/v2/keys/?wait=true&recursive=true&waitIndex=1", "").await;
    assert!(first.1.contains(r#""key":"/w/a","value":"1""#), "{first:?}");

    let later = |path: &str| {
        let (addr, path) = (machine.addr, path.to_owned());
        tokio::spawn(async move { ask(addr, "GET", &path, "").await })
    };
    let next = later("/v2/keys/w?wait=true&recursive=true");
    let exact = later("/v2/keys/w/b?wait=true");
    let future = later("/v2/keys/w?wait=true&recursive=true&waitIndex=6");
    let parent = later("/v2/keys/w/deep/er?wait=true");
    machine.until_watchers(4).await;
    machine.ask("PUT", "/v2/keys/w/_hidden", "value=x").await;
    machine.ask("PUT", "/v2/keys/w/a", "value=5").await;
    let next = next.await.expect("an answer");
    assert!(
        next.body.contains(r#""value":"5","modifiedIndex":5"#),
        "what is hidden is not seen: {}",
        next.body
    );
    assert_eq!(next.header("X-Etcd-Index"), Some("3"), "the index when it began to watch");
    machine.until_watchers(3).await;
    machine.ask("PUT", "/v2/keys/w/b", "value=6").await;
    assert!(exact.await.expect("an answer").body.contains(r#""key":"/w/b","value":"6""#));
    assert!(future.await.expect("an answer").body.contains(r#""modifiedIndex":6"#));
    machine.ask("DELETE", "/v2/keys/w?recursive=true", "").await;
    let parent = parent.await.expect("an answer");
    assert!(
        parent.body.starts_with(r#"{"action":"delete","node":{"key":"/w","dir":true"#),
        "{}",
        parent.body
    );
    machine.until_watchers(0).await;
}

#[tokio::test]
async fn a_watch_of_what_history_has_forgotten_is_told_where_history_starts() {
    let config = Config { history_events: Some(3), ..Config::new(Dialect::V2, "machine1") };
    let machine = Machine::alone(config).await;
    let window = || quorate_models::tree::history_window(&machine.running().handle().store().read());
    until("the window", async || window() == 3).await;
    for value in 0..10 {
        machine.ask("PUT", "/v2/keys/a", &format!("value={value}")).await;
    }
    let cleared = machine.said("GET", "/v2/keys/a?wait=true&waitIndex=2", "").await;
    assert_eq!(
        cleared,
        (400, r#"{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [8/2]","index":10}"#.to_owned())
    );
    let kept = machine.said("GET", "/v2/keys/a?wait=true&waitIndex=8", "").await;
    assert!(kept.1.contains(r#""modifiedIndex":8"#), "{kept:?}");
}

/// Reads events from a stream of chunks until there are `count`.
async fn events(stream: &mut TcpStream, count: usize) -> Vec<u64> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    let reading = async {
        loop {
            let found: Vec<u64> = text
                .split(r#""node":"#)
                .skip(1)
                .filter_map(|node| node.split(r#""modifiedIndex":"#).nth(1)?.split(',').next()?.parse().ok())
                .collect();
            if found.len() >= count {
                return found;
            }
            let read = stream.read(&mut buffer).await.expect("a stream");
            assert!(read > 0, "the stream ended: {text}");
            text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("events in time")
}

#[tokio::test]
async fn a_stream_goes_on_from_the_past_and_ends_with_its_client() {
    for dialect in [Dialect::V04, Dialect::V2] {
        let machine = Machine::of(dialect).await;
        for value in 0..5 {
            machine.ask("PUT", "/v2/keys/s/a", &format!("value={value}")).await;
        }
        let mut stream = TcpStream::connect(machine.addr).await.expect("the port is open");
        let path = "/v2/keys/s?wait=true&stream=true&recursive=true&waitIndex=3";
        stream.write_all(request("GET", path, "").as_bytes()).await.expect("sent");
        assert_eq!(events(&mut stream, 3).await, [3, 4, 5]);
        for value in 0..20 {
            machine.ask("PUT", "/v2/keys/s/b", &format!("value={value}")).await;
        }
        assert_eq!(events(&mut stream, 20).await, (6..=25).collect::<Vec<u64>>());
        machine.until_watchers(1).await;
        drop(stream);
        machine.until_watchers(0).await;
    }
}

#[tokio::test]
async fn watches_whose_clients_went_away_are_forgotten() {
    const WATCHES: u64 = 300;
    const WATCHES_AT_A_TIME: u64 = 30;
    for dialect in [Dialect::V04, Dialect::V2] {
        let machine = Machine::of(dialect).await;
        let mut streams = Vec::new();
        for number in 0..WATCHES {
            let mut stream = TcpStream::connect(machine.addr).await.expect("the port is open");
            let path = format!("/v2/keys/h/{number}?wait=true");
            stream.write_all(request("GET", &path, "").as_bytes()).await.expect("sent");
            streams.push(stream);
            // A burst of connections could be more than wait in the system's queue on a busy machine.
            if number % WATCHES_AT_A_TIME == 0 {
                machine.until_watchers(number + 1).await;
            }
        }
        machine.until_watchers(WATCHES).await;
        // Half of them say that they send nothing more, as those do that are about to go.
        for stream in streams.iter_mut().step_by(2) {
            stream.shutdown().await.expect("half closed");
        }
        machine.until_watchers(WATCHES / 2).await;
        drop(streams);
        machine.until_watchers(0).await;
    }
}

#[tokio::test]
async fn a_lock_goes_from_one_to_the_next() {
    let machine = Machine::of(Dialect::V04).await;
    let lock = "/mod/v2/lock/l";
    assert_eq!(machine.said("GET", lock, "").await.0, 404);
    let (status, first) = machine.said("POST", lock, "ttl=100&value=one").await;
    assert_eq!(status, 200);
    assert_eq!(machine.said("GET", lock, "").await, (200, "one".to_owned()));
    assert_eq!(machine.said("GET", &format!("{lock}?field=index"), "").await, (200, first));
    let refused = machine.said("POST", lock, "ttl=100&value=other&timeout=0").await;
    assert_eq!(refused, (500, "failed to acquire lock".to_owned()));

    let addr = machine.addr;
    let second = tokio::spawn(async move { ask(addr, "POST", "/mod/v2/lock/l", "ttl=1&value=two").await });
    let claims =
        async || machine.said("GET", "/v2/keys/_etcd/mod/lock/l", "").await.1.matches("value").count();
    until("two claims", async || claims().await == 2).await;
    // A third waits and goes away: nothing of it is left.
    let mut third = TcpStream::connect(addr).await.expect("the port is open");
    third.write_all(request("POST", lock, "ttl=100&value=three").as_bytes()).await.expect("sent");
    until("three claims", async || claims().await == 3).await;
    drop(third);
    until("two claims again", async || claims().await == 2).await;
    // The second waits for longer than its time: it is kept alive.
    let renewed = machine.counted("updateSuccess").await;
    until("two renewals", async || machine.counted("updateSuccess").await >= renewed + 2).await;
    assert!(!second.is_finished());
    assert_eq!(machine.said("DELETE", &format!("{lock}?value=one"), "").await.0, 200);
    assert_eq!(second.await.expect("an answer").status, 200);
    // Nobody keeps the second alive any more.
    until("a free lock", async || machine.said("GET", lock, "").await == (200, String::new())).await;
    assert_eq!(machine.said("DELETE", &format!("{lock}?value=two"), "").await.0, 404);

    let leader = "/mod/v2/leader/l";
    assert_eq!(machine.said("PUT", leader, "ttl=100").await.0, 400);
    assert_eq!(machine.said("PUT", leader, "name=n1&ttl=100").await.0, 200);
    assert_eq!(machine.said("GET", leader, "").await, (200, "n1".to_owned()));
    assert_eq!(machine.said("PUT", leader, "name=n2&ttl=100&timeout=0").await.0, 500);
    assert_eq!(machine.said("DELETE", &format!("{leader}?name=n1"), "").await.0, 200);
}

#[tokio::test]
async fn web_pages_of_allowed_origins_may_call() {
    let config =
        Config { cors_origins: vec!["http://a".to_owned()], ..Config::new(Dialect::V04, "machine1") };
    let machine = Machine::alone(config).await;
    for (origin, told) in [("http://a", Some("http://a")), ("http://b", None)] {
        let mut stream = TcpStream::connect(machine.addr).await.expect("the port is open");
        let request = "OPTIONS /v2/keys/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: ";
        stream.write_all(format!("{request}{origin}\r\n\r\n").as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        let answered = read(&text);
        assert_eq!((answered.status, answered.header("Access-Control-Allow-Origin")), (200, told));
    }
}

/// Three machines, each redirecting or each forwarding.
async fn three(forward: bool) -> Vec<Machine> {
    three_of(|name| Config { forward, ..Config::new(Dialect::V04, name) }).await
}

pub(crate) async fn three_of(face: impl Fn(String) -> Config) -> Vec<Machine> {
    // All are taken at a time, so that no two are the same.
    let taken: Vec<_> =
        (0..6).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<u16> =
        taken.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
    drop(taken);
    let name = |number: usize| format!("machine{}", number + 1);
    let peer_url = |number: usize| format!("http://127.0.0.1:{}", ports[number]);
    let machines: Vec<Machine> = (0..3)
        .map(|number| {
            let member = quorate_member::Config {
                heartbeat_interval: Duration::from_millis(50),
                election_timeout: Duration::from_millis(500),
                listen_peer: vec![SocketAddr::from(([127, 0, 0, 1], ports[number]))],
                advertise_peer_urls: vec![peer_url(number)],
                advertise_client_urls: vec![format!("http://127.0.0.1:{}", ports[3 + number])],
                initial_cluster: (0..3).map(|number| (name(number), peer_url(number))).collect(),
                ..quorate_member::Config::new(name(number))
            };
            Machine::start(member, face(name(number)), ports[3 + number])
        })
        .collect();
    for (number, machine) in machines.iter().enumerate() {
        let url = [format!("http://{}", machine.addr)];
        let running = machine.running();
        until("published", async || running.publish(&name(number), &url).await.is_ok()).await;
    }
    machines
}

/// The places of the leader and of a follower.
pub(crate) async fn roles(machines: &[Machine]) -> (usize, usize) {
    let known = |machine: &Machine| machine.running().handle().status();
    let leader = || {
        let leader = machines.iter().position(|machine| known(machine).is_leader)?;
        let id = machines[leader].running().handle().identity().member;
        machines.iter().all(|machine| known(machine).leader == Some(id)).then_some(leader)
    };
    until("one leader for all", async || leader().is_some()).await;
    let leader = leader().expect("a leader");
    (leader, (leader + 1) % machines.len())
}

#[tokio::test]
async fn followers_send_clients_to_the_leader_and_nobody_answers_without_one() {
    let mut machines = three(false).await;
    let (leader, follower) = roles(&machines).await;
    let to = format!("http://{}", machines[leader].addr);
    for (method, path, form) in [
        ("PUT", "/v2/keys/a?ttl=100", "value=1"),
        ("DELETE", "/v2/keys/a", ""),
        ("GET", "/v2/keys/a?consistent=true", ""),
        ("POST", "/v1/keys/a", "value=1"),
        ("GET", "/v2/stats/leader", ""),
    ] {
        let answered = machines[follower].ask(method, path, form).await;
        assert_eq!(answered.status, 307, "{method} {path}: {answered:?}");
        assert_eq!(answered.header("Location"), Some(format!("{to}{path}").as_str()));
        assert_eq!(answered.body, "");
    }
    assert_eq!(machines[leader].ask("PUT", "/v2/keys/a", "value=1").await.status, 201);
    // Linearizable on the follower itself.
    let read = machines[follower].said("GET", "/v2/keys/a?quorum=true", "").await;
    assert!(read.1.contains(r#""value":"1""#), "{read:?}");
    let (_, all) = machines[follower].said("GET", "/v2/machines", "").await;
    assert!(all.starts_with(&to) && all.split(", ").count() == 3, "{all}");
    let self_stats = machines[follower].said("GET", "/v2/stats/self", "").await.1;
    assert!(self_stats.contains(r#""state":"follower""#), "{self_stats}");

    let others: Vec<usize> = (0..3).filter(|number| *number != follower).collect();
    for number in others {
        machines[number].stop();
    }
    let last = &machines[follower];
    until("no leader", async || last.running().handle().status().leader.is_none()).await;
    let leader = last.said("GET", "/v2/leader", "").await;
    assert_eq!(leader, (500, r#"{"errorCode":301,"message":"During Leader Election","index":1}"#.to_owned()));
    let write = last.said("PUT", "/v2/keys/a", "value=2").await;
    assert_eq!(write, (500, r#"{"errorCode":300,"message":"Raft Internal Error","index":1}"#.to_owned()));
    let read = last.said("GET", "/v2/keys/a", "").await;
    assert!(read.0 == 200 && read.1.contains(r#""value":"1""#), "what is here can be read: {read:?}");
}

#[tokio::test]
async fn a_follower_that_forwards_answers_on_the_spot() {
    let machines = three(true).await;
    let (_, follower) = roles(&machines).await;
    let written = machines[follower].said("PUT", "/v2/keys/a", "value=1").await;
    assert_eq!(written.0, 201, "{written:?}");
    let read = machines[follower].said("GET", "/v2/keys/a?consistent=true", "").await;
    assert!(read.0 == 200 && read.1.contains(r#""value":"1""#), "{read:?}");
}

#[tokio::test]
async fn a_tree_of_2_x_never_shows_an_index_of_0_to_who_lists_and_then_watches() {
    let config = Config { begins_after: 3, ..Config::new(Dialect::V2, "machine1") };
    let machine = Machine::alone(config).await;
    let index =
        async || machine.ask("GET", "/v2/keys/", "").await.header("X-Etcd-Index").map(ToOwned::to_owned);
    until("it begins by itself", async || index().await.as_deref() == Some("3")).await;
    let first = machine.said("PUT", "/v2/keys/foo", "value=bar").await;
    let expected =
        r#"{"action":"set","node":{"key":"/foo","value":"bar","modifiedIndex":4,"createdIndex":4}}"#;
    assert_eq!(first, (201, expected.to_owned()));
    let seen = machine.said("GET", "/v2/keys/?recursive=true&wait=true&waitIndex=4", "").await;
    assert_eq!(seen, (200, expected.to_owned()));
    // Another face of the same tree leaves it as it is.
    let other = machine.beside(Config { begins_after: 90, ..Config::new(Dialect::V2, "machine1") });
    let second = ask(other.addrs()[0], "PUT", "/v2/keys/foo", "value=baz").await;
    assert!(second.body.contains("\"modifiedIndex\":5"), "{}", second.body);
    tokio::task::spawn_blocking(|| other.stop()).await.expect("stopped");
}

#[tokio::test]
async fn a_member_that_was_removed_is_gone_and_one_that_never_was_is_not_found() {
    let machines = three_of(|name| Config::new(Dialect::V2, name)).await;
    let (leader, follower) = roles(&machines).await;
    let id = machines[follower].running().handle().identity().member;
    let path = format!("/v2/members/{id}");
    until("it is removed", async || machines[leader].said("DELETE", &path, "").await.0 == 410).await;
    let gone = machines[leader].said("DELETE", &path, "").await;
    assert_eq!(gone, (410, format!("{{\"message\":\"Member permanently removed: {id}\"}}")));
    let unknown = machines[leader].said("DELETE", "/v2/members/123", "").await;
    assert_eq!(unknown, (404, r#"{"message":"No such member: 123"}"#.to_owned()));
}

#[tokio::test]
async fn a_body_for_which_there_is_no_memory_is_refused_and_taken_later() {
    for dialect in [Dialect::V04, Dialect::V2] {
        let budget = BodyBudget::new(1000).with_timeout(Duration::from_millis(50));
        let bodies = budget.clone();
        let machine = Machine::alone(Config { bodies, ..Config::new(dialect, "machine1") }).await;
        let slow = request("PUT", "/v2/keys/slow", &format!("value={}", "v".repeat(880)));
        let (first, last) = slow.split_at(slow.len() - 5);
        let mut stream = TcpStream::connect(machine.addr).await.expect("the port is open");
        stream.write_all(first.as_bytes()).await.expect("sent");
        let form = format!("value={}", "v".repeat(500));
        until("the slow one holds its share", async || budget.bytes_left() < 200).await;
        let refused = machine.ask("PUT", "/v2/keys/a", &form).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(refused.body.contains("\"errorCode\":300"), "{}", refused.body);
        assert!(refused.body.contains("nothing was done, try again in a moment"), "{}", refused.body);
        assert_eq!(machine.ask("GET", "/v2/keys/", "").await.status, 200, "what has no body is answered");
        stream.write_all(last.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        until("all of it is back", async || budget.bytes_left() == 1000).await;
        assert_eq!(machine.said("PUT", "/v2/keys/a", &form).await.0, 201);
    }
}
