//! The configuration of snet-daemon: taken as it is, and told what is wrong with it.

use std::time::Duration;

use quorate::snet::{LogLevel, OpenStorage, Settings, Sources, StorageKind};

fn read(json: &str) -> Settings {
    Settings::read(&Sources::json(json)).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn problems(json: &str) -> Vec<String> {
    match Settings::read(&Sources::json(json)) {
        Ok(settings) => panic!("{json} was taken: {settings:?}"),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_documented_examples_are_taken_as_they_are() {
    let client = r#"{
        "payment_channel_storage_client": {
            "connection_timeout": "5s",
            "request_timeout": "3s",
            "endpoints": ["http://127.0.0.1:2379", "http://127.0.0.2:2379", "http://127.0.0.3:2379"]
        }
    }"#;
    let settings = read(client);
    assert_eq!(settings.storage, StorageKind::Etcd);
    assert_eq!(settings.client.endpoints.len(), 3);
    assert!(!settings.server.enabled && settings.notices.is_empty(), "{settings:?}");
    let embedded = r#"{
        "payment_channel_storage_server": {
            "id": "storage-1", "host" : "127.0.0.1", "client_port": 2379, "peer_port": 2380,
            "token": "unique-token", "cluster": "storage-1=http://127.0.0.1:2380", "enabled": true
        }
    }"#;
    let server = read(embedded).server;
    assert!(server.enabled && !server.tls);
    assert_eq!((&server.id[..], server.client_port, server.peer_port), ("storage-1", 2379, 2380));
    let disabled = r#"{
        "payment_channel_storage_server": {
            "id": "storage-2", "host" : "127.0.0.2", "client_port": 2379, "peer_port": 2380, "token": "unique-token",
            "cluster": "storage-1=http://127.0.0.1:2380,storage-2=http://127.0.0.2:2380,storage-3=http://127.0.0.3:2380",
            "enabled": false
        }
    }"#;
    let server = read(disabled).server;
    assert!(!server.enabled);
    assert_eq!(server.cluster.expect("given").split(',').count(), 3);
    assert_eq!(read(r#"{"payment_channel_storage_type": "etcd"}"#).storage, StorageKind::Etcd);
}

#[test]
fn the_documented_defaults() {
    let Settings { storage, client, server, notices } = read("{}");
    assert_eq!((storage, notices.len()), (StorageKind::Etcd, 0));
    assert_eq!(client.connection_timeout, Duration::from_secs(5));
    assert_eq!(client.request_timeout, Duration::from_secs(3));
    assert_eq!(client.endpoints, ["http://127.0.0.1:2379"]);
    assert!(!server.enabled, "without a section there is no server");
    assert_eq!(
        (&server.id[..], &server.host[..], &server.token[..]),
        ("storage-1", "127.0.0.1", "unique-token")
    );
    assert_eq!((server.client_port, server.peer_port), (2379, 2380));
    assert_eq!(server.startup_timeout, Duration::from_secs(60));
    assert_eq!(server.data_dir.to_str(), Some("storage-data-dir-1.etcd"));
    assert_eq!(server.log_level, LogLevel::Info);
}

#[test]
fn a_section_that_does_not_say_otherwise_is_enabled() {
    assert!(read(r#"{"payment_channel_storage_server": {}}"#).server.enabled);
    assert!(!read(r#"{"payment_channel_storage_server": null}"#).server.enabled);
    assert!(!read(r#"{"payment_channel_storage_server": {"enabled": "false"}}"#).server.enabled);
}

#[test]
fn keys_do_not_tell_upper_from_lower_case_and_values_have_many_forms() {
    let settings = read(
        r#"{
            "Payment_Channel_Storage_Server": {
                "ID": "s", "Schema": "HTTP", "client_port": "3379", "Peer_Port": 3380, "cluster": "s=127.0.0.1:3380",
                "LOG_LEVEL": "Warning", "log_outputs": "stdout", "STARTUP_TIMEOUT": "1m30s"
            },
            "payment_channel_storage_client": {"endpoints": ["10.0.0.1:2379", "http://10.0.0.2:2379"]},
            "passthrough_enabled": true
        }"#,
    );
    assert_eq!(settings.server.cluster.as_deref(), Some("s=http://127.0.0.1:3380"));
    assert_eq!((settings.server.client_port, settings.server.log_level), (3379, LogLevel::Warn));
    assert_eq!(settings.server.log_outputs, ["stdout"]);
    assert_eq!(settings.server.startup_timeout, Duration::from_secs(90));
    assert_eq!(settings.client.endpoints, ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
    assert!(settings.notices.is_empty(), "the rest of the file is the daemon's: {:?}", settings.notices);
    for (level, expected) in
        [("error", LogLevel::Error), ("warn", LogLevel::Warn), ("debug", LogLevel::Debug)]
    {
        let json = format!(
            r#"{{"payment_channel_storage_server": {{"log_level": "{level}", "log_outputs": ["a", "b"]}}}}"#
        );
        let server = read(&json).server;
        assert_eq!((server.log_level, server.log_outputs.len()), (expected, 2));
    }
}

#[test]
fn configuration_beats_metadata_and_metadata_beats_defaults() {
    let metadata = r#"{
        "org_name": "x",
        "groups": [
            {"group_name": "other", "payment": {"payment_channel_storage_type": "memory"}},
            {"group_name": "default_group", "payment": {
                "payment_channel_storage_type": "etcd",
                "payment_channel_storage_client": {
                    "connection_timeout": "11s", "request_timeout": "12s", "endpoints": ["http://meta:1"]
                }
            }}
        ]
    }"#;
    let with = |json: &str| Settings::read(&Sources::json(json).metadata(metadata)).expect("fine");
    let settings = with("{}");
    assert_eq!(settings.client.endpoints, ["http://meta:1"]);
    assert_eq!(settings.client.connection_timeout, Duration::from_secs(11));
    let mixed = with(
        r#"{"payment_channel_storage_client": {
            "connection_timeout": "0s", "request_timeout": "1s", "endpoints": ["http://config:1"]
        }}"#,
    );
    assert_eq!(mixed.client.endpoints, ["http://config:1"], "not empty, it wins");
    assert_eq!(mixed.client.connection_timeout, Duration::from_secs(11), "zero means not given");
    assert_eq!(mixed.client.request_timeout, Duration::from_secs(1));
    assert_eq!(
        with(r#"{"payment_channel_storage_client": {"endpoints": []}}"#).client.endpoints,
        ["http://meta:1"]
    );
    assert_eq!(with(r#"{"daemon_group_name": "other"}"#).storage, StorageKind::Memory);
    let bare = with(r#"{"daemon_group_name": "other"}"#);
    assert_eq!(bare.client.endpoints, ["http://127.0.0.1:2379"], "what nobody gives has its default");
    let both = with(r#"{"daemon_group_name": "other", "payment_channel_storage_type": "etcd"}"#);
    assert_eq!(both.storage, StorageKind::Etcd);
    let wrong = Settings::read(&Sources::json(r#"{"daemon_group_name": "gone"}"#).metadata(metadata));
    let text = wrong.expect_err("no such group").to_string();
    assert_eq!(
        text,
        "daemon_group_name: group name gone in config is invalid, there was no group found with this name in the \
         metadata"
    );
    assert!(Settings::read(&Sources::json("{}").metadata("[")).is_err());
}

#[test]
fn variables_beat_the_file() {
    let variable = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let sources = Sources::json(r#"{"payment_channel_storage_server": {"id": "a", "enabled": true}}"#)
        .variables([
            variable("SNET_PAYMENT_CHANNEL_STORAGE_TYPE", "memory"),
            variable("SNET_PAYMENT_CHANNEL_STORAGE_SERVER_ID", "b"),
            variable("SNET_PAYMENT_CHANNEL_STORAGE_SERVER.CLIENT_PORT", "4379"),
            variable("SNET_PAYMENT_CHANNEL_STORAGE_CLIENT_ENDPOINTS", "http://h:1,http://h:2"),
            variable("SNET_PAYMENT_CHANNEL_STORAGE_SERVER_IDD", "c"),
            variable("SNET_DAEMON_END_POINT", "x"),
            variable("PAYMENT_CHANNEL_STORAGE_TYPE", "etcd"),
        ]);
    let settings = Settings::read(&sources).expect("fine");
    assert_eq!(settings.storage, StorageKind::Memory);
    assert_eq!((&settings.server.id[..], settings.server.client_port), ("b", 4379));
    assert_eq!(settings.client.endpoints, ["http://h:1", "http://h:2"]);
    assert_eq!(
        settings.notices,
        ["the variable SNET_PAYMENT_CHANNEL_STORAGE_SERVER_IDD is not known and has no effect"]
    );
}

#[test]
fn keys_that_are_not_known_are_told() {
    let settings = read(
        r#"{
            "payment_channel_storage_servr": {},
            "payment_channel_storage_client": {"endpoint": ["http://h:1"], "x": 1},
            "payment_channel_something": 1,
            "auto_ssl_domain": "x"
        }"#,
    );
    assert_eq!(
        settings.notices,
        [
            "payment_channel_storage_client.endpoint: this key is not known and has no effect; is endpoints meant?",
            "payment_channel_storage_client.x: this key is not known and has no effect",
            "payment_channel_something: this key is not known and has no effect",
            "payment_channel_storage_servr: this key is not known and has no effect; is \
             payment_channel_storage_server meant?",
        ]
    );
}

#[test]
fn without_the_blockchain_the_storage_is_unused() {
    let settings = read(r#"{"blockchain_enabled": false, "payment_channel_storage_type": "memory"}"#);
    assert_eq!(settings.storage, StorageKind::Unused);
    assert!(settings.open().expect("nothing to open").storage().is_none());
    let memory = read(r#"{"payment_channel_storage_type": "memory"}"#);
    assert!(matches!(memory.open().expect("memory"), OpenStorage::Memory(_)));
}

#[test]
fn settings_that_a_program_has_changed_are_checked_again() {
    let mut settings = read(r#"{"payment_channel_storage_server": {"cluster": "storage-1=127.0.0.1:2380"}}"#);
    settings.validate().expect("as they were read");
    settings.server.id = "other".to_owned();
    settings.server.peer_port = settings.server.client_port;
    settings.server.startup_timeout = Duration::ZERO;
    settings.server.log_outputs = Vec::new();
    settings.server.token = String::new();
    settings.client.endpoints = vec!["h:port".to_owned()];
    settings.client.request_timeout = Duration::ZERO;
    let all = settings.validate().expect_err("all of them").to_string();
    for expected in [
        "payment_channel_storage_client.request_timeout: it is zero",
        "payment_channel_storage_client.endpoints: \"http://h:port\" is no endpoint",
        "payment_channel_storage_server.cluster: there is no other in it",
        "payment_channel_storage_server.peer_port: 2379 is the client_port too",
        "payment_channel_storage_server.startup_timeout: it is zero",
        "payment_channel_storage_server.log_outputs: it is empty",
        "payment_channel_storage_server.token: it is empty",
    ] {
        assert!(all.contains(expected), "{all}\ndoes not say {expected}");
    }
    // What is not used is not checked.
    settings.server.enabled = false;
    settings.storage = StorageKind::Memory;
    settings.validate().expect("neither a server nor a cluster");
    let mut none = read("{}");
    none.client.endpoints.clear();
    let told = none.validate().expect_err("no endpoint").to_string();
    assert_eq!(
        told,
        "payment_channel_storage_client.endpoints: there is none: write one such as http://127.0.0.1:2379"
    );
}

#[test]
fn what_can_not_be_used_is_named_with_its_cure() {
    let server = |fields: &str| format!(r#"{{"payment_channel_storage_server": {{{fields}}}}}"#);
    let client = |fields: &str| format!(r#"{{"payment_channel_storage_client": {{{fields}}}}}"#);
    for (json, expected) in [
        ("{".to_owned(), "the configuration: it is no JSON: "),
        ("[]".to_owned(), "the configuration: it is no JSON object"),
        (
            r#"{"payment_channel_storage_type": "etcdd"}"#.to_owned(),
            "is neither \"etcd\" nor \"memory\": write one",
        ),
        (r#"{"payment_channel_storage_type": "Etcd"}"#.to_owned(), "payment_channel_storage_type: \"Etcd\""),
        (
            r#"{"blockchain_enabled": "perhaps"}"#.to_owned(),
            "blockchain_enabled: \"perhaps\" is neither true",
        ),
        (r#"{"payment_channel_storage_server": []}"#.to_owned(), "[] is no section"),
        (server(r#""id": "a", "ID": "b""#), "the key \"id\" is given twice"),
        (
            server(r#""client_port": 70000"#),
            "server.client_port: 70000 is no port: write a number from 0 to 65535",
        ),
        (server(r#""peer_port": "x""#), "server.peer_port: \"x\" is no port"),
        (server(r#""peer_port": -1"#), "server.peer_port: -1 is no port"),
        (server(r#""client_port": 2380"#), "server.peer_port: 2380 is the client_port too"),
        (server(r#""id": "a,b""#), "server.id: it must not hold"),
        (server(r#""host": "storage.example""#), "server.host: \"storage.example\" can't be listened on"),
        (server(r#""schema": "ftp""#), "server.schema: \"ftp\" is neither http nor https"),
        (server(r#""schema": "http", "scheme": "https""#), "scheme says https: keep one"),
        (server(r#""log_level": "loud""#), "server.log_level: \"loud\" is no level: write error, warning"),
        (server(r#""log_outputs": 7"#), "server.log_outputs: 7 is no list"),
        (server(r#""startup_timeout": "soon""#), "server.startup_timeout: \"soon\" is no length of time"),
        (server(r#""startup_timeout": 5"#), "such as \"5s\""),
        (server(r#""startup_timeout": "-5s""#), "it must not be negative"),
        (
            server(r#""cluster": "storage-1""#),
            "server.cluster: \"storage-1\" must have the form name=url: write id=",
        ),
        (server(r#""cluster": "storage-1=127.0.0.1:x""#), "server.cluster: "),
        (server(r#""cluster": "storage-1=127.0.0.1:2380,""#), "server.cluster: "),
        (
            server(r#""cluster": "a=127.0.0.1:2380""#),
            "there is no storage-1 in it, which is this server's id: it has a",
        ),
        (server(r#""cluster": "storage-1=127.0.0.1:2381""#), "make them the same"),
        (
            server(r#""cluster": "storage-1=127.0.0.1:2380,storage-1=127.0.0.1:2390""#),
            "the id storage-1 is given twice",
        ),
        (server(r#""cluster": "storage-1=127.0.0.1:2380,b=127.0.0.1:2380""#), "is given twice"),
        (
            server(r#""peer_port": 0, "cluster": "storage-1=127.0.0.1:2380,b=127.0.0.1:2390""#),
            "server.peer_port: 0 takes any free port",
        ),
        (
            server(r#""schema": "https""#),
            "payment_channel_cert_path: payment_channel_storage_server has the schema",
        ),
        (client(r#""endpoints": ["h:x"]"#), "client.endpoints: \"http://h:x\" is no endpoint"),
        (client(r#""endpoints": ["http://h:1/path"]"#), "is no endpoint: it holds more"),
        (client(r#""endpoints": [7]"#), "client.endpoints: [7] is no list of texts"),
        (
            client(r#""endpoints": ["https://h:1"]"#),
            "payment_channel_ca_path: payment_channel_storage_client.endpoints",
        ),
        (client(r#""request_timeout": "3 s""#), "client.request_timeout: \"3 s\" is no length of time"),
        (
            r#"{"payment_channel_cert_path": "/no/such", "payment_channel_ca_path": "/no/ca",
                "payment_channel_storage_client": {"endpoints": ["https://h:1"]}}"#
                .to_owned(),
            "payment_channel_key_path: payment_channel_cert_path is given",
        ),
        (
            r#"{"payment_channel_ca_path": "/no/ca",
                "payment_channel_storage_client": {"endpoints": ["https://h:1"]}}"#
                .to_owned(),
            "payment_channel_ca_path: cannot read /no/ca",
        ),
    ] {
        let found = problems(&json);
        assert!(
            found.iter().any(|problem| problem.contains(expected)),
            "{json}\nsays {found:?}\nnot {expected}"
        );
    }
    let all = problems(&server(r#""client_port": "x", "log_level": "loud", "id": "a=b""#));
    assert_eq!(all.len(), 3, "all of them at once: {all:?}");
    let missing = Sources::file(std::path::Path::new("/no/such.json")).expect_err("no file").to_string();
    assert!(missing.starts_with("/no/such.json: cannot read the configuration file"), "{missing}");
}
