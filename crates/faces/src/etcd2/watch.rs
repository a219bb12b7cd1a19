//! Watches: one answer when something happens, or a stream of all that happens.
//!
//! Invariants: who waits costs one entry and no work until an event matches; a watcher sees each event once and in
//! order, also while it moves from history to what happens now; one that goes away, or does not take its events, leaves
//! nothing behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Response, request};
use quorate_ids::TreeIndex;
use quorate_member::{Handle, Visible};
use quorate_models::tree::{self, FeedEvent, Found, WatchId, WatchSet};
use tokio::sync::Notify;

use super::errors::{DURING_ELECTION, Error, RAFT_INTERNAL};
use super::params::Watch;
use super::{Answer, Thread, keys};
use crate::listener::{Body, Outgoing, outgoing};

/// Events that wait for one stream; a slower client's stream ends.
const STREAM_EVENTS_MAX: usize = 100;
/// Bytes that wait for one stream's connection.
const STREAM_BYTES_MAX: usize = 1 << 20;
/// Events taken from the feed, or looked at in history, at a time.
const SLICE_EVENTS: usize = 256;

/// What a watcher is handed.
enum Handed {
    Event(Arc<FeedEvent>),
    /// Events were missed: history has them, if anything has.
    Missed,
    /// It did not take what was there.
    TooSlow,
}

struct Sink {
    from: TreeIndex,
    queue: VecDeque<Arc<FeedEvent>>,
    /// How many may wait.
    events_max: usize,
    end: Option<Handed>,
    arrived: Arc<Notify>,
}

#[derive(Default)]
struct State {
    set: WatchSet,
    sinks: BTreeMap<WatchId, Sink>,
    /// The next event to hand out.
    next: TreeIndex,
}

