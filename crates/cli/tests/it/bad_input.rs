//! Bytes and folders that make no sense: each gets a clear error, and the member lives on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use quorate_interop::{Cluster, Member, WAIT_MAX, http_get};

use super::{binary, scratch};

fn alive(member: &mut Member) {
    assert!(member.is_running(), "{}", member.process().output());
    member.wait_healthy().expect("a healthy member");
}

/// Sends bytes and nothing more, and returns what comes back until the member closes or falls silent.
fn send(addr: &str, bytes: &[u8]) -> Vec<u8> {
    exchange(addr, bytes, true)
}

fn exchange(addr: &str, bytes: &[u8], close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("connected");
    // Of garbage no answer is expected; one to a request has time.
    let patience = if close { Duration::from_secs(2) } else { WAIT_MAX };
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    // The member may close before it has read everything.
    let _ = stream.write_all(bytes);
    if close {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn garbage_on_both_ports_is_survived() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 1).expect("a member");
    let member = &mut cluster.members[0];
    let mut noise: Vec<u8> = Vec::new();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..100_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.push(state.to_le_bytes()[0]);
    }
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut broken_http2 = http2.to_vec();
    broken_http2.extend_from_slice(&noise[..4096]);
    let long_header = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let payloads: [&[u8]; 9] = [
        b"",
        b"\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"POST /etcdserverpb.KV/Put HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        http2,
        &broken_http2,
        &noise,
        &long_header,
    ];
    for addr in [member.client.clone(), member.peer.clone()] {
        for payload in payloads {
            send(&addr, payload);
        }
    }
    alive(member);
    cluster.terminate().expect("a clean stop");
}

#[test]
fn unknown_paths_and_methods_get_an_answer() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 1).expect("a member");
    let member = &mut cluster.members[0];
    assert_eq!(http_get(&member.client, "/no/such/page").expect("an answer").0, 404);
    let request = b"DELETE /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = exchange(&member.client, request, false);
    assert!(answer.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&answer));
    alive(member);
}

#[test]
fn a_data_folder_of_another_member_or_cluster_is_refused() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 3).expect("three members");
    cluster.terminate().expect("all stop");
    let theirs = cluster.members[1].data_dir.display().to_string();
    let process = cluster.members[0].start_with(&["--data-dir", &theirs]).expect("started");
    let status = process.wait(WAIT_MAX).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", process.output());
    assert!(process.output().contains("belongs to"), "{}", process.output());
    cluster.members[0].kill();

    let (_other_guard, other_folder) = scratch();
    let mut other = Cluster::plan(binary(), &other_folder, 3, &[]).expect("a plan");
    let process = other.members[0].start_with(&["--data-dir", &theirs]).expect("started");
    let status = process.wait(WAIT_MAX).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", process.output());
    assert!(process.output().contains("belongs to"), "{}", process.output());
    cluster.start_all().expect("the folder's own member still starts");
}

#[test]
fn a_folder_in_use_and_a_busy_port_are_named() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 1).expect("a member");
    let (client, peer) = (cluster.members[0].client.clone(), cluster.members[0].peer.clone());
    let data_dir = cluster.members[0].data_dir.display().to_string();
    let (_other_guard, other_folder) = scratch();
    let mut second = Cluster::plan(binary(), &other_folder, 1, &[]).expect("a plan");
    for (arguments, expected) in [
        (vec!["--data-dir".to_owned(), data_dir], "in use"),
        (vec!["--listen-peer-urls".to_owned(), format!("http://{peer}")], "port"),
        (vec!["--listen-client-urls".to_owned(), format!("http://{client}")], client.as_str()),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let process = second.members[0].start_with(&arguments).expect("started");
        let status = process.wait(WAIT_MAX).expect("it ends");
        assert_eq!(status.code(), Some(1), "{}", process.output());
        assert!(process.output().contains(expected), "{arguments:?}: {}", process.output());
        second.members[0].kill();
    }
    alive(&mut cluster.members[0]);
}

#[test]
fn a_wal_that_was_damaged_or_is_of_a_newer_format_stops_the_start_by_name() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 1).expect("a member");
    cluster.terminate().expect("a clean stop");
    let mut damaged = 0;
    for file in files_under(&cluster.members[0].data_dir) {
        // A segment starts with its magic and its format version: make every such file one of the future.
        let mut bytes = std::fs::read(&file).expect("readable");
        if bytes.len() > 4096 && file.to_string_lossy().contains("wal") {
            bytes[..64].fill(0xEE);
            std::fs::write(&file, bytes).expect("written");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "no log segment was found");
    let process = cluster.members[0].start().expect("started");
    let status = process.wait(WAIT_MAX).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", process.output());
    assert!(process.output().contains("wal"), "{}", process.output());
    cluster.members[0].kill();
    cluster.members[0].start_with(&["--give-up-data"]).expect("started");
    let said = cluster.members[0].process().wait_for_output("giving up this member's log and store");
    said.expect("the operator's word is taken");
}

fn files_under(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path);
        }
    }
    files
}
