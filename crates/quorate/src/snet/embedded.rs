//! The member inside a daemon.
//!
//! Invariant: where starting fails, nothing is left of it: no thread, no port, no lock on its folder. What it has written
//! to its data folder stays, because others may have heard of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::instrument::WithSubscriber as _;

use super::document::SettingsError;
use super::server::ServerSettings;
use crate::logging::{self, Format, LogError};
use crate::server::{MemberStopped, Server, StartError};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("payment_channel_storage_server.enabled is false: no server is to be started")]
    NotEnabled,
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("payment_channel_storage_server.log_outputs: {0}")]
    Log(#[from] LogError),
    #[error("etcd server {id} cannot start: {source}")]
    Start { id: String, source: StartError },
    #[error("etcd server {id} stopped while it started: {source}")]
    Stopped { id: String, source: MemberStopped },
    #[error(
        "etcd server took too long to start: {id}: it knew no leader within {within:?}; start the other members of \
         payment_channel_storage_server.cluster, or raise startup_timeout"
    )]
    TookTooLong { id: String, within: Duration },
    #[error("etcd server {id}: the thread that starts it ended")]
    Thread { id: String },
}

/// A running member, with a log of its own.
pub struct EmbeddedServer {
    id: String,
    scheme: &'static str,
    server: Server,
    log: tracing::Dispatch,
}

impl EmbeddedServer {
    /// Starts the member, and waits until it serves, for `startup_timeout` at most.
    pub async fn start(settings: &ServerSettings) -> Result<Self, EmbeddedError> {
        if !settings.enabled {
            return Err(EmbeddedError::NotEnabled);
        }
        let log = logging::dispatch(&logging::Settings {
            level: settings.log_level.filter(),
            format: Format::Console,
            outputs: settings.log_outputs.clone(),
            rotation: None,
        })?;
        Self::start_with_log(settings, log).await
    }

    /// As [`Self::start`], with the log of the caller's choice rather than that of the settings.
    pub async fn start_with_log(
        settings: &ServerSettings,
        log: tracing::Dispatch,
    ) -> Result<Self, EmbeddedError> {
        settings.validate()?;
        let began = Instant::now();
        let id = settings.id.clone();
        let (config, opening_log) = (settings.config(), log.clone());
        // It may wait for the disk. What is started inherits the log of the thread that starts it.
        let opening = tokio::task::spawn_blocking(move || {
            tracing::dispatcher::with_default(&opening_log, || Server::start(config))
        });
        let server = match opening.await {
            Ok(Ok(server)) => server,
            Ok(Err(source)) => return Err(EmbeddedError::Start { id, source }),
            Err(_) => return Err(EmbeddedError::Thread { id }),
        };
        let left = settings.startup_timeout.saturating_sub(began.elapsed());
        let ready = server.ready().with_subscriber(log.clone());
        let failed = match tokio::time::timeout(left, ready).await {
            Ok(Ok(())) => None,
            Ok(Err(source)) => Some(EmbeddedError::Stopped { id: id.clone(), source }),
            Err(_) => Some(EmbeddedError::TookTooLong { id: id.clone(), within: settings.startup_timeout }),
        };
        if let Some(error) = failed {
            server.shutdown().with_subscriber(log).await;
            return Err(error);
        }
        let scheme = if settings.tls { "https" } else { "http" };
        let embedded = Self { id, scheme, server, log };
        tracing::dispatcher::with_default(&embedded.log, || {
            tracing::info!(id = embedded.id, endpoints = ?embedded.client_endpoints(), "server started");
        });
        Ok(embedded)
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What clients connect to, with the real port where 0 was asked for.
    #[must_use]
    pub fn client_endpoints(&self) -> Vec<String> {
        self.server.client_addrs().iter().map(|addr| format!("{}://{addr}", self.scheme)).collect()
    }

    #[must_use]
    pub fn client_addrs(&self) -> &[SocketAddr] {
        self.server.client_addrs()
    }

    #[must_use]
    pub fn peer_addrs(&self) -> &[SocketAddr] {
        self.server.peer_addrs()
    }

    /// The member itself.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Waits until the member stops by itself; returns why.
    pub async fn stopped(&self) -> MemberStopped {
        self.server.stopped().await
    }

    /// Stops it: hands leadership on where another can take it, lets requests finish, closes ports and files.
    pub async fn stop(self) {
        self.server.shutdown().with_subscriber(self.log).await;
    }
}
