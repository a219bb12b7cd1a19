//! The watchers of one net thread, for all its streams.
//!
//! One task takes each revision from the feed once and sends it to the watchers that match. Invariants:
//!
//! - A stream whose client does not keep up has its watchers *parked*: they hold nothing but the revision that they
//!   need next. Once the client has taken what waited for it, they go on from there, out of history.
//! - Watchers leave the set or are parked only between revisions, so nothing is lost and nothing comes twice.
//! - Progress is told only after all events up to it are queued.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_member::Visible;
use quorate_models::keys::watch::{Matches, RevisionEvents, WatchId, WatchSet, Watcher};
use quorate_models::keys::{KeysError, history_slice};
use quorate_wire::etcdserverpb as pb;
use tokio::sync::Notify;

use super::encode::{self, EventBytes};
use crate::etcd3::errors::{Status, WATCH_DUPLICATE_ID};
use crate::etcd3::{Shared, answers, grpc};
use crate::listener::Outgoing;

/// Revisions taken from the feed at once, and changes read from history under one hold of the store's lock.
const FEED_REVISIONS: usize = 64;
const HISTORY_CHANGES: usize = 256;
/// A stream is broken off when it holds so many times its bound, which only a revision that comes in parts can do.
const QUEUE_OVERFLOW: usize = 16;
/// The id that stands for no watcher, or for all of a stream's.
const NO_WATCH_ID: i64 = -1;

pub type StreamId = u64;

/// What a client asked to be created.
pub struct Create {
    pub watcher: Watcher,
    /// 0: the next free one.
    pub watch_id: i64,
    pub progress_notify: bool,
    pub fragment: bool,
}

/// See the module.
pub struct Hub {
    shared: Arc<Shared>,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    set: WatchSet,
    targets: HashMap<WatchId, Target>,
    streams: HashMap<StreamId, Stream>,
    next_stream: StreamId,
    /// Streams that wait to be told how far they are.
    progress_wanted: BTreeSet<StreamId>,
}

/// Whom a watcher's events go to.
#[derive(Clone, Copy)]
struct Target {
    stream: StreamId,
    watch_id: i64,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Since the last round of progress.
    was_sent: bool,
}

struct Stream {
    outgoing: Arc<Outgoing>,
    /// By the client's id.
    watchers: BTreeMap<i64, Place>,
    next_watch_id: i64,
    parked: Arc<Notify>,
}

enum Place {
    Watching(WatchId),
    Parked(Box<(Watcher, Target)>),
}

type Batch = BTreeMap<WatchId, Vec<(Revision, Vec<EventBytes>)>>;

impl Hub {
    /// Starts the task of this thread, in its runtime.
    pub fn start(shared: &Arc<Shared>) -> Arc<Self> {
        let state = State {
            set: WatchSet::new(shared.handle.feed().next_revision()),
            targets: HashMap::new(),
            streams: HashMap::new(),
            next_stream: 0,
            progress_wanted: BTreeSet::new(),
        };
        let hub =
            Arc::new(Self { shared: Arc::clone(shared), state: Mutex::new(state), wake: Notify::new() });
        tokio::spawn(Arc::clone(&hub).run(shared.handle.visible()));
        hub
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, outgoing: Arc<Outgoing>) -> StreamId {
        let mut state = self.lock();
        let id = state.next_stream;
        state.next_stream += 1;
        let stream =
            Stream { outgoing, watchers: BTreeMap::new(), next_watch_id: 0, parked: Arc::new(Notify::new()) };
        state.streams.insert(id, stream);
        self.shared.metrics.watch_stream_opened();
        id
    }

    pub fn close(&self, id: StreamId) {
        let mut state = self.lock();
        let state = &mut *state;
        state.progress_wanted.remove(&id);
        let Some(stream) = state.streams.remove(&id) else { return };
        for place in stream.watchers.into_values() {
            self.shared.metrics.watcher_ended();
            self.forget(&mut state.set, &mut state.targets, place);
        }
        self.shared.metrics.watch_stream_closed();
    }

    fn forget(&self, set: &mut WatchSet, targets: &mut HashMap<WatchId, Target>, place: Place) {
        match place {
            Place::Watching(watch) => {
                set.remove(watch);
                targets.remove(&watch);
            }
            Place::Parked(_) => self.shared.metrics.watcher_resumed(),
        }
    }

