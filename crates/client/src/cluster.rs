//! Members: who they are, and changing them.

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::cluster_client::ClusterClient;
pub use quorate_wire::etcdserverpb::{MemberAddResponse, MemberListResponse};

use crate::Client;
use crate::call::Plan;
use crate::error::Error;
use crate::kv::ResponseHeader;

/// The members after a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberUpdated {
    pub header: Option<ResponseHeader>,
    pub members: Vec<pb::Member>,
}

impl Client {
    /// The members, as the newest state has them.
    pub async fn member_list(&self) -> Result<MemberListResponse, Error> {
        let request = pb::MemberListRequest { linearizable: true };
        unary!(self, Plan::READ, ClusterClient, member_list, request)
    }

    /// The members as the asked member knows them, answered without a leader too.
    pub async fn member_list_local(&self) -> Result<MemberListResponse, Error> {
        let request = pb::MemberListRequest { linearizable: false };
        unary!(self, Plan::LOCAL_READ, ClusterClient, member_list, request)
    }

    /// Adds a member that will be reached at these peer URLs, as a voter or, to catch up first, as a learner. Start it
    /// afterwards.
    pub async fn member_add(
        &self,
        peer_urls: impl IntoIterator<Item = impl Into<String>>,
        as_learner: bool,
    ) -> Result<MemberAddResponse, Error> {
        let peer_ur_ls = peer_urls.into_iter().map(Into::into).collect();
        let request = pb::MemberAddRequest { peer_ur_ls, is_learner: as_learner };
        unary!(self, Plan::WRITE, ClusterClient, member_add, request)
    }

    /// Removes a member for good.
    pub async fn member_remove(&self, id: u64) -> Result<MemberUpdated, Error> {
        let request = pb::MemberRemoveRequest { id };
        let answer: Result<pb::MemberRemoveResponse, Error> =
            unary!(self, Plan::WRITE, ClusterClient, member_remove, request);
        answer.map(|pb::MemberRemoveResponse { header, members }| MemberUpdated { header, members })
    }

    /// Changes the peer URLs of a member.
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<MemberUpdated, Error> {
        let peer_ur_ls = peer_urls.into_iter().map(Into::into).collect();
        let request = pb::MemberUpdateRequest { id, peer_ur_ls };
        let answer: Result<pb::MemberUpdateResponse, Error> =
            unary!(self, Plan::WRITE, ClusterClient, member_update, request);
        answer.map(|pb::MemberUpdateResponse { header, members }| MemberUpdated { header, members })
    }

    /// Makes a learner that has caught up a voter.
    pub async fn member_promote(&self, id: u64) -> Result<MemberUpdated, Error> {
        let request = pb::MemberPromoteRequest { id };
        let answer: Result<pb::MemberPromoteResponse, Error> =
            unary!(self, Plan::WRITE, ClusterClient, member_promote, request);
        answer.map(|pb::MemberPromoteResponse { header, members }| MemberUpdated { header, members })
    }
}
