//! A member that runs: its threads, and how they end.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::start::{Base, StartError};
use super::threads::Links;
use crate::core::LogInput;
use crate::handle::Handle;

/// Why a member is no longer running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to.
    Asked,
    /// It was removed from the cluster.
    Removed,
    /// It gave up the cluster that it founded alone, to join another: [`Running::resume`] goes on there.
    Absorbed,
    /// It can't go on; the reason says why.
    Failed { reason: String },
}

/// A running member. Dropping it stops it without handing leadership on.
pub struct Running {
    pub(super) handle: Handle,
    pub(super) links: Option<Arc<Links>>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) peer_addrs: Vec<SocketAddr>,
    pub(super) stopped: watch::Receiver<Option<Stopped>>,
    pub(super) stop_patience: Duration,
    /// What it takes to start again behind the same ports.
    pub(super) again: Option<Base>,
}

impl Running {
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where the member listens for peers; the real ports where 0 was asked for.
    #[must_use]
    pub fn peer_addrs(&self) -> Vec<SocketAddr> {
        self.peer_addrs.clone()
    }

    /// Changes to `Some` when the member stops by itself, with the reason.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<Stopped>> {
        self.stopped.clone()
    }

    /// Makes this member known under its name and client URLs, if the list says otherwise. Call it once it is ready.
    pub async fn publish(
        &self,
        name: &str,
        client_urls: &[String],
    ) -> Result<(), crate::handle::RequestError> {
        self.handle.publish(name, client_urls).await
    }

    /// Goes on in the cluster that this member moved to ([`Stopped::Absorbed`]), behind the same peer ports and on the
    /// same disk. Its [`Handle`] is a new one; requests to the old one end with an error. Blocks for the disk.
    pub fn resume(mut self) -> Result<Self, StartError> {
        self.end();
        let base = self.again.take().expect("a member that runs can start again");
        drop(self);
        super::start::start_on(base)
    }

    /// Stops the member: hands leadership on if it leads and someone can take it, ends its threads, closes its files.
    /// Takes a bounded time, with or without a majority.
    pub fn stop(mut self) {
        if let Some(links) = &self.links {
            links.shared.inbox.report(LogInput::Stop);
            let deadline = Instant::now() + self.stop_patience;
            while !links.may_stop.load(Ordering::Acquire) && Instant::now() < deadline && !self.has_ended() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.end();
    }

    fn has_ended(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    fn end(&mut self) {
        let Some(links) = self.links.take() else { return };
        links.stopping.store(true, Ordering::Release);
        links.shared.inbox.report(LogInput::Stop);
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
        let mut status = links.shared.status.write().unwrap_or_else(PoisonError::into_inner);
        status.failed.get_or_insert_with(|| "the member stopped".to_owned());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
