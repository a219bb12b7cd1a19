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
use std::sync::Arc;
use std::time::Duration;

use tonic::{Response, Status};

pub use builder::ClientBuilder;
pub use cluster::{MemberAddResponse, MemberListResponse, MemberUpdated};
pub use error::{Error, ErrorKind, Outcome};
pub use keep_alive::{KeepAlive, LeaseLost};
pub use keys::Keys;
pub use kv::{
    CompactionResponse, DeleteOptions, DeleteRangeResponse, KeyValue, PutOptions, PutResponse, RangeOptions,
    RangeResponse, ResponseHeader, SortBy,
};
pub use lease::{LeaseGrantResponse, LeaseLeasesResponse, LeaseRevokeResponse, TimeToLive};
pub use lock::Lock;
pub use maintenance::{Alarm, AlarmMember, HashKvResponse, StatusResponse};
pub use quorate_wire::etcdserverpb::Member;
pub use tls::ClientTls;
pub use txn::{Compare, Is, Op, OpResponse, Txn, TxnResponse};
pub use watch::{Event, EventKind, Watch, WatchOptions, WatchResponse};

use call::Plan;
use connection::Connection;
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

    /// A client of one of the endpoints alone, with the same settings.
    fn only(&self, endpoint: &str) -> Result<Self, Error> {
        let Inner { pool, request_timeout } = &*self.inner;
        let tls = pool.tls_default.then(|| pool.tls.clone());
        let pool = Pool::new(&[endpoint.to_owned()], tls, pool.connect_timeout)?;
        Ok(Self { inner: Arc::new(Inner { pool, request_timeout: *request_timeout }) })
    }
}
