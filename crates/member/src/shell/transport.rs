//! Frames between members over TCP.
//!
//! Each member dials each peer once per lane and only sends on the connections that it dialled. Invariants:
//!
//! - Nothing of a connection is read before its handshake went through: same protocol, same cluster, a known member in
//!   its first incarnation, meant for us. A refusal says why, in both logs.
//! - Queues are bounded; a frame that finds its queue full is dropped and the peer reported unreachable. Consensus
//!   sends again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_ids::MemberId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use super::book::PeerBook;
use super::inbox::Inbox;
use crate::core::LogInput;
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameError, Hello, Lane, PROTOCOL_VERSION};
use crate::handle::Identity;
use crate::membership::{Member, MemberList};
use crate::metrics::Metrics;

/// Frames that may wait for a peer, per lane.
const FRAMES_QUEUED_MAX: usize = 4096;
/// Frames that leave with one write.
const FRAMES_PER_WRITE_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
const REDIAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections that peers may have open to us at a time.
const INCOMING_MAX: usize = 1024;
/// How long a full log loop is waited for before a frame is taken from the wire again.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// What went wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("refused by the peer: {0}")]
    Refused(String),
    #[error("refused: {0}")]
    Refusing(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0} is no address of a peer: http://HOST:PORT is expected")]
    Url(String),
}

struct Queue {
    urls: Vec<String>,
    lanes: BTreeMap<Lane, mpsc::Sender<Bytes>>,
}

struct State {
    identity: Identity,
    book: PeerBook,
    inbox: Arc<Inbox<LogInput>>,
    metrics: Arc<Metrics>,
    members: Mutex<MemberList>,
    queues: Mutex<BTreeMap<MemberId, Queue>>,
}

