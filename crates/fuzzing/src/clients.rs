//! What clients send: messages of etcd v3, parameters of etcd v2's API and of balsa's.

use bytes::Bytes;
use prost::Message;
use quorate_faces::etcd2::{self, Dialect};
use quorate_faces::etcd3::{Config, gateway::Gateway, grpc, requests};
use quorate_faces::{balsa, etcd2::fuzzing as etcd2_fuzzing};
use quorate_models::keys;
use quorate_wire::etcdserverpb as pb;

use crate::Outcome;

/// Decodes the message of a call, its method chosen by the first byte, and makes a command or query of it where it is
/// one: what comes out, the model takes.
pub fn etcd3_request(input: &[u8]) -> Outcome {
    let Some((method, rest)) = input.split_first() else { return Outcome::Refused };
    let bytes = Bytes::copy_from_slice(rest);
    let taken = match method {
        0 => message(bytes, |put: pb::PutRequest| {
            requests::put(put).map(|put| in_log(&keys::Command::Put(put))).is_ok()
        }),
        1 => message(bytes, |range: pb::RangeRequest| requests::range(range).is_ok()),
        2 => message(bytes, |delete: pb::DeleteRangeRequest| {
            requests::delete_range(delete).map(|delete| in_log(&keys::Command::DeleteRange(delete))).is_ok()
        }),
        3 => message(bytes, transaction),
        4 => message(bytes, |_: pb::WatchRequest| true),
        5 => message(bytes, |_: pb::LeaseGrantRequest| true),
        6 => message(bytes, |_: pb::LeaseKeepAliveRequest| true),
        7 => message(bytes, |_: pb::MemberAddRequest| true),
        8 => message(bytes, |_: pb::CompactionRequest| true),
        9 => message(bytes, |_: pb::AlarmRequest| true),
        _ => return Outcome::Refused,
    };
    Outcome::taken_if(taken)
}

/// Decodes a message, which must survive being encoded, and hands it on.
fn message<M: Message + Default + Clone + PartialEq>(bytes: Bytes, look: impl FnOnce(M) -> bool) -> bool {
    let Ok(message) = grpc::decode::<M>(bytes) else { return false };
    let again = grpc::decode::<M>(message.encode_to_vec().into());
    assert!(again.is_ok_and(|again| again == message), "a message decodes to another one");
    look(message)
}

fn transaction(request: pb::TxnRequest) -> bool {
    let _ = requests::reads_serializably(&request);
    let Ok(txn) = requests::txn(request, Config::default().txn_ops_max) else { return false };
    let _ = requests::puts(&txn);
    in_log(&keys::Command::Txn(txn));
    true
}

fn in_log(command: &keys::Command) {
    let decoded = keys::decode(&keys::encode(command));
    assert_eq!(decoded.as_ref(), Ok(command), "a command that a face made is another one in the log");
}

/// Paths of the JSON gateway, chosen by the first byte of an input.
const JSON_PATHS: [&str; 6] = [
    "/v3/kv/put",
    "/v3/kv/range",
    "/v3/kv/txn",
    "/v3/watch",
    "/v3/lease/grant",
    "/v3beta/cluster/member/add",
];

/// Reads the JSON of a call. What it means is told as JSON that means the same.
pub fn etcd3_json(input: &[u8]) -> Outcome {
    thread_local! {
        static GATEWAY: Gateway = Gateway::default();
    }
    let Some((path, body)) = input.split_first() else { return Outcome::Refused };
    let Some(path) = JSON_PATHS.get(usize::from(*path)) else { return Outcome::Refused };
    GATEWAY.with(|gateway| {
        let Ok(message) = gateway.request(path, body).expect("a path of the gateway") else {
            return Outcome::Refused;
        };
        let told =
            gateway.body(path, message.clone()).expect("the same path").expect("what was read can be told");
        let again = gateway.request(path, &told).expect("the same path");
        assert_eq!(again, Ok(message), "{}", String::from_utf8_lossy(&told));
        Outcome::Taken
    })
}

