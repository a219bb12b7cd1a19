//! One unary request: whom it is sent to, and when it is sent again.
//!
//! Invariant: a write is sent again only if it certainly had no effect: it was not sent, or the member said that it
//! did nothing with it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use crate::connection::Connection;
use crate::error::{Error, ErrorKind, Outcome};
use crate::pool::{Member, Pool};

/// Between two rounds through all members.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What sending a request twice would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it only reads, or a second time changes nothing.
    None,
    /// It changes something each time.
    Changes,
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub effect: Effect,
    /// A member without a leader is to refuse at once.
    pub require_leader: bool,
}

impl Plan {
    pub const READ: Self = Self { effect: Effect::None, require_leader: true };
    /// What each member answers from what it has.
    pub const LOCAL_READ: Self = Self { effect: Effect::None, require_leader: false };
    pub const WRITE: Self = Self { effect: Effect::Changes, require_leader: true };
}

/// Times between attempts that double, up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { next: BACKOFF_MIN }
    }

    pub fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(BACKOFF_MAX);
        now
    }
}

/// Makes a call, moving on to other members as far as that is safe, within `timeout`.
pub(crate) async fn call<T, F, Fut>(pool: &Pool, timeout: Duration, plan: Plan, send: F) -> Result<T, Error>
where
    F: Fn(Connection) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + timeout;
    let mut backoff = Backoff::new();
    let mut last: Option<Error> = None;
    loop {
        let members = pool.current();
        let others = members.len() > 1;
        for member in members.in_turn() {
            match attempt(pool, &member, deadline, plan, others, &send).await {
                Ok(answer) => {
                    members.prefer(&member);
                    return Ok(answer);
                }
                Err(error) if error.is_hopeless() => return Err(error),
                Err(error) if may_go_on(plan.effect, &error) => last = Some(error),
                Err(error) if plan.effect == Effect::None => {
                    return Err(error.with_outcome(Outcome::NotApplied));
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        let pause = backoff.next();
        if Instant::now() + pause >= deadline {
            let error = last.unwrap_or_else(|| timed_out(timeout));
            return Err(error.with_outcome(Outcome::NotApplied));
        }
        tokio::time::sleep(pause).await;
    }
}

fn may_go_on(effect: Effect, error: &Error) -> bool {
    match effect {
        Effect::None => error.is_passing(),
        Effect::Changes => error.is_refused_by_this_member(),
    }
}

fn timed_out(after: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no answer within {after:?}")).with_outcome(Outcome::Unknown)
}

/// Asks one member.
pub(crate) async fn attempt<T, F, Fut>(
    pool: &Pool,
    member: &Arc<Member>,
    deadline: Instant,
    plan: Plan,
    others: bool,
    send: &F,
) -> Result<T, Error>
where
    F: Fn(Connection) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let left = deadline.saturating_duration_since(Instant::now());
    let connection = pool.connect(member, left).await?.requiring_leader(plan.require_leader);
    let left = deadline.saturating_duration_since(Instant::now());
    // What may be asked again elsewhere leaves time for that.
    let patience = if others && plan.effect == Effect::None { left / 2 } else { left };
    match tokio::time::timeout(patience, send(connection)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            let error = Error::from_status(status).at(member.endpoint.to_string());
            if error.is_passing() {
                member.mark_failed();
            }
            Err(error)
        }
        Err(_) => {
            // It may hang rather than be slow: the next request starts afresh.
            member.mark_failed();
            member.forget_connection().await;
            Err(timed_out(patience).at(member.endpoint.to_string()))
        }
    }
}
