//! Folders of etcd 2.x and 3.x.

use std::path::Path;

use quorate_migrate::{Error, Fault, Kind, Node, read};

use super::written::{Ask, Field, Wal, file_json, message, node_json, store_json};
use super::{damage, good, node};

const NEVER: &str = "0001-01-01T00:00:00Z";
const LATE: u64 = 4_102_441_200_000_000_000;

fn put<'a>(path: &'a str, value: &'a str) -> Ask<'a> {
    Ask { method: "PUT", path, value, ..Ask::default() }
}

fn add_member(id: u64, url: &str) -> Vec<u8> {
    let context = format!("{{\"id\":{id},\"peerURLs\":[{url:?}],\"name\":\"\"}}");
    message(&[(2, Field::Number(0)), (3, Field::Number(id)), (4, Field::Bytes(context.as_bytes()))])
}

/// A log of these commands from entry 1 on.
fn write_log(folder: &Path, commands: &[Vec<u8>]) -> Wal {
    let mut wal = Wal::new(&folder.join("member/wal"));
    wal.entry(1, 1, 1, &add_member(0xa, "http://a:1"));
    for (command, index) in commands.iter().zip(2..) {
        wal.entry(index, 2, 0, command);
    }
    wal.state(2, commands.len() as u64 + 1);
    wal
}

fn start_of_a_member(commands: &[Ask<'_>]) -> Vec<Vec<u8>> {
    let own = [put("/0/members/a/attributes", "{\"name\":\"default\"}"), put("/0/version", "3.4.0")];
    own.iter().chain(commands).map(Ask::bytes).collect()
}

#[test]
fn a_log_is_done_again_as_etcd_did_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let commands = start_of_a_member(&[
        put("/1/foo", "bar"),
        Ask { method: "POST", path: "/1/q", value: "job", ..Ask::default() },
        Ask { method: "PUT", path: "/1/dir", dir: true, expiration: LATE, ..Ask::default() },
        put("/1/dir/file", "x"),
        Ask { expiration: 1_400_000_000_000_000_000, ..put("/1/old", "x") },
        Ask { previous_exist: Some(false), ..put("/1/foo", "no") },
        Ask { previous_exist: Some(true), ..put("/1/foo", "yes") },
        Ask { previous_index: 4, ..put("/1/foo", "no") },
        Ask { previous_value: "yes", previous_index: 9, ..put("/1/foo", "swapped") },
        Ask { previous_exist: Some(true), refresh: true, expiration: LATE, ..put("/1/foo", "") },
        Ask { method: "QGET", path: "/1/foo", ..Ask::default() },
        Ask { method: "SYNC", time: 1_500_000_000_000_000_000, ..Ask::default() },
        Ask { method: "DELETE", path: "/1/q", dir: true, ..Ask::default() },
        Ask { method: "DELETE", path: "/1", recursive: true, ..Ask::default() },
        put("/1/_hidden", "h"),
    ]);
    write_log(folder.path(), &commands).end_file(4096);
    let source = good(folder.path());
    assert_eq!((source.kind, source.index), (Kind::V2, 13));
    assert_eq!(
        source.nodes,
        [
            node("/_hidden", Some("h"), 13, 13),
            Node { expires: Some(LATE), ..node("/dir", None, 6, 6) },
            node("/dir/file", Some("x"), 7, 7),
            Node { expires: Some(LATE), ..node("/foo", Some("swapped"), 4, 11) },
            node("/q", None, 5, 5),
            node("/q/00000000000000000005", Some("job"), 5, 5),
        ]
    );
    assert_eq!((source.log.term, source.log.index, source.log.committed), (2, 18, 18));
}

#[test]
fn keys_in_order_are_called_as_the_version_of_the_time_called_them() {
    for (version, name) in [("2.1.0", "/q/4"), ("2.2.0", "/q/00000000000000000004")] {
        let folder = tempfile::tempdir().expect("a folder");
        let in_order = Ask { method: "POST", path: "/1/q", value: "job", ..Ask::default() };
        let commands = [put("/0/members/a/attributes", "{}"), put("/0/version", version), in_order];
        write_log(folder.path(), &commands.map(|command| command.bytes())).end_file(0);
        let nodes = good(folder.path()).nodes;
        assert_eq!(nodes[1].path, name.as_bytes(), "{version}");
    }
}

