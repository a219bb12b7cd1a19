//! Start, readiness, clean stop, restart; and the cluster of `quorate dev`.

use std::process::Command;
use std::time::Duration;

use quorate_interop::{Cluster, Process, free_port, free_ports, http_get, wait_until};

use super::{binary, scratch};

/// A clean stop gives requests seven seconds and the hand-over two election timeouts; a busy machine adds to that.
const STOP_MAX: Duration = Duration::from_secs(60);

#[test]
fn three_members_serve_stop_cleanly_and_come_back() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::start(binary(), &folder, 3).expect("three members");
    let leader = cluster.leader().expect("a leader");
    for member in &mut cluster.members {
        member.wait_healthy().expect("a healthy member");
        let (_, version) = http_get(&member.client, "/version").expect("an answer");
        assert!(version.contains("\"etcdserver\":\"3.7.1\""), "{version}");
    }
    let status = cluster.members[leader].terminate(STOP_MAX).expect("a stop in bounded time");
    assert_eq!(status.code(), Some(0));
    let next = cluster.leader().expect("leadership was handed on");
    assert_ne!(next, leader);
    cluster.start_all().expect("the member comes back");
    cluster.terminate().expect("all stop");
    cluster.start_all().expect("all come back");
    cluster.leader().expect("a leader");
    cluster.terminate().expect("all stop");
}

#[test]
fn a_member_without_a_majority_stops_in_bounded_time() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::plan(binary(), &folder, 3, &[]).expect("a plan");
    cluster.members[0].start().expect("started").wait_for_output("member started").expect("started");
    let status = cluster.members[0].terminate(STOP_MAX).expect("a stop in bounded time");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_member_alone_is_configured_by_a_file() {
    let (_guard, folder) = scratch();
    let (client, peer) = (free_port(), free_port());
    let file = folder.join("quorate.yaml");
    let text = format!(
        "name: solo\ndata-dir: {}\nlisten-client-urls: http://127.0.0.1:{client}\n\
         advertise-client-urls: http://127.0.0.1:{client}\nlisten-peer-urls: http://127.0.0.1:{peer}\n\
         initial-advertise-peer-urls: http://127.0.0.1:{peer}\ninitial-cluster: solo=http://127.0.0.1:{peer}\n\
         log-outputs: [stderr]\nlog-level: info\n",
        folder.join("data").display()
    );
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new(binary());
    command.arg("server").arg("--config-file").arg(&file).arg("--name=ignored").env_clear();
    let mut process = Process::start(&mut command, &folder.join("log")).expect("started");
    process.wait_for_output("ready to serve client requests").expect("ready");
    assert!(process.output().contains("other flags and variables are ignored"), "{}", process.output());
    serves(client);
    process.signal("INT").expect("sent");
    assert_eq!(process.wait(STOP_MAX).expect("a stop in bounded time").code(), Some(0));
}

#[test]
fn dev_prints_its_endpoints_and_finds_its_data_again() {
    let (_guard, folder) = scratch();
    let base = free_ports(23);
    let start = || {
        let mut command = Command::new(binary());
        command
            .arg("dev")
            .arg(format!("--port-base={base}"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env_clear();
        let mut process = Process::start(&mut command, &folder.join("log")).expect("started");
        process.wait_for_output("Ctrl-C stops it").expect("it welcomes");
        process
    };
    let mut first = start();
    for port in [base, base + 10, base + 20] {
        assert!(first.output().contains(&format!("http://127.0.0.1:{port}")), "{}", first.output());
        serves(port);
    }
    what_it_says_to_try_works(&first.output());
    let cluster = cluster_of(base);
    first.signal("INT").expect("sent");
    assert_eq!(first.wait(STOP_MAX).expect("a stop in bounded time").code(), Some(0));
    let mut second = start();
    assert_eq!(cluster_of(base), cluster, "the same cluster is back");
    second.signal("TERM").expect("sent");
    assert_eq!(second.wait(STOP_MAX).expect("a stop in bounded time").code(), Some(0));
}

#[test]
fn the_log_goes_to_a_file_that_is_rotated() {
    let (_guard, folder) = scratch();
    let log = folder.join("member.log");
    let log_outputs = format!("--log-outputs={}", log.display());
    let rotation = r#"--log-rotation-config-json={"maxsize": 1, "maxbackups": 2}"#;
    let flags = [&log_outputs, "--enable-log-rotation", rotation];
    // One line less than a megabyte is there already.
    std::fs::write(&log, vec![b'x'; 1 << 20]).expect("written");
    let mut cluster = Cluster::plan(binary(), &folder, 1, &flags).expect("a plan");
    cluster.members[0].start().expect("started");
    cluster.members[0].wait_healthy().expect("it serves");
    let names = |folder: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
    };
    let old: Vec<String> = names(&folder).into_iter().filter(|name| name.starts_with("member-2")).collect();
    assert_eq!(old.len(), 1, "{old:?}");
    assert_eq!(std::fs::metadata(folder.join(&old[0])).expect("there").len(), 1 << 20);
    let text = std::fs::read_to_string(&log).expect("readable");
    assert!(text.contains("\"member started\"") && !text.contains("xxxx"), "{text}");
    cluster.terminate().expect("it stops");
}

/// Each line for a protocol is run as it is, with the programs that are there.
fn what_it_says_to_try_works(welcome: &str) {
    let lines = welcome.lines().skip_while(|line| !line.starts_with("Try")).skip(1);
    let lines: Vec<(&str, &str)> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_at(12))
        .map(|(name, command)| (name.trim(), command))
        .collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["etcd 3", "etcd 0.4", "balsa", "quorate"], "{welcome}");
    let path = std::env::var("PATH").unwrap_or_default();
    let own = binary().parent().expect("a folder").display().to_string();
    for (name, command) in lines {
        let sh = |command: &str| {
            Command::new("sh")
                .args(["-c", command])
                .env("PATH", format!("{own}:{path}"))
                .output()
                .expect("a shell")
        };
        if name == "etcd 3" && !sh("command -v etcdctl").status.success() {
            // It stands here for etcdctl, whose lines it understands.
            let put = command.replace("etcdctl", "quorate ctl");
            assert!(sh(&put).status.success(), "{put}");
            continue;
        }
        let ran = sh(command);
        let (told, why) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{command}: {told}{why}");
        let expected = match name {
            "etcd 3" => "OK",
            "etcd 0.4" => "\"value\":\"hello\"",
            "balsa" => "\"key\":\"greeting\"",
            _ => "balsa/greeting\nhello\n",
        };
        assert!(told.contains(expected), "{command}: {told}{why}");
    }
}

/// How far the log has come: it grows over restarts, and starts anew only in a new cluster.
fn cluster_of(base: u16) -> String {
    let (_, page) = http_get(&format!("127.0.0.1:{base}"), "/metrics").expect("metrics");
    page.lines().find(|line| line.starts_with("etcd_server_id")).unwrap_or("no etcd_server_id").to_owned()
}

/// Waits until the member at this port is healthy.
fn serves(port: u16) {
    let addr = format!("127.0.0.1:{port}");
    wait_until("a healthy member", || http_get(&addr, "/health").is_ok_and(|(status, _)| status == 200))
        .expect("it serves");
}