/// A body for each path.
pub fn json_seeds() -> Vec<(String, Vec<u8>)> {
    let bodies = [
        r#"{"key":"Zm9v","value":"YmFy","lease":"7","prev_kv":true,"ignoreLease":false}"#,
        r#"{"key":"AA==","range_end":"AA==","limit":"3","sort_order":"DESCEND","sortTarget":1,"unknown":[{}]}"#,
        r#"{"compare":[{"key":"Zm9v","target":"MOD","result":"GREATER","modRevision":-1}],"success":[{"requestTxn":{"failure":[{"request_put":{"key":"Zm9v"}}]}}]}"#,
        r#"{"create_request":{"key":"Zm9v","start_revision":"1","filters":["NOPUT"]}}"#,
        r#"{"TTL":60,"ID":"-9223372036854775808"}"#,
        r#"{"peerURLs":["http://127.0.0.1:2380"],"isLearner":true}"#,
    ];
    let each = bodies.iter().zip(JSON_PATHS).enumerate().map(|(number, (body, path))| {
        let name = path.trim_start_matches('/').replace('/', "-");
        (name, [&[number as u8], body.as_bytes()].concat())
    });
    each.collect()
}

/// A message for each method; of transactions, one with everything, and one that nests deep.
pub fn etcd3_seeds() -> Vec<(String, Vec<u8>)> {
    use pb::request_op::Request;
    let key = || Bytes::from_static(b"key");
    let op = |request| pb::RequestOp { request: Some(request) };
    let put = pb::PutRequest {
        key: key(),
        value: Bytes::from_static(b"value"),
        lease: 7,
        prev_kv: true,
        ..Default::default()
    };
    let range = pb::RangeRequest {
        key: key(),
        range_end: Bytes::from_static(b"\0"),
        limit: 3,
        revision: 9,
        sort_order: 2,
        sort_target: 4,
        min_mod_revision: 1,
        ..Default::default()
    };
    let delete =
        pb::DeleteRangeRequest { key: Bytes::from_static(b"other"), prev_kv: true, ..Default::default() };
    let compare = pb::Compare {
        result: 1,
        target: 3,
        key: key(),
        target_union: Some(pb::compare::TargetUnion::Value(key())),
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![
            op(Request::RequestPut(put.clone())),
            op(Request::RequestRange(range.clone())),
            op(Request::RequestDeleteRange(delete.clone())),
        ],
        failure: vec![op(Request::RequestRange(range.clone()))],
    };
    let nested = |txn: pb::TxnRequest| pb::TxnRequest {
        success: vec![op(Request::RequestTxn(txn))],
        ..Default::default()
    };
    let deep = (0..20).fold(txn.clone(), |txn, _| nested(txn));
    let create = pb::WatchCreateRequest {
        key: key(),
        range_end: Bytes::from_static(b"kez"),
        start_revision: 5,
        watch_id: 3,
        filters: vec![1],
        ..Default::default()
    };
    let watch =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let member = pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true };
    let seed =
        |name: &str, method: u8, message: Vec<u8>| (name.to_owned(), [&[method], &message[..]].concat());
    vec![
        seed("put", 0, put.encode_to_vec()),
        seed("range", 1, range.encode_to_vec()),
        seed("delete", 2, delete.encode_to_vec()),
        seed("txn", 3, txn.encode_to_vec()),
        seed("txn-deep", 3, deep.encode_to_vec()),
        seed("watch", 4, watch.encode_to_vec()),
        seed("grant", 5, pb::LeaseGrantRequest { ttl: 60, id: -3 }.encode_to_vec()),
        seed("keep-alive", 6, pb::LeaseKeepAliveRequest { id: 3 }.encode_to_vec()),
        seed("member-add", 7, member.encode_to_vec()),
        seed("compaction", 8, pb::CompactionRequest { revision: 5, physical: true }.encode_to_vec()),
        seed("alarm", 9, pb::AlarmRequest { action: 1, member_id: 3, alarm: 1 }.encode_to_vec()),
    ]
}

