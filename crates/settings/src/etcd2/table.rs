//! Every flag of etcd 0.4, with its variable, its key in the configuration file and its default.

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Comma-separated; a list in a configuration file.
    List,
    Bool,
    /// A whole number of at least 0.
    Count,
    /// A number of at least 0, in seconds.
    Seconds,
}

impl Kind {
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Text => " TEXT",
            Self::List => " A,B,...",
            Self::Count => " N",
            Self::Seconds => " SECONDS",
        }
    }
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What its help says.
    Used,
    /// Accepted; the log says that it has no meaning here, for this reason.
    Nothing(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    /// Its environment variables, the one that counts most last.
    pub variables: &'static [&'static str],
    /// Its key in the configuration file, with the section before a dot; empty: none.
    pub key: &'static str,
    pub default: &'static str,
    pub effect: Effect,
    pub help: &'static str,
}

const fn flag(
    name: &'static str,
    kind: Kind,
    variables: &'static [&'static str],
    key: &'static str,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, kind, variables, key, default, effect: Effect::Used, help }
}

const fn without(mut flag: Flag, why: &'static str) -> Flag {
    flag.effect = Effect::Nothing(why);
    flag
}

const NO_PROFILES: &str = "there is no profiler in it; the metrics of 'quorate server' tell where time goes";

use Kind::{Bool, Count, List, Seconds, Text};

