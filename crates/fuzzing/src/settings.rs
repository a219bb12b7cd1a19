//! Settings as people write them: command lines, variables, files, URLs.

use std::path::Path;

use quorate::snet::{Settings, Sources};
use quorate::{Config, Url};
use quorate_settings::{balsa, etcd2, server};

use crate::Outcome;

/// What the first byte of an input says that the rest is.
const KINDS: [fn(&str) -> bool; 10] = [
    url,
    founders,
    daemon,
    server_arguments,
    server_variables,
    server_yaml,
    etcd2_arguments,
    etcd2_variables,
    etcd2_toml,
    balsa_variables,
];

/// Reads settings, chosen by the first byte: 0, a URL; 1, the list of founding members; 2, a daemon's configuration
/// with, behind a line feed, an organization's metadata; 3 to 5, arguments, variables and a YAML file of
/// `quorate server`; 6 to 8, arguments, variables and a TOML file of `quorate etcd2`; 9, variables of `quorate balsa`.
/// Arguments and variables stand one on a line.
pub fn settings(input: &[u8]) -> Outcome {
    let Some((how, rest)) = input.split_first() else { return Outcome::Refused };
    let Ok(text) = std::str::from_utf8(rest) else { return Outcome::Refused };
    let taken = KINDS.get(usize::from(*how)).is_some_and(|read| read(text));
    Outcome::taken_if(taken)
}

/// Whether a text may name a file that would be read: a fuzzer must not choose files of this machine.
fn names_files(text: &str) -> bool {
    let text = text.to_lowercase();
    ["file", "config", "_path"].iter().any(|word| text.contains(word))
}

fn lines(text: &str) -> Vec<String> {
    text.split('\n').map(str::to_owned).collect()
}

fn variables(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('\n').filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn gathered(arguments: &[String], variables: Vec<(String, String)>) -> bool {
    let Ok(server::Reading::Values(values)) = server::read(arguments) else { return false };
    let Ok(settings) = server::Settings::gather(values, variables) else { return false };
    settings.config.check().expect("what was checked is fine");
    true
}

fn server_arguments(text: &str) -> bool {
    !names_files(text) && gathered(&lines(text), Vec::new())
}

fn server_variables(text: &str) -> bool {
    !names_files(text) && gathered(&[], variables(text))
}

fn server_yaml(text: &str) -> bool {
    !names_files(text) && server::Settings::in_text(text, Path::new("q.yaml")).is_ok()
}

/// Where no file is.
const NO_FILE: &str = "/dev/null/none";

fn machine(arguments: &[String], variables: Vec<(String, String)>) -> bool {
    let gathered = etcd2::Values::gather(arguments, variables, Path::new(NO_FILE));
    gathered.is_ok_and(|values| etcd2::machine(&values).is_ok())
}

fn etcd2_arguments(text: &str) -> bool {
    !names_files(text) && machine(&lines(text), Vec::new())
}

fn etcd2_variables(text: &str) -> bool {
    !names_files(text) && machine(&["-name=m".to_owned()], variables(text))
}

fn etcd2_toml(text: &str) -> bool {
    if names_files(text) {
        return false;
    }
    let read = etcd2::Values::in_text(text, Path::new("etcd.conf"));
    read.is_ok_and(|values| etcd2::machine(&values).is_ok())
}

fn balsa_variables(text: &str) -> bool {
    if names_files(text) {
        return false;
    }
    let variables = variables(text);
    let find = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, text)| text.into());
    balsa::Environment::read(find).is_ok()
}

fn url(text: &str) -> bool {
    let config = Config::new("m1").memory_only().listen_client_urls([text]).advertise_client_urls([text]);
    let _ = config.check();
    let Ok(url) = Url::parse(text) else { return false };
    assert_eq!(Url::parse(&url.to_string()), Ok(url), "a URL is written as another one");
    true
}

fn founders(text: &str) -> bool {
    let config =
        Config::new("m1").memory_only().listen_peer_urls(["http://127.0.0.1:2380"]).initial_cluster(text);
    config.check().is_ok()
}

fn daemon(text: &str) -> bool {
    if names_files(text) {
        return false;
    }
    let sources = match text.split_once('\n') {
        Some((json, metadata)) => Sources::json(json).metadata(metadata),
        None => Sources::json(text),
    };
    Settings::read(&sources).is_ok()
}

