//! Members inside a daemon: started, failed, stopped, several of them.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate::snet::{EmbeddedError, EmbeddedServer, OpenStorage, ServerSettings, Settings, Sources};
use quorate::storage::{AtomicStorage as _, Locks};
use quorate_interop::free_port;

/// The settings of a server with these fields, that keeps its data and its log in `folder`.
fn settings(folder: &Path, fields: &str) -> ServerSettings {
    let json = format!(
        r#"{{"payment_channel_storage_server": {{
            "data_dir": {:?}, "log_outputs": {:?}, {fields}
        }}}}"#,
        folder.join("data").display().to_string(),
        folder.join("log").display().to_string()
    );
    Settings::read(&Sources::json(json)).expect("fine").server
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// The storage of a daemon that has these endpoints.
fn storage(endpoints: &[String]) -> OpenStorage {
    let json = format!(r#"{{"payment_channel_storage_client": {{"endpoints": {endpoints:?}}}}}"#);
    Settings::read(&Sources::json(json)).expect("fine").open().expect("a client")
}

fn is_free(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err() && TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// The members of one cluster; `token` of each.
fn cluster(folders: &[tempfile::TempDir], tokens: &[&str], more: &str) -> Vec<ServerSettings> {
    let ports: Vec<(u16, u16)> = folders.iter().map(|_| (free_port(), free_port())).collect();
    let founders: Vec<String> =
        ports.iter().enumerate().map(|(number, (_, peer))| format!("s{number}=127.0.0.1:{peer}")).collect();
    let made = folders.iter().zip(&ports).zip(tokens).enumerate();
    made.map(|(number, ((folder, (client, peer)), token))| {
        let fields = format!(
            r#""id": "s{number}", "client_port": {client}, "peer_port": {peer}, "token": "{token}",
               "cluster": "{}" {more}"#,
            founders.join(",")
        );
        settings(folder.path(), &fields)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_0_is_reported_back_and_the_data_is_found_again() {
    let folder = folder();
    let fields = r#""client_port": 0, "peer_port": 0"#;
    let server = EmbeddedServer::start(&settings(folder.path(), fields)).await.expect("it starts");
    assert_eq!(server.id(), "storage-1");
    let (client, peer) = (server.client_addrs()[0].port(), server.peer_addrs()[0].port());
    assert!(client != 0 && peer != 0);
    let open = storage(&server.client_endpoints());
    open.check_health().await.expect("healthy");
    open.storage().expect("a cluster").put(b"net//{ID: 42}", b"\0\xff").await.expect("put");
    server.stop().await;
    assert!(is_free(client) && is_free(peer), "nothing listens after the stop");
    let unreachable = open.check_health().await.expect_err("nobody is there").to_string();
    assert!(
        unreachable.starts_with(&format!("etcd not healthy: none of http://127.0.0.1:{client} serves: "))
            && unreachable.contains("payment_channel_storage_client.endpoints"),
        "{unreachable}"
    );
    let again = EmbeddedServer::start(&settings(folder.path(), fields)).await.expect("it starts again");
    let open = storage(&again.client_endpoints());
    let found = open.storage().expect("a cluster").get(b"net//{ID: 42}").await.expect("get");
    assert_eq!(found.expect("still there").value[..], b"\0\xff"[..]);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_start_leaves_nothing_behind() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (busy, peer) = (taken.local_addr().expect("bound").port(), free_port());
    let fields = |client: u16| format!(r#""client_port": {client}, "peer_port": {peer}"#);
    let error = match EmbeddedServer::start(&settings(folder.path(), &fields(busy))).await {
        Ok(_) => panic!("the port is taken"),
        Err(error) => error,
    };
    assert!(matches!(error, EmbeddedError::Start { .. }), "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{busy}")), "{error}");
    assert!(is_free(peer), "the peer port is free again");
    let started = EmbeddedServer::start(&settings(folder.path(), &fields(free_port()))).await;
    started.expect("the folder is not locked").stop().await;
    let off = settings(folder.path(), r#""enabled": false"#);
    assert!(matches!(EmbeddedServer::start(&off).await, Err(EmbeddedError::NotEnabled)));
    let mut senseless = settings(folder.path(), &fields(free_port()));
    senseless.client_port = senseless.peer_port;
    assert!(matches!(EmbeddedServer::start(&senseless).await, Err(EmbeddedError::Settings(_))));
    let mut unwritable = settings(folder.path(), &fields(free_port()));
    unwritable.log_outputs = vec!["/no/such/folder/log".to_owned()];
    assert!(matches!(EmbeddedServer::start(&unwritable).await, Err(EmbeddedError::Log(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_the_start_ends_in_time_and_cleanly() {
    let folders = [folder(), folder(), folder()];
    let alone = &cluster(&folders, &["t"; 3], r#", "startup_timeout": "700ms""#)[0];
    let error = match EmbeddedServer::start(alone).await {
        Ok(_) => panic!("it has no majority"),
        Err(error) => error.to_string(),
    };
    assert!(error.starts_with("etcd server took too long to start: s0"), "{error}");
    assert!(is_free(alone.client_port) && is_free(alone.peer_port));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_token_never_joins() {
    let folders = [folder(), folder()];
    let members = cluster(&folders, &["one", "other"], r#", "startup_timeout": "4s""#);
    let (first, second) =
        tokio::join!(EmbeddedServer::start(&members[0]), EmbeddedServer::start(&members[1]));
    for started in [first, second] {
        match started {
            Ok(server) => panic!("{} found a majority among strangers", server.id()),
            Err(error) => assert!(matches!(error, EmbeddedError::TookTooLong { .. }), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_in_one_process_serve_while_one_is_down_and_each_has_its_own_log() {
    let folders = [folder(), folder(), folder()];
    let mut members = cluster(&folders, &["t"; 3], "");
    members[0].log_level = "error".parse().expect("a level");
    members[1].log_level = "debug".parse().expect("a level");
    let starting = members.iter().map(|member| {
        let member = member.clone();
        tokio::spawn(async move { EmbeddedServer::start(&member).await.expect("it starts") })
    });
    let mut servers = Vec::new();
    for started in starting.collect::<Vec<_>>() {
        servers.push(started.await.expect("no panic"));
    }
    let endpoints: Vec<String> = servers.iter().flat_map(EmbeddedServer::client_endpoints).collect();
    let open = storage(&endpoints);
    open.check_health().await.expect("healthy");
    let storage = open.storage().expect("a cluster");
    let lock = Locks::new(storage.clone(), "me").try_lock(b"channel").await.expect("free");
    storage.put(b"k", b"1").await.expect("put");
    let log = |number: usize| std::fs::read_to_string(folders[number].path().join("log")).expect("a log");
    // Read before one stops: then the others have something to say of it.
    let (silent, debug, info) = (log(0), log(1), log(2));
    servers.remove(2).stop().await;
    storage.put(b"k", b"2").await.expect("two of three are a majority");
    assert!(lock.why_lost().is_none());
    assert!(lock.unlock().await.expect("unlock"));
    for server in servers {
        server.stop().await;
    }
    assert_eq!(silent, "", "a healthy server at level error is silent");
    assert!(debug.contains(r#"id="s1""#) && !debug.contains(r#"id="s2""#), "only its own: {debug}");
    assert!(info.contains(r#"id="s2""#) && !info.contains(r#"id="s1""#), "only its own: {info}");
    assert!(!info.contains("DEBUG") && !info.contains(" debug "), "{info}");
}

/// A CA of its own, and a certificate of it for 127.0.0.1; PEM files in `folder`.
fn certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect("fine");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let mut leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("fine");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).expect("signed");
    for (name, text) in [("ca", ca_cert.pem()), ("cert", cert.pem()), ("key", key.serialize_pem())] {
        std::fs::write(folder.join(format!("{name}.pem")), text).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_works_with_given_certificates_and_with_their_successors() {
    let folder = folder();
    certificates(folder.path());
    let (client, peer) = (free_port(), free_port());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let json = format!(
        r#"{{
            "payment_channel_cert_path": {:?}, "payment_channel_key_path": {:?}, "payment_channel_ca_path": {:?},
            "payment_channel_storage_client": {{"endpoints": ["https://127.0.0.1:{client}"]}},
            "payment_channel_storage_server": {{
                "schema": "https", "client_port": {client}, "peer_port": {peer},
                "data_dir": {:?}, "log_outputs": {:?}
            }}
        }}"#,
        path("cert.pem"),
        path("key.pem"),
        path("ca.pem"),
        path("data"),
        path("log"),
    );
    let settings = Settings::read(&Sources::json(json)).expect("fine");
    let server = EmbeddedServer::start(&settings.server).await.expect("it starts");
    assert_eq!(server.client_endpoints(), [format!("https://127.0.0.1:{client}")]);
    let open = settings.open().expect("a client");
    open.check_health().await.expect("healthy");
    let storage = open.storage().expect("a cluster");
    storage.put(b"k", b"v").await.expect("put");
    let plain = quorate_client::Client::builder([format!("http://127.0.0.1:{client}")])
        .request_timeout(Duration::from_secs(1))
        .build()
        .expect("a client");
    plain.get("k").await.expect_err("the port has TLS");
    server.stop().await;
    // Another CA, other certificates, the same files: the handle that is open takes them.
    certificates(folder.path());
    let server = EmbeddedServer::start(&settings.server).await.expect("it starts with the new files");
    let held: Arc<dyn quorate::storage::LeaseStorage> = storage;
    assert_eq!(held.get(b"k").await.expect("get").expect("there").value, "v");
    server.stop().await;
}
