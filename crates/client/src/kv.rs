//! Reading and writing keys.

use bytes::Bytes;
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::range_request::{SortOrder, SortTarget};

pub use quorate_wire::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader,
};
pub use quorate_wire::mvccpb::KeyValue;

use crate::Client;
use crate::call::Plan;
use crate::error::Error;
use crate::keys::Keys;

/// The largest message that is taken from a server: what a length in gRPC's own clients can be.
pub(crate) const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// What a range is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    Key,
    Version,
    CreateRevision,
    ModRevision,
    Value,
}

/// How a range is read. By default: the newest state that any member acknowledged, all keys, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeOptions {
    request: pb::RangeRequest,
}

impl RangeOptions {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most this many keys; 0: all.
    #[must_use]
    pub fn limit(mut self, keys: i64) -> Self {
        self.request.limit = keys;
        self
    }

    /// As of this revision; 0: the newest.
    #[must_use]
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// Sorted by something, rising.
    #[must_use]
    pub fn ascending(self, by: SortBy) -> Self {
        self.sorted(by, SortOrder::Ascend)
    }

    /// Sorted by something, falling.
    #[must_use]
    pub fn descending(self, by: SortBy) -> Self {
        self.sorted(by, SortOrder::Descend)
    }

    fn sorted(mut self, by: SortBy, order: SortOrder) -> Self {
        let target = match by {
            SortBy::Key => SortTarget::Key,
            SortBy::Version => SortTarget::Version,
            SortBy::CreateRevision => SortTarget::Create,
            SortBy::ModRevision => SortTarget::Mod,
            SortBy::Value => SortTarget::Value,
        };
        self.request.sort_order = order.into();
        self.request.sort_target = target.into();
        self
    }

    /// What the asked member has, which may be behind: faster, and answered without a majority too.
    #[must_use]
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Without the values.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only how many keys there are.
    #[must_use]
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Only keys last changed in these revisions; 0 leaves a side open.
    #[must_use]
    pub fn mod_revisions(mut self, min: i64, max: i64) -> Self {
        self.request.min_mod_revision = min;
        self.request.max_mod_revision = max;
        self
    }

    /// Only keys created in these revisions; 0 leaves a side open.
    #[must_use]
    pub fn create_revisions(mut self, min: i64, max: i64) -> Self {
        self.request.min_create_revision = min;
        self.request.max_create_revision = max;
        self
    }

    pub(crate) fn request(self, keys: Keys) -> pb::RangeRequest {
        pb::RangeRequest { key: keys.key, range_end: keys.range_end, ..self.request }
    }
}

/// How a key is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PutOptions {
    request: pb::PutRequest,
}

impl PutOptions {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key dies with this lease.
    #[must_use]
    pub fn lease(mut self, id: i64) -> Self {
        self.request.lease = id;
        self
    }

    /// Answers what was there before.
    #[must_use]
    pub fn previous(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the value, which must exist; the one given must be empty.
    #[must_use]
    pub fn keep_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    /// Keeps the lease of the key, which must exist.
    #[must_use]
    pub fn keep_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    pub(crate) fn request(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> pb::PutRequest {
        pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: Bytes::copy_from_slice(value.as_ref()),
            ..self.request
        }
    }
}

/// How keys are deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    previous: bool,
}

impl DeleteOptions {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers what was there before.
    #[must_use]
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    pub(crate) fn request(self, keys: Keys) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest { key: keys.key, range_end: keys.range_end, prev_kv: self.previous }
    }
}

impl Client {
    /// The key's newest version.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), quorate_client::Error> {
    /// let client = quorate_client::Client::new(["127.0.0.1:2379"])?;
    /// client.put("greeting", "hello").await?;
    /// let found = client.get("greeting").await?.expect("just written");
    /// assert_eq!(found.value, "hello");
    /// # Ok(()) }
    /// ```
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyValue>, Error> {
        let mut answer = self.range(Keys::one(key), RangeOptions::new()).await?;
        Ok(answer.kvs.pop())
    }

    /// Several keys at one revision.
    pub async fn range(&self, keys: impl Into<Keys>, options: RangeOptions) -> Result<RangeResponse, Error> {
        let request = options.request(keys.into());
        let plan = if request.serializable { Plan::LOCAL_READ } else { Plan::READ };
        self.call(plan, |connection| {
            let request = request.clone();
            let origin = connection.origin.clone();
            async move {
                KvClient::with_origin(connection, origin)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .range(request)
                    .await
            }
        })
        .await
    }

    /// Writes a key.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<PutResponse, Error> {
        self.put_with(key, value, PutOptions::new()).await
    }

    /// Writes a key, with options.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions,
    ) -> Result<PutResponse, Error> {
        let request = options.request(key, value);
        unary!(self, Plan::WRITE, KvClient, put, request)
    }

    /// Deletes keys. Answers how many there were.
    pub async fn delete(&self, keys: impl Into<Keys>) -> Result<DeleteRangeResponse, Error> {
        self.delete_with(keys, DeleteOptions::new()).await
    }

    /// Deletes keys, with options.
    pub async fn delete_with(
        &self,
        keys: impl Into<Keys>,
        options: DeleteOptions,
    ) -> Result<DeleteRangeResponse, Error> {
        let request = options.request(keys.into());
        unary!(self, Plan::WRITE, KvClient, delete_range, request)
    }

    /// Forgets the history before `revision`. With `physical` it answers when the space is free.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<CompactionResponse, Error> {
        let request = pb::CompactionRequest { revision, physical };
        unary!(self, Plan::WRITE, KvClient, compact, request)
    }
}
