//! The configuration file: YAML (or JSON) with etcd's keys, which are the flags' names.
//!
//! TLS settings stand in the sections `client-transport-security` and `peer-transport-security`, discovery's in
//! `discovery-config`. Lengths of time are integer nanoseconds, as etcd has them. A key without a value keeps its
//! default; an unknown key is an error, because a misspelt one would change nothing in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::values::{Source, Values};
use super::{Flag, Kind, find};

/// Why a configuration file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is no valid YAML: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("unknown key {key:?} in the configuration file {path}")]
    UnknownKey { path: PathBuf, key: String },
    #[error("invalid value for {key:?} in the configuration file {path}: {reason}")]
    BadValue { path: PathBuf, key: String, reason: String },
}

/// A YAML node.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

/// Keys that etcd's sample file has and that never became flags again.
const GONE: [&str; 6] = [
    "proxy",
    "proxy-failure-wait",
    "proxy-refresh-interval",
    "proxy-dial-timeout",
    "proxy-write-timeout",
    "proxy-read-timeout",
];

/// Keys of the transport security sections whose flag has another name than prefix and key together.
const CLIENT_SECTION: &str = "client-transport-security";
const PEER_SECTION: &str = "peer-transport-security";
const DISCOVERY_SECTION: &str = "discovery-config";

/// Reads the file at `path` into values.
pub fn read(path: &Path) -> Result<Values, FileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Reads the text of a file; `path` is how errors name it.
pub fn parse(text: &str, path: &Path) -> Result<Values, FileError> {
    let root: BTreeMap<String, Node> = if text.trim().is_empty() {
        BTreeMap::new()
    } else {
        serde_saphyr::from_str(text)
            .map_err(|error| FileError::Malformed { path: path.to_owned(), reason: error.to_string() })?
    };
    let mut values = Values::default();
    for (key, node) in &root {
        match (key.as_str(), node) {
            (CLIENT_SECTION | PEER_SECTION | DISCOVERY_SECTION, Node::Null) => {}
            (section @ (CLIENT_SECTION | PEER_SECTION | DISCOVERY_SECTION), Node::Map(inner)) => {
                for (inner_key, inner_node) in inner {
                    // Etcd has it in both sections, and uses it in that of peers.
                    if (section, inner_key.as_str()) == (CLIENT_SECTION, "skip-client-san-verification") {
                        values.warn(format!(
                            "{section}.{inner_key} is accepted, but has no meaning for clients"
                        ));
                        continue;
                    }
                    let shown = format!("{section}.{inner_key}");
                    let flag = section_flag(section, inner_key);
                    take(&mut values, flag, &shown, inner_node, path)?;
                }
            }
            (CLIENT_SECTION | PEER_SECTION | DISCOVERY_SECTION, _) => {
                return Err(FileError::BadValue {
                    path: path.to_owned(),
                    key: key.clone(),
                    reason: "must be a section: keys with values of their own".to_owned(),
                });
            }
            (gone, _) if GONE.contains(&gone) => {
                values.warn(format!(
                    "{gone} in the configuration file has no meaning: etcd's version 2 proxy is gone"
                ));
            }
            ("feature-gates", Node::Map(gates)) => {
                let gates: Vec<String> = gates
                    .iter()
                    .map(|(gate, node)| scalar(node, Kind::Text).map(|on| format!("{gate}={on}")))
                    .collect::<Result<_, _>>()
                    .map_err(|reason| FileError::BadValue {
                        path: path.to_owned(),
                        key: key.clone(),
                        reason,
                    })?;
                take(&mut values, find(key), key, &Node::Text(gates.join(",")), path)?;
            }
            _ => take(&mut values, find(key), key, node, path)?,
        }
    }
    Ok(values)
}

/// The flag that a key of a section stands for.
fn section_flag(section: &str, key: &str) -> Option<&'static Flag> {
    let name = match (section, key) {
        (CLIENT_SECTION, "allowed-hostname" | "allowed-hostnames") => {
            "client-cert-allowed-hostname".to_owned()
        }
        (CLIENT_SECTION, "crl-file") => "client-crl-file".to_owned(),
        (CLIENT_SECTION, key) => key.to_owned(),
        (PEER_SECTION, "allowed-cn" | "allowed-cns") => "peer-cert-allowed-cn".to_owned(),
        (PEER_SECTION, "allowed-hostname" | "allowed-hostnames") => "peer-cert-allowed-hostname".to_owned(),
        (PEER_SECTION, key) => format!("peer-{key}"),
        (_, key) => format!("discovery-{key}"),
    };
    find(&name)
}

