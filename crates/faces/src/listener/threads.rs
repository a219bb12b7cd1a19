//! The threads: one that accepts, and the net threads.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_member::with_callers_log;
use quorate_tls::Acceptor as TlsAcceptor;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

use super::connection::{Peer, Served};
use super::{Face, ListenConfig, Port, ThreadFace};

/// Accepted connections that wait for one net thread; more are closed.
const HANDED_OVER_MAX: usize = 256;
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
        match acceptor.hand_over(Accepted::Local(theirs)) {
            Ok(()) => Ok(ours),
            Err(why) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, why)),
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
                connections: Arc::clone(&connections),
            };
            let runtime = runtime()?;
            let thread = std::thread::Builder::new().name(format!("net-{number}"));
            serving.threads.push(thread.spawn(with_callers_log(move || net.run(&runtime, accepted)))?);
            hand_over.push(sender);
        }
        let acceptor = Arc::new(Acceptor {
            config,
            connections,
            hand_over: hand_over.into(),
            next: AtomicUsize::new(0),
        });
        serving.local = LocalPort(Arc::downgrade(&acceptor));
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("accept".to_owned());
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
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        let deadline = Instant::now() + self.stop_timeout + JOIN_MARGIN;
        for thread in self.threads.drain(..) {
            // A thread is not waited for beyond the bound: its runtime ends with it or with the process.
            while !thread.is_finished() && Instant::now() < deadline {
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
        self.end();
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

struct NetThread {
    config: Arc<ListenConfig>,
    faces: Arc<[Arc<dyn Face>]>,
    stopping: watch::Receiver<bool>,
    connections: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NetThread {
    fn run(self, runtime: &tokio::runtime::Runtime, mut accepted: mpsc::Receiver<Accepted>) {
        runtime.block_on(async {
            let faces: Arc<[Arc<dyn ThreadFace>]> = self.faces.iter().map(|face| face.on_thread()).collect();
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    next = accepted.recv() => {
                        let Some(next) = next else { break };
                        let counted = Counted(Arc::clone(&self.connections));
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
    config: Arc<ListenConfig>,
    connections: Arc<AtomicUsize>,
    hand_over: Box<[mpsc::Sender<Accepted>]>,
    next: AtomicUsize,
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
                    Ok(stream) => {
                        if let Err(why) = self.hand_over(Accepted::Tcp(stream, peer, tls.clone())) {
                            tracing::warn!(%peer, "closed a connection: {why}");
                        }
                    }
                    Err(error) => tracing::warn!(%peer, %error, "can't serve a connection"),
                },
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Gives a connection to the net thread whose turn it is; else says why not, and drops it.
    fn hand_over(&self, accepted: Accepted) -> Result<(), String> {
        let open = self.connections.fetch_add(1, Ordering::Relaxed);
        let connections_max = self.config.connections_max;
        let refused = if open >= connections_max {
            format!("as many as allowed are open (connections_max={connections_max})")
        } else {
            let to = self.next.fetch_add(1, Ordering::Relaxed) % self.hand_over.len();
            if self.hand_over[to].try_send(accepted).is_ok() {
                return Ok(());
            }
            "its net thread is too busy to take it".to_owned()
        };
        self.connections.fetch_sub(1, Ordering::Relaxed);
        Err(refused)
    }
}
