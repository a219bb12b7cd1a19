//! TLS on both ports of real processes: who gets in, what is said to the others, certificates replaced as they run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_interop::{Ca, Cluster, Member, WAIT_MAX, wait_until};
use quorate_tls::{Connector, Port, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{binary, quorate, scratch};

const PATIENCE: Duration = Duration::from_secs(10);

/// The flags that put `https://` in front of a member's addresses.
fn https(cluster: &Cluster, number: usize) -> Vec<String> {
    cluster.members[number].https(&cluster.members)
}

/// The flags of a port that serves a certificate and demands one.
fn demanding(prefix: &str, ca: &Ca, (cert, key): &(PathBuf, PathBuf)) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    vec![
        format!("--{prefix}cert-file={}", path(cert)),
        format!("--{prefix}key-file={}", path(key)),
        format!("--{prefix}trusted-ca-file={}", path(&ca.file)),
        format!("--{prefix}client-cert-auth"),
    ]
}

fn start(member: &mut Member, flags: &[String]) {
    member.start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).expect("started");
}

fn say(member: &mut Member, text: &str) {
    member.process().wait_for_output(text).expect("it says so");
}

/// `GET /health` over TLS: the answer, or why there is none.
fn health(addr: &str, ca: &Path, shown: Option<&(PathBuf, PathBuf)>) -> Result<String, String> {
    get(addr, "/health", ca, shown)
}

/// A GET over TLS: the answer, or why there is none.
pub fn get(addr: &str, path: &str, ca: &Path, shown: Option<&(PathBuf, PathBuf)>) -> Result<String, String> {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), ca, shown)
}

/// A request over TLS, sent as it is: the answer, or why there is none.
fn ask(addr: &str, request: &str, ca: &Path, shown: Option<&(PathBuf, PathBuf)>) -> Result<String, String> {
    let settings = Settings {
        cert_file: shown.map(|(cert, _)| cert.clone()),
        key_file: shown.map(|(_, key)| key.clone()),
        trusted_ca_file: Some(ca.to_owned()),
        ..Settings::default()
    };
    let identity = settings.identity(Port::Client, None, &[]).expect("an identity");
    let tls = Connector::new(Port::Client, &settings, identity.as_ref(), &[b"http/1.1"]).expect("usable");
    let addr: SocketAddr = addr.parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
        let mut stream =
            tls.connect("127.0.0.1", stream, PATIENCE).await.map_err(|error| error.to_string())?;
        let explain = |error: std::io::Error| tls.explain(&error).unwrap_or_else(|| error.to_string());
        stream.write_all(request.as_bytes()).await.map_err(explain)?;
        stream.flush().await.map_err(explain)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(explain)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
}

#[test]
fn members_demand_certificates_of_clients_and_peers_and_take_new_ones_as_they_run() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::plan(binary(), &folder, 3, &[]).expect("a plan");
    let (ca, other) = (Ca::new(&folder, "ca"), Ca::new(&folder, "other"));
    let server = ca.sign(&folder, "server");
    let foreign = other.sign(&folder, "m3-peer");
    for number in 0..3 {
        let mut flags = https(&cluster, number);
        flags.extend(demanding("", &ca, &server));
        flags.extend(demanding("peer-", &ca, if number == 2 { &foreign } else { &server }));
        start(&mut cluster.members[number], &flags);
    }
    let [first, second, third] = &mut cluster.members[..] else { panic!("three members") };
    first.wait_ready().expect("two of three are enough");
    second.wait_ready().expect("two of three are enough");
    say(first, "its certificate was not signed by a CA in");
    say(third, "it refuses our certificate");

    // The third gets a certificate of the right CA, without a restart.
    ca.sign(&folder, "m3-peer");
    third.wait_ready().expect("its new certificate is taken");

    let client = ca.sign(&folder, "client");
    for member in [first, second, third] {
        let answer = health(&member.client, &ca.file, Some(&client)).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let addr = cluster.members[0].client.clone();
    let refused = health(&addr, &ca.file, None).expect_err("no certificate");
    assert!(refused.contains("it demands a certificate"), "{refused}");
    say(&mut cluster.members[0], "it shows no certificate, and client-cert-auth demands one");
    let stranger = other.sign(&folder, "stranger");
    let refused = health(&addr, &ca.file, Some(&stranger)).expect_err("a stranger");
    assert!(refused.contains("it refuses our certificate"), "{refused}");
    let refused = health(&addr, &other.file, Some(&client)).expect_err("a server of another CA");
    assert!(refused.contains("was not signed by a CA in"), "{refused}");
    let (status, text) = quorate_interop::http_get(&addr, "/health").expect("an answer");
    assert_eq!((status, text.as_str()), (400, "this port has TLS: use https://\n"));
    say(&mut cluster.members[0], "closed a connection that speaks plain text");
    cluster.terminate().expect("a clean stop");
}