fn take(
    values: &mut Values,
    flag: Option<&'static Flag>,
    key: &str,
    node: &Node,
    path: &Path,
) -> Result<(), FileError> {
    let flag = flag
        .filter(|flag| !matches!(flag.name, "config-file" | "version"))
        .ok_or_else(|| FileError::UnknownKey { path: path.to_owned(), key: key.to_owned() })?;
    if matches!(node, Node::Null) {
        return Ok(());
    }
    scalar(node, flag.kind)
        .and_then(|text| values.set(flag, &text, Source::File))
        .map_err(|reason| FileError::BadValue { path: path.to_owned(), key: key.to_owned(), reason })
}

/// A node in the notation of the command line.
fn scalar(node: &Node, kind: Kind) -> Result<String, String> {
    match (node, kind) {
        (Node::Int(nanoseconds), Kind::Duration) => Ok(format!("{nanoseconds}ns")),
        (_, Kind::Duration) => Err("must be a length of time in integer nanoseconds".to_owned()),
        (Node::Bool(value), _) => Ok(value.to_string()),
        (Node::Int(value), _) => Ok(value.to_string()),
        (Node::Uint(value), _) => Ok(value.to_string()),
        (Node::Float(_), Kind::Int | Kind::Uint) => Err("must be a whole number".to_owned()),
        (Node::Float(value), _) => Ok(value.to_string()),
        (Node::Text(value), _) => Ok(value.clone()),
        (Node::List(items), Kind::List) => {
            let items: Result<Vec<String>, String> =
                items.iter().map(|item| scalar(item, Kind::Text)).collect();
            Ok(items?.join(","))
        }
        (Node::Null, _) => Ok(String::new()),
        (Node::List(_) | Node::Map(_), _) => Err("must be a single value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Values, FileError> {
        parse(text, Path::new("q.yaml"))
    }

    #[test]
    fn keys_are_flag_names_and_lists_may_be_lists() {
        let values = file(
            "name: 'a'\ndata-dir:\nheartbeat-interval: 50\nlisten-client-urls: [http://127.0.0.1:1, http://127.0.0.1:2]\n\
             pre-vote: false\nlog-outputs: [stderr]\nwarning-apply-duration: 100000000\n",
        )
        .expect("fine");
        assert_eq!(values.text("name"), "a");
        assert!(!values.is_given("data-dir"));
        assert_eq!(values.uint("heartbeat-interval"), 50);
        assert_eq!(values.list("listen-client-urls"), ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        assert!(!values.bool("pre-vote"));
        assert_eq!(values.duration("warning-apply-duration"), std::time::Duration::from_millis(100));
        assert_eq!(values.review().map(|notices| notices.len()), Ok(0));
    }

    #[test]
    fn sections_hold_the_tls_settings() {
        let values = file(
            "peer-transport-security:\n  cert-file: p.pem\nclient-transport-security:\n  crl-file: revoked.pem\n",
        )
        .expect("fine");
        assert_eq!(values.text("peer-cert-file"), "p.pem");
        assert_eq!(values.text("client-crl-file"), "revoked.pem");
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, expected) in [
            ("nmae: a\n", "unknown key \"nmae\" in the configuration file q.yaml"),
            (
                "peer-transport-security: {cert: x}\n",
                "unknown key \"peer-transport-security.cert\" in the configuration file q.yaml",
            ),
            (
                "heartbeat-interval: soon\n",
                "invalid value for \"heartbeat-interval\" in the configuration file q.yaml: must be a whole number",
            ),
            (
                "warning-apply-duration: 100ms\n",
                "invalid value for \"warning-apply-duration\" in the configuration file q.yaml: must be a length of time \
                 in integer nanoseconds",
            ),
            (
                "name: [a]\n",
                "invalid value for \"name\" in the configuration file q.yaml: must be a single value",
            ),
        ] {
            assert_eq!(file(text).expect_err(text).to_string(), expected);
        }
        for malformed in ["name: 'a\n", "- a\n- b\n", "name: a\nname: b\n", "{"] {
            assert!(matches!(file(malformed), Err(FileError::Malformed { .. })), "{malformed:?}");
        }
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(file("").expect("fine").text("name"), "default");
        assert_eq!(file("# nothing\n").expect("fine").text("name"), "default");
    }
}
