//! Many leases at once: granted, left alone, kept alive while others write, and left to run out.
//!
//! Invariants: no lease may end before the TTL after its last keep-alive was sent, and all that hold a key have to end,
//! or the run is no result.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use prost::Message as _;
use quorate_wire::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest,
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::client::{Connection, Rpc, Stream, framed};
use crate::cluster::{Cluster, System};
use crate::load::{self, Load, Pace, Until};
use crate::workload::{Kind, Operation, Order, Workload};

const CLIENTS: usize = 64;
const CONNECTIONS: usize = 16;
/// Keep-alives of one client that wait for their answer.
const IN_FLIGHT: usize = 16;
/// How long the members are left alone with their leases.
const IDLE: Duration = Duration::from_secs(5);
/// Writers while leases are kept alive.
const WRITERS: usize = 16;
const WRITERS_KEYS: u64 = 20_000;
const VALUE_SIZE_BYTES: usize = 256;
/// How long the last lease may take to end after it is due.
const LATE_MAX: Duration = Duration::from_secs(300);
const KEY_PREFIX: &str = "/lease/";

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Leases {
    pub leases: u64,
    pub ttl_seconds: i64,
    pub key_of_each: u64,
}

/// What was measured: of what, in what, how much.
pub type Figures = Vec<(String, &'static str, f64)>;

/// When a lease was last asked to be kept alive; by its id.
type Kept = BTreeMap<i64, Instant>;

/// Runs all of it on a cluster of its own, with data below `folder`.
pub fn run(system: &System, folder: &Path, what: &Leases) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(system, folder)?;
    let endpoints = cluster.endpoints()?;
    let mut figures = Figures::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();

    let (before, start) = (cluster.cpu_time()?, Instant::now());
    let ids = local.block_on(&runtime, grant(&endpoints, what)).context("granting")?;
    note(&mut figures, "grant", what.leases, start.elapsed(), cluster.cpu_time()?.saturating_sub(before));
    let footprint = cluster.footprint()?;
    figures.push(("memory of all members".to_owned(), "MB", footprint.resident_bytes as f64 / 1e6));

    let before = cluster.cpu_time()?;
    std::thread::sleep(IDLE);
    let idle = cluster.cpu_time()?.saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64();
    figures.push(("CPU of all members, left alone".to_owned(), "ms/s", idle * 1e3));

    let ids: Rc<[i64]> = ids.into();
    let (kept, elapsed, cpu, puts) = std::thread::scope(|scope| {
        let workload =
            Workload::new(Operation::Put, Order::Random, WRITERS_KEYS, VALUE_SIZE_BYTES, what.leases);
        let time = Duration::from_secs_f64(3.0);
        let load = Load {
            clients: WRITERS,
            connections: WRITERS,
            threads: 1,
            pace: Pace::Closed,
            warm_up: Duration::ZERO,
            until: Until::Elapsed(time),
        };
        let endpoints_of_writers = endpoints.clone();
        let writers = scope.spawn(move || load::run(&load, &endpoints_of_writers, &workload, || ()));
        let (before, start) = (cluster.cpu_time()?, Instant::now());
        let kept = local.block_on(&runtime, keep_alive(&endpoints, &ids)).context("keeping alive")?;
        let (elapsed, cpu) = (start.elapsed(), cluster.cpu_time()?.saturating_sub(before));
        let (puts, ..) = writers.join().map_err(|_| anyhow::anyhow!("the writers panicked"))??;
        Ok::<_, anyhow::Error>((kept, elapsed, cpu, puts))
    })?;
    note(&mut figures, "keep-alive beside 16 writers", what.leases, elapsed, cpu);
    if let Some(quantiles) = puts.latencies.of(Kind::Write) {
        figures.push(("put meanwhile: throughput".to_owned(), "/s", puts.rate()));
        figures.push(("put meanwhile: p99".to_owned(), "us", quantiles.p99_us));
    }

    let (before, start) = (cluster.cpu_time()?, Instant::now());
    let late = local.block_on(&runtime, run_out(&endpoints[0], what, &ids, &kept)).context("running out")?;
    let cpu = cluster.cpu_time()?.saturating_sub(before);
    for (name, at) in [("half of them", 0.5), ("99 of 100", 0.99), ("the last", 1.0)] {
        let place = ((late.len() - 1) as f64 * at) as usize;
        figures.push((format!("end after it is due, {name}"), "ms", late[place].as_secs_f64() * 1e3));
    }
    figures.push(("CPU of an end".to_owned(), "us", cpu.as_secs_f64() * 1e6 / what.leases as f64));
    figures.push(("until the last has ended".to_owned(), "s", start.elapsed().as_secs_f64()));
    Ok(figures)
}

fn note(figures: &mut Figures, name: &str, count: u64, elapsed: Duration, cpu: Duration) {
    figures.push((format!("{name}: throughput"), "/s", count as f64 / elapsed.as_secs_f64()));
    figures.push((format!("{name}: server CPU"), "us each", cpu.as_secs_f64() * 1e6 / count as f64));
}

