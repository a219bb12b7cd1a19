//! `/v1`: the first version of the protocol, which old clients still speak.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, request};
use quorate_models::tree;

use super::errors::{Error, INDEX_NOT_A_NUMBER, RAFT_INTERNAL, VALUE_REQUIRED};
use super::form::Form;
use super::json::first_version;
use super::params::{Change, Conditions, New, ttl_04, unsigned};
use super::{Answer, Dialect, TEXT, Thread, is_read, keys, not_found};
use crate::listener::Body;

fn answer(text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

/// What a form asks for.
fn change(method: &Method, form: &Form) -> Result<Change, Error> {
    if method == Method::DELETE {
        return Ok(Change::Delete { dir: false, recursive: false });
    }
    let value = form.bytes("value").unwrap_or_default().to_vec();
    if value.is_empty() {
        return Err(Error::new(VALUE_REQUIRED, "Set"));
    }
    let new = New { value, ttl_seconds: ttl_04(form, "Set")?, ..New::default() };
    Ok(match form.bytes("prevValue") {
        None => Change::Set(new),
        Some(b"") => Change::Create(new),
        Some(value) => Change::CompareAndSwap(new, Conditions { value: Some(value.to_vec()), index: None }),
    })
}

impl Thread {
    pub(super) async fn first_version_keys(
        &self,
        head: &request::Parts,
        path: tree::Path,
        form: &Form,
    ) -> Answer {
        if is_read(&head.method) {
            let read = self.read(path, false).await?;
            return Ok(answer(first_version(&read.event, Some(read.index.0))));
        }
        if ![Method::PUT, Method::POST, Method::DELETE].contains(&head.method) {
            return Ok(not_found());
        }
        let change = change(&head.method, form).map_err(|error| error.at(self.index()))?;
        if let Some(redirect) = self.redirect_to_leader(head, RAFT_INTERNAL).await? {
            return Ok(redirect);
        }
        let (event, _) = self.change(&keys::command(Dialect::V04, path, change)).await?;
        let mut response = answer(first_version(&keys::shown(Dialect::V04, &event), None));
        self.leader_headers(response.headers_mut()).await;
        Ok(response)
    }

    pub(super) async fn first_version_watch(
        self: &std::sync::Arc<Self>,
        method: &Method,
        path: tree::Path,
        form: &Form,
    ) -> Answer {
        let mut index = 0;
        if method == Method::POST {
            let text = form.text("index");
            index = Some(&*text)
                .filter(|text| !text.is_empty())
                .and_then(unsigned)
                .ok_or_else(|| Error::new(INDEX_NOT_A_NUMBER, "Watch From Index").at(self.index()))?;
        } else if !is_read(method) {
            return Ok(not_found());
        }
        let event = self.await_event(tree::Watch { path, recursive: false }, index).await?;
        Ok(answer(first_version(&keys::shown(Dialect::V04, &event), Some(self.index()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Change, Error> {
        let mut form = Form::default();
        form.read(text.as_bytes()).expect("a form");
        change(&Method::POST, &form)
    }

    #[test]
    fn a_previous_value_decides_what_is_done() {
        let new = New { value: b"3".to_vec(), ..New::default() };
        assert_eq!(asked("value=3"), Ok(Change::Set(new.clone())));
        assert_eq!(asked("value=3&prevValue="), Ok(Change::Create(new.clone())));
        let conditions = Conditions { value: Some(b"2".to_vec()), index: None };
        assert_eq!(asked("value=3&prevValue=2"), Ok(Change::CompareAndSwap(new, conditions)));
        assert_eq!(asked("ttl=3").expect_err("no value").code, VALUE_REQUIRED);
        assert_eq!(asked("value=1&ttl=x").expect_err("no number").cause, "Set");
    }
}
