//! The lock and the leader module of 0.4.
//!
//! Who wants a lock makes an in-order file in the lock's directory; the first file holds it. Invariants: who waits keeps
//! its file alive; it is deleted when its client goes away or its time is over; nobody is told that it has the lock
//! before its file is the first one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use quorate_models::tree;
use tokio::time::Instant;

use super::errors::{
    Error, INDEX_AND_VALUE, INDEX_OR_VALUE_REQUIRED, INVALID_FIELD, KEY_NOT_FOUND, NAME_REQUIRED,
    RAFT_INTERNAL, TIMEOUT_NOT_A_NUMBER, TTL_NOT_A_NUMBER,
};
use super::form::Form;
use super::params::signed;
use super::{Answer, TEXT, Thread, keys, not_found, reply, text};
use crate::listener::Body;

/// Where locks are, in the tree.
const LOCKS: &[u8] = b"/_etcd/mod/lock/";
/// What a lock without a value has.
const NO_VALUE: &[u8] = b"-";
/// A file that is kept alive is renewed at least this long before half its time is over.
const RENEW_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// One who has a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    index: u64,
    value: Bytes,
    /// The last index that changed it.
    modified: u64,
}

/// How long a claim may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Once,
    Until(Duration),
    ForEver,
}

fn patience(form: &Form) -> Result<Patience, Error> {
    let text = form.text("timeout");
    if text.is_empty() {
        return Ok(Patience::ForEver);
    }
    match signed(&text) {
        None => Err(Error::new(TIMEOUT_NOT_A_NUMBER, "Acquire")),
        Some(0) => Ok(Patience::Once),
        Some(seconds) => {
            Ok(u64::try_from(seconds).map_or(Patience::ForEver, |s| Patience::Until(Duration::from_secs(s))))
        }
    }
}

fn ttl(form: &Form, cause: &'static str) -> Result<u64, Error> {
    let seconds = signed(&form.text("ttl")).ok_or_else(|| Error::new(TTL_NOT_A_NUMBER, cause))?;
    u64::try_from(seconds).map_err(|_| Error::new(TTL_NOT_A_NUMBER, "a lock's TTL is not below zero"))
}

fn lock_path(key: &[u8]) -> Result<tree::Path, Error> {
    // Cleaned by itself first, so that no `..` leads out of the locks.
    let key = keys::path_of(key)?;
    if key.is_root() {
        return Err(Error::new(INVALID_FIELD, "a lock needs a name"));
    }
    keys::path_of(&[LOCKS, key.as_bytes()].concat())
}

/// Where the claim of an index is.
fn claim_path(path: &tree::Path, index: u64) -> Result<tree::Path, Error> {
    path.child(index.to_string().as_bytes()).map_err(|error| Error::new(INVALID_FIELD, error.to_string()))
}

fn failed(message: &str) -> Response<Body> {
    reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{message}\n"))
}

/// Deletes a claim whose client went away before it was told that it has the lock.
struct Withdrawn {
    thread: Arc<Thread>,
    path: Option<tree::Path>,
}

impl Withdrawn {
    fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let thread = Arc::clone(&self.thread);
        let withdraw = async move {
            let delete = tree::Command::Delete { path, dir: false, recursive: false };
            // Where it fails, the claim ends by itself with its TTL.
            if let Err(error) = thread.change(&delete).await
                && error.code != KEY_NOT_FOUND
            {
                tracing::warn!(error = error.body(), "a lock's claim that nobody waits for was not deleted");
            }
        };
        // Outside a runtime the process is ending, and the TTL does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(withdraw);
        }
    }
}

impl Thread {
    /// Answers `/mod/v2/lock/<key>`.
    pub(super) async fn lock(self: &Arc<Self>, method: &Method, key: &[u8], form: &Form) -> Answer {
        let path = lock_path(key)?;
        match *method {
            Method::GET | Method::HEAD => self.lock_holder(&path, &form.text("field")).await,
            Method::POST => {
                let value = Bytes::copy_from_slice(form.bytes("value").unwrap_or_default());
                self.acquire(path, value, form).await
            }
            Method::PUT => self.renew(&path, form).await,
            Method::DELETE => self.release(&path, &form.text("index"), form.bytes("value")).await,
            _ => Ok(not_found()),
        }
    }

