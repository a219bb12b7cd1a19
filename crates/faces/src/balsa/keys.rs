//! `/set`, `/get`, `/keys` and `/remove` of a key.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use quorate_ids::{LogIndex, Revision, Term};
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Command, DeleteRange, KeysError, Progress, Put, RANGE_SLICE_KEYS, RangeEnd, RangeQuery,
    RangeResume, Reply, Value, range_slice, resolve_revision, value_of_body,
};
use serde_json::json;

use super::parameters::Parameters;
use super::{Answer, Shared};

/// Keys in one answer, if not asked for fewer, and at most; and about how many bytes of them.
const KEYS_DEFAULT: u64 = 1000;
const KEYS_MAX: u64 = 10_000;
const KEYS_BYTES_MAX: usize = 4 << 20;
/// The longest time to live, in seconds; etcd's bound.
const TTL_SECONDS_MAX: u64 = 9_000_000_000;
/// Lease ids that are tried where another face took one.
const LEASE_TRIES_MAX: usize = 16;

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// What this node has applied.
    Local,
    /// What a node that believes to lead has applied; on another node as `Linearizable`.
    Leader,
    /// Everything that was acknowledged anywhere before.
    Linearizable,
    /// Everything that was acknowledged anywhere longer ago than this.
    Within(Duration),
}

/// A command's place in the log, and its answer.
pub(super) struct Done {
    pub index: LogIndex,
    pub term: Term,
    pub reply: Reply,
}

pub(super) fn unexpected(reply: &Reply) -> Answer {
    Answer::error(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the model answered a command with {reply:?}, which makes no sense"),
    )
}