pub const FLAGS: &[Flag] = &[
    flag("name", Text, &["ETCD_NAME"], "name", "", "The machine's name; the host's, if not given."),
    flag(
        "data-dir",
        Text,
        &["ETCD_DATA_DIR"],
        "data_dir",
        "",
        "Folder of the machine's log and data; <name>.etcd, if not given.",
    ),
    flag("addr", Text, &["ETCD_ADDR"], "addr", "127.0.0.1:4001", "HOST:PORT by which clients reach it."),
    flag(
        "bind-addr",
        Text,
        &["ETCD_BIND_ADDR"],
        "bind_addr",
        "",
        "HOST:PORT to listen on for clients; every address, if not given. A host alone takes the port of -addr.",
    ),
    flag(
        "peer-addr",
        Text,
        &["ETCD_PEER_ADDR"],
        "peer.addr",
        "127.0.0.1:7001",
        "HOST:PORT by which the other machines reach it.",
    ),
    flag(
        "peer-bind-addr",
        Text,
        &["ETCD_PEER_BIND_ADDR"],
        "peer.bind_addr",
        "",
        "HOST:PORT to listen on for the other machines. A host alone takes the port of -peer-addr.",
    ),
    flag(
        "peers",
        List,
        &["ETCD_PEERS"],
        "peers",
        "",
        "Peer addresses of machines of the cluster to join. One that answers is enough.",
    ),
    flag(
        "peers-file",
        Text,
        &["ETCD_PEERS_FILE"],
        "peers_file",
        "",
        "File with such addresses; it replaces -peers.",
    ),
    flag(
        "discovery",
        Text,
        &["ETCD_DISCOVERY"],
        "discovery",
        "",
        "URL at a discovery service where the machines of a new cluster find each other.",
    ),
    flag(
        "ca-file",
        Text,
        &["ETCD_CA_FILE"],
        "ca_file",
        "",
        "CA that clients' certificates are checked with. Given, clients have to show one.",
    ),
    flag("cert-file", Text, &["ETCD_CERT_FILE"], "cert_file", "", "Certificate for clients."),
    flag("key-file", Text, &["ETCD_KEY_FILE"], "key_file", "", "Its key."),
    flag(
        "peer-ca-file",
        Text,
        &["ETCD_PEER_CA_FILE"],
        "peer.ca_file",
        "",
        "CA that the other machines' certificates are checked with, in both directions.",
    ),
    flag(
        "peer-cert-file",
        Text,
        &["ETCD_PEER_CERT_FILE"],
        "peer.cert_file",
        "",
        "Certificate between machines, for both directions.",
    ),
    flag("peer-key-file", Text, &["ETCD_PEER_KEY_FILE"], "peer.key_file", "", "Its key."),
    flag(
        "cors",
        List,
        &["ETCD_CORS_ORIGINS", "ETCD_CORS"],
        "cors",
        "",
        "Origins whose pages may call the client port.",
    ),
    flag(
        "max-retry-attempts",
        Count,
        &["ETCD_MAX_RETRY_ATTEMPTS"],
        "max_retry_attempts",
        "3",
        "How often the peers are tried before joining is given up.",
    ),
    flag(
        "retry-interval",
        Seconds,
        &["ETCD_RETRY_INTERVAL"],
        "retry_interval",
        "10",
        "Seconds between two tries.",
    ),
    flag(
        "snapshot-count",
        Count,
        &["ETCD_SNAPSHOT_COUNT", "ETCD_SNAPSHOTCOUNT"],
        "snapshot_count",
        "10000",
        "Log entries after which a checkpoint is written.",
    ),
    without(
        flag("snapshot", Bool, &["ETCD_SNAPSHOT"], "snapshot", "true", "Write snapshots."),
        "checkpoints are always written, beside the running service",
    ),
    without(
        flag(
            "max-result-buffer",
            Count,
            &["ETCD_MAX_RESULT_BUFFER"],
            "max_result_buffer",
            "1024",
            "Size of a result buffer.",
        ),
        "etcd 0.4 did not use it either",
    ),
    flag(
        "peer-heartbeat-interval",
        Count,
        &["ETCD_PEER_HEARTBEAT_INTERVAL"],
        "peer.heartbeat_interval",
        "50",
        "Milliseconds between the leader's heartbeats; lowered to a fifth of the election timeout.",
    ),
    flag(
        "peer-election-timeout",
        Count,
        &["ETCD_PEER_ELECTION_TIMEOUT"],
        "peer.election_timeout",
        "500",
        "Milliseconds without a leader after which a machine stands for election.",
    ),
    flag(
        "cluster-active-size",
        Count,
        &["ETCD_CLUSTER_ACTIVE_SIZE"],
        "cluster.active_size",
        "9",
        "Machines that vote. Counts where the machine founds a cluster; afterwards /v2/admin/config has it.",
    ),
    flag(
        "cluster-remove-delay",
        Seconds,
        &["ETCD_CLUSTER_REMOVE_DELAY"],
        "cluster.remove_delay",
        "1800",
        "Seconds after which a silent machine may be replaced. Counts where a cluster is founded.",
    ),
    flag(
        "cluster-sync-interval",
        Seconds,
        &["ETCD_CLUSTER_SYNC_INTERVAL"],
        "cluster.sync_interval",
        "5",
        "Seconds between two looks of a standby at the cluster. Counts where a cluster is founded.",
    ),
    flag(
        "forward",
        Bool,
        &["ETCD_FORWARD"],
        "forward",
        "false",
        "Pass clients' requests on to the leader instead of telling them where it is. etcd 0.4 does not have it.",
    ),
    flag(
        "history-window",
        Count,
        &["ETCD_HISTORY_WINDOW"],
        "history_window",
        "0",
        "Events that the cluster keeps for watchers that begin in the past; 0 leaves it as it is: 1000, in a new \
         cluster. etcd 0.4 does not have it.",
    ),
    flag(
        "http-read-timeout",
        Seconds,
        &["ETCD_HTTP_READ_TIMEOUT"],
        "http_read_timeout",
        "300",
        "Seconds that a client may take to send a request.",
    ),
    without(
        flag(
            "http-write-timeout",
            Seconds,
            &["ETCD_HTTP_WRITE_TIMEOUT"],
            "http_write_timeout",
            "300",
            "Seconds that an answer may take.",
        ),
        "a watch may wait as long as its client does",
    ),
    without(
        flag("trace", Text, &["ETCD_TRACE"], "trace", "", "Serve /debug/metrics and profiles."),
        NO_PROFILES,
    ),
    without(
        flag("graphite-host", Text, &["ETCD_GRAPHITE_HOST"], "graphite_host", "", "Send metrics there."),
        "metrics are not pushed anywhere",
    ),
    without(
        flag("cpuprofile", Text, &["ETCD_CPU_PROFILE_FILE"], "cpu_profile_file", "", "Write a profile."),
        NO_PROFILES,
    ),
    flag("config", Text, &[], "", "", "Configuration file in TOML, read after /etc/etcd/etcd.conf."),
    flag("f", Bool, &[], "", "false", "Start afresh: what the data folder holds is removed."),
    flag("force", Bool, &[], "", "false", "The same."),
    flag("v", Bool, &["ETCD_VERBOSE"], "verbose", "false", "Log details."),
    flag("vv", Bool, &["ETCD_VERY_VERBOSE"], "very_verbose", "false", "The same."),
    flag(
        "vvv",
        Bool,
        &["ETCD_VERY_VERY_VERBOSE"],
        "very_very_verbose",
        "false",
        "The same; there is no finer level.",
    ),
    flag("version", Bool, &[], "", "false", "Print the version."),
    flag("help", Bool, &[], "", "false", "Print this page."),
    flag("h", Bool, &[], "", "false", "Print this page."),
];

