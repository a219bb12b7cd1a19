//! A restore happens whole or not at all, whoever dies meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use quorate_interop::wait_until;

use super::super::scratch;
use super::{Node, leader};

const KEYS: usize = 6000;

/// A snapshot as a download has it.
fn snapshot(value: &str) -> Vec<u8> {
    let mut body = String::from("{\"format\":\"balsa-snapshot\",\"version\":1}\n");
    for number in 0..KEYS {
        body += &format!("{{\"key\":\"key{number:05}\",\"value\":\"{value}{}\"}}\n", "x".repeat(500));
    }
    let crc = crc32c::crc32c(body.as_bytes());
    body += &format!("{{\"keys\":{KEYS},\"with_ttl\":0,\"crc32c\":\"{crc:08x}\"}}\n");
    body.into_bytes()
}

/// Status and body, without chunks: HTTP/1.0 has none. Status 0: the node died before it answered.
fn ask(address: &str, path: &str, body: &[u8]) -> (u16, String) {
    let send = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = String::from_utf8(send().unwrap_or_default()).expect("text");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn restore(address: &str, body: &[u8]) -> u16 {
    ask(address, "/snapshot?op=restore&replace=true", body).0
}

/// What all keys of a node begin with. They are of one snapshot, and all of it.
fn held(node: &Node) -> String {
    let (status, body) = ask(&node.address(), "/snapshot?op=download", b"");
    assert_eq!(status, 200, "{body}\n{}", node.output());
    let lines: Vec<serde_json::Value> =
        body.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (last, pairs) = lines.split_last().expect("a last line");
    let starts: std::collections::BTreeSet<&str> =
        pairs.iter().map(|pair| pair["value"].as_str().expect("text").trim_end_matches('x')).collect();
    assert_eq!((starts.len(), pairs.len()), (1, KEYS), "a mixture on {}: {starts:?} {last}", node.name);
    starts.into_iter().next().map(str::to_owned).expect("one")
}

#[test]
fn a_restore_is_whole_or_not_at_all_while_nodes_are_killed() {
    let (_guard, folder) = scratch();
    let mut nodes = ["n1", "n2", "n3"].map(|name| Node::plan(&folder, name));
    nodes.iter_mut().for_each(Node::start);
    nodes[0].curl_join(&nodes[1]);
    nodes[0].curl_join(&nodes[2]);
    // However busy the machine is: a node waits until it knows.
    assert_eq!(restore(&nodes[0].address(), &snapshot("first")), 200);
    let mut holds = "first".to_owned();
    // Once the node that was asked, once the leader that another one was asked beside.
    for (round, asked_leads) in [("second", true), ("third", false), ("fourth", true)] {
        let leads = leader(&nodes);
        let asked = if asked_leads { leads } else { (leads + 1) % 3 };
        let address = nodes[asked].address();
        let body = snapshot(round);
        let before = nodes[leads].json("/status")["last_log_index"].as_u64().expect("a number");
        let sending = std::thread::spawn(move || restore(&address, &body));
        wait_until("some of it is in the log", || {
            nodes[leads].json("/status")["last_log_index"].as_u64() > Some(before + 10)
        })
        .expect("it is");
        nodes[leads].kill();
        let status = sending.join().expect("no panic");
        nodes[leads].start();
        for node in &nodes {
            let now = held(node);
            assert!(now == holds || now == round, "{} holds {now} after {holds} and {round}", node.name);
            assert!(status != 200 || now == round, "{} holds {now}, and {round} was acknowledged", node.name);
        }
        holds = held(&nodes[0]);
        assert!(nodes[1..].iter().all(|node| held(node) == holds), "all hold the same");
    }
    let leads = leader(&nodes);
    assert_eq!(restore(&nodes[(leads + 1) % 3].address(), &snapshot("last")), 200);
    wait_until("all hold it", || nodes.iter().all(|node| held(node) == "last")).expect("nobody dies");
}