async fn connections(endpoints: &[String]) -> anyhow::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for number in 0..CONNECTIONS {
        all.push(Connection::open(&endpoints[number % endpoints.len()]).await?);
    }
    Ok(all)
}

fn key(lease: i64) -> Bytes {
    format!("{KEY_PREFIX}{lease:016x}").into()
}

/// Waits for all tasks; the first failure is the outcome.
async fn joined<T>(tasks: Vec<tokio::task::JoinHandle<anyhow::Result<T>>>) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.context("a client ended early")??);
    }
    Ok(all)
}

/// Grants all leases, and gives some of them a key.
async fn grant(endpoints: &[String], what: &Leases) -> anyhow::Result<Vec<i64>> {
    let connections = connections(endpoints).await?;
    let next = Rc::new(RefCell::new(0_u64));
    let tasks = (0..CLIENTS).map(|client| {
        let (mut connection, next, what) =
            (connections[client % CONNECTIONS].clone(), Rc::clone(&next), *what);
        tokio::task::spawn_local(async move {
            let mut ids = Vec::new();
            loop {
                let number = next.replace_with(|next| *next + 1);
                if number >= what.leases {
                    return Ok(ids);
                }
                let request = LeaseGrantRequest { ttl: what.ttl_seconds, id: 0 };
                let answer = connection.unary(Rpc::LeaseGrant, framed(&request)).await?;
                let id = LeaseGrantResponse::decode(answer)?.id;
                if number % what.key_of_each == 0 {
                    let put = PutRequest { key: key(id), lease: id, ..PutRequest::default() };
                    connection.unary(Rpc::Put, framed(&put)).await?;
                }
                ids.push(id);
            }
        })
    });
    Ok(joined(tasks.collect()).await?.concat())
}

/// Keeps each lease alive once; when each was asked for.
async fn keep_alive(endpoints: &[String], ids: &Rc<[i64]>) -> anyhow::Result<Kept> {
    let connections = connections(endpoints).await?;
    let share = ids.len().div_ceil(CLIENTS);
    let tasks = (0..CLIENTS).map(|client| {
        let (mut connection, ids) = (connections[client % CONNECTIONS].clone(), Rc::clone(ids));
        tokio::task::spawn_local(async move {
            let from = (client * share).min(ids.len());
            let mut left = ids[from..(from + share).min(ids.len())].iter().copied();
            let mut kept = Kept::new();
            let Some(first) = left.next() else { return Ok(kept) };
            let request = |id| framed(&LeaseKeepAliveRequest { id });
            kept.insert(first, Instant::now());
            let mut stream = connection.stream(Rpc::LeaseKeepAlive, request(first)).await?;
            let mut waiting = 1;
            loop {
                while waiting < IN_FLIGHT
                    && let Some(id) = left.next()
                {
                    kept.insert(id, Instant::now());
                    stream.send(request(id))?;
                    waiting += 1;
                }
                if waiting == 0 {
                    return Ok(kept);
                }
                let answer = LeaseKeepAliveResponse::decode(stream.next().await?)?;
                ensure!(answer.ttl > 0, "lease {:x} ended before its time", answer.id);
                waiting -= 1;
            }
        })
    });
    Ok(joined(tasks.collect()).await?.into_iter().flatten().collect())
}

/// Waits until all leases with a key have ended; how late each was, the earliest first.
async fn run_out(endpoint: &str, what: &Leases, ids: &[i64], kept: &Kept) -> anyhow::Result<Vec<Duration>> {
    let ttl = Duration::from_secs(what.ttl_seconds.unsigned_abs());
    let mut connection = Connection::open(endpoint).await?;
    let mut end = KEY_PREFIX.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    // From the past, so that an end that came too early is seen, too.
    let create = WatchCreateRequest {
        key: KEY_PREFIX.into(),
        range_end: end.into(),
        start_revision: 1,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let mut stream: Stream = connection.stream(Rpc::Watch, framed(&create)).await?;
    let expected = (ids.len() as u64).div_ceil(what.key_of_each);
    let mut late = Vec::new();
    let ends = async {
        while (late.len() as u64) < expected {
            let response = WatchResponse::decode(stream.next().await?)?;
            ensure!(!response.canceled, "the watch was cancelled: {}", response.cancel_reason);
            let now = Instant::now();
            for event in response.events.iter().filter(|event| event.r#type == 1) {
                let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
                let id = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(KEY_PREFIX));
                let id = id.and_then(|id| i64::from_str_radix(id, 16).ok()).context("a key of no lease")?;
                let due = *kept.get(&id).context("a lease that was not kept alive")? + ttl;
                ensure!(now >= due, "lease {id:x} ended {:?} too early", due - now);
                late.push(now - due);
            }
        }
        Ok(())
    };
    tokio::time::timeout(ttl + LATE_MAX, ends).await.context("not all leases have ended")??;
    late.sort_unstable();
    Ok(late)
}