#[test]
fn a_member_with_tls_and_a_plain_one_both_say_what_is_wrong() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::plan(binary(), &folder, 2, &[]).expect("a plan");
    let ca = Ca::new(&folder, "ca");
    let mut flags = https(&cluster, 0);
    flags.extend(demanding("", &ca, &ca.sign(&folder, "server")));
    flags.extend(demanding("peer-", &ca, &ca.sign(&folder, "peer")));
    start(&mut cluster.members[0], &flags);
    cluster.members[1].start().expect("started");
    say(&mut cluster.members[0], "it speaks plain text, and this member's peer port has TLS");
    say(&mut cluster.members[0], "perhaps it speaks plain text");
    say(&mut cluster.members[1], "it speaks TLS, and this member's peer port is plain text");
    say(&mut cluster.members[1], "refused by the peer: this member's peer port has TLS");
}

#[test]
fn certificates_made_at_start_serve_and_are_found_again() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::plan(binary(), &folder, 3, &[]).expect("a plan");
    let flags: Vec<Vec<String>> = (0..3)
        .map(|number| {
            let mut flags = https(&cluster, number);
            flags.extend(["--auto-tls".to_owned(), "--peer-auto-tls".to_owned()]);
            flags
        })
        .collect();
    for (member, flags) in cluster.members.iter_mut().zip(&flags) {
        start(member, flags);
    }
    for member in &mut cluster.members {
        member.wait_ready().expect("ready");
    }
    let member = &mut cluster.members[0];
    let cert = member.data_dir.join("fixtures").join("client").join("cert.pem");
    let made = std::fs::read(&cert).expect("made");
    assert!(health(&member.client, &cert, None).expect("an answer").starts_with("HTTP/1.1 200"));
    member.terminate(WAIT_MAX).expect("stopped");
    start(member, &flags[0]);
    member.wait_ready().expect("ready again");
    assert_eq!(std::fs::read(&cert).expect("kept"), made);
    assert!(health(&member.client, &cert, None).expect("an answer").starts_with("HTTP/1.1 200"));
}

