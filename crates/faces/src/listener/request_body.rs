//! What clients send in the bodies of their requests, and the memory that it holds, of all requests of a member together.
//!
//! A request takes a [`Share`] of a [`BodyBudget`] as its body comes in, and gives it back once it is answered. At the
//! bound a body is not read on until there is room; where there is none for long, the request is refused. Invariants: the
//! shares never exceed the budget; a client that sends nothing holds nothing; none waits for ever, so shares that wait for
//! one another come free.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the bodies of all requests of a member may hold, if nothing else is said: twice the largest.
pub const BODIES_BYTES_MAX: usize = 128 << 20;
/// How long a body waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes beyond a request's bound that are still taken, and thrown away: a client that is cut off while it sends may never
/// read why.
const DISCARDED_BYTES_MAX: usize = 32 << 20;

/// The memory for bodies. Clones are of the same.
#[derive(Clone)]
pub struct BodyBudget {
    room: Arc<Semaphore>,
    bytes_max: usize,
    timeout: Duration,
}

impl fmt::Debug for BodyBudget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "BodyBudget({} of {} bytes left)", self.room.available_permits(), self.bytes_max)
    }
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(BODIES_BYTES_MAX)
    }
}

impl BodyBudget {
    /// A budget of so many bytes, 4 GiB at most.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(u32::MAX as usize);
        Self { room: Arc::new(Semaphore::new(bytes_max)), bytes_max, timeout: ROOM_TIMEOUT }
    }

    /// How long a body waits for room.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// For how much more there is room.
    #[must_use]
    pub fn bytes_left(&self) -> usize {
        self.room.available_permits()
    }

    /// What one request takes of it: nothing yet.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), taken: Arc::default() }
    }
}

/// What one request holds, until its last clone is dropped.
#[derive(Clone, Debug)]
pub struct Share {
    budget: BodyBudget,
    taken: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Share {
    /// Takes memory for `bytes` more.
    async fn take(&self, bytes: usize) -> Result<(), BodyFault> {
        let full = || BodyFault::NoRoom { bytes_max: self.budget.bytes_max };
        let count = u32::try_from(bytes).ok().filter(|_| bytes <= self.budget.bytes_max).ok_or_else(full)?;
        let room = Arc::clone(&self.budget.room).acquire_many_owned(count);
        let more = tokio::time::timeout(self.budget.timeout, room).await.map_err(|_| full())?;
        // The semaphore is never closed.
        let more = more.map_err(|_| full())?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.as_mut() {
            Some(taken) => taken.merge(more),
            None => *taken = Some(more),
        }
        Ok(())
    }
}

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("the body did not come whole: {0}")]
    Broken(String),
    #[error("the body has more than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    /// Nothing was done; it may be tried again.
    #[error(
        "the requests in hand take up all the memory for bodies ({bytes_max} bytes); nothing was done, try again in a \
         moment"
    )]
    NoRoom { bytes_max: usize },
}

/// The whole body, if it has at most `bytes_max` bytes. Its memory is counted in `share`.
pub async fn whole<B>(body: B, bytes_max: usize, share: &Share) -> Result<Bytes, BodyFault>
where
    B: http_body::Body + Send,
    B::Data: Send,
    B::Error: fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let (mut collected, mut len) = (BytesMut::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyFault::Broken(error.to_string()))?;
        // Trailers have no meaning here.
        let Ok(data) = frame.into_data() else { continue };
        len = len.saturating_add(data.remaining());
        if len <= bytes_max {
            share.take(data.remaining()).await?;
            collected.put(data);
        } else {
            collected = BytesMut::new();
        }
        if len > bytes_max.saturating_add(DISCARDED_BYTES_MAX) {
            break;
        }
    }
    if len > bytes_max { Err(BodyFault::TooLong { bytes_max }) } else { Ok(collected.freeze()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: usize) -> http_body_util::Full<Bytes> {
        http_body_util::Full::new(vec![0; bytes].into())
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_for_room_and_is_refused_where_none_comes() {
        let budget = BodyBudget::new(100).with_timeout(Duration::from_millis(50));
        let (first, second) = (budget.share(), budget.share());
        assert_eq!(whole(body(80), 1000, &first).await.map(|body| body.len()), Ok(80));
        let refused = whole(body(30), 1000, &second).await;
        assert_eq!(refused, Err(BodyFault::NoRoom { bytes_max: 100 }));
        assert_eq!(whole(body(20), 1000, &second).await.map(|body| body.len()), Ok(20));
        drop(second);

        let patient = budget.clone().with_timeout(Duration::from_secs(60));
        let third = patient.share();
        let waiting =
            tokio::spawn(async move { whole(body(100), 1000, &third).await.map(|body| body.len()) });
        drop(first);
        assert_eq!(waiting.await.expect("it ends"), Ok(100));
        assert_eq!(budget.room.available_permits(), 100, "all of it is back");
    }

    #[tokio::test]
    async fn what_is_too_long_for_any_request_takes_no_more_than_a_request_may() {
        let budget = BodyBudget::new(100);
        let share = budget.share();
        assert_eq!(whole(body(81), 80, &share).await, Err(BodyFault::TooLong { bytes_max: 80 }));
        assert_eq!(budget.room.available_permits(), 100);
        assert_eq!(whole(body(101), 1000, &share).await, Err(BodyFault::NoRoom { bytes_max: 100 }));
    }
}
