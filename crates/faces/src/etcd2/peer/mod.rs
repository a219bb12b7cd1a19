//! What etcd 0.4 serves on its peer port for people: versions, the list of machines, the cluster's settings, removal.
//!
//! Machines of ours join by their own protocol, on the same port. A machine of etcd 0.4 can't take part, and is told so
//! where it asks.

mod leader;
mod registry;
mod settings;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use quorate_ids::{ClusterId, MemberId};
use quorate_member::{Handle, Member, MembershipRefusal, MembershipRequest, RequestError};
use serde_json::Value;

pub use self::leader::keep;
use self::registry::{MACHINES, STANDBYS};
pub use self::registry::{Registry, RegistryError, percent_encoded};
pub use self::settings::{ClusterSettings, SettingsError};
use super::errors::{Error, KEY_NOT_FOUND, RAFT_INTERNAL};
use super::{Dialect, JSON, TEXT, not_found, reply, text};
use crate::listener::{Answering, Body, Face, Stopping, ThreadFace};

/// The version of the tree's store, which 0.4's machines compare before they join.
const STORE_VERSION: &str = "2";
const BODY_BYTES_MAX: usize = 64 * 1024;
const ADMIN_MACHINES: &str = "/v2/admin/machines";
/// What a machine of etcd 0.4 is told.
const NOT_OURS: &str = "this cluster runs Quorate: a machine of etcd 0.4 can't take part in it; start 'quorate etcd2' \
                        with the same flags and an empty data folder instead";

/// What may be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// This machine's name.
    pub name: String,
    /// Where clients reach this machine.
    pub client_url: String,
    /// What the cluster was founded with.
    pub founded: ClusterSettings,
}

/// The face for the peer port.
pub struct Peer {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    registry: Registry,
    config: Config,
}

impl Peer {
    #[must_use]
    pub fn new(handle: Handle, config: Config) -> Self {
        let registry = Registry { handle: handle.clone() };
        Self { shared: Arc::new(Shared { handle, registry, config }) }
    }
}

impl Face for Peer {
    fn on_thread(&self, _: &Stopping) -> Arc<dyn ThreadFace> {
        Arc::new(OnThread(Arc::clone(&self.shared)))
    }
}

struct OnThread(Arc<Shared>);

impl ThreadFace for OnThread {
    fn takes(&self, _: &str) -> bool {
        true
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = shared.route(request).await;
            answer.unwrap_or_else(|error| error.response(Dialect::V04))
        })
    }
}

type Answer = Result<Response<Body>, Error>;

fn json(body: String) -> Response<Body> {
    reply(StatusCode::OK, JSON, body)
}

fn method_not_allowed() -> Response<Body> {
    reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n")
}

impl Shared {
    async fn route(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        match path.as_str() {
            "/name" => return Ok(text(self.config.name.clone())),
            "/version" => return Ok(text(STORE_VERSION)),
            "/etcdURL" => return Ok(text(self.config.client_url.clone())),
            // The store has had its newest version from the start.
            "/upgrade" => return Ok(text("")),
            "/v2/admin/config" => return self.settings(method, request.into_body()).await,
            "/vote" | "/log" | "/log/append" | "/snapshot" | "/snapshotRecovery" => {
                return Ok(reply(StatusCode::NOT_IMPLEMENTED, TEXT, format!("{NOT_OURS}\n")));
            }
            "/join" if method == Method::POST => {
                return Err(Error::new(RAFT_INTERNAL, NOT_OURS).with_status(StatusCode::BAD_REQUEST));
            }
            "/promote" if method == Method::POST => return self.promote().await,
            "/join" | "/promote" => return Ok(method_not_allowed()),
            ADMIN_MACHINES if method == Method::GET => return Ok(json(self.machines())),
            ADMIN_MACHINES => return Ok(method_not_allowed()),
            _ => {}
        }
        if let Some(version) = path.strip_prefix("/version/").and_then(|rest| rest.strip_suffix("/check")) {
            let status = if version == STORE_VERSION { StatusCode::OK } else { StatusCode::FORBIDDEN };
            return Ok(reply(status, TEXT, ""));
        }
        if let Some(name) = path.strip_prefix("/remove/") {
            return match method {
                Method::DELETE => self.remove(name).await,
                _ => Ok(method_not_allowed()),
            };
        }
        if let Some(name) = path.strip_prefix(ADMIN_MACHINES).and_then(|rest| rest.strip_prefix('/')) {
            return match method {
                Method::GET => Ok(json(self.machine(name))),
                Method::DELETE => self.remove(name).await,
                Method::PUT => self.announced(name, request.into_body()).await,
                _ => Ok(method_not_allowed()),
            };
        }
        Ok(not_found())
    }

