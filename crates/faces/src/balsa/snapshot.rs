//! `/snapshot`: a checkpoint of this node, all keys as lines of JSON, and such lines made into keys again.
//!
//! Format of a download, one JSON object a line:
//!
//! ```text
//! {"format":"balsa-snapshot","version":1,"cluster_id":...,"prefix":...,"revision":...}
//! {"key":"text","value":"text"}            or key_hex, value_hex where they are no UTF-8
//! {"keys":2,"with_ttl":0,"crc32c":"..."}   of all bytes before this line
//! ```
//!
//! Invariants: a download is of one revision, and without its last line it is not whole; nothing of a body that is not
//! whole and right is restored, and a restore happens whole, in one revision, or not at all, whatever dies meanwhile. Keys
//! with a time to live are counted and left out: their time belongs to this cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_ids::{LogIndex, Revision};
use quorate_member::{LeaseAnswer, ModelReply, RequestError};
use quorate_models::ModelId;
use quorate_models::keys::{
    self, Command, KeyValue, KeysError, Move, Op, Progress, Put, RangeEnd, RangeQuery, RangeResume, Reply,
    Txn, range_slice, resolve_revision,
};
use serde_json::{Map, Value, json};

use super::keys::{shown, unexpected};
use super::parameters::Parameters;
use super::{Answer, Shared};
use crate::listener::{Outgoing, outgoing};

const FORMAT: &str = "balsa-snapshot";
const VERSION: u64 = 1;
/// Keys that are read under one hold of the store's lock.
const SLICE_KEYS: usize = 64;
/// Bytes of a download that wait for the client.
const QUEUED_BYTES_MAX: usize = 256 * 1024;
/// What is restored stands under this until all of it is there: `\0restore/LEASE/`, then the prefix.
const STAGING: &[u8] = b"\0restore/";
const STAGING_ID_BYTES: usize = 17;
/// How long it stands there once nobody goes on.
const STAGED_SECONDS: u64 = 60;
/// Bytes of a key that a refusal shows.
const SHOWN_BYTES_MAX: usize = 64;
/// Keys, and bytes, that one command of a restore writes.
const BATCH_KEYS_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// How long a restore whose outcome is not known goes on asking; and its pause where nobody can be asked.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(60);
const OUTCOME_PAUSE: Duration = Duration::from_millis(200);

impl Shared {
    pub(super) async fn snapshot(
        self: &Arc<Self>,
        parameters: &Parameters,
        body: Bytes,
    ) -> Result<Answer, Answer> {
        parameters.only(&["op", "replace"])?;
        let op = parameters.text("op")?.unwrap_or("take");
        if op != "restore" && parameters.has("replace") {
            return Err(Answer::bad_request("replace belongs to op=restore"));
        }
        match op {
            "take" => {
                let index = self.handle.checkpoint().await?;
                Ok(Answer::ok(&json!({ "index": index.0, "term": self.handle.status().term.0 })))
            }
            "download" => self.download().await,
            "restore" => self.restore(&body, parameters.flag("replace", false)?).await,
            other => Err(Answer::bad_request(&format!("op: {other:?} is none of take, download, restore"))),
        }
    }

