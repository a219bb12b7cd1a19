//! From what the model answers to the bytes that clients get.
//!
//! Invariants: the length of a range's answer is known before its values are read, so that its values can follow piece
//! by piece; a value is read at the moment it is needed and let go once the connection has taken it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use quorate_ids::Revision;
use quorate_member::Handle;
use quorate_models::keys::{
    DeleteReply, KeyValue, KeysError, OpReply, PutReply, RangeReply, TxnReply, Value, value_of_body,
};
use quorate_store::{Location, Pin};
use quorate_wire::etcdserverpb as pb;
use quorate_wire::mvccpb;

use super::errors::Status;

/// A revision as messages carry it.
#[must_use]
pub fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// Reads a value, wherever it lies.
pub async fn value(handle: &Handle, value: Value) -> Result<Bytes, Status> {
    match value {
        Value::Here(bytes) => Ok(bytes),
        Value::Absent => Ok(Bytes::new()),
        Value::At(at) => {
            let unreadable = |reason: String| Status::from(KeysError::Unreadable { reason });
            let body = handle.load(at).await.map_err(|error| unreadable(error.to_string()))?;
            let (_, value) = value_of_body(&body).map_err(|error| unreadable(error.to_string()))?;
            Ok(value)
        }
    }
}

/// A version as a message.
pub async fn key_value(handle: &Handle, kv: KeyValue) -> Result<mvccpb::KeyValue, Status> {
    Ok(mvccpb::KeyValue {
        value: value(handle, kv.value).await?,
        create_revision: signed(kv.meta.create_revision),
        mod_revision: signed(kv.meta.mod_revision),
        version: i64::try_from(kv.meta.version).unwrap_or(i64::MAX),
        lease: kv.meta.lease,
        key: kv.key,
    })
}

async fn key_values(handle: &Handle, kvs: Vec<KeyValue>) -> Result<Vec<mvccpb::KeyValue>, Status> {
    let mut out = Vec::with_capacity(kvs.len());
    for kv in kvs {
        out.push(key_value(handle, kv).await?);
    }
    Ok(out)
}

pub async fn put(
    handle: &Handle,
    header: Option<pb::ResponseHeader>,
    reply: PutReply,
) -> Result<pb::PutResponse, Status> {
    let prev_kv = match reply.previous {
        Some(kv) => Some(key_value(handle, kv).await?),
        None => None,
    };
    Ok(pb::PutResponse { header, prev_kv })
}

pub async fn delete_range(
    handle: &Handle,
    header: Option<pb::ResponseHeader>,
    reply: DeleteReply,
) -> Result<pb::DeleteRangeResponse, Status> {
    let prev_kvs = key_values(handle, reply.previous).await?;
    Ok(pb::DeleteRangeResponse {
        header,
        deleted: i64::try_from(reply.deleted).unwrap_or(i64::MAX),
        prev_kvs,
    })
}

pub async fn range(
    handle: &Handle,
    header: Option<pb::ResponseHeader>,
    reply: RangeReply,
) -> Result<pb::RangeResponse, Status> {
    let kvs = key_values(handle, reply.kvs).await?;
    Ok(pb::RangeResponse {
        header,
        kvs,
        more: reply.more,
        count: i64::try_from(reply.count).unwrap_or(i64::MAX),
    })
}

/// The answers of a transaction's operations have headers that hold nothing but a revision.
pub async fn txn(
    handle: &Handle,
    header: Option<pb::ResponseHeader>,
    reply: TxnReply,
) -> Result<pb::TxnResponse, Status> {
    use pb::response_op::Response;
    let mut responses = Vec::with_capacity(reply.responses.len());
    for op in reply.responses {
        let header = |revision| Some(pb::ResponseHeader { revision: signed(revision), ..Default::default() });
        let response = match op {
            OpReply::Range(reply) => {
                Response::ResponseRange(range(handle, header(reply.revision), reply).await?)
            }
            OpReply::Put(reply) => Response::ResponsePut(put(handle, header(reply.revision), reply).await?),
            OpReply::DeleteRange(reply) => {
                Response::ResponseDeleteRange(delete_range(handle, header(reply.revision), reply).await?)
            }
            OpReply::Txn(reply) => {
                let header = header(reply.revision);
                Response::ResponseTxn(Box::pin(txn(handle, header, reply)).await?)
            }
        };
        responses.push(pb::ResponseOp { response: Some(response) });
    }
    Ok(pb::TxnResponse { header, succeeded: reply.succeeded, responses })
}

/// Bytes that a version's key and value take in an answer, about.
fn kv_bytes(kv: &KeyValue) -> usize {
    const META_BYTES: usize = 64;
    kv.key.len() + value_len(kv).unwrap_or(0) + META_BYTES
}

/// Bytes that the values in a put's answer take.
#[must_use]
pub fn put_bytes(reply: &PutReply) -> usize {
    reply.previous.as_ref().map_or(0, kv_bytes)
}

/// Bytes that the values in a delete's answer take.
#[must_use]
pub fn delete_bytes(reply: &DeleteReply) -> usize {
    reply.previous.iter().map(kv_bytes).sum()
}

/// Bytes that the values in a transaction's answer take.
#[must_use]
pub fn txn_bytes(reply: &TxnReply) -> usize {
    let of_op = |op: &OpReply| match op {
        OpReply::Range(reply) => reply.kvs.iter().map(kv_bytes).sum(),
        OpReply::Put(reply) => put_bytes(reply),
        OpReply::DeleteRange(reply) => delete_bytes(reply),
        OpReply::Txn(reply) => txn_bytes(reply),
    };
    reply.responses.iter().map(of_op).sum()
}

