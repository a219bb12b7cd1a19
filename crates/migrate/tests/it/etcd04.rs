//! Folders of etcd 0.4.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_migrate::{Error, Fault, Kind, Node, read};

use super::written::{file_json, goraft_entry, node_json, store_json};
use super::{damage, good, node};

const NEVER: &str = "0001-01-01T00:00:00Z";
const LATE: &str = "2100-01-01T00:00:00+01:00";
const LATE_NANOS: u64 = 4_102_441_200_000_000_000;

fn set(key: &str, value: &str, expires: &str) -> (&'static str, String) {
    (
        "etcd:set",
        format!("{{\"key\":{key:?},\"value\":{value:?},\"expireTime\":{expires:?},\"dir\":false}}\n"),
    )
}

fn join(name: &str, port: u16) -> (&'static str, String) {
    let command = format!(
        "{{\"minVersion\":2,\"maxVersion\":2,\"name\":{name:?},\"raftURL\":\"http://h:{port}\",\
         \"etcdURL\":\"http://h:4{port}\"}}\n"
    );
    ("etcd:join", command)
}

/// A log that begins after `first`, and `conf`.
fn write_log(folder: &Path, first: u64, commands: &[(&str, String)]) -> Vec<u8> {
    let entries =
        commands.iter().zip(first + 1..).map(|((name, json), index)| goraft_entry(index, 3, name, json));
    let log = entries.collect::<Vec<_>>().concat();
    std::fs::write(folder.join("log"), &log).expect("written");
    std::fs::write(folder.join("conf"), "{\"commitIndex\":2,\"peers\":[]}").expect("written");
    log
}

fn write_snapshot(folder: &Path, term: u64, index: u64, state: &str) -> Vec<u8> {
    let json = format!(
        "{{\"lastIndex\":{index},\"lastTerm\":{term},\"peers\":[],\"state\":{:?},\"path\":\"x\"}}",
        STANDARD.encode(state)
    );
    let bytes = [format!("{:08x}\n", crc32fast::hash(json.as_bytes())).as_bytes(), json.as_bytes()].concat();
    std::fs::create_dir_all(folder.join("snapshot")).expect("made");
    std::fs::write(folder.join(format!("snapshot/{term}_{index}.ss")), &bytes).expect("written");
    bytes
}

#[test]
fn a_log_is_done_again_as_etcd_did_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let nop = ("raft:nop", String::new());
    let config = "{\"config\":{\"activeSize\":9,\"removeDelay\":1800,\"syncInterval\":5}}".to_owned();
    write_log(
        folder.path(),
        0,
        &[
            nop.clone(),
            join("m1", 7001),
            ("etcd:setClusterConfig", config),
            set("/foo", "bar", NEVER),
            (
                "etcd:create",
                format!(
                    "{{\"key\":\"/q\",\"value\":\"job\",\"expireTime\":{NEVER:?},\"unique\":true,\"dir\":false}}"
                ),
            ),
            set("/gone/soon", "x", "2014-04-17T17:24:04-07:00"),
            set("/lasts", "y", LATE),
            // Refused: takes no index.
            ("etcd:update", format!("{{\"key\":\"/none\",\"value\":\"z\",\"expireTime\":{NEVER:?}}}")),
            (
                "etcd:compareAndSwap",
                format!(
                    "{{\"key\":\"/foo\",\"value\":\"baz\",\"expireTime\":{NEVER:?},\"prevValue\":\"bar\",\"prevIndex\":0}}"
                ),
            ),
            ("etcd:sync", "{\"time\":\"2015-01-01T00:00:00Z\"}".to_owned()),
            join("m1", 7001),
            ("etcd:update", format!("{{\"key\":\"/lasts\",\"value\":\"y2\",\"expireTime\":{LATE:?}}}")),
            ("etcd:delete", "{\"key\":\"/q\",\"recursive\":true,\"dir\":false}".to_owned()),
            ("etcd:get", "{\"key\":\"/foo\"}".to_owned()),
        ],
    );
    let source = good(folder.path());
    assert_eq!((source.kind, source.index), (Kind::V04, 10));
    let config = "{\"activeSize\":9,\"removeDelay\":1800,\"syncInterval\":5}";
    assert_eq!(
        source.nodes,
        [
            node("/_etcd", None, 1, 1),
            node("/_etcd/config", Some(config), 2, 2),
            node("/foo", Some("baz"), 3, 7),
            node("/gone", None, 5, 5),
            Node { expires: Some(LATE_NANOS), ..node("/lasts", Some("y2"), 6, 9) },
        ]
    );
    assert_eq!((source.log.term, source.log.index, source.log.committed), (3, 14, 2));
    assert_eq!(source.notes, Vec::<String>::new());
}

