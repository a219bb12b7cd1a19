//! Answers as JSON with etcdctl's names: keys and values in base64, and what is zero or empty left away.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate::client::{
    DeleteRangeResponse, Event, EventKind, KeyValue, Member, OpResponse, PutResponse, RangeResponse,
    ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use serde_json::{Map, Value, json};

/// An object under construction, without what is zero, empty, false or missing.
#[derive(Default)]
pub struct Object(Map<String, Value>);

impl Object {
    pub fn new() -> Self {
        Self::default()
    }

    /// A field that is always there.
    pub fn always(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// A field that is there if it says something.
    pub fn some(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let nothing = match &value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_i64() == Some(0) || number.as_u64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(_) => false,
        };
        if nothing { self } else { self.always(name, value) }
    }

    pub fn end(self) -> Value {
        Value::Object(self.0)
    }
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub fn header(header: Option<&ResponseHeader>) -> Value {
    if header.is_none() { Value::Null } else { with_header_fields(header).end() }
}

/// An answer that has its header's fields among its own, as etcdctl shows those of leases.
pub fn with_header_fields(of: Option<&ResponseHeader>) -> Object {
    match of {
        None => Object::new(),
        Some(header) => Object::new()
            .some("cluster_id", header.cluster_id)
            .some("member_id", header.member_id)
            .some("revision", header.revision)
            .some("raft_term", header.raft_term),
    }
}

/// An answer of which only the header says anything.
pub fn only_header(of: Option<&ResponseHeader>) -> Value {
    Object::new().some("header", header(of)).end()
}

pub fn key_value(kv: &KeyValue) -> Value {
    Object::new()
        .some("key", base64(&kv.key))
        .some("create_revision", kv.create_revision)
        .some("mod_revision", kv.mod_revision)
        .some("version", kv.version)
        .some("value", base64(&kv.value))
        .some("lease", kv.lease)
        .end()
}

pub fn range(answer: &RangeResponse) -> Value {
    Object::new()
        .some("header", header(answer.header.as_ref()))
        .some("kvs", answer.kvs.iter().map(key_value).collect::<Vec<_>>())
        .some("more", answer.more)
        .some("count", answer.count)
        .end()
}

pub fn put(answer: &PutResponse) -> Value {
    Object::new()
        .some("header", header(answer.header.as_ref()))
        .some("prev_kv", answer.prev_kv.as_ref().map(key_value))
        .end()
}

pub fn delete(answer: &DeleteRangeResponse) -> Value {
    Object::new()
        .some("header", header(answer.header.as_ref()))
        .some("deleted", answer.deleted)
        .some("prev_kvs", answer.prev_kvs.iter().map(key_value).collect::<Vec<_>>())
        .end()
}

pub fn txn(answer: &TxnResponse) -> Value {
    let response = |response: &OpResponse| {
        let (name, inner) = match response {
            OpResponse::Get(answer) => ("ResponseRange", range(answer)),
            OpResponse::Put(answer) => ("ResponsePut", put(answer)),
            OpResponse::Delete(answer) => ("ResponseDeleteRange", delete(answer)),
            OpResponse::Txn(answer) => ("ResponseTxn", txn(answer)),
        };
        json!({ "Response": { name: inner } })
    };
    Object::new()
        .some("header", header(answer.header.as_ref()))
        .some("succeeded", answer.succeeded)
        .some("responses", answer.responses.iter().map(response).collect::<Vec<_>>())
        .end()
}

fn event(event: &Event) -> Value {
    Object::new()
        .some("type", u8::from(event.kind == EventKind::Delete))
        .always("kv", key_value(&event.kv))
        .some("prev_kv", event.previous.as_ref().map(key_value))
        .end()
}

pub fn watch(answer: &WatchResponse) -> Value {
    json!({
        "Header": { "revision": answer.revision },
        "Events": answer.events.iter().map(event).collect::<Vec<_>>(),
    })
}

pub fn member(member: &Member) -> Value {
    Object::new()
        .always("ID", member.id)
        .some("name", member.name.as_str())
        .some("peerURLs", member.peer_ur_ls.clone())
        .some("clientURLs", member.client_ur_ls.clone())
        .some("isLearner", member.is_learner)
        .end()
}

pub fn members(of: Option<&ResponseHeader>, members: &[Member]) -> Object {
    Object::new().some("header", header(of)).some("members", members.iter().map(member).collect::<Vec<_>>())
}

pub fn status(answer: &StatusResponse) -> Value {
    Object::new()
        .some("header", header(answer.header.as_ref()))
        .some("version", answer.version.as_str())
        .some("dbSize", answer.db_size)
        .some("leader", answer.leader)
        .some("raftIndex", answer.raft_index)
        .some("raftTerm", answer.raft_term)
        .some("raftAppliedIndex", answer.raft_applied_index)
        .some("errors", answer.errors.clone())
        .some("dbSizeInUse", answer.db_size_in_use)
        .some("isLearner", answer.is_learner)
        .some("storageVersion", answer.storage_version.as_str())
        .some("dbSizeQuota", answer.db_size_quota)
        .end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_etcdctls_and_zeros_are_left_away() {
        let answer = RangeResponse {
            header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 4, raft_term: 0 }),
            kvs: vec![KeyValue {
                key: "a".into(),
                create_revision: 2,
                mod_revision: 3,
                version: 2,
                value: "2".into(),
                lease: 0,
            }],
            more: false,
            count: 1,
        };
        let expected = r#"{"header":{"cluster_id":1,"member_id":2,"revision":4},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"Mg=="}],"count":1}"#;
        assert_eq!(range(&answer), serde_json::from_str::<Value>(expected).expect("JSON"));
        assert_eq!(delete(&DeleteRangeResponse::default()), json!({}));
    }
}
