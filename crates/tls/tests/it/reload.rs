//! Files that change while a member runs.

use std::time::Instant;

use super::*;

/// Connects again and again until `done`; a reload shows within a second.
async fn until(acceptor: &Acceptor, connector: &Connector, what: &str, done: impl Fn(&Outcome) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = meet(acceptor, connector).await;
        if done(&outcome) {
            return;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; {outcome:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_fine(outcome: &Outcome) -> bool {
    outcome.server.is_ok() && outcome.client.is_ok()
}

#[tokio::test]
async fn an_expired_certificate_is_replaced_while_the_port_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let acceptor = acceptor(&serving(&ca.sign("server", expired))).expect("an expired one starts");
    let connector = connector(&dialling(&ca, None)).expect("usable");
    meet(&acceptor, &connector).await.refused("expired", "has expired");
    ca.plain("server");
    until(&acceptor, &connector, "the new certificate is served", is_fine).await;
}

#[tokio::test]
async fn a_new_ca_file_counts_on_both_sides_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, next) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "next"));
    let (server, client) = (ca.plain("server"), ca.plain("client"));
    let settings = Settings { trusted_ca_file: Some(ca.file.clone()), ..serving(&server) };
    let acceptor = acceptor(&settings).expect("usable");
    let connector = connector(&dialling(&ca, Some(&client))).expect("usable");
    meet(&acceptor, &connector).await.fine();
    // All three change: the CA, and what it has signed.
    std::fs::copy(&next.file, &ca.file).expect("copied");
    next.plain("server");
    next.plain("client");
    until(&acceptor, &connector, "the new CA is trusted", is_fine).await;
}

#[tokio::test]
async fn broken_files_change_nothing_until_they_are_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, next) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "next"));
    let server = ca.plain("server");
    let acceptor = acceptor(&serving(&server)).expect("usable");
    let old = connector(&dialling(&ca, None)).expect("usable");
    let new = connector(&dialling(&next, None)).expect("usable");
    std::fs::write(&server.0, b"half a certifi").expect("written");
    // Longer than the time between two looks: the broken file is seen, and what was read before goes on.
    let looked = Instant::now() + quorate_tls::LOOK_INTERVAL + Duration::from_millis(200);
    while Instant::now() < looked {
        meet(&acceptor, &old).await.fine();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A certificate whose key has not arrived yet: the same.
    let (cert, key) = next.plain("replacement");
    std::fs::copy(cert, &server.0).expect("copied");
    let looked = Instant::now() + quorate_tls::LOOK_INTERVAL + Duration::from_millis(200);
    while Instant::now() < looked {
        meet(&acceptor, &old).await.fine();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::copy(key, &server.1).expect("copied");
    until(&acceptor, &new, "the pair is complete", is_fine).await;
}
