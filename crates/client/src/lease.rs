//! Leases: granting, revoking, looking at them. Keeping them alive is in `keep_alive`.

use bytes::Bytes;
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
pub use quorate_wire::etcdserverpb::{
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
};

use crate::Client;
use crate::call::Plan;
use crate::error::Error;

/// How long a lease has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub id: i64,
    pub granted_seconds: i64,
    pub remaining_seconds: i64,
    /// The keys that die with it, where they were asked for.
    pub keys: Vec<Bytes>,
}

impl Client {
    /// Grants a lease of a time to live in seconds, which the server may lengthen; the answer tells. The server picks
    /// the id.
    pub async fn lease_grant(&self, ttl_seconds: i64) -> Result<LeaseGrantResponse, Error> {
        self.lease_grant_with_id(ttl_seconds, 0).await
    }

    /// Grants a lease with an id of one's own; fails with [`crate::ErrorKind::LeaseExists`] where there is one.
    pub async fn lease_grant_with_id(&self, ttl_seconds: i64, id: i64) -> Result<LeaseGrantResponse, Error> {
        let request = pb::LeaseGrantRequest { ttl: ttl_seconds, id };
        unary!(self, Plan::WRITE, LeaseClient, lease_grant, request)
    }

    /// Ends a lease; its keys are deleted.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let request = pb::LeaseRevokeRequest { id };
        unary!(self, Plan::WRITE, LeaseClient, lease_revoke, request)
    }

    /// How long a lease has left; `None` where there is no such lease.
    pub async fn lease_time_to_live(&self, id: i64, with_keys: bool) -> Result<Option<TimeToLive>, Error> {
        let answer = self.lease_time_to_live_answer(id, with_keys).await?;
        Ok((answer.ttl >= 0).then_some(TimeToLive {
            id: answer.id,
            granted_seconds: answer.granted_ttl,
            remaining_seconds: answer.ttl,
            keys: answer.keys,
        }))
    }

    /// The same as it was answered, with its header; a TTL of -1 is that of a lease that is not there.
    pub async fn lease_time_to_live_answer(
        &self,
        id: i64,
        with_keys: bool,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: with_keys };
        unary!(self, Plan::READ, LeaseClient, lease_time_to_live, request)
    }

    /// All leases.
    pub async fn lease_list(&self) -> Result<LeaseLeasesResponse, Error> {
        let request = pb::LeaseLeasesRequest {};
        unary!(self, Plan::READ, LeaseClient, lease_leases, request)
    }
}
