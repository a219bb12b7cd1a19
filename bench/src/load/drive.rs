//! The clients of one thread, and what they record.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::schedule::Schedule;
use super::{Outcome, Share, Window};
use crate::client::Connection;
use crate::latency::Latencies;
use crate::workload::{Requests, Workload};

/// How long answers are awaited after the end of a run.
const GRACE: Duration = Duration::from_secs(10);
/// Due requests that no client has taken yet.
const DUE_MAX: usize = 16 * 1024;
/// What a client waits after an error, so that a dead endpoint does not make it spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Runs the clients of one thread to their end.
pub(super) async fn drive(
    share: &Share,
    connections: &[Connection],
    workload: &Workload,
    window: Window,
    budget: &Arc<AtomicU64>,
) -> Outcome {
    let Some(rate) = share.requests_per_second else {
        // What came before the window would count for nothing, and a short run could be over by then.
        tokio::time::sleep_until(window.first_request).await;
        return drive_clients(share, connections, workload, window, &Source::Budget(Arc::clone(budget)))
            .await;
    };
    let schedule = Schedule::new(window.first_request, window.end, rate, share.phase);
    let (sender, receiver) = mpsc::channel(DUE_MAX);
    // A thread, because a runtime's timers are only good to a millisecond.
    std::thread::spawn(move || schedule.send_on_time(&sender));
    let due = Source::Due(Rc::new(Mutex::new(receiver)));
    let mut outcome = drive_clients(share, connections, workload, window, &due).await;
    // Those that no client ever came to.
    let begun = outcome.latencies_count() + outcome.errors + outcome.unfinished;
    outcome.unfinished += schedule.due_in(window.start, window.end).saturating_sub(begun);
    outcome
}

/// Where clients learn that the next request is to be sent.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Closed loop: at once, while requests are left.
    Budget(Arc<AtomicU64>),
    /// Open loop: when it is due.
    Due(Rc<Mutex<mpsc::Receiver<Instant>>>),
}

impl Source {
    /// The instant from which the next request's latency counts; none when there is no more.
    async fn next(&self, end: Instant) -> Option<Instant> {
        match self {
            Self::Budget(budget) => {
                let left =
                    budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                Some(Instant::now()).filter(|&now| left.is_ok() && now < end)
            }
            Self::Due(due) => due.lock().await.recv().await,
        }
    }
}

pub(super) async fn drive_clients(
    share: &Share,
    connections: &[Connection],
    workload: &Workload,
    window: Window,
    source: &Source,
) -> Outcome {
    let recorder = Rc::new(RefCell::new(Recorder::new(window)));
    let tasks: Vec<_> = share
        .clients
        .iter()
        .enumerate()
        .map(|(place, &number)| {
            let client = Client {
                connection: connections[place % connections.len()].clone(),
                requests: workload.requests(number),
                recorder: Rc::clone(&recorder),
            };
            tokio::task::spawn_local(client.run(source.clone(), window.end))
        })
        .collect();
    let deadline = window.end + GRACE;
    for mut task in tasks {
        if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
        }
    }
    let recorder = recorder.borrow();
    recorder.outcome()
}

/// One client: one request at a time.
struct Client {
    connection: Connection,
    requests: Requests,
    recorder: Rc<RefCell<Recorder>>,
}

