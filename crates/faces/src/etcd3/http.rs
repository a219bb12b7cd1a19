//! The HTTP endpoints beside gRPC: health, version, metrics.

use std::sync::Arc;

use ::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use ::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use quorate_models::keys;
use serde_json::json;

use super::alarms::{ALARM_CORRUPT, ALARM_NO_SPACE};
use super::{ETCD_CLUSTER_VERSION, ETCD_VERSION, Thread, gateway, methods};
use crate::listener::Body;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The checks of each endpoint, in the order in which they are told.
const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn not_found() -> Response<Body> {
    reply(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

/// Answers a request that is not gRPC.
pub async fn answer(thread: Arc<Thread>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    if methods::at_path(path).is_some() {
        return super::grpc::response_not_grpc();
    }
    if thread.shared.config.json_gateway && gateway::takes(path) {
        return gateway::answer(thread, request).await;
    }
    let (endpoint, below) =
        path[1..].split_once('/').map_or((path.get(1..).unwrap_or(""), None), |(a, b)| (a, Some(b)));
    let known = match endpoint {
        "health" | "version" | "metrics" => below.is_none(),
        "livez" | "readyz" => true,
        _ => false,
    };
    if !known {
        return not_found();
    }
    if request.method() != Method::GET {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let query = Query(request.uri().query().unwrap_or(""));
    match endpoint {
        "health" => thread.health(&query).await,
        "livez" => thread.checks(LIVE, below, "livez", &query).await,
        "readyz" => thread.checks(READY, below, "readyz", &query).await,
        "version" => thread.version(),
        _ => match thread.shared.metrics.text(thread.handle()) {
            Ok(text) => reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
    }
}

/// What stands behind the question mark.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }
}

impl Thread {
    fn version(&self) -> Response<Body> {
        let version = json!({
            "etcdserver": ETCD_VERSION,
            "etcdcluster": ETCD_CLUSTER_VERSION,
            "storage": ETCD_CLUSTER_VERSION,
            "quorate": env!("CARGO_PKG_VERSION"),
        });
        reply(StatusCode::OK, JSON, version.to_string())
    }

    async fn health(&self, query: &Query<'_>) -> Response<Body> {
        let serializable = query.values("serializable").any(|value| value == "true");
        let excluded: Vec<&str> = query.values("exclude").collect();
        let reason = self.unhealthy(serializable, &excluded).await;
        self.shared.metrics.count_health(reason.is_none());
        let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let healthy = if reason.is_none() { "true" } else { "false" };
        let body = json!({ "health": healthy, "reason": reason.unwrap_or_default() });
        reply(status, JSON, body.to_string())
    }

    async fn unhealthy(&self, serializable: bool, excluded: &[&str]) -> Option<String> {
        let alarms = keys::alarms(&self.handle().store().read());
        for (_, alarm) in alarms {
            let name = if alarm == ALARM_NO_SPACE { "NOSPACE" } else { "CORRUPT" };
            if !excluded.contains(&name) {
                return Some(format!("ALARM {name}"));
            }
        }
        let status = self.handle().status();
        if let Some(reason) = status.failed {
            return Some(format!("RANGE ERROR:{reason}"));
        }
        if !serializable {
            if status.leader.is_none() {
                return Some("RAFT NO LEADER".to_owned());
            }
            if let Err(error) = self.handle().read_index().await {
                return Some(format!("RANGE ERROR:{error}"));
            }
        }
        None
    }

    async fn run_check(&self, check: Check) -> Result<(), String> {
        let status = self.handle().status();
        match check {
            Check::DataCorruption => {
                let alarms = keys::alarms(&self.handle().store().read());
                if alarms.iter().any(|(_, alarm)| *alarm == ALARM_CORRUPT) {
                    return Err("alarm activated: CORRUPT".to_owned());
                }
                Ok(())
            }
            Check::SerializableRead => status.failed.map_or(Ok(()), Err),
            Check::LinearizableRead => {
                self.handle().read_index().await.map(|_| ()).map_err(|error| error.to_string())
            }
            Check::NonLearner if status.is_learner => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
        }
    }

    async fn checks(
        &self,
        all: &[Check],
        one: Option<&str>,
        endpoint: &str,
        query: &Query<'_>,
    ) -> Response<Body> {
        let excluded: Vec<&str> = query.values("exclude").collect();
        let chosen: Vec<Check> = match one {
            None | Some("") => {
                all.iter().copied().filter(|check| !excluded.contains(&check.name())).collect()
            }
            Some(name) => match all.iter().find(|check| check.name() == name) {
                Some(check) => vec![*check],
                None => return not_found(),
            },
        };
        let (mut text, mut failed) = (String::new(), false);
        for check in chosen {
            let name = check.name();
            match self.run_check(check).await {
                Ok(()) => text += &format!("[+]{name} ok\n"),
                Err(reason) => {
                    failed = true;
                    text += &format!("[-]{name} failed: {reason}\n");
                }
            }
        }
        if failed {
            return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{text}{endpoint} check failed\n"));
        }
        if query.has("verbose") {
            return reply(StatusCode::OK, TEXT, format!("{text}ok\n"));
        }
        reply(StatusCode::OK, TEXT, "ok\n")
    }
}
