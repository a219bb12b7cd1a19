//! Service Lease.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_ids::MemberId;
use quorate_models::keys::{self, Command, Reply, leases};
use quorate_wire::etcdserverpb as pb;

use super::Thread;
use super::call::Answer;
use super::errors::{LEASE_TTL_TOO_LARGE, Status, not_supported};
use super::kv::unexpected;

/// What etcd allows at most, in seconds.
const TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// Leases looked at under one hold of the store's lock.
const SLICE: usize = 256;

/// Where a member's own lease ids start: two bytes of its id, five of the time in milliseconds, and a count.
pub(super) fn first_id(member: MemberId) -> u64 {
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

    fn next_lease_id(&self) -> i64 {
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
        self.shared.alarms.check_space(self.handle())?;
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

    /// How long a lease has left is known to the leader's lease clock alone, which members do not offer yet: a lease
    /// that exists can't be answered, one that does not is.
    pub(super) async fn lease_time_to_live(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<Answer, Status> {
        self.handle().read_index().await?;
        if keys::lease(&self.handle().store().read(), request.id).is_some() {
            return Err(not_supported("the time to live of a lease"));
        }
        let header = Some(self.header_now());
        Ok(Answer::message(&pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: -1,
            ..Default::default()
        }))
    }

    pub(super) async fn lease_leases(&self, _request: &pb::LeaseLeasesRequest) -> Result<Answer, Status> {
        self.handle().read_index().await?;
        let mut found: Vec<pb::LeaseStatus> = Vec::new();
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
        Ok(Answer::message(&pb::LeaseLeasesResponse { header: Some(self.header_now()), leases: found }))
    }
}
