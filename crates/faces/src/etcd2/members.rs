//! 2.x's member list over HTTP.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode, request};
use hyper::body::Incoming;
use quorate_ids::MemberId;
use quorate_member::membership::member_id;
use quorate_member::{Member, MembershipRefusal, MembershipRequest, RequestError};

use super::auth::Need;
use super::routes::{not_allowed, said};
use super::{JSON, TEXT, Thread, form, json, reply, set};
use crate::listener::{Body, Share};

/// A request that changes members is at most this long.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Why a request is refused: a status and what is said.
struct Refused(StatusCode, String);

impl Refused {
    fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::Refused { reason } => match reason {
                MembershipRefusal::NotFound => StatusCode::NOT_FOUND,
                MembershipRefusal::IdExists | MembershipRefusal::PeerUrlExists => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            RequestError::TimedOut | RequestError::LeaderChanged => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let message = match &error {
            RequestError::Refused { reason: MembershipRefusal::PeerUrlExists } => {
                "membership: peerURL exists".to_owned()
            }
            RequestError::Refused { reason: MembershipRefusal::IdExists } => {
                "membership: ID exists".to_owned()
            }
            other => other.to_string(),
        };
        Self(status, message)
    }
}

fn write(member: &Member) -> String {
    let strings = |out: &mut String, texts: &[String]| {
        out.push('[');
        for (at, text) in texts.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            json::string(out, text.as_bytes());
        }
        out.push(']');
    };
    let mut out = format!("{{\"id\":\"{}\",\"name\":", member.id);
    json::string(&mut out, member.name.as_bytes());
    out.push_str(",\"peerURLs\":");
    strings(&mut out, &member.peer_urls);
    out.push_str(",\"clientURLs\":");
    strings(&mut out, &member.client_urls);
    out.push('}');
    out
}