/// Texts of each kind.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let config = "{\"payment_channel_storage_server\": {\"client_port\": 2379, \"peer_port\": 2380, \"cluster\": \
                  \"storage-1=http://127.0.0.1:2380\", \"startup_timeout\": \"15s\", \"enabled\": true}, \
                  \"payment_channel_storage_client\": {\"connection_timeout\": \"5s\", \"request_timeout\": \
                  \"3s\", \"endpoints\": [\"http://127.0.0.1:2379\"]}}";
    let metadata = "{\"org_name\": \"o\", \"org_id\": \"o\", \"groups\": [{\"group_name\": \"default_group\", \
                    \"group_id\": \"g\", \"payment\": {\"payment_channel_storage_type\": \"etcd\", \
                    \"payment_channel_storage_client\": {\"connection_timeout\": \"7s\", \"request_timeout\": \"5s\", \
                    \"endpoints\": [\"http://127.0.0.1:2379\"]}}}]}";
    let seed = |name: &str, how: u8, text: &str| (name.to_owned(), [&[how], text.as_bytes()].concat());
    vec![
        seed("url", 0, "http://127.0.0.1:2379"),
        seed("url-ipv6", 0, "https://[::1]:2379/"),
        seed("url-unix", 0, "unix:///run/m1.sock"),
        seed("founders", 1, "m1=http://127.0.0.1:2380,m2=http://h:2381,m2=http://[::1]:2382"),
        seed("daemon", 2, config),
        seed("daemon-metadata", 2, &format!("{{}}\n{metadata}")),
        seed(
            "server-arguments",
            3,
            "--name\nm1\n-listen-peer-urls=http://127.0.0.1:2380\n--initial-advertise-peer-urls\n\
             http://127.0.0.1:2380\n--initial-cluster=m1=http://127.0.0.1:2380,m2=http://h:2381\n\
             --heartbeat-interval=0x32\n--auto-compaction-retention=1h30m\n--pre-vote=false\n--max-wals=3",
        ),
        seed(
            "server-variables",
            4,
            "ETCD_NAME=m1\nETCD_QUOTA_BACKEND_BYTES=-1\nETCD_NO_SUCH=1\nQUORATE_PROMOTE_LEARNERS=true\n\
             ETCD_GRPC_KEEPALIVE_INTERVAL=1.5s",
        ),
        seed(
            "server-yaml",
            5,
            "name: 'a'\ndata-dir:\nheartbeat-interval: 50\nlisten-client-urls: [http://127.0.0.1:1, \
             http://127.0.0.1:2]\nadvertise-client-urls: http://h:1\npre-vote: false\nlog-outputs: [stderr]\n\
             grpc-keepalive-interval: 100000000\nclient-transport-security:\n  auto-tls: false\n",
        ),
        seed(
            "etcd2-arguments",
            6,
            "-name=m1\n-peer-addr\n127.0.0.1:7001\n-addr=127.0.0.1:4001\n-peers=h:1,h:2\n-s\nh:7001\n-snapshot\n\
             -cluster-active-size=3\n-retry-interval=0.5",
        ),
        seed("etcd2-variables", 7, "ETCD_ADDR=127.0.0.1:4001\nETCD_VERBOSE=no\nETCD_CORS=http://a,http://b"),
        seed(
            "etcd2-toml",
            8,
            "name = 'm1'\naddr = '127.0.0.1:4001'\npeers = ['h:1', 'h:2']\nsnapshot_count = 100\n[peer]\n\
             addr = '127.0.0.1:7001'\nheartbeat_interval = 50\n[cluster]\nactive_size = 9\nremove_delay = 1800.5\n",
        ),
        seed(
            "balsa-variables",
            9,
            "HTTP_SERVER_PORT=8000\nRAFT_SERVER_PORT=9000\nRAFT_NODE_ID=n1\nRAFT_VOLUME_DIR=n1\n\
             RAFT_BIND_ADDR=0.0.0.0\nRAFT_ADVERTISE_ADDR=n1.example\nRAFT_JOIN=h:1,[::1]:2\nLOG_LEVEL=warn",
        ),
    ]
}
