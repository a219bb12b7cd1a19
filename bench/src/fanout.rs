//! One writer, and watchers on each member that all want to hear of every put.
//!
//! Invariants: every watcher stands before the first put; each gets each event once and in order, or the run is no
//! result; the time counts until the last watcher has the last event, so that nothing is gained by delivering late.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use quorate_wire::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::client::{Connection, Rpc, Stream, framed};
use crate::workload::{Operation, Order, Workload, all_keys};

/// Watchers that share a connection, each with a stream of its own.
const STREAMS_PER_CONNECTION: usize = 32;
/// How long the last events may take after the last put.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What a run gave.
#[derive(Clone, Copy, Debug)]
pub struct Delivered<T> {
    pub puts: u64,
    /// Events that watchers got, over all of them.
    pub events: u64,
    /// From the first put to the last event.
    pub elapsed: Duration,
    /// What the probe said before the first put, and after the last event.
    pub before: T,
    pub after: T,
}

/// What the tasks share.
#[derive(Default)]
struct Shared {
    events: Cell<u64>,
    /// So many events are the last.
    expected: Cell<Option<u64>>,
    failed: RefCell<Option<anyhow::Error>>,
    changed: Notify,
}

/// Puts keys of `workload` one after the other for `time`, with `watchers` on each of `endpoints`; the writer is on the
/// first.
pub fn run<T>(
    endpoints: &[String],
    watchers: usize,
    workload: &Workload,
    time: Duration,
    mut probe: impl FnMut() -> T,
) -> anyhow::Result<Delivered<T>> {
    ensure!(workload.operation == Operation::Put && workload.order == Order::Random, "the writer puts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let shared = Rc::new(Shared::default());
        for endpoint in endpoints {
            watch(endpoint, watchers, &shared).await.with_context(|| format!("watching {endpoint}"))?;
        }
        let all = u64::try_from(endpoints.len() * watchers)?;
        let mut writer = Connection::open(&endpoints[0]).await?;
        let mut requests = workload.requests(0);
        let before = probe();
        let start = Instant::now();
        let mut puts = 0;
        while start.elapsed() < time {
            let next = requests.next();
            writer.unary(next.rpc, next.message.clone()).await?;
            puts += 1;
        }
        shared.expected.set(Some(puts * all));
        let drained = async {
            while shared.events.get() < puts * all && shared.failed.borrow().is_none() {
                shared.changed.notified().await;
            }
        };
        let in_time = tokio::time::timeout(DRAIN_MAX, drained).await;
        let (elapsed, after, events) = (start.elapsed(), probe(), shared.events.get());
        if let Some(error) = shared.failed.take() {
            return Err(error);
        }
        ensure!(in_time.is_ok(), "{events} of {} events came within {DRAIN_MAX:?}", puts * all);
        Ok(Delivered { puts, events, elapsed, before, after })
    })
}

/// Starts watchers at one member; they stand when this returns.
async fn watch(endpoint: &str, watchers: usize, shared: &Rc<Shared>) -> anyhow::Result<()> {
    let (key, range_end) = all_keys();
    let create = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let create = framed(&create);
    let mut left = watchers;
    while left > 0 {
        let mut connection = Connection::open(endpoint).await?;
        for _ in 0..left.min(STREAMS_PER_CONNECTION) {
            let mut stream = connection.stream(Rpc::Watch, create.clone()).await?;
            let created = WatchResponse::decode(stream.next().await?)?;
            ensure!(created.created && !created.canceled, "the watch was not created: {created:?}");
            let shared = Rc::clone(shared);
            tokio::task::spawn_local(async move {
                if let Err(error) = receive(stream, &shared).await {
                    shared.failed.borrow_mut().get_or_insert(error);
                    shared.changed.notify_one();
                }
            });
        }
        left = left.saturating_sub(STREAMS_PER_CONNECTION);
    }
    Ok(())
}

/// Counts what one watcher gets.
async fn receive(mut stream: Stream, shared: &Shared) -> anyhow::Result<()> {
    let mut last = 0;
    loop {
        let response = WatchResponse::decode(stream.next().await?)?;
        ensure!(!response.canceled, "a watch was cancelled: {}", response.cancel_reason);
        for event in &response.events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            ensure!(revision > last, "revision {revision} came after {last}");
            last = revision;
        }
        shared.events.set(shared.events.get() + response.events.len() as u64);
        if shared.expected.get().is_some_and(|expected| shared.events.get() >= expected) {
            shared.changed.notify_one();
        }
    }
}
