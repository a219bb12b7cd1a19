//! Service KV.

use std::sync::Arc;

use ::http::Response;
use quorate_ids::Revision;
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Command, KeysError, Progress, RANGE_SLICE_KEYS, RangeQuery, RangeReply, RangeResume, ReadStep,
    ReadTxn, Reply, SortOrder, SortTarget, Txn, TxnReply, Value, current_revision, finish_range, range_slice,
    resolve_revision,
};
use quorate_wire::etcdserverpb as pb;

use super::answers::{self, RangeAnswer};
use super::call::Answer;
use super::errors::{Code, NOT_SUPPORTED_FOR_LEARNER, Status};
use super::grpc::{self, CallBody, Messages};
use super::metrics::Started;
use super::{Thread, requests};
use crate::listener::{Body, Outgoing, outgoing};

/// Keys in the first message of a streamed range; each next one doubles while messages stay small.
const STREAM_KEYS_FIRST: u64 = 10;
const STREAM_KEYS_MAX: u64 = 8192;
const STREAM_QUEUED_BYTES_MAX: usize = 256 * 1024;
/// How often a read-only transaction is started over because its revision was compacted under it.
const READ_TXN_TRIES_MAX: usize = 5;
/// Between two looks at how far a compaction is.
const FORGOTTEN_LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(5);

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
            quorate_member::ModelReply::Members(_) | quorate_member::ModelReply::Tree(_) => {
                Err(Status::new(Code::Internal, "etcdserver: another model answered a command of keys"))
            }
        }
    }

    /// Waits until this member's tables may be read: by whoever asks only it (`serializable`), or asks for the cluster's
    /// state.
    async fn may_read(&self, serializable: bool) -> Result<(), Status> {
        if serializable {
            self.handle().replayed().await?;
        } else {
            self.handle().read_index().await?;
        }
        Ok(())
    }

    pub(super) async fn range(&self, request: pb::RangeRequest) -> Result<Answer, Status> {
        let (query, serializable) = requests::range(request)?;
        if !serializable && self.handle().status().is_learner {
            return Err(NOT_SUPPORTED_FOR_LEARNER);
        }
        self.shared.alarms.check(self.handle())?;
        self.may_read(serializable).await?;
        let pin = self.handle().store().pin();
        let reply = self.read(&query).await?;
        self.shared.metrics.count_range();
        let header = self.header(reply.revision);
        self.send(RangeAnswer::new(header, reply, pin)?).await
    }

    /// Reads a range in slices; others run between them.
    pub(super) async fn read(&self, query: &RangeQuery) -> Result<RangeReply, Status> {
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
        self.check_space()?;
        match self.propose(&Command::Put(put)).await? {
            Reply::Put(reply) => {
                let header = self.header(reply.revision);
                self.shared.metrics.count_put();
                let taken = self.shared.answer_bytes.take_for_change(answers::put_bytes(&reply))?;
                Ok(Answer::held(&answers::put(self.handle(), Some(header), reply).await?, taken))
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
                let taken = self.shared.answer_bytes.take_for_change(2 * answers::delete_bytes(&reply))?;
                Ok(Answer::held(&answers::delete_range(self.handle(), Some(header), reply).await?, taken))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<Answer, Status> {
        let serializable = requests::reads_serializably(&request);
        let txn = requests::txn(request, self.shared.config.txn_ops_max)?;
        if txn.reads_only() {
            self.shared.alarms.check(self.handle())?;
            self.may_read(serializable).await?;
            let _pin = self.handle().store().pin();
            let reply = self.read_txn(&txn).await?;
            let header = self.header(reply.revision);
            self.shared.metrics.count_txn();
            let taken = self.shared.answer_bytes.take(2 * answers::txn_bytes(&reply))?;
            return Ok(Answer::held(&answers::txn(self.handle(), Some(header), reply).await?, taken));
        }
        if requests::puts(&txn) {
            self.check_space()?;
        } else {
            self.shared.alarms.check(self.handle())?;
        }
        match self.propose(&Command::Txn(txn)).await? {
            Reply::Txn(reply) => {
                let header = self.header(reply.revision);
                self.shared.metrics.count_txn();
                let taken = self.shared.answer_bytes.take_for_change(2 * answers::txn_bytes(&reply))?;
                Ok(Answer::held(&answers::txn(self.handle(), Some(header), reply).await?, taken))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// A transaction that changes nothing, beside the log, in slices; others run between them. Whatever is written or
    /// compacted meanwhile, it is answered: a revision that was compacted under it is exchanged for a newer one.
    async fn read_txn(&self, txn: &Txn) -> Result<TxnReply, Status> {
        for _ in 0..READ_TXN_TRIES_MAX {
            match self.try_read_txn(txn).await? {
                Some(reply) => return Ok(reply),
                None => tokio::task::yield_now().await,
            }
        }
        Err(super::errors::COMPACTED)
    }

    /// `None`: its revision was compacted meanwhile.
    async fn try_read_txn(&self, txn: &Txn) -> Result<Option<TxnReply>, Status> {
        let store = self.handle().store();
        let mut reading = ReadTxn::start(&store.read(), txn);
        loop {
            let step = reading.step(&store.read(), RANGE_SLICE_KEYS);
            match step {
                Ok(ReadStep::Done(reply)) => return Ok(Some(reply)),
                Ok(ReadStep::More) => {}
                Ok(ReadStep::Need(bodies)) => {
                    for at in bodies {
                        let body = self.handle().load(at).await.map_err(|error| {
                            Status::from(KeysError::Unreadable { reason: error.to_string() })
                        })?;
                        reading.loaded(at, body);
                    }
                }
                Err(KeysError::Compacted { asked, .. }) if asked == reading.revision() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            tokio::task::yield_now().await;
        }
    }

    /// `physical` waits until this member has forgotten what may be forgotten. (The space of its files comes back
    /// after that, at the member's own pace.) What is compacted is gone for every reader in any case.
    pub(super) async fn compact(&self, request: &pb::CompactionRequest) -> Result<Answer, Status> {
        self.shared.alarms.check(self.handle())?;
        let Ok(asked) = u64::try_from(request.revision) else { return Err(super::errors::COMPACTED) };
        let asked = Revision(asked);
        if asked == Revision::ZERO {
            // Before the first compaction there is nothing at or below revision 0: etcd takes that for done.
            self.handle().read_index().await?;
            let compacted = keys::compacted_revision(&self.handle().store().read());
            if compacted == Revision::ZERO {
                return Ok(Answer::message(&pb::CompactionResponse { header: Some(self.header_now()) }));
            }
        }
        match self.propose(&Command::Compact { revision: asked }).await? {
            Reply::Compact { revision } => {
                if request.physical {
                    self.forgotten(asked).await?;
                }
                let header = self.header(revision);
                Ok(Answer::message(&pb::CompactionResponse { header: Some(header) }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Thread {
    /// Waits until this member has forgotten what the compaction of a revision allows to.
    async fn forgotten(&self, revision: Revision) -> Result<(), Status> {
        while keys::forgotten_revision(&self.handle().store().read()) < revision {
            if let Some(reason) = self.handle().status().failed {
                return Err(Status::with(Code::Unavailable, format!("etcdserver: server stopped: {reason}")));
            }
            tokio::time::sleep(FORGOTTEN_LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// A range in messages of growing size, all at one revision.
pub(super) async fn range_stream(
    thread: Arc<Thread>,
    mut messages: Messages<CallBody>,
    mut started: Started,
) -> Response<Body> {
    let query = async {
        let message = messages.only().await?;
        started.received(message.len());
        let request: pb::RangeRequest = grpc::decode(message)?;
        let (query, serializable) = requests::range(request)?;
        check_streamable(&query)?;
        if !serializable && thread.handle().status().is_learner {
            return Err(NOT_SUPPORTED_FOR_LEARNER);
        }
        thread.shared.alarms.check(thread.handle())?;
        thread.may_read(serializable).await?;
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
        started.sent(message.len());
        if !outgoing.push(message) || !outgoing.below(STREAM_QUEUED_BYTES_MAX).await {
            return Err(Status::new(Code::Canceled, "context canceled"));
        }
        if last {
            started.end(Code::Ok);
            return Ok(());
        }
    }
}
