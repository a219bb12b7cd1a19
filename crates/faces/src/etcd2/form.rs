//! The parameters of a request, from behind the question mark and from the form in its body.
//!
//! Invariants: what is in the body comes first, so that it wins over the query; of several values of one name the first
//! counts; nothing of a form that can't be read is used.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode, request};

use super::errors::{Error, INVALID_FORM, RAFT_INTERNAL};
use crate::listener::{self, BodyFault, Share};

/// The parameters, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Form {
    /// Reads `name=value` pairs that are separated by `&` and escaped as in URLs, behind those that are there already.
    pub fn read(&mut self, text: &[u8]) -> Result<(), Error> {
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            self.pairs.push((unescape(name, true)?, unescape(value, true)?));
        }
        Ok(())
    }

    /// The first value of a parameter; `None`: it is not there.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let found = self.pairs.iter().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| &value[..])
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    /// The first value as text, empty where there is none. What is no text does not read as a number or a flag.
    #[must_use]
    pub fn text(&self, name: &str) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes(name).unwrap_or_default())
    }
}

/// Undoes the escapes of a URL; in forms a plus is a space.
pub fn unescape(text: &[u8], plus_is_space: bool) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            b'%' => {
                let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let shown = String::from_utf8_lossy(&behind[..behind.len().min(2)]).into_owned();
                    return Err(Error::new(INVALID_FORM, format!("invalid URL escape \"%{shown}\"")));
                };
                out.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    Ok(out)
}

/// Reads the parameters of a request. A body counts with PUT and POST alone, as it does for all servers of this
/// protocol; one that is no form is refused rather than left unread.
pub async fn of<B>(head: &request::Parts, body: B, bytes_max: usize, share: &Share) -> Result<Form, Error>
where
    B: http_body::Body + Send,
    B::Data: Send,
    B::Error: std::fmt::Display,
{
    let mut form = Form::default();
    if head.method == Method::PUT || head.method == Method::POST {
        let body = whole(body, bytes_max, share).await?;
        if !body.is_empty() {
            let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
            let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
            if kind != "application/x-www-form-urlencoded" {
                let cause = format!(
                    "the body has the content type \"{kind}\"; send application/x-www-form-urlencoded"
                );
                return Err(Error::new(INVALID_FORM, cause));
            }
            form.read(&body)?;
        }
    }
    form.read(head.uri.query().unwrap_or("").as_bytes())?;
    Ok(form)
}

/// The whole body, if it has at most `bytes_max` bytes.
pub async fn whole<B>(body: B, bytes_max: usize, share: &Share) -> Result<Bytes, Error>
where
    B: http_body::Body + Send,
    B::Data: Send,
    B::Error: std::fmt::Display,
{
    listener::whole(body, bytes_max, share).await.map_err(|fault| {
        let cause = fault.to_string();
        match fault {
            BodyFault::Broken(_) => Error::new(INVALID_FORM, cause),
            BodyFault::TooLong { .. } => {
                Error::new(INVALID_FORM, cause).with_status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            BodyFault::NoRoom { .. } => {
                Error::new(RAFT_INTERNAL, cause).with_status(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    })
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
    fn values_are_unescaped_and_the_first_counts() {
        let form = form("value=a+b%26c%3D&dir&value=z&n%61me=x=y&&empty=");
        assert_eq!(form.bytes("value"), Some(&b"a b&c="[..]));
        assert_eq!(form.bytes("dir"), Some(&b""[..]));
        assert_eq!(form.text("name"), "x=y");
        assert!(form.has("empty") && !form.has(""));
        assert_eq!(form.bytes("other"), None);
    }

    #[test]
    fn a_broken_escape_is_shown() {
        for (text, shown) in [("value=%zz", "%zz"), ("a=1&value=%4", "%4"), ("%", "%")] {
            let error = Form::default().read(text.as_bytes()).expect_err(text);
            assert_eq!(error.cause, format!("invalid URL escape \"{shown}\""));
            assert_eq!(error.code, INVALID_FORM);
        }
    }

    fn head(method: Method, uri: &str, kind: Option<&str>) -> request::Parts {
        let mut builder = http::Request::builder().method(method).uri(uri);
        if let Some(kind) = kind {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    async fn read(head: &request::Parts, body: &'static str) -> Result<Form, Error> {
        let share = listener::BodyBudget::default().share();
        of(head, http_body_util::Full::new(Bytes::from_static(body.as_bytes())), 64, &share).await
    }

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=utf-8");

    #[tokio::test]
    async fn the_body_wins_over_the_query_and_counts_with_put_and_post_alone() {
        let put = read(&head(Method::PUT, "/v2/keys/a?value=q&ttl=5", FORM), "value=b").await.expect("fine");
        assert_eq!((put.text("value"), put.text("ttl")), ("b".into(), "5".into()));
        let delete = read(&head(Method::DELETE, "/v2/keys/a?dir=true", FORM), "dir=no").await.expect("fine");
        assert_eq!(delete.text("dir"), "true");
    }

    #[tokio::test]
    async fn a_body_that_is_no_form_or_too_long_is_refused() {
        let json = head(Method::PUT, "/", Some("application/json"));
        assert_eq!(read(&json, "{}").await.expect_err("no form").code, INVALID_FORM);
        assert!(read(&json, "").await.is_ok(), "nothing is left unread");
        let bare = head(Method::POST, "/", None);
        assert!(read(&bare, "value=1").await.expect_err("no form").cause.contains("content type \"\""));
        const LONG: &str = "value=0123456789012345678901234567890123456789012345678901234567890123456789";
        let long = read(&head(Method::PUT, "/", FORM), LONG).await.expect_err("too long");
        assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
