//! Watching keys.
//!
//! Invariant: events are delivered once and in the order of their revisions, whatever happens to the member that sends
//! them: the watch goes on elsewhere from the first revision that was not delivered whole.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::watch_create_request::FilterType;
use quorate_wire::etcdserverpb::watch_request::RequestUnion;
use quorate_wire::mvccpb;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::Client;
use crate::call::Backoff;
use crate::error::{Error, ErrorKind};
use crate::keys::Keys;
use crate::kv::{KeyValue, MESSAGE_BYTES_MAX};

/// Responses that wait for the reader; beyond that the member keeps them.
const RESPONSES_QUEUED_MAX: usize = 16;
/// Requests that wait for the connection.
const REQUESTS_QUEUED_MAX: usize = 4;
/// A member that does not confirm a watch in this time is left for another one.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    /// Deleted, by a client or with its lease.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    /// The key as it is now. Of a deleted one, only the key and the revision of the deletion.
    pub kv: KeyValue,
    /// What was there before, where that was asked for and is not compacted.
    pub previous: Option<KeyValue>,
}

/// The events of one or several whole revisions; none in a sign of progress.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchResponse {
    /// The store's revision when this was sent. In a sign of progress: all events up to it have been delivered.
    pub revision: i64,
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// Whether it only says how far the watch has come.
    #[must_use]
    pub fn is_progress(&self) -> bool {
        self.events.is_empty()
    }
}

/// How keys are watched. By default: from now on, puts and deletes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchOptions {
    request: pb::WatchCreateRequest,
}

impl WatchOptions {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From this revision on, past ones included; 0: from now on.
    #[must_use]
    pub fn start_revision(mut self, revision: i64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// With what was there before.
    #[must_use]
    pub fn previous(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Signs of progress from time to time while there are no events.
    #[must_use]
    pub fn progress(mut self) -> Self {
        self.request.progress_notify = true;
        self
    }

    /// Without puts.
    #[must_use]
    pub fn no_puts(mut self) -> Self {
        self.request.filters.push(FilterType::Noput.into());
        self
    }

    /// Without deletes.
    #[must_use]
    pub fn no_deletes(mut self) -> Self {
        self.request.filters.push(FilterType::Nodelete.into());
        self
    }
}

/// A running watch: a stream of responses. It ends after its first error; dropped, it is over.
///
/// ```no_run
/// use quorate_client::{Client, Keys, WatchOptions};
///
/// # async fn example(client: Client) -> Result<(), quorate_client::Error> {
/// let mut watch = client.watch(Keys::prefix("jobs/"), WatchOptions::new().previous()).await?;
/// while let Some(response) = watch.next().await {
///     for event in response?.events {
///         println!("{:?} {:?}", event.kind, event.kv.key);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Watch {
    responses: mpsc::Receiver<Result<WatchResponse, Error>>,
    progress: mpsc::Sender<()>,
}

impl Watch {
    /// The next response; `None` after an error was delivered.
    pub async fn next(&mut self) -> Option<Result<WatchResponse, Error>> {
        self.responses.recv().await
    }

    /// Asks for a sign of progress: a response without events, once all events so far have been sent. What is asked
    /// for while one is on its way, or just as the member fails, may be answered by one sign or none.
    pub fn request_progress(&self) {
        let _ = self.progress.try_send(());
    }
}

impl Stream for Watch {
    type Item = Result<WatchResponse, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.responses.poll_recv(cx)
    }
}

impl Client {
    /// Watches keys. When this returns, the watch stands: later changes are delivered.
    pub async fn watch(&self, keys: impl Into<Keys>, options: WatchOptions) -> Result<Watch, Error> {
        let keys = keys.into();
        let request = pb::WatchCreateRequest { key: keys.key, range_end: keys.range_end, ..options.request };
        let mut watcher = Watcher { client: self.clone(), next_revision: request.start_revision, request };
        let opening = watcher.open_anywhere();
        let patience = self.inner.request_timeout;
        let link = tokio::time::timeout(patience, opening).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("no member confirmed the watch within {patience:?}")))
        })?;
        let (sender, responses) = mpsc::channel(RESPONSES_QUEUED_MAX);
        let (progress, asked) = mpsc::channel(1);
        tokio::spawn(watcher.run(link, sender, asked));
        Ok(Watch { responses, progress })
    }
}

