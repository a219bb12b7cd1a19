//! `/log`: the log's entries, for people who want to see what Raft agrees on.

use quorate_ids::LogIndex;
use quorate_member::{LogContent, LogEntry, MembershipRequest};
use quorate_models::ModelId;
use quorate_models::keys::{self, Command, DeleteRange, Op, Put, RangeEnd};
use serde_json::{Value, json};

use super::parameters::Parameters;
use super::{Answer, Shared};

const ENTRIES_DEFAULT: u64 = 100;
const ENTRIES_MAX: u64 = 1000;
/// Bytes of a key or value that are shown.
const SHOWN_BYTES_MAX: usize = 64;

impl Shared {
    pub(super) async fn log(&self, parameters: &Parameters) -> Result<Answer, Answer> {
        parameters.only(&["from", "limit"])?;
        let from = parameters.number("from", 0, u64::MAX)?.unwrap_or(0);
        let limit = parameters.number("limit", 1, ENTRIES_MAX)?.unwrap_or(ENTRIES_DEFAULT);
        let entries_max = usize::try_from(limit).unwrap_or(usize::MAX);
        let view = self.handle.log_view(LogIndex(from), entries_max).await?;
        let entries: Vec<Value> = view.entries.iter().map(|entry| self.entry(entry)).collect();
        Ok(Answer::ok(&json!({
            "first": view.first.0,
            "last": view.last.0,
            "committed": view.committed.0,
            "entries": entries,
        })))
    }

    fn entry(&self, entry: &LogEntry) -> Value {
        let (kind, what) = match &entry.content {
            LogContent::NewTerm => ("noop", format!("a leader begins term {}", entry.term)),
            LogContent::Membership(request) => ("configuration", change(request)),
            LogContent::Command { model: ModelId::KEYS, command } => match keys::decode(command) {
                Ok(command) => ("command", self.command(&command)),
                Err(error) => ("command", format!("{} bytes that can't be read: {error}", command.len())),
            },
            LogContent::Command { model, command } => {
                ("command", format!("{} bytes for model {}", command.len(), model.0))
            }
            LogContent::Unknown { reason } => ("unknown", reason.clone()),
        };
        json!({ "index": entry.index.0, "term": entry.term.0, "kind": kind, "what": what })
    }

    fn command(&self, command: &Command) -> String {
        match command {
            Command::Put(put) => self.put(put),
            Command::DeleteRange(delete) => self.delete(delete),
            Command::Txn(txn) => {
                let branch = |ops: &[Op]| ops.iter().map(|op| self.op(op)).collect::<Vec<_>>().join("; ");
                let (success, failure) = (branch(&txn.success), branch(&txn.failure));
                format!("TXN of {} compares: [{success}] else [{failure}]", txn.compare.len())
            }
            Command::Move(moving) => {
                let (from, to) = (self.key_shown(&moving.from), self.key_shown(&moving.to));
                format!("MOVE what begins with {from:?} to {to:?}")
            }
            Command::Compact { revision } => format!("COMPACT through revision {}", revision.0),
            Command::LeaseGrant { id, ttl_seconds } => format!("LEASE {id:x} of {ttl_seconds} s"),
            Command::LeaseRevoke { id } => format!("LEASE {id:x} revoked"),
            Command::LeaseExpire { ids, .. } => {
                let ids: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
                format!("LEASE {} expired", ids.join(", "))
            }
            Command::Alarm { activate, member, alarm } => {
                let done = if *activate { "raised" } else { "cleared" };
                format!("ALARM {alarm} of member {member:x} {done}")
            }
        }
    }

    fn op(&self, op: &Op) -> String {
        match op {
            Op::Range(query) => format!("GET {}", self.key_shown(&query.key)),
            Op::Put(put) => self.put(put),
            Op::DeleteRange(delete) => self.delete(delete),
            Op::Txn(txn) => format!("a transaction of {} operations", txn.success.len() + txn.failure.len()),
        }
    }

    fn put(&self, put: &Put) -> String {
        let lease = if put.lease == 0 { String::new() } else { format!(" lease {:x}", put.lease) };
        format!("SET {} = {}{lease}", self.key_shown(&put.key), cut(&put.value))
    }

    fn delete(&self, delete: &DeleteRange) -> String {
        let key = self.key_shown(&delete.key);
        match &delete.end {
            RangeEnd::Single => format!("DELETE {key}"),
            RangeEnd::Before(end) => format!("DELETE from {key} to before {}", self.key_shown(end)),
            RangeEnd::Unbounded => format!("DELETE from {key} on"),
        }
    }

    /// A key as this face's clients know it; one that is not theirs with a slash in front of it.
    fn key_shown(&self, key: &[u8]) -> String {
        match key.strip_prefix(self.config.prefix.as_bytes()) {
            Some(own) => cut(own),
            None => format!("/{}", cut(key)),
        }
    }
}

fn cut(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN_BYTES_MAX {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    format!("{}... ({} bytes)", String::from_utf8_lossy(&bytes[..SHOWN_BYTES_MAX]), bytes.len())
}

fn change(request: &MembershipRequest) -> String {
    match request {
        MembershipRequest::Add { id, name, peer_urls, is_learner } => {
            let what = if *is_learner { "Nonvoter" } else { "Voter" };
            format!("add {what} {name} ({id}) at {}", peer_urls.join(", "))
        }
        MembershipRequest::Join { id, name, peer_urls, .. } => {
            format!("add Nonvoter {name} ({id}) at {}", peer_urls.join(", "))
        }
        MembershipRequest::Remove { id } => format!("remove {id}"),
        MembershipRequest::Update { id, peer_urls } => format!("{id} is at {}", peer_urls.join(", ")),
        MembershipRequest::Promote { id } => format!("{id} becomes a Voter"),
        MembershipRequest::Demote { id, .. } => format!("{id} becomes a Nonvoter"),
        MembershipRequest::Publish { id, name, client_urls } => {
            format!("{id} is {name} and takes requests at {}", client_urls.join(", "))
        }
        MembershipRequest::Meet { id, incarnation } => format!("{id} has the data folder {incarnation}"),
    }
}
