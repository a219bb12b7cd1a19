//! What goes back: JSON, or a value as it is; and what each error is in HTTP.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use quorate_member::RequestError;
use quorate_models::keys::KeysError;
use serde_json::{Value, json};

use crate::listener::{Body, BodyFault};

const JSON: &str = "application/json";

/// An answer.
pub struct Answer {
    status: StatusCode,
    body: Body,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: Body) -> Self {
        Self { status, body, headers: vec![(CONTENT_TYPE, HeaderValue::from_static(kind))] }
    }

    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status, JSON, Body::whole(format!("{value}\n").into()))
    }

    pub(super) fn ok(value: &Value) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// A value as it is.
    pub(super) fn value(bytes: Bytes) -> Self {
        Self::new(StatusCode::OK, "application/octet-stream", Body::whole(bytes))
    }

    /// An answer that is written bit by bit.
    pub(super) fn stream(kind: &'static str, body: Body) -> Self {
        Self::new(StatusCode::OK, kind, body)
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub(super) fn error(status: StatusCode, reason: impl std::fmt::Display) -> Self {
        Self::json(status, &json!({ "error": reason.to_string() }))
    }

    pub(super) fn bad_request(reason: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn too_large(reason: &str) -> Self {
        Self::error(StatusCode::PAYLOAD_TOO_LARGE, reason)
    }

    pub(super) fn conflict(reason: impl std::fmt::Display) -> Self {
        Self::error(StatusCode::CONFLICT, reason)
    }

    pub(super) fn unauthorized() -> Self {
        let mut answer = Self::error(
            StatusCode::UNAUTHORIZED,
            "this node wants a token: send 'Authorization: Bearer TOKEN', or the parameter token",
        );
        answer.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        answer
    }

    /// Only the leader does this; `leader` is its HTTP address, where it is known.
    pub(super) fn not_leader(leader: Option<&str>) -> Self {
        let Some(leader) = leader else {
            return Self::json(
                StatusCode::MISDIRECTED_REQUEST,
                &json!({ "error": "not the leader", "leader": null }),
            );
        };
        let value = json!({ "error": "not the leader", "leader": leader });
        let mut answer = Self::json(StatusCode::MISDIRECTED_REQUEST, &value);
        if let Ok(location) = HeaderValue::from_str(leader) {
            answer.headers.push((LOCATION, location));
        }
        answer
    }

    fn unavailable(value: &Value) -> Self {
        let mut answer = Self::json(StatusCode::SERVICE_UNAVAILABLE, value);
        answer.headers.push((RETRY_AFTER, HeaderValue::from_static("1")));
        answer
    }

    /// As `self`, for a part of something that becomes visible only later: whatever became of it, nothing was changed.
    pub(super) fn changed_nothing(self) -> Self {
        match self.status {
            StatusCode::GATEWAY_TIMEOUT => Self::unavailable(
                &json!({ "error": "the leader changed or was silent; nothing was changed, try again" }),
            ),
            _ => self,
        }
    }

    /// It can't be told whether it happened.
    pub(super) fn unknown(value: &Value) -> Self {
        Self::json(StatusCode::GATEWAY_TIMEOUT, value)
    }

    pub(super) fn no_leader() -> Self {
        Self::unavailable(&json!({ "error": "no leader" }))
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<RequestError> for Answer {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoLeader => Self::no_leader(),
            RequestError::LeaderChanged | RequestError::TimedOut => Self::json(
                StatusCode::GATEWAY_TIMEOUT,
                &json!({ "error": error.to_string(), "outcome": "unknown" }),
            ),
            RequestError::Overloaded
            | RequestError::Replaying
            | RequestError::Stopped { .. }
            | RequestError::Moving => Self::unavailable(&json!({ "error": error.to_string() })),
            RequestError::TooLarge { .. } => Self::error(StatusCode::PAYLOAD_TOO_LARGE, error),
            RequestError::NoSpace => Self::error(StatusCode::INSUFFICIENT_STORAGE, error),
            RequestError::Refused { .. } | RequestError::TooNew => Self::conflict(error),
        }
    }
}

impl From<BodyFault> for Answer {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Broken(_) => Self::error(StatusCode::BAD_REQUEST, fault),
            BodyFault::TooLong { .. } => Self::error(StatusCode::PAYLOAD_TOO_LARGE, fault),
            BodyFault::NoRoom { .. } => Self::unavailable(&json!({ "error": fault.to_string() })),
        }
    }
}

impl From<KeysError> for Answer {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::MoveOntoKeys { .. } => Self::conflict(
                "there are keys already: remove them, or give replace=true to put those of the snapshot in their place; \
                 nothing was changed",
            ),
            KeysError::MoveIncomplete { .. } | KeysError::LeaseNotFound { .. } => Self::unavailable(&json!({
                "error": "it took so long that a part of it was given up; nothing was changed, try again",
            })),
            KeysError::KeyTooLong { .. } | KeysError::ValueTooLong { .. } => {
                Self::error(StatusCode::PAYLOAD_TOO_LARGE, error)
            }
            _ => Self::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }
}