/// The watch on one member.
struct Link {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    member: std::sync::Arc<crate::pool::Member>,
}

/// Why the watch left a member.
enum Left {
    /// Nobody reads any more.
    Dropped,
    /// It can't go on, here or elsewhere.
    Ended(Error),
    /// It may go on elsewhere.
    Broken(Error),
}

/// What runs in the background.
struct Watcher {
    client: Client,
    request: pb::WatchCreateRequest,
    /// The first revision whose events have not all been delivered; 0 until a watch from now on is confirmed.
    next_revision: i64,
}

impl Watcher {
    async fn run(
        mut self,
        first: Link,
        responses: mpsc::Sender<Result<WatchResponse, Error>>,
        mut progress: mpsc::Receiver<()>,
    ) {
        let mut link = first;
        loop {
            let why = match self.follow(&mut link, &responses, &mut progress).await {
                Left::Dropped => return,
                Left::Ended(error) => {
                    let _ = responses.send(Err(error)).await;
                    return;
                }
                Left::Broken(error) => error,
            };
            tracing::debug!(revision = self.next_revision, error = %why, "a watch moves on");
            link.member.mark_failed();
            let opened = tokio::select! {
                opened = self.open_anywhere() => opened,
                () = responses.closed() => return,
            };
            match opened {
                Ok(opened) => link = opened,
                Err(error) => {
                    let _ = responses.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Delivers what one member sends.
    async fn follow(
        &mut self,
        link: &mut Link,
        responses: &mpsc::Sender<Result<WatchResponse, Error>>,
        progress: &mut mpsc::Receiver<()>,
    ) -> Left {
        let mut asks = true;
        loop {
            let answer = tokio::select! {
                answer = link.answers.message() => answer,
                asked = progress.recv(), if asks => {
                    asks = asked.is_some();
                    if asks {
                        let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                        // A full queue already holds what asks for more than one sign would.
                        let _ = link.requests.try_send(pb::WatchRequest { request_union: Some(request) });
                    }
                    continue;
                }
                () = responses.closed() => return Left::Dropped,
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    return Left::Broken(Error::new(ErrorKind::ConnectionLost, "the member ended the watch"));
                }
                Err(status) => return broken_or_ended(Error::from_status(status)),
            };
            if answer.canceled {
                return broken_or_ended(canceled(&answer));
            }
            match self.take(answer) {
                Ok(response) => {
                    if responses.send(Ok(response)).await.is_err() {
                        return Left::Dropped;
                    }
                }
                Err(error) => return Left::Ended(error),
            }
        }
    }

    /// Notes how far the watch has come with this answer.
    fn take(&mut self, answer: pb::WatchResponse) -> Result<WatchResponse, Error> {
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.events.is_empty() && answer.watch_id >= 0 {
            // A sign that the member gave by itself. One that was asked for (watch id -1) is not built on: etcd before
            // 3.4.25 sent those while events were still on their way.
            self.next_revision = self.next_revision.max(revision + 1);
        }
        let next = self.next_revision;
        let mut events = Vec::with_capacity(answer.events.len());
        for event in answer.events {
            let event = read(event)?;
            if event.kv.mod_revision >= next {
                self.next_revision = self.next_revision.max(event.kv.mod_revision + 1);
                events.push(event);
            }
        }
        Ok(WatchResponse { revision, events })
    }

    /// Opens the watch on the first member that takes it, for as long as it takes. Errors are final.
    async fn open_anywhere(&mut self) -> Result<Link, Error> {
        let mut backoff = Backoff::new();
        loop {
            let members = self.client.inner.pool.current();
            for member in members.in_turn() {
                match self.open(&member).await {
                    Ok(link) => {
                        members.prefer(&member);
                        return Ok(link);
                    }
                    Err(error) if is_final(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "a watch could not be opened");
                        member.mark_failed();
                    }
                }
            }
            sleep(backoff.next()).await;
        }
    }

    async fn open(&mut self, member: &std::sync::Arc<crate::pool::Member>) -> Result<Link, Error> {
        let pool = &self.client.inner.pool;
        let connection = pool.connect(member, pool.connect_timeout).await?.requiring_leader(true);
        let (requests, receiver) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let create = pb::WatchCreateRequest { start_revision: self.next_revision, ..self.request.clone() };
        let create = RequestUnion::CreateRequest(create);
        let _ = requests.send(pb::WatchRequest { request_union: Some(create) }).await;
        let origin = connection.origin.clone();
        let mut client =
            WatchClient::with_origin(connection, origin).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let confirmed = async {
            let mut answers = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let (answers, first) = match tokio::time::timeout(CREATE_TIMEOUT, confirmed).await {
            Ok(confirmed) => confirmed.map_err(Error::from_status),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the member did not confirm the watch")),
        }
        .map_err(|error| error.at(member.endpoint.to_string()))?;
        let first =
            first.ok_or_else(|| Error::new(ErrorKind::ConnectionLost, "the member refused the watch"))?;
        if first.canceled {
            return Err(canceled(&first).at(member.endpoint.to_string()));
        }
        if !first.created || !first.events.is_empty() {
            return Err(Error::new(ErrorKind::Other, "the server did not confirm the watch first"));
        }
        if self.next_revision == 0 {
            // Where it is opened again, it goes on from here: nothing after this moment is missed.
            self.next_revision = first.header.map_or(0, |header| header.revision) + 1;
        }
        Ok(Link { requests, answers, member: std::sync::Arc::clone(member) })
    }
}

fn read(event: mvccpb::Event) -> Result<Event, Error> {
    let kind = match mvccpb::event::EventType::try_from(event.r#type) {
        Ok(mvccpb::event::EventType::Put) => EventKind::Put,
        Ok(mvccpb::event::EventType::Delete) => EventKind::Delete,
        Err(_) => {
            return Err(Error::new(ErrorKind::Other, format!("an event of unknown type {}", event.r#type)));
        }
    };
    let kv = event.kv.ok_or_else(|| Error::new(ErrorKind::Other, "an event without a key"))?;
    Ok(Event { kind, kv, previous: event.prev_kv })
}

fn canceled(answer: &pb::WatchResponse) -> Error {
    if answer.compact_revision > 0 {
        return Error::new(
            ErrorKind::Compacted,
            format!(
                "the revisions to watch have been compacted away; {} is the oldest that is left",
                answer.compact_revision
            ),
        )
        .compacted_at(answer.compact_revision);
    }
    Error::from_cancel_reason(&answer.cancel_reason)
}

fn broken_or_ended(error: Error) -> Left {
    if is_final(&error) { Left::Ended(error) } else { Left::Broken(error) }
}

/// Whether no member will answer otherwise.
fn is_final(error: &Error) -> bool {
    if error.is_passing() {
        return false;
    }
    // A status that a dying server or a proxy may give does not end a watch.
    !error
        .status()
        .is_some_and(|status| matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(next_revision: i64) -> Watcher {
        let client = Client::new(["127.0.0.1:1"]).expect("a client");
        Watcher { client, request: pb::WatchCreateRequest::default(), next_revision }
    }

    fn answer(revision: i64, watch_id: i64, events: &[i64]) -> pb::WatchResponse {
        let event = |revision: &i64| mvccpb::Event {
            kv: Some(KeyValue { key: "k".into(), mod_revision: *revision, ..Default::default() }),
            ..Default::default()
        };
        pb::WatchResponse {
            header: Some(pb::ResponseHeader { revision, ..Default::default() }),
            watch_id,
            events: events.iter().map(event).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_watch_goes_on_after_the_last_revision_it_delivered() {
        let mut watcher = watcher(5);
        let delivered = watcher.take(answer(9, 0, &[5, 6, 6, 8])).expect("fine");
        assert_eq!((delivered.events.len(), watcher.next_revision), (4, 9));
        let again = watcher.take(answer(9, 0, &[8, 9])).expect("fine");
        assert_eq!(again.events.len(), 1, "what was delivered is not delivered again");
        assert_eq!(watcher.next_revision, 10);
    }

    #[test]
    fn only_a_sign_of_the_members_own_moves_the_watch() {
        let mut watcher = watcher(5);
        assert!(watcher.take(answer(20, -1, &[])).expect("fine").is_progress());
        assert_eq!(watcher.next_revision, 5);
        watcher.take(answer(20, 0, &[])).expect("fine");
        assert_eq!(watcher.next_revision, 21);
    }
}
