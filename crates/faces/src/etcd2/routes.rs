//! Which request is whose, in each dialect.

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode, request};
use hyper::body::Incoming;

use super::auth::Need;
use super::errors::{Error, INVALID_FORM};
use super::form::{self, Form, unescape};
use super::params::{self, Wish};
use super::{
    Answer, Dialect, JSON, TEXT, Thread, VERSION_04, is_read, json, keys, not_found, reply, set, text,
};
use crate::listener::{Body, Share};

/// What a form's escapes may add to a command, and what stands beside the value.
const ESCAPED_FACTOR: usize = 3;
const FORM_EXTRA_BYTES: usize = 64 * 1024;

/// A failure in the form that 2.x has beside the keys.
pub(super) fn said(status: StatusCode, message: &str) -> Response<Body> {
    let mut body = String::from("{\"message\":");
    json::string(&mut body, message.as_bytes());
    body.push('}');
    reply(status, JSON, body)
}

pub(super) fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// What of a path lies below `prefix`, which has no slash at its end.
fn below<'a>(path: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(prefix.as_bytes())?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

impl Thread {
    /// Sends a client to another machine with the same request.
    pub(super) fn redirect(to: &str, head: &request::Parts) -> Response<Body> {
        let asked = head.uri.path_and_query().map_or("/", |asked| asked.as_str());
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        if let Ok(location) = HeaderValue::from_str(&format!("{}{asked}", to.trim_end_matches('/'))) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }

    /// What the body of this request holds.
    pub(super) fn share(&self, head: &request::Parts) -> Share {
        head.extensions.get::<Share>().cloned().unwrap_or_else(|| self.shared.config.bodies.share())
    }

    async fn form(&self, head: &request::Parts, body: Incoming) -> Result<Form, Error> {
        let config = &self.shared.config;
        let share = self.share(head);
        let bytes_max =
            config.request_bytes_max.saturating_mul(ESCAPED_FACTOR).saturating_add(FORM_EXTRA_BYTES);
        let form =
            tokio::time::timeout(config.request_timeout, form::of(head, body, bytes_max, &share)).await;
        form.unwrap_or_else(|_| {
            let late = Error::new(INVALID_FORM, "the request did not come whole in time");
            Err(late.with_status(StatusCode::REQUEST_TIMEOUT))
        })
    }

    /// A request for a key: reads its form and does what it wishes.
    async fn keys(self: &Arc<Self>, head: &request::Parts, key: &[u8], body: Incoming) -> Answer {
        let asked = async {
            let form = self.form(head, body).await?;
            let wish = params::wish(self.dialect(), &head.method, &form)?;
            Ok((wish, keys::path_of(key)?))
        };
        let (wish, path) = asked.await.map_err(|error: Error| self.placed(error))?;
        let need = Need::of_key(head, key, &path, wish.is_recursive());
        if !matches!(wish, Wish::Write(_)) {
            self.may_read().await?;
        }
        match wish {
            Wish::Get(get) => self.get(head, path, get, &need).await,
            Wish::Watch(watch) => {
                self.authorise(head, &need).await?;
                self.watch(head, path, watch).await
            }
            Wish::Write(write) => self.write(head, path, write, &need).await,
        }
    }

    /// 0.4 tells the index with every failure, 2.x not with a request that it could not read.
    fn placed(&self, error: Error) -> Error {
        match self.dialect() {
            Dialect::V04 => error.at(self.index()),
            Dialect::V2 => error,
        }
    }

