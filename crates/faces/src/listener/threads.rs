//! The threads: one that accepts, and the net threads.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_member::with_callers_log;
use quorate_tls::Acceptor as TlsAcceptor;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

use super::connection::{Peer, Served};
use super::open_files;
use super::seldom::Seldom;
use super::{Face, ListenConfig, Port, Stopping, ThreadFace};

/// Accepted connections that wait for one net thread; more wait in the system's queue of the port.
const HANDED_OVER_MAX: usize = 256;
/// Between two looks whether a net thread takes one more.
const HAND_OVER_RETRY: Duration = Duration::from_millis(1);
/// After a failed accept (no file descriptors left, mostly).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// What a thread may take to end beyond the time that requests have.
const JOIN_MARGIN: Duration = Duration::from_millis(500);

/// What may be under way, in each direction, on a connection within the process.
const LOCAL_BUFFER_BYTES: usize = 256 * 1024;

/// A connection on its way to a net thread.
enum Accepted {
    Tcp(TcpStream, SocketAddr, Option<Arc<TlsAcceptor>>),
    Local(DuplexStream),
}

/// Listening ports. Dropped, it stops.
pub struct Serving {
    addrs: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    stop_timeout: Duration,
    connections: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    local: LocalPort,
}

/// Where programs in the same process connect, without a socket. It does not keep anything running.
#[derive(Clone)]
pub struct LocalPort(Weak<Acceptor>);

impl LocalPort {
    /// A new connection, to speak HTTP on as over a socket. Fails with [`io::ErrorKind::NotConnected`] once the ports
    /// are closed, otherwise where no more connections are taken.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the member has stopped");
        let acceptor = self.0.upgrade().ok_or_else(gone)?;
        let (ours, theirs) = tokio::io::duplex(LOCAL_BUFFER_BYTES);
        let refused = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
        let counted = acceptor.count().map_err(refused)?;
        match acceptor.offer((Accepted::Local(theirs), counted)) {
            None => Ok(ours),
            Some(_) => Err(refused("its net threads are too busy to take it".to_owned())),
        }
    }
}

impl Serving {
    pub(super) fn start(
        config: ListenConfig,
        faces: Vec<Arc<dyn Face>>,
        listeners: Vec<Port>,
    ) -> io::Result<Self> {
        let addrs =
            listeners.iter().map(|port| port.listener.local_addr()).collect::<io::Result<Vec<_>>>()?;
        let (stop, stopping) = watch::channel(false);
        let connections = Arc::new(AtomicUsize::new(0));
        let stop_timeout = config.stop_timeout;
        let mut serving = Self {
            addrs,
            stop,
            stop_timeout,
            connections: Arc::clone(&connections),
            threads: Vec::new(),
            local: LocalPort(Weak::new()),
        };
        let config = Arc::new(config);
        let connections_max = config.connections_max.min(open_files::connections_max());
        if connections_max < config.connections_max {
            let wanted = config.connections_max;
            tracing::info!(connections_max, wanted, "the limit on open files bounds clients' connections");
        }
        let faces: Arc<[Arc<dyn Face>]> = faces.into();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.net_threads == 0 { cores() } else { config.net_threads };
        let mut hand_over = Vec::with_capacity(count);
        for number in 0..count {
            let (sender, accepted) = mpsc::channel(HANDED_OVER_MAX);
            let net = NetThread {
                config: Arc::clone(&config),
                faces: Arc::clone(&faces),
                stopping: stopping.clone(),
            };
            let runtime = runtime()?;
            let thread = std::thread::Builder::new().name(format!("quorate-net-{number}"));
            serving.threads.push(thread.spawn(with_callers_log(move || net.run(&runtime, accepted)))?);
            hand_over.push(sender);
        }
        let acceptor = Arc::new(Acceptor {
            connections_max,
            connections,
            refusals: Mutex::default(),
            failures: Mutex::default(),
            hand_over: hand_over.into(),
            next: AtomicUsize::new(0),
        });
        serving.local = LocalPort(Arc::downgrade(&acceptor));
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("quorate-accept".to_owned());
        let run = with_callers_log(move || acceptor.run(&runtime, listeners, stopping));
        serving.threads.push(thread.spawn(run)?);
        Ok(serving)
    }

    /// The addresses, with the ports that were taken.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The way in for programs in the same process.
    #[must_use]
    pub fn local(&self) -> LocalPort {
        self.local.clone()
    }

    /// Takes no more connections, lets requests finish within [`ListenConfig::stop_timeout`], and closes what is left.
    pub fn stop(self) {
        self.stop_while(|| ());
    }

    /// The same; `look` is called again and again while requests are waited for.
    pub fn stop_while(mut self, look: impl FnMut()) {
        self.end(look);
    }