#[test]
fn settings_that_cannot_work_end_the_start_and_are_named() {
    let (_guard, folder) = scratch();
    let ca = Ca::new(&folder, "ca");
    let (one, two) = (ca.sign(&folder, "one"), ca.sign(&folder, "two"));
    let path = |path: &Path| path.display().to_string();
    let urls = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"];
    for (flags, expected) in [
        (
            vec![],
            "listen-client-urls: https://127.0.0.1:1 needs a certificate: give cert-file and key-file"
                .to_owned(),
        ),
        (vec![format!("--cert-file={}", path(&one.0))], "cert-file is given without key-file".to_owned()),
        (
            vec![format!("--cert-file={}", path(&one.0)), format!("--key-file={}", path(&two.1))],
            format!("{}: this key does not belong to the certificate in {}", path(&two.1), path(&one.0)),
        ),
        (
            vec!["--cert-file=/no/such/file".to_owned(), format!("--key-file={}", path(&two.1))],
            "cert-file: cannot read /no/such/file".to_owned(),
        ),
        (
            vec!["--auto-tls".to_owned(), format!("--client-crl-file={}", path(&ca.file))],
            "client-crl-file needs trusted-ca-file".to_owned(),
        ),
        (
            vec!["--auto-tls".to_owned(), "--cipher-suites=TLS_RSA_WITH_RC4_128_SHA".to_owned()],
            "cipher-suites: \"TLS_RSA_WITH_RC4_128_SHA\" is none that is known here".to_owned(),
        ),
        (
            vec!["--auto-tls".to_owned(), "--tls-min-version=TLS1.1".to_owned()],
            "tls-min-version: \"TLS1.1\" is no TLS version".to_owned(),
        ),
    ] {
        let mut arguments = vec!["server"];
        arguments.extend(urls);
        arguments.extend(flags.iter().map(String::as_str));
        let output = quorate(&arguments, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn ctl_shows_its_certificate_and_checks_the_members() {
    let (_guard, folder) = scratch();
    let ca = Ca::new(&folder, "ca");
    let server = ca.sign(&folder, "server");
    let (cert, key) = ca.sign(&folder, "client");
    let stranger = Ca::new(&folder, "other-ca");
    let mut cluster = Cluster::plan(binary(), &folder, 1, &[]).expect("a plan");
    let mut flags = https(&cluster, 0);
    flags.extend(demanding("", &ca, &server));
    flags.extend(demanding("peer-", &ca, &server));
    start(&mut cluster.members[0], &flags);
    cluster.members[0].wait_ready().expect("ready");
    let endpoint = format!("https://{}", cluster.members[0].client);
    let text = |path: &Path| path.display().to_string();
    let ctl = |ca: &Path, more: &[&str]| {
        let mut arguments = vec!["ctl", "put", "k", "v", "--command-timeout=2s", "--endpoints", &endpoint];
        let ca = format!("--cacert={}", text(ca));
        arguments.push(&ca);
        arguments.extend(more);
        quorate(&arguments, &[])
    };
    let certificate = [format!("--cert={}", text(&cert)), format!("--key={}", text(&key))];
    let certificate = certificate.each_ref().map(String::as_str);
    let good = ctl(&ca.file, &certificate);
    assert_eq!(String::from_utf8_lossy(&good.stdout), "OK\n", "{good:?}");
    let variables = [
        ("ETCDCTL_ENDPOINTS", endpoint.clone()),
        ("ETCDCTL_CACERT", text(&ca.file)),
        ("ETCDCTL_CERT", text(&cert)),
        ("ETCDCTL_KEY", text(&key)),
    ];
    let variables = variables.each_ref().map(|(name, text)| (*name, text.as_str()));
    assert_eq!(quorate(&["ctl", "get", "k"], &variables).stdout, b"k\nv\n");
    let info = quorate(&["cluster", "info"], &variables);
    assert!(String::from_utf8_lossy(&info.stdout).contains("serving"), "{info:?}");
    for (ca, certificate, why) in [
        (
            &ca.file,
            &[][..],
            "the member refuses our certificate: connection error: received fatal alert: CertificateRequired",
        ),
        (&stranger.file, &certificate[..], "TLS: invalid peer certificate: UnknownIssuer"),
    ] {
        let bad = ctl(ca, certificate);
        assert_eq!(bad.status.code(), Some(1), "{bad:?}");
        assert!(String::from_utf8_lossy(&bad.stderr).contains(why), "{bad:?}");
    }
}

#[test]
fn a_client_whose_certificate_was_revoked_is_refused_as_the_list_grows() {
    const SERIAL: u64 = 4711;
    let (_guard, folder) = scratch();
    let ca = Ca::new(&folder, "ca");
    let server = ca.sign(&folder, "server");
    let (cert, key) = ca.sign_numbered(&folder, "client", Some(SERIAL));
    let crl = folder.join("crl.pem");
    ca.revoke(&crl, &[1]);
    let mut cluster = Cluster::plan(binary(), &folder, 1, &[]).expect("a plan");
    let mut flags = https(&cluster, 0);
    flags.extend(demanding("", &ca, &server));
    flags.extend(demanding("peer-", &ca, &server));
    flags.push(format!("--client-crl-file={}", crl.display()));
    flags.push("--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".to_owned());
    start(&mut cluster.members[0], &flags);
    cluster.members[0].wait_ready().expect("ready");
    let text = |path: &Path| path.display().to_string();
    let variables = [
        ("QUORATE_ENDPOINTS", format!("https://{}", cluster.members[0].client)),
        ("QUORATE_CACERT", text(&ca.file)),
        ("QUORATE_CERT", text(&cert)),
        ("QUORATE_KEY", text(&key)),
        ("QUORATE_COMMAND_TIMEOUT", "2s".to_owned()),
    ];
    let variables = variables.each_ref().map(|(name, text)| (*name, text.as_str()));
    let put = || quorate(&["ctl", "put", "k", "v"], &variables);
    assert_eq!(put().stdout, b"OK\n");
    ca.revoke(&crl, &[1, SERIAL]);
    let mut refused = put();
    wait_until("the list is read again", || {
        refused = put();
        !refused.status.success()
    })
    .expect("it is");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("CertificateRevoked"), "{refused:?}");
    say(&mut cluster.members[0], "it has been revoked");
}

#[test]
fn a_peer_that_dials_from_elsewhere_or_with_an_expired_certificate_is_refused_until_it_has_a_good_one() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::plan(binary(), &folder, 3, &[]).expect("a plan");
    let ca = Ca::new(&folder, "ca");
    let server = ca.sign(&folder, "server");
    // The third serves with a good certificate, and shows this one where it dials.
    let (cert, key) = ca.sign_for(&folder, "dials", "192.0.2.7");
    for number in 0..3 {
        let mut flags = https(&cluster, number);
        flags.extend(demanding("", &ca, &server));
        flags.extend(demanding("peer-", &ca, &server));
        if number == 2 {
            flags.push(format!("--peer-client-cert-file={}", cert.display()));
            flags.push(format!("--peer-client-key-file={}", key.display()));
        }
        start(&mut cluster.members[number], &flags);
    }
    let [first, second, third] = &mut cluster.members[..] else { panic!("three members") };
    first.wait_ready().expect("two of three are enough");
    second.wait_ready().expect("two of three are enough");
    let elsewhere = "its certificate is for 192.0.2.7, and it comes from 127.0.0.1: give it a certificate";
    say(first, &format!("refused: {elsewhere}"));
    say(third, &format!("refused by the peer: {elsewhere}"));
    ca.sign_expired(&folder, "dials");
    say(first, "its certificate has expired");
    say(third, "expired, or a clock is wrong");
    ca.sign(&folder, "dials");
    third.wait_ready().expect("its new certificate is taken");
}

#[test]
fn the_addresses_of_peers_are_not_compared_where_that_is_turned_off() {
    let (_guard, folder) = scratch();
    let mut cluster = Cluster::plan(binary(), &folder, 2, &[]).expect("a plan");
    let ca = Ca::new(&folder, "ca");
    let server = ca.sign(&folder, "server");
    let (cert, key) = ca.sign_for(&folder, "dials", "192.0.2.7");
    for number in 0..2 {
        let mut flags = https(&cluster, number);
        flags.extend(demanding("", &ca, &server));
        flags.extend(demanding("peer-", &ca, &server));
        flags.push(format!("--peer-client-cert-file={}", cert.display()));
        flags.push(format!("--peer-client-key-file={}", key.display()));
        flags.push("--peer-skip-client-san-verification".to_owned());
        start(&mut cluster.members[number], &flags);
    }
    for member in &mut cluster.members {
        member.wait_ready().expect("both are let in");
    }
}

#[test]
fn clients_and_members_whose_certificates_are_expired_or_for_another_host_are_told() {
    let (_guard, folder) = scratch();
    let ca = Ca::new(&folder, "ca");
    let server = ca.sign(&folder, "server");
    let mut cluster =
        Cluster::plan(binary(), &folder, 1, &["--client-cert-allowed-hostname=127.0.0.1"]).expect("a plan");
    let mut flags = https(&cluster, 0);
    flags.extend(demanding("", &ca, &server));
    flags.extend(demanding("peer-", &ca, &server));
    start(&mut cluster.members[0], &flags);
    let member = &mut cluster.members[0];
    member.wait_ready().expect("ready");
    let good = ca.sign(&folder, "client");
    health(&member.client, &ca.file, Some(&good)).expect("let in");
    let expired = ca.sign_expired(&folder, "expired");
    let refused = health(&member.client, &ca.file, Some(&expired)).expect_err("expired");
    assert!(refused.contains("expired, or a clock is wrong"), "{refused}");
    say(member, "its certificate has expired");
    let elsewhere = ca.sign_for(&folder, "elsewhere", "db.example");
    let refused = health(&member.client, &ca.file, Some(&elsewhere)).expect_err("another host");
    assert!(refused.contains("it refuses our certificate"), "{refused}");
    say(member, "it is for none of the host names allowed");

    // The member's own certificate turns bad as it runs: clients see which it is.
    for (name, expected) in
        [("expired", "its certificate has expired"), ("elsewhere", "its certificate is refused")]
    {
        match name {
            "expired" => ca.sign_expired(&folder, "server"),
            _ => ca.sign_for(&folder, "server", "db.example"),
        };
        let mut told = String::new();
        let seen = wait_until("the new certificate is shown", || {
            told = health(&member.client, &ca.file, Some(&good)).err().unwrap_or_default();
            told.contains(expected)
        });
        assert!(seen.is_ok(), "{name}: {told}");
    }
}

#[test]
fn a_user_of_the_v2_api_is_who_the_certificate_names() {
    let (_guard, folder) = scratch();
    let ca = Ca::new(&folder, "ca");
    let [server, root, alice, nobody] = ["m0", "root", "alice", "nobody"].map(|name| ca.sign(&folder, name));
    let mut cluster = Cluster::plan(binary(), &folder, 1, &["--enable-v2"]).expect("a plan");
    let flags = [https(&cluster, 0), demanding("", &ca, &server), demanding("peer-", &ca, &server)].concat();
    start(&mut cluster.members[0], &flags);
    say(&mut cluster.members[0], "ready to serve client requests");
    let addr = cluster.members[0].client.clone();
    let put = |who: &(PathBuf, PathBuf), path: &str, body: &str| {
        let kind =
            if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
        let request = format!(
            "PUT /v2/{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(&addr, &request, &ca.file, Some(who)).expect("an answer");
        answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).expect("a status")
    };
    assert_eq!(put(&nobody, "auth/users/root", r#"{"user":"root","password":"a"}"#), 201);
    let role = r#"{"role":"r","permissions":{"kv":{"read":["/r/*"],"write":["/r/*"]}}}"#;
    assert_eq!(put(&nobody, "auth/roles/r", role), 201);
    let user = r#"{"user":"alice","password":"b","roles":["r"]}"#;
    // As in etcd, which takes the roles of a new user for a change of it.
    assert_eq!(put(&nobody, "auth/users/alice", user), 200);
    assert_eq!(put(&nobody, "auth/enable", ""), 200);
    let guest = r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#;
    assert_eq!(put(&alice, "auth/roles/guest", guest), 401, "she is not root");
    assert_eq!(put(&root, "auth/roles/guest", guest), 200);
    assert_eq!(put(&alice, "keys/r/a", "value=1"), 201);
    assert_eq!(put(&alice, "keys/other", "value=1"), 401);
    assert_eq!(put(&nobody, "keys/r/a", "value=2"), 401);
    assert_eq!(put(&root, "keys/other", "value=1"), 201);
}
