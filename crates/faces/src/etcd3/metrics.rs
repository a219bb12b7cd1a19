//! What the face counts, under etcd's names, in a registry of its own; the member's are in another.
//!
//! Invariant: counters of calls are made once, at the start, so that counting costs no look-up.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use quorate_member::Handle;
use quorate_models::keys;

use super::Config;
use super::errors::Code;
use super::methods::{METHODS, Method};
use super::process::Process;
use super::{ETCD_CLUSTER_VERSION, ETCD_VERSION};

struct OfMethod {
    started: IntCounter,
    handled_ok: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    /// Where the histograms are wanted.
    seconds: Option<Histogram>,
}

/// See the module.
pub struct Metrics {
    registry: Registry,
    methods: Vec<OfMethod>,
    handled: IntCounterVec,
    puts: IntCounter,
    deletes: IntCounter,
    ranges: IntCounter,
    txns: IntCounter,
    watchers: IntGauge,
    watch_streams: IntGauge,
    events: IntCounter,
    keys: IntGauge,
    current_revision: IntGauge,
    compact_revision: IntGauge,
    slow_watchers: IntGauge,
    db_total_bytes: IntGauge,
    db_live_bytes: IntGauge,
    health_successes: IntCounter,
    health_failures: IntCounter,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    process: Process,
}

impl Metrics {
    #[must_use]
    pub fn new(handle: &Handle, config: &Config) -> Self {
        let registry = Registry::new();
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let calls =
            |name: &str, help: &str| add(&registry, IntCounterVec::new(Opts::new(name, help), &labels));
        let started = calls("grpc_server_started_total", "Calls that were started.");
        let received = calls("grpc_server_msg_received_total", "Messages received.");
        let sent = calls("grpc_server_msg_sent_total", "Messages sent.");
        let seconds = config.metrics_extensive.then(|| {
            let opts = HistogramOpts::new("grpc_server_handling_seconds", "How long calls took.");
            add(&registry, HistogramVec::new(opts, &labels))
        });
        let by_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let opts = Opts::new("grpc_server_handled_total", "Calls that ended, by code.");
        let handled = add(&registry, IntCounterVec::new(opts, &by_code));
        let methods = METHODS
            .iter()
            .map(|entry| {
                let labels = [entry.kind.name(), entry.service, entry.name];
                OfMethod {
                    started: started.with_label_values(&labels),
                    handled_ok: handled.with_label_values(&[
                        labels[0],
                        labels[1],
                        labels[2],
                        Code::Ok.name(),
                    ]),
                    received: received.with_label_values(&labels),
                    sent: sent.with_label_values(&labels),
                    seconds: seconds.as_ref().map(|all| all.with_label_values(&labels)),
                }
            })
            .collect();
        let counter = |name: &str, help: &str| add(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| add(&registry, IntGauge::new(name, help));
        let version = |name: &str, label: &str, help: &str, value: &str| {
            let gauge: IntGaugeVec = add(&registry, IntGaugeVec::new(Opts::new(name, help), &[label]));
            gauge.with_label_values(&[value]).set(1);
        };
        version(
            "etcd_server_version",
            "server_version",
            "The version whose interface is served.",
            ETCD_VERSION,
        );
        version(
            "etcd_cluster_version",
            "cluster_version",
            "The cluster's version.",
            &ETCD_CLUSTER_VERSION[..3],
        );
        let id = format!("{:x}", handle.identity().member.0);
        version("etcd_server_id", "server_id", "This member's id.", &id);
        gauge("etcd_server_quota_backend_bytes", "Live bytes at which puts are refused; 0: no limit.")
            .set(i64::try_from(config.quota_bytes).unwrap_or(i64::MAX));
        Self {
            methods,
            handled,
            puts: counter("etcd_mvcc_put_total", "Puts that this member answered."),
            deletes: counter("etcd_mvcc_delete_total", "Deletes that this member answered."),
            ranges: counter("etcd_mvcc_range_total", "Ranges that this member answered."),
            txns: counter("etcd_mvcc_txn_total", "Transactions that this member answered."),
            watchers: gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            watch_streams: gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watchers."),
            events: counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Keys."),
            current_revision: gauge("etcd_debugging_mvcc_current_revision", "The newest revision."),
            compact_revision: gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision."),
            slow_watchers: gauge(
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watchers whose clients do not keep up, so that they read from history.",
            ),
            db_total_bytes: gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of all records."),
            db_live_bytes: gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Bytes of the records that something still needs.",
            ),
            health_successes: counter("etcd_server_health_success", "Times that /health said true."),
            health_failures: counter("etcd_server_health_failures", "Times that /health said false."),
            received_bytes: counter(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes of messages from clients.",
            ),
            sent_bytes: counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients."),
            process: Process::new(&registry),
            registry,
        }
    }

