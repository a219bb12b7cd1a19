//! Questions between members that need not be of one cluster: who the members are, and all that joining takes.
//!
//! A connection carries one question and its answer, and nothing of it reaches consensus.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_ids::MemberId;
use quorate_tls::{Connector, Stream};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::State;
use super::link::{HANDSHAKE_TIMEOUT, LinkError, connect, explained, in_time, read_frame, write};
use crate::core::LogInput;
use crate::frame::{FRAME_HEADER_BYTES, Frame, Hello, Lane, PROTOCOL_VERSION};
use crate::joining::{Newcomer, Question, Reply};
use crate::membership::{Member, MemberList};

/// A host may take the time of several requests for an admission.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Asks the member at `url`. Needs a tokio runtime with its timer and sockets.
pub async fn ask(url: &str, tls: Option<&Connector>, question: &Question) -> Result<Reply, LinkError> {
    let asking = async {
        let mut stream = connect(std::slice::from_ref(&url.to_owned()), tls).await?;
        write(&mut stream, &Frame::JoinQuestion(question.encode()).encode()).await?;
        match Frame::decode(read_frame(&mut stream, &mut BytesMut::new()).await?)? {
            Frame::JoinAnswer(reply) => {
                Reply::decode(&reply).map_err(|error| LinkError::Refusing(error.to_string()))
            }
            Frame::Refused { reason } => Err(LinkError::Refused(reason)),
            _ => Err(LinkError::Refusing("the peer answered with something else".to_owned())),
        }
    };
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    answered.unwrap_or(Err(LinkError::Timeout(ANSWER_TIMEOUT))).map_err(|error| explained(tls, error))
}

/// Answers a connection that begins with a question.
pub(super) async fn answer(
    state: &State,
    mut stream: Stream<TcpStream>,
    question: &Bytes,
) -> Result<(), LinkError> {
    let reply = match Question::decode(question) {
        Ok(Question::Admit(newcomer)) => admit(state, &newcomer).await,
        Ok(question) => ask_log_loop(state, question).await?,
        Err(error) => {
            let refused = Frame::Refused { reason: error.to_string() };
            in_time(write(&mut stream, &refused.encode())).await?;
            return Err(LinkError::Refusing(error.to_string()));
        }
    };
    in_time(write(&mut stream, &Frame::JoinAnswer(reply.encode()).encode())).await
}

async fn admit(state: &State, newcomer: &Newcomer) -> Reply {
    let Some(handle) = state.handle.get() else {
        return Reply::Later { reason: "the member is starting".to_owned() };
    };
    handle.join(newcomer).await.into()
}

async fn ask_log_loop(state: &State, question: Question) -> Result<Reply, LinkError> {
    let hosts = state.handle.get().is_some_and(|handle| handle.shared.hosting.load(Ordering::Acquire) > 0);
    let ask = state.next_ask.fetch_add(1, Ordering::Relaxed);
    let (answer, answered) = oneshot::channel();
    let asks = || state.asks.lock().unwrap_or_else(PoisonError::into_inner);
    asks().insert(ask, answer);
    state.inbox.report(LogInput::JoinQuestion { ask, question, hosts });
    let outcome = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
    asks().remove(&ask);
    match outcome {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) => Err(LinkError::Closed),
        Err(_) => Err(LinkError::Timeout(ANSWER_TIMEOUT)),
    }
}

/// Asks a member of this cluster who the members are, and passes on what it durably knows.
pub(super) async fn ask_of_members(state: &State, of: Member) {
    for url in &of.peer_urls {
        let asking = ask(url, state.tls.as_deref(), &Question::Members);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, asking).await {
            Ok(Ok(Reply::Members(told))) if told.cluster == state.identity.cluster && told.by == of.id => {
                state.inbox.report(LogInput::MembersTold { by: told.by, members: told.members });
                return;
            }
            Ok(Ok(_)) => tracing::debug!(member = %of.id, url, "another member answers there"),
            Ok(Err(error)) => tracing::debug!(member = %of.id, url, %error, "a member does not answer"),
            Err(_) => tracing::debug!(member = %of.id, url, "a member does not answer in time"),
        }
    }
}

/// A joiner that has no cluster yet may ask who the members are, and nothing else.
pub(super) async fn tell_members(state: &State, mut stream: Stream<TcpStream>) -> Result<(), LinkError> {
    let list = state.lock_members().encode();
    let answer = Frame::Members { cluster: state.identity.cluster, list };
    in_time(write(&mut stream, &answer.encode())).await
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
