//! Flags of logging, observation, compaction, checks and feature gates.

use crate::server::Group::{Features, Logging, Observability, Unsafe};
use crate::server::Kind::{Bool, Choice, Duration, Int, List, Text, Uint};
use crate::server::Status::{Ignored, NotYet, Supported};
use crate::server::{Flag, Group, Kind, Status};

const fn f(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    status: Status,
    help: &'static str,
) -> Flag {
    Flag::new(group, name, kind, default, status, help)
}

const NO_DEFRAGMENTATION: &str = "space comes back by itself, nothing is ever defragmented";
const COMPACTION_PACE: &str = "compaction runs beside the writes and paces itself";

pub(super) const FLAGS: &[Flag] = &[
    f(
        Logging,
        "log-level",
        Choice(&["debug", "info", "warn", "error", "panic", "fatal"]),
        "info",
        Supported,
        "Least severity that is logged.",
    ),
    f(
        Logging,
        "log-format",
        Choice(&["json", "console"]),
        "json",
        Supported,
        "json: an object a line; console: text.",
    ),
    f(
        Logging,
        "log-outputs",
        List,
        "default",
        Supported,
        "Where the log goes: stderr (the default), stdout, paths of files.",
    ),
    f(Logging, "logger", Choice(&["zap"]), "zap", Ignored("there is one logger"), "Kind of logger."),
    f(
        Logging,
        "enable-log-rotation",
        Bool,
        "false",
        Supported,
        "Rotate the log file; log-outputs has to be the path of one file.",
    ),
    f(
        Logging,
        "log-rotation-config-json",
        Text,
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
        Supported,
        "When to rotate the log file: megabytes, and how many days and how many old files are kept (0: all).",
    ),
    f(Observability, "listen-metrics-urls", List, "", NotYet, "More addresses for /metrics and /health."),
    f(
        Observability,
        "metrics",
        Choice(&["basic", "extensive"]),
        "basic",
        Supported,
        "extensive: latency histograms of every call too.",
    ),
    f(
        Observability,
        "enable-pprof",
        Bool,
        "false",
        Ignored("the profiles are those of a Go runtime; use perf"),
        "Serve Go profiles.",
    ),
    f(Observability, "warning-apply-duration", Duration, "100ms", NotYet, "Log an apply that takes longer."),
    f(
        Observability,
        "warning-unary-request-duration",
        Duration,
        "300ms",
        NotYet,
        "Log a request that takes longer.",
    ),
    f(Observability, "enable-distributed-tracing", Bool, "false", NotYet, "Send traces by OpenTelemetry."),
    f(
        Observability,
        "distributed-tracing-address",
        Text,
        "localhost:4317",
        NotYet,
        "Collector of the traces.",
    ),
    f(Observability, "distributed-tracing-service-name", Text, "etcd", NotYet, "Service name in the traces."),
    f(Observability, "distributed-tracing-instance-id", Text, "", NotYet, "Instance id in the traces."),
    f(Observability, "distributed-tracing-sampling-rate", Int, "0", NotYet, "Traces sampled of a million."),
    f(
        Features,
        "auto-compaction-mode",
        Choice(&["periodic", "revision"]),
        "periodic",
        Supported,
        "What auto-compaction-retention counts.",
    ),
    f(
        Features,
        "auto-compaction-retention",
        Text,
        "0",
        Supported,
        "History to keep: a time (a plain number: hours), or a number of revisions; 0: all.",
    ),
    f(
        Features,
        "compaction-batch-limit",
        Int,
        "1000",
        Ignored(COMPACTION_PACE),
        "Revisions dropped in one step of a compaction.",
    ),
    f(
        Features,
        "compaction-sleep-interval",
        Duration,
        "10ms",
        Ignored(COMPACTION_PACE),
        "Pause between two steps of a compaction.",
    ),
    f(
        Features,
        "watch-progress-notify-interval",
        Duration,
        "10m0s",
        Supported,
        "Time between progress notices on idle watches.",
    ),
    f(
        Features,
        "corrupt-check-time",
        Duration,
        "0s",
        Ignored("members compare the hashes of their tables at equal applied index all the time"),
        "Time between comparisons of the members' data.",
    ),
    f(
        Features,
        "compact-hash-check-time",
        Duration,
        "1m0s",
        Ignored("members compare the hashes of their tables at equal applied index all the time"),
        "Time between comparisons of the members' hashes at compacted revisions.",
    ),
    f(Features, "downgrade-check-time", Duration, "5s", NotYet, "Time between looks at a running downgrade."),
    f(
        Features,
        "bootstrap-defrag-threshold-megabytes",
        Uint,
        "0",
        Ignored(NO_DEFRAGMENTATION),
        "Defragment at start if it frees so much.",
    ),
    f(Features, "feature-gates", Text, "", NotYet, "Name=true or Name=false, comma-separated."),
    f(Unsafe, "force-new-cluster", Bool, "false", NotYet, "Make this member's data a cluster of one."),
    f(
        Unsafe,
        "unsafe-no-fsync",
        Bool,
        "false",
        NotYet,
        "Don't sync the log: a crash loses acknowledged writes.",
    ),
];
