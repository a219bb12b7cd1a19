//! The connections that this member opens to its peers, and only sends on.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quorate_tls::Stream;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::State;
use super::link::{LinkError, connect, explained, in_time, read_frame, write};
use super::listening::meet;
use super::outgoing::Waiting;
use crate::core::{LogInput, gate};
use crate::frame::{Frame, Hello, Lane, PROTOCOL_VERSION};
use crate::membership::Member;
use crate::shell::reachability::Reachability;

const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
pub(super) const REDIAL_PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) async fn keep_connected(
    state: Arc<State>,
    news: Arc<Reachability>,
    peer: Member,
    lane: Lane,
    mut frames: Waiting,
    mut back: watch::Receiver<u64>,
) {
    let mut pause = REDIAL_PAUSE_MIN;
    while !frames.is_closed() {
        match dial_once(&state, &peer, lane).await {
            Ok(stream) => {
                news.connected();
                state.inbox.report(LogInput::Reachable { peer: peer.id });
                pause = REDIAL_PAUSE_MIN;
                if frames.pump(stream).await.is_none() {
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
        frames.clear();
        state.inbox.report(LogInput::Unreachable { to: peer.id });
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(REDIAL_PAUSE_MAX),
            // A peer that reaches us can be reached, most likely: one that comes back is not made to wait.
            Ok(()) = back.changed() => pause = REDIAL_PAUSE_MIN,
        }
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
                gate::judge_answer(state.identity, &state.lock_members(), &state.lock_guests(), &answer)
                    .map_err(|shut| LinkError::Refusing(shut.to_string()))?;
                if answer.member != peer.id {
                    let text = format!("{} answers at the address of member {}", answer.member, peer.id);
                    return Err(LinkError::Refusing(text));
                }
                meet(state, &answer)
            }
            Frame::Refused { reason } => Err(LinkError::Refused(reason)),
            _ => Err(LinkError::Refusing("the peer answered a handshake with something else".to_owned())),
        }
    })
    .await
    .map_err(|error| explained(tls, error))?;
    Ok(stream)
}
