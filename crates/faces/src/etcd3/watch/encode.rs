//! Events and watch responses as bytes.
//!
//! Invariant: a message never holds a part of a revision, unless the client asked for fragments.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use quorate_ids::Revision;
use quorate_member::Handle;
use quorate_models::keys::watch::RevisionEvents;
use quorate_models::keys::{Event, EventKind, KeyValue, Value, load_previous};
use quorate_wire::etcdserverpb as pb;

use crate::etcd3::answers;
use crate::etcd3::errors::Status;
use crate::etcd3::grpc;

mod tag {
    pub const EVENT_TYPE: u32 = 1;
    pub const EVENT_KV: u32 = 2;
    pub const EVENT_PREV_KV: u32 = 3;
    pub const RESPONSE_EVENTS: u32 = 11;
}

/// Events of several revisions go into one message up to this length.
const MESSAGE_BYTES: usize = 1 << 20;

/// An event for one watcher: its bytes, and those of what was there before where that was asked for.
#[derive(Clone)]
pub struct EventBytes {
    pub event: Bytes,
    pub previous: Bytes,
}

impl EventBytes {
    fn len(&self) -> usize {
        self.event.len() + self.previous.len()
    }

    /// With its tag and length.
    fn encoded_len(&self) -> usize {
        1 + encoded_len_varint(self.len() as u64) + self.len()
    }
}

/// The events of one revision, as bytes. Made once for all watchers where all values are in memory.
pub async fn events(handle: &Handle, revision: &RevisionEvents) -> Result<Vec<Bytes>, Status> {
    let here = |event: &Event| !matches!(event.kv.value, Value::At(_));
    if revision.events().iter().all(here) {
        let encode = |events: &[Event]| {
            let value = |event: &Event| match &event.kv.value {
                Value::Here(value) => value.clone(),
                Value::At(_) | Value::Absent => Bytes::new(),
            };
            events.iter().map(|event| encode_event(event, &value(event))).collect()
        };
        return Ok(revision.encoded(encode).to_vec());
    }
    let mut encoded = Vec::with_capacity(revision.events().len());
    for event in revision.events() {
        let value = answers::value(handle, event.kv.value.clone()).await?;
        encoded.push(encode_event(event, &value));
    }
    Ok(encoded)
}

fn encode_event(event: &Event, value: &[u8]) -> Bytes {
    let kv_len = answers::key_value_len(&event.kv, value.len());
    let mut out = BytesMut::with_capacity(kv_len + 16);
    if event.kind == EventKind::Delete {
        encode_key(tag::EVENT_TYPE, WireType::Varint, &mut out);
        out.put_u8(1);
    }
    encode_key(tag::EVENT_KV, WireType::LengthDelimited, &mut out);
    encode_varint(kv_len as u64, &mut out);
    answers::put_key_value(&mut out, &event.kv, value);
    out.freeze()
}

/// What was there before an event: nothing where there was nothing, or where compaction has taken it since.
pub async fn previous(handle: &Handle, event: &Event) -> Result<Bytes, Status> {
    let Some(kv) = &event.previous else { return Ok(Bytes::new()) };
    let value = match answers::value(handle, kv.value.clone()).await {
        Ok(value) => value,
        // Events stay in memory longer than the files that they name: the version is looked up again.
        Err(_) => {
            let event = event.clone();
            let found = handle.blocking(move |store| load_previous(store, &event)).await;
            let found = found.transpose()?.flatten();
            let Some(KeyValue { value: Value::Here(value), .. }) = found else { return Ok(Bytes::new()) };
            value
        }
    };
    let kv_len = answers::key_value_len(kv, value.len());
    let mut out = BytesMut::with_capacity(kv_len + 8);
    encode_key(tag::EVENT_PREV_KV, WireType::LengthDelimited, &mut out);
    encode_varint(kv_len as u64, &mut out);
    answers::put_key_value(&mut out, kv, &value);
    Ok(out.freeze())
}

/// Framed messages with these events, by revision. `fragment_bytes`: the length at which a message is cut, where the
/// client wants that.
pub fn messages(
    header: &pb::ResponseHeader,
    watch_id: i64,
    revisions: &[(Revision, Vec<EventBytes>)],
    fragment_bytes: Option<usize>,
) -> Vec<Bytes> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < revisions.len() {
        let mut len = 0;
        let start = at;
        while at < revisions.len() && (at == start || len < MESSAGE_BYTES) {
            len += revisions[at].1.iter().map(EventBytes::encoded_len).sum::<usize>();
            at += 1;
        }
        let events: Vec<&EventBytes> = revisions[start..at].iter().flat_map(|(_, events)| events).collect();
        match fragment_bytes {
            Some(max) if len > max => fragments(header, watch_id, &events, max, &mut out),
            _ => out.push(message(header, watch_id, &events, false)),
        }
    }
    out
}

