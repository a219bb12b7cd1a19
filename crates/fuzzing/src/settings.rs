//! Settings of a member as text.

use quorate::snet::{Settings, Sources};
use quorate::{Config, Url};

use crate::Outcome;

/// Reads settings, chosen by the first byte: 0, a URL; 1, the list of founding members; 2, a daemon's configuration
/// with, behind a line feed, an organization's metadata.
pub fn settings(input: &[u8]) -> Outcome {
    let Some((how, rest)) = input.split_first() else { return Outcome::Refused };
    let Ok(text) = std::str::from_utf8(rest) else { return Outcome::Refused };
    let taken = match how {
        0 => url(text),
        1 => founders(text),
        2 => daemon(text),
        _ => false,
    };
    Outcome::taken_if(taken)
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
    // Certificates are read from where the settings say: a fuzzer must not choose files of this machine.
    if text.to_lowercase().contains("_path") {
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
    ]
}
