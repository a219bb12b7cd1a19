//! The members that a client knows, and which of them it asks.
//!
//! Invariants: at most one connection to a member is open or being opened; requests stay with one member until it fails
//! them; a member that could not be reached is not tried again for a moment while there are others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::tls::ClientTls;

/// How long a member that could not be reached is passed over.
const PASS_OVER: Duration = Duration::from_secs(1);

/// One member: its endpoint and the connection to it.
#[derive(Debug)]
pub(crate) struct Member {
    pub endpoint: Endpoint,
    connection: tokio::sync::Mutex<Option<Connection>>,
    failed_at: Mutex<Option<Instant>>,
}

impl Member {
    fn new(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self { endpoint, connection: tokio::sync::Mutex::new(None), failed_at: Mutex::new(None) })
    }

    /// The open connection, or a new one.
    pub async fn connect(&self, tls: &ClientTls, timeout: Duration) -> Result<Connection, Error> {
        let mut slot = self.connection.lock().await;
        if let Some(open) = slot.as_ref().filter(|connection| connection.is_open()) {
            return Ok(open.clone());
        }
        *slot = None;
        match Connection::open(&self.endpoint, tls, timeout).await {
            Ok(connection) => {
                *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
                *slot = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                self.mark_failed();
                Err(error)
            }
        }
    }

    /// Others are asked first for a moment.
    pub fn mark_failed(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The next request opens a new connection; what runs on this one ends by itself.
    pub async fn forget_connection(&self) {
        *self.connection.lock().await = None;
    }

    fn failed_lately(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < PASS_OVER)
    }
}

/// The endpoints in use at one time.
#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Arc<Member>>,
    preferred: AtomicUsize,
}

impl Members {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// All of them in the order in which they are to be asked: the preferred one first, the lately failed ones last.
    pub fn in_turn(&self) -> Vec<Arc<Member>> {
        let start = self.preferred.load(Ordering::Relaxed);
        let turn = (0..self.members.len()).map(|step| &self.members[(start + step) % self.members.len()]);
        let (failed, fine): (Vec<_>, Vec<_>) = turn.cloned().partition(|member| member.failed_lately());
        fine.into_iter().chain(failed).collect()
    }

    /// This member serves: it is asked first from now on.
    pub fn prefer(&self, member: &Arc<Member>) {
        if let Some(index) = self.members.iter().position(|other| Arc::ptr_eq(other, member)) {
            self.preferred.store(index, Ordering::Relaxed);
        }
    }
}

/// The members, replaceable while requests run.
#[derive(Debug)]
pub(crate) struct Pool {
    current: RwLock<Arc<Members>>,
    pub tls: ClientTls,
    pub tls_default: bool,
    pub connect_timeout: Duration,
}

impl Pool {
    pub fn new(
        endpoints: &[String],
        tls: Option<ClientTls>,
        connect_timeout: Duration,
    ) -> Result<Self, Error> {
        let tls_default = tls.is_some();
        let members = members(endpoints, tls_default, &[])?;
        Ok(Self {
            current: RwLock::new(Arc::new(members)),
            tls: tls.unwrap_or_default(),
            tls_default,
            connect_timeout,
        })
    }

    /// One member, without settings of TLS.
    pub fn of_one(endpoint: Endpoint, connect_timeout: Duration) -> Self {
        let members = Members { members: vec![Member::new(endpoint)], preferred: AtomicUsize::new(0) };
        Self {
            current: RwLock::new(Arc::new(members)),
            tls: ClientTls::default(),
            tls_default: false,
            connect_timeout,
        }
    }

    /// The endpoint in use that was given as `text`.
    pub fn known(&self, text: &str) -> Option<Endpoint> {
        let members = self.current();
        members.members.iter().map(|member| &member.endpoint).find(|known| known.text == text).cloned()
    }

    pub fn current(&self) -> Arc<Members> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the endpoints. Connections to those that stay, stay.
    pub fn replace(&self, endpoints: &[String]) -> Result<(), Error> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(members(endpoints, self.tls_default, &current.members)?);
        Ok(())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.current().members.iter().map(|member| member.endpoint.to_string()).collect()
    }

    pub async fn connect(&self, member: &Member, within: Duration) -> Result<Connection, Error> {
        member.connect(&self.tls, self.connect_timeout.min(within)).await
    }
}

fn members(endpoints: &[String], tls_default: bool, known: &[Arc<Member>]) -> Result<Members, Error> {
    if endpoints.is_empty() {
        return Err(Error::config("a client needs at least one endpoint"));
    }
    let mut members: Vec<Arc<Member>> = Vec::with_capacity(endpoints.len());
    for text in endpoints {
        let endpoint = Endpoint::parse(text, tls_default)?;
        if members.iter().any(|member| member.endpoint == endpoint) {
            continue;
        }
        let kept = known.iter().find(|member| member.endpoint == endpoint);
        members.push(kept.map_or_else(|| Member::new(endpoint), Arc::clone));
    }
    Ok(Members { members, preferred: AtomicUsize::new(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_member_first_and_the_failed_ones_last() {
        let texts = ["a:1", "b:1", "c:1"].map(str::to_owned);
        let members = members(&texts, false, &[]).expect("fine");
        let shown = |members: &Members| -> Vec<String> {
            members.in_turn().iter().map(|member| member.endpoint.to_string()).collect()
        };
        let second = members.in_turn()[1].clone();
        members.prefer(&second);
        assert_eq!(shown(&members), ["b:1", "c:1", "a:1"]);
        second.mark_failed();
        assert_eq!(shown(&members), ["c:1", "a:1", "b:1"]);
    }

    #[test]
    fn members_that_stay_keep_their_connections() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let pool = Pool::new(&texts(&["a:1", "b:1"]), None, Duration::from_secs(1)).expect("fine");
        let before = pool.current().in_turn();
        pool.replace(&texts(&["c:1", "b:1", "c:1"])).expect("fine");
        let after = pool.current().in_turn();
        assert_eq!(pool.endpoints(), ["c:1", "b:1"]);
        assert!(Arc::ptr_eq(&before[1], &after[1]));
        assert!(pool.replace(&[]).is_err() && pool.replace(&texts(&["x:y"])).is_err());
        assert_eq!(pool.endpoints(), ["c:1", "b:1"], "a bad list changes nothing");
    }
}
