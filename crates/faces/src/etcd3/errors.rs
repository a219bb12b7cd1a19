//! What clients are told when something fails: gRPC codes and etcd's own texts, by which clients tell failures apart.

use std::borrow::Cow;

use quorate_member::{MembershipRefusal, RequestError};
use quorate_models::keys::KeysError;

/// gRPC's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Canceled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code of this number; `None`: gRPC has none.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }

    /// The name that etcd's metrics give it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Canceled => "Canceled",
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Aborted => "Aborted",
            Self::OutOfRange => "OutOfRange",
            Self::Unimplemented => "Unimplemented",
            Self::Internal => "Internal",
            Self::Unavailable => "Unavailable",
            Self::DataLoss => "DataLoss",
            Self::Unauthenticated => "Unauthenticated",
        }
    }
}

/// How a call ended, other than well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Status {
    #[must_use]
    pub const fn new(code: Code, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }

    #[must_use]
    pub fn with(code: Code, message: String) -> Self {
        Self { code, message: Cow::Owned(message) }
    }
}

macro_rules! statuses {
    ($($name:ident = $code:ident $message:literal;)*) => {
        $(pub const $name: Status = Status::new(Code::$code, $message);)*
    };
}

statuses! {
    EMPTY_KEY = InvalidArgument "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION = InvalidArgument "etcdserver: invalid client api version";
    INVALID_SORT_OPTION = InvalidArgument "etcdserver: invalid sort option";
    BAD_MEMBER_URLS = InvalidArgument "etcdserver: given member URLs are invalid";
    REQUEST_TOO_LARGE = InvalidArgument "etcdserver: request is too large";
    COMPACTED = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    LEASE_TTL_TOO_LARGE = OutOfRange "etcdserver: too large lease TTL";
    NO_SPACE = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    // Etcd's own servers send these two without their code, so that is what clients know.
    TOO_MANY_REQUESTS = Unknown "etcdserver: too many requests";
    NOT_ENOUGH_STARTED = Unknown "etcdserver: re-configuration failed due to not enough started members";
    LEASE_NOT_FOUND = NotFound "etcdserver: requested lease not found";
    MEMBER_NOT_FOUND = NotFound "etcdserver: member not found";
    LEASE_EXISTS = FailedPrecondition "etcdserver: lease already exists";
    MEMBER_EXISTS = FailedPrecondition "etcdserver: member ID already exist";
    PEER_URL_EXISTS = FailedPrecondition "etcdserver: Peer URLs already exists";
    NOT_LEARNER = FailedPrecondition "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS = FailedPrecondition "etcdserver: too many learner members in cluster";
    NOT_LEADER = FailedPrecondition "etcdserver: not leader";
    NOT_SUPPORTED_FOR_LEARNER = FailedPrecondition "etcdserver: rpc not supported for learner";
    BAD_TRANSFEREE = FailedPrecondition "etcdserver: bad leader transferee";
    NO_LEADER = Unavailable "etcdserver: no leader";
    LEADER_CHANGED = Unavailable "etcdserver: leader changed";
    TOO_NEW = FailedPrecondition "etcdserver: some members run an older version, which does not know this kind of request: upgrade or remove them first";
    STOPPED = Unavailable "etcdserver: server stopped";
    TIMED_OUT = Unavailable "etcdserver: request timed out";
    UNHEALTHY = Unavailable "etcdserver: unhealthy cluster";
    CORRUPT = DataLoss "etcdserver: corrupt cluster";
    // Errors of etcd's client library, which its lock and election services run on: they have no code of their own.
    SESSION_EXPIRED = Unknown "mutex: session is expired";
    ELECTION_NOT_LEADER = Unknown "election: not leader";
    ELECTION_NO_LEADER = Unknown "election: no leader";
    MISSING_LEADER_KEY = Unknown "\"leader\" field must be provided";
    DEADLINE_EXCEEDED = DeadlineExceeded "context deadline exceeded";
}

/// Texts that stand inside watch responses.
pub const WATCH_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub const WATCH_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
pub const WATCH_EMPTY_RANGE: &str = "mvcc: watcher range is empty";

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoLeader | RequestError::Moving => NO_LEADER,
            RequestError::LeaderChanged => LEADER_CHANGED,
            RequestError::TimedOut | RequestError::Replaying => TIMED_OUT,
            RequestError::Overloaded => TOO_MANY_REQUESTS,
            RequestError::TooLarge { .. } => REQUEST_TOO_LARGE,
            RequestError::NoSpace => NO_SPACE,
            RequestError::Stopped { .. } => STOPPED,
            RequestError::TooNew => TOO_NEW,
            RequestError::Refused { reason } => reason.into(),
        }
    }
}

impl From<MembershipRefusal> for Status {
    fn from(refusal: MembershipRefusal) -> Self {
        match refusal {
            MembershipRefusal::NotFound => MEMBER_NOT_FOUND,
            MembershipRefusal::IdExists => MEMBER_EXISTS,
            MembershipRefusal::PeerUrlExists => PEER_URL_EXISTS,
            MembershipRefusal::NotLearner => NOT_LEARNER,
            MembershipRefusal::LearnerNotReady => LEARNER_NOT_READY,
            MembershipRefusal::TooManyLearners => TOO_MANY_LEARNERS,
            MembershipRefusal::NotEnoughStarted | MembershipRefusal::LastVoter => NOT_ENOUGH_STARTED,
            MembershipRefusal::Unhealthy => UNHEALTHY,
            MembershipRefusal::NotLeader => NOT_LEADER,
            MembershipRefusal::BadTransferee => BAD_TRANSFEREE,
            MembershipRefusal::InProgress => TOO_MANY_REQUESTS,
            MembershipRefusal::NameExists
            | MembershipRefusal::NameAnswers
            | MembershipRefusal::AlreadyJoined
            | MembershipRefusal::TooManyJoining
            | MembershipRefusal::NotVoter
            | MembershipRefusal::StillAnswers
            | MembershipRefusal::Leads => Self::with(Code::FailedPrecondition, refusal.to_string()),
        }
    }
}

impl From<KeysError> for Status {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Compacted { .. } => COMPACTED,
            KeysError::FutureRevision { .. } => FUTURE_REVISION,
            KeysError::LeaseNotFound { .. } => LEASE_NOT_FOUND,
            KeysError::LeaseExists { .. } => LEASE_EXISTS,
            KeysError::KeyNotFound => KEY_NOT_FOUND,
            KeysError::TooManyNested { .. } => TOO_MANY_OPS,
            KeysError::KeyTooLong { .. }
            | KeysError::ValueTooLong { .. }
            | KeysError::MoveIntoItself
            | KeysError::MoveIncomplete { .. }
            | KeysError::MoveOntoKeys { .. }
            | KeysError::UnknownAlarm { .. } => {
                Self::with(Code::InvalidArgument, format!("etcdserver: {error}"))
            }
            KeysError::Unreadable { .. } => Self::with(Code::DataLoss, format!("etcdserver: {error}")),
        }
    }
}

/// A request that this version does not carry out.
#[must_use]
pub fn not_supported(what: &str) -> Status {
    Status::with(Code::Unimplemented, format!("etcdserver: {what} is not supported yet"))
}
