//! Opening the storage that settings describe.

use std::sync::Arc;

use quorate_client::{Client, ClientTls};
use quorate_storage::{Cluster, LeaseStorage, Memory};

use super::client::ClientSettings;
use super::settings::{Settings, StorageKind};

/// Why the storage can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("payment_channel_storage_client: {0}")]
    Client(quorate_client::Error),
    #[error(
        "etcd not healthy: none of {endpoints} serves: {last}; check payment_channel_storage_client.endpoints, and that \
         the cluster runs"
    )]
    NotHealthy { endpoints: String, last: String },
}

/// The storage.
#[derive(Clone, Debug)]
pub enum OpenStorage {
    /// The blockchain is not enabled: nothing is stored.
    Unused,
    Memory(Memory),
    Cluster(Cluster),
}

impl OpenStorage {
    /// What channels are kept in; `None` where nothing is stored.
    #[must_use]
    pub fn storage(&self) -> Option<Arc<dyn LeaseStorage>> {
        match self {
            Self::Unused => None,
            Self::Memory(memory) => Some(Arc::new(memory.clone())),
            Self::Cluster(cluster) => Some(Arc::new(cluster.clone())),
        }
    }

    /// Makes sure that a member of the cluster serves; all endpoints are asked, not the first one alone.
    pub async fn check_health(&self) -> Result<(), OpenError> {
        let Self::Cluster(cluster) = self else { return Ok(()) };
        let Err(probes) = cluster.wait_healthy().await else { return Ok(()) };
        let last = probes.last().map_or_else(String::new, |probe| match &probe.status {
            Ok(_) => "the member knows no leader".to_owned(),
            Err(error) => error.to_string(),
        });
        Err(OpenError::NotHealthy { endpoints: cluster.client().endpoints().join(", "), last })
    }
}

impl ClientSettings {
    /// A client with these settings. Certificate files are read for each new connection.
    pub fn client(&self) -> Result<Client, OpenError> {
        let mut builder = Client::builder(&self.endpoints)
            .connect_timeout(self.connection_timeout)
            .request_timeout(self.request_timeout);
        let files = &self.tls;
        // Also where no endpoint has TLS now: one that has may be set later.
        if let Some(ca) = &files.ca {
            let mut tls = ClientTls::new().ca_file(ca);
            if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
                tls = tls.certificate_files(cert, key);
            }
            builder = builder.tls(tls);
        }
        builder.build().map_err(OpenError::Client)
    }
}

impl Settings {
    /// Opens the storage. A cluster is connected with the first request; see [`OpenStorage::check_health`].
    pub fn open(&self) -> Result<OpenStorage, OpenError> {
        Ok(match self.storage {
            StorageKind::Unused => OpenStorage::Unused,
            StorageKind::Memory => OpenStorage::Memory(Memory::new()),
            StorageKind::Etcd => OpenStorage::Cluster(Cluster::new(self.client.client()?)),
        })
    }
}