    // ---- machines ----

    fn described(&self, member: &Member) -> String {
        let first =
            |urls: &[String]| serde_json::Value::from(urls.first().cloned().unwrap_or_default()).to_string();
        let (mode, state) = if member.is_learner {
            ("standby", "standby")
        } else if self.handle.status().leader == Some(member.id) {
            ("peer", "leader")
        } else {
            ("peer", "follower")
        };
        format!(
            "{{\"name\":{},\"mode\":\"{mode}\",\"state\":\"{state}\",\"clientURL\":{},\"peerURL\":{}}}",
            serde_json::Value::from(member.name.clone()),
            first(&member.client_urls),
            first(&member.peer_urls)
        )
    }

    fn machines(&self) -> String {
        let members = self.handle.members();
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by(|one, other| one.name.cmp(&other.name));
        let described: Vec<String> = members.into_iter().map(|member| self.described(member)).collect();
        format!("[{}]", described.join(","))
    }

    fn machine(&self, name: &str) -> String {
        let members = self.handle.members();
        members
            .iter()
            .find(|member| member.name == name)
            .map_or("null".to_owned(), |member| self.described(member))
    }

    async fn remove(&self, name: &str) -> Answer {
        self.handle.read_index().await.map_err(raft)?;
        let members = self.handle.members();
        let Some(member) = members.iter().find(|member| member.name == name) else {
            return Err(Error::new(KEY_NOT_FOUND, name.to_owned()));
        };
        tracing::info!(name, member = %member.id, "removing a machine, as asked on the peer port");
        match self.handle.change_membership(MembershipRequest::Remove { id: member.id }).await {
            // Somebody else was faster.
            Ok(_) | Err(RequestError::Refused { reason: MembershipRefusal::NotFound }) => {}
            Err(error) => return Err(raft(error)),
        }
        for directory in [MACHINES, STANDBYS] {
            self.registry.remove(directory, name).await.map_err(registry)?;
        }
        Ok(text(""))
    }

    /// This machine asks for its vote, if it has none.
    async fn promote(&self) -> Answer {
        let me = self.handle.identity().member;
        if !self.handle.status().is_learner {
            return Ok(text(""));
        }
        match self.handle.change_membership(MembershipRequest::Promote { id: me }).await {
            Ok(_) => Ok(text("")),
            Err(error) => Err(Error::new(405, error.to_string())),
        }
    }

    /// A machine that came back says where it is now. Its member id shows that it is the one that it says it is.
    async fn announced(&self, name: &str, body: Incoming) -> Answer {
        let body = whole(body).await?;
        let announced = Announcement::read(&body);
        let Some(announced) = announced else {
            return Err(Error::new(RAFT_INTERNAL, NOT_OURS).with_status(StatusCode::BAD_REQUEST));
        };
        let refused = |status, why: String| Err(Error::new(RAFT_INTERNAL, why).with_status(status));
        let me = self.handle.identity();
        if announced.cluster != me.cluster {
            return refused(
                StatusCode::CONFLICT,
                format!("{name} is of cluster {}, this is cluster {}", announced.cluster, me.cluster),
            );
        }
        // Without this a machine that lags would not know of a member that the cluster has.
        self.handle.read_index().await.map_err(raft)?;
        let members = self.handle.members();
        let Some(member) = members.iter().find(|member| member.id == announced.member) else {
            return refused(
                StatusCode::GONE,
                format!("member {} was removed from this cluster", announced.member),
            );
        };
        if let Some(other) = members.iter().find(|other| other.name == name && other.id != member.id) {
            return refused(StatusCode::CONFLICT, format!("{name} is the name of member {}", other.id));
        }
        if member.peer_urls != [announced.peer_url.clone()] {
            tracing::info!(name, member = %member.id, url = announced.peer_url, "a machine has a new peer address");
            let update =
                MembershipRequest::Update { id: member.id, peer_urls: vec![announced.peer_url.clone()] };
            self.handle.change_membership(update).await.map_err(raft)?;
        }
        // At once, so that the list of machines need not be written twice.
        if let Some(client_url) = announced.client_url.filter(|url| member.client_urls != [url.clone()]) {
            let publish = MembershipRequest::Publish {
                id: member.id,
                name: name.to_owned(),
                client_urls: vec![client_url],
            };
            self.handle.change_membership(publish).await.map_err(raft)?;
        }
        Ok(text(""))
    }

