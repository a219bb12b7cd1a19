//! Who gets in, who does not, and what both sides say.

use quorate_tls::{HandshakeError, Port, Settings, Version, Versions};
use rcgen::{DnType, ExtendedKeyUsagePurpose};
use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test]
async fn both_sides_with_certificates_of_one_ca() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let (server, client) = (ca.plain("server"), ca.plain("client"));
    let settings =
        Settings { trusted_ca_file: Some(ca.file.clone()), client_cert_auth: true, ..serving(&server) };
    let acceptor = acceptor(&settings).expect("usable");
    meet(&acceptor, &connector(&dialling(&ca, Some(&client))).expect("usable")).await.fine();
    for only in [Version::Tls12, Version::Tls13] {
        let settings =
            Settings { versions: Versions { min: only, max: only }, ..dialling(&ca, Some(&client)) };
        meet(&acceptor, &connector(&settings).expect("usable")).await.fine();
    }
}

#[tokio::test]
async fn no_client_certificate_is_needed_where_none_is_demanded() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let acceptor = acceptor(&serving(&ca.plain("server"))).expect("usable");
    meet(&acceptor, &connector(&dialling(&ca, None)).expect("usable")).await.fine();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_demanded() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    // As in etcd, naming a CA is enough to demand.
    for client_cert_auth in [false, true] {
        let settings = Settings {
            trusted_ca_file: Some(ca.file.clone()),
            client_cert_auth,
            ..serving(&ca.plain("server"))
        };
        let demanding = if client_cert_auth { "peer-client-cert-auth" } else { "peer-trusted-ca-file" };
        meet(&acceptor(&settings).expect("usable"), &connector(&dialling(&ca, None)).expect("usable"))
            .await
            .refused(
                &format!("it shows no certificate, and {demanding} demands one"),
                "it demands a certificate",
            );
    }
}

#[tokio::test]
async fn client_certificates_that_are_expired_of_another_ca_or_for_servers_only_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, other) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "other"));
    let settings = Settings { trusted_ca_file: Some(ca.file.clone()), ..serving(&ca.plain("server")) };
    let acceptor = acceptor(&settings).expect("usable");
    let foreign = other.plain("foreign");
    let old = ca.sign("old", expired);
    let one_way =
        ca.sign("one-way", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let ca_file = ca.file.display().to_string();
    for (shown, by_server, by_client) in [
        (&foreign, format!("not signed by a CA in {ca_file}"), foreign.0.display().to_string()),
        (&old, "has expired".to_owned(), format!("{}: expired", old.0.display())),
        (&one_way, "extended key usage".to_owned(), one_way.0.display().to_string()),
    ] {
        let connector = connector(&dialling(&ca, Some(shown))).expect("usable");
        meet(&acceptor, &connector).await.refused(&by_server, &by_client);
    }
}

#[tokio::test]
async fn servers_that_are_expired_of_another_ca_or_of_another_name_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, other) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "other"));
    let elsewhere = ca.sign("elsewhere", |params| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("db.example".to_owned().try_into().expect("a name"))];
    });
    let ca_file = ca.file.display().to_string();
    for (server, by_server, by_client) in [
        (other.plain("foreign"), "does it trust our CA?", format!("not signed by a CA in {ca_file}")),
        (ca.sign("old", expired), "expired", "has expired".to_owned()),
        (elsewhere, "refuses our certificate", "db.example".to_owned()),
    ] {
        let acceptor = acceptor(&serving(&server)).expect("usable");
        meet(&acceptor, &connector(&dialling(&ca, None)).expect("usable"))
            .await
            .refused(by_server, &by_client);
    }
}

#[tokio::test]
async fn only_allowed_names_get_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let (one, two) = (ca.plain("one"), ca.plain("two"));
    let demanding = Settings { trusted_ca_file: Some(ca.file.clone()), ..serving(&one) };
    let by_name = Settings { allowed_common_names: vec!["one".to_owned()], ..demanding.clone() };
    let by_host = Settings { allowed_hostnames: vec!["localhost".to_owned()], ..demanding.clone() };
    let by_other_host = Settings { allowed_hostnames: vec!["db.example".to_owned()], ..demanding };
    let shows = |shown| connector(&dialling(&ca, Some(shown))).expect("usable");
    meet(&acceptor(&by_name).expect("usable"), &shows(&one)).await.fine();
    meet(&acceptor(&by_name).expect("usable"), &shows(&two))
        .await
        .refused("common name [\"two\"] is not among those allowed", "refuses our certificate");
    meet(&acceptor(&by_host).expect("usable"), &shows(&two)).await.fine();
    meet(&acceptor(&by_other_host).expect("usable"), &shows(&two))
        .await
        .refused("none of the host names allowed", "refuses our certificate");
    // The list counts for servers that are dialled as well.
    let picky = Settings { allowed_common_names: vec!["two".to_owned()], ..dialling(&ca, Some(&one)) };
    meet(&acceptor(&serving(&one)).expect("usable"), &connector(&picky).expect("usable"))
        .await
        .refused("refuses our certificate", "is not among those allowed");
}

