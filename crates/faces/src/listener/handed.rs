//! HTTP/1 connections that another port accepted: faces on the peer port.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::connection::{Peer, Served};
use super::first_bytes::{Rewound, Speaks};
use super::{Face, ListenConfig, Stopping, ThreadFace};

/// Serves handed connections with faces until it is told to stop. It has no threads: all connections run where
/// [`Handed::serve`] is called.
pub struct Handed {
    config: Arc<ListenConfig>,
    faces: Vec<Arc<dyn Face>>,
    /// Made with the first connection, in the runtime that serves it.
    on_thread: OnceLock<Arc<[Arc<dyn ThreadFace>]>>,
    stop: watch::Sender<bool>,
}

impl Handed {
    /// `config` gives the bounds; its addresses don't matter.
    #[must_use]
    pub fn new(config: ListenConfig, faces: Vec<Arc<dyn Face>>) -> Self {
        Self { config: Arc::new(config), faces, on_thread: OnceLock::new(), stop: watch::Sender::new(false) }
    }

    /// Serves one connection to its end; `first` was read of it already.
    pub async fn serve<S>(&self, stream: S, first: Vec<u8>, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let faces = self.on_thread.get_or_init(|| {
            let stopping = Stopping::new(self.stop.subscribe());
            self.faces.iter().map(|face| face.on_thread(&stopping)).collect()
        });
        let served = Served {
            config: Arc::clone(&self.config),
            faces: Arc::clone(faces),
            stopping: self.stop.subscribe(),
            tls: None,
        };
        served.serve(Speaks::Http1, Rewound::new(first, stream), Peer::At(peer)).await;
    }

    /// Lets open requests finish and takes no more.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}