    fn end(&mut self, mut look: impl FnMut()) {
        self.stop.send_replace(true);
        let deadline = Instant::now() + self.stop_timeout + JOIN_MARGIN;
        for thread in self.threads.drain(..) {
            // A thread is not waited for beyond the bound: its runtime ends with it or with the process.
            while !thread.is_finished() && Instant::now() < deadline {
                look();
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a net thread had panicked");
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end(|| ());
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

struct NetThread {
    config: Arc<ListenConfig>,
    faces: Arc<[Arc<dyn Face>]>,
    stopping: watch::Receiver<bool>,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NetThread {
    fn run(self, runtime: &tokio::runtime::Runtime, mut accepted: mpsc::Receiver<(Accepted, Counted)>) {
        runtime.block_on(async {
            let stopping = Stopping::new(self.stopping.clone());
            let faces: Arc<[Arc<dyn ThreadFace>]> =
                self.faces.iter().map(|face| face.on_thread(&stopping)).collect();
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    next = accepted.recv() => {
                        let Some((next, counted)) = next else { break };
                        self.serve(next, counted, &faces, &mut tasks);
                    }
                    Some(ended) = tasks.join_next() => {
                        if let Err(error) = ended {
                            tracing::error!(%error, "serving a connection failed");
                        }
                    }
                }
            }
            // The acceptor is gone: a stop. What does not end in time is dropped.
            let all = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(self.config.stop_timeout, all).await;
        });
    }

    fn serve(
        &self,
        accepted: Accepted,
        counted: Counted,
        faces: &Arc<[Arc<dyn ThreadFace>]>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) {
        let served = |tls| Served {
            config: Arc::clone(&self.config),
            faces: Arc::clone(faces),
            stopping: self.stopping.clone(),
            tls,
        };
        match accepted {
            Accepted::Tcp(stream, peer, tls) => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => {
                    let served = served(tls);
                    tasks.spawn(async move {
                        served.run(stream, Peer::At(peer)).await;
                        drop(counted);
                    });
                }
                Err(error) => tracing::warn!(%peer, %error, "can't serve a connection"),
            },
            Accepted::Local(stream) => {
                let served = served(None);
                tasks.spawn(async move {
                    served.run_local(stream).await;
                    drop(counted);
                });
            }
        }
    }
}

struct Acceptor {
    connections_max: usize,
    connections: Arc<AtomicUsize>,
    hand_over: Box<[mpsc::Sender<(Accepted, Counted)>]>,
    next: AtomicUsize,
    refusals: Mutex<Seldom>,
    failures: Mutex<Seldom>,
}

impl Acceptor {
    fn run(
        self: Arc<Self>,
        runtime: &tokio::runtime::Runtime,
        listeners: Vec<Port>,
        mut stopping: watch::Receiver<bool>,
    ) {
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for Port { listener, tls } in listeners {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        tasks.spawn(Arc::clone(&self).accept(listener, tls));
                    }
                    Err(error) => tracing::error!(%error, "can't accept connections on a port"),
                }
            }
            // An error says that the sender is gone, which is a stop as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        });
    }

    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener, tls: Option<Arc<TlsAcceptor>>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => match stream.into_std() {
                    Ok(stream) => self.hand_over(stream, peer, tls.clone()).await,
                    Err(error) => tracing::warn!(%peer, %error, "can't serve a connection"),
                },
                Err(error) => {
                    self.note_failure(&error);
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn note_failure(&self, error: &io::Error) {
        let Some(untold) = self.failures.lock().unwrap_or_else(PoisonError::into_inner).line() else {
            return;
        };
        if open_files::none_left(error) {
            tracing::warn!(
                untold,
                "no file descriptor is left for another client's connection; it waits: raise the limit on open files \
                 (ulimit -n, LimitNOFILE)"
            );
        } else {
            tracing::warn!(%error, untold, "accepting a connection failed");
        }
    }

    /// A place among the connections that may be open; else why there is none.
    fn count(&self) -> Result<Counted, String> {
        let counted = Counted(Arc::clone(&self.connections));
        let open = self.connections.fetch_add(1, Ordering::Relaxed);
        if open < self.connections_max {
            return Ok(counted);
        }
        Err(format!("as many as allowed are open (connections_max={})", self.connections_max))
    }

    /// Gives a connection to the net thread whose turn it is, or to another one that has room in its queue; waits where
    /// none has. A connection too many is closed.
    async fn hand_over(&self, stream: TcpStream, peer: SocketAddr, tls: Option<Arc<TlsAcceptor>>) {
        let counted = match self.count() {
            Ok(counted) => counted,
            Err(why) => {
                let untold = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).line();
                if let Some(untold) = untold {
                    tracing::warn!(%peer, untold, "closed a connection: {why}");
                }
                return;
            }
        };
        let mut waiting = (Accepted::Tcp(stream, peer, tls), counted);
        while let Some(back) = self.offer(waiting) {
            waiting = back;
            tokio::time::sleep(HAND_OVER_RETRY).await;
        }
    }

    /// Puts a connection into a net thread's queue. It comes back where all are full.
    fn offer(&self, mut offered: (Accepted, Counted)) -> Option<(Accepted, Counted)> {
        use mpsc::error::TrySendError;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for number in 0..self.hand_over.len() {
            let to = (first + number) % self.hand_over.len();
            match self.hand_over[to].try_send(offered) {
                Ok(()) => return None,
                Err(TrySendError::Full(back) | TrySendError::Closed(back)) => offered = back,
            }
        }
        Some(offered)
    }
}