#[test]
fn a_snapshot_and_what_the_log_has_beyond_it_make_the_tree() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = node_json(4, 4, NEVER, "", &format!("{{\"in\":{}}}", node_json(4, 6, LATE, "<v>", "null")));
    write_snapshot(folder.path(), 2, 10, &store_json("", 1));
    write_snapshot(
        folder.path(),
        3,
        9,
        &store_json(&format!("\"dir\":{dir},\"foo\":{}", file_json(5, 5, "é")), 8),
    );
    // The log keeps entries that the snapshot has, too.
    let old: Vec<_> = (8..=9).map(|n| set("/foo", &format!("never again {n}"), NEVER)).collect();
    write_log(folder.path(), 7, &[old, vec![set("/new", "n", NEVER)]].concat());
    let source = good(folder.path());
    assert_eq!(source.index, 9, "the newest snapshot counts, by term first");
    assert_eq!(
        source.nodes,
        [
            node("/dir", None, 4, 4),
            Node { expires: Some(LATE_NANOS), ..node("/dir/in", Some("<v>"), 4, 6) },
            node("/foo", Some("é"), 5, 5),
            node("/new", Some("n"), 9, 9),
        ]
    );
}

#[test]
fn machines_take_the_indexes_that_they_took_and_stay_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = "{\"config\":{\"activeSize\":3,\"promoteDelay\":1800}}".to_owned();
    let v2 = |name: &str, port: u16| {
        let (_, command) = join(name, port);
        ("etcd:v2:join", command.replace("raftURL", "peerURL").replace("etcdURL", "clientURL"))
    };
    let remove = |name: &str| ("etcd:remove", format!("{{\"name\":{name:?}}}"));
    write_log(
        folder.path(),
        0,
        &[
            ("etcd:setClusterConfig", settings),
            join("m1", 7001),
            join("m2", 7002),
            join("m3", 7003),
            set("/foo", "four", NEVER),
            v2("m4", 7004),
            set("/foo", "six", NEVER),
            // The same URL as another machine's: refused. Another URL of one that is known: an update.
            join("m5", 7001),
            join("m2", 7012),
            remove("m3"),
            remove("m3"),
            v2("m4", 7004),
            set("/bar", "eleven", NEVER),
        ],
    );
    let source = good(folder.path());
    assert_eq!(source.index, 11);
    assert_eq!(
        source.nodes,
        [node("/_etcd", None, 1, 1), node("/bar", Some("eleven"), 11, 11), node("/foo", Some("six"), 6, 6)]
    );
}

#[test]
fn damage_is_told_with_file_and_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let commands = [join("m1", 7001), set("/foo", "bar", NEVER), set("/foo", "baz", NEVER)];
    let log = write_log(path, 0, &commands);
    let second = goraft_entry(1, 3, commands[0].0, &commands[0].1).len();
    let change = |at: usize, with: &[u8]| {
        let mut log = log.clone();
        log.splice(at..at + with.len(), with.iter().copied());
        std::fs::write(path.join("log"), log).expect("written");
        damage(path)
    };
    let (file, offset, fault) = change(second, b"zz");
    assert_eq!((&file[..], offset), ("log", second as u64));
    assert!(matches!(fault, Fault::Malformed { what: "an entry's length", .. }), "{fault}");
    // The first byte of the second entry's index.
    let (_, offset, fault) = change(second + 10, &[9]);
    assert_eq!((offset, fault), (second as u64, Fault::Gap { last: 1, found: 9 }));
    let (_, _, fault) = change(second + 15, b"etcd:SET");
    assert_eq!(fault, Fault::UnknownCommand { name: "etcd:SET".to_owned() });
    // A length that is too great, with whole entries behind it.
    let (_, offset, fault) = change(second, b"    ffff");
    assert_eq!((offset, fault), (second as u64, Fault::Short { what: "an entry" }));
    // A last entry that was cut short is what a crash leaves.
    std::fs::write(path.join("log"), &log[..log.len() - 3]).expect("written");
    let source = good(path);
    assert_eq!((source.index, source.log.index, source.notes.len()), (2, 2, 1), "{:?}", source.notes);
    // A log without its beginning.
    write_log(path, 4, &commands);
    assert!(matches!(read(path, None), Err(Error::Incomplete { what: "its beginning", .. })));
    // A snapshot with another byte in it.
    let mut snapshot = write_snapshot(path, 1, 4, &store_json("", 3));
    assert_eq!(good(path).index, 6);
    snapshot[40] ^= 1;
    std::fs::write(path.join("snapshot/1_4.ss"), &snapshot).expect("written");
    let (file, offset, fault) = damage(path);
    assert_eq!((&file[..], offset), ("1_4.ss", 9));
    assert!(matches!(fault, Fault::Checksum { .. }), "{fault}");
    std::fs::write(path.join("conf"), "{").expect("written");
    assert_eq!(damage(path).0, "1_4.ss", "what is looked at first is told first");
}

#[test]
fn no_change_of_a_byte_makes_a_reader_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let snapshot = write_snapshot(path, 1, 2, &store_json(&format!("\"foo\":{}", file_json(1, 2, "v")), 2));
    let log = write_log(path, 2, &[set("/foo", "bar", LATE), join("m1", 7001), set("/foo", "baz", NEVER)]);
    for at in 0..log.len() {
        let mut changed = log.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(path.join("log"), &changed).expect("written");
        let _ = read(path, None);
    }
    std::fs::write(path.join("log"), &log).expect("written");
    for at in 0..snapshot.len() {
        let mut changed = snapshot.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(path.join("snapshot/1_2.ss"), &changed).expect("written");
        assert!(read(path, None).is_err(), "byte {at} of a snapshot");
    }
}
