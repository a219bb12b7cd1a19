//! Service Watch: streams of changes.
//!
//! One task a stream reads what the client asks for; the thread's [`Hub`] finds and sends the events of all its
//! streams.

mod encode;
mod hub;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::Response;
use quorate_ids::Revision;
use quorate_models::keys::RangeEnd;
use quorate_models::keys::watch::Watcher;
use quorate_wire::etcdserverpb as pb;

use super::Thread;
use super::errors::{Code, NO_LEADER, STOPPED, Status, WATCH_COMPACTED, WATCH_EMPTY_RANGE};
use super::grpc::{self, CallBody, Messages};
use super::metrics::Started;
use super::requests::range_end;
use crate::listener::{Body, Outgoing, outgoing};

pub use hub::Hub;
use hub::{Create, StreamId};

/// A stream that asked for a leader ends after so many looks without one.
const LOOKS_WITHOUT_LEADER_MAX: u32 = 3;

/// Serves one stream.
pub fn serve(
    thread: Arc<Thread>,
    messages: Messages<CallBody>,
    started: Started,
    needs_leader: bool,
) -> Response<Body> {
    let (outgoing, body) = outgoing();
    let outgoing = Arc::new(outgoing);
    tokio::spawn(async move {
        let stream = thread.hub.open(Arc::clone(&outgoing));
        let mut serving = Serving { thread, outgoing, messages, started, stream };
        let Err(status) = serving.run(needs_leader).await;
        serving.thread.hub.close(serving.stream);
        serving.started.end(status.code);
        serving.outgoing.finish(grpc::trailers(&status));
    });
    grpc::response(body)
}

struct Serving {
    thread: Arc<Thread>,
    outgoing: Arc<Outgoing>,
    messages: Messages<CallBody>,
    started: Started,
    stream: StreamId,
}

impl Serving {
    /// Ends with the client's going away, or a failure.
    async fn run(&mut self, needs_leader: bool) -> Result<Infallible, Status> {
        let queue_bytes_max = self.thread.shared.config.watch_queue_bytes_max;
        let look_every = self.thread.shared.config.election_timeout.max(Duration::from_millis(10));
        let mut look = tokio::time::interval(look_every);
        let mut looks_without_leader = 0;
        let parked = self.thread.hub.parked(self.stream);
        let thread = Arc::clone(&self.thread);
        let stopping = thread.stopping.begun();
        let replayed = thread.handle().replay_ends();
        tokio::pin!(stopping, replayed);
        // Where a watch begins, and how far it is, must not lie before what this member has shown already.
        let mut replays = true;
        // A client that asks for no more still gets what it asked for.
        let mut asks = true;
        loop {
            // A client that does not read is not listened to either.
            let listens = self.outgoing.queued_bytes() < queue_bytes_max;
            tokio::select! {
                () = &mut replayed, if replays => replays = false,
                message = self.messages.next(), if listens && !replays && asks => {
                    let Some(message) = message? else {
                        asks = false;
                        continue;
                    };
                    self.started.received(message.len());
                    self.take(grpc::decode(message)?);
                }
                below = self.outgoing.below(queue_bytes_max), if !listens => {
                    if !below {
                        return Err(canceled());
                    }
                }
                () = &mut stopping => return Err(STOPPED),
                () = self.outgoing.gone() => return Err(canceled()),
                () = parked.notified() => {
                    // Goes on from history once the client has taken half of what waits for it.
                    let below = tokio::select! {
                        below = self.outgoing.below(queue_bytes_max / 2 + 1) => below,
                        () = &mut stopping => return Err(STOPPED),
                    };
                    if !below {
                        return Err(canceled());
                    }
                    self.thread.hub.resume(self.stream);
                }
                _ = look.tick(), if needs_leader => {
                    let has_leader = self.thread.handle().status().leader.is_some();
                    looks_without_leader = if has_leader { 0 } else { looks_without_leader + 1 };
                    if looks_without_leader >= LOOKS_WITHOUT_LEADER_MAX {
                        return Err(NO_LEADER);
                    }
                }
            }
        }
    }

    fn take(&mut self, request: pb::WatchRequest) {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.thread.hub.cancel(self.stream, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.thread.hub.want_progress(self.stream),
            // etcd's servers take a message without a request for one of a future version.
            None => {}
        }
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        match translate(&request) {
            Ok(watcher) => self.thread.hub.create(
                self.stream,
                Create {
                    watcher,
                    watch_id: request.watch_id,
                    progress_notify: request.progress_notify,
                    fragment: request.fragment,
                },
            ),
            Err(reason) => self.thread.hub.refuse(self.stream, reason),
        }
    }
}

fn canceled() -> Status {
    Status::new(Code::Canceled, "context canceled")
}

/// What a client wants to watch, or why it can't.
fn translate(request: &pb::WatchCreateRequest) -> Result<Watcher, &'static str> {
    use pb::watch_create_request::FilterType;
    let key = if request.key.is_empty() { bytes::Bytes::from_static(b"\0") } else { request.key.clone() };
    let end = range_end(request.range_end.clone());
    if let RangeEnd::Before(end) = &end
        && key >= *end
    {
        return Err(WATCH_EMPTY_RANGE);
    }
    let Ok(next_revision) = u64::try_from(request.start_revision) else { return Err(WATCH_COMPACTED) };
    let filtered = |kind: FilterType| request.filters.contains(&i32::from(kind));
    Ok(Watcher {
        key,
        end,
        no_put: filtered(FilterType::Noput),
        no_delete: filtered(FilterType::Nodelete),
        prev_kv: request.prev_kv,
        next_revision: Revision(next_revision),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_can_be_watched() {
        let request = |key: &'static str, end: &'static str, start_revision: i64| pb::WatchCreateRequest {
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(end.as_bytes()),
            start_revision,
            ..Default::default()
        };
        assert_eq!(
            translate(&request("", "\0", 0)).map(|watcher| watcher.key),
            Ok(Bytes::from_static(b"\0"))
        );
        assert_eq!(translate(&request("b", "b", 0)), Err(WATCH_EMPTY_RANGE));
        assert_eq!(translate(&request("b", "a", 0)), Err(WATCH_EMPTY_RANGE));
        assert_eq!(translate(&request("a", "", -1)), Err(WATCH_COMPACTED));
        assert_eq!(translate(&request("a", "", 7)).map(|watcher| watcher.next_revision), Ok(Revision(7)));
    }
}
