//! Service Lease.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use ::http::Response;
use bytes::Bytes;
use quorate_ids::MemberId;
use quorate_member::LeaseAnswer;
use quorate_models::keys::{Command, Reply, lease_keys, leases};
use quorate_models::tables::LEASES;
use quorate_wire::etcdserverpb as pb;

use super::Thread;
use super::budget::Taken;
use super::call::Answer;
use super::errors::{Code, LEASE_TTL_TOO_LARGE, STOPPED, Status};
use super::grpc::{self, CallBody, Messages};
use super::kv::unexpected;
use super::metrics::Started;
use crate::listener::{Body, outgoing};

/// What etcd allows at most, in seconds.
const TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// Leases or keys looked at under one hold of the store's lock.
const SLICE: usize = 256;
/// What a lease takes in an answer that lists it: as a number, and in the message.
const LISTED_LEASE_BYTES: usize = 24;
/// Answers that wait for one client; it is not listened to meanwhile.
const KEEP_ALIVES_QUEUED_BYTES_MAX: usize = 64 * 1024;

/// Where a member's own lease ids start: two bytes of its id, five of the time in milliseconds, and a count.
pub(crate) fn first_id(member: MemberId) -> u64 {
    const MILLIS_BITS: u32 = 40;
    const COUNT_BITS: u32 = 8;
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let millis = millis & ((1 << MILLIS_BITS) - 1);
    member.0 << (MILLIS_BITS + COUNT_BITS) | millis << COUNT_BITS
}

impl Thread {
    /// The shortest time that a lease may have: one and a half election timeouts, rounded up.
    fn ttl_seconds_min(&self) -> i64 {
        let millis = self.shared.config.election_timeout.as_millis() * 3 / 2;
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    pub(super) fn next_lease_id(&self) -> i64 {
        loop {
            let id = self.shared.lease_ids.fetch_add(1, Ordering::Relaxed) & (i64::MAX as u64);
            if id != 0 {
                return id as i64;
            }
        }
    }

    pub(super) async fn lease_grant(&self, request: &pb::LeaseGrantRequest) -> Result<Answer, Status> {
        if request.ttl > TTL_SECONDS_MAX {
            return Err(LEASE_TTL_TOO_LARGE);
        }
        self.check_space()?;
        let id = if request.id == 0 { self.next_lease_id() } else { request.id };
        let ttl_seconds = request.ttl.max(self.ttl_seconds_min());
        match self.propose(&Command::LeaseGrant { id, ttl_seconds }).await? {
            Reply::LeaseGrant { revision, id, ttl_seconds } => {
                let header = Some(self.header(revision));
                let error = String::new();
                Ok(Answer::message(&pb::LeaseGrantResponse { header, id, ttl: ttl_seconds, error }))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn lease_revoke(&self, request: &pb::LeaseRevokeRequest) -> Result<Answer, Status> {
        self.shared.alarms.check(self.handle())?;
        match self.propose(&Command::LeaseRevoke { id: request.id }).await? {
            Reply::LeaseRevoke { revision } => {
                Ok(Answer::message(&pb::LeaseRevokeResponse { header: Some(self.header(revision)) }))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What the leader says; a lease that does not exist has a time to live of -1.
    pub(super) async fn lease_time_to_live(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<Answer, Status> {
        const NANOS_PER_SECOND: u64 = 1_000_000_000;
        let said = self.handle().lease(request.id, false).await?;
        let mut response = pb::LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
        if let LeaseAnswer::Alive { ttl_seconds, remaining_nanos } = said {
            // Keys that were attached through another member are here, too, after this.
            self.handle().read_index().await?;
            response.ttl = i64::try_from(remaining_nanos / NANOS_PER_SECOND).unwrap_or(i64::MAX);
            response.granted_ttl = ttl_seconds;
            if request.keys {
                let (keys, taken) = self.attached(request.id).await?;
                response.keys = keys;
                response.header = Some(self.header_now());
                return Ok(Answer::held(&response, taken));
            }
        }
        response.header = Some(self.header_now());
        Ok(Answer::message(&response))
    }

    /// All keys attached to a lease, in order, with their share of the memory for answers.
    async fn attached(&self, id: i64) -> Result<(Vec<Bytes>, Taken), Status> {
        let mut found: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut taken = self.shared.answer_bytes.take(bytes)?;
        loop {
            let slice =
                lease_keys(&self.handle().store().read(), id, found.last().map(|key| &key[..]), SLICE);
            let done = slice.len() < SLICE;
            bytes += slice.iter().map(|key| key.len() + size_of::<Bytes>()).sum::<usize>();
            found.extend(slice);
            // Once as keys, once as the message.
            drop(taken);
            taken = self.shared.answer_bytes.take(2 * bytes)?;
            if done {
                return Ok((found, taken));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Renews a lease. The header tells what was before; a lease that does not exist has a time to live of 0.
    async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let header = Some(self.header_now());
        let ttl = match self.handle().lease(id, true).await? {
            LeaseAnswer::Alive { ttl_seconds, .. } => ttl_seconds,
            LeaseAnswer::Missing => 0,
        };
        Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
    }

    pub(super) async fn lease_leases(&self, _request: &pb::LeaseLeasesRequest) -> Result<Answer, Status> {
        self.handle().read_index().await?;
        let mut found: Vec<pb::LeaseStatus> = Vec::new();
        let leases_now = self.handle().store().read().len(LEASES);
        let bytes = usize::try_from(leases_now).unwrap_or(usize::MAX).saturating_mul(LISTED_LEASE_BYTES);
        let taken = self.shared.answer_bytes.take(bytes)?;
        loop {
            let last = found.last().map(|lease| lease.id);
            let slice = leases(&self.handle().store().read(), last, SLICE);
            let done = slice.len() < SLICE;
            found.extend(slice.into_iter().map(|lease| pb::LeaseStatus { id: lease.id }));
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        let response = pb::LeaseLeasesResponse { header: Some(self.header_now()), leases: found };
        Ok(Answer::held(&response, taken))
    }
}

/// Serves one stream of keep-alives, one after the other.
pub(super) fn serve_keep_alives(
    thread: Arc<Thread>,
    mut messages: Messages<CallBody>,
    mut started: Started,
) -> Response<Body> {
    let (outgoing, body) = outgoing();
    tokio::spawn(async move {
        let serve = async {
            loop {
                if !outgoing.below(KEEP_ALIVES_QUEUED_BYTES_MAX).await {
                    return Err(Status::new(Code::Canceled, "context canceled"));
                }
                let Some(message) = messages.next().await? else { return Ok(()) };
                started.received(message.len());
                let request: pb::LeaseKeepAliveRequest = grpc::decode(message)?;
                let message = grpc::framed(&thread.keep_alive(request.id).await?);
                started.sent(message.len());
                outgoing.push(message);
            }
        };
        let ended: Result<(), Status> = tokio::select! {
            ended = serve => ended,
            () = thread.stopping.begun() => Err(STOPPED),
            () = outgoing.gone() => Err(Status::new(Code::Canceled, "context canceled")),
        };
        match ended {
            Ok(()) => {
                started.end(Code::Ok);
                outgoing.finish(grpc::trailers_ok());
            }
            Err(status) => {
                started.end(status.code);
                outgoing.finish(grpc::trailers(&status));
            }
        }
    });
    grpc::response(body)
}
