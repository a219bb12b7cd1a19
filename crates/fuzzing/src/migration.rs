//! What another etcd left in its data folder, and `quorate migrate` reads.
//!
//! An input is a byte of flags and a folder. Where the flag is set, the checksums of its snapshots and of its log are
//! made right first.

use prost::Message;
use quorate_migrate::Source;

use crate::folder::{self, File};
use crate::{Outcome, files::SEAL, files::flagged};

/// Reads the folder, as that of 0.4 or of 2 and later. What is read is a tree, in order.
pub fn etcd_folder(input: &[u8]) -> Outcome {
    let Some((flags, files)) = input.split_first().and_then(|(f, rest)| Some((*f, folder::read(rest)?)))
    else {
        return Outcome::Refused;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut crc = 0;
    for (name, mut bytes) in files {
        if flags & SEAL != 0 {
            seal(&name, &mut bytes, &mut crc);
        }
        // Names are not what is tried here; one that leads elsewhere is refused.
        let is_plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !name.split('/').all(|part| is_plain(part) && part != "." && part != "..") {
            return Outcome::Refused;
        }
        let path = folder.path().join(name);
        let Some(parent) = path.parent() else { return Outcome::Refused };
        if std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, &bytes)).is_err() {
            return Outcome::Refused;
        }
    }
    match quorate_migrate::read(folder.path(), None) {
        Ok(source) => {
            check(&source);
            Outcome::Taken
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Outcome::Refused
        }
    }
}

/// Each node is in a directory that stands before it.
fn check(source: &Source) {
    let mut directories = std::collections::BTreeSet::from([b"".as_slice()]);
    for node in &source.nodes {
        let end = node.path.iter().rposition(|byte| *byte == b'/').expect("a path begins with a slash");
        assert!(directories.contains(&node.path[..end]), "{node:?} is in no directory");
        if node.value.is_none() {
            assert!(directories.insert(&node.path), "{node:?} is there twice");
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, required, tag = "1")]
    kind: i64,
    #[prost(uint32, required, tag = "2")]
    crc: u32,
    #[prost(bytes = "vec", optional, tag = "3")]
    data: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Snapshot {
    #[prost(uint32, tag = "1")]
    crc: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
}

/// `crc` goes on from one file of the log to the next.
fn seal(name: &str, bytes: &mut Vec<u8>, crc: &mut u32) {
    if name.ends_with(".ss") && bytes.len() >= 9 {
        let right = format!("{:08x}\n", crc32fast::hash(&bytes[9..]));
        bytes[..9].copy_from_slice(right.as_bytes());
    } else if name.ends_with(".snap")
        && let Ok(Snapshot { data: Some(data), .. }) = Snapshot::decode(&bytes[..])
    {
        *bytes = Snapshot { crc: crc32c::crc32c(&data), data: Some(data) }.encode_to_vec();
    } else if name.ends_with(".wal") {
        *bytes = sealed_log(bytes, crc);
    }
}

/// The records with their checksums made right, up to the first that is none; what follows stays as it is.
fn sealed_log(bytes: &[u8], crc: &mut u32) -> Vec<u8> {
    const KIND_CRC: i64 = 4;
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some((length, behind)) = rest.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        let padding = if length >> 63 == 1 { (length >> 56 & 7) as usize } else { 0 };
        let len = usize::try_from(length & ((1 << 56) - 1)).unwrap_or(usize::MAX);
        let whole =
            len.checked_add(padding).filter(|_| length != 0).and_then(|all| behind.split_at_checked(all));
        let Some((framed, behind)) = whole else { break };
        let Ok(mut record) = Record::decode(&framed[..len]) else { break };
        if record.kind != KIND_CRC {
            *crc = crc32c::crc32c_append(*crc, record.data.as_deref().unwrap_or_default());
        }
        record.crc = *crc;
        push(&mut out, &record.encode_to_vec());
        rest = behind;
    }
    out.extend_from_slice(rest);
    out
}

fn push(out: &mut Vec<u8>, record: &[u8]) {
    let padding = (8 - record.len() % 8) % 8;
    let flags = if padding == 0 { 0 } else { (0x80 | padding as u64) << 56 };
    out.extend_from_slice(&(record.len() as u64 | flags).to_le_bytes());
    out.extend_from_slice(record);
    out.resize(out.len() + padding, 0);
}

/// A folder of 0.4 and one of 2, each with a snapshot and a log.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let folders = [("v04", v04()), ("v2", v2())];
    flagged(&[("as-it-is", 0), ("sealed", SEAL)], &folders.map(|(name, files)| (name, folder::write(&files))))
}

const NEVER: &str = "0001-01-01T00:00:00Z";

/// A store with a file `f` and a directory `d` with a file in it, below the folders given.
fn store_json(below: Option<&str>, index: u64) -> String {
    let node = |value: &str, children: &str| {
        format!(
            "{{\"Path\":\"-\",\"CreatedIndex\":2,\"ModifiedIndex\":3,\"ExpireTime\":\"{NEVER}\",\"ACL\":\"\",\
             \"Value\":{value:?},\"Children\":{children}}}"
        )
    };
    let inner = format!("{{\"f\":{}}}", node("a value", "null"));
    let tree = format!("{{\"f\":{},\"d\":{}}}", node("", "null"), node("", &inner));
    let tree = below.map_or(tree.clone(), |folder| format!("{{{folder:?}:{}}}", node("", &tree)));
    format!(
        "{{\"Root\":{},\"WatcherHub\":{{}},\"CurrentIndex\":{index},\"CurrentVersion\":2}}",
        node("", &tree)
    )
}