impl Thread {
    /// Answers `/v2/members` and what is below it.
    pub(super) async fn members(&self, head: &request::Parts, body: Incoming) -> Response<Body> {
        let below = head.uri.path()["/v2/members".len()..].trim_start_matches('/');
        let changes = [Method::POST, Method::PUT, Method::DELETE].contains(&head.method);
        if changes && let Err(error) = self.authorise_anew(head, &Need::Root).await {
            return said(error.status(), &error.cause);
        }
        let mut response = match head.method {
            Method::GET => self.list_members(below),
            // What stands below does not count, as in etcd.
            Method::POST => self.add_member(head, body).await,
            Method::PUT | Method::DELETE if !below.is_empty() => self.change_member(head, below, body).await,
            Method::PUT | Method::DELETE => {
                Ok(reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n"))
            }
            _ => return not_allowed("GET,POST,DELETE,PUT"),
        }
        .unwrap_or_else(|Refused(status, message)| said(status, &message));
        set(response.headers_mut(), "x-etcd-cluster-id", &self.handle().identity().cluster.to_string());
        response
    }

    fn list_members(&self, below: &str) -> Result<Response<Body>, Refused> {
        let members = self.handle().members();
        match below {
            "" => {
                let list: Vec<String> = members.iter().map(write).collect();
                Ok(reply(StatusCode::OK, JSON, format!("{{\"members\":[{}]}}\n", list.join(","))))
            }
            "leader" => {
                let leader = self.handle().status().leader;
                let leader = members.iter().find(|member| Some(member.id) == leader);
                let leader = leader
                    .ok_or_else(|| Refused(StatusCode::SERVICE_UNAVAILABLE, "During election".to_owned()))?;
                Ok(reply(StatusCode::OK, JSON, write(leader) + "\n"))
            }
            _ => Err(Refused(StatusCode::NOT_FOUND, "Not found".to_owned())),
        }
    }

    async fn add_member(&self, head: &request::Parts, body: Incoming) -> Result<Response<Body>, Refused> {
        let peer_urls = peer_urls(head, body, &self.share(head)).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let id = member_id(&peer_urls, &self.shared.config.initial_cluster_token, Some(now));
        let add = MembershipRequest::Add { id, name: String::new(), peer_urls, is_learner: false };
        let members = self.handle().change_membership(add).await?;
        let added = members.iter().find(|member| member.id == id);
        let added = added.ok_or_else(|| {
            Refused(StatusCode::INTERNAL_SERVER_ERROR, "the member was removed again at once".to_owned())
        })?;
        Ok(reply(StatusCode::CREATED, JSON, write(added) + "\n"))
    }

    async fn change_member(
        &self,
        head: &request::Parts,
        text: &str,
        body: Incoming,
    ) -> Result<Response<Body>, Refused> {
        let unknown = || Refused(StatusCode::NOT_FOUND, format!("No such member: {text}"));
        let id = MemberId(u64::from_str_radix(text, 16).map_err(|_| unknown())?);
        let request = if head.method == Method::DELETE {
            MembershipRequest::Remove { id }
        } else {
            MembershipRequest::Update { id, peer_urls: peer_urls(head, body, &self.share(head)).await? }
        };
        match self.handle().change_membership(request).await {
            Ok(_) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            Err(RequestError::Refused { reason: MembershipRefusal::NotFound })
                if self.handle().was_removed(id) =>
            {
                Err(Refused(StatusCode::GONE, format!("Member permanently removed: {id}")))
            }
            Err(RequestError::Refused { reason: MembershipRefusal::NotFound }) => Err(unknown()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The peer URLs of a request, checked and sorted.
async fn peer_urls(head: &request::Parts, body: Incoming, share: &Share) -> Result<Vec<String>, Refused> {
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind != JSON {
        let message = format!("Bad Content-Type {kind}, accept application/json");
        return Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let body = form::whole(body, REQUEST_BYTES_MAX, share)
        .await
        .map_err(|error| Refused(error.status(), error.cause.into()))?;
    read_peer_urls(&body).map_err(Refused::bad)
}

fn read_peer_urls(body: &[u8]) -> Result<Vec<String>, String> {
    let read: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let urls = match read.get("peerURLs") {
        Some(serde_json::Value::Array(urls)) => urls.as_slice(),
        _ => &[],
    };
    let mut checked = urls
        .iter()
        .map(|url| {
            let url = url.as_str().ok_or("peerURLs: a URL is a string")?.trim();
            check_url(url).map(|()| url.to_owned())
        })
        .collect::<Result<Vec<String>, String>>()?;
    if checked.is_empty() {
        return Err("no valid URLs given".to_owned());
    }
    checked.sort();
    Ok(checked)
}

fn check_url(url: &str) -> Result<(), String> {
    let Some((scheme, rest)) =
        url.split_once("://").filter(|(scheme, _)| ["http", "https", "unix", "unixs"].contains(scheme))
    else {
        return Err(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    };
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if scheme.starts_with("http") && port.is_none() {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if scheme.starts_with("http") && !path.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_written_field_by_field() {
        let member = Member {
            id: MemberId(0xddd6_7b31_2462_fd7b),
            name: "default".to_owned(),
            peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
            client_urls: Vec::new(),
            is_learner: false,
            ..Member::default()
        };
        assert_eq!(
            write(&member),
            r#"{"id":"ddd67b312462fd7b","name":"default","peerURLs":["http://127.0.0.1:2380"],"clientURLs":[]}"#
        );
    }

    #[test]
    fn peer_urls_are_checked_and_sorted() {
        let read = |text: &str| read_peer_urls(text.as_bytes());
        assert_eq!(
            read(r#"{"peerURLs":["http://b:2", "http://a:1"]}"#),
            Ok(vec!["http://a:1".to_owned(), "http://b:2".to_owned()])
        );
        for (text, error) in [
            (r#"{"peerURLs":[]}"#, "no valid URLs given"),
            ("{}", "no valid URLs given"),
            (r#"{"peerURLs":["bad"]}"#, "URL scheme must be http, https, unix, or unixs: bad"),
            (r#"{"peerURLs":["http://a"]}"#, "URL address does not have the form \"host:port\": http://a"),
            (r#"{"peerURLs":["http://a:1/x"]}"#, "URL must not contain a path: http://a:1/x"),
            (r#"{"peerURLs":[7]}"#, "peerURLs: a URL is a string"),
        ] {
            assert_eq!(read(text), Err(error.to_owned()), "{text}");
        }
        assert!(read("{").is_err());
    }
}