    /// Rings when a watcher of the stream was parked.
    pub fn parked(&self, id: StreamId) -> Arc<Notify> {
        self.lock().streams.get(&id).map_or_else(Arc::default, |stream| Arc::clone(&stream.parked))
    }

    fn header(&self, revision: Revision) -> pb::ResponseHeader {
        let identity = self.shared.handle.identity();
        pb::ResponseHeader {
            cluster_id: identity.cluster.0,
            member_id: identity.member.0,
            revision: answers::signed(revision),
            raft_term: self.shared.handle.visible().borrow().term.0,
        }
    }

    fn push(&self, stream: &Stream, message: Bytes) {
        self.shared.metrics.watch_sent(message.len());
        stream.outgoing.push(message);
    }

    fn answer(&self, stream: &Stream, at: Revision, response: pb::WatchResponse) {
        let response = pb::WatchResponse { header: Some(self.header(at)), ..response };
        self.push(stream, grpc::framed(&response));
    }

    /// The newest revision that watchers created now do not get.
    fn newest(&self) -> Revision {
        Revision(self.shared.handle.feed().next_revision().0 - 1)
    }

    pub fn refuse(&self, id: StreamId, reason: &str) {
        let state = self.lock();
        let Some(stream) = state.streams.get(&id) else { return };
        let response = pb::WatchResponse {
            watch_id: NO_WATCH_ID,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        self.answer(stream, self.newest(), response);
    }

    pub fn create(&self, id: StreamId, create: Create) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(stream) = state.streams.get_mut(&id) else { return };
        let refusal = if stream.watchers.contains_key(&create.watch_id) && create.watch_id != 0 {
            Some(WATCH_DUPLICATE_ID)
        } else if stream.watchers.len() >= self.shared.config.stream_watchers_max {
            Some("etcdserver: too many watchers on one stream")
        } else {
            None
        };
        let newest = self.newest();
        if let Some(reason) = refusal {
            let response = pb::WatchResponse {
                watch_id: NO_WATCH_ID,
                created: true,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..Default::default()
            };
            return self.answer(stream, newest, response);
        }
        let mut watch_id = create.watch_id;
        if watch_id == 0 {
            while stream.watchers.contains_key(&stream.next_watch_id) {
                stream.next_watch_id += 1;
            }
            watch_id = stream.next_watch_id;
            stream.next_watch_id += 1;
        }
        let mut watcher = create.watcher;
        if watcher.next_revision == Revision::ZERO {
            // What is in the feed happened before, though this thread may not have delivered it yet.
            watcher.next_revision = newest.next();
        }
        let target = Target {
            stream: id,
            watch_id,
            prev_kv: watcher.prev_kv,
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            was_sent: false,
        };
        let watch = state.set.add(watcher);
        state.targets.insert(watch, target);
        stream.watchers.insert(watch_id, Place::Watching(watch));
        self.shared.metrics.watcher_started();
        self.answer(stream, newest, pb::WatchResponse { watch_id, created: true, ..Default::default() });
        self.wake.notify_one();
    }

