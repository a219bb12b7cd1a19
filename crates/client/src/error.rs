//! How a request failed: what the server's text means, and whether the request may have had an effect.
//!
//! Invariant: [`Outcome::NotApplied`] is only told where it is certain.

use std::fmt;

use tonic::{Code, Status};

use crate::connection::TransportError;

/// Whether a request that failed had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had none: it never left, or the cluster refused it. It can be sent again.
    NotApplied,
    /// Nobody can tell: the answer did not come, or the cluster itself does not know. Look before you send it again.
    Unknown,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $text:literal;)*) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
            /// An endpoint, file or setting that the client can't use.
            Config,
            /// No member could be reached; nothing was sent.
            Unreachable,
            /// The member in this process has stopped, and will not come back.
            Gone,
            /// The connection broke while the answer was awaited.
            ConnectionLost,
            /// No answer came within the request timeout.
            Timeout,
            /// The member does not offer this call.
            Unimplemented,
            /// Anything else; see [`Error::status`].
            Other,
        }

        /// The texts by which servers tell failures apart.
        const TEXTS: &[(&str, ErrorKind)] = &[$(($text, ErrorKind::$kind),)*];
    };
}

kinds! {
    /// A key is empty.
    KeyNotProvided = "etcdserver: key is not provided";
    /// The key that must exist does not, or a transaction holds an empty operation.
    KeyNotFound = "etcdserver: key not found";
    /// A value was given together with the wish to keep the old one.
    ValueProvided = "etcdserver: value is provided";
    /// A lease was given together with the wish to keep the old one.
    LeaseProvided = "etcdserver: lease is provided";
    /// The transaction has more operations than the server takes.
    TooManyOperations = "etcdserver: too many operations in txn request";
    /// The transaction changes a key twice.
    DuplicateKey = "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion = "etcdserver: invalid client api version";
    InvalidSortOption = "etcdserver: invalid sort option";
    /// A member's peer URLs can't be used.
    InvalidMemberUrls = "etcdserver: given member URLs are invalid";
    /// The request is larger than the server takes.
    RequestTooLarge = "etcdserver: request is too large";
    UserNameEmpty = "etcdserver: user name is empty";
    RoleNameEmpty = "etcdserver: role name is empty";
    /// Wrong user or password.
    AuthenticationFailed = "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven = "etcdserver: permission not given";
    InvalidAuthManagement = "etcdserver: invalid auth management";
    AuthRevisionOld = "etcdserver: revision of auth store is old";
    /// The revision asked for has been compacted away.
    Compacted = "etcdserver: mvcc: required revision has been compacted";
    /// The revision asked for is yet to come.
    FutureRevision = "etcdserver: mvcc: required revision is a future revision";
    LeaseTtlTooLarge = "etcdserver: too large lease TTL";
    /// The store is full; delete something, or raise the quota.
    NoSpace = "etcdserver: mvcc: database space exceeded";
    /// The server is overloaded and did nothing; come back later.
    TooManyRequests = "etcdserver: too many requests";
    LeaseNotFound = "etcdserver: requested lease not found";
    MemberNotFound = "etcdserver: member not found";
    LeaseExists = "etcdserver: lease already exists";
    MemberExists = "etcdserver: member ID already exist";
    PeerUrlExists = "etcdserver: Peer URLs already exists";
    /// The change would cost the cluster its majority.
    NotEnoughStartedMembers = "etcdserver: re-configuration failed due to not enough started members";
    /// Only learners can be promoted.
    NotLearner = "etcdserver: can only promote a learner member";
    /// The learner has not caught up yet.
    LearnerNotReady = "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners = "etcdserver: too many learner members in cluster";
    ClusterIdMismatch = "etcdserver: cluster ID mismatch";
    RootUserMissing = "etcdserver: root user does not exist";
    RootRoleMissing = "etcdserver: root user does not have root role";
    UserExists = "etcdserver: user name already exists";
    UserNotFound = "etcdserver: user name not found";
    RoleExists = "etcdserver: role name already exists";
    RoleNotFound = "etcdserver: role name not found";
    RoleNotGranted = "etcdserver: role is not granted to the user";
    PermissionNotGranted = "etcdserver: permission is not granted to the role";
    AuthNotEnabled = "etcdserver: authentication is not enabled";
    NotLeader = "etcdserver: not leader";
    NotCapable = "etcdserver: not capable";
    NotSupportedForLearner = "etcdserver: rpc not supported for learner";
    /// The member that leadership was to move to can't take it.
    BadLeaderTransferee = "etcdserver: bad leader transferee";
    /// The member knows no leader; it did nothing.
    NoLeader = "etcdserver: no leader";
    LeaderChanged = "etcdserver: leader changed";
    /// The member is stopping.
    Stopped = "etcdserver: server stopped";
    /// The cluster did not come to a decision in its own time.
    ClusterTimedOut = "etcdserver: request timed out";
    UnhealthyCluster = "etcdserver: unhealthy cluster";
    PermissionDenied = "etcdserver: permission denied";
    InvalidAuthToken = "etcdserver: invalid auth token";
    /// Members disagree about their data; the cluster refuses to serve.
    CorruptCluster = "etcdserver: corrupt cluster";
    WatchCanceled = "etcdserver: watch canceled";
    RequestCanceled = "etcdserver: request canceled";
    DuplicateWatchId = "mvcc: duplicate watch ID provided on the WatchStream";
    EmptyWatchRange = "mvcc: watcher range is empty";
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    outcome: Outcome,
    message: String,
    endpoint: Option<String>,
    compact_revision: Option<i64>,
    status: Option<Box<Status>>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "{endpoint}: {}", self.message)?,
            None => f.write_str(&self.message)?,
        }
        let silent = matches!(self.kind, ErrorKind::Config) || self.outcome == Outcome::NotApplied;
        if silent { Ok(()) } else { f.write_str(" (the outcome of the request is unknown)") }
    }
}

