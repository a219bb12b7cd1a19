//! Frames between members over TCP, with TLS where a peer URL starts with `https://`.
//!
//! Each member dials each peer once per lane and only sends on the connections that it dialled. Invariants:
//!
//! - Nothing of a connection is read before its handshake went through ([`crate::core::gate`]): same protocol, same
//!   cluster, a known member in its first incarnation, meant for us. A refusal says why, in both logs. Only questions about joining are answered
//!   to members of other clusters, and such a connection carries nothing else.
//! - Queues are bounded; a frame that finds its queue full is dropped and the peer reported unreachable. Consensus
//!   sends again.

mod dialling;
mod link;
mod listening;
mod outgoing;
mod questions;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_ids::MemberId;
use quorate_tls::Connector;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use self::dialling::keep_connected;
use self::outgoing::{Outgoing, outgoing};
use super::inbox::Inbox;
use super::log::with_callers_log;
use super::peer_http::PeerHttp;
use super::reachability::Reachability;
use crate::core::{LogInput, PeerBook};
use crate::frame::Lane;
use crate::handle::{Handle, Identity};
use crate::joining::{Offer, Question, Reply};
use crate::membership::{Member, MemberList};
use crate::metrics::Metrics;

pub use link::LinkError;
pub use listening::{Bound, bind};
pub use questions::{ask, ask_members};

struct Queue {
    urls: Vec<String>,
    lanes: BTreeMap<Lane, Outgoing>,
    /// Counts how often the peer connected to us.
    back: watch::Sender<u64>,
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
    /// Members that may speak although the list does not name them yet.
    guests: Mutex<BTreeMap<MemberId, Member>>,
    queues: Mutex<BTreeMap<MemberId, Queue>>,
    /// Once the member has one: for newcomers that ask to be admitted.
    handle: OnceLock<Handle>,
    /// Questions that the log loop has not answered yet.
    asks: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next_ask: AtomicU64,
}

impl State {
    fn lock_members(&self) -> MutexGuard<'_, MemberList> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_guests(&self) -> MutexGuard<'_, BTreeMap<MemberId, Member>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer connected to us: whoever waits to dial it again need not wait longer.
    fn is_back(&self, peer: MemberId) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&peer) {
            queue.back.send_modify(|times| *times += 1);
        }
    }
}

/// The peers of one member. Dropping it ends its thread and all connections.
pub struct Transport {
    state: Arc<State>,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Transport {
    /// Starts the peer thread on listeners that are bound already. Peers may wait there already, so it has to know them
    /// (`known`: the members, and the peer book).
    pub fn start(
        identity: Identity,
        known: (&MemberList, PeerBook),
        listeners: Vec<Bound>,
        tls: Option<Arc<Connector>>,
        http: Option<PeerHttp>,
        inbox: Arc<Inbox<LogInput>>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State {
            identity,
            book: known.1,
            tls,
            http,
            inbox,
            metrics,
            members: Mutex::new(known.0.clone()),
            guests: Mutex::new(BTreeMap::new()),
            queues: Mutex::new(BTreeMap::new()),
            handle: OnceLock::new(),
            asks: Mutex::new(HashMap::new()),
            next_ask: AtomicU64::new(1),
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let serving = state.clone();
        let run = with_callers_log(move || {
            runtime.block_on(async move {
                for listener in listeners {
                    tokio::spawn(listening::accept(serving.clone(), listener));
                }
                let _ = stopped.await;
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        let thread = std::thread::Builder::new().name("quorate-peers".to_owned()).spawn(run)?;
        Ok(Self { state, runtime: handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Lets newcomers ask this member to admit them.
    pub fn serve_newcomers(&self, handle: Handle) {
        // There is one handle, set once.
        let _ = self.state.handle.set(handle);
    }

    /// Passes the log loop's answer on to whom it is for.
    pub fn answer(&self, ask: u64, reply: Reply) {
        let waiting = self.state.asks.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
        if let Some(answer) = waiting {
            let _ = answer.send(reply);
        }
    }

    /// Tells a newcomer that it is a member, at the first of `urls` where it answers; reports a refusal.
    pub fn invite(&self, urls: Vec<String>, offer: Offer) {
        let state = self.state.clone();
        self.runtime.spawn(async move {
            let member = offer.member;
            let question = Question::Absorb(offer);
            for url in urls {
                match ask(&url, state.tls.as_deref(), &question).await {
                    Ok(Reply::Refused(refusal)) => {
                        tracing::warn!(%member, url, %refusal, "a newcomer refuses to join");
                        state.inbox.report(LogInput::InvitationRefused { member });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%member, url, %error, "a newcomer does not answer");
                        continue;
                    }
                }
                return;
            }
        });
    }

    /// Tells the transport who the members are now: new ones are dialled, others dropped.
    pub fn set_members(&self, list: &MemberList) {
        *self.state.lock_members() = list.clone();
        self.dial_all();
    }

    /// Tells the transport who may speak before the list names them.
    pub fn set_guests(&self, guests: Vec<Member>) {
        *self.state.lock_guests() = guests.into_iter().map(|guest| (guest.id, guest)).collect();
        self.dial_all();
    }

    fn dial_all(&self) {
        let mut wanted = self.state.lock_guests().clone();
        wanted.extend(self.state.lock_members().iter().map(|member| (member.id, member.clone())));
        wanted.remove(&self.state.identity.member);
        let mut queues = self.state.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|id, queue| wanted.get(id).is_some_and(|member| member.peer_urls == queue.urls));
        for member in wanted.values() {
            queues.entry(member.id).or_insert_with(|| self.dial(member));
        }
    }

    /// Notes in the peer book what a committed list says of members that were not met yet.
    pub fn learn(&self, list: Arc<MemberList>) {
        let state = self.state.clone();
        self.runtime.spawn(async move {
            if let Err(error) = state.book.learn(&list) {
                tracing::warn!(%error, "the peer book could not be written");
            }
        });
    }

    /// Asks each of `members` who the members are, as far as it durably knows.
    pub fn ask_members(&self, members: Vec<Member>) {
        for member in members {
            let state = self.state.clone();
            self.runtime.spawn(async move { questions::ask_of_members(&state, member).await });
        }
    }

    fn dial(&self, member: &Member) -> Queue {
        let news = Arc::new(Reachability::new(member.clone()));
        let (back, seen_back) = watch::channel(0);
        let lanes = Lane::ALL.into_iter().map(|lane| {
            let (outgoing, frames) = outgoing();
            let (state, news, back) = (self.state.clone(), news.clone(), seen_back.clone());
            self.runtime.spawn(keep_connected(state, news, member.clone(), lane, frames, back));
            (lane, outgoing)
        });
        Queue { urls: member.peer_urls.clone(), lanes: lanes.collect(), back }
    }

    /// Sends or queues a frame; drops it where there is no room or no such peer.
    pub fn send(&self, to: MemberId, lane: Lane, frame: Bytes) {
        let queues = self.state.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outgoing) = queues.get(&to).and_then(|queue| queue.lanes.get(&lane)) else { return };
        let bytes = frame.len();
        if outgoing.send(frame) {
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
