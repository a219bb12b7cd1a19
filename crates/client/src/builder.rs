//! How a client is set up.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::pool::Pool;
use crate::tls::ClientTls;
use crate::{Client, Inner};

pub(crate) const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
pub(crate) const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The settings of a [`Client`].
///
/// ```
/// use std::time::Duration;
/// use quorate_client::{Client, ClientTls};
///
/// # fn example() -> Result<(), quorate_client::Error> {
/// let client = Client::builder(["https://10.0.0.1:2379", "https://10.0.0.2:2379"])
///     .tls(ClientTls::new().ca_file("ca.pem"))
///     .request_timeout(Duration::from_secs(3))
///     .build()?;
/// # let _ = client; Ok(()) }
/// # example().unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    connect_timeout: Duration,
    request_timeout: Duration,
    tls: Option<ClientTls>,
}

impl ClientBuilder {
    pub(crate) fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            tls: None,
        }
    }

    /// How long to wait for one connection, TLS included. 2 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take, with all attempts. 5 s by default.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// TLS settings for `https://` endpoints; endpoints without a scheme are taken for such then.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Checks the settings. Nothing is connected yet.
    pub fn build(self) -> Result<Client, Error> {
        if self.connect_timeout.is_zero() || self.request_timeout.is_zero() {
            return Err(Error::config("a timeout of zero leaves no time for anything"));
        }
        let pool = Pool::new(&self.endpoints, self.tls, self.connect_timeout)?;
        Ok(Client { inner: Arc::new(Inner { pool, request_timeout: self.request_timeout }) })
    }
}
