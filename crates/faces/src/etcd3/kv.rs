//! Service KV.

use std::sync::Arc;

use ::http::Response;
use hyper::body::Incoming;
use quorate_ids::Revision;
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Command, KeysError, Progress, RANGE_SLICE_KEYS, RangeQuery, RangeReply, RangeResume, Reply,
    SortOrder, SortTarget, Value, current_revision, finish_range, range_slice, resolve_revision,
};
use quorate_wire::etcdserverpb as pb;

use super::answers::{self, RangeAnswer};
use super::call::Answer;
use super::errors::{Code, NOT_SUPPORTED_FOR_LEARNER, Status};
use super::grpc::{self, Messages};
use super::metrics::Started;
use super::{Thread, requests};
use crate::listener::{Body, Outgoing, outgoing};

/// Keys in the first message of a streamed range; each next one doubles while messages stay small.
const STREAM_KEYS_FIRST: u64 = 10;
const STREAM_KEYS_MAX: u64 = 8192;
const STREAM_QUEUED_BYTES_MAX: usize = 256 * 1024;

/// A reply of another kind than the command's: this program's fault, told rather than hidden.
pub(super) fn unexpected(reply: &Reply) -> Status {
    Status::with(Code::Internal, format!("etcdserver: the model answered a command with {reply:?}"))
}

impl Thread {
    /// Has a command carried out; a refusal of the model is an error.
    pub(super) async fn propose(&self, command: &Command) -> Result<Reply, Status> {
        let command = keys::encode(command);
        if command.len() > self.shared.config.request_bytes_max {
            return Err(super::errors::REQUEST_TOO_LARGE);
        }
        match self.handle().propose(ModelId::KEYS, command).await?.reply {
            quorate_member::ModelReply::Keys(Reply::Refused { error, .. }) => Err(error.into()),
            quorate_member::ModelReply::Keys(reply) => Ok(reply),
            quorate_member::ModelReply::Members(_) => {
                Err(Status::new(Code::Internal, "etcdserver: the member list answered a command of keys"))
            }
        }
    }

    pub(super) async fn range(&self, request: pb::RangeRequest) -> Result<Answer, Status> {
        let (query, serializable) = requests::range(request)?;
        if !serializable && self.handle().status().is_learner {
            return Err(NOT_SUPPORTED_FOR_LEARNER);
        }
        self.shared.alarms.check(self.handle())?;
        if !serializable {
            self.handle().read_index().await?;
        }
        let pin = self.handle().store().pin();
        let reply = self.read(&query).await?;
        self.shared.metrics.count_range();
        let header = self.header(reply.revision);
        self.send(RangeAnswer::new(header, reply, pin)?).await
    }

    /// Reads a range in slices; others run between them.
    async fn read(&self, query: &RangeQuery) -> Result<RangeReply, Status> {
        let store = self.handle().store();
        let mut resume = RangeResume::default();
        let (current, at, mut progress) = {
            let tables = store.read();
            let at = resolve_revision(&tables, query.revision)?;
            let progress = range_slice(&tables, query, at, &mut resume, RANGE_SLICE_KEYS)?;
            (current_revision(&tables), at, progress)
        };
        while progress == Progress::More {
            tokio::task::yield_now().await;
            progress = range_slice(&store.read(), query, at, &mut resume, RANGE_SLICE_KEYS)?;
        }
        if query.sorts_by_value() {
            for kv in &mut resume.kvs {
                let value = std::mem::replace(&mut kv.value, Value::Absent);
                kv.value = Value::Here(answers::value(self.handle(), value).await?);
            }
        }
        finish_range(query, resume, current, &mut |value| match value {
            Value::Here(bytes) => Ok(bytes.clone()),
            Value::Absent => Ok(bytes::Bytes::new()),
            Value::At(_) => {
                let reason = "a value to sort by was not read".to_owned();
                Err(KeysError::Unreadable { reason }.into())
            }
        })
    }

