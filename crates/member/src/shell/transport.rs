//! Frames between members over TCP, with TLS where a peer URL starts with `https://`.
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

use bytes::{Buf, Bytes, BytesMut};
use quorate_ids::MemberId;
use quorate_tls::{Acceptor, Connector, HandshakeError, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use super::book::PeerBook;
use super::inbox::Inbox;
use super::peer_http::{self, HttpConnection, PeerHttp};
use super::reachability::Reachability;
use crate::config::PeerTls;
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
/// What one read takes from a connection, at least and at most.
const READ_BYTES: usize = 64 * 1024;
const READ_BYTES_MAX: usize = 1024 * 1024;
/// A larger read buffer is given back once it is empty.
const READ_BYTES_KEPT_MAX: usize = 256 * 1024;
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
    #[error("{0} is no address of a peer: http://HOST:PORT or https://HOST:PORT is expected")]
    Url(String),
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    #[error(
        "{0} has TLS, and this member has nothing to check it with: set peer-trusted-ca-file or peer-auto-tls"
    )]
    NoCa(String),
}

struct Queue {
    urls: Vec<String>,
    lanes: BTreeMap<Lane, mpsc::Sender<Bytes>>,
}

struct State {
    identity: Identity,
    book: PeerBook,
    /// For the peers that have TLS.
    tls: Option<Arc<Connector>>,
    /// Serves connections that speak HTTP/1; without it they are refused.
    http: Option<PeerHttp>,
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
        listeners: Vec<Bound>,
        tls: Option<Arc<Connector>>,
        http: Option<PeerHttp>,
        inbox: Arc<Inbox<LogInput>>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State {
            identity,
            book,
            tls,
            http,
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
        let news = Arc::new(Reachability::new(member.clone()));
        let lanes = Lane::ALL.into_iter().map(|lane| {
            let (queue, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
            let (state, news) = (self.state.clone(), news.clone());
            self.runtime.spawn(keep_connected(state, news, member.clone(), lane, frames));
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

/// Opens a connection to the first of `urls` that answers, with TLS where the URL says so.
async fn connect(urls: &[String], tls: Option<&Connector>) -> Result<Stream<TcpStream>, LinkError> {
    let mut last = LinkError::Url("(none)".to_owned());
    for url in urls {
        let Some(address) = super::urls::host_and_port(url) else {
            last = LinkError::Url(url.clone());
            continue;
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                match secure(stream, url, &address, tls).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = LinkError::Timeout(CONNECT_TIMEOUT),
        }
    }
    Err(last)
}

/// The TLS handshake with a peer that was dialled, where its URL asks for it.
async fn secure(
    stream: TcpStream,
    url: &str,
    address: &str,
    tls: Option<&Connector>,
) -> Result<Stream<TcpStream>, LinkError> {
    if !super::urls::is_tls(url) {
        return Ok(Stream::Plain(stream));
    }
    let tls = tls.ok_or_else(|| LinkError::NoCa(url.to_owned()))?;
    let host = super::urls::host(address);
    Ok(tls.connect(host, stream, HANDSHAKE_TIMEOUT).await?.into())
}

/// A peer's refusal of our certificate, which may come with the first read, in words.
fn explained(tls: Option<&Connector>, error: LinkError) -> LinkError {
    match &error {
        LinkError::Io(io) => match tls.and_then(|tls| tls.explain(io)) {
            Some(text) => LinkError::Tls(HandshakeError::Failed(text)),
            None => error,
        },
        _ => error,
    }
}

/// Reads one frame; `buffer` keeps what came beyond it.
///
/// What is read may live for long: log entries and watch events are slices of it. So a frame gets memory of its own
/// size, and never a share of a larger read buffer.
async fn read_frame(stream: &mut Stream<TcpStream>, buffer: &mut BytesMut) -> Result<Bytes, LinkError> {
    loop {
        let wanted = Frame::len_of(buffer)?;
        if let Some(len) = wanted.filter(|len| buffer.len() >= *len) {
            let frame = Bytes::copy_from_slice(&buffer[..len]);
            buffer.advance(len);
            if buffer.is_empty() && buffer.capacity() > READ_BYTES_KEPT_MAX {
                *buffer = BytesMut::new();
            }
            return Ok(frame);
        }
        let missing = wanted.map_or(0, |len| len - buffer.len());
        buffer.reserve(missing.clamp(READ_BYTES, READ_BYTES_MAX));
        match stream.read_buf(buffer).await {
            Ok(0) => return Err(LinkError::Closed),
            Ok(_) => {}
            // A TLS peer that was killed does not say that it ends.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(LinkError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write(stream: &mut Stream<TcpStream>, bytes: &[u8]) -> Result<(), LinkError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

async fn in_time<T>(work: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, work).await.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT)))
}

// ---- dialling ----

async fn keep_connected(
    state: Arc<State>,
    news: Arc<Reachability>,
    peer: Member,
    lane: Lane,
    mut frames: mpsc::Receiver<Bytes>,
) {
    let mut pause = REDIAL_PAUSE_MIN;
    while !frames.is_closed() {
        match dial_once(&state, &peer, lane).await {
            Ok(stream) => {
                news.connected();
                pause = REDIAL_PAUSE_MIN;
                if pump(stream, &mut frames).await.is_none() {
                    return;
                }
                news.lost();
            }
            Err(error) => {
                let absent = matches!(error, LinkError::Io(_) | LinkError::Closed | LinkError::Timeout(_));
                news.failed(&error.to_string(), absent);
            }
        }
        // What waited for the lost connection is stale: consensus sends again what still matters.
        while frames.try_recv().is_ok() {}
        state.inbox.report(LogInput::Unreachable { to: peer.id });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REDIAL_PAUSE_MAX);
    }
}

async fn dial_once(state: &State, peer: &Member, lane: Lane) -> Result<Stream<TcpStream>, LinkError> {
    let tls = state.tls.as_deref();
    let mut stream = connect(&peer.peer_urls, tls).await?;
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: state.identity.cluster,
        member: state.identity.member,
        incarnation: state.identity.incarnation,
        lane,
        to: peer.id,
    };
    in_time(async {
        write(&mut stream, &Frame::Hello(hello).encode()).await?;
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
    .await
    .map_err(|error| explained(tls, error))?;
    Ok(stream)
}

/// Writes frames until the connection breaks (`Some`) or the peer is dropped (`None`).
async fn pump(mut stream: Stream<TcpStream>, frames: &mut mpsc::Receiver<Bytes>) -> Option<()> {
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
            [one] => write(&mut stream, one).await,
            many => write(&mut stream, &many.concat()).await,
        };
        taken.clear();
        if written.is_err() {
            return Some(());
        }
    }
}

// ---- listening ----

async fn accept(state: Arc<State>, bound: Bound) {
    let Bound { listener, tls, .. } = bound;
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
                let (state, tls) = (state.clone(), tls.clone());
                tokio::spawn(async move {
                    if let Err(error) = incoming(&state, stream, from, tls.as_deref()).await {
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

/// What a peer that connected speaks has to be what this port has; where it is not, both are told.
async fn accepted(stream: TcpStream, tls: Option<&Acceptor>) -> Result<Stream<TcpStream>, LinkError> {
    stream.set_nodelay(true)?;
    let mut first = [0; 1];
    let seen = in_time(async { Ok(stream.peek(&mut first).await?) }).await?;
    if seen == 0 {
        return Err(LinkError::Closed);
    }
    let refuse = |reason: &str| Err(LinkError::Refusing(reason.to_owned()));
    match tls {
        None if first[0] == quorate_tls::FIRST_BYTE => refuse(
            "it speaks TLS, and this member's peer port is plain text: use https:// with peer-cert-file here, or \
             http:// there",
        ),
        None => Ok(Stream::Plain(stream)),
        Some(tls) if first[0] == quorate_tls::FIRST_BYTE => {
            Ok(tls.accept(stream, HANDSHAKE_TIMEOUT).await?.into())
        }
        Some(_) => {
            let reason = "this member's peer port has TLS: its peer URL starts with https://".to_owned();
            let mut plain = Stream::Plain(stream);
            let _ = in_time(async {
                // Read, so that closing does not reset the connection before the answer has arrived.
                let mut buffer = BytesMut::new();
                if peer_http::is_spoken(&mut plain, &mut buffer).await? {
                    return write(&mut plain, peer_http::NEEDS_TLS.as_bytes()).await;
                }
                read_frame(&mut plain, &mut buffer).await?;
                write(&mut plain, &Frame::Refused { reason }.encode()).await
            })
            .await;
            refuse("it speaks plain text, and this member's peer port has TLS (https://)")
        }
    }
}

async fn incoming(
    state: &State,
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<&Acceptor>,
) -> Result<(), LinkError> {
    let mut stream = accepted(stream, tls).await?;
    let mut buffer = BytesMut::new();
    if let Some(http) = &state.http
        && in_time(peer_http::is_spoken(&mut stream, &mut buffer)).await?
    {
        (http.0)(HttpConnection { stream, first: buffer.freeze(), from }).await;
        return Ok(());
    }
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
        let _ = in_time(write(&mut stream, &Frame::Refused { reason }.encode())).await;
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
    in_time(write(&mut stream, &Frame::Hello(answer).encode())).await?;
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
async fn tell_members(state: &State, mut stream: Stream<TcpStream>) -> Result<(), LinkError> {
    let list = state.members.lock().unwrap_or_else(PoisonError::into_inner).encode();
    let answer = Frame::Members { cluster: state.identity.cluster, list };
    in_time(write(&mut stream, &answer.encode())).await
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
pub async fn ask_members(
    urls: &[String],
    tls: Option<&Connector>,
) -> Result<(quorate_ids::ClusterId, MemberList), LinkError> {
    let mut stream = connect(urls, tls).await?;
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: quorate_ids::ClusterId::ZERO,
        member: MemberId::ZERO,
        incarnation: quorate_ids::Incarnation::ZERO,
        lane: Lane::Control,
        to: MemberId::ZERO,
    };
    in_time(async {
        write(&mut stream, &Frame::Hello(hello).encode()).await?;
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
    .map_err(|error| explained(tls, error))
}

/// A bound peer port.
pub struct Bound {
    listener: std::net::TcpListener,
    pub addr: SocketAddr,
    tls: Option<Arc<Acceptor>>,
}

impl Bound {
    /// The URL of the port.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.addr)
    }
}

/// Binds the peer ports, those with TLS last; port 0 takes any free one.
pub fn bind(plain: &[SocketAddr], tls: &PeerTls) -> std::io::Result<Vec<Bound>> {
    let open = |address: &SocketAddr, tls: Option<Arc<Acceptor>>| {
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            let addr = listener.local_addr()?;
            Ok(Bound { listener, addr, tls })
        });
        bound.map_err(|error| {
            std::io::Error::new(error.kind(), format!("listening for peers on {address}: {error}"))
        })
    };
    let mut bound = plain.iter().map(|address| open(address, None)).collect::<std::io::Result<Vec<_>>>()?;
    for address in &tls.listen {
        let Some(acceptor) = &tls.acceptor else {
            let text = format!("listening for peers with TLS on {address} needs a certificate");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        };
        bound.push(open(address, Some(acceptor.clone()))?);
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_of_ours_does_not_look_like_tls() {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster: quorate_ids::ClusterId(u64::MAX),
            member: MemberId(1),
            incarnation: quorate_ids::Incarnation(2),
            lane: Lane::Bulk,
            to: MemberId(3),
        };
        assert_ne!(Frame::Hello(hello).encode()[0], quorate_tls::FIRST_BYTE);
    }
}
