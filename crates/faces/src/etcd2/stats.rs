//! What a machine tells of itself and, where it leads, of its followers.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{Response, StatusCode, request};

use quorate_models::tree;

use super::errors::RAFT_INTERNAL;
use super::routes::said;
use super::{Answer, Dialect, JSON, TEXT, Thread, go_time, json, reply};
use crate::listener::Body;

pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::string(&mut out, text.as_bytes());
    out
}

impl Thread {
    fn stats_kind(&self) -> &'static str {
        match self.dialect() {
            Dialect::V04 => TEXT,
            Dialect::V2 => JSON,
        }
    }

    pub(super) async fn self_stats(&self) -> Response<Body> {
        let status = self.handle().status();
        let started = go_time::rfc3339_nano(unix_nanos(self.shared.started));
        let name = quoted(&self.shared.config.name);
        let leader = status.leader.map(|id| (id, self.shared.leadership.look(id)));
        let uptime = leader.map_or(0, |(_, (since, _))| since.elapsed().as_nanos());
        let uptime = quoted(&go_time::duration(uptime));
        let metrics = self.handle().metrics();
        let own = self.handle().identity().member;
        let members = self.handle().members();
        let others = members.iter().filter(|member| member.id != own);
        let sent: u64 = others.map(|member| metrics.frames_to(member.id).0).sum();
        let received = metrics.frames_received();
        let counts = format!("\"recvAppendRequestCnt\":{received},\"sendAppendRequestCnt\":{sent}");
        let body = match self.dialect() {
            Dialect::V04 => {
                let state = if status.is_leader { "leader" } else { "follower" };
                let leader = quoted(&self.leader().await.unwrap_or_default().name);
                format!(
                    "{{\"name\":{name},\"state\":\"{state}\",\"startTime\":\"{started}\",\"leaderInfo\":\
                     {{\"leader\":{leader},\"uptime\":{uptime}}},{counts}}}"
                )
            }
            Dialect::V2 => {
                let state = if status.is_leader { "StateLeader" } else { "StateFollower" };
                let (leader, since) =
                    leader.map_or((String::new(), 0), |(id, (_, wall))| (format!("{id}"), unix_nanos(wall)));
                let since = go_time::rfc3339_nano(since);
                format!(
                    "{{\"name\":{name},\"id\":\"{own}\",\"state\":\"{state}\",\"startTime\":\"{started}\",\"leaderInfo\":\
                     {{\"leader\":\"{leader}\",\"uptime\":{uptime},\"startTime\":\"{since}\"}},{counts}}}"
                )
            }
        };
        reply(StatusCode::OK, self.stats_kind(), body)
    }

    pub(super) async fn leader_stats(&self, head: &request::Parts) -> Answer {
        let status = self.handle().status();
        if !status.is_leader {
            return match self.dialect() {
                Dialect::V04 => {
                    let url = self.leader_client_url(RAFT_INTERNAL).await;
                    Ok(Self::redirect(&url.map_err(|error| error.at(self.index()))?, head))
                }
                Dialect::V2 => Ok(said(StatusCode::FORBIDDEN, "not current leader")),
            };
        }
        let own = self.handle().identity().member;
        let name = |id: quorate_ids::MemberId, name: &str| match self.dialect() {
            Dialect::V04 => quoted(name),
            Dialect::V2 => format!("\"{id}\""),
        };
        let members = self.handle().members();
        let mut followers = String::new();
        for member in members.iter().filter(|member| member.id != own) {
            if !followers.is_empty() {
                followers.push(',');
            }
            followers.push_str(&name(member.id, &member.name));
            // Frames, not appends: how long a follower takes for one is not measured, so it is not told.
            let (success, fail) = self.handle().metrics().frames_to(member.id);
            followers.push_str(&format!(":{{\"counts\":{{\"fail\":{fail},\"success\":{success}}}}}"));
        }
        let own = name(own, &self.shared.config.name);
        let body = format!("{{\"leader\":{own},\"followers\":{{{followers}}}}}");
        Ok(reply(StatusCode::OK, self.stats_kind(), body))
    }

    pub(super) fn store_stats(&self) -> Response<Body> {
        let counted = tree::statistics(&self.handle().store().read());
        let read =
            |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let fields = [
            ("getsSuccess", read(&self.shared.reads)),
            ("getsFail", read(&self.shared.failed_reads)),
            ("setsSuccess", counted.set_success),
            ("setsFail", counted.set_fail),
            ("deleteSuccess", counted.delete_success),
            ("deleteFail", counted.delete_fail),
            ("updateSuccess", counted.update_success),
            ("updateFail", counted.update_fail),
            ("createSuccess", counted.create_success),
            ("createFail", counted.create_fail),
            ("compareAndSwapSuccess", counted.compare_and_swap_success),
            ("compareAndSwapFail", counted.compare_and_swap_fail),
            ("compareAndDeleteSuccess", counted.compare_and_delete_success),
            ("compareAndDeleteFail", counted.compare_and_delete_fail),
            ("expireCount", counted.expire_count),
            ("watchers", self.shared.watching() as u64),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, count)| format!("\"{name}\":{count}")).collect();
        reply(StatusCode::OK, self.stats_kind(), format!("{{{}}}", fields.join(",")))
    }
}
