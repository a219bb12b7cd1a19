//! Service Maintenance.

use quorate_ids::{MemberId, Revision};
use quorate_member::MembershipRefusal;
use quorate_models::keys::{self, Command, HashScan, KeysError, KeysHash, Progress, Reply};
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::alarm_request::AlarmAction;

use super::alarms::{ALARM_CORRUPT, ALARM_NO_SPACE};
use super::call::Answer;
use super::errors::{Code, Status};
use super::kv::unexpected;
use super::{ETCD_CLUSTER_VERSION, ETCD_VERSION, Thread};

fn alarm_name(alarm: u8) -> &'static str {
    match alarm {
        ALARM_NO_SPACE => "NOSPACE",
        ALARM_CORRUPT => "CORRUPT",
        _ => "UNKNOWN",
    }
}

impl Thread {
    pub(super) fn status(&self, _request: &pb::StatusRequest) -> Result<Answer, Status> {
        let status = self.handle().status();
        let (alarms, (bytes_total, bytes_live), revision) = {
            let tables = self.handle().store().read();
            (keys::alarms(&tables), keys::data_bytes(&tables), keys::current_revision(&tables))
        };
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(status.failed);
        if status.no_space {
            errors.push("the disk is full".to_owned());
        }
        for (member, alarm) in alarms {
            errors.push(format!("memberID:{member} alarm:{} ", alarm_name(alarm)));
        }
        let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Answer::message(&pb::StatusResponse {
            header: Some(self.header(revision)),
            version: ETCD_VERSION.to_owned(),
            db_size: size(bytes_total),
            leader: status.leader.map_or(0, |leader| leader.0),
            raft_index: status.committed.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied.0,
            errors,
            db_size_in_use: size(bytes_live),
            is_learner: status.is_learner,
            storage_version: ETCD_CLUSTER_VERSION.to_owned(),
            db_size_quota: size(self.shared.config.quota_bytes),
            downgrade_info: Some(pb::DowngradeInfo { enabled: false, target_version: String::new() }),
        }))
    }

    /// There is nothing to defragment: space comes back by itself.
    pub(super) fn defragment(&self, _request: &pb::DefragmentRequest) -> Result<Answer, Status> {
        Ok(Answer::message(&pb::DefragmentResponse { header: None }))
    }

    /// Hashes the whole key space, on a thread that may wait for the disk; the net thread goes on.
    async fn scan(&self, revision: Revision) -> Result<KeysHash, Status> {
        let store = self.handle().store().clone();
        let scan = tokio::task::spawn_blocking(move || {
            let _pin = store.pin();
            let mut scan = HashScan::start(&store, revision)?;
            while scan.step(&store)? == Progress::More {
                std::thread::yield_now();
            }
            Ok::<_, KeysError>(scan.result())
        });
        let joined = scan.await.map_err(|error| {
            Status::with(Code::Internal, format!("etcdserver: hashing the keys failed: {error}"))
        })?;
        Ok(joined?)
    }

    pub(super) async fn hash(&self, _request: &pb::HashRequest) -> Result<Answer, Status> {
        let scanned = self.scan(Revision::ZERO).await?;
        let header = Some(self.header(scanned.revision));
        Ok(Answer::message(&pb::HashResponse { header, hash: scanned.hash }))
    }

    pub(super) async fn hash_kv(&self, request: &pb::HashKvRequest) -> Result<Answer, Status> {
        let revision = Revision(u64::try_from(request.revision).unwrap_or(0));
        let scanned = self.scan(revision).await?;
        Ok(Answer::message(&pb::HashKvResponse {
            header: Some(self.header(scanned.revision)),
            hash: scanned.hash,
            compact_revision: super::answers::signed(scanned.compact_revision),
            hash_revision: super::answers::signed(scanned.hash_revision),
        }))
    }

    pub(super) async fn move_leader(&self, request: &pb::MoveLeaderRequest) -> Result<Answer, Status> {
        // etcd's clients ask the leader alone, and look for it first.
        if !self.handle().status().is_leader {
            return Err(MembershipRefusal::NotLeader.into());
        }
        self.handle().transfer_leadership(MemberId(request.target_id)).await?;
        Ok(Answer::message(&pb::MoveLeaderResponse { header: None }))
    }

    pub(super) async fn alarm(&self, request: &pb::AlarmRequest) -> Result<Answer, Status> {
        let invalid =
            |what: &str| Status::with(Code::InvalidArgument, format!("etcdserver: unknown alarm {what}"));
        let action = AlarmAction::try_from(request.action).map_err(|_| invalid("action"))?;
        let alarm = pb::AlarmType::try_from(request.alarm).map_err(|_| invalid("type"))?;
        let raised = || keys::alarms(&self.handle().store().read());
        let wanted = |member: u64, kind: u8| {
            (request.member_id == 0 || request.member_id == member)
                && (alarm == pb::AlarmType::None || kind_of(alarm) == kind)
        };
        let alarms: Vec<(u64, u8)> = match action {
            AlarmAction::Get => raised()
                .into_iter()
                .filter(|(_, kind)| alarm == pb::AlarmType::None || kind_of(alarm) == *kind)
                .collect(),
            AlarmAction::Activate => {
                if alarm == pb::AlarmType::None {
                    Vec::new()
                } else {
                    let changed = vec![(request.member_id, kind_of(alarm))];
                    self.change_alarms(&changed, true).await?;
                    changed
                }
            }
            AlarmAction::Deactivate => {
                let changed: Vec<_> =
                    raised().into_iter().filter(|(member, kind)| wanted(*member, *kind)).collect();
                self.change_alarms(&changed, false).await?;
                changed
            }
        };
        let alarms = alarms
            .into_iter()
            .map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm: i32::from(alarm) })
            .collect();
        Ok(Answer::message(&pb::AlarmResponse { header: Some(self.header_now()), alarms }))
    }

    async fn change_alarms(&self, alarms: &[(u64, u8)], activate: bool) -> Result<(), Status> {
        for (member, alarm) in alarms {
            let command = Command::Alarm { activate, member: *member, alarm: *alarm };
            let reply = self.propose(&command).await;
            self.shared.alarms.forget();
            match reply? {
                Reply::Alarm { .. } => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }
}

fn kind_of(alarm: pb::AlarmType) -> u8 {
    match alarm {
        pb::AlarmType::None => 0,
        pb::AlarmType::Nospace => ALARM_NO_SPACE,
        pb::AlarmType::Corrupt => ALARM_CORRUPT,
    }
}
