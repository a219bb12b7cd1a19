//! One gRPC call: from its headers to its status.

use std::sync::Arc;

use ::http::{HeaderMap, Request, Response};
use bytes::{Bytes, BytesMut};
use quorate_member::Handle;

use super::answers::RangeAnswer;
use super::budget::{self, Taken};
use super::errors::{
    Code, DEADLINE_EXCEEDED, INVALID_CLIENT_API_VERSION, NO_LEADER, NOT_SUPPORTED_FOR_LEARNER, STOPPED,
    Status, TIMED_OUT, not_supported,
};
use super::grpc::{self, CallBody, Messages};
use super::methods::{Kind, Method, at_path};
use super::metrics::Started;
use super::{Thread, kv, watch};
use crate::listener::{Body, Outgoing, outgoing};

/// Answers up to this length are put together before they go; larger ones go piece by piece.
const WHOLE_BYTES_MAX: usize = 256 * 1024;
/// A piece of a large answer, and how much of it may wait for the connection.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_QUEUED_BYTES_MAX: usize = 256 * 1024;
/// How long a large answer may take: it keeps old files on the disk meanwhile.
const LARGE_ANSWER_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(300);
/// What gRPC clients take at most.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// What a unary call came to.
pub enum Answer {
    /// One message, framed.
    Whole(Bytes),
    /// A range, whose values follow as the client takes them.
    Range(RangeAnswer),
}

impl Answer {
    pub fn message(message: &impl prost::Message) -> Self {
        Self::Whole(grpc::framed(message))
    }