    pub(super) async fn put(&self, request: pb::PutRequest) -> Result<Answer, Status> {
        let put = requests::put(request)?;
        self.shared.alarms.check_space(self.handle())?;
        match self.propose(&Command::Put(put)).await? {
            Reply::Put(reply) => {
                let header = self.header(reply.revision);
                self.shared.metrics.count_put();
                Ok(Answer::message(&answers::put(self.handle(), Some(header), reply).await?))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<Answer, Status> {
        let delete = requests::delete_range(request)?;
        self.shared.alarms.check(self.handle())?;
        match self.propose(&Command::DeleteRange(delete)).await? {
            Reply::DeleteRange(reply) => {
                let header = self.header(reply.revision);
                self.shared.metrics.count_delete();
                Ok(Answer::message(&answers::delete_range(self.handle(), Some(header), reply).await?))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<Answer, Status> {
        let txn = requests::txn(request, self.shared.config.txn_ops_max)?;
        if requests::puts(&txn) {
            self.shared.alarms.check_space(self.handle())?;
        } else {
            self.shared.alarms.check(self.handle())?;
        }
        match self.propose(&Command::Txn(txn)).await? {
            Reply::Txn(reply) => {
                let header = self.header(reply.revision);
                self.shared.metrics.count_txn();
                Ok(Answer::message(&answers::txn(self.handle(), Some(header), reply).await?))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// `physical` asks to wait until the space is back. What is compacted is gone for every reader once this answers;
    /// its space comes back at this member's own pace.
    pub(super) async fn compact(&self, request: &pb::CompactionRequest) -> Result<Answer, Status> {
        self.shared.alarms.check(self.handle())?;
        let Ok(revision) = u64::try_from(request.revision) else { return Err(super::errors::COMPACTED) };
        match self.propose(&Command::Compact { revision: Revision(revision) }).await? {
            Reply::Compact { revision } => {
                let header = self.header(revision);
                Ok(Answer::message(&pb::CompactionResponse { header: Some(header) }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// A range in messages of growing size, all at one revision.
pub(super) async fn range_stream(
    thread: Arc<Thread>,
    mut messages: Messages<Incoming>,
    mut started: Started,
) -> Response<Body> {
    let query = async {
        let request: pb::RangeRequest = grpc::decode(messages.only().await?)?;
        started.received();
        let (query, serializable) = requests::range(request)?;
        check_streamable(&query)?;
        if !serializable && thread.handle().status().is_learner {
            return Err(NOT_SUPPORTED_FOR_LEARNER);
        }
        thread.shared.alarms.check(thread.handle())?;
        if !serializable {
            thread.handle().read_index().await?;
        }
        Ok(query)
    }
    .await;
    match query {
        Ok(query) => {
            let (outgoing, body) = outgoing();
            tokio::spawn(async move {
                let ended = send_stream(&thread, query, &outgoing, &mut started).await;
                match ended {
                    Ok(()) => outgoing.finish(grpc::trailers_ok()),
                    Err(status) => {
                        started.end(status.code);
                        outgoing.finish(grpc::trailers(&status));
                    }
                }
            });
            grpc::response(body)
        }
        Err(status) => {
            started.end(status.code);
            grpc::response_status(&status)
        }
    }
}

fn check_streamable(query: &RangeQuery) -> Result<(), Status> {
    if query.sort_order != SortOrder::None || query.sort_target != SortTarget::Key {
        return Err(Status::new(Code::Unimplemented, "RangeStream does not support custom sort orders"));
    }
    let bounds = [
        query.min_mod_revision,
        query.max_mod_revision,
        query.min_create_revision,
        query.max_create_revision,
    ];
    if bounds.iter().any(|bound| *bound != Revision::ZERO) {
        return Err(Status::new(Code::Unimplemented, "RangeStream does not support revision filters"));
    }
    Ok(())
}

/// Sends one range after the other, each from where the last one ended. The last message has header, count and more.
async fn send_stream(
    thread: &Thread,
    mut query: RangeQuery,
    outgoing: &Outgoing,
    started: &mut Started,
) -> Result<(), Status> {
    let _pin = thread.handle().store().pin();
    let limit = query.limit;
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let (mut keys, mut count, mut current) = (STREAM_KEYS_FIRST, None, None);
    loop {
        query.limit = left.min(keys);
        let reply = thread.read(&query).await?;
        // The whole range's count and the store's revision are those of the first slice.
        let count = *count.get_or_insert(reply.count);
        let current = *current.get_or_insert(reply.revision);
        if query.revision == Revision::ZERO {
            query.revision = reply.revision;
        }
        left -= (reply.kvs.len() as u64).min(left);
        let last = !reply.more || left == 0 || query.count_only;
        if let Some(kv) = reply.kvs.last() {
            query.key = [&kv.key[..], b"\0"].concat().into();
        }
        let more = last && reply.more;
        let mut response = answers::range(thread.handle(), None, RangeReply { more, ..reply }).await?;
        response.count = 0;
        if last {
            response.header = Some(thread.header(current));
            response.count = i64::try_from(count).unwrap_or(i64::MAX);
        }
        let message = grpc::framed(&pb::RangeStreamResponse { range_response: Some(response) });
        if message.len() < STREAM_QUEUED_BYTES_MAX / 2 {
            keys = (keys * 2).min(STREAM_KEYS_MAX);
        } else {
            keys = (keys / 2).max(1);
        }
        started.sent();
        if !outgoing.push(message) || !outgoing.below(STREAM_QUEUED_BYTES_MAX).await {
            return Err(Status::new(Code::Canceled, "context canceled"));
        }
        if last {
            started.end(Code::Ok);
            return Ok(());
        }
    }
}
