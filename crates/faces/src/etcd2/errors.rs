//! The numbered errors of the v2 protocol, and how each dialect puts them on the wire.
//!
//! Codes, messages and statuses are those that clients of 0.4 and 2.x tell failures apart by; a code never changes its
//! message.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use quorate_member::RequestError;

use super::json;
use super::{Dialect, JSON, TEXT};
use crate::listener::Body;

pub const KEY_NOT_FOUND: u16 = 100;
pub const COMPARE_FAILED: u16 = 101;
pub const NOT_A_FILE: u16 = 102;
pub const NOT_A_DIRECTORY: u16 = 104;
pub const KEY_EXISTS: u16 = 105;
pub const ROOT_READ_ONLY: u16 = 107;
pub const DIRECTORY_NOT_EMPTY: u16 = 108;
pub const UNAUTHORISED: u16 = 110;
pub const VALUE_REQUIRED: u16 = 200;
pub const PREV_VALUE_REQUIRED: u16 = 201;
pub const TTL_NOT_A_NUMBER: u16 = 202;
pub const INDEX_NOT_A_NUMBER: u16 = 203;
pub const VALUE_OR_TTL_REQUIRED: u16 = 204;
pub const TIMEOUT_NOT_A_NUMBER: u16 = 205;
pub const NAME_REQUIRED: u16 = 206;
pub const INDEX_OR_VALUE_REQUIRED: u16 = 207;
pub const INDEX_AND_VALUE: u16 = 208;
pub const INVALID_FIELD: u16 = 209;
pub const INVALID_FORM: u16 = 210;
pub const REFRESH_WITH_VALUE: u16 = 211;
pub const REFRESH_WITHOUT_TTL: u16 = 212;
pub const RAFT_INTERNAL: u16 = 300;
pub const DURING_ELECTION: u16 = 301;
pub const EVENT_INDEX_CLEARED: u16 = 401;

/// The message that goes with a code; empty for a code that the protocol does not have.
#[must_use]
pub fn message(code: u16) -> &'static str {
    match code {
        100 => "Key not found",
        101 => "Compare failed",
        102 => "Not a file",
        103 => "Reached the max number of peers in the cluster",
        104 => "Not a directory",
        105 => "Key already exists",
        106 => "The prefix of given key is a keyword in etcd",
        107 => "Root is read only",
        108 => "Directory not empty",
        109 => "Peer address has existed",
        110 => "The request requires user authentication",
        200 => "Value is Required in POST form",
        201 => "PrevValue is Required in POST form",
        202 => "The given TTL in POST form is not a number",
        203 => "The given index in POST form is not a number",
        204 => "Value or TTL is required in POST form",
        205 => "The given timeout in POST form is not a number",
        206 => "Name is required in POST form",
        207 => "Index or value is required",
        208 => "Index and value cannot both be specified",
        209 => "Invalid field",
        210 => "Invalid POST form",
        211 => "Value provided on refresh",
        212 => "A TTL must be provided on refresh",
        300 => "Raft Internal Error",
        301 => "During Leader Election",
        400 => "watcher is cleared due to etcd recovery",
        401 => "The event in requested index is outdated and cleared",
        402 => "Standby Internal Error",
        403 => "Invalid active size",
        404 => "Standby promote delay",
        405 => "Standby promotion error",
        500 => "Client Internal Error",
        _ => "",
    }
}

/// A failure, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: u16,
    pub cause: Cow<'static, str>,
    /// The tree's index when it happened; 0 where a request was refused before the tree was looked at.
    pub index: u64,
    /// Another status than the code's own.
    status: Option<StatusCode>,
}

impl Error {
    pub fn new(code: u16, cause: impl Into<Cow<'static, str>>) -> Self {
        Self { code, cause: cause.into(), index: 0, status: None }
    }

    #[must_use]
    pub fn at(mut self, index: u64) -> Self {
        self.index = index;
        self
    }

    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.code {
            100 => StatusCode::NOT_FOUND,
            101 | 105 => StatusCode::PRECONDITION_FAILED,
            102 | 108 => StatusCode::FORBIDDEN,
            110 => StatusCode::UNAUTHORIZED,
            300..=399 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        })
    }

    /// The body, without the line's end.
    #[must_use]
    pub fn body(&self) -> String {
        let mut out = format!("{{\"errorCode\":{},\"message\":", self.code);
        json::string(&mut out, message(self.code).as_bytes());
        if !self.cause.is_empty() {
            out.push_str(",\"cause\":");
            json::string(&mut out, self.cause.as_bytes());
        }
        out.push_str(&format!(",\"index\":{}}}", self.index));
        out
    }

    #[must_use]
    pub fn response(&self, dialect: Dialect) -> Response<Body> {
        let mut response = Response::new(Body::whole(format!("{}\n", self.body()).into()));
        *response.status_mut() = self.status();
        let kind = match dialect {
            Dialect::V04 => TEXT,
            Dialect::V2 => JSON,
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(HeaderName::from_static("x-etcd-index"), HeaderValue::from(self.index));
        response
    }
}

/// What became of a request that the member did not carry out. The cause says whether the outcome is known.
impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        let cause = error.to_string();
        match error {
            RequestError::TooLarge { .. } => {
                Self::new(INVALID_FORM, cause).with_status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            _ => Self::new(RAFT_INTERNAL, cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_field_by_field() {
        let missing = Error::new(KEY_NOT_FOUND, "/none").at(3);
        assert_eq!(
            missing.body(),
            r#"{"errorCode":100,"message":"Key not found","cause":"/none","index":3}"#
        );
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
        let election = Error::new(DURING_ELECTION, "").at(9);
        assert_eq!(
            election.body(),
            r#"{"errorCode":301,"message":"During Leader Election","index":9}"#,
            "a cause that there is not is left out"
        );
        assert_eq!(election.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let quoted = Error::new(TTL_NOT_A_NUMBER, "invalid value for \"ttl\"");
        assert_eq!(
            quoted.body(),
            r#"{"errorCode":202,"message":"The given TTL in POST form is not a number","cause":"invalid value for \"ttl\"","index":0}"#
        );
        assert_eq!(quoted.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn statuses_are_those_of_the_protocol() {
        for (code, status) in [
            (100, 404),
            (101, 412),
            (102, 403),
            (104, 400),
            (105, 412),
            (107, 400),
            (108, 403),
            (110, 401),
            (209, 400),
            (300, 500),
            (301, 500),
            (401, 400),
            (402, 400),
        ] {
            assert_eq!(Error::new(code, "").status().as_u16(), status, "{code}");
            assert!(!message(code).is_empty());
        }
    }

    #[test]
    fn the_dialects_differ_in_the_content_type_alone() {
        let error = Error::new(NOT_A_FILE, "/d").at(7);
        for (dialect, kind) in
            [(Dialect::V04, "text/plain; charset=utf-8"), (Dialect::V2, "application/json")]
        {
            let response = error.response(dialect);
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(response.headers()[CONTENT_TYPE], kind);
            assert_eq!(response.headers()["x-etcd-index"], "7");
        }
    }

    #[test]
    fn a_request_that_is_too_long_is_told_so_by_its_status() {
        let error = Error::from(RequestError::TooLarge { bytes: 9, bytes_max: 8 });
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(error.cause, "the request has 9 bytes; at most 8 are allowed");
        assert_eq!(Error::from(RequestError::TimedOut).code, RAFT_INTERNAL);
    }
}