mod tag {
    pub const RANGE_HEADER: u32 = 1;
    pub const RANGE_KVS: u32 = 2;
    pub const KV_KEY: u32 = 1;
    pub const KV_CREATE: u32 = 2;
    pub const KV_MOD: u32 = 3;
    pub const KV_VERSION: u32 = 4;
    pub const KV_VALUE: u32 = 5;
    pub const KV_LEASE: u32 = 6;
}

/// All of these tags take one byte.
const TAG_BYTES: usize = 1;

fn number_len(number: u64) -> usize {
    if number == 0 { 0 } else { TAG_BYTES + encoded_len_varint(number) }
}

fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { TAG_BYTES + encoded_len_varint(len as u64) + len }
}

fn put_number(out: &mut BytesMut, tag: u32, number: u64) {
    if number != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(number, out);
    }
}

fn put_len(out: &mut BytesMut, tag: u32, len: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// The length of the value in the body at `at`: behind the key and its length.
fn value_len_at(key_len: usize, at: Location) -> Option<usize> {
    (at.len as usize).checked_sub(encoded_len_varint(key_len as u64) + key_len)
}

/// What a value takes, known without reading it.
#[must_use]
pub fn value_len(kv: &KeyValue) -> Option<usize> {
    match &kv.value {
        Value::Here(value) => Some(value.len()),
        Value::Absent => Some(0),
        Value::At(at) => value_len_at(kv.key.len(), *at),
    }
}

/// A version's length as a message.
#[must_use]
pub fn key_value_len(kv: &KeyValue, value_len: usize) -> usize {
    bytes_len(kv.key.len())
        + number_len(kv.meta.create_revision.0)
        + number_len(kv.meta.mod_revision.0)
        + number_len(kv.meta.version)
        + bytes_len(value_len)
        + number_len(kv.meta.lease as u64)
}

/// Writes what stands before the value's bytes.
fn put_before_value(out: &mut BytesMut, kv: &KeyValue, value_len: usize) {
    if !kv.key.is_empty() {
        put_len(out, tag::KV_KEY, kv.key.len());
        out.put_slice(&kv.key);
    }
    put_number(out, tag::KV_CREATE, kv.meta.create_revision.0);
    put_number(out, tag::KV_MOD, kv.meta.mod_revision.0);
    put_number(out, tag::KV_VERSION, kv.meta.version);
    if value_len > 0 {
        put_len(out, tag::KV_VALUE, value_len);
    }
}

/// Writes a version whose value is at hand.
pub fn put_key_value(out: &mut BytesMut, kv: &KeyValue, value: &[u8]) {
    put_before_value(out, kv, value.len());
    out.put_slice(value);
    put_number(out, tag::KV_LEASE, kv.meta.lease as u64);
}

/// A range's answer, of which the values may not be read yet.
pub struct RangeAnswer {
    head: Bytes,
    kvs: std::vec::IntoIter<(KeyValue, usize)>,
    tail: Bytes,
    len: usize,
    /// Keeps what the values' locations name.
    _pin: Pin,
}

impl RangeAnswer {
    /// `pin` is older than the read.
    pub fn new(header: pb::ResponseHeader, reply: RangeReply, pin: Pin) -> Result<Self, Status> {
        let mut head = BytesMut::new();
        put_len(&mut head, tag::RANGE_HEADER, header.encoded_len());
        header.encode_raw(&mut head);
        let count = i64::try_from(reply.count).unwrap_or(i64::MAX);
        let tail = pb::RangeResponse { header: None, kvs: Vec::new(), more: reply.more, count };
        let tail = Bytes::from(tail.encode_to_vec());
        let mut kvs = Vec::with_capacity(reply.kvs.len());
        let mut len = head.len() + tail.len();
        for kv in reply.kvs {
            let Some(value_len) = value_len(&kv) else {
                let reason = "a record is shorter than its key".to_owned();
                return Err(KeysError::Unreadable { reason }.into());
            };
            let kv_len = key_value_len(&kv, value_len);
            len += TAG_BYTES + encoded_len_varint(kv_len as u64) + kv_len;
            kvs.push((kv, value_len));
        }
        Ok(Self { head: head.freeze(), kvs: kvs.into_iter(), tail, len, _pin: pin })
    }

    /// The message's length in bytes.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        self.len
    }

    /// Writes on until `out` has `bytes` or more, or the message is whole; whether there is more to write. A value
    /// that is not at hand is read.
    pub async fn write(&mut self, handle: &Handle, out: &mut BytesMut, bytes: usize) -> Result<bool, Status> {
        out.put_slice(&std::mem::take(&mut self.head));
        while out.len() < bytes {
            let Some((mut kv, value_len)) = self.kvs.next() else {
                out.put_slice(&std::mem::take(&mut self.tail));
                return Ok(false);
            };
            let value = value(handle, std::mem::replace(&mut kv.value, Value::Absent)).await?;
            if value.len() != value_len {
                let reason = format!("a value has {} bytes where {value_len} were expected", value.len());
                return Err(KeysError::Unreadable { reason }.into());
            }
            put_len(out, tag::RANGE_KVS, key_value_len(&kv, value_len));
            put_key_value(out, &kv, &value);
        }
        Ok(true)
    }
}
