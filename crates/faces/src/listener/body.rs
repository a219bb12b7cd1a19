//! What goes back to a client: nothing, one piece, or a queue of pieces that a task fills.
//!
//! Invariant: a queue's bytes are counted until the connection takes them, so that who fills it can stop at a bound.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

/// An answer broke off: the stream is reset, so that the client does not take the part for the whole.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct BodyBroken(pub String);

/// The body of an answer.
pub enum Body {
    Whole { data: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
    Queue(Arc<Queue>),
}

impl Body {
    #[must_use]
    pub fn empty() -> Self {
        Self::Whole { data: None, trailers: None }
    }

    #[must_use]
    pub fn whole(data: Bytes) -> Self {
        Self::Whole { data: Some(data), trailers: None }
    }
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// The connection took something, or went away.
    taken: Notify,
    /// It went away. Apart from `taken`, so that who only waits for this is not woken by each piece.
    gone: Notify,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    reader: Option<Waker>,
    /// The connection is gone.
    dropped: bool,
}

enum End {
    Trailers(HeaderMap),
    Broken(BodyBroken),
    Nothing,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The filling end of a queue. Dropped without an end, the answer breaks off.
pub struct Outgoing {
    queue: Arc<Queue>,
}

/// A queue that a task fills, and the body that a connection drains.
#[must_use]
pub fn outgoing() -> (Outgoing, Body) {
    let queue = Arc::new(Queue::default());
    (Outgoing { queue: Arc::clone(&queue) }, Body::Queue(queue))
}

impl Outgoing {
    /// Adds a piece. False: the client is gone.
    pub fn push(&self, piece: Bytes) -> bool {
        let mut state = self.queue.lock();
        if state.dropped || state.end.is_some() {
            return false;
        }
        state.bytes += piece.len();
        state.pieces.push_back(piece);
        let waker = state.reader.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Bytes that wait for the connection.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.queue.lock().dropped
    }

    /// Waits until fewer than `bytes` wait. False: the client is gone.
    pub async fn below(&self, bytes: usize) -> bool {
        loop {
            let taken = self.queue.taken.notified();
            tokio::pin!(taken);
            // Registered before the look, so that nothing is missed in between.
            taken.as_mut().enable();
            {
                let state = self.queue.lock();
                if state.dropped {
                    return false;
                }
                if state.bytes < bytes {
                    return true;
                }
            }
            taken.await;
        }
    }

    /// Waits until the client is gone.
    pub async fn gone(&self) {
        loop {
            let gone = self.queue.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.is_gone() {
                return;
            }
            gone.await;
        }
    }

    /// Ends the answer with these trailers.
    pub fn finish(&self, trailers: HeaderMap) {
        self.end(End::Trailers(trailers));
    }

    /// Ends the answer.
    pub fn close(&self) {
        self.end(End::Nothing);
    }

    /// Breaks the answer off.
    pub fn break_off(&self, reason: String) {
        self.end(End::Broken(BodyBroken(reason)));
    }

    fn end(&self, end: End) {
        let mut state = self.queue.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        let waker = state.reader.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.end(End::Broken(BodyBroken("its task ended".to_owned())));
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Self::Queue(queue) = self {
            let mut state = queue.lock();
            state.dropped = true;
            state.pieces.clear();
            state.bytes = 0;
            drop(state);
            queue.taken.notify_waiters();
            queue.gone.notify_waiters();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match &mut *self {
            Self::Whole { data, trailers } => {
                if let Some(data) = data.take() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Self::Queue(queue) => {
                let mut state = queue.lock();
                if let Some(piece) = state.pieces.pop_front() {
                    state.bytes -= piece.len();
                    drop(state);
                    queue.taken.notify_waiters();
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                match state.end.as_mut() {
                    None => {
                        state.reader = Some(context.waker().clone());
                        Poll::Pending
                    }
                    Some(end) => Poll::Ready(match std::mem::replace(end, End::Nothing) {
                        End::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                        End::Broken(broken) => Some(Err(broken)),
                        End::Nothing => None,
                    }),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { data: None, trailers: None })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Self::Queue(_) => SizeHint::default(),
        }
    }
}
