//! `/join`, `/remove` of a node, `/members`, `/leader`, `/transfer`, `/status`, and health.

use std::time::Duration;

use http::StatusCode;
use quorate_ids::MemberId;
use quorate_member::joining::{JoinError, JoinRefusal};
use quorate_member::{Member, MembershipRefusal, MembershipRequest, RequestError};
use quorate_models::keys;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::console::{servers, suffrage};
use super::parameters::Parameters;
use super::{Answer, Shared};
use crate::etcd3::ETCD_VERSION;

/// The longest name of a node, in bytes.
const NODE_ID_BYTES_MAX: usize = 256;
/// What the line of a join names as its place in the program: as balsa does, for those who read its logs.
const JOINING_SOURCE: &str = "handler.go:28";
/// How long `/join` waits until the newcomer votes; it goes on becoming a voter after that.
const VOTES_PATIENCE: Duration = Duration::from_secs(10);
/// How long a removal is tried that a new leader refuses because it does not know yet who is there.
const REMOVE_PATIENCE: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long `/readyz` may take.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// Where a node that is to join listens for the others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
}

fn host_of(text: &str) -> Result<String, Answer> {
    let good = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'));
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(bare) if bare.parse::<std::net::Ipv6Addr>().is_ok() => Ok(text.to_owned()),
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => Ok(format!("[{text}]")),
        None if good && !text.contains(':') => Ok(text.to_owned()),
        _ => Err(Answer::bad_request(&format!("{text:?} is no host: a name or an IP address is needed"))),
    }
}

fn port_of(name: &str, text: &str) -> Result<u16, Answer> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| text.parse::<u16>().ok()).flatten().filter(|port| *port > 0);
    port.ok_or_else(|| Answer::bad_request(&format!("{name}: {text:?} is no port: a number from 1 to 65535")))
}

/// `raftAddr`, or `raftPort` with `raftHost`.
pub(super) fn address(parameters: &Parameters) -> Result<Address, Answer> {
    if let Some(addr) = parameters.text("raftAddr")? {
        if parameters.has("raftPort") || parameters.has("raftHost") {
            return Err(Answer::bad_request("give raftAddr, or raftPort with raftHost, not both"));
        }
        let split = addr.rsplit_once(':');
        let (host, port) = split.ok_or_else(|| {
            Answer::bad_request(&format!("raftAddr: {addr:?} does not have the form host:port"))
        })?;
        return Ok(Address { host: host_of(host)?, port: port_of("raftAddr", port)? });
    }
    let port = port_of("raftPort", parameters.needed_text("raftPort")?)?;
    let host = host_of(parameters.text("raftHost")?.unwrap_or("127.0.0.1"))?;
    Ok(Address { host, port })
}

/// A node's name: what fits into one line, and into a list of members.
pub(super) fn node_id(parameters: &Parameters) -> Result<&str, Answer> {
    let name = parameters.needed_text("nodeId")?;
    if name.len() > NODE_ID_BYTES_MAX {
        return Err(Answer::bad_request(&format!("nodeId: it has more than {NODE_ID_BYTES_MAX} bytes")));
    }
    if name.chars().any(|c| c.is_control() || matches!(c, ',' | '=')) {
        return Err(Answer::bad_request("nodeId: it must not hold ',', '=' or control characters"));
    }
    Ok(name)
}

fn raft_address(member: &Member) -> &str {
    let url = member.peer_urls.first().map_or("", String::as_str);
    url.split_once("://").map_or(url, |(_, address)| address)
}

fn join_failed(error: JoinError) -> Answer {
    match error {
        JoinError::Unreachable { .. } => Answer::error(StatusCode::BAD_GATEWAY, error),
        JoinError::Refused(JoinRefusal::Nameless) => Answer::bad_request(&error.to_string()),
        JoinError::Refused(refusal) => refused(&refusal),
        JoinError::Request(error) => error.into(),
    }
}

fn refused(refusal: &JoinRefusal) -> Answer {
    match refusal {
        JoinRefusal::Cluster(
            MembershipRefusal::InProgress | MembershipRefusal::TooManyJoining | MembershipRefusal::Unhealthy,
        ) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}; try again")),
        _ => Answer::conflict(refusal),
    }
}

impl Shared {
    pub(super) fn leader_member(&self) -> Option<Member> {
        let leader = self.handle.status().leader?;
        self.handle.members().iter().find(|member| member.id == leader).cloned()
    }

    /// Where a node takes requests; empty until it said so itself.
    pub(super) fn http_address(&self, member: &Member) -> String {
        member.client_urls.first().cloned().unwrap_or_default()
    }

