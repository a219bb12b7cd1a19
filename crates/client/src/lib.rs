//! A client of Quorate, and of anything else that speaks etcd v3.
//!
//! A [`Client`] knows several members of a cluster and stays with one of them until it fails; then it moves on. It is
//! cheap to clone, and clones share their connections. It needs a tokio runtime with time and I/O.
//!
//! What it promises:
//! - A write is sent again only if it certainly had no effect. Where nobody can tell, the error says so
//!   ([`Error::outcome`]).
//! - A [`Watch`] survives the member it hangs on, and delivers every event once and in order.
//! - A [`KeepAlive`] tells when its lease is lost, also where no member answers.
//!
//! ```no_run
//! use quorate_client::{Client, Keys, RangeOptions};
//!
//! # async fn example() -> Result<(), quorate_client::Error> {
//! let client = Client::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])?;
//! client.put("color/sky", "blue").await?;
//! for kv in client.range(Keys::prefix("color/"), RangeOptions::new()).await?.kvs {
//!     println!("{:?} = {:?}", kv.key, kv.value);
//! }
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

/// Makes a unary call: client, plan, the service's client, its method, the request (cloned for each attempt).
macro_rules! unary {
    ($client:expr, $plan:expr, $service:ident, $method:ident, $request:ident) => {
        $client
            .call($plan, |connection| {
                let request = $request.clone();
                let origin = connection.origin.clone();
                async move {
                    $service::with_origin(connection, origin)
                        .max_decoding_message_size($crate::kv::MESSAGE_BYTES_MAX)
                        .$method(request)
                        .await
                }
            })
            .await
    };
}

mod builder;
mod call;
mod cluster;
mod connection;
mod election;
mod endpoint;
mod error;
mod keep_alive;
mod keys;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod pool;
mod tls;
mod txn;
mod watch;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::DuplexStream;
use tonic::{Response, Status};

pub use builder::ClientBuilder;
pub use cluster::{MemberAddResponse, MemberListResponse, MemberUpdated};
pub use election::{Leadership, Observation};
pub use error::{Error, ErrorKind, Outcome};
pub use keep_alive::{KeepAlive, LeaseLost};
pub use keys::Keys;
pub use kv::{
    CompactionResponse, DeleteOptions, DeleteRangeResponse, KeyValue, PutOptions, PutResponse, RangeOptions,
    RangeResponse, ResponseHeader, SortBy,
};
pub use lease::{
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, TimeToLive,
};
pub use lock::{Lock, LockLost};
pub use maintenance::{Alarm, AlarmMember, HashKvResponse, StatusResponse};
pub use quorate_wire::etcdserverpb::Member;
pub use tls::ClientTls;
pub use txn::{Compare, Is, Op, OpResponse, Txn, TxnResponse};
pub use watch::{Event, EventKind, Watch, WatchOptions, WatchResponse};

use call::Plan;
use connection::Connection;
use endpoint::{Dial, Endpoint};
use pool::Pool;

/// A handle on a cluster. Clones share connections and endpoints.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    request_timeout: Duration,
}

impl Client {
    /// A client with default settings; see [`Client::builder`]. It connects with the first request.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        Self::builder(endpoints).build()
    }

    /// A client with settings of one's own.
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> ClientBuilder {
        ClientBuilder::new(endpoints)
    }

    /// A client of a member in the same process: `connect` opens a stream to it, without a socket, or fails with
    /// [`io::ErrorKind::NotConnected`] once it has stopped for good. `name` stands in errors and for its endpoint. Whoever embeds a member gets one from `quorate::Server::client`.
    #[must_use]
    pub fn in_process(
        name: impl Into<String>,
        connect: impl Fn() -> io::Result<DuplexStream> + Send + Sync + 'static,
    ) -> Self {
        let endpoint = Endpoint::local(name.into(), Dial(Arc::new(connect)));
        let pool = Pool::of_one(endpoint, builder::CONNECT_TIMEOUT_DEFAULT);
        Self { inner: Arc::new(Inner { pool, request_timeout: builder::REQUEST_TIMEOUT_DEFAULT }) }
    }

    /// The endpoints in use, as they were given.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.pool.endpoints()
    }

    /// Replaces the endpoints, for all clones. Running requests end where they are; a bad list changes nothing.
    pub fn set_endpoints(&self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<(), Error> {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        self.inner.pool.replace(&endpoints)
    }

    /// Replaces the endpoints by the client URLs that the cluster's members announce.
    pub async fn discover_endpoints(&self) -> Result<(), Error> {
        let members = self.member_list().await?.members;
        let urls: Vec<String> = members.into_iter().flat_map(|member| member.client_ur_ls).collect();
        if urls.is_empty() {
            return Err(Error::new(ErrorKind::Other, "the members announce no client URLs"));
        }
        self.set_endpoints(urls)
    }

    async fn call<T, F, Fut>(&self, plan: Plan, send: F) -> Result<T, Error>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        call::call(&self.inner.pool, self.inner.request_timeout, plan, send).await
    }

    /// A client of the member at one endpoint alone, with the same settings. The endpoint need not be one of the client's.
    pub fn at(&self, endpoint: &str) -> Result<Self, Error> {
        let Inner { pool, request_timeout } = &*self.inner;
        if let Some(local @ Endpoint { address: endpoint::Address::Local(_), .. }) = pool.known(endpoint) {
            let pool = Pool::of_one(local, pool.connect_timeout);
            return Ok(Self { inner: Arc::new(Inner { pool, request_timeout: *request_timeout }) });
        }
        let tls = pool.tls_default.then(|| pool.tls.clone());
        let pool = Pool::new(&[endpoint.to_owned()], tls, pool.connect_timeout)?;
        Ok(Self { inner: Arc::new(Inner { pool, request_timeout: *request_timeout }) })
    }
}
