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
//! whole and right is restored. Keys with a time to live are counted and left out: their time belongs to this cluster.

use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_models::keys::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, KeyValue, Op, Progress, Put, RangeQuery,
    RangeResume, Reply, Txn, range_slice, resolve_revision,
};
use serde_json::{Map, Value, json};

use super::keys::{prefix_end, shown, unexpected};
use super::parameters::Parameters;
use super::{Answer, Shared};
use crate::listener::{Outgoing, outgoing};

const FORMAT: &str = "balsa-snapshot";
const VERSION: u64 = 1;
/// Keys that are read under one hold of the store's lock.
const SLICE_KEYS: usize = 64;
/// Bytes of a download that wait for the client.
const QUEUED_BYTES_MAX: usize = 256 * 1024;
/// Keys, and bytes, that one command of a restore writes.
const BATCH_KEYS_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 512 * 1024;

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
        let query = RangeQuery::new(prefix.clone(), prefix_end(&prefix));
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

    async fn restore(&self, body: &[u8], replace: bool) -> Result<Answer, Answer> {
        let pairs = parse(body).map_err(|reason| Answer::bad_request(&format!("restore: {reason}")))?;
        let longest = self.config.request_bytes_max;
        if let Some((key, _)) = pairs.iter().find(|(key, value)| key.len() + value.len() > longest) {
            let reason = format!("restore: key {:?} and its value are too long", shown(key));
            return Err(Answer::too_large(&reason));
        }
        self.make_room(replace).await?;
        let mut index = 0;
        let mut rest = &pairs[..];
        while !rest.is_empty() {
            let (batch, next) = rest.split_at(batch_len(rest));
            let put = |(key, value): &(Vec<u8>, Vec<u8>)| {
                Op::Put(Put {
                    key: self.key(key),
                    value: Bytes::copy_from_slice(value),
                    lease: 0,
                    prev_kv: false,
                    ignore_value: false,
                    ignore_lease: false,
                })
            };
            let txn = Txn { compare: vec![], success: batch.iter().map(put).collect(), failure: vec![] };
            let done = self.propose(&Command::Txn(txn)).await?;
            let Reply::Txn(_) = done.reply else { return Err(unexpected(&done.reply)) };
            index = done.index.0;
            rest = next;
        }
        Ok(Answer::ok(&json!({ "keys": pairs.len(), "index": index })))
    }

    /// Removes all keys, or sees that there are none.
    async fn make_room(&self, replace: bool) -> Result<(), Answer> {
        let prefix = self.key(b"");
        let end = prefix_end(&prefix);
        if replace {
            let delete = DeleteRange { key: prefix, end, prev_kv: false };
            let done = self.propose(&Command::DeleteRange(delete)).await?;
            let Reply::DeleteRange(_) = done.reply else { return Err(unexpected(&done.reply)) };
            return Ok(());
        }
        let compare = Compare { key: prefix, end, op: CompareOp::Equal, target: CompareTarget::Version(0) };
        let txn = Txn { compare: vec![compare], success: vec![], failure: vec![] };
        let done = self.propose(&Command::Txn(txn)).await?;
        match done.reply {
            Reply::Txn(reply) if reply.succeeded => Ok(()),
            Reply::Txn(_) => Err(Answer::conflict(
                "restore: there are keys already: remove them, or give replace=true to put those of the snapshot in \
                 their place",
            )),
            other => Err(unexpected(&other)),
        }
    }
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

/// How many pairs one command takes; at least one.
fn batch_len(pairs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let mut bytes = 0;
    let fits = pairs.iter().take(BATCH_KEYS_MAX).take_while(|(key, value)| {
        bytes += key.len() + value.len();
        bytes <= BATCH_BYTES_MAX
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
        assert!(parse(&whole(&[r#"{"key":"a","value":"1"}"#], 2)).is_err());
    }

    #[test]
    fn a_batch_is_bounded_in_keys_and_in_bytes() {
        let small: Pairs = vec![(vec![1], vec![2]); 1000];
        assert_eq!(batch_len(&small), BATCH_KEYS_MAX);
        let large: Pairs = vec![(vec![1], vec![0; BATCH_BYTES_MAX]); 3];
        assert_eq!(batch_len(&large), 1);
    }
}