/// Keys and values as JSON shows them.
pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Shared {
    /// A key of a client as the model knows it.
    pub(super) fn key(&self, key: &[u8]) -> Bytes {
        [self.config.prefix.as_bytes(), key].concat().into()
    }

    /// The key that a request names. Those of a restore that is under way are nobody's business.
    fn named_key<'a>(&self, parameters: &'a Parameters) -> Result<&'a [u8], Answer> {
        let key = parameters.needed("key")?;
        if self.is_hidden(key) {
            let reason = format!("key {:?} begins as keys of a restore do: take another name", shown(key));
            return Err(Answer::bad_request(&reason));
        }
        Ok(key)
    }

    /// Has a command carried out; a refusal of the model is an error.
    pub(super) async fn propose(&self, command: &Command) -> Result<Done, Answer> {
        let command = keys::encode(command);
        let bytes_max = self.config.request_bytes_max;
        if command.len() > bytes_max {
            let bytes = command.len();
            return Err(Answer::too_large(&format!(
                "the request has {bytes} bytes as a command; at most {bytes_max} are allowed"
            )));
        }
        let applied = self.handle.propose(ModelId::KEYS, command).await?;
        match applied.reply {
            quorate_member::ModelReply::Keys(Reply::Refused { error, .. }) => Err(error.into()),
            quorate_member::ModelReply::Keys(reply) => {
                Ok(Done { index: applied.index, term: applied.term, reply })
            }
            quorate_member::ModelReply::Members(_) | quorate_member::ModelReply::Tree(_) => Err(
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "another model answered a command of keys"),
            ),
        }
    }

    /// Says on the console where what only the leader does goes from a node that does not lead. An answer: it goes
    /// nowhere.
    pub(super) fn forward(&self, parameters: &Parameters) -> Result<(), Answer> {
        let forward = parameters.flag("forward", true)?;
        if self.handle.status().is_leader {
            return Ok(());
        }
        let leader = self.leader_member();
        let address = leader.as_ref().map(|leader| self.http_address(leader));
        if !forward {
            self.config.console.log("Not a leader, do nothing");
            return Err(Answer::not_leader(address.as_deref()));
        }
        match leader.zip(address) {
            Some((leader, address)) => {
                self.config.console.log(&format!("Not a leader, forwarding to {} at {address}", leader.name));
            }
            None => self.config.console.log("Not a leader, waiting for one"),
        }
        Ok(())
    }

    /// An alarm of etcd's face stops writes of every face.
    pub(super) fn check_space(&self) -> Result<(), Answer> {
        const NO_SPACE: u8 = 1;
        let alarms = keys::alarms(&self.handle.store().read());
        if alarms.iter().any(|(_, alarm)| *alarm == NO_SPACE) {
            let reason = "the data has reached its quota: remove keys, compact, and clear the alarm";
            return Err(Answer::error(StatusCode::INSUFFICIENT_STORAGE, reason));
        }
        Ok(())
    }

    pub(super) async fn set(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        self.config.console.say("Set handler called");
        parameters.only(&["key", "value", "ttl", "forward"])?;
        let key = self.named_key(parameters)?;
        let value = parameters.get("value").unwrap_or_default();
        let ttl = parameters.number("ttl", 1, TTL_SECONDS_MAX)?;
        self.forward(parameters)?;
        self.check_space()?;
        let lease = match ttl {
            Some(seconds) => Some(self.lease_for(seconds).await?),
            None => None,
        };
        let put = Put {
            key: self.key(key),
            value: Bytes::copy_from_slice(value),
            lease: lease.map_or(0, |(id, _)| id),
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        let done = self.propose(&Command::Put(put)).await?;
        let Reply::Put(_) = done.reply else { return Err(unexpected(&done.reply)) };
        let mut answer = json!({ "key": shown(key), "index": done.index.0, "term": done.term.0 });
        if let Some((_, seconds)) = lease {
            answer["ttl"] = seconds.into();
        }
        Ok(Answer::ok(&answer))
    }

    /// A lease: its id, and how many seconds it got.
    pub(super) async fn lease_for(&self, seconds: u64) -> Result<(i64, i64), Answer> {
        let millis = self.config.election_timeout.as_millis() * 3 / 2;
        let seconds_min = i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX);
        let ttl_seconds = i64::try_from(seconds).unwrap_or(i64::MAX).max(seconds_min);
        for _ in 0..LEASE_TRIES_MAX {
            let grant = keys::encode(&Command::LeaseGrant { id: self.next_lease_id(), ttl_seconds });
            match self.handle.propose(ModelId::KEYS, grant).await?.reply {
                quorate_member::ModelReply::Keys(Reply::LeaseGrant { id, ttl_seconds, .. }) => {
                    return Ok((id, ttl_seconds));
                }
                quorate_member::ModelReply::Keys(Reply::Refused {
                    error: KeysError::LeaseExists { .. },
                    ..
                }) => {}
                quorate_member::ModelReply::Keys(Reply::Refused { error, .. }) => return Err(error.into()),
                quorate_member::ModelReply::Keys(other) => return Err(unexpected(&other)),
                quorate_member::ModelReply::Members(_) | quorate_member::ModelReply::Tree(_) => break,
            }
        }
        Err(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "no lease could be granted; try again"))
    }

    async fn read_at(&self, level: Level) -> Result<(), Answer> {
        let local = match level {
            Level::Local => true,
            Level::Leader => self.handle.status().is_leader,
            Level::Within(age) => self.round_began().is_some_and(|began| began.elapsed() <= age),
            Level::Linearizable => false,
        };
        match local {
            true => match self.handle.status().failed {
                Some(reason) => Err(quorate_member::RequestError::Stopped { reason }.into()),
                None => Ok(self.handle.replayed().await?),
            },
            false => self.round().await,
        }
    }

    /// When the newest quorum round began that this node has applied everything of: nothing that was acknowledged before
    /// is missing here.
    fn round_began(&self) -> Option<Instant> {
        *self.round_began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn round(&self) -> Result<(), Answer> {
        let began = Instant::now();
        self.handle.read_index().await?;
        let mut newest = self.round_began.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = (*newest).max(Some(began));
        Ok(())
    }

    fn level(parameters: &Parameters) -> Result<Level, Answer> {
        let (level, age) = (parameters.text("level")?, parameters.duration("max_stale")?);
        match (level, age) {
            (None | Some("local"), Some(age)) => Ok(Level::Within(age)),
            (Some(other), Some(_)) => Err(Answer::bad_request(&format!(
                "max_stale belongs to level=local: a read at level {other:?} is not stale"
            ))),
            (None | Some("linearizable"), None) => Ok(Level::Linearizable),
            (Some("leader"), None) => Ok(Level::Leader),
            (Some("local"), None) => Ok(Level::Local),
            (Some(other), None) => {
                Err(Answer::bad_request(&format!("level: {other:?} is none of local, leader, linearizable")))
            }
        }
    }

    pub(super) async fn get(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&["key", "level", "max_stale"])?;
        let key = self.named_key(parameters)?;
        self.read_at(Self::level(parameters)?).await?;
        let query = RangeQuery::point(self.key(key));
        let _pin = self.handle.store().pin();
        let mut resume = RangeResume::default();
        {
            let tables = self.handle.store().read();
            let at = resolve_revision(&tables, Revision::ZERO)?;
            range_slice(&tables, &query, at, &mut resume, RANGE_SLICE_KEYS)?;
        }
        let Some(found) = resume.take_found().pop() else {
            let reason = format!("there is no key {:?}", shown(key));
            return Err(Answer::error(StatusCode::NOT_FOUND, reason));
        };
        let value = self.load(found.value).await?;
        let answer = Answer::value(value);
        Ok(answer.with_header("x-revision", &found.meta.mod_revision.0.to_string()))
    }

    /// Reads a value, wherever it lies.
    pub(super) async fn load(&self, value: Value) -> Result<Bytes, Answer> {
        let unreadable = |reason: String| Answer::from(KeysError::Unreadable { reason });
        match value {
            Value::Here(bytes) => Ok(bytes),
            Value::Absent => Ok(Bytes::new()),
            Value::At(at) => {
                let body = self.handle.load(at).await.map_err(|error| unreadable(error.to_string()))?;
                let (_, value) = value_of_body(&body).map_err(|error| unreadable(error.to_string()))?;
                Ok(value)
            }
        }
    }

    pub(super) async fn keys(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&["prefix", "limit", "after", "level", "max_stale"])?;
        let limit = parameters.number("limit", 1, KEYS_MAX)?.unwrap_or(KEYS_DEFAULT);
        let prefix = self.key(parameters.get("prefix").unwrap_or_default());
        self.read_at(Self::level(parameters)?).await?;
        let mut query = RangeQuery::new(prefix.clone(), RangeEnd::of_prefix(&prefix));
        query.keys_only = true;
        if let Some(after) = parameters.get("after") {
            let next: Bytes = [&self.key(after)[..], b"\0"].concat().into();
            query.key = query.key.max(next);
        }
        let strip = self.config.prefix.len();
        let (mut found, mut bytes, mut more) = (Vec::new(), 0, false);
        let _pin = self.handle.store().pin();
        let at = resolve_revision(&self.handle.store().read(), Revision::ZERO)?;
        let mut resume = RangeResume::default();
        let mut progress = Progress::More;
        while progress == Progress::More && !more {
            progress = range_slice(&self.handle.store().read(), &query, at, &mut resume, RANGE_SLICE_KEYS)?;
            for kv in resume.take_found().into_iter().filter(|kv| !self.is_hidden(&kv.key)) {
                if found.len() as u64 == limit || bytes > KEYS_BYTES_MAX {
                    more = true;
                    break;
                }
                bytes += kv.key.len();
                found.push(shown(&kv.key[strip..]));
            }
            tokio::task::yield_now().await;
        }
        Ok(Answer::ok(&json!({ "keys": found, "more": more })))
    }

    pub(super) async fn remove_key(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&["key", "forward"])?;
        let key = self.named_key(parameters)?;
        self.forward(parameters)?;
        let delete = DeleteRange { key: self.key(key), end: RangeEnd::Single, prev_kv: false };
        let done = self.propose(&Command::DeleteRange(delete)).await?;
        let Reply::DeleteRange(reply) = &done.reply else { return Err(unexpected(&done.reply)) };
        Ok(Answer::ok(&json!({
            "key": shown(key),
            "removed": reply.deleted,
            "index": done.index.0,
            "term": done.term.0,
        })))
    }
}