#[test]
fn a_snapshot_and_what_several_files_have_beyond_it_make_the_tree() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let mut wal = Wal::new(&path.join("member/wal"));
    for index in 1..=4 {
        wal.entry(index, 1, 0, &put("/1/foo", "long ago").bytes());
    }
    wal.begin_file(5);
    // An entry that was never committed gives way to a later leader's.
    for (index, term, value) in [(5, 1, "five"), (6, 1, "lost"), (7, 1, "lost"), (6, 3, "six")] {
        wal.entry(index, term, 0, &put("/1/foo", value).bytes());
    }
    wal.begin_file(7);
    wal.entry(7, 3, 0, &put("/1/bar", "seven").bytes());
    wal.end_file(64);
    let snap = path.join("member/snap");
    std::fs::create_dir_all(&snap).expect("made");
    let users = node_json(0, 0, NEVER, "", &format!("{{\"foo\":{}}}", file_json(9, 30, "old")));
    let write = |name: &str, index: u64, json: &str| {
        let metadata = message(&[(2, Field::Number(index)), (3, Field::Number(1))]);
        let data = message(&[(1, Field::Bytes(json.as_bytes())), (2, Field::Bytes(&metadata))]);
        let file = message(&[(1, Field::Number(u64::from(crc32c::crc32c(&data)))), (2, Field::Bytes(&data))]);
        std::fs::write(snap.join(name), &file).expect("written");
        file
    };
    write("0000000000000001-0000000000000004.snap", 4, &store_json(&format!("\"1\":{users}"), 40));
    let source = good(path);
    assert_eq!(source.nodes, [node("/bar", Some("seven"), 43, 43), node("/foo", Some("six"), 42, 42)]);
    assert_eq!((source.index, source.log.snapshot, source.log.term, source.log.index), (43, 4, 3, 7));
    // A newer snapshot that a crash cut short: the one before is used.
    let newest = "0000000000000003-0000000000000006.snap";
    let whole = write(newest, 6, &store_json(&format!("\"1\":{users}"), 42));
    assert_eq!(good(path).log.snapshot, 6);
    std::fs::write(snap.join(newest), &whole[..whole.len() / 2]).expect("written");
    let source = good(path);
    assert_eq!((source.log.snapshot, source.index), (4, 43));
    assert!(source.notes[0].contains(newest), "{:?}", source.notes);
    // Without the log in between, nothing is guessed.
    std::fs::remove_file(path.join("member/wal/0000000000000001-0000000000000005.wal")).expect("removed");
    assert!(matches!(read(path, None), Err(Error::Incomplete { .. })));
}

#[test]
fn changes_of_the_members_take_the_indexes_that_they_took() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut wal = Wal::new(&folder.path().join("member/wal"));
    let remove = |id: u64| message(&[(2, Field::Number(1)), (3, Field::Number(id))]);
    let version_of_3_5 = message(&[(1300, Field::Bytes(&message(&[(1, Field::Bytes(b"3.5.0"))])))]);
    let attributes_of_3_5 = message(&[(1301, Field::Bytes(&message(&[(1, Field::Number(0xa))])))]);
    let v3_put =
        message(&[(100, Field::Bytes(b"")), (4, Field::Bytes(&message(&[(1, Field::Bytes(b"k"))])))]);
    let entries: &[(u64, Vec<u8>)] = &[
        (1, add_member(0xa, "http://a:1")),
        (0, attributes_of_3_5),
        (0, version_of_3_5),
        (1, add_member(0xb, "http://b:1")),
        // Refused: known already, or a URL that is taken.
        (1, add_member(0xb, "http://b:2")),
        (1, add_member(0xc, "http://b:1")),
        (0, put("/1/five", "x").bytes()),
        (1, remove(0xb)),
        (1, remove(0xb)),
        (0, put("/0/members/b/attributes", "{}").bytes()),
        (0, Vec::new()),
        (0, v3_put),
        (0, put("/1/eight", "x").bytes()),
    ];
    for ((kind, data), index) in entries.iter().zip(1..) {
        wal.entry(index, 1, *kind, data);
    }
    wal.end_file(0);
    let source = good(folder.path());
    assert_eq!(source.nodes, [node("/eight", Some("x"), 8, 8), node("/five", Some("x"), 5, 5)]);
    assert!(source.notes.iter().any(|note| note.contains("v3 API")), "{:?}", source.notes);
}