    async fn download(self: &Arc<Self>) -> Result<Answer, Answer> {
        self.handle.read_index().await?;
        let (outgoing, body) = outgoing();
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            match shared.send_keys(&outgoing).await {
                Ok(()) => outgoing.close(),
                Err(reason) => outgoing.break_off(reason),
            }
        });
        let name = "attachment; filename=\"balsa-snapshot.jsonl\"";
        Ok(Answer::stream("application/jsonl", body).with_header("content-disposition", name))
    }

    async fn send_keys(&self, outgoing: &Outgoing) -> Result<(), String> {
        let store = self.handle.store();
        let _pin = store.pin();
        let prefix = self.key(b"");
        let query = RangeQuery::new(prefix.clone(), RangeEnd::of_prefix(&prefix));
        let at = resolve_revision(&store.read(), Revision::ZERO).map_err(|error| error.to_string())?;
        let header = json!({
            "format": FORMAT,
            "version": VERSION,
            "cluster_id": self.handle.identity().cluster.to_string(),
            "prefix": self.config.prefix,
            "revision": at.0,
        });
        let mut sending = Sending { outgoing, crc: 0, keys: 0, with_ttl: 0 };
        sending.line(&header).await?;
        let mut resume = RangeResume::default();
        loop {
            let progress = range_slice(&store.read(), &query, at, &mut resume, SLICE_KEYS);
            let progress = progress.map_err(|error| error.to_string())?;
            for kv in resume.take_found() {
                self.send_key(&mut sending, kv).await?;
            }
            if progress == Progress::Done {
                break;
            }
            tokio::task::yield_now().await;
        }
        let last = json!({
            "keys": sending.keys,
            "with_ttl": sending.with_ttl,
            "crc32c": format!("{:08x}", sending.crc),
        });
        sending.line(&last).await
    }

    async fn send_key(&self, sending: &mut Sending<'_>, kv: KeyValue) -> Result<(), String> {
        if self.is_hidden(&kv.key) {
            return Ok(());
        }
        if kv.meta.lease != 0 {
            sending.with_ttl += 1;
            return Ok(());
        }
        let Ok(value) = self.load(kv.value).await else {
            return Err(format!("the value of key {:?} can't be read", shown(&kv.key)));
        };
        let mut line = Map::new();
        put_bytes(&mut line, "key", &kv.key[self.config.prefix.len()..]);
        put_bytes(&mut line, "value", &value);
        sending.keys += 1;
        sending.line(&Value::Object(line)).await
    }

    /// Puts the keys where no reader looks, then moves all of them in place with one command. They live under a lease
    /// until then: a restore that is cut short leaves nothing behind, and nothing of it was ever seen.
    async fn restore(&self, body: &[u8], replace: bool) -> Result<Answer, Answer> {
        let pairs = parse(body).map_err(|reason| Answer::bad_request(&format!("restore: {reason}")))?;
        self.check_pairs(&pairs)?;
        self.check_space()?;
        let lease = self.lease_for(STAGED_SECONDS).await?.0;
        let moved = self.restore_under(lease, &pairs, replace).await;
        // It is empty where all went well. Else its keys go now, or with its time.
        let revoke = keys::encode(&Command::LeaseRevoke { id: lease });
        let _ = self.handle.propose(ModelId::KEYS, revoke).await;
        let InPlace { index, replaced } = moved?;
        Ok(Answer::ok(&json!({ "keys": pairs.len(), "replaced": replaced, "index": index.0 })))
    }

    fn check_pairs(&self, pairs: &Pairs) -> Result<(), Answer> {
        // The command that puts it is a little longer.
        const BESIDE_BYTES: usize = 256;
        let longest = self.config.request_bytes_max.saturating_sub(BESIDE_BYTES + self.config.prefix.len());
        for (key, value) in pairs {
            let too_long = key.len() + self.config.prefix.len() + STAGING.len() + STAGING_ID_BYTES
                > keys::USER_KEY_BYTES_MAX;
            if too_long || key.len() + value.len() > longest {
                let start = &key[..key.len().min(SHOWN_BYTES_MAX)];
                let reason = format!("restore: key {:?} and its value are too long", shown(start));
                return Err(Answer::too_large(&reason));
            }
            if self.is_hidden(key) {
                let reason = format!("restore: key {:?} begins as keys of a restore do", shown(key));
                return Err(Answer::bad_request(&reason));
            }
        }
        Ok(())
    }

    async fn restore_under(&self, lease: i64, pairs: &Pairs, replace: bool) -> Result<InPlace, Answer> {
        let (to, from) = (self.key(b""), self.staging(lease));
        let bytes_max = BATCH_BYTES_MAX.min(self.config.request_bytes_max / 2);
        let mut renewed = Instant::now();
        let mut rest = &pairs[..];
        while !rest.is_empty() {
            let (batch, next) = rest.split_at(batch_len(rest, from.len(), bytes_max));
            let put = |(key, value): &(Vec<u8>, Vec<u8>)| {
                Op::Put(Put {
                    key: [&from[..], key].concat().into(),
                    value: Bytes::copy_from_slice(value),
                    lease,
                    prev_kv: false,
                    ignore_value: false,
                    ignore_lease: false,
                })
            };
            let txn = Txn { compare: vec![], success: batch.iter().map(put).collect(), failure: vec![] };
            self.propose(&Command::Txn(txn)).await.map_err(Answer::changed_nothing)?;
            if renewed.elapsed() > Duration::from_secs(STAGED_SECONDS) / 4 {
                self.handle
                    .lease(lease, true)
                    .await
                    .map_err(|error| Answer::changed_nothing(error.into()))?;
                renewed = Instant::now();
            }
            rest = next;
        }
        // All or none: with the count, not even a lease that ended in between makes a part of it visible.
        let moving = Move { from, to, replace, count: Some(pairs.len() as u64) };
        self.move_in_place(lease, moving).await
    }

    /// Moves what was put aside, and goes on asking where it is not known what became of that: a second move finds nothing
    /// left of what a first one moved, so it tells.
    async fn move_in_place(&self, lease: i64, moving: Move) -> Result<InPlace, Answer> {
        let command = keys::encode(&Command::Move(moving));
        let mut since: Option<Instant> = None;
        loop {
            let error = match self.handle.propose(ModelId::KEYS, command.clone()).await {
                Ok(applied) => match applied.reply {
                    ModelReply::Keys(Reply::Move { replaced, .. }) => {
                        return Ok(InPlace { index: applied.index, replaced: Some(replaced) });
                    }
                    ModelReply::Keys(Reply::Refused {
                        error: KeysError::MoveIncomplete { found: 0, .. },
                        ..
                    }) if since.is_some() => {
                        // What stands under a lease that lives goes by a move alone.
                        return match self.handle.lease(lease, true).await {
                            Ok(LeaseAnswer::Alive { .. }) => {
                                Ok(InPlace { index: applied.index, replaced: None })
                            }
                            _ => Err(unknown_restore("it took too long")),
                        };
                    }
                    ModelReply::Keys(Reply::Refused { error, .. }) => return Err(error.into()),
                    ModelReply::Keys(other) => return Err(unexpected(&other)),
                    ModelReply::Members(_) | ModelReply::Tree(_) => {
                        return Err(unknown_restore("another model answered"));
                    }
                },
                Err(error) => error,
            };
            let is_unknown = matches!(error, RequestError::TimedOut | RequestError::LeaderChanged);
            if since.is_none() && !is_unknown {
                return Err(error.into());
            }
            let begun = *since.get_or_insert_with(Instant::now);
            if begun.elapsed() > OUTCOME_PATIENCE || matches!(error, RequestError::Stopped { .. }) {
                return Err(unknown_restore(&error.to_string()));
            }
            tracing::info!(%error, seconds = begun.elapsed().as_secs(), "a restore waits to learn its outcome");
            // It may fail as well; then there is time yet.
            let _ = self.handle.lease(lease, true).await;
            if !is_unknown {
                tokio::time::sleep(OUTCOME_PAUSE).await;
            }
        }
    }

    /// Whether this key would stand where restores put theirs aside: there is none to be seen, with whatever name.
    pub(super) fn is_hidden(&self, key: &[u8]) -> bool {
        self.config.prefix.is_empty() && key.starts_with(STAGING)
    }

    /// Where the keys of one restore stand until all are there. It is longer than what they are moved to.
    fn staging(&self, lease: i64) -> Bytes {
        [STAGING, format!("{lease:016x}/").as_bytes(), self.config.prefix.as_bytes()].concat().into()
    }
}