/// Reads what a request for a key asks for: the first byte chooses dialect and method, a line feed separates body and
/// query. With 255 it is a cluster's settings as JSON.
pub fn etcd2_request(input: &[u8]) -> Outcome {
    use http::Method;
    let Some((how, rest)) = input.split_first() else { return Outcome::Refused };
    if *how == 255 {
        return Outcome::taken_if(etcd2_fuzzing::cluster_settings(rest));
    }
    let dialect = if how & 1 == 0 { Dialect::V04 } else { Dialect::V2 };
    let method = [Method::GET, Method::PUT, Method::POST, Method::DELETE][usize::from(how >> 1 & 3)].clone();
    let (body, query) = split_lines(rest);
    Outcome::taken_if(etcd2::fuzzing::parameters(dialect, &method, body, query))
}

fn split_lines(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, b""),
    }
}

/// Requests of each method, in both dialects where both take it.
pub fn etcd2_seeds() -> Vec<(String, Vec<u8>)> {
    let texts = [
        ("get", 0, "\nrecursive=true&quorum=true"),
        ("wait", 0, "\nwait=true&waitIndex=7&stream=true"),
        ("set", 2, "value=a+b%2Fc&ttl=5\n"),
        ("swap", 2, "value=1&prevValue=0&prevIndex=9\nprevExist=true"),
        ("in-order", 4, "value=x\ndir=false"),
        ("delete", 6, "\ndir=true&recursive=true"),
        ("compare-and-delete", 6, "\nprevIndex=18446744073709551615"),
    ];
    let mut seeds = Vec::new();
    for (name, how, text) in texts {
        for (dialect, number) in [("04", 0), ("2", 1)] {
            seeds.push((format!("{name}-{dialect}"), [&[how | number], text.as_bytes()].concat()));
        }
    }
    let refresh = b"refresh=true&ttl=3&prevExist=true&noValueOnSuccess=1\n";
    seeds.push(("refresh-2".to_owned(), [&[3], &refresh[..]].concat()));
    let json = br#"{"activeSize": 5, "removeDelay": 30.5, "syncInterval": 2}"#;
    seeds.push(("cluster-settings".to_owned(), [&[255], &json[..]].concat()));
    seeds
}

/// Reads what a request of balsa's asks for: with 0, form and query, separated by a line feed; with 1, an uploaded
/// snapshot; with 2, its lines without the last, which is put behind them.
pub fn balsa_request(input: &[u8]) -> Outcome {
    let Some((how, rest)) = input.split_first() else { return Outcome::Refused };
    let taken = match how {
        0 => {
            let (form, query) = split_lines(rest);
            balsa::fuzzing::parameters(form, query)
        }
        1 => balsa::fuzzing::snapshot(rest),
        2 => balsa::fuzzing::snapshot(&ended(rest)),
        _ => false,
    };
    Outcome::taken_if(taken)
}

/// The lines of a snapshot, with its last line.
fn ended(lines: &[u8]) -> Vec<u8> {
    let keys = lines.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1);
    let crc = crc32c::crc32c(lines);
    [lines, format!("{{\"keys\":{keys},\"with_ttl\":0,\"crc32c\":\"{crc:08x}\"}}\n").as_bytes()].concat()
}

/// Parameters of several endpoints, and a snapshot.
pub fn balsa_seeds() -> Vec<(String, Vec<u8>)> {
    let lines = "{\"format\":\"balsa-snapshot\",\"version\":1}\n{\"key\":\"a\",\"value\":\"1\"}\n\
                 {\"key_hex\":\"00ff\",\"value_hex\":\"\"}\n";
    let seed = |name: &str, how: u8, text: &[u8]| (name.to_owned(), [&[how], text].concat());
    vec![
        seed("set", 0, b"key=a%20b&value=%00%ff&ttl=60\nforward=false"),
        seed("keys", 0, b"\nprefix=a&limit=10&after=b&level=weak"),
        seed("join", 0, b"\nnodeId=n2&raftAddr=[::1]:9001&voter=true"),
        seed("join-port", 0, b"nodeId=n2&raftPort=9001&raftHost=node-2.example\n"),
        seed("snapshot", 1, &ended(lines.as_bytes())),
        seed("snapshot-lines", 2, lines.as_bytes()),
    ]
}