/// Older names, and the flags that they stand for.
pub const ALIASES: &[(&str, &str)] = &[
    ("C", "peers"),
    ("CF", "peers-file"),
    ("n", "name"),
    ("c", "addr"),
    ("cl", "bind-addr"),
    ("s", "peer-addr"),
    ("sl", "peer-bind-addr"),
    ("d", "data-dir"),
    ("m", "max-result-buffer"),
    ("r", "max-retry-attempts"),
    ("maxsize", "cluster-active-size"),
    ("max-cluster-size", "cluster-active-size"),
    ("clientCAFile", "ca-file"),
    ("clientCert", "cert-file"),
    ("clientKey", "key-file"),
    ("serverCAFile", "peer-ca-file"),
    ("serverCert", "peer-cert-file"),
    ("serverKey", "peer-key-file"),
    ("snapshotCount", "snapshot-count"),
    ("peer-heartbeat-timeout", "peer-heartbeat-interval"),
    ("remove-delay", "cluster-remove-delay"),
    ("sync-interval", "cluster-sync-interval"),
];

/// The flag of this name; an older name leads to the flag that it stands for.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    let name = ALIASES.iter().find(|(old, _)| *old == name).map_or(name, |(_, now)| now);
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Whether etcd 0.4 has this flag and etcd 3 has not.
#[must_use]
pub fn is_of_0_4_alone(name: &str) -> bool {
    find(name).is_some() && !matches!(name, "h" | "help") && crate::server::find(name).is_none()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_variables_and_keys_are_unique_and_aliases_lead_somewhere() {
        let mut seen = BTreeSet::new();
        for flag in FLAGS {
            assert!(seen.insert(flag.name), "-{} is there twice", flag.name);
            for variable in flag.variables {
                assert!(seen.insert(variable), "{variable} is there twice");
            }
            assert!(!flag.help.is_empty());
        }
        for (old, now) in ALIASES {
            assert!(seen.insert(old), "-{old} is there twice");
            assert_eq!(find(old).map(|flag| flag.name), Some(*now));
        }
    }

    #[test]
    fn what_tells_the_two_etcds_apart() {
        for only in ["peer-addr", "addr", "peers", "f", "C", "bind-addr", "peer-ca-file", "graphite-host"] {
            assert!(is_of_0_4_alone(only), "-{only}");
        }
        for both in
            ["name", "data-dir", "discovery", "cert-file", "snapshot-count", "help", "version", "no-such"]
        {
            assert!(!is_of_0_4_alone(both), "-{both}");
        }
    }
}