impl Client {
    async fn run(mut self, source: Source, end: Instant) {
        while let Some(due) = source.next(end).await {
            let request = self.requests.next();
            self.recorder.borrow_mut().begin(due);
            let answer = self.connection.unary(request.rpc, request.message.clone()).await;
            let now = Instant::now();
            let checked = match answer {
                Ok(answer) => request.check(&answer),
                Err(error) => Err(error.to_string()),
            };
            let failed = checked.is_err();
            self.recorder.borrow_mut().end(request.kind, due, now, checked);
            if failed {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// What a thread's clients saw.
struct Recorder {
    window: Window,
    latencies: Latencies,
    answers: u64,
    errors: u64,
    first_error: Option<String>,
    in_flight: u64,
    last_answer: Instant,
}

impl Recorder {
    fn new(window: Window) -> Self {
        Self {
            window,
            latencies: Latencies::default(),
            answers: 0,
            errors: 0,
            first_error: None,
            in_flight: 0,
            last_answer: window.start,
        }
    }

    fn begin(&mut self, due: Instant) {
        self.in_flight += u64::from(self.window.holds(due));
    }

    fn end(&mut self, kind: crate::workload::Kind, due: Instant, now: Instant, checked: Result<(), String>) {
        let measured = self.window.holds(due);
        self.in_flight -= u64::from(measured);
        match checked {
            Ok(()) => {
                self.answers += u64::from(self.window.holds(now));
                self.last_answer = self.last_answer.max(now);
                if measured {
                    self.latencies.record(kind, now.saturating_duration_since(due));
                }
            }
            Err(error) => {
                // Errors of the warm-up count too: nothing may be wrong at any time.
                self.errors += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let end = self.window.fixed_end.unwrap_or(self.last_answer);
        Outcome {
            answers: self.answers,
            errors: self.errors,
            unfinished: self.in_flight,
            first_error: self.first_error.clone(),
            elapsed: end.saturating_duration_since(self.window.start),
            latencies: self.latencies.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Response};
    use quorate_wire::etcdserverpb::PutResponse;
    use tokio::task::LocalSet;

    use super::*;
    use crate::client::framed;
    use crate::workload::{Kind, Operation, Order};

    /// A server that answers each put after `delay`, and nothing while it is stalled.
    async fn serve(
        io: tokio::io::DuplexStream,
        delay: Duration,
        stall: (Instant, Instant),
        served: Rc<Cell<u64>>,
    ) {
        let mut connection = h2::server::handshake(io).await.expect("a handshake");
        while let Some(request) = connection.accept().await {
            let Ok((_, mut respond)) = request else { return };
            let served = Rc::clone(&served);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(delay).await;
                if Instant::now() >= stall.0 {
                    tokio::time::sleep_until(stall.1).await;
                }
                served.set(served.get() + 1);
                let mut body = respond.send_response(Response::new(()), false).expect("a head");
                body.send_data(framed(&PutResponse::default()), false).expect("a body");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                body.send_trailers(trailers).expect("trailers");
            });
        }
    }

    struct World {
        connection: Connection,
        served: Rc<Cell<u64>>,
    }

    async fn world(delay: Duration, stall: (Instant, Instant)) -> World {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let served = Rc::new(Cell::new(0));
        tokio::task::spawn_local(serve(theirs, delay, stall, Rc::clone(&served)));
        World { connection: Connection::over(ours, "127.0.0.1:1").await.expect("a connection"), served }
    }

    fn window(start: Instant, seconds: u64) -> Window {
        let end = start + Duration::from_secs(seconds);
        Window { first_request: start, start, end, fixed_end: Some(end) }
    }

    fn share(clients: u64) -> Share {
        Share {
            clients: (0..clients).collect(),
            endpoints: Vec::new(),
            requests_per_second: None,
            phase: 0.0,
        }
    }

    fn puts() -> Workload {
        Workload::new(Operation::Put, Order::Random, 10, 16, 1)
    }

    /// Runs on virtual time.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, test);
    }

    /// Due times sent on virtual time, as the schedule's thread does on real time.
    fn due_every(interval: Duration, window: Window) -> Source {
        let (sender, receiver) = mpsc::channel(DUE_MAX);
        tokio::task::spawn_local(async move {
            let mut due = window.start;
            while due < window.end {
                tokio::time::sleep_until(due).await;
                if sender.send(due).await.is_err() {
                    return;
                }
                due += interval;
            }
        });
        Source::Due(Rc::new(Mutex::new(receiver)))
    }

    #[test]
    fn an_open_loop_charges_a_stall_to_all_that_were_due_meanwhile() {
        run(async {
            let start = Instant::now();
            // The third second of ten is lost. One client, so that it can send nothing during the stall.
            let stall = (start + Duration::from_secs(2), start + Duration::from_secs(3));
            let world = world(Duration::from_millis(1), stall).await;
            let window = window(start, 10);
            let source = due_every(Duration::from_millis(10), window);
            let outcome = drive_clients(&share(1), &[world.connection], &puts(), window, &source).await;
            let writes = outcome.latencies.of(Kind::Write).expect("writes");
            assert_eq!((writes.count, outcome.errors, outcome.unfinished), (1000, 0, 0));
            assert_eq!(world.served.get(), 1000);
            // 100 of the 1,000 were due in the stall: a tenth waited for more than nothing, a fiftieth 0.8 s or more.
            assert!(writes.p50_us < 3000.0, "{writes:?}");
            assert!(writes.p99_us > 800_000.0, "{writes:?}");
        });
    }

    #[test]
    fn a_closed_loop_counts_answers_of_the_window_and_no_others() {
        run(async {
            let start = Instant::now();
            let never = (start + Duration::from_secs(100), start + Duration::from_secs(101));
            let world = world(Duration::from_millis(10), never).await;
            let mut window = window(start, 2);
            window.start += Duration::from_secs(1);
            let source = Source::Budget(Arc::new(AtomicU64::new(u64::MAX)));
            let outcome = drive_clients(&share(4), &[world.connection], &puts(), window, &source).await;
            assert!((380..=400).contains(&outcome.answers), "{}", outcome.answers);
            assert!(world.served.get() > 2 * outcome.answers - 10, "the warm-up was served too");
            assert_eq!(outcome.elapsed, Duration::from_secs(1));
        });
    }

    #[test]
    fn requests_that_are_never_answered_are_reported() {
        run(async {
            let start = Instant::now();
            let stall = (start + Duration::from_secs(1), start + Duration::from_secs(1000));
            let world = world(Duration::from_millis(10), stall).await;
            let window = window(start, 2);
            let source = Source::Budget(Arc::new(AtomicU64::new(u64::MAX)));
            let outcome = drive_clients(&share(3), &[world.connection], &puts(), window, &source).await;
            assert_eq!((outcome.unfinished, outcome.errors), (3, 0));
        });
    }

    #[test]
    fn a_number_of_requests_is_kept_exactly() {
        run(async {
            let start = Instant::now();
            let never = (start + Duration::from_secs(100), start + Duration::from_secs(101));
            let world = world(Duration::from_millis(10), never).await;
            let mut window = window(start, 50);
            window.fixed_end = None;
            let source = Source::Budget(Arc::new(AtomicU64::new(25)));
            let outcome = drive_clients(&share(4), &[world.connection], &puts(), window, &source).await;
            assert_eq!((outcome.answers, world.served.get()), (25, 25));
            assert!(outcome.elapsed < Duration::from_secs(1), "{:?}", outcome.elapsed);
        });
    }

    #[test]
    fn a_refusal_is_an_error_with_the_servers_words() {
        run(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(theirs).await.expect("a handshake");
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut response = Response::new(());
                    response.headers_mut().insert("grpc-status", HeaderValue::from_static("8"));
                    response
                        .headers_mut()
                        .insert("grpc-message", HeaderValue::from_static("too many requests"));
                    respond.send_response(response, true).expect("a head");
                }
            });
            let mut connection = Connection::over(ours, "127.0.0.1:1").await.expect("a connection");
            let error = connection.unary(crate::client::Rpc::Put, Bytes::new()).await.expect_err("a refusal");
            assert!(error.to_string().contains("gRPC status 8: too many requests"), "{error}");
        });
    }
}
