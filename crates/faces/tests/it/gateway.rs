//! The JSON form of etcd v3's calls, as scripts and clients without gRPC use it.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::Cluster;
use crate::etcd2::{Answered, send};

const PATIENCE: Duration = Duration::from_secs(30);

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

async fn post_text(addr: SocketAddr, path: &str, body: &str) -> Answered {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send(addr, &request).await
}

/// Status and answer.
async fn post(addr: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    let answered = post_text(addr, path, &body.to_string()).await;
    let value = serde_json::from_str(&answered.body).unwrap_or_else(|error| panic!("{error}: {answered:?}"));
    (answered.status, value)
}

/// The answer of a call that goes well, without its header.
async fn said(addr: SocketAddr, path: &str, body: Value) -> Value {
    let (status, mut answer) = post(addr, path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
    let header = answer.as_object_mut().expect("an object").remove("header").expect("a header");
    assert!(header["cluster_id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()), "{header}");
    answer
}

#[tokio::test]
async fn keys_are_put_read_and_deleted() {
    let cluster = Cluster::start().await;
    let addr = cluster.addr;
    let (foo, bar) = (base64("foo"), base64("b\u{e4}r"));
    assert_eq!(said(addr, "/v3/kv/put", json!({"key": foo, "value": bar})).await, json!({}));
    let stored =
        json!({"key": foo, "create_revision": "2", "mod_revision": "2", "version": "1", "value": bar});
    let one = json!({"kvs": [stored], "count": "1"});
    for (path, request) in [
        ("/v3/kv/range", json!({"key": foo})),
        ("/v3beta/kv/range", json!({"key": foo, "serializable": true})),
        (
            "/v3/kv/range",
            json!({"key": foo, "rangeEnd": base64("fop"), "sortOrder": "DESCEND", "sort_target": "MOD"}),
        ),
        (
            "/v3/kv/range",
            json!({"key": foo, "limit": "1", "revision": 2, "what_nobody_knows": {"at": ["all"]}}),
        ),
    ] {
        assert_eq!(said(addr, path, request).await, one);
    }
    let all = json!({"key": "AA==", "range_end": "AA==", "keys_only": true});
    let without_value = json!({"key": foo, "create_revision": "2", "mod_revision": "2", "version": "1"});
    assert_eq!(said(addr, "/v3/kv/range", all).await, json!({"kvs": [without_value], "count": "1"}));
    let deleted = said(addr, "/v3/kv/deleterange", json!({"key": foo, "prev_kv": true})).await;
    assert_eq!(deleted, json!({"deleted": "1", "prev_kvs": [stored]}));
    assert_eq!(said(addr, "/v3/kv/range", json!({"key": foo})).await, json!({}));
    assert_eq!(said(addr, "/v3/kv/compaction", json!({"revision": "3", "physical": true})).await, json!({}));
}

#[tokio::test]
async fn a_transaction_compares_and_answers_each_operation() {
    let cluster = Cluster::start().await;
    let (addr, key) = (cluster.addr, base64("k"));
    let txn = json!({
        "compare": [{"key": key, "target": "CREATE", "createRevision": "0"}],
        "success": [{"requestPut": {"key": key, "value": base64("v")}}, {"request_range": {"key": key}}],
        "failure": [{"requestDeleteRange": {"key": key}}],
    });
    let first = said(addr, "/v3/kv/txn", txn.clone()).await;
    assert_eq!(first["succeeded"], true);
    assert_eq!(first["responses"][0], json!({"response_put": {"header": {"revision": "2"}}}));
    assert_eq!(first["responses"][1]["response_range"]["kvs"][0]["value"], base64("v"));
    let second = said(addr, "/v3/kv/txn", txn).await;
    assert_eq!(second["succeeded"], Value::Null, "what has its default is left out");
    assert_eq!(second["responses"][0]["response_delete_range"]["deleted"], "1");
}

#[tokio::test]
async fn leases_locks_members_and_status() {
    let cluster = Cluster::start().await;
    let addr = cluster.addr;
    let granted = said(addr, "/v3/lease/grant", json!({"TTL": 100, "ID": "77"})).await;
    assert_eq!(granted, json!({"ID": "77", "TTL": "100"}));
    let (status, kept) = post(addr, "/v3/lease/keepalive", &json!({"ID": "77"})).await;
    assert_eq!((status, &kept["result"]["TTL"]), (200, &json!("100")), "a line: {kept}");
    let left = said(addr, "/v3/kv/lease/timetolive", json!({"ID": 77, "keys": true})).await;
    assert_eq!((&left["ID"], &left["grantedTTL"]), (&json!("77"), &json!("100")));
    let locked = said(addr, "/v3/lock/lock", json!({"name": base64("l"), "lease": "77"})).await;
    assert_eq!(locked["key"], base64("l/4d"));
    assert_eq!(said(addr, "/v3/lock/unlock", json!({"key": locked["key"]})).await, json!({}));
    assert_eq!(said(addr, "/v3/lease/leases", json!({})).await, json!({"leases": [{"ID": "77"}]}));
    assert_eq!(said(addr, "/v3/lease/revoke", json!({"ID": "77"})).await, json!({}));
    let members = said(addr, "/v3/cluster/member/list", json!({})).await;
    assert_eq!(members["members"][0]["name"], "a");
    // As with etcd, a body may be missing, too.
    let status = post_text(addr, "/v3/maintenance/status", "").await;
    assert_eq!(status.header("Content-Type"), Some("application/json"));
    let status: Value = serde_json::from_str(&status.body).expect("JSON");
    assert_eq!(status["version"], "3.7.1");
    assert!(status["dbSize"].is_string(), "{status}");
}

#[tokio::test]
async fn a_watch_streams_a_result_a_line_until_the_client_goes() {
    let cluster = Cluster::start().await;
    let addr = cluster.addr;
    let body = json!({"create_request": {"key": base64("w"), "range_end": base64("x")}}).to_string();
    let mut stream = TcpStream::connect(addr).await.expect("the port is open");
    let head =
        format!("POST /v3/watch HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let mut next = async || {
        let line = async {
            loop {
                let line = lines.next_line().await.expect("readable").expect("it goes on");
                if line.starts_with('{') {
                    return serde_json::from_str::<Value>(&line).expect("JSON");
                }
            }
        };
        tokio::time::timeout(PATIENCE, line).await.expect("in time")
    };
    assert_eq!(next().await["result"]["created"], true);
    for number in 1..=3 {
        said(addr, "/v3/kv/put", json!({"key": base64("w1"), "value": base64(&number.to_string())})).await;
        let event = &next().await["result"]["events"][0];
        assert_eq!(event["kv"]["value"], base64(&number.to_string()));
        assert_eq!(event["type"], Value::Null, "a put is the default");
    }
    said(addr, "/v3/kv/deleterange", json!({"key": base64("w1")})).await;
    assert_eq!(next().await["result"]["events"][0]["type"], "DELETE");
}

#[tokio::test]
async fn large_values_and_answers_go_through_and_larger_ones_do_not() {
    let cluster = Cluster::with(|face, _| face.answer_bytes_max = 8 << 20).await;
    let addr = cluster.addr;
    let value = STANDARD.encode(vec![7; 1 << 20]);
    said(addr, "/v3/kv/put", json!({"key": base64("k1"), "value": value})).await;
    assert_eq!(said(addr, "/v3/kv/range", json!({"key": base64("k1")})).await["kvs"][0]["value"], value);
    said(addr, "/v3/kv/put", json!({"key": base64("k2"), "value": value})).await;
    let both = json!({"key": base64("k"), "range_end": base64("l")});
    let (status, refused) = post(addr, "/v3/kv/range", &both).await;
    assert_eq!((status, &refused["code"]), (429, &json!(8)), "{refused}");
    let (status, refused) = post(
        addr,
        "/v3/kv/put",
        &json!({"key": base64("k3"), "value": STANDARD.encode(vec![7; 1600 * 1024])}),
    )
    .await;
    assert_eq!((status, &refused["message"]), (400, &json!("etcdserver: request is too large")));
}

#[tokio::test]
async fn what_can_not_be_done_is_said_with_the_code_of_grpc_and_of_http() {
    let cluster = Cluster::start().await;
    let addr = cluster.addr;
    let refused = async |path: &str, body: &str| {
        let answered = post_text(addr, path, body).await;
        let said: Value = serde_json::from_str(&answered.body).expect("JSON");
        assert_eq!(said["error"], said["message"], "as older etcds tell it");
        (
            answered.status,
            said["code"].as_u64().expect("a code"),
            said["message"].as_str().expect("a text").to_owned(),
        )
    };
    let message = |text: &str| text.to_owned();
    assert_eq!(refused("/v3/kv/put", "{}").await, (400, 3, message("etcdserver: key is not provided")));
    assert_eq!(
        refused("/v3/lease/revoke", r#"{"ID":5}"#).await,
        (404, 5, message("etcdserver: requested lease not found"))
    );
    let future = format!(r#"{{"key":"{}","revision":99}}"#, base64("k"));
    let text = message("etcdserver: mvcc: required revision is a future revision");
    assert_eq!(refused("/v3/kv/range", &future).await, (400, 11, text));
    assert_eq!(refused("/v3/kv/nothing", "{}").await, (404, 5, message("Not Found")));
    assert_eq!(refused("/v3/auth/enable", "{}").await.0, 501);
    for senseless in
        ["{", "[]", "nonsense", r#"{"key":5}"#, r#"{"key":"not base64!"}"#, r#"{"limit":"x"}"#, "\u{0}"]
    {
        let (status, code, text) = refused("/v3/kv/range", senseless).await;
        assert_eq!((status, code), (400, 3), "{senseless}: {text}");
    }
    for senseless in ["{", "[]", "nonsense"] {
        assert_eq!(refused("/v3/watch", senseless).await.0, 400, "{senseless}");
    }
    let get = send(addr, "GET /v3/kv/range HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(get.status, 501);
}

#[tokio::test]
async fn a_face_without_the_gateway_has_nothing_there() {
    let cluster = Cluster::with(|face, _| face.json_gateway = false).await;
    assert_eq!(post_text(cluster.addr, "/v3/kv/range", "{}").await.status, 404);
}
