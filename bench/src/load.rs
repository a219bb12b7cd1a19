//! Clients that load endpoints: each waiting for its answer (closed loop), or at a rate that does not wait (open loop).
//!
//! Invariants: in an open loop a latency counts from when the request was due, not from when a client was free to
//! send it, so a server that stalls is charged for all that should have been sent meanwhile. A request that was begun
//! inside the measured window counts towards the latencies however late its answer comes; one that never
//! gets an answer is reported as unfinished. The queue of due requests is bounded; a full one delays sending, never the
//! time from which a latency counts.

mod drive;
mod schedule;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::client::Connection;
use crate::latency::Latencies;
use crate::workload::{Kind, Workload};

/// From the word that all clients are connected to the first request.
const START_DELAY: Duration = Duration::from_millis(20);
/// How long a run of a number of requests may take at most.
const REQUESTS_ELAPSED_MAX: Duration = Duration::from_secs(1800);

/// How much load, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub clients: usize,
    /// Spread over the endpoints in turn, and the clients over them.
    pub connections: usize,
    pub threads: usize,
    pub pace: Pace,
    /// Load that is not measured, before.
    pub warm_up: Duration,
    pub until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each client sends its next request when it has its answer.
    Closed,
    /// Requests are due at this rate over all clients, whatever the answers do.
    Open { requests_per_second: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Elapsed(Duration),
    /// As many requests; closed loop, without warm-up.
    Requests(u64),
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Good answers that came inside the measured window.
    pub answers: u64,
    pub errors: u64,
    /// Due inside the window, or begun, and never answered.
    pub unfinished: u64,
    pub first_error: Option<String>,
    pub elapsed: Duration,
    pub latencies: Latencies,
}

impl Outcome {
    /// Good answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^53 answers")]
        let answers = self.answers as f64;
        answers / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn latencies_count(&self) -> u64 {
        let count = |kind| self.latencies.of(kind).map_or(0, |quantiles| quantiles.count);
        count(Kind::Read) + count(Kind::Write)
    }

    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.errors += other.errors;
        self.unfinished += other.unfinished;
        self.first_error = self.first_error.take().or(other.first_error);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latencies.add(&other.latencies);
    }
}

/// Runs `workload` on `endpoints`. `probe` is called at the start and at the end of the measured window.
pub fn run<T>(
    load: &Load,
    endpoints: &[String],
    workload: &Workload,
    mut probe: impl FnMut() -> T,
) -> anyhow::Result<(Outcome, T, T)> {
    anyhow::ensure!(!endpoints.is_empty(), "no endpoint given");
    anyhow::ensure!(load.clients > 0 && load.connections > 0 && load.threads > 0, "no client to run");
    if let (Pace::Open { .. }, Until::Requests(_)) = (load.pace, load.until) {
        anyhow::bail!("a rate needs a duration, not a number of requests");
    }
    let threads = load.threads.min(load.clients);
    let budget = Arc::new(AtomicU64::new(match load.until {
        Until::Elapsed(_) => u64::MAX,
        Until::Requests(requests) => requests,
    }));
    let mut workers = Vec::new();
    for number in 0..threads {
        workers.push(Worker::start(Share::of(load, threads, number, endpoints), workload, &budget)?);
    }
    // All clients are connected before the first request of any.
    let mut connected = Ok(());
    for worker in &mut workers {
        let ready = std::mem::replace(&mut worker.ready, oneshot::channel().1);
        connected = connected.and(ready.blocking_recv().context("a load thread ended early")?);
    }
    connected?;
    let window = Window::from(Instant::now() + START_DELAY, load);
    for worker in &mut workers {
        let go = worker.go.take().expect("a worker is released once");
        go.send(window).ok().context("a load thread ended early")?;
    }
    std::thread::sleep(window.start.saturating_duration_since(Instant::now()));
    let before = probe();
    if let Until::Elapsed(_) = load.until {
        std::thread::sleep(window.end.saturating_duration_since(Instant::now()));
    }
    let mut outcome = Outcome::default();
    if let Until::Elapsed(_) = load.until {
        let after = probe();
        for worker in workers {
            outcome.add(worker.finish()?);
        }
        return Ok((outcome, before, after));
    }
    for worker in workers {
        outcome.add(worker.finish()?);
    }
    Ok((outcome, before, probe()))
}

/// When to measure.
#[derive(Clone, Copy, Debug)]
struct Window {
    first_request: Instant,
    start: Instant,
    end: Instant,
    /// None where the window ends with the last answer.
    fixed_end: Option<Instant>,
}

impl Window {
    fn from(first_request: Instant, load: &Load) -> Self {
        let start = first_request + load.warm_up;
        match load.until {
            Until::Elapsed(duration) => {
                let end = start + duration;
                Self { first_request, start, end, fixed_end: Some(end) }
            }
            Until::Requests(_) => {
                Self { first_request, start, end: start + REQUESTS_ELAPSED_MAX, fixed_end: None }
            }
        }
    }

    fn holds(&self, instant: Instant) -> bool {
        (self.start..self.end).contains(&instant)
    }
}

/// What one thread does of a load.
#[derive(Debug)]
struct Share {
    /// Numbers of the clients.
    clients: Vec<u64>,
    endpoints: Vec<String>,
    requests_per_second: Option<f64>,
    /// Shift of this thread's first due request, as a share of the interval.
    phase: f64,
}

impl Share {
    fn of(load: &Load, threads: usize, number: usize, endpoints: &[String]) -> Self {
        let mine = |count: usize| (0..count).filter(move |each| each % threads == number);
        let connections = load.connections.clamp(threads, load.clients.max(threads));
        #[expect(clippy::cast_precision_loss, reason = "a few threads")]
        let (number_f64, threads_f64) = (number as f64, threads as f64);
        Self {
            clients: mine(load.clients).map(|each| each as u64).collect(),
            endpoints: mine(connections).map(|each| endpoints[each % endpoints.len()].clone()).collect(),
            requests_per_second: match load.pace {
                Pace::Closed => None,
                Pace::Open { requests_per_second } => Some(requests_per_second / threads_f64),
            },
            phase: number_f64 / threads_f64,
        }
    }
}

/// A thread with a runtime of its own.
struct Worker {
    thread: std::thread::JoinHandle<anyhow::Result<Outcome>>,
    ready: oneshot::Receiver<Result<(), anyhow::Error>>,
    go: Option<oneshot::Sender<Window>>,
}

impl Worker {
    fn start(share: Share, workload: &Workload, budget: &Arc<AtomicU64>) -> anyhow::Result<Self> {
        let (ready_sender, ready) = oneshot::channel();
        let (go, go_receiver) = oneshot::channel();
        let (workload, budget) = (workload.clone(), Arc::clone(budget));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, async move {
                let mut connections = Vec::new();
                for endpoint in &share.endpoints {
                    match Connection::open(endpoint).await {
                        Ok(connection) => connections.push(connection),
                        Err(error) => {
                            ready_sender.send(Err(error.into())).ok();
                            return Ok(Outcome::default());
                        }
                    }
                }
                if ready_sender.send(Ok(())).is_err() {
                    return Ok(Outcome::default());
                }
                // No word to start: another thread could not connect.
                let Ok(window) = go_receiver.await else { return Ok(Outcome::default()) };
                Ok(drive::drive(&share, &connections, &workload, window, &budget).await)
            })
        })?;
        Ok(Self { thread, ready, go: Some(go) })
    }

    fn finish(self) -> anyhow::Result<Outcome> {
        self.thread.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))?
    }
}
