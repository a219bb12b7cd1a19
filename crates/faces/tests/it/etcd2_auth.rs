//! Users, roles and who may do what, as clients of 2.x see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_faces::etcd2::{Config, Dialect};

use super::etcd2::{Answered, Machine, roles, send, three_of, until};

/// `Authorization` of a few users, whose passwords are their names.
const ROOT: &str = "Basic cm9vdDpyb290";
const ALICE: &str = "Basic YWxpY2U6YWxpY2U=";
const WRONG: &str = "Basic cm9vdDp3cm9uZw==";

async fn ask(addr: SocketAddr, who: &str, method: &str, path: &str, body: &str) -> Answered {
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    let authorization = if who.is_empty() { String::new() } else { format!("Authorization: {who}\r\n") };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{authorization}Content-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send(addr, &request).await
}

async fn expect(addr: SocketAddr, who: &str, method: &str, path: &str, body: &str, status: u16, said: &str) {
    let answered = ask(addr, who, method, path, body).await;
    let got = (answered.status, answered.body.trim_end());
    assert_eq!(got, (status, said), "{who} {method} {path} {body}");
}

const INSUFFICIENT: &str = r#"{"message":"Insufficient credentials"}"#;
const KEY_INSUFFICIENT: &str = r#"{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}"#;