/// A restore whose keys are where they belong.
struct InPlace {
    index: LogIndex,
    /// How many keys had to go; not known where the answer to that was lost.
    replaced: Option<u64>,
}

fn unknown_restore(why: &str) -> Answer {
    Answer::unknown(&json!({
        "error": format!("it is not known whether the restore happened: {why}"),
        "outcome": "unknown",
        "check": "the keys appear all at once or not at all: look for one of them with /get or /keys, or send the same again \
                  with replace=true, which does no harm",
    }))
}

struct Sending<'a> {
    outgoing: &'a Outgoing,
    crc: u32,
    keys: u64,
    with_ttl: u64,
}

impl Sending<'_> {
    async fn line(&mut self, value: &Value) -> Result<(), String> {
        let line = Bytes::from(format!("{value}\n"));
        self.crc = crc32c::crc32c_append(self.crc, &line);
        if self.outgoing.push(line) && self.outgoing.below(QUEUED_BYTES_MAX).await {
            Ok(())
        } else {
            Err("the client is gone".to_owned())
        }
    }
}

fn put_bytes(line: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line.insert(name.to_owned(), text.into()),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            line.insert(format!("{name}_hex"), hex.into())
        }
    };
}

fn take_bytes(line: &Value, name: &str) -> Option<Vec<u8>> {
    if let Some(text) = line.get(name) {
        return text.as_str().map(|text| text.as_bytes().to_vec());
    }
    let hex = line.get(format!("{name}_hex"))?.as_str()?;
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

/// How many pairs one command takes, each with so many bytes in front of its key; at least one.
fn batch_len(pairs: &[(Vec<u8>, Vec<u8>)], in_front: usize, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = pairs.iter().take(BATCH_KEYS_MAX).take_while(|(key, value)| {
        bytes += in_front + key.len() + value.len();
        bytes <= bytes_max
    });
    fits.count().max(1)
}

pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads a whole download.
pub(super) fn parse(body: &[u8]) -> Result<Pairs, String> {
    const CUT: &str = "the snapshot has no last line: it was cut short";
    let Some(trimmed) = body.strip_suffix(b"\n") else {
        return Err(if body.is_empty() { "there is no body".to_owned() } else { CUT.to_owned() });
    };
    let last_at = trimmed.iter().rposition(|byte| *byte == b'\n').ok_or(CUT)? + 1;
    let (checked, last) = body.split_at(last_at);
    let last: Value = serde_json::from_slice(last).map_err(|_| CUT)?;
    let claimed = last.get("crc32c").and_then(Value::as_str).ok_or(CUT)?;
    let found = format!("{:08x}", crc32c::crc32c(checked));
    if claimed != found {
        return Err(format!("the checksum is {found}, and the last line says {claimed}: it was changed"));
    }
    let mut lines = checked.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let header: Value = lines
        .next()
        .and_then(|line| serde_json::from_slice(line).ok())
        .ok_or("the first line is no JSON object")?;
    if header.get("format").and_then(Value::as_str) != Some(FORMAT) {
        return Err(format!("the first line does not say \"format\":\"{FORMAT}\""));
    }
    if header.get("version").and_then(Value::as_u64) != Some(VERSION) {
        return Err(format!("it is not of version {VERSION}, which this program knows"));
    }
    let mut pairs = Pairs::new();
    for (number, line) in lines.enumerate() {
        let pair = serde_json::from_slice(line).ok().and_then(|line: Value| {
            Some((take_bytes(&line, "key").filter(|key| !key.is_empty())?, take_bytes(&line, "value")?))
        });
        pairs.push(pair.ok_or_else(|| format!("line {} is no key with its value", number + 2))?);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = pairs.iter().position(|(key, _)| !seen.insert(&key[..])) {
        return Err(format!("line {} has a key that stands before it already", twice + 2));
    }
    if last.get("keys").and_then(Value::as_u64) != Some(pairs.len() as u64) {
        return Err(format!("it holds {} keys, and the last line says otherwise", pairs.len()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(lines: &[&str], keys: u64) -> Vec<u8> {
        let mut body = format!("{{\"format\":\"{FORMAT}\",\"version\":{VERSION}}}\n");
        for line in lines {
            body += line;
            body += "\n";
        }
        let crc = crc32c::crc32c(body.as_bytes());
        body += &format!("{{\"keys\":{keys},\"with_ttl\":0,\"crc32c\":\"{crc:08x}\"}}\n");
        body.into_bytes()
    }

    #[test]
    fn a_whole_snapshot_is_read_and_any_cut_or_change_is_not() {
        let lines = [r#"{"key":"a","value":"1"}"#, r#"{"key_hex":"00ff","value_hex":""}"#];
        let body = whole(&lines, 2);
        let pairs = parse(&body).expect("whole");
        assert_eq!(pairs, [(b"a".to_vec(), b"1".to_vec()), (vec![0, 255], vec![])]);
        for keep in 0..body.len() {
            assert!(parse(&body[..keep]).is_err(), "cut at {keep}");
        }
        let crc_line = body.len() - 60;
        for at in 0..crc_line {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(parse(&changed).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_named() {
        let bad = [
            "[]",
            "{}",
            r#"{"key":"","value":""}"#,
            r#"{"key_hex":"0","value":""}"#,
            r#"{"key":1,"value":""}"#,
        ];
        for line in bad {
            let reason = parse(&whole(&[line], 1)).expect_err(line);
            assert_eq!(reason, "line 2 is no key with its value");
        }
        let one = r#"{"key":"a","value":"1"}"#;
        assert!(parse(&whole(&[one], 2)).is_err());
        let twice = parse(&whole(&[one, r#"{"key_hex":"61","value":"2"}"#], 2)).expect_err("twice");
        assert_eq!(twice, "line 3 has a key that stands before it already");
    }

    #[test]
    fn a_batch_is_bounded_in_keys_and_in_bytes() {
        let small: Pairs = vec![(vec![1], vec![2]); 1000];
        assert_eq!(batch_len(&small, 0, BATCH_BYTES_MAX), BATCH_KEYS_MAX);
        assert_eq!(batch_len(&small, 7, 100), 11, "of nine bytes each");
        let large: Pairs = vec![(vec![1], vec![0; BATCH_BYTES_MAX]); 3];
        assert_eq!(batch_len(&large, 0, BATCH_BYTES_MAX), 1);
    }
}