#[test]
fn damage_is_told_with_file_and_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let commands = start_of_a_member(&[put("/1/foo", &"x".repeat(2000)), put("/1/bar", "y")]);
    let mut wal = write_log(path, &commands);
    let before = wal.file.len();
    wal.entry(6, 2, 0, &put("/1/baz", &"z".repeat(3000)).bytes());
    let whole = wal.file.clone();
    wal.end_file(512);
    let file = path.join("member/wal/0000000000000000-0000000000000000.wal");
    assert_eq!(good(path).index, 6);
    // A byte in the middle.
    let mut flipped = whole.clone();
    flipped[before - 100] ^= 1;
    std::fs::write(&file, &flipped).expect("written");
    let (name, offset, fault) = damage(path);
    assert_eq!(name, file.file_name().expect("a name").to_string_lossy());
    assert!(offset > 0 && offset < before as u64, "{offset}");
    assert!(matches!(fault, Fault::Checksum { .. } | Fault::Malformed { .. }), "{fault}");
    // A length that is too great, with whole records behind it.
    let mut long = whole.clone();
    let second = 8 + u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize % 256;
    let second = second.next_multiple_of(8);
    long[second + 3] = 0x7f;
    std::fs::write(&file, &long).expect("written");
    assert_eq!(damage(path).1, second as u64);
    // The last record cut short, or with a part that was never written: what a crash leaves.
    std::fs::write(&file, &whole[..whole.len() - 700]).expect("written");
    let source = good(path);
    assert_eq!((source.index, source.notes.len()), (5, 1), "{:?}", source.notes);
    let mut torn = whole.clone();
    torn[whole.len() - 1100..].fill(0);
    std::fs::write(&file, &torn).expect("written");
    assert_eq!(good(path).index, 5);
    // The same in a file that others follow is none.
    let mut wal = write_log(path, &commands);
    wal.begin_file(6);
    wal.end_file(0);
    std::fs::write(&file, &whole[..before - 9]).expect("written");
    assert!(matches!(damage(path).2, Fault::Short { .. }));
}

#[test]
fn a_folder_that_an_etcd_runs_on_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write_log(folder.path(), &start_of_a_member(&[])).end_file(0);
    let file = folder.path().join("member/wal/0000000000000000-0000000000000000.wal");
    let held = std::fs::File::options().write(true).open(&file).expect("opened");
    held.lock().expect("locked");
    assert!(matches!(read(folder.path(), None), Err(Error::InUse { .. })));
    drop(held);
    assert_eq!(good(folder.path()).index, 3);
}

#[test]
fn a_byte_that_changed_is_told_or_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let commands = start_of_a_member(&[
        put("/1/foo", "bar"),
        Ask { method: "POST", path: "/1/q", value: "job", ..Ask::default() },
        Ask { expiration: LATE, ..put("/1/dir/file", &"x".repeat(700)) },
        put("/1/last", "y"),
    ]);
    let mut wal = write_log(path, &commands);
    let whole = wal.file.clone();
    wal.end_file(64);
    let good = good(path);
    let file = path.join("member/wal/0000000000000000-0000000000000000.wal");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        changed.resize(whole.len() + 64, 0);
        std::fs::write(&file, &changed).expect("written");
        match read(path, None) {
            // Where padding begins and ends shows with the record that follows.
            Err(Error::Damaged { offset, .. }) => {
                assert!(offset <= at as u64 + 1024, "byte {at}, told as {offset}")
            }
            Err(other) => panic!("byte {at}: {other}"),
            // Padding; and the state that only says how far entries were known to be committed, at the very end.
            Ok(source) => {
                assert_eq!((source.nodes, source.index), (good.nodes.clone(), good.index), "byte {at}")
            }
        }
    }
}