#[tokio::test]
async fn users_and_roles_are_made_changed_shown_and_removed() {
    let machine = Machine::of(Dialect::V2).await;
    for (method, path, body, status, said) in [
        ("GET", "enable", "", 200, r#"{"enabled":false}"#),
        ("GET", "users", "", 200, r#"{"users":null}"#),
        (
            "GET",
            "roles",
            "",
            200,
            r#"{"roles":[{"role":"root","permissions":{"kv":{"read":["/*"],"write":["/*"]}}}]}"#,
        ),
        ("PUT", "enable", "", 409, r#"{"message":"auth: No root user available, please create one"}"#),
        ("DELETE", "enable", "", 409, r#"{"message":"auth: already disabled"}"#),
        ("PUT", "users/alice", "{", 400, r#"{"message":"Invalid JSON in request body."}"#),
        (
            "PUT",
            "users/alice",
            r#"{"user":"bob"}"#,
            400,
            r#"{"message":"User JSON name does not match the name in the URL"}"#,
        ),
        (
            "PUT",
            "users/alice",
            r#"{"user":"alice"}"#,
            400,
            r#"{"message":"auth: Cannot create user alice with an empty password"}"#,
        ),
        (
            "PUT",
            "users/alice",
            r#"{"user":"alice","password":"alice"}"#,
            201,
            r#"{"user":"alice","roles":null}"#,
        ),
        ("PUT", "users/alice", r#"{"user":"alice","grant":["r"]}"#, 200, r#"{"user":"alice","roles":["r"]}"#),
        ("GET", "users/alice", "", 404, r#"{"message":"auth: Role r does not exist."}"#),
        ("GET", "users", "", 200, r#"{"users":[{"user":"alice"}]}"#),
        (
            "PUT",
            "roles/r",
            r#"{"role":"r","permissions":{"kv":{"read":["/a/*"]}}}"#,
            201,
            r#"{"role":"r","permissions":{"kv":{"read":["/a/*"],"write":null}}}"#,
        ),
        (
            "PUT",
            "roles/r",
            r#"{"role":"r","grant":{"kv":{"write":["/a/w"]}}}"#,
            200,
            r#"{"role":"r","permissions":{"kv":{"read":["/a/*"],"write":["/a/w"]}}}"#,
        ),
        (
            "GET",
            "users/alice",
            "",
            200,
            r#"{"user":"alice","roles":[{"role":"r","permissions":{"kv":{"read":["/a/*"],"write":["/a/w"]}}}]}"#,
        ),
        (
            "PUT",
            "roles/root",
            r#"{"role":"root"}"#,
            403,
            r#"{"message":"auth: Cannot modify role root: is root role."}"#,
        ),
        ("DELETE", "roles/r", "", 200, ""),
        ("DELETE", "roles/r", "", 404, r#"{"message":"auth: Role r doesn't exist."}"#),
        ("DELETE", "users/alice", "", 200, ""),
        ("DELETE", "users/alice", "", 404, r#"{"message":"auth: User alice does not exist"}"#),
        ("GET", "users/a/b", "", 400, r#"{"message":"Invalid path"}"#),
        ("POST", "users/a", "", 405, "Method Not Allowed"),
        ("PUT", "users", "", 405, "Method Not Allowed"),
        ("GET", "none", "", 404, "404 page not found"),
    ] {
        expect(machine.addr, "", method, &format!("/v2/auth/{path}"), body, status, said).await;
    }
    let long = format!(r#"{{"user":"u","password":"{}"}}"#, "p".repeat(73));
    let refused = ask(machine.addr, "", "PUT", "/v2/auth/users/u", &long).await;
    assert_eq!((refused.status, refused.body.contains("at most 72 count")), (400, true), "{}", refused.body);
    let huge = format!(r#"{{"user":"u","password":"{}"}}"#, "p".repeat(2 << 20));
    assert_eq!(ask(machine.addr, "", "PUT", "/v2/auth/users/u", &huge).await.status, 413);
    let keys = ask(machine.addr, "", "GET", "/v2/keys/", "").await;
    assert_eq!(keys.header("X-Etcd-Index"), Some("0"), "none of this took an index or made a key");
    assert!(!keys.body.contains("nodes"), "{}", keys.body);
}

async fn guarded(addr: SocketAddr) {
    for (path, body) in [
        ("users/root", r#"{"user":"root","password":"root"}"#),
        ("users/alice", r#"{"user":"alice","password":"alice"}"#),
        ("users/alice", r#"{"user":"alice","grant":["r"]}"#),
        ("roles/r", r#"{"role":"r","permissions":{"kv":{"read":["/a*"],"write":["/a/w"]}}}"#),
        ("roles/guest", r#"{"role":"guest","permissions":{"kv":{"read":["/open"]}}}"#),
    ] {
        let answered = ask(addr, "", "PUT", &format!("/v2/auth/{path}"), body).await;
        assert!(answered.status < 300, "{path}: {}", answered.body);
    }
    expect(addr, "", "PUT", "/v2/auth/enable", "", 200, "").await;
}

#[tokio::test]
async fn what_a_client_may_do_is_what_its_roles_allow() {
    let machine = Machine::of(Dialect::V2).await;
    guarded(machine.addr).await;
    let statuses = [
        // The right to everything.
        (ROOT, "PUT", "/v2/keys/a/w", "value=1", 201),
        (ROOT, "PUT", "/v2/keys/open", "value=1", 201),
        (WRONG, "GET", "/v2/keys/open", "", 401),
        ("Basic !", "GET", "/v2/keys/open", "", 401),
        ("Bearer x", "GET", "/v2/keys/open", "", 401),
        // A role of its own.
        (ALICE, "GET", "/v2/keys/a/w", "", 200),
        (ALICE, "GET", "/v2/keys/a?recursive=true", "", 200),
        (ALICE, "GET", "/v2/keys/a/w?quorum=true", "", 200),
        (ALICE, "GET", "/v2/keys/open", "", 401),
        (ALICE, "GET", "/v2/keys/a/../open", "", 401),
        (ALICE, "GET", "/v2/keys/%61/w", "", 200),
        (ALICE, "PUT", "/v2/keys/a/w", "value=2", 200),
        (ALICE, "PUT", "/v2/keys/a/x", "value=2", 401),
        (ALICE, "POST", "/v2/keys/a", "value=2", 401),
        (ALICE, "DELETE", "/v2/keys/a?recursive=true", "", 401),
        (ALICE, "DELETE", "/v2/keys/a/w?recursive=true", "", 401),
        (ALICE, "DELETE", "/v2/keys/a/w", "", 200),
        // Guests.
        ("", "GET", "/v2/keys/open", "", 200),
        ("", "HEAD", "/v2/keys/open", "", 200),
        ("", "GET", "/v2/keys/", "", 401),
        ("", "GET", "/v2/keys/a?wait=true", "", 401),
        ("", "PUT", "/v2/keys/open", "value=1", 401),
        // Beside the keys.
        (ALICE, "GET", "/v2/auth/users", "", 401),
        (ALICE, "PUT", "/v2/auth/users/alice", r#"{"user":"alice","grant":["root"]}"#, 401),
        ("", "DELETE", "/v2/auth/enable", "", 401),
        ("", "GET", "/v2/auth/enable", "", 200),
        (ALICE, "POST", "/v2/members", r#"{"peerURLs":["http://127.0.0.1:1"]}"#, 401),
        ("", "DELETE", "/v2/members/12", "", 401),
        (ROOT, "DELETE", "/v2/members/12", "", 404),
        ("", "GET", "/v2/members", "", 200),
        ("", "GET", "/v2/stats/self", "", 200),
        ("", "GET", "/v2/machines", "", 200),
        (ROOT, "DELETE", "/v2/auth/users/root", "", 403),
    ];
    for (who, method, path, body, status) in statuses {
        let answered = ask(machine.addr, who, method, path, body).await;
        assert_eq!(answered.status, status, "{who} {method} {path} {body}: {}", answered.body);
    }
    expect(machine.addr, "", "PUT", "/v2/keys/open", "value=1", 401, KEY_INSUFFICIENT).await;
    expect(machine.addr, "", "GET", "/v2/auth/roles", "", 401, INSUFFICIENT).await;
    expect(machine.addr, ROOT, "DELETE", "/v2/auth/enable", "", 200, "").await;
    assert_eq!(
        ask(machine.addr, WRONG, "PUT", "/v2/keys/open", "value=1").await.status,
        200,
        "nobody is asked"
    );
}

#[tokio::test]
async fn a_changed_password_and_a_revoked_role_count_at_once() {
    let machine = Machine::of(Dialect::V2).await;
    let addr = machine.addr;
    guarded(addr).await;
    let reads = async |who| ask(addr, who, "GET", "/v2/keys/a?recursive=true", "").await.status;
    assert_eq!(reads(ALICE).await, 404, "allowed, but not there");
    assert_eq!(reads(ALICE).await, 404, "the second time, too");
    let password = r#"{"user":"alice","password":"other"}"#;
    assert_eq!(ask(addr, ROOT, "PUT", "/v2/auth/users/alice", password).await.status, 200);
    assert_eq!(reads(ALICE).await, 401);
    // alice:other
    let anew = "Basic YWxpY2U6b3RoZXI=";
    assert_eq!(reads(anew).await, 404);
    let revoke = r#"{"user":"alice","revoke":["r"]}"#;
    assert_eq!(ask(addr, ROOT, "PUT", "/v2/auth/users/alice", revoke).await.status, 200);
    assert_eq!(reads(anew).await, 401);
}

#[tokio::test]
async fn a_port_of_0_4_beside_is_no_way_around_users() {
    let machine = Machine::of(Dialect::V2).await;
    guarded(machine.addr).await;
    let beside = machine.beside(Config::new(Dialect::V04, "machine1"));
    let addr = beside.addrs()[0];
    for (who, method, path, body, status) in [
        ("", "PUT", "/v2/keys/a/w", "value=1", 401),
        ("", "POST", "/v1/keys/a/w", "value=1", 401),
        ("", "POST", "/mod/v2/lock/x", "ttl=5", 401),
        ("", "GET", "/v2/speedTest", "", 401),
        (ALICE, "PUT", "/v2/keys/a/w", "value=1", 201),
        (ALICE, "POST", "/v1/keys/a/w", "value=1", 401),
        (ROOT, "POST", "/v1/keys/a/w", "value=1", 200),
        ("", "GET", "/v2/machines", "", 200),
    ] {
        let answered = ask(addr, who, method, path, body).await;
        assert_eq!(answered.status, status, "{who} {method} {path} {body}: {}", answered.body);
    }
    beside.stop();
}

#[tokio::test]
async fn no_write_of_a_guest_takes_effect_once_authentication_is_on() {
    let machines = three_of(|name| Config::new(Dialect::V2, name)).await;
    let (leader, follower) = roles(&machines).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for (number, machine) in machines.iter().enumerate() {
        let (addr, stop, acknowledged) = (machine.addr, Arc::clone(&stop), Arc::clone(&acknowledged));
        writers.spawn(async move {
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) {
                match ask(addr, "", "PUT", &format!("/v2/keys/open/{number}"), "value=1").await.status {
                    200 | 201 => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
                    401 => refused += 1,
                    other => panic!("a write came to {other}"),
                }
            }
            refused
        });
    }
    until("some writes", async || acknowledged.load(Ordering::Relaxed) > 30).await;
    guarded(machines[follower].addr).await;
    // A user that was made through one member is known to each that is asked after that.
    let index = async |machine: &Machine| {
        let read = ask(machine.addr, ROOT, "GET", "/v2/keys/open?quorum=true", "").await;
        assert_eq!(read.status, 200, "{}", read.body);
        read.header("X-Etcd-Index").expect("an index").to_owned()
    };
    let before = index(&machines[leader]).await;
    let counted = acknowledged.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    while let Some(refused) = writers.join_next().await {
        refused.expect("a writer that saw what it may");
    }
    for machine in &machines {
        assert_eq!(index(machine).await, before, "nothing was written after authentication was on");
    }
    let after = acknowledged.load(Ordering::Relaxed);
    assert!(after - counted <= 3, "at most what each writer had been told already: {counted} {after}");
    let guest = ask(machines[leader].addr, "", "PUT", "/v2/keys/open/x", "value=1").await;
    assert_eq!(guest.status, 401, "{}", guest.body);
}
