//! What a machine tells of itself and, where it leads, of its followers.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{Response, StatusCode, request};

use quorate_ids::MemberId;
use quorate_member::{AppendStatistics, Flow, FollowerStatistics};
use quorate_models::tree;

use super::errors::{Error, RAFT_INTERNAL};
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

/// The fields of one direction. As theirs, a rate is left out where there is none.
fn flow(direction: &str, flow: &Flow) -> String {
    let mut fields = format!(",\"{direction}AppendRequestCnt\":{}", flow.count);
    if let Some(rate) = &flow.rate {
        let (messages, bytes) = (rate.messages_per_second, rate.bytes_per_second);
        fields.push_str(&format!(",\"{direction}PkgRate\":{messages},\"{direction}BandwidthRate\":{bytes}"));
    }
    fields
}

fn follower(figures: &FollowerStatistics) -> String {
    let (current, average, deviation, minimum, maximum) =
        figures.latency.map_or((0.0, 0.0, 0.0, 0.0, 0.0), |latency| {
            let (average, deviation) = (latency.average_ms, latency.standard_deviation_ms);
            (latency.current_ms, average, deviation, latency.minimum_ms, latency.maximum_ms)
        });
    let FollowerStatistics { success, fail, .. } = figures;
    format!(
        "{{\"latency\":{{\"current\":{current},\"average\":{average},\"standardDeviation\":{deviation},\
         \"minimum\":{minimum},\"maximum\":{maximum}}},\"counts\":{{\"fail\":{fail},\"success\":{success}}}}}"
    )
}

impl Thread {
    /// Heartbeats are appends without entries in 0.4, and messages of their own since.
    async fn appends(&self) -> Result<AppendStatistics, Error> {
        let counted =
            self.handle().statistics().await.map_err(|error| Error::from(error).at(self.index()))?;
        Ok(match self.dialect() {
            Dialect::V04 => counted.with_heartbeats,
            Dialect::V2 => counted.appends,
        })
    }

    fn stats_kind(&self) -> &'static str {
        match self.dialect() {
            Dialect::V04 => TEXT,
            Dialect::V2 => JSON,
        }
    }

    pub(super) async fn self_stats(&self) -> Answer {
        let status = self.handle().status();
        let started = go_time::rfc3339_nano(unix_nanos(self.shared.started));
        let name = quoted(&self.shared.config.name);
        let leader = status.leader.map(|id| (id, self.shared.leadership.look(id)));
        let uptime = leader.map_or(0, |(_, (since, _))| since.elapsed().as_nanos());
        let uptime = quoted(&go_time::duration(uptime));
        let own = self.handle().identity().member;
        let appends = self.appends().await?;
        let counts = flow("recv", &appends.received) + &flow("send", &appends.sent);
        let body = match self.dialect() {
            Dialect::V04 => {
                let state = if status.is_leader { "leader" } else { "follower" };
                let leader = quoted(&self.leader().await.unwrap_or_default().name);
                format!(
                    "{{\"name\":{name},\"state\":\"{state}\",\"startTime\":\"{started}\",\"leaderInfo\":\
                     {{\"leader\":{leader},\"uptime\":{uptime}}}{counts}}}"
                )
            }
            Dialect::V2 => {
                let state = if status.is_leader { "StateLeader" } else { "StateFollower" };
                let (leader, since) =
                    leader.map_or((String::new(), 0), |(id, (_, wall))| (format!("{id}"), unix_nanos(wall)));
                let since = go_time::rfc3339_nano(since);
                format!(
                    "{{\"name\":{name},\"id\":\"{own}\",\"state\":\"{state}\",\"startTime\":\"{started}\",\"leaderInfo\":\
                     {{\"leader\":\"{leader}\",\"uptime\":{uptime},\"startTime\":\"{since}\"}}{counts}}}"
                )
            }
        };
        Ok(reply(StatusCode::OK, self.stats_kind(), body))
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
        let name = |id: MemberId, name: &str| match self.dialect() {
            Dialect::V04 => quoted(name),
            Dialect::V2 => format!("\"{id}\""),
        };
        let appends = self.appends().await?;
        let members = self.handle().members();
        let mut followers: Vec<(String, String)> = members
            .iter()
            .filter(|member| member.id != own)
            .map(|member| {
                let figures = appends.followers.get(&member.id).copied().unwrap_or_default();
                (name(member.id, &member.name), follower(&figures))
            })
            .collect();
        followers.sort_unstable();
        let followers: Vec<String> =
            followers.into_iter().map(|(name, figures)| format!("{name}:{figures}")).collect();
        let followers = followers.join(",");
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