#[tokio::test]
async fn versions_without_overlap_do_not_meet() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let new_only = Versions { min: Version::Tls13, max: Version::Tls13 };
    let old_only = Versions { min: Version::Tls12, max: Version::Tls12 };
    let acceptor =
        acceptor(&Settings { versions: new_only, ..serving(&ca.plain("server")) }).expect("usable");
    let connector = connector(&Settings { versions: old_only, ..dialling(&ca, None) }).expect("usable");
    meet(&acceptor, &connector).await.refused("no TLS version or cipher", "no TLS version");
}

#[tokio::test]
async fn certificates_made_at_start_encrypt_and_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixtures = folder.path().join("fixtures").join("peer");
    let settings = Settings { auto: true, ..Settings::default() };
    settings.check(Port::Peer).expect("fine");
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut first = None;
    for _ in 0..2 {
        let made = settings.identity(Port::Peer, Some(&fixtures), &hosts).expect("made").expect("one");
        let acceptor = Acceptor::new(Port::Peer, &settings, &made, &[]).expect("usable");
        let anyone = Connector::new(Port::Peer, &settings, Some(&made), &[]).expect("usable");
        meet(&acceptor, &anyone).await.fine();
        // Its certificate is its own CA.
        let trusting = Settings { trusted_ca_file: Some(fixtures.join("cert.pem")), ..Settings::default() };
        meet(&acceptor, &connector(&trusting).expect("usable")).await.fine();
        let cert = std::fs::read(fixtures.join("cert.pem")).expect("kept");
        assert_eq!(*first.get_or_insert(cert.clone()), cert, "the second start has the same certificate");
    }
    // In memory.
    let made = settings.identity(Port::Peer, None, &hosts).expect("made").expect("one");
    let acceptor = Acceptor::new(Port::Peer, &settings, &made, &[]).expect("usable");
    meet(&acceptor, &connector(&settings).expect("usable")).await.fine();
}

#[tokio::test]
async fn an_expired_certificate_of_an_earlier_start_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = Ca::new(folder.path(), "ca").sign("old", expired);
    std::fs::rename(cert, folder.path().join("cert.pem")).expect("moved");
    std::fs::rename(key, folder.path().join("key.pem")).expect("moved");
    let settings = Settings { auto: true, ..Settings::default() };
    let made = settings.identity(Port::Client, Some(folder.path()), &["127.0.0.1".to_owned()]);
    let acceptor = Acceptor::new(Port::Client, &settings, &made.expect("made").expect("one"), &[]);
    let trusting = Settings { trusted_ca_file: Some(folder.path().join("cert.pem")), ..Settings::default() };
    meet(&acceptor.expect("usable"), &connector(&trusting).expect("usable")).await.fine();
}

#[tokio::test]
async fn silence_plain_text_and_a_closed_connection_end_the_handshake() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let acceptor = acceptor(&serving(&ca.plain("server"))).expect("usable");
    let brief = Duration::from_millis(20);
    let (_silent, theirs) = tokio::io::duplex(1024);
    assert!(matches!(acceptor.accept(theirs, brief).await, Err(HandshakeError::Timeout(_))));
    let (mut plain, theirs) = tokio::io::duplex(1024);
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let error = acceptor.accept(theirs, PATIENCE).await.expect_err("no TLS");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    let (closed, theirs) = tokio::io::duplex(1024);
    drop(closed);
    assert!(matches!(acceptor.accept(theirs, PATIENCE).await, Err(HandshakeError::Closed)));

    let connector = connector(&dialling(&ca, None)).expect("usable");
    let (ours, _silent) = tokio::io::duplex(1024);
    let error = connector.connect("localhost", ours, brief).await.expect_err("no answer");
    assert!(matches!(error, HandshakeError::Timeout(_)));
    let (ours, _theirs) = tokio::io::duplex(1024);
    let error = connector.connect("no host", ours, brief).await.expect_err("no name");
    assert!(error.to_string().contains("no host name"), "{error}");
}

#[test]
fn common_names_of_a_certificate_do_not_leak_into_others() {
    // A certificate without a common name matches no list.
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let nameless = ca.sign("nameless", |params| {
        params.distinguished_name.remove(DnType::CommonName);
    });
    let server = ca.plain("server");
    let settings = Settings {
        trusted_ca_file: Some(ca.file.clone()),
        allowed_common_names: vec!["nameless".to_owned()],
        ..serving(&server)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let connector = connector(&dialling(&ca, Some(&nameless))).expect("usable");
    runtime
        .block_on(meet(&acceptor(&settings).expect("usable"), &connector))
        .refused("common name [] is not among those allowed", "refuses our certificate");
}
