//! Keeping a lease alive in the background.
//!
//! Invariant: the lease is reported lost no later than it may be over: its time is counted from when the last answered
//! request was sent.

use std::time::Duration;

use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::Client;
use crate::call::Backoff;
use crate::error::{Error, ErrorKind, Outcome};

/// Renewals in a lease's time to live.
const RENEWALS_PER_TTL: u32 = 3;
/// One is waited for before the next is sent.
const REQUESTS_QUEUED_MAX: usize = 1;
/// A renewal that takes longer is tried with another member.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// Why a lease is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    /// The cluster has no such lease: it expired or was revoked.
    #[error("the lease expired or was revoked")]
    Gone,
    /// No member renewed it for as long as it lives: it may be over.
    #[error("no member renewed the lease in time")]
    NotRenewed,
}

#[derive(Clone, Debug)]
enum State {
    /// As of this renewal.
    Alive(LeaseKeepAliveResponse),
    Lost(LeaseLost),
}

/// Keeps a lease alive until it is dropped. Dropping it does not revoke the lease: it ends when its time is over.
#[derive(Debug)]
pub struct KeepAlive {
    id: i64,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl KeepAlive {
    /// The lease.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The time to live that the last renewal gave; `None` once the lease is lost.
    #[must_use]
    pub fn ttl_seconds(&self) -> Option<i64> {
        self.last_renewal().map(|renewal| renewal.ttl)
    }

    /// The last renewal as it was answered, with its header; `None` once the lease is lost.
    #[must_use]
    pub fn last_renewal(&self) -> Option<LeaseKeepAliveResponse> {
        match &*self.state.borrow() {
            State::Alive(renewal) => Some(*renewal),
            State::Lost(_) => None,
        }
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) -> LeaseLost {
        let mut state = self.state.clone();
        let found = state.wait_for(|state| matches!(state, State::Lost(_))).await;
        match found.as_deref() {
            Ok(State::Lost(why)) => *why,
            // The task ended with its runtime: nobody renews it any more.
            _ => LeaseLost::NotRenewed,
        }
    }

    /// Waits for the next renewal, and answers the time to live that it gave.
    pub async fn renewed(&mut self) -> Result<i64, LeaseLost> {
        if self.state.changed().await.is_err() {
            return Err(LeaseLost::NotRenewed);
        }
        match &*self.state.borrow_and_update() {
            State::Alive(renewal) => Ok(renewal.ttl),
            State::Lost(why) => Err(*why),
        }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stream to one member.
struct Renewals {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl Client {
    /// Renews a lease once, and answers the time to live it has now.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<i64, Error> {
        Ok(self.lease_keep_alive_once_answer(id).await?.ttl)
    }

    /// The same as it was answered, with its header.
    pub async fn lease_keep_alive_once_answer(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let deadline = Instant::now() + self.inner.request_timeout;
        let (renewal, _, _) = self.renew_by(id, deadline).await?;
        Ok(renewal)
    }

    /// Renews a lease now and then goes on renewing it in the background until the handle is dropped. Fails with
    /// [`ErrorKind::LeaseNotFound`] where there is no such lease.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let lease = client.lease_grant(10).await?;
    /// let alive = client.lease_keep_alive(lease.id).await?;
    /// tokio::select! {
    ///     why = alive.lost() => println!("stop working: {why}"),
    ///     () = async { /* work under the lease */ } => {}
    /// }
    /// client.lease_revoke(lease.id).await?;
    /// # Ok(()) }
    /// ```
    pub async fn lease_keep_alive(&self, id: i64) -> Result<KeepAlive, Error> {
        let deadline = Instant::now() + self.inner.request_timeout;
        let (renewal, sent, renewals) = self.renew_by(id, deadline).await?;
        let ttl_seconds = renewal.ttl;
        let (state, receiver) = watch::channel(State::Alive(renewal));
        let keeper = Keeper { client: self.clone(), id, ttl_seconds, sent, state };
        let task = tokio::spawn(keeper.run(renewals));
        Ok(KeepAlive { id, state: receiver, task })
    }

    /// Renews a lease with any member that can. What was answered, when the request was sent, and the open stream.
    async fn renew_by(
        &self,
        id: i64,
        deadline: Instant,
    ) -> Result<(LeaseKeepAliveResponse, Instant, Renewals), Error> {
        let mut backoff = Backoff::new();
        loop {
            let attempt =
                timeout_at(deadline.min(Instant::now() + ANSWER_TIMEOUT_MAX), self.open_renewals(id));
            let error = match attempt.await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) if !error.is_passing() => return Err(error.with_outcome(Outcome::NotApplied)),
                Ok(Err(error)) => error,
                Err(_) => Error::new(ErrorKind::Timeout, "no member renewed the lease in time"),
            };
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                return Err(error.with_outcome(Outcome::NotApplied));
            }
            sleep(pause).await;
        }
    }

