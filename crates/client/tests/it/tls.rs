//! The client over TLS, with certificates on both sides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::{Config, Server, TlsSettings};
use quorate_client::{Client, ClientTls, Error, ErrorKind, Outcome, WatchOptions};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Ca {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).expect("signed").pem()).expect("written");
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Writes a certificate for a name, and its key, to these files.
    fn sign(&self, name: &str, certificate: &Path, key_file: &Path) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(certificate, signed.pem()).expect("written");
        std::fs::write(key_file, key.serialize_pem()).expect("written");
    }
}

/// A member that demands certificates of a CA, the CA, and a folder for more of them.
async fn member() -> (Server, Ca, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server-key.pem"));
    ca.sign("127.0.0.1", &certificate, &key);
    let config = Config::new("secure")
        .memory_only()
        .listen_client_urls(["https://127.0.0.1:0"])
        .listen_peer_urls(["http://127.0.0.1:0"])
        .client_tls(TlsSettings {
            cert_file: Some(certificate),
            key_file: Some(key),
            trusted_ca_file: Some(ca.file.clone()),
            client_cert_auth: true,
            ..TlsSettings::default()
        });
    let server = Server::start(config).expect("a member");
    server.ready().await.expect("ready");
    (server, ca, folder)
}

fn client(server: &Server, tls: ClientTls) -> Client {
    Client::builder([format!("https://{}", server.client_addrs()[0])])
        .tls(tls)
        .request_timeout(Duration::from_secs(2))
        .build()
        .expect("a client")
}

async fn refused(server: &Server, tls: ClientTls) -> Error {
    client(server, tls).put("k", "refused").await.expect_err("the member refuses")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_certificate_is_served() {
    let (server, ca, folder) = member().await;
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c-key.pem"));
    ca.sign("a client", &certificate, &key);
    let tls = ClientTls::new().ca_file(&ca.file).certificate_files(&certificate, &key);
    let served = client(&server, tls.clone());
    let mut watch = served.watch("k", WatchOptions::new()).await.expect("a watch");
    served.put("k", "v").await.expect("put");
    let seen = watch.next().await.expect("open").expect("a response");
    assert_eq!(seen.events[0].kv.value, "v");
    assert_eq!(served.status(&served.endpoints()[0]).await.expect("status").leader, server.member_id().0);
    // Without the scheme in the endpoint TLS is taken for granted, and within the process there is none.
    let bare = Client::builder([server.client_addrs()[0].to_string()]).tls(tls).build().expect("a client");
    assert_eq!(bare.get("k").await.expect("get").expect("found").value, "v");
    assert_eq!(server.client().get("k").await.expect("get").expect("found").value, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_and_nothing_of_theirs_is_applied() {
    let (server, ca, folder) = member().await;
    let other = Ca::new(folder.path(), "other-ca");
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c-key.pem"));
    other.sign("a stranger", &certificate, &key);
    let trusting = ClientTls::new().ca_file(&ca.file);
    // TLS 1.3's handshake is over on our side before the member judges our certificate, so it may fail later.
    for tls in [trusting.clone(), trusting.clone().certificate_files(&certificate, &key)] {
        let error = refused(&server, tls).await;
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::NotApplied), "{error}");
        assert!(error.message().contains("the member refuses our certificate"), "{error}");
    }
    let error = refused(&server, ClientTls::new().ca_file(&other.file)).await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::NotApplied), "{error}");
    assert!(error.message().contains("certificate"), "{error}");
    let error = refused(&server, trusting.clone().server_name("another.host")).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let error = refused(&server, ClientTls::new()).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let error = refused(&server, ClientTls::new().ca_file(folder.path().join("none.pem"))).await;
    assert!(error.kind() == ErrorKind::Config && error.message().contains("none.pem"), "{error}");
    assert!(server.client().get("k").await.expect("get").is_none(), "nothing was applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_without_a_new_client() {
    let (server, ca, folder) = member().await;
    let other = Ca::new(folder.path(), "other-ca");
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c-key.pem"));
    other.sign("not yet known", &certificate, &key);
    let tls = ClientTls::new().ca_file(&ca.file).certificate_files(&certificate, &key);
    let client = client(&server, tls);
    client.get("k").await.expect_err("the member refuses it");
    ca.sign("known", &certificate, &key);
    client.put("k", "v").await.expect("the new one is good");
}