    /// Cancels a watcher; one that is not there is no error.
    pub fn cancel(&self, id: StreamId, watch_id: i64) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(stream) = state.streams.get_mut(&id) else { return };
        let Some(place) = stream.watchers.remove(&watch_id) else { return };
        self.forget(&mut state.set, &mut state.targets, place);
        self.shared.metrics.watcher_ended();
        let response = pb::WatchResponse { watch_id, canceled: true, ..Default::default() };
        self.answer(stream, self.newest(), response);
    }

    pub fn want_progress(&self, id: StreamId) {
        self.lock().progress_wanted.insert(id);
        self.wake.notify_one();
    }

    /// The stream's parked watchers go on.
    pub fn resume(&self, id: StreamId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(stream) = state.streams.get_mut(&id) else { return };
        for place in stream.watchers.values_mut() {
            if let Place::Parked(parked) = place {
                let (watcher, target) = (**parked).clone();
                let watch = state.set.add(watcher);
                state.targets.insert(watch, target);
                *place = Place::Watching(watch);
                self.shared.metrics.watcher_resumed();
            }
        }
        self.wake.notify_one();
    }

    async fn run(self: Arc<Self>, mut visible: tokio::sync::watch::Receiver<Visible>) {
        let mut progress = tokio::time::interval(self.shared.config.watch_progress_interval);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        progress.reset();
        loop {
            let delivered = self.deliver().await;
            if !delivered {
                self.tell_wanted_progress();
            }
            let caught_up = self.catch_up().await;
            if delivered || caught_up {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                changed = visible.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.wake.notified() => {}
                _ = progress.tick() => self.tell_progress(),
            }
        }
    }

    /// Takes some revisions from the feed; false: there are none.
    async fn deliver(&self) -> bool {
        let feed = self.shared.handle.feed();
        let (batch, reached) = {
            let mut state = self.lock();
            let from = state.set.next_revision();
            let newest = feed.next_revision();
            if state.set.is_empty() {
                state.set.skip_to(newest.max(from));
                return false;
            }
            match feed.since(from, FEED_REVISIONS) {
                Ok(revisions) if revisions.is_empty() => return false,
                Ok(revisions) => {
                    let batch: Vec<_> = revisions
                        .into_iter()
                        .map(|revision| {
                            let matches = state.set.deliver(&revision);
                            (revision, matches)
                        })
                        .collect();
                    (batch, Revision(state.set.next_revision().0 - 1))
                }
                Err(_) => {
                    state.set.skip_to(newest.max(from));
                    return true;
                }
            }
        };
        self.send(batch.iter().map(|(revision, matches)| (&**revision, matches)), reached).await;
        true
    }

    /// Reads some history for the watchers that are furthest behind; false: none is behind.
    async fn catch_up(&self) -> bool {
        let store = self.shared.handle.store();
        // What the changes name stays readable until they are sent.
        let _pin = store.pin();
        let (revisions, matches, reached) = {
            let mut state = self.lock();
            let Some(from) = state.set.behind() else { return false };
            let to = Revision(state.set.next_revision().0 - 1);
            let mut next = from;
            match history_slice(&store.read(), &mut next, to, HISTORY_CHANGES) {
                Ok(revisions) => {
                    let matches = state.set.catch_up(from, &revisions, next);
                    (revisions, matches, Revision(next.revision().0 - 1))
                }
                Err(KeysError::Compacted { oldest, .. }) => {
                    self.cancel_compacted(&mut state, oldest);
                    return true;
                }
                Err(error) => {
                    tracing::error!(%error, "history can't be read for watchers");
                    return false;
                }
            }
        };
        self.send(revisions.iter().zip(&matches), reached).await;
        true
    }

    fn cancel_compacted(&self, state: &mut State, oldest: Revision) {
        for watch in state.set.cancel_compacted(oldest) {
            let Some(target) = state.targets.remove(&watch) else { continue };
            let Some(stream) = state.streams.get_mut(&target.stream) else { continue };
            stream.watchers.remove(&target.watch_id);
            self.shared.metrics.watcher_ended();
            let response = pb::WatchResponse {
                watch_id: target.watch_id,
                canceled: true,
                compact_revision: answers::signed(oldest),
                ..Default::default()
            };
            self.answer(stream, self.newest(), response);
        }
    }

    /// Sends the matched events. Whatever is read from the disk, is read without the lock.
    async fn send<'a>(
        &self,
        matched: impl Iterator<Item = (&'a RevisionEvents, &'a Matches)>,
        reached: Revision,
    ) {
        let mut batch = Batch::new();
        let mut in_parts = false;
        for (revision, matches) in matched {
            in_parts |= !revision.complete;
            if matches.is_empty() {
                continue;
            }
            if let Err(status) = self.encode(revision, matches, &mut batch).await {
                tracing::error!(revision = %revision.revision, error = %status.message, "events can't be read");
                self.break_off(matches, &status);
            }
        }
        if batch.is_empty() {
            return;
        }
        let header = self.header(reached);
        let mut state = self.lock();
        for (watch, revisions) in batch {
            self.enqueue(&mut state, watch, &revisions, &header, in_parts);
        }
    }

    async fn encode(
        &self,
        revision: &RevisionEvents,
        matches: &Matches,
        batch: &mut Batch,
    ) -> Result<(), Status> {
        let handle = &self.shared.handle;
        let encoded = encode::events(handle, revision).await?;
        let mut previous: HashMap<usize, Bytes> = HashMap::new();
        for (watch, places) in matches.by_watcher() {
            let Some(target) = self.lock().targets.get(&watch).copied() else { continue };
            let mut events = Vec::new();
            for place in places {
                let mut before = Bytes::new();
                if target.prev_kv {
                    before = match previous.get(&place) {
                        Some(known) => known.clone(),
                        None => {
                            let read = encode::previous(handle, &revision.events()[place]).await?;
                            previous.insert(place, read.clone());
                            read
                        }
                    };
                }
                events.push(EventBytes { event: encoded[place].clone(), previous: before });
            }
            batch.entry(watch).or_default().push((revision.revision, events));
        }
        Ok(())
    }

    fn enqueue(
        &self,
        state: &mut State,
        watch: WatchId,
        revisions: &[(Revision, Vec<EventBytes>)],
        header: &pb::ResponseHeader,
        in_parts: bool,
    ) {
        // Canceled in the meantime.
        let Some(target) = state.targets.get_mut(&watch) else { return };
        let Some(stream) = state.streams.get_mut(&target.stream) else { return };
        let queued = stream.outgoing.queued_bytes();
        let queue_bytes_max = self.shared.config.watch_queue_bytes_max;
        if queued >= queue_bytes_max && !in_parts {
            let target = *target;
            state.targets.remove(&watch);
            let Some(mut watcher) = state.set.remove(watch) else { return };
            watcher.next_revision = revisions[0].0;
            stream.watchers.insert(target.watch_id, Place::Parked(Box::new((watcher, target))));
            stream.parked.notify_one();
            self.shared.metrics.watcher_parked();
            return;
        }
        if queued >= queue_bytes_max.saturating_mul(QUEUE_OVERFLOW) {
            stream.outgoing.break_off("the client does not take its events".to_owned());
            return;
        }
        target.was_sent = true;
        let fragment_bytes = target.fragment.then(|| self.shared.config.message_bytes_max());
        for message in encode::messages(header, target.watch_id, revisions, fragment_bytes) {
            self.push(stream, message);
        }
        self.shared.metrics.events_sent(revisions.iter().map(|(_, events)| events.len() as u64).sum());
    }

    /// Ends the streams of watchers whose events can't be read: their clients know what they have and can go on.
    fn break_off(&self, matches: &Matches, status: &Status) {
        let state = self.lock();
        for (watch, _) in matches.by_watcher() {
            let stream = state.targets.get(&watch).and_then(|target| state.streams.get(&target.stream));
            if let Some(stream) = stream {
                stream.outgoing.finish(grpc::trailers(status));
            }
        }
    }

    /// All revisions of the feed are delivered: tells the streams that asked and have everything how far that is.
    fn tell_wanted_progress(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let reached = Revision(state.set.next_revision().0 - 1);
        state.progress_wanted.retain(|id| {
            let Some(stream) = state.streams.get(id) else { return false };
            let synced = stream.watchers.values().all(|place| match place {
                Place::Watching(watch) => state.set.is_synced(*watch),
                Place::Parked(_) => false,
            });
            if synced {
                self.answer(
                    stream,
                    reached,
                    pb::WatchResponse { watch_id: NO_WATCH_ID, ..Default::default() },
                );
            }
            !synced
        });
    }

    /// Tells the watchers that want it, and had no event since the last time, how far they are.
    fn tell_progress(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let reached = Revision(state.set.next_revision().0 - 1);
        for (watch, target) in &mut state.targets {
            let was_sent = std::mem::replace(&mut target.was_sent, false);
            if !target.progress_notify || was_sent || !state.set.is_synced(*watch) {
                continue;
            }
            if let Some(stream) = state.streams.get(&target.stream)
                && stream.outgoing.queued_bytes() < self.shared.config.watch_queue_bytes_max
            {
                let watch_id = target.watch_id;
                self.answer(stream, reached, pb::WatchResponse { watch_id, ..Default::default() });
            }
        }
    }
}