    /// A message that holds its share of the memory for answers until the connection has taken it.
    pub fn held(message: &impl prost::Message, taken: Taken) -> Self {
        struct Held(Bytes, #[expect(dead_code, reason = "given back when it is dropped")] Taken);
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let framed = grpc::framed(message);
        Self::Whole(if framed.len() > budget::FREE_BYTES {
            Bytes::from_owner(Held(framed, taken))
        } else {
            framed
        })
    }
}

/// Answers a call.
pub async fn answer(thread: Arc<Thread>, request: Request<CallBody>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Some(method) = at_path(path) else {
        let (service, name) = path.trim_start_matches('/').rsplit_once('/').unwrap_or((path, ""));
        let text = format!("unknown method {name} for service {service}");
        return grpc::response_status(&Status::with(Code::Unimplemented, text));
    };
    let mut started = thread.shared.metrics.start(method);
    if let Err(status) = thread.admit(method, &head.headers) {
        started.end(status.code);
        return grpc::response_status(&status);
    }
    let messages = Messages::new(body, thread.shared.config.message_bytes_max());
    let time = match grpc::timeout(&head.headers) {
        Ok(time) => time,
        Err(status) => {
            started.end(status.code);
            return grpc::response_status(&status);
        }
    };
    match method.entry().kind {
        Kind::Unary => {
            let answering = async {
                let answering = unary(&thread, method, messages, &mut started);
                if !matches!(method, Method::Lock | Method::Campaign) {
                    return answering.await;
                }
                // Others may hold it for as long as they like.
                tokio::select! {
                    answer = answering => answer,
                    () = thread.stopping.begun() => Err(STOPPED),
                }
            };
            let answer = match time {
                None => answering.await,
                Some(time) => tokio::time::timeout(time, answering).await.unwrap_or(Err(late(method))),
            };
            respond(&thread, answer, started)
        }
        Kind::ServerStream | Kind::Bidi => {
            let needs_leader = needs_leader(&head.headers);
            match method {
                Method::Watch => watch::serve(thread, messages, started, needs_leader),
                Method::LeaseKeepAlive => super::lease::serve_keep_alives(thread, messages, started),
                Method::HealthWatch => super::health::watch(thread, messages, started).await,
                Method::Observe => super::elections::observe(thread, messages, started).await,
                Method::RangeStream => kv::range_stream(thread, messages, started).await,
                _ => {
                    let status = not_supported(method.entry().path);
                    started.end(status.code);
                    grpc::response_status(&status)
                }
            }
        }
    }
}

/// What is answered when the client's own deadline is over. It may come before the client's clock says so, and etcd's client
/// takes `DEADLINE_EXCEEDED` then as a reason to ask another member, whatever it asked for: a write would be done twice. So
/// writes get what etcd gives them, after which nobody asks again.
fn late(method: Method) -> Status {
    match method {
        Method::Put
        | Method::Txn
        | Method::DeleteRange
        | Method::Compact
        | Method::LeaseGrant
        | Method::LeaseRevoke
        | Method::MemberAdd
        | Method::MemberRemove
        | Method::MemberUpdate
        | Method::MemberPromote
        | Method::Alarm
        | Method::MoveLeader => TIMED_OUT,
        _ => DEADLINE_EXCEEDED,
    }
}

fn respond(thread: &Arc<Thread>, answer: Result<Answer, Status>, mut started: Started) -> Response<Body> {
    match answer {
        Ok(Answer::Whole(framed)) => {
            started.sent(framed.len());
            started.end(Code::Ok);
            grpc::response_whole(framed)
        }
        Ok(Answer::Range(range)) => {
            let (outgoing, body) = outgoing();
            tokio::spawn(send_range(thread.handle().clone(), range, outgoing, started));
            grpc::response(body)
        }
        Err(status) => {
            started.end(status.code);
            grpc::response_status(&status)
        }
    }
}

/// Sends a large range as the client takes it.
async fn send_range(handle: Handle, mut range: RangeAnswer, outgoing: Outgoing, mut started: Started) {
    let deadline = tokio::time::Instant::now() + LARGE_ANSWER_TIME_MAX;
    let mut out = BytesMut::with_capacity(PIECE_BYTES);
    grpc::put_prefix(&mut out, range.message_bytes());
    loop {
        match range.write(&handle, &mut out, PIECE_BYTES).await {
            Ok(more) => {
                outgoing.push(out.split().freeze());
                if !more {
                    started.sent(range.message_bytes());
                    started.end(Code::Ok);
                    return outgoing.finish(grpc::trailers_ok());
                }
            }
            // The message's length is told already: nothing but breaking off says that it is not whole.
            Err(status) => {
                started.end(status.code);
                return outgoing.break_off(status.message.into_owned());
            }
        }
        match tokio::time::timeout_at(deadline, outgoing.below(PIECES_QUEUED_BYTES_MAX)).await {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => return started.end(Code::Canceled),
            Err(_) => {
                started.end(Code::DeadlineExceeded);
                return outgoing.break_off("the client took too long to take a large answer".to_owned());
            }
        }
    }
}

fn metadata<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get(name).map(::http::HeaderValue::as_bytes)
}

/// Whether the client wants to be told rather than to wait where there is no leader.
fn needs_leader(headers: &HeaderMap) -> bool {
    metadata(headers, "hasleader") == Some(b"true")
}

async fn unary(
    thread: &Thread,
    method: Method,
    mut messages: Messages<CallBody>,
    started: &mut Started,
) -> Result<Answer, Status> {
    let late = Status::new(Code::DeadlineExceeded, "the request did not come whole in time");
    let time = thread.shared.config.request_timeout;
    // A request that came whole with its headers costs no timer.
    let message = {
        let only = messages.only();
        tokio::pin!(only);
        tokio::select! {
            biased;
            message = &mut only => message?,
            () = std::future::ready(()) => tokio::time::timeout(time, only).await.map_err(|_| late)??,
        }
    };
    started.received(message.len());
    thread.unary(method, message).await
}

