//! The peer port: who may connect, and what arrives on connections that peers opened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_tls::{Acceptor, AddressError, Stream};
use tokio::net::{TcpListener, TcpStream};

use super::State;
use super::dialling::REDIAL_PAUSE_MAX;
use super::link::{HANDSHAKE_TIMEOUT, LinkError, in_time, read_frame, write};
use super::questions;
use crate::config::PeerTls;
use crate::core::LogInput;
use crate::core::gate::{self, Shut};
use crate::frame::{Frame, Hello, PROTOCOL_VERSION};
use crate::shell::peer_http::{self, HttpConnection};

/// Connections that peers may have open to us at a time.
const INCOMING_MAX: usize = 1024;
/// How long a full log loop is waited for before a frame is taken from the wire again.
const FULL_PAUSE: Duration = Duration::from_millis(1);

pub(super) async fn accept(state: Arc<State>, bound: Bound) {
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

/// What a connection begins with.
enum First {
    Hello(Hello),
    JoinQuestion(Bytes),
}

async fn incoming(
    state: &State,
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<&Acceptor>,
) -> Result<(), LinkError> {
    let mut stream = accepted(stream, tls).await?;
    let mut buffer = BytesMut::new();
    if let Some(tls) = tls
        && let Err(error) = tls.check_address(&stream, from.ip()).await
    {
        return Err(refuse_address(stream, &error).await);
    }
    if let Some(http) = &state.http
        && in_time(peer_http::is_spoken(&mut stream, &mut buffer)).await?
    {
        (http.0)(HttpConnection { stream, first: buffer.freeze(), from }).await;
        return Ok(());
    }
    let first = in_time(async {
        match Frame::decode(read_frame(&mut stream, &mut buffer).await?)? {
            Frame::Hello(hello) => Ok(First::Hello(hello)),
            Frame::JoinQuestion(question) => Ok(First::JoinQuestion(question)),
            _ => Err(LinkError::Refusing("a connection that starts without a handshake".to_owned())),
        }
    })
    .await?;
    let hello = match first {
        First::Hello(hello) => hello,
        First::JoinQuestion(question) => return questions::answer(state, stream, &question).await,
    };
    if hello.cluster.0 == 0 {
        return questions::tell_members(state, stream).await;
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
    state.is_back(from);
    loop {
        let frame = read_frame(&mut stream, &mut buffer).await?;
        state.metrics.peer_received(from, frame.len());
        is_shut(state, &hello).map_err(|shut| LinkError::Refusing(shut.to_string()))?;
        let mut input = LogInput::Frame { from, frame };
        while let Err(back) = state.inbox.offer(input) {
            input = back;
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }
}

/// Tells a peer whose certificate is for other hosts.
async fn refuse_address(mut stream: Stream<TcpStream>, error: &AddressError) -> LinkError {
    let reason = format!(
        "{error}: give it a certificate for where it comes from, or start this member with \
         --peer-skip-client-san-verification"
    );
    let told = Frame::Refused { reason: reason.clone() }.encode();
    // Where it can't be told any more, it sees that the connection ends.
    let _ = in_time(async {
        read_frame(&mut stream, &mut BytesMut::new()).await?;
        write(&mut stream, &told).await
    })
    .await;
    LinkError::Refusing(reason)
}

/// The last word on an incarnation: the peer book notes a first meeting durably, then the log loop hears of it.
pub(super) fn meet(state: &State, hello: &Hello) -> Result<(), LinkError> {
    let (member, incarnation) = (hello.member, hello.incarnation);
    if !state.book.admit(member, incarnation)? {
        return Err(LinkError::Refusing(Shut::Wiped { member }.to_string()));
    }
    state.inbox.report(LogInput::Met { member, incarnation });
    Ok(())
}

fn admit(state: &State, hello: &Hello) -> Result<(), LinkError> {
    let judged = gate::judge(state.identity, &state.lock_members(), &state.lock_guests(), hello);
    if let Err(shut) = judged {
        if matches!(shut, Shut::Stranger { .. }) {
            let (member, incarnation) = (hello.member, hello.incarnation);
            state.inbox.report(LogInput::Knocked { member, incarnation });
        }
        return Err(LinkError::Refusing(shut.to_string()));
    }
    meet(state, hello)
}

/// Why a peer that was let in has nothing more to say, if so: it was removed meanwhile, or found out as another.
fn is_shut(state: &State, hello: &Hello) -> Result<(), Shut> {
    let members = state.lock_members();
    if members.was_removed(hello.member) {
        return Err(Shut::Removed { member: hello.member });
    }
    gate::is_first(&members, &state.lock_guests(), hello.member, hello.incarnation)
}

/// A bound peer port.
pub struct Bound {
    listener: std::net::TcpListener,
    pub addr: SocketAddr,
    tls: Option<Arc<Acceptor>>,
}

impl Bound {
    /// The same port once more: it stays open for as long as either lives.
    pub fn again(&self) -> std::io::Result<Self> {
        Ok(Self { listener: self.listener.try_clone()?, addr: self.addr, tls: self.tls.clone() })
    }

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
    use quorate_ids::MemberId;

    use super::*;
    use crate::frame::Lane;

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