    /// Answers `/mod/v2/leader/<key>`: a lock whose value is a name.
    pub(super) async fn elect(self: &Arc<Self>, method: &Method, key: &[u8], form: &Form) -> Answer {
        let path = lock_path(key)?;
        let name = form.bytes("name").unwrap_or_default();
        match *method {
            Method::GET | Method::HEAD => self.lock_holder(&path, "value").await,
            Method::PUT if name.is_empty() => Err(Error::new(NAME_REQUIRED, "Set")),
            Method::PUT => self.acquire(path, Bytes::copy_from_slice(name), form).await,
            Method::DELETE if name.is_empty() => Err(Error::new(NAME_REQUIRED, "Delete")),
            Method::DELETE => self.release(&path, "", Some(name)).await,
            _ => Ok(not_found()),
        }
    }

    /// All claims, the holder first, as every machine that acknowledged one knows them.
    async fn claims(&self, path: &tree::Path) -> Result<Vec<Claim>, Error> {
        self.handle().read_index().await.map_err(|error| Error::from(error).at(self.index()))?;
        let read = self.read(path.clone(), false).await?;
        let nodes = read.event.node.map(|node| node.nodes).unwrap_or_default();
        let mut claims: Vec<Claim> = nodes
            .into_iter()
            .filter_map(|node| {
                let name = node.key.rsplit(|byte| *byte == b'/').next()?;
                let index = std::str::from_utf8(name).ok()?.parse().ok()?;
                Some(Claim { index, value: node.value?, modified: node.modified })
            })
            .collect();
        claims.sort_by_key(|claim| claim.index);
        Ok(claims)
    }

    async fn lock_holder(&self, path: &tree::Path, field: &str) -> Answer {
        let claims = self.claims(path).await?;
        let Some(holder) = claims.into_iter().next() else { return Ok(text("")) };
        match field {
            "" | "value" => Ok(text(holder.value)),
            "index" => Ok(text(holder.index.to_string())),
            _ => Err(Error::new(INVALID_FIELD, "Get")),
        }
    }

    async fn acquire(self: &Arc<Self>, path: tree::Path, value: Bytes, form: &Form) -> Answer {
        let patience = patience(form)?;
        let ttl_seconds = ttl(form, "Acquire")?;
        let mut known = None;
        if !value.is_empty() {
            let claims = match self.claims(&path).await {
                Ok(claims) => claims,
                Err(error) if error.code == KEY_NOT_FOUND => Vec::new(),
                Err(error) => return Err(error),
            };
            known = claims.into_iter().find(|claim| claim.value == value);
        }
        let value = if value.is_empty() { Bytes::from_static(NO_VALUE) } else { value };
        let write =
            |path| tree::Write { ttl_seconds: Some(ttl_seconds), ..tree::Write::file(path, value.clone()) };
        let index = match &known {
            Some(claim) => claim.index,
            None => {
                let style = tree::NameStyle::Plain;
                let create = tree::Command::CreateInOrder { write: write(path.clone()), style };
                self.change(&create).await?.0.index.0
            }
        };
        let own = claim_path(&path, index)?;
        // Who joins a claim that another call made leaves it to that call.
        let withdrawn = Withdrawn { thread: Arc::clone(self), path: known.is_none().then(|| own.clone()) };
        let renew = tree::Command::Update(write(own));
        let waited = match patience {
            Patience::Until(time) => {
                let outcome =
                    tokio::time::timeout(time, self.until_first(&path, index, false, &renew, ttl_seconds));
                outcome.await.unwrap_or(Ok(Some("lock watch closed")))
            }
            Patience::Once | Patience::ForEver => {
                let once = patience == Patience::Once;
                self.until_first(&path, index, once, &renew, ttl_seconds).await
            }
        };
        if let Some(message) = waited? {
            return Ok(failed(message));
        }
        // From here on it has its whole time.
        self.change(&renew).await?;
        withdrawn.keep();
        let mut response = text(index.to_string());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
        Ok(response)
    }