/// The watchers of one net thread.
#[derive(Default)]
pub(super) struct Watchers {
    state: Mutex<State>,
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().set.len()
    }

    /// Hands events out as they happen, until the member ends.
    pub(super) async fn run(
        self: Arc<Self>,
        handle: Handle,
        mut visible: tokio::sync::watch::Receiver<Visible>,
    ) {
        loop {
            while self.hand_out(&handle) {
                tokio::task::yield_now().await;
            }
            if visible.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands out some events; false: there are none.
    fn hand_out(&self, handle: &Handle) -> bool {
        let feed = handle.tree_feed();
        let mut state = self.lock();
        let state = &mut *state;
        if state.set.is_empty() {
            state.next = feed.next_index();
            return false;
        }
        match feed.since(state.next, SLICE_EVENTS) {
            Ok(events) => {
                for event in &events {
                    state.next = event.event.index.next();
                    for id in state.set.matches(&event.event) {
                        if let Some(sink) = state.sinks.get_mut(&id) {
                            sink.hand(event);
                        }
                    }
                }
                !events.is_empty()
            }
            Err(_) => {
                state.next = feed.next_index();
                for sink in state.sinks.values_mut() {
                    sink.queue.clear();
                    sink.end = Some(Handed::Missed);
                    sink.arrived.notify_one();
                }
                true
            }
        }
    }

    /// From now on, events from `from` on are kept for the one who waits.
    fn add(self: &Arc<Self>, handle: &Handle, watch: tree::Watch, from: TreeIndex, stream: bool) -> Waiting {
        let mut state = self.lock();
        if state.set.is_empty() {
            state.next = handle.tree_feed().next_index();
        }
        let arrived = Arc::new(Notify::new());
        let events_max = if stream { STREAM_EVENTS_MAX } else { 1 };
        let sink =
            Sink { from, queue: VecDeque::new(), events_max, end: None, arrived: Arc::clone(&arrived) };
        let id = state.set.add(watch);
        state.sinks.insert(id, sink);
        Waiting { watchers: Arc::clone(self), id, arrived }
    }
}

impl Sink {
    fn hand(&mut self, event: &Arc<FeedEvent>) {
        if event.event.index < self.from || self.end.is_some() {
            return;
        }
        if self.queue.len() < self.events_max {
            self.queue.push_back(Arc::clone(event));
        } else if self.events_max > 1 {
            self.end = Some(Handed::TooSlow);
        }
        self.arrived.notify_one();
    }
}

/// One who waits. Dropped, it is forgotten.
struct Waiting {
    watchers: Arc<Watchers>,
    id: WatchId,
    arrived: Arc<Notify>,
}

impl Waiting {
    async fn next(&self) -> Handed {
        loop {
            {
                let mut state = self.watchers.lock();
                let sink = state.sinks.get_mut(&self.id).expect("it is there until this is dropped");
                if let Some(event) = sink.queue.pop_front() {
                    return Handed::Event(event);
                }
                if let Some(end) = sink.end.take() {
                    return end;
                }
            }
            self.arrived.notified().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.watchers.lock();
        state.set.remove(self.id);
        state.sinks.remove(&self.id);
    }
}

/// An event for a watcher.
enum Happened {
    Past(Box<tree::Event>),
    Now(Arc<FeedEvent>),
}

impl Happened {
    fn event(&self) -> &tree::Event {
        match self {
            Self::Past(event) => event,
            Self::Now(event) => &event.event,
        }
    }
}

/// A watcher on its way through history and on.
struct Following {
    thread: Arc<Thread>,
    watch: tree::Watch,
    waiting: Waiting,
    next: TreeIndex,
    /// History has to be looked at from `next` on.
    behind: bool,
}

impl Following {
    /// The next event of history. `None`: there is none, what is next happens from now on.
    async fn past(&mut self) -> Result<Option<Happened>, Error> {
        while self.behind {
            let found = {
                let tables = self.thread.handle().store().read();
                let current = tree::current_index(&tables);
                tree::first_match(&tables, &self.watch, self.next, SLICE_EVENTS)
                    .map_err(|error| Error::from(error).at(current.0))?
            };
            match found {
                Found::Event(event) => {
                    self.next = event.index.next();
                    return Ok(Some(Happened::Past(event)));
                }
                Found::More(next) => {
                    self.next = next;
                    tokio::task::yield_now().await;
                }
                Found::None(next) => {
                    self.next = next;
                    self.behind = false;
                }
            }
        }
        Ok(None)
    }

    /// The next event, whenever it happens. `None`: the watcher was too slow, or there is a stop.
    async fn next(&mut self) -> Result<Option<Happened>, Error> {
        loop {
            if let Some(event) = self.past().await? {
                return Ok(Some(event));
            }
            let handed = tokio::select! {
                handed = self.waiting.next() => handed,
                () = self.thread.stopping.begun() => return Ok(None),
            };
            match handed {
                // Seen in history already.
                Handed::Event(event) if event.event.index < self.next => {}
                Handed::Event(event) => {
                    self.next = event.event.index.next();
                    return Ok(Some(Happened::Now(event)));
                }
                Handed::Missed => self.behind = true,
                Handed::TooSlow => return Ok(None),
            }
        }
    }

    /// What goes on the wire. One form for all who watch the same.
    async fn text(&self, happened: &Happened) -> Result<Bytes, Error> {
        if let Happened::Now(event) = happened
            && let Some(text) = event.encoded(|_| None)
        {
            return Ok(text);
        }
        let event = self.thread.loaded(happened.event()).await?;
        let dialect = self.thread.dialect();
        let text = Bytes::from(keys::shown(dialect, &event).text(dialect));
        if let Happened::Now(event) = happened {
            event.encoded(|_| Some(text.clone()));
        }
        Ok(text)
    }

    /// Fills a body with events until it ends.
    async fn send(mut self, outgoing: Outgoing, first: Option<Happened>, stream: bool) {
        let mut happened = first;
        loop {
            if happened.is_none() {
                happened = tokio::select! {
                    next = self.next() => match next {
                        Ok(Some(event)) => Some(event),
                        Ok(None) => return outgoing.close(),
                        Err(error) => return outgoing.break_off(error.body()),
                    },
                    () = outgoing.gone() => return,
                };
            }
            let Some(event) = happened.take() else { continue };
            match self.text(&event).await {
                Ok(text) => outgoing.push(text),
                Err(error) => return outgoing.break_off(error.body()),
            };
            if !stream {
                return outgoing.close();
            }
            if !outgoing.below(STREAM_BYTES_MAX).await {
                return;
            }
        }
    }
}

impl Thread {
    fn follow(self: &Arc<Self>, watch: tree::Watch, asked: u64, stream: bool) -> (u64, Following) {
        let index = self.index();
        let from = TreeIndex(if asked == 0 { index + 1 } else { asked });
        let waiting = self.watchers.add(self.handle(), watch.clone(), from, stream);
        let thread = Arc::clone(self);
        (index, Following { thread, watch, waiting, next: from, behind: true })
    }

    /// The first event at or after `asked` (0: the next one) that a watch wants.
    pub(super) async fn await_event(
        self: &Arc<Self>,
        watch: tree::Watch,
        asked: u64,
    ) -> Result<tree::Event, Error> {
        self.check_serving()?;
        let (index, mut following) = self.follow(watch, asked, false);
        match following.next().await? {
            Some(happened) => self.loaded(happened.event()).await,
            None => Err(Error::new(RAFT_INTERNAL, "the watcher was too slow, or the server stops").at(index)),
        }
    }

    /// Answers a watch.
    pub(super) async fn watch(
        self: &Arc<Self>,
        head: &request::Parts,
        path: tree::Path,
        asked: Watch,
    ) -> Answer {
        if asked.consistent
            && let Some(redirect) = self.redirect_to_leader(head, DURING_ELECTION).await?
        {
            return Ok(redirect);
        }
        self.check_serving()?;
        let watch = tree::Watch { path, recursive: asked.recursive };
        let (index, mut following) = self.follow(watch, asked.index, asked.stream);
        let headers = self.headers(index, None).await;
        // What history says is said before the answer begins: an index that is too old is an error of its own.
        let first = following.past().await?;
        let body = if asked.stream || self.dialect() == super::Dialect::V2 {
            let (outgoing, body) = outgoing();
            tokio::spawn(following.send(outgoing, first, asked.stream));
            body
        } else {
            let happened = match first {
                Some(event) => Some(event),
                None => following.next().await?,
            };
            match happened {
                Some(event) => Body::whole(following.text(&event).await?),
                None => Body::empty(),
            }
        };
        let mut response = Response::new(body);
        *response.headers_mut() = headers;
        Ok(response)
    }
}