impl Error {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the request may have had an effect. For reads it is always [`Outcome::NotApplied`].
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The text alone, without the endpoint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Who answered, or was asked last.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// With [`ErrorKind::Compacted`] of a watch: the oldest revision that can still be watched.
    #[must_use]
    pub fn compact_revision(&self) -> Option<i64> {
        self.compact_revision
    }

    /// The gRPC status as it came, where one came.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        self.status.as_deref()
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            outcome: Outcome::NotApplied,
            message: message.into(),
            endpoint: None,
            compact_revision: None,
            status: None,
        }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn at(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    pub(crate) fn compacted_at(mut self, revision: i64) -> Self {
        self.compact_revision = Some(revision);
        self
    }

    /// What a status of a unary call or a stream means.
    pub(crate) fn from_status(status: Status) -> Self {
        let transport = transport_error(&status);
        let kind = match transport {
            Some(TransportError::Unsent(_) | TransportError::Untrusted(_)) => ErrorKind::Unreachable,
            Some(TransportError::Lost(_)) => ErrorKind::ConnectionLost,
            None if std::error::Error::source(&status).is_some() => ErrorKind::ConnectionLost,
            None => kind_of(status.code(), status.message()),
        };
        let message = transport.map_or_else(|| status.message().to_owned(), ToString::to_string);
        let message = if message.is_empty() { format!("{:?}", status.code()) } else { message };
        let outcome = outcome_of(kind, status.code());
        Self { outcome, status: Some(Box::new(status)), ..Self::new(kind, message) }
    }

    /// What a text inside a watch response means.
    pub(crate) fn from_cancel_reason(reason: &str) -> Self {
        // Some servers put the whole status there.
        let text = reason.split_once("desc = ").map_or(reason, |(_, text)| text);
        let text = if text.is_empty() { "the watch was canceled by the server" } else { text };
        let kind = match kind_of(Code::Unknown, text) {
            ErrorKind::Other => ErrorKind::WatchCanceled,
            kind => kind,
        };
        Self::new(kind, text)
    }

    /// No member was asked, and none can be: trying again is of no use.
    pub(crate) fn is_hopeless(&self) -> bool {
        matches!(self.kind, ErrorKind::Config | ErrorKind::Gone)
    }

    /// The member that answered can't serve this now and did nothing: another one may.
    pub(crate) fn is_refused_by_this_member(&self) -> bool {
        self.outcome == Outcome::NotApplied
            && matches!(
                self.kind,
                ErrorKind::Unreachable | ErrorKind::NoLeader | ErrorKind::NotSupportedForLearner
            )
    }

    /// Nothing is wrong with the request: the same may succeed elsewhere or later.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_refused_by_this_member()
            || matches!(
                self.kind,
                ErrorKind::ConnectionLost
                    | ErrorKind::Timeout
                    | ErrorKind::LeaderChanged
                    | ErrorKind::Stopped
                    | ErrorKind::ClusterTimedOut
            )
            || self.status().is_some_and(|status| status.code() == Code::Unavailable)
    }
}

fn transport_error(status: &Status) -> Option<&TransportError> {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<TransportError>() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

fn kind_of(code: Code, text: &str) -> ErrorKind {
    if let Some((_, kind)) = TEXTS.iter().find(|(known, _)| *known == text) {
        return *kind;
    }
    if text.starts_with("etcdserver: request timed out") {
        return ErrorKind::ClusterTimedOut;
    }
    match code {
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Other,
    }
}

fn outcome_of(kind: ErrorKind, code: Code) -> Outcome {
    match kind {
        // Decided before anything is proposed, whatever their code.
        ErrorKind::Unreachable
        | ErrorKind::Gone
        | ErrorKind::NoLeader
        | ErrorKind::NotSupportedForLearner
        | ErrorKind::TooManyRequests
        | ErrorKind::NotEnoughStartedMembers
        | ErrorKind::UnhealthyCluster => return Outcome::NotApplied,
        ErrorKind::ConnectionLost | ErrorKind::Timeout => return Outcome::Unknown,
        _ => {}
    }
    match code {
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Outcome::NotApplied,
        // A message that is too long for its receiver has this code too, and that may be the answer.
        Code::ResourceExhausted if kind == ErrorKind::NoSpace => Outcome::NotApplied,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_decide_before_codes() {
        let of = |code, text: &str| Error::from_status(Status::new(code, text));
        let busy = of(Code::Unknown, "etcdserver: too many requests");
        assert_eq!((busy.kind(), busy.outcome()), (ErrorKind::TooManyRequests, Outcome::NotApplied));
        let late =
            of(Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure");
        assert_eq!((late.kind(), late.outcome()), (ErrorKind::ClusterTimedOut, Outcome::Unknown));
        let lonely = of(Code::Unavailable, "etcdserver: no leader");
        assert!(lonely.is_refused_by_this_member());
        let odd = of(Code::Internal, "boom");
        assert_eq!((odd.kind(), odd.outcome()), (ErrorKind::Other, Outcome::Unknown));
        assert_eq!(odd.to_string(), "boom (the outcome of the request is unknown)");
    }

    #[test]
    fn a_canceled_watch_says_why() {
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(Error::from_cancel_reason(denied).kind(), ErrorKind::PermissionDenied);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(Error::from_cancel_reason(compacted).kind(), ErrorKind::Compacted);
        assert_eq!(Error::from_cancel_reason("").kind(), ErrorKind::WatchCanceled);
    }
}
