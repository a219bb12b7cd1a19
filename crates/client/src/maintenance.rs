//! Looking after members: their state, hashes, alarms and leadership.

use std::fmt;

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
pub use quorate_wire::etcdserverpb::{AlarmMember, HashKvResponse, StatusResponse};

use crate::Client;
use crate::call::Plan;
use crate::error::{Error, ErrorKind};

/// Kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The store has reached its quota: nothing but reads, deletes and compaction.
    NoSpace,
    /// A member's data differs from the others'.
    Corrupt,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        })
    }
}

impl Client {
    /// The state of the member at one endpoint. The endpoint need not be one of the client's.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, Error> {
        let request = pb::StatusRequest {};
        let client = self.at(endpoint)?;
        unary!(client, Plan::LOCAL_READ, MaintenanceClient, status, request)
    }

    /// The hash of one member's keys as of a revision (0: the newest). Equal revisions have equal hashes on all
    /// members.
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<HashKvResponse, Error> {
        let request = pb::HashKvRequest { revision };
        let client = self.at(endpoint)?;
        unary!(client, Plan::LOCAL_READ, MaintenanceClient, hash_kv, request)
    }

    /// Asks the member at one endpoint to defragment its store. Quorate's members have no need to, and do nothing.
    pub async fn defragment(&self, endpoint: &str) -> Result<(), Error> {
        let request = pb::DefragmentRequest {};
        let client = self.at(endpoint)?;
        let answer: Result<pb::DefragmentResponse, Error> =
            unary!(client, Plan::LOCAL_READ, MaintenanceClient, defragment, request);
        answer.map(drop)
    }

    /// The alarms that are on.
    pub async fn alarm_list(&self) -> Result<Vec<AlarmMember>, Error> {
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Get.into(),
            member_id: 0,
            alarm: pb::AlarmType::None.into(),
        };
        let answer: Result<pb::AlarmResponse, Error> =
            unary!(self, Plan::READ, MaintenanceClient, alarm, request);
        Ok(answer?.alarms)
    }

    /// Turns one alarm of one member off. Off twice is off, so it is repeated where a member fails. Answers what was
    /// turned off.
    pub async fn alarm_disarm(&self, member_id: u64, alarm: Alarm) -> Result<Vec<AlarmMember>, Error> {
        let kind = match alarm {
            Alarm::NoSpace => pb::AlarmType::Nospace,
            Alarm::Corrupt => pb::AlarmType::Corrupt,
        };
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            member_id,
            alarm: kind.into(),
        };
        let answer: Result<pb::AlarmResponse, Error> =
            unary!(self, Plan::READ, MaintenanceClient, alarm, request);
        Ok(answer?.alarms)
    }

    /// Moves leadership to a member. The leader is looked for among the endpoints, then among the members' client URLs.
    pub async fn move_leader(&self, to: u64) -> Result<(), Error> {
        let leader = self.leader_endpoint().await?;
        let request = pb::MoveLeaderRequest { target_id: to };
        let client = self.at(&leader)?;
        let answer: Result<pb::MoveLeaderResponse, Error> =
            unary!(client, Plan::WRITE, MaintenanceClient, move_leader, request);
        answer.map(drop)
    }

    /// An endpoint at which the leader answers.
    pub async fn leader_endpoint(&self) -> Result<String, Error> {
        let mut asked = self.endpoints();
        if let Some(found) = self.leader_among(&asked).await {
            return Ok(found);
        }
        let members = self.member_list_local().await?.members;
        let mut announced: Vec<String> = members.into_iter().flat_map(|member| member.client_ur_ls).collect();
        announced.retain(|url| !asked.contains(url));
        if let Some(found) = self.leader_among(&announced).await {
            return Ok(found);
        }
        asked.append(&mut announced);
        Err(Error::new(ErrorKind::NoLeader, format!("no leader answers at any of {}", asked.join(", "))))
    }

    async fn leader_among(&self, endpoints: &[String]) -> Option<String> {
        for endpoint in endpoints {
            if let Ok(status) = self.status_once(endpoint).await
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                return Some(endpoint.clone());
            }
        }
        None
    }

    /// One attempt only, within the time for a connection.
    async fn status_once(&self, endpoint: &str) -> Result<StatusResponse, Error> {
        let patience = self.inner.pool.connect_timeout;
        let asking = self.status(endpoint);
        tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unreachable, format!("no answer within {patience:?}")))
        })
    }
}
