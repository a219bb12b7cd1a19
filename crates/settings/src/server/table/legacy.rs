//! Flags that etcd 3.5 or 3.6 has and 3.7 dropped, and those that etcd itself accepts and ignores.

use crate::server::Group::Legacy;
use crate::server::Kind::{Bool, Choice, Duration, Int, Text, Uint};
use crate::server::Status::{Ignored, NotYet, Renamed, Supported};
use crate::server::{Flag, Kind, Status};

const fn f(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    status: Status,
    help: &'static str,
) -> Flag {
    Flag::new(Legacy, name, kind, default, status, help)
}

const fn experimental(name: &'static str, kind: Kind, default: &'static str, now: &'static str) -> Flag {
    f(name, kind, default, Renamed(now), "Older name of the flag without experimental-.")
}

const LONG_GONE: &str = "etcd has ignored it for years as well";

const NO_PROXY: &str = "there is no version 2 proxy";

const fn gone(name: &'static str) -> Flag {
    f(name, Text, "", Ignored(LONG_GONE), "Accepted for old command lines.")
}

pub(super) const FLAGS: &[Flag] = &[
    f("discovery", Text, "", NotYet, "URL of a version 2 discovery service."),
    f("discovery-proxy", Text, "", NotYet, "HTTP proxy for the version 2 discovery service."),
    f(
        "enable-v2",
        Bool,
        "false",
        Supported,
        "Speak version 2 of the interface, too, on the client ports: /v2, with a tree of its own.",
    ),
    f("max-snapshots", Uint, "5", Ignored("checkpoints replace each other"), "Snapshot files to keep."),
    f(
        "v2-deprecation",
        Choice(&["write-only", "write-only-drop-data", "gone"]),
        "write-only",
        Ignored("there is no version 2 store to retire"),
        "Stage of the retirement of etcd's version 2 store.",
    ),
    experimental(
        "experimental-bootstrap-defrag-threshold-megabytes",
        Uint,
        "0",
        "bootstrap-defrag-threshold-megabytes",
    ),
    f(
        "experimental-compact-hash-check-enabled",
        Bool,
        "false",
        Ignored("members compare the hashes of their tables at equal applied index all the time"),
        "Compare hashes at compacted revisions.",
    ),
    experimental("experimental-compact-hash-check-time", Duration, "1m0s", "compact-hash-check-time"),
    experimental("experimental-compaction-batch-limit", Int, "1000", "compaction-batch-limit"),
    experimental("experimental-compaction-sleep-interval", Duration, "10ms", "compaction-sleep-interval"),
    experimental("experimental-corrupt-check-time", Duration, "0s", "corrupt-check-time"),
    experimental(
        "experimental-distributed-tracing-address",
        Text,
        "localhost:4317",
        "distributed-tracing-address",
    ),
    experimental("experimental-distributed-tracing-instance-id", Text, "", "distributed-tracing-instance-id"),
    experimental(
        "experimental-distributed-tracing-sampling-rate",
        Int,
        "0",
        "distributed-tracing-sampling-rate",
    ),
    experimental(
        "experimental-distributed-tracing-service-name",
        Text,
        "etcd",
        "distributed-tracing-service-name",
    ),
    experimental("experimental-downgrade-check-time", Duration, "5s", "downgrade-check-time"),
    experimental("experimental-enable-distributed-tracing", Bool, "false", "enable-distributed-tracing"),
    f(
        "experimental-enable-lease-checkpoint",
        Bool,
        "false",
        NotYet,
        "Carry the remaining time of leases over a change of leader.",
    ),
    f(
        "experimental-enable-lease-checkpoint-persist",
        Bool,
        "false",
        NotYet,
        "Keep the remaining time of leases on disk.",
    ),
    f(
        "experimental-initial-corrupt-check",
        Bool,
        "false",
        Ignored("every record read is checked, and the members' hashes are compared all the time"),
        "Compare the data with the other members before serving.",
    ),
    experimental("experimental-max-learners", Int, "1", "max-learners"),
    experimental("experimental-memory-mlock", Bool, "false", "memory-mlock"),
    experimental(
        "experimental-peer-skip-client-san-verification",
        Bool,
        "false",
        "peer-skip-client-san-verification",
    ),
    experimental("experimental-snapshot-catchup-entries", Uint, "5000", "snapshot-catchup-entries"),
    f(
        "experimental-stop-grpc-service-on-defrag",
        Bool,
        "false",
        Ignored("nothing is ever defragmented"),
        "Don't serve while defragmenting.",
    ),
    f(
        "experimental-txn-mode-write-with-shared-buffer",
        Bool,
        "true",
        Ignored("transactions don't copy a read buffer"),
        "Share the read buffer within write transactions.",
    ),
    experimental("experimental-warning-apply-duration", Duration, "100ms", "warning-apply-duration"),
    experimental(
        "experimental-warning-unary-request-duration",
        Duration,
        "300ms",
        "warning-unary-request-duration",
    ),
    experimental(
        "experimental-watch-progress-notify-interval",
        Duration,
        "10m0s",
        "watch-progress-notify-interval",
    ),
    f(
        "proxy",
        Choice(&["off", "readonly", "on"]),
        "off",
        NotYet,
        "Run as etcd's version 2 proxy (etcd 3.5).",
    ),
    f("proxy-failure-wait", Uint, "5000", Ignored(NO_PROXY), "A setting of the version 2 proxy (etcd 3.5)."),
    f(
        "proxy-refresh-interval",
        Uint,
        "30000",
        Ignored(NO_PROXY),
        "A setting of the version 2 proxy (etcd 3.5).",
    ),
    f("proxy-dial-timeout", Uint, "1000", Ignored(NO_PROXY), "A setting of the version 2 proxy (etcd 3.5)."),
    f("proxy-write-timeout", Uint, "5000", Ignored(NO_PROXY), "A setting of the version 2 proxy (etcd 3.5)."),
    f("proxy-read-timeout", Uint, "0", Ignored(NO_PROXY), "A setting of the version 2 proxy (etcd 3.5)."),
    f(
        "experimental-enable-v2v3",
        Text,
        "",
        NotYet,
        "Serve version 2 from version 3's keys below a prefix (etcd 3.5).",
    ),
    f(
        "experimental-wait-cluster-ready-timeout",
        Duration,
        "5s",
        Ignored("the client ports open at once, and requests wait for a leader"),
        "How long to wait for the cluster before clients are served (etcd 3.5).",
    ),
    gone("cluster-active-size"),
    gone("cluster-remove-delay"),
    gone("cluster-sync-interval"),
    gone("config"),
    f("force", Bool, "false", Ignored(LONG_GONE), "Accepted for old command lines."),
    gone("max-result-buffer"),
    gone("max-retry-attempts"),
    gone("peer-heartbeat-interval"),
    gone("peer-election-timeout"),
    gone("retry-interval"),
    f("snapshot", Bool, "false", Ignored(LONG_GONE), "Accepted for old command lines."),
    f("v", Bool, "false", Ignored(LONG_GONE), "Accepted for old command lines."),
    f("vv", Bool, "false", Ignored(LONG_GONE), "Accepted for old command lines."),
    gone("test.coverprofile"),
    gone("test.outputdir"),
];