fn fragments(
    header: &pb::ResponseHeader,
    watch_id: i64,
    events: &[&EventBytes],
    bytes_max: usize,
    out: &mut Vec<Bytes>,
) {
    let mut rest = events;
    while !rest.is_empty() {
        let mut len = 0;
        let fits = rest.iter().take_while(|event| {
            len += event.encoded_len();
            len <= bytes_max
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        out.push(message(header, watch_id, now, !later.is_empty()));
        rest = later;
    }
}

fn message(header: &pb::ResponseHeader, watch_id: i64, events: &[&EventBytes], fragment: bool) -> Bytes {
    let head = pb::WatchResponse { header: Some(*header), watch_id, fragment, ..Default::default() };
    let len = head.encoded_len() + events.iter().map(|event| event.encoded_len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(grpc::PREFIX_BYTES + len);
    grpc::put_prefix(&mut out, len);
    head.encode_raw(&mut out);
    for event in events {
        encode_key(tag::RESPONSE_EVENTS, WireType::LengthDelimited, &mut out);
        encode_varint(event.len() as u64, &mut out);
        out.put_slice(&event.event);
        out.put_slice(&event.previous);
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_models::keys::KeyMeta;
    use quorate_wire::mvccpb;

    fn event(key: &str, value: &str, revision: u64) -> Event {
        let meta = KeyMeta {
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: -7,
        };
        let kv = KeyValue { key: key.to_owned().into(), meta, value: Value::Here(value.to_owned().into()) };
        Event { kind: EventKind::Put, kv, previous: None }
    }

    fn decode(framed: &Bytes) -> pb::WatchResponse {
        pb::WatchResponse::decode(&framed[grpc::PREFIX_BYTES..]).expect("a message")
    }

    fn bytes_of(event: &Event) -> EventBytes {
        let Value::Here(value) = &event.kv.value else { panic!("a value") };
        EventBytes { event: encode_event(event, value), previous: Bytes::new() }
    }

    #[test]
    fn an_event_reads_back_as_it_was() {
        let revisions = [(Revision(9), vec![bytes_of(&event("key", "value", 9))])];
        let header = pb::ResponseHeader { revision: 12, ..Default::default() };
        let messages = messages(&header, 5, &revisions, None);
        assert_eq!(messages.len(), 1);
        let response = decode(&messages[0]);
        let kv = mvccpb::KeyValue {
            key: "key".into(),
            value: "value".into(),
            create_revision: 9,
            mod_revision: 9,
            version: 1,
            lease: -7,
        };
        let event = mvccpb::Event { r#type: 0, kv: Some(kv), prev_kv: None };
        let expected = pb::WatchResponse {
            header: Some(header),
            watch_id: 5,
            events: vec![event],
            ..Default::default()
        };
        assert_eq!(response, expected);
    }

    #[test]
    fn fragments_are_marked_up_to_the_last() {
        let value = "v".repeat(100);
        let events = (0..10).map(|i| bytes_of(&event(&format!("k{i}"), &value, 3))).collect();
        let messages = messages(&pb::ResponseHeader::default(), 1, &[(Revision(3), events)], Some(250));
        let responses: Vec<_> = messages.iter().map(decode).collect();
        assert_eq!(responses.len(), 10, "one more than one event is too long");
        assert!(responses[..9].iter().all(|response| response.fragment) && !responses[9].fragment);
        assert_eq!(responses.iter().map(|response| response.events.len()).sum::<usize>(), 10);
    }

    #[test]
    fn a_revision_is_not_cut_where_fragments_are_not_wanted() {
        let value = "v".repeat(MESSAGE_BYTES);
        let revisions: Vec<_> = (2..5)
            .map(|revision| {
                (
                    Revision(revision),
                    vec![bytes_of(&event("a", &value, revision)), bytes_of(&event("b", "", revision))],
                )
            })
            .collect();
        let messages = messages(&pb::ResponseHeader::default(), 1, &revisions, None);
        let counts: Vec<_> = messages.iter().map(|message| decode(message).events.len()).collect();
        assert_eq!(counts, [2, 2, 2]);
    }
}