    /// Waits until a claim is the first, and keeps it alive meanwhile. A message: why it never will be.
    async fn until_first(
        self: &Arc<Self>,
        path: &tree::Path,
        index: u64,
        once: bool,
        renew: &tree::Command,
        ttl_seconds: u64,
    ) -> Result<Option<&'static str>, Error> {
        let interval = (Duration::from_secs(ttl_seconds) / 2).max(RENEW_INTERVAL_MIN);
        let mut renew_at = Instant::now() + interval;
        loop {
            let claims = self.claims(path).await?;
            let Some(place) = claims.iter().position(|claim| claim.index == index) else {
                return Ok(Some("the lock's claim has expired"));
            };
            let Some(before) = place.checked_sub(1).map(|place| &claims[place]) else { return Ok(None) };
            if once {
                return Ok(Some("failed to acquire lock"));
            }
            let before_path = claim_path(path, before.index)?;
            let watch = tree::Watch { path: before_path, recursive: false };
            let changed = self.await_event(watch, before.modified + 1);
            tokio::pin!(changed);
            loop {
                tokio::select! {
                    event = &mut changed => {
                        match event {
                            Ok(_) => {}
                            // Too much happened to know what; the claims say it.
                            Err(error) if error.code == super::errors::EVENT_INDEX_CLEARED => {}
                            Err(error) => return Err(error),
                        }
                        break;
                    }
                    () = tokio::time::sleep_until(renew_at) => {
                        self.change(renew).await?;
                        renew_at = Instant::now() + interval;
                    }
                }
            }
        }
    }

    /// The claim that a request names by its index or its value.
    async fn claim(
        &self,
        path: &tree::Path,
        index: &str,
        value: &[u8],
        cause: &'static str,
    ) -> Result<Claim, Error> {
        let claims = self.claims(path).await?;
        let found = claims.into_iter().find(|claim| {
            if index.is_empty() { claim.value == value } else { claim.index.to_string() == index }
        });
        found.ok_or_else(|| Error::new(KEY_NOT_FOUND, cause))
    }

    async fn renew(&self, path: &tree::Path, form: &Form) -> Answer {
        let ttl_seconds = ttl(form, "Renew")?;
        let (index, value) = (form.text("index"), form.bytes("value").unwrap_or_default());
        if index.is_empty() && value.is_empty() {
            return Err(Error::new(INDEX_OR_VALUE_REQUIRED, "Renew"));
        }
        let claim = self.claim(path, &index, value, "Renew").await?;
        let value = if value.is_empty() { claim.value } else { Bytes::copy_from_slice(value) };
        let own = claim_path(path, claim.index)?;
        let write = tree::Write { ttl_seconds: Some(ttl_seconds), ..tree::Write::file(own, value) };
        self.change(&tree::Command::Update(write)).await?;
        Ok(Response::new(Body::empty()))
    }

    async fn release(&self, path: &tree::Path, index: &str, value: Option<&[u8]>) -> Answer {
        let value = value.unwrap_or_default();
        match (index.is_empty(), value.is_empty()) {
            (true, true) => return Err(Error::new(INDEX_OR_VALUE_REQUIRED, "Release")),
            (false, false) => return Err(Error::new(INDEX_AND_VALUE, "Release")),
            _ => {}
        }
        let claim = self.claim(path, index, value, "Release").await?;
        let own = claim_path(path, claim.index)?;
        match self.change(&tree::Command::Delete { path: own, dir: false, recursive: false }).await {
            Ok(_) => Ok(Response::new(Body::empty())),
            Err(error) if error.code == RAFT_INTERNAL => Err(error),
            Err(error) => Err(Error::new(error.code, "Release").at(error.index)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        let mut form = Form::default();
        form.read(text.as_bytes()).expect("a form");
        form
    }

    #[test]
    fn times_are_read() {
        assert_eq!(patience(&form("")), Ok(Patience::ForEver));
        assert_eq!(patience(&form("timeout=0")), Ok(Patience::Once));
        assert_eq!(patience(&form("timeout=7")), Ok(Patience::Until(Duration::from_secs(7))));
        assert_eq!(patience(&form("timeout=-1")), Ok(Patience::ForEver));
        assert_eq!(patience(&form("timeout=x")), Err(Error::new(TIMEOUT_NOT_A_NUMBER, "Acquire")));
        assert_eq!(ttl(&form("ttl=20"), "Acquire"), Ok(20));
        assert_eq!(ttl(&form(""), "Renew"), Err(Error::new(TTL_NOT_A_NUMBER, "Renew")));
        assert_eq!(ttl(&form("ttl=-1"), "Renew").expect_err("below zero").code, TTL_NOT_A_NUMBER);
    }

    #[test]
    fn a_lock_stays_among_the_locks() {
        for (key, path) in [
            ("/a", "/_etcd/mod/lock/a"),
            ("a/b/", "/_etcd/mod/lock/a/b"),
            ("/../../../a", "/_etcd/mod/lock/a"),
        ] {
            assert_eq!(lock_path(key.as_bytes()).expect("a path").to_string(), path);
        }
        for nothing in ["", "/", "/a/.."] {
            assert_eq!(lock_path(nothing.as_bytes()).expect_err("no name").code, INVALID_FIELD);
        }
    }
}