    pub(super) async fn route_04(self: &Arc<Self>, head: &request::Parts, body: Incoming) -> Answer {
        let path = unescape(head.uri.path().as_bytes(), false).map_err(|error| self.placed(error))?;
        let method = &head.method;
        if let Some(key) = below(&path, "/v2/keys") {
            let known = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE];
            return if known.contains(method) { self.keys(head, key, body).await } else { Ok(not_found()) };
        }
        // 0.4 has no users. Where a port of 2.x serves the same tree and switched them on, this one is no way around.
        let touches_keys = ["/v1/keys", "/v1/watch", "/mod/v2", "/v2/speedTest"];
        if touches_keys.iter().any(|prefix| below(&path, prefix).is_some()) {
            self.may_read().await?;
            self.authorise(head, &Need::Root).await?;
        }
        if let Some(key) = below(&path, "/v1/keys") {
            let form = self.form(head, body).await.map_err(|error| self.placed(error))?;
            return self.first_version_keys(head, keys::path_of(key)?, &form).await;
        }
        if let Some(key) = below(&path, "/v1/watch") {
            let form = self.form(head, body).await.map_err(|error| self.placed(error))?;
            return self.first_version_watch(method, keys::path_of(key)?, &form).await;
        }
        if let Some(key) = below(&path, "/mod/v2/lock") {
            return self.lock(method, key, &self.form(head, body).await?).await;
        }
        if let Some(key) = below(&path, "/mod/v2/leader") {
            return self.elect(method, key, &self.form(head, body).await?).await;
        }
        if !is_read(method) {
            return Ok(not_found());
        }
        match head.uri.path() {
            "/version" => Ok(text(VERSION_04)),
            "/v1/leader" | "/v2/leader" => self.leader_text().await,
            "/v1/machines" | "/v1/peers" | "/v2/machines" | "/v2/peers" => Ok(self.machines_text().await),
            "/v1/stats/self" | "/v2/stats/self" => self.self_stats().await,
            "/v1/stats/leader" | "/v2/stats/leader" => self.leader_stats(head).await,
            "/v1/stats/store" | "/v2/stats/store" => Ok(self.store_stats()),
            "/v2/speedTest" => self.speed_test().await,
            path if below(path.as_bytes(), "/mod/dashboard").is_some() => Ok(reply(
                StatusCode::NOT_IMPLEMENTED,
                TEXT,
                "there is no dashboard; /v2/stats/self, /v2/stats/leader and /v2/stats/store have its figures\n",
            )),
            path if below(path.as_bytes(), "/debug").is_some() => {
                Ok(reply(StatusCode::NOT_IMPLEMENTED, TEXT, "there is no tracing on this port\n"))
            }
            _ => Ok(not_found()),
        }
    }

    /// 2.x says with each answer of its own which cluster it is of.
    pub(super) fn of_cluster(&self, mut response: Response<Body>) -> Response<Body> {
        set(response.headers_mut(), "x-etcd-cluster-id", &self.handle().identity().cluster.to_string());
        response
    }

    pub(super) async fn route_2(self: &Arc<Self>, head: &request::Parts, body: Incoming) -> Answer {
        let path = unescape(head.uri.path().as_bytes(), false)?;
        let method = &head.method;
        if let Some(key) = below(&path, "/v2/keys") {
            let known = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE];
            let answer = if known.contains(method) {
                self.keys(head, key, body).await
            } else {
                return Ok(not_allowed("HEAD,GET,PUT,POST,DELETE"));
            };
            return Ok(self.of_cluster(answer.unwrap_or_else(|error| error.response(Dialect::V2))));
        }
        if below(&path, "/v2/members").is_some() {
            return Ok(self.members(head, body).await);
        }
        if let Some(subject) = below(&path, "/v2/auth") {
            return Ok(self.auth(head, subject, body).await);
        }
        let get = method == Method::GET;
        match head.uri.path() {
            "/v2/machines" if is_read(method) => Ok(self.machines_text().await),
            "/v2/machines" => Ok(not_allowed("GET,HEAD")),
            "/v2/stats/self" if get => self.self_stats().await,
            "/v2/stats/leader" if get => self.leader_stats(head).await,
            "/v2/stats/store" if get => Ok(self.store_stats()),
            "/v2/stats/self" | "/v2/stats/leader" | "/v2/stats/store" => Ok(not_allowed("GET")),
            _ => Ok(not_found()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_part_of_the_path_ends() {
        for (path, rest) in [
            ("/v2/keys", Some("")),
            ("/v2/keys/", Some("/")),
            ("/v2/keys/a/b", Some("/a/b")),
            ("/v2/keysa", None),
            ("/v1/keys/a", None),
        ] {
            assert_eq!(below(path.as_bytes(), "/v2/keys"), rest.map(str::as_bytes), "{path}");
        }
    }
}
