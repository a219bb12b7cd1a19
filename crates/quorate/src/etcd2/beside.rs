//! A port for etcd 0.4's clients on a member that serves others on its own.

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_faces::etcd2::{Config, Dialect, Etcd2};
use quorate_faces::listener::{self, Face, ListenConfig, ListenError, Serving};
use quorate_member::Handle;

/// Such a port. Dropped, it is closed.
pub struct Beside {
    serving: Serving,
}

impl Beside {
    /// Listens at `addr` without TLS. Writes are passed on to the leader: clients can't be told to go there, because
    /// the member list has the members' other ports.
    pub fn start(handle: &Handle, name: &str, addr: SocketAddr) -> Result<Self, ListenError> {
        let config = Config { forward: true, ..Config::new(Dialect::V04, name) };
        let face: Arc<dyn Face> = Arc::new(Etcd2::new(handle.clone(), config));
        Ok(Self { serving: listener::serve(ListenConfig::new(vec![addr]), vec![face])? })
    }

    /// Where it listens; the real port where 0 was asked for.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        self.serving.addrs()
    }

    /// Lets running requests finish, and closes the port. It may block for some seconds.
    pub fn stop(self) {
        self.serving.stop();
    }
}