    fn shown(&self, member: &Member, leader: Option<MemberId>) -> Value {
        json!({
            "node_id": member.name,
            "member_id": member.id.to_string(),
            "raft_addr": raft_address(member),
            "http_addr": self.http_address(member),
            "suffrage": suffrage(!member.is_learner),
            "leader": leader == Some(member.id),
        })
    }

    fn all_shown(&self) -> Vec<Value> {
        let leader = self.handle.status().leader;
        let mut members = self.handle.members().to_vec();
        members.sort_by(|one, other| one.name.cmp(&other.name));
        members.iter().map(|member| self.shown(member, leader)).collect()
    }

    fn named(&self, name: &str) -> Result<Member, Answer> {
        let members = self.handle.members();
        let found = members.iter().find(|member| member.name == name);
        let found = found.or_else(|| members.iter().find(|member| member.id.to_string() == name));
        found.cloned().ok_or_else(|| {
            Answer::error(StatusCode::NOT_FOUND, format!("there is no node {name:?} in this cluster"))
        })
    }

    pub(super) async fn join(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        let console = &self.config.console;
        console.say("Join handler called");
        parameters.only(&["nodeId", "raftPort", "raftHost", "raftAddr", "voter"])?;
        let name = node_id(parameters)?;
        let voter = parameters.flag("voter", true)?;
        console.log(&format!("node is {name}"));
        let Address { host, port } = address(parameters)?;
        console.info(&format!("Joining node {name} on host {host}:{port}"), JOINING_SOURCE);
        if let Some(leader) = self.leader_member().filter(|_| !self.handle.status().is_leader) {
            let address = self.http_address(&leader);
            console.log(&format!("Not a leader, forwarding to {} at {address}", leader.name));
        }
        let scheme = if self.config.raft_https { "https" } else { "http" };
        let admitted = self.handle.absorb(name, &format!("{scheme}://{host}:{port}"), voter).await;
        let admitted = admitted.map_err(|error| {
            console.log(&format!("Invalid voter: {error}"));
            join_failed(error)
        })?;
        let settled = async {
            while !self.handle.is_settled(admitted.member) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let settled = tokio::time::timeout(VOTES_PATIENCE, settled).await.is_ok();
        Ok(Answer::ok(&json!({
            "cluster_id": admitted.cluster.to_string(),
            "leader": self.leader_member().map(|leader| leader.name),
            "members": self.all_shown(),
            "settled": settled,
        })))
    }

    /// `own`: without a name it is this node that goes.
    pub(super) async fn remove_node(&self, parameters: &Parameters, own: bool) -> Result<Answer, Answer> {
        parameters.only(&["nodeId"])?;
        let id = match own && !parameters.has("nodeId") {
            true => self.handle.identity().member,
            false if !parameters.has("nodeId") => {
                return Err(Answer::bad_request("the parameter \"key\" or \"nodeId\" is missing"));
            }
            false => {
                // The list may be behind on a node that was away.
                self.handle.read_index().await?;
                self.named(node_id(parameters)?)?.id
            }
        };
        match self.remove(id).await {
            Ok(()) => Ok(Answer::ok(&json!({ "removed": id.to_string(), "members": self.all_shown() }))),
            Err(RequestError::Refused { reason: MembershipRefusal::NotFound }) => {
                Err(Answer::error(StatusCode::NOT_FOUND, "there is no such node in this cluster any more"))
            }
            Err(RequestError::Refused {
                reason: reason @ (MembershipRefusal::InProgress | MembershipRefusal::Unhealthy),
            }) => Err(Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}; try again"))),
            Err(error) => Err(error.into()),
        }
    }

    /// A new leader does not know at once who is there; what it refuses for that is asked again.
    async fn remove(&self, id: MemberId) -> Result<(), RequestError> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        loop {
            let refusal = match self.handle.change_membership(MembershipRequest::Remove { id }).await {
                Ok(_) => return Ok(()),
                Err(refusal) => refusal,
            };
            let passes = matches!(
                refusal,
                RequestError::Refused {
                    reason: MembershipRefusal::NotEnoughStarted | MembershipRefusal::InProgress
                }
            );
            if !passes || Instant::now() > deadline {
                return Err(refusal);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn members(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&[])?;
        Ok(Answer::ok(&Value::Array(self.all_shown())))
    }

    pub(super) fn leader(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&[])?;
        match self.leader_member() {
            Some(leader) => Ok(Answer::ok(&self.shown(&leader, Some(leader.id)))),
            None => Err(Answer::no_leader()),
        }
    }

    pub(super) async fn transfer(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&["to", "forward"])?;
        let to = parameters.needed_text("to")?;
        self.forward(parameters)?;
        // The list may be behind on a node that was away.
        self.handle.read_index().await?;
        let to = self.named(to)?;
        self.handle.transfer_leadership(to.id).await?;
        Ok(Answer::ok(&self.shown(&to, Some(to.id))))
    }