    // ---- settings ----

    async fn settings(&self, method: Method, body: Incoming) -> Answer {
        let stored = self.registry.settings(self.config.founded);
        if method == Method::GET {
            return Ok(json(stored.await.map_err(registry)?.json()));
        }
        if method != Method::PUT {
            return Ok(method_not_allowed());
        }
        let body = whole(body).await?;
        self.handle.read_index().await.map_err(raft)?;
        let changed = stored.await.map_err(registry)?.changed_by(&body);
        let changed = changed.map_err(|error| {
            Error::new(RAFT_INTERNAL, error.to_string()).with_status(StatusCode::BAD_REQUEST)
        })?;
        self.registry.put_settings(changed).await.map_err(registry)?;
        Ok(json(changed.json()))
    }
}

/// What a machine says of itself when it comes back.
struct Announcement {
    cluster: ClusterId,
    member: MemberId,
    peer_url: String,
    /// Machines of older versions publish it by themselves, later.
    client_url: Option<String>,
}

impl Announcement {
    fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let id = |name: &str| u64::from_str_radix(body.get(name)?.as_str()?, 16).ok();
        let peer_url = body.get("peerURL")?.as_str()?.to_owned();
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        let client_url = body.get("clientURL").and_then(Value::as_str).map(str::to_owned);
        is_url(&peer_url).then_some(Self {
            cluster: ClusterId(id("cluster")?),
            member: MemberId(id("member")?),
            peer_url,
            client_url: client_url.filter(is_url),
        })
    }
}

/// What a machine that came back puts at `/v2/admin/machines/NAME` of another one.
#[must_use]
pub fn announcement(cluster: ClusterId, member: MemberId, peer_url: &str, client_url: &str) -> String {
    format!(
        "{{\"cluster\":\"{:x}\",\"member\":\"{:x}\",\"peerURL\":{},\"clientURL\":{}}}",
        cluster.0,
        member.0,
        Value::from(peer_url),
        Value::from(client_url)
    )
}

async fn whole(body: Incoming) -> Result<bytes::Bytes, Error> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(Error::new(RAFT_INTERNAL, format!("the request's body can't be read: {error}"))
            .with_status(StatusCode::BAD_REQUEST)),
    }
}

fn raft(error: RequestError) -> Error {
    Error::new(RAFT_INTERNAL, error.to_string())
}

fn registry(error: RegistryError) -> Error {
    Error::new(RAFT_INTERNAL, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_comes_back_and_a_join_of_etcd_is_none() {
        let body = announcement(ClusterId(u64::MAX), MemberId(7), "http://a:1", "http://a:2");
        let read = Announcement::read(body.as_bytes()).expect("readable");
        assert_eq!(
            (read.cluster, read.member, read.peer_url.as_str()),
            (ClusterId(u64::MAX), MemberId(7), "http://a:1")
        );
        assert_eq!(read.client_url.as_deref(), Some("http://a:2"));
        let older = br#"{"cluster":"1","member":"2","peerURL":"http://a:1"}"#;
        assert_eq!(Announcement::read(older).expect("readable").client_url, None);
        for other in [
            &br#"{"minVersion":2,"maxVersion":2,"name":"m","raftURL":"http://a:1","etcdURL":"http://a:2"}"#[..],
            br#"{"cluster":"1","member":"2","peerURL":"a:1"}"#,
            br#"{"cluster":"x","member":"2","peerURL":"http://a:1"}"#,
            b"",
        ] {
            assert!(Announcement::read(other).is_none());
        }
    }
}