    /// A call was started.
    pub fn start(&self, method: Method) -> Started {
        let of = &self.methods[method as usize];
        of.started.inc();
        Started {
            method,
            received: of.received.clone(),
            sent: of.sent.clone(),
            handled_ok: of.handled_ok.clone(),
            handled: self.handled.clone(),
            received_bytes: self.received_bytes.clone(),
            sent_bytes: self.sent_bytes.clone(),
            seconds: of.seconds.clone().map(|seconds| (seconds, std::time::Instant::now())),
            ended: false,
        }
    }

    pub fn count_put(&self) {
        self.puts.inc();
    }

    pub fn count_delete(&self) {
        self.deletes.inc();
    }

    pub fn count_range(&self) {
        self.ranges.inc();
    }

    pub fn count_txn(&self) {
        self.txns.inc();
    }

    pub fn watcher_started(&self) {
        self.watchers.inc();
    }

    pub fn watcher_ended(&self) {
        self.watchers.dec();
    }

    pub fn watch_stream_opened(&self) {
        self.watch_streams.inc();
    }

    pub fn watch_stream_closed(&self) {
        self.watch_streams.dec();
    }

    pub fn watch_sent(&self, bytes: usize) {
        self.methods[Method::Watch as usize].sent.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    pub fn watcher_parked(&self) {
        self.slow_watchers.inc();
    }

    pub fn watcher_resumed(&self) {
        self.slow_watchers.dec();
    }

    pub fn count_health(&self, healthy: bool) {
        if healthy { self.health_successes.inc() } else { self.health_failures.inc() }
    }

    pub fn events_sent(&self, count: u64) {
        self.events.inc_by(count);
    }

    /// Everything that the member and this face count, in Prometheus' text format. Of two of one name, the member's.
    pub fn text(&self, handle: &Handle) -> Result<Vec<u8>, prometheus::Error> {
        {
            let tables = handle.store().read();
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let (total, live) = keys::data_bytes(&tables);
            self.db_total_bytes.set(number(total));
            self.db_live_bytes.set(number(live));
            self.keys.set(number(tables.len(quorate_models::tables::KEYS)));
            self.current_revision.set(number(keys::current_revision(&tables).0));
            self.compact_revision.set(number(keys::compacted_revision(&tables).0));
        }
        self.process.look();
        let mut families = handle.metrics().registry.gather();
        let theirs: std::collections::BTreeSet<_> =
            families.iter().map(|family| family.name().to_owned()).collect();
        families.extend(self.registry.gather().into_iter().filter(|family| !theirs.contains(family.name())));
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

pub(super) fn add<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("a metric's name and labels are constants that are valid");
    registry.register(Box::new(metric.clone())).expect("a registry of our own holds each name once");
    metric
}

/// A call under way. Dropped without an end, it counts as canceled.
pub struct Started {
    method: Method,
    received: IntCounter,
    sent: IntCounter,
    handled_ok: IntCounter,
    handled: IntCounterVec,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    seconds: Option<(Histogram, std::time::Instant)>,
    ended: bool,
}

impl Started {
    /// A message came, of so many bytes.
    pub fn received(&self, bytes: usize) {
        self.received.inc();
        self.received_bytes.inc_by(bytes as u64);
    }

    /// A message goes, of so many bytes.
    pub fn sent(&self, bytes: usize) {
        self.sent.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some((seconds, since)) = &self.seconds {
            seconds.observe(since.elapsed().as_secs_f64());
        }
        if code == Code::Ok {
            return self.handled_ok.inc();
        }
        let entry = self.method.entry();
        self.handled.with_label_values(&[entry.kind.name(), entry.service, entry.name, code.name()]).inc();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end(Code::Canceled);
    }
}