fn v04() -> Vec<File> {
    use base64::Engine as _;
    #[derive(Clone, PartialEq, Message)]
    struct Entry {
        #[prost(uint64, tag = "1")]
        index: u64,
        #[prost(uint64, tag = "2")]
        term: u64,
        #[prost(string, tag = "3")]
        name: String,
        #[prost(bytes = "vec", tag = "4")]
        command: Vec<u8>,
    }
    let state = base64::engine::general_purpose::STANDARD.encode(store_json(None, 5));
    let snapshot =
        format!("{{\"lastIndex\":7,\"lastTerm\":2,\"peers\":[],\"state\":\"{state}\",\"path\":\"x\"}}");
    let snapshot = format!("{:08x}\n{snapshot}", crc32fast::hash(snapshot.as_bytes()));
    let commands = [
        (
            "etcd:set",
            format!("{{\"key\":\"/f\",\"value\":\"b\",\"expireTime\":\"{NEVER}\",\"dir\":false}}\n"),
        ),
        (
            "etcd:create",
            format!("{{\"key\":\"/q\",\"value\":\"j\",\"expireTime\":\"{NEVER}\",\"unique\":true}}\n"),
        ),
        ("etcd:sync", "{\"time\":\"2015-01-01T00:00:00Z\"}\n".to_owned()),
        ("raft:nop", String::new()),
        ("etcd:delete", "{\"key\":\"/d\",\"recursive\":true,\"dir\":true}\n".to_owned()),
    ];
    let mut log = Vec::new();
    for ((name, command), index) in commands.into_iter().zip(8..) {
        let entry = Entry { index, term: 2, name: name.to_owned(), command: command.into_bytes() };
        let entry = entry.encode_to_vec();
        log.extend_from_slice(format!("{:8x}\n", entry.len()).as_bytes());
        log.extend_from_slice(&entry);
    }
    vec![
        ("log".to_owned(), log),
        ("conf".to_owned(), b"{\"commitIndex\":12,\"peers\":[]}".to_vec()),
        ("snapshot/2_7.ss".to_owned(), snapshot.into_bytes()),
    ]
}

fn v2() -> Vec<File> {
    #[derive(Clone, PartialEq, Message)]
    struct Body {
        #[prost(bytes = "vec", tag = "1")]
        data: Vec<u8>,
        #[prost(message, optional, tag = "2")]
        metadata: Option<Metadata>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Metadata {
        #[prost(uint64, tag = "2")]
        index: u64,
        #[prost(uint64, tag = "3")]
        term: u64,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Entry {
        #[prost(int32, tag = "1")]
        kind: i32,
        #[prost(uint64, tag = "2")]
        term: u64,
        #[prost(uint64, tag = "3")]
        index: u64,
        #[prost(bytes = "vec", optional, tag = "4")]
        data: Option<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Request {
        #[prost(uint64, tag = "1")]
        id: u64,
        #[prost(string, tag = "2")]
        method: String,
        #[prost(string, tag = "3")]
        path: String,
        #[prost(string, tag = "4")]
        value: String,
        #[prost(bool, tag = "12")]
        recursive: bool,
        #[prost(int64, tag = "15")]
        time: i64,
    }
    let json = store_json(Some("1"), 5).into_bytes();
    let data = Body { data: json, metadata: Some(Metadata { index: 7, term: 2 }) }.encode_to_vec();
    let snapshot = Snapshot { crc: crc32c::crc32c(&data), data: Some(data) }.encode_to_vec();
    let request = |method: &str, path: &str, value: &str| Request {
        id: 9,
        method: method.to_owned(),
        path: path.to_owned(),
        value: value.to_owned(),
        recursive: method == "DELETE",
        time: if method == "SYNC" { 1_500_000_000_000_000_000 } else { 0 },
    };
    let requests = [
        request("PUT", "/0/version", "3.4.0"),
        request("PUT", "/1/f", "b"),
        request("POST", "/1/q", "job"),
        request("SYNC", "", ""),
        request("DELETE", "/1/d", ""),
    ];
    let mut log = Vec::new();
    let mut record =
        |kind: i64, data: Option<Vec<u8>>| push(&mut log, &Record { kind, crc: 0, data }.encode_to_vec());
    record(4, None);
    record(1, Some(vec![8, 7, 16, 8]));
    for (asked, index) in requests.into_iter().zip(8..) {
        let entry = Entry { kind: 0, term: 2, index, data: Some(asked.encode_to_vec()) };
        record(2, Some(entry.encode_to_vec()));
    }
    record(3, Some(vec![8, 2, 24, 12]));
    let log = sealed_log(&log, &mut 0);
    vec![
        ("member/wal/0000000000000000-0000000000000000.wal".to_owned(), log),
        ("member/snap/0000000000000002-0000000000000007.snap".to_owned(), snapshot),
    ]
}