    pub(super) fn status(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&[])?;
        let (identity, status) = (self.handle.identity(), self.handle.status());
        let members = self.handle.members();
        let me = members.iter().find(|member| member.id == identity.member);
        let state = match () {
            () if status.failed.is_some() => "Shutdown",
            () if status.is_leader => "Leader",
            () if status.leader.is_none() => "Candidate",
            () => "Follower",
        };
        let checkpoint = self.handle.store().durable_index();
        let (revision, keys) = {
            let tables = self.handle.store().read();
            let prefix = self.config.prefix.as_bytes();
            let end = match keys::RangeEnd::of_prefix(prefix) {
                keys::RangeEnd::Before(end) => Some(end),
                _ => None,
            };
            let count = tables.count(quorate_models::tables::KEYS, prefix, end.as_deref());
            (keys::current_revision(&tables).0, count)
        };
        let leader = members.iter().find(|member| Some(member.id) == status.leader);
        Ok(Answer::ok(&json!({
            "node_id": me.map(|me| me.name.clone()),
            "member_id": identity.member.to_string(),
            "cluster_id": identity.cluster.to_string(),
            "state": state,
            "suffrage": suffrage(!status.is_learner),
            "leader": leader.map(|leader| leader.name.clone()),
            "term": status.term.0,
            "last_log_index": status.last_index.0,
            "commit_index": status.committed.0,
            "applied_index": status.applied.0,
            "fsm_pending": status.committed.0.saturating_sub(status.applied.0),
            "last_snapshot_index": checkpoint.0,
            "latest_configuration": servers(members.iter().map(|member| {
                (!member.is_learner, member.name.as_str(), raft_address(member))
            })),
            "num_peers": members.len().saturating_sub(1),
            "revision": revision,
            "keys": keys,
            "error": status.failed,
            "version": env!("CARGO_PKG_VERSION"),
            "etcd_version": ETCD_VERSION,
        })))
    }

    pub(super) fn healthz(&self) -> Result<Answer, Answer> {
        match self.handle.status().failed {
            None => Ok(Answer::ok(&json!({ "status": "ok" }))),
            Some(reason) => Err(Answer::error(StatusCode::SERVICE_UNAVAILABLE, reason)),
        }
    }

    pub(super) async fn readyz(&self) -> Result<Answer, Answer> {
        match tokio::time::timeout(READY_PATIENCE, self.handle.read_index()).await {
            Ok(Ok(_)) => Ok(Answer::ok(&json!({ "status": "ok" }))),
            Ok(Err(error)) => Err(Answer::error(StatusCode::SERVICE_UNAVAILABLE, error)),
            Err(_) => Err(Answer::no_leader()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Option<Address> {
        let mut parameters = Parameters::default();
        parameters.add(query.as_bytes()).ok()?;
        address(&parameters).ok()
    }

    #[test]
    fn a_port_alone_is_on_this_machine() {
        let local = |port| Some(Address { host: "127.0.0.1".to_owned(), port });
        assert_eq!(parsed("raftPort=9001"), local(9001));
        for wrong in ["0", "", "65536", "-1", "9001x", "+9001", "%209001", "9e3"] {
            assert_eq!(parsed(&format!("raftPort={wrong}")), None, "{wrong}");
        }
        assert_eq!(parsed("nodeId=n2"), None);
    }

    #[test]
    fn hosts_are_names_or_addresses_and_nothing_that_changes_the_url() {
        let on = |host: &str| Some(Address { host: host.to_owned(), port: 9001 });
        assert_eq!(parsed("raftAddr=node-2.example:9001"), on("node-2.example"));
        assert_eq!(parsed("raftHost=10.0.0.2&raftPort=9001"), on("10.0.0.2"));
        assert_eq!(parsed("raftAddr=[::1]:9001"), on("[::1]"));
        assert_eq!(parsed("raftHost=::1&raftPort=9001"), on("[::1]"));
        for wrong in ["a/b:9001", "a@b:9001", ":9001", "a:b:9001", "a%20b:9001", "9001", "[x]:9001"] {
            assert_eq!(parsed(&format!("raftAddr={wrong}")), None, "{wrong}");
        }
        assert_eq!(parsed("raftAddr=a:1&raftPort=1"), None);
    }
}