impl Thread {
    /// What is checked before a call's messages are read.
    fn admit(&self, method: Method, headers: &HeaderMap) -> Result<(), Status> {
        grpc::check_encoding(headers)?;
        if let Some(version) = metadata(headers, "client-api-version")
            && std::str::from_utf8(version).is_err()
        {
            return Err(INVALID_CLIENT_API_VERSION);
        }
        let health = matches!(method, Method::HealthCheck | Method::HealthList | Method::HealthWatch);
        let learner_may = health || matches!(method, Method::Status | Method::Range | Method::Snapshot);
        if !learner_may && self.handle().status().is_learner {
            return Err(NOT_SUPPORTED_FOR_LEARNER);
        }
        if needs_leader(headers) && self.handle().status().leader.is_none() {
            return Err(NO_LEADER);
        }
        Ok(())
    }

    /// Carries out a unary call: message in, message out. What the metadata asks for was checked before.
    pub async fn unary(&self, method: Method, message: Bytes) -> Result<Answer, Status> {
        match method {
            Method::Range => self.range(grpc::decode(message)?).await,
            Method::Put => self.put(grpc::decode(message)?).await,
            Method::DeleteRange => self.delete_range(grpc::decode(message)?).await,
            Method::Txn => self.txn(grpc::decode(message)?).await,
            Method::Compact => self.compact(&grpc::decode(message)?).await,
            Method::LeaseGrant => self.lease_grant(&grpc::decode(message)?).await,
            Method::LeaseRevoke => self.lease_revoke(&grpc::decode(message)?).await,
            Method::LeaseTimeToLive => self.lease_time_to_live(&grpc::decode(message)?).await,
            Method::LeaseLeases => self.lease_leases(&grpc::decode(message)?).await,
            Method::MemberAdd => self.member_add(grpc::decode(message)?).await,
            Method::MemberRemove => self.member_remove(&grpc::decode(message)?).await,
            Method::MemberUpdate => self.member_update(grpc::decode(message)?).await,
            Method::MemberList => self.member_list(&grpc::decode(message)?).await,
            Method::MemberPromote => self.member_promote(&grpc::decode(message)?).await,
            Method::Alarm => self.alarm(&grpc::decode(message)?).await,
            Method::Status => self.status(&grpc::decode(message)?),
            Method::Defragment => self.defragment(&grpc::decode(message)?),
            Method::Hash => self.hash(&grpc::decode(message)?).await,
            Method::HashKv => self.hash_kv(&grpc::decode(message)?).await,
            Method::MoveLeader => self.move_leader(&grpc::decode(message)?).await,
            Method::Lock => self.lock(grpc::decode(message)?).await,
            Method::Unlock => self.unlock(grpc::decode(message)?).await,
            Method::Campaign => self.campaign(grpc::decode(message)?).await,
            Method::Proclaim => self.proclaim(grpc::decode(message)?).await,
            Method::Leader => self.leader(grpc::decode(message)?).await,
            Method::Resign => self.resign(grpc::decode(message)?).await,
            Method::HealthCheck => self.health_check(&grpc::decode(message)?),
            Method::HealthList => self.health_list(&grpc::decode(message)?),
            _ => Err(not_supported(method.entry().path)),
        }
    }

    /// A range's answer: whole where it is small, else to be sent as the client takes it.
    pub(super) async fn send(&self, mut range: RangeAnswer) -> Result<Answer, Status> {
        let len = range.message_bytes();
        if len > ANSWER_BYTES_MAX {
            let text = format!("grpc: trying to send message larger than max ({len} vs. {ANSWER_BYTES_MAX})");
            return Err(Status::with(Code::ResourceExhausted, text));
        }
        if len > WHOLE_BYTES_MAX {
            return Ok(Answer::Range(range));
        }
        let mut out = BytesMut::with_capacity(grpc::PREFIX_BYTES + len);
        grpc::put_prefix(&mut out, len);
        let more = range.write(self.handle(), &mut out, usize::MAX).await?;
        assert!(
            !more && out.len() == grpc::PREFIX_BYTES + len,
            "a range's answer has the length that was told"
        );
        Ok(Answer::Whole(out.freeze()))
    }
}
