//! What a member counts, under the names that etcd's dashboards know. One registry a member; no globals.

use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use quorate_ids::MemberId;

/// See the module.
pub struct Metrics {
    pub registry: Registry,
    pub has_leader: IntGauge,
    pub is_leader: IntGauge,
    pub is_learner: IntGauge,
    pub leader_changes_seen: IntCounter,
    pub proposals_committed: IntGauge,
    pub proposals_applied: IntGauge,
    pub proposals_pending: IntGauge,
    pub proposals_failed: IntCounter,
    pub wal_fsync_seconds: Histogram,
    pub checkpoint_seconds: Histogram,
    pub records_mended: IntCounter,
    pub records_lost: IntCounter,
    pub files_condemned: IntCounter,
    peer_sent_bytes: CounterVec,
    peer_received_bytes: CounterVec,
    peer_sent_failures: CounterVec,
    peer_sent_frames: IntCounterVec,
    peer_received_frames: IntCounter,
}

/// Buckets of etcd's disk histograms: 1 ms, doubling, 14 of them.
fn disk_buckets() -> Vec<f64> {
    (0..14).map(|i| 0.001 * f64::from(1u32 << i)).collect()
}

impl Metrics {
    /// A registry with all metrics in it, at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let by_peer = |name: &str, help: &str, label: &str| {
            register(&registry, CounterVec::new(Opts::new(name, help), &[label]))
        };
        let seconds = |name: &str, help: &str| {
            register(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(disk_buckets())))
        };
        Self {
            has_leader: gauge("etcd_server_has_leader", "Whether a leader is known: 1 or 0."),
            is_leader: gauge("etcd_server_is_leader", "Whether this member leads: 1 or 0."),
            is_learner: gauge("etcd_server_is_learner", "Whether this member is a learner: 1 or 0."),
            leader_changes_seen: counter(
                "etcd_server_leader_changes_seen_total",
                "Changes of leader that this member saw.",
            ),
            proposals_committed: gauge("etcd_server_proposals_committed_total", "The commit index."),
            proposals_applied: gauge("etcd_server_proposals_applied_total", "The applied index."),
            proposals_pending: gauge(
                "etcd_server_proposals_pending",
                "Requests whose outcome is not known yet.",
            ),
            proposals_failed: counter(
                "etcd_server_proposals_failed_total",
                "Requests that were refused or given up.",
            ),
            wal_fsync_seconds: seconds(
                "etcd_disk_wal_fsync_duration_seconds",
                "One write and sync of the log.",
            ),
            checkpoint_seconds: seconds(
                "etcd_disk_backend_commit_duration_seconds",
                "One checkpoint of the store.",
            ),
            records_mended: counter(
                "quorate_store_records_mended_total",
                "Damaged records that a peer's copy replaced.",
            ),
            records_lost: counter("quorate_store_records_lost_total", "Damaged records that no peer had."),
            files_condemned: counter(
                "quorate_store_files_condemned_total",
                "Damaged files of the store that were found when a snapshot was to be sent, and written anew.",
            ),
            peer_sent_bytes: by_peer("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.", "To"),
            peer_received_bytes: by_peer(
                "etcd_network_peer_received_bytes_total",
                "Bytes received from a peer.",
                "From",
            ),
            peer_sent_failures: by_peer(
                "etcd_network_peer_sent_failures_total",
                "Frames to a peer that were dropped.",
                "To",
            ),
            peer_sent_frames: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("quorate_peer_sent_frames_total", "Frames handed to a peer's connection."),
                    &["To"],
                ),
            ),
            peer_received_frames: counter("quorate_peer_received_frames_total", "Frames from all peers."),
            registry,
        }
    }

    pub(crate) fn peer_sent(&self, to: MemberId, bytes: usize) {
        let to = to.to_string();
        self.peer_sent_bytes.with_label_values(&[&to]).inc_by(bytes as f64);
        self.peer_sent_frames.with_label_values(&[&to]).inc();
    }

    pub(crate) fn peer_received(&self, from: MemberId, bytes: usize) {
        self.peer_received_bytes.with_label_values(&[&from.to_string()]).inc_by(bytes as f64);
        self.peer_received_frames.inc();
    }

    pub(crate) fn peer_send_failed(&self, to: MemberId) {
        self.peer_sent_failures.with_label_values(&[&to.to_string()]).inc();
    }

    /// Everything in the registry, in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("names and labels are constants that Prometheus accepts");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}