/// The peers of one member. Dropping it ends its thread and all connections.
pub struct Transport {
    state: Arc<State>,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Transport {
    /// Starts the peer thread on listeners that are bound already.
    pub fn start(
        identity: Identity,
        book: PeerBook,
        listeners: Vec<std::net::TcpListener>,
        inbox: Arc<Inbox<LogInput>>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State {
            identity,
            book,
            inbox,
            metrics,
            members: Mutex::new(MemberList::default()),
            queues: Mutex::new(BTreeMap::new()),
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let serving = state.clone();
        let thread = std::thread::Builder::new().name("quorate-peers".to_owned()).spawn(move || {
            runtime.block_on(async move {
                for listener in listeners {
                    tokio::spawn(accept(serving.clone(), listener));
                }
                let _ = stopped.await;
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?;
        Ok(Self { state, runtime: handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Tells the transport who the members are now: new ones are dialled, others dropped.
    pub fn set_members(&self, list: &MemberList) {
        *self.state.members.lock().unwrap_or_else(PoisonError::into_inner) = list.clone();
        let mut queues = self.state.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|id, queue| list.get(*id).is_some_and(|member| member.peer_urls == queue.urls));
        for member in list.iter().filter(|member| member.id != self.state.identity.member) {
            queues.entry(member.id).or_insert_with(|| self.dial(member));
        }
    }

    fn dial(&self, member: &Member) -> Queue {
        let lanes = Lane::ALL.into_iter().map(|lane| {
            let (queue, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
            self.runtime.spawn(keep_connected(self.state.clone(), member.clone(), lane, frames));
            (lane, queue)
        });
        Queue { urls: member.peer_urls.clone(), lanes: lanes.collect() }
    }

    /// Queues a frame; drops it where there is no room or no such peer.
    pub fn send(&self, to: MemberId, lane: Lane, frame: Bytes) {
        let queues = self.state.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queues.get(&to).and_then(|queue| queue.lanes.get(&lane)) else { return };
        let bytes = frame.len();
        if queue.try_send(frame).is_ok() {
            self.state.metrics.peer_sent(to, bytes);
        } else {
            drop(queues);
            self.state.metrics.peer_send_failed(to);
            self.state.inbox.report(LogInput::Unreachable { to });
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens a TCP connection to the first of `urls` that answers.
async fn connect(urls: &[String]) -> Result<TcpStream, LinkError> {
    let mut last = LinkError::Url("(none)".to_owned());
    for url in urls {
        let Some(address) = super::urls::host_and_port(url) else {
            last = LinkError::Url(url.clone());
            continue;
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = LinkError::Timeout(CONNECT_TIMEOUT),
        }
    }
    Err(last)
}

/// Reads one frame; `buffer` keeps what came beyond it.
async fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Bytes, LinkError> {
    loop {
        if let Some(len) = Frame::len_of(buffer)? {
            if buffer.len() >= len {
                return Ok(buffer.split_to(len).freeze());
            }
            buffer.reserve((len - buffer.len()).min(1024 * 1024));
        } else {
            buffer.reserve(64 * 1024);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(LinkError::Closed);
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, work).await.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT)))
}

// ---- dialling ----

async fn keep_connected(state: Arc<State>, peer: Member, lane: Lane, mut frames: mpsc::Receiver<Bytes>) {
    let mut pause = REDIAL_PAUSE_MIN;
    let mut said = String::new();
    while !frames.is_closed() {
        match dial_once(&state, &peer, lane).await {
            Ok(stream) => {
                tracing::info!(peer = %peer.id, name = peer.name, ?lane, "connected to a peer");
                said.clear();
                pause = REDIAL_PAUSE_MIN;
                if pump(stream, &mut frames).await.is_none() {
                    return;
                }
                tracing::info!(peer = %peer.id, ?lane, "lost the connection to a peer");
            }
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    tracing::warn!(peer = %peer.id, urls = ?peer.peer_urls, ?lane, error = text, "no connection to a peer");
                    said = text;
                }
            }
        }
        // What waited for the lost connection is stale: consensus sends again what still matters.
        while frames.try_recv().is_ok() {}
        state.inbox.report(LogInput::Unreachable { to: peer.id });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REDIAL_PAUSE_MAX);
    }
}

async fn dial_once(state: &State, peer: &Member, lane: Lane) -> Result<TcpStream, LinkError> {
    let mut stream = connect(&peer.peer_urls).await?;
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: state.identity.cluster,
        member: state.identity.member,
        incarnation: state.identity.incarnation,
        lane,
        to: peer.id,
    };
    in_time(async {
        stream.write_all(&Frame::Hello(hello).encode()).await?;
        let mut buffer = BytesMut::new();
        match Frame::decode(read_frame(&mut stream, &mut buffer).await?)? {
            Frame::Hello(answer) => {
                check_identity(state, &answer)?;
                if answer.member != peer.id {
                    let text = format!("{} answers at the address of member {}", answer.member, peer.id);
                    return Err(LinkError::Refusing(text));
                }
                Ok(())
            }
            Frame::Refused { reason } => Err(LinkError::Refused(reason)),
            _ => Err(LinkError::Refusing("the peer answered a handshake with something else".to_owned())),
        }
    })
    .await?;
    Ok(stream)
}

/// Writes frames until the connection breaks (`Some`) or the peer is dropped (`None`).
async fn pump(mut stream: TcpStream, frames: &mut mpsc::Receiver<Bytes>) -> Option<()> {
    let mut taken = Vec::with_capacity(FRAMES_PER_WRITE_MAX);
    let mut probe = [0u8; 1];
    loop {
        let count = tokio::select! {
            count = frames.recv_many(&mut taken, FRAMES_PER_WRITE_MAX) => count,
            // The peer never sends on this connection: anything that arrives is its end.
            _ = stream.read(&mut probe) => return Some(()),
        };
        if count == 0 {
            return None;
        }
        let written = match &taken[..] {
            [one] => stream.write_all(one).await,
            many => stream.write_all(&many.concat()).await,
        };
        taken.clear();
        if written.is_err() {
            return Some(());
        }
    }
}

// ---- listening ----

async fn accept(state: Arc<State>, listener: std::net::TcpListener) {
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => {
            state.inbox.report(LogInput::Failed { reason: format!("the peer listener failed: {error}") });
            return;
        }
    };
    let slots = Arc::new(tokio::sync::Semaphore::new(INCOMING_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let state = state.clone();
                tokio::spawn(async move {
                    if let Err(error) = incoming(&state, stream).await {
                        let closed = matches!(&error, LinkError::Closed);
                        if closed {
                            tracing::debug!(%from, "a peer closed its connection");
                        } else {
                            tracing::warn!(%from, %error, "a peer connection ended");
                        }
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: peers dial again.
                tracing::warn!(%error, "a peer connection was not accepted");
                tokio::time::sleep(REDIAL_PAUSE_MAX).await;
            }
        }
    }
}

async fn incoming(state: &State, mut stream: TcpStream) -> Result<(), LinkError> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    let hello = in_time(async {
        match Frame::decode(read_frame(&mut stream, &mut buffer).await?)? {
            Frame::Hello(hello) => Ok(hello),
            _ => Err(LinkError::Refusing("a connection that starts without a handshake".to_owned())),
        }
    })
    .await?;
    if hello.cluster.0 == 0 {
        return tell_members(state, stream).await;
    }
    if let Err(error) = admit(state, &hello) {
        let reason = match &error {
            LinkError::Refusing(reason) => reason.clone(),
            other => other.to_string(),
        };
        let _ = in_time(async { Ok(stream.write_all(&Frame::Refused { reason }.encode()).await?) }).await;
        return Err(error);
    }
    let answer = Hello {
        version: PROTOCOL_VERSION,
        cluster: state.identity.cluster,
        member: state.identity.member,
        incarnation: state.identity.incarnation,
        lane: hello.lane,
        to: hello.member,
    };
    in_time(async { Ok(stream.write_all(&Frame::Hello(answer).encode()).await?) }).await?;
    let from = hello.member;
    loop {
        let frame = read_frame(&mut stream, &mut buffer).await?;
        state.metrics.peer_received(from, frame.len());
        // A member that was removed meanwhile has nothing more to say.
        if state.members.lock().unwrap_or_else(PoisonError::into_inner).was_removed(from) {
            return Err(LinkError::Refusing(format!("member {from} was removed from the cluster")));
        }
        let mut input = LogInput::Frame { from, frame };
        while let Err(back) = state.inbox.offer(input) {
            input = back;
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }
}

/// A joiner that has no cluster yet may ask who the members are, and nothing else.
async fn tell_members(state: &State, mut stream: TcpStream) -> Result<(), LinkError> {
    let list = state.members.lock().unwrap_or_else(PoisonError::into_inner).encode();
    let answer = Frame::Members { cluster: state.identity.cluster, list };
    in_time(async { Ok(stream.write_all(&answer.encode()).await?) }).await
}

fn check_identity(state: &State, hello: &Hello) -> Result<(), LinkError> {
    let refuse = |reason: String| Err(LinkError::Refusing(reason));
    if hello.version != PROTOCOL_VERSION {
        return refuse(format!(
            "the peer speaks protocol version {}, this one {PROTOCOL_VERSION}",
            hello.version
        ));
    }
    if hello.cluster != state.identity.cluster {
        return refuse(format!(
            "cluster ID mismatch: member {} is of cluster {}, this is member {} of cluster {}",
            hello.member, hello.cluster, state.identity.member, state.identity.cluster
        ));
    }
    let admitted = state.book.admit(hello.member, hello.incarnation)?;
    if !admitted {
        return refuse(format!(
            "member {} came back with an empty data folder and may have forgotten its votes: remove it from the \
             cluster and add it again",
            hello.member
        ));
    }
    Ok(())
}

fn admit(state: &State, hello: &Hello) -> Result<(), LinkError> {
    let refuse = |reason: String| Err(LinkError::Refusing(reason));
    {
        let members = state.members.lock().unwrap_or_else(PoisonError::into_inner);
        if hello.cluster == state.identity.cluster {
            if members.was_removed(hello.member) {
                return refuse(format!("member {} was removed from the cluster", hello.member));
            }
            if members.get(hello.member).is_none() {
                return refuse(format!("member {} is not known here (yet)", hello.member));
            }
        }
    }
    if hello.cluster == state.identity.cluster && hello.to != state.identity.member {
        return refuse(format!("member {} is meant, this is member {}", hello.to, state.identity.member));
    }
    check_identity(state, hello)
}

/// Asks the peers at `urls` who the members of their cluster are: what a joiner needs to know before it has one.
pub async fn ask_members(urls: &[String]) -> Result<(quorate_ids::ClusterId, MemberList), LinkError> {
    let mut stream = connect(urls).await?;
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: quorate_ids::ClusterId::ZERO,
        member: MemberId::ZERO,
        incarnation: quorate_ids::Incarnation::ZERO,
        lane: Lane::Control,
        to: MemberId::ZERO,
    };
    in_time(async {
        stream.write_all(&Frame::Hello(hello).encode()).await?;
        let mut buffer = BytesMut::with_capacity(FRAME_HEADER_BYTES);
        match Frame::decode(read_frame(&mut stream, &mut buffer).await?)? {
            Frame::Members { cluster, list } => {
                let list =
                    MemberList::decode(&list).map_err(|error| LinkError::Refusing(error.to_string()))?;
                Ok((cluster, list))
            }
            Frame::Refused { reason } => Err(LinkError::Refused(reason)),
            _ => Err(LinkError::Refusing("the peer answered with something else".to_owned())),
        }
    })
    .await
}

/// Binds the peer listeners; port 0 takes any free port.
pub fn bind(addresses: &[SocketAddr]) -> std::io::Result<Vec<std::net::TcpListener>> {
    addresses
        .iter()
        .map(|address| {
            std::net::TcpListener::bind(address).map_err(|error| {
                std::io::Error::new(error.kind(), format!("listening for peers on {address}: {error}"))
            })
        })
        .collect()
}