    /// Opens a stream to the first member that takes it, and renews the lease over it.
    async fn open_renewals(&self, id: i64) -> Result<(LeaseKeepAliveResponse, Instant, Renewals), Error> {
        let pool = &self.inner.pool;
        let members = pool.current();
        let mut last = None;
        for member in members.in_turn() {
            let connection = match pool.connect(&member, pool.connect_timeout).await {
                Ok(connection) => connection.requiring_leader(true),
                Err(error) if error.is_hopeless() => return Err(error),
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let (requests, receiver) = mpsc::channel(REQUESTS_QUEUED_MAX);
            let sent = Instant::now();
            // Queued first: some servers answer a stream only when it has a message.
            let _ = requests.send(LeaseKeepAliveRequest { id }).await;
            let origin = connection.origin.clone();
            let mut client = LeaseClient::with_origin(connection, origin);
            let first = async {
                let opened = client.lease_keep_alive(ReceiverStream::new(receiver)).await;
                let answers = opened.map_err(Error::from_status)?.into_inner();
                let mut renewals = Renewals { requests, answers };
                let renewal = renewals.answer(id).await?;
                Ok::<_, Error>((renewal, renewals))
            };
            // A member that hangs must not use up the lease's time.
            let outcome = match tokio::time::timeout(ANSWER_TIMEOUT_MAX / 2, first).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::new(ErrorKind::Timeout, "no answer to a renewal")),
            };
            match outcome {
                Ok((renewal, renewals)) => {
                    members.prefer(&member);
                    return Ok((renewal, sent, renewals));
                }
                Err(error) if !error.is_passing() => return Err(error.at(member.endpoint.to_string())),
                Err(error) => {
                    member.mark_failed();
                    last = Some(error.at(member.endpoint.to_string()));
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "no member could be asked")))
    }
}

impl Renewals {
    /// The next answer, of a lease that lives.
    async fn answer(&mut self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        match self.answers.message().await.map_err(Error::from_status)? {
            Some(answer) if answer.ttl > 0 => Ok(answer),
            Some(_) => {
                Err(Error::new(ErrorKind::LeaseNotFound, format!("lease {id:x} expired or was revoked")))
            }
            None => Err(Error::new(ErrorKind::ConnectionLost, "the member closed the stream of renewals")),
        }
    }

    async fn renew(&mut self, id: i64) -> Result<(LeaseKeepAliveResponse, Instant), Error> {
        let sent = Instant::now();
        if self.requests.send(LeaseKeepAliveRequest { id }).await.is_err() {
            return Err(Error::new(ErrorKind::ConnectionLost, "the stream of renewals is closed"));
        }
        Ok((self.answer(id).await?, sent))
    }
}

/// What runs in the background.
struct Keeper {
    client: Client,
    id: i64,
    ttl_seconds: i64,
    /// When the last answered request was sent: the lease lives from then on.
    sent: Instant,
    state: watch::Sender<State>,
}

impl Keeper {
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.max(1).unsigned_abs())
    }

    async fn run(mut self, renewals: Renewals) {
        let why = self.keep(renewals).await;
        self.state.send_replace(State::Lost(why));
    }

    /// Ends when the lease is lost.
    async fn keep(&mut self, first: Renewals) -> LeaseLost {
        let mut open = Some(first);
        loop {
            let ends = self.sent + self.ttl();
            sleep_until(self.sent + self.ttl() / RENEWALS_PER_TTL).await;
            let outcome = timeout_at(ends, self.renew(&mut open)).await;
            match outcome {
                Ok(Ok((renewal, sent))) => {
                    (self.ttl_seconds, self.sent) = (renewal.ttl, sent);
                    self.state.send_replace(State::Alive(renewal));
                }
                Ok(Err(error)) if error.kind() == ErrorKind::LeaseNotFound => return LeaseLost::Gone,
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.id, %error, "a lease could not be renewed");
                    if Instant::now() >= ends {
                        return LeaseLost::NotRenewed;
                    }
                    // Refused for good by who was asked; the next one may know better while there is time.
                    sleep(self.ttl().min(Duration::from_secs(1)) / RENEWALS_PER_TTL).await;
                }
                Err(_) => return LeaseLost::NotRenewed,
            }
        }
    }

    /// Over the open stream, else over a new one.
    async fn renew(&self, open: &mut Option<Renewals>) -> Result<(LeaseKeepAliveResponse, Instant), Error> {
        if let Some(mut renewals) = open.take() {
            let patience = (self.ttl() / RENEWALS_PER_TTL).min(ANSWER_TIMEOUT_MAX);
            match tokio::time::timeout(patience, renewals.renew(self.id)).await {
                Ok(Ok(renewed)) => {
                    *open = Some(renewals);
                    return Ok(renewed);
                }
                Ok(Err(error)) if error.kind() == ErrorKind::LeaseNotFound => return Err(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let (renewal, sent, renewals) = self.client.renew_by(self.id, self.sent + self.ttl()).await?;
        *open = Some(renewals);
        Ok((renewal, sent))
    }
}
