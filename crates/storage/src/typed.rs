//! Storage of one type of keys and one type of values.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::atomic::{AtomicStorage, Entry, Write};
use crate::codec::{Codec, CodecError, Json, Text};
use crate::error::StorageError;
use crate::lock::FencingToken;
use crate::retry::RetryPolicy;
use crate::transaction::{Decision, Outcome, Plan, Snapshot, StorageExt as _};

/// Typed keys and values over any storage. By default keys are text and values are JSON.
pub struct Typed<K, V, KC = Text, VC = Json> {
    storage: Arc<dyn AtomicStorage>,
    key_codec: KC,
    value_codec: VC,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V, KC, VC> fmt::Debug for Typed<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").finish_non_exhaustive()
    }
}

impl<K, V, KC: Clone, VC: Clone> Clone for Typed<K, V, KC, VC> {
    fn clone(&self) -> Self {
        Self {
            storage: self.storage.clone(),
            key_codec: self.key_codec.clone(),
            value_codec: self.value_codec.clone(),
            types: PhantomData,
        }
    }
}

/// One change of a typed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypedWrite<K, V> {
    Put(K, V),
    Delete(K),
}

/// What a typed transaction does with what it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypedDecision<K, V, E> {
    Commit(Vec<TypedWrite<K, V>>),
    Abort(E),
}

/// What a typed transaction is about; see [`Plan`].
#[derive(Clone, Debug, Default)]
pub struct TypedPlan<K> {
    keys: Vec<K>,
    tokens: Vec<FencingToken>,
    retry: RetryPolicy,
}

impl<K> TypedPlan<K> {
    #[must_use]
    pub fn on(keys: impl IntoIterator<Item = K>) -> Self {
        Self { keys: keys.into_iter().collect(), tokens: Vec::new(), retry: RetryPolicy::default() }
    }

    /// Commits only while the lock is held that the token is of.
    #[must_use]
    pub fn fenced_by(mut self, token: &FencingToken) -> Self {
        self.tokens.push(token.clone());
        self
    }

    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }
}

/// The keys of a typed transaction as of one revision.
pub struct TypedSnapshot<'a, K, V, KC, VC> {
    snapshot: &'a Snapshot,
    typed: &'a Typed<K, V, KC, VC>,
}

impl<K, V, KC: Codec<K>, VC: Codec<V>> TypedSnapshot<'_, K, V, KC, VC> {
    /// The value of a key; `None` where there is none. A key that the plan does not name is an error.
    pub fn get(&self, key: &K) -> Result<Option<V>, StorageError> {
        let key = self.typed.key(key)?;
        let entry = self.snapshot.get(&key)?;
        entry.map(|entry| self.typed.value(entry)).transpose()
    }
}

fn failed(key: &[u8]) -> impl FnOnce(CodecError) -> StorageError + '_ {
    |source| StorageError::Codec { key: Bytes::copy_from_slice(key), source }
}

impl<K, V> Typed<K, V> {
    /// Keys as text, values as JSON.
    #[must_use]
    pub fn new(storage: Arc<dyn AtomicStorage>) -> Self {
        Self::with_codecs(storage, Text, Json)
    }
}

impl<K, V, KC, VC> Typed<K, V, KC, VC> {
    #[must_use]
    pub fn with_codecs(storage: Arc<dyn AtomicStorage>, key_codec: KC, value_codec: VC) -> Self {
        Self { storage, key_codec, value_codec, types: PhantomData }
    }

    /// The storage underneath.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn AtomicStorage> {
        &self.storage
    }
}

impl<K, V, KC: Codec<K>, VC: Codec<V>> Typed<K, V, KC, VC> {
    fn key(&self, key: &K) -> Result<Bytes, StorageError> {
        self.key_codec.encode(key).map_err(failed(b"a key that can't be written"))
    }

    fn bytes(&self, key: &[u8], value: &V) -> Result<Bytes, StorageError> {
        self.value_codec.encode(value).map_err(failed(key))
    }

    fn value(&self, entry: &Entry) -> Result<V, StorageError> {
        self.value_codec.decode(&entry.value).map_err(failed(&entry.key))
    }

    pub async fn get(&self, key: &K) -> Result<Option<V>, StorageError> {
        let entry = self.storage.get(&self.key(key)?).await?;
        entry.map(|entry| self.value(&entry)).transpose()
    }

    /// All keys and values, in the order of the keys' bytes.
    pub async fn get_all(&self) -> Result<Vec<(K, V)>, StorageError> {
        let entries = self.storage.get_prefix(b"").await?;
        let read = |entry: &Entry| {
            let key = self.key_codec.decode(&entry.key).map_err(failed(&entry.key))?;
            Ok((key, self.value(entry)?))
        };
        entries.iter().map(read).collect()
    }

    /// Writes a key. Answers the revision.
    pub async fn put(&self, key: &K, value: &V) -> Result<i64, StorageError> {
        let key = self.key(key)?;
        self.storage.put(&key, &self.bytes(&key, value)?).await
    }

    /// Writes a key that does not exist. Answers whether it did.
    pub async fn put_if_absent(&self, key: &K, value: &V) -> Result<bool, StorageError> {
        let key = self.key(key)?;
        self.storage.put_if_absent(&key, &self.bytes(&key, value)?).await
    }

    /// Writes a key whose value is `previous`. Answers whether it did.
    pub async fn compare_and_swap(&self, key: &K, previous: &V, next: &V) -> Result<bool, StorageError> {
        let key = self.key(key)?;
        let (previous, next) = (self.bytes(&key, previous)?, self.bytes(&key, next)?);
        self.storage.compare_and_swap(&key, &previous, &next).await
    }

    /// Deletes a key whose value is `previous`. Answers whether it did.
    pub async fn compare_and_delete(&self, key: &K, previous: &V) -> Result<bool, StorageError> {
        let key = self.key(key)?;
        self.storage.compare_and_delete(&key, &self.bytes(&key, previous)?).await
    }

    /// Deletes a key. Answers whether it existed.
    pub async fn delete(&self, key: &K) -> Result<bool, StorageError> {
        self.storage.delete(&self.key(key)?).await
    }

    /// See [`crate::StorageExt::execute`].
    pub async fn execute<E, F>(&self, plan: TypedPlan<K>, mut decide: F) -> Result<Outcome<E>, StorageError>
    where
        E: Send,
        F: FnMut(&TypedSnapshot<'_, K, V, KC, VC>) -> Result<TypedDecision<K, V, E>, StorageError> + Send,
    {
        let keys: Vec<Bytes> = plan.keys.iter().map(|key| self.key(key)).collect::<Result<_, _>>()?;
        let untyped = Plan { tokens: plan.tokens, retry: plan.retry, ..Plan::on(keys) };
        let decide = |snapshot: &Snapshot| {
            let decision = decide(&TypedSnapshot { snapshot, typed: self })?;
            match decision {
                TypedDecision::Abort(why) => Ok(Decision::Abort(why)),
                TypedDecision::Commit(writes) => {
                    let writes = writes.iter().map(|write| self.write(write)).collect::<Result<_, _>>()?;
                    Ok(Decision::Commit(writes))
                }
            }
        };
        self.storage.execute(&untyped, decide).await
    }

    fn write(&self, write: &TypedWrite<K, V>) -> Result<Write, StorageError> {
        match write {
            TypedWrite::Put(key, value) => {
                let key = self.key(key)?;
                let value = self.bytes(&key, value)?;
                Ok(Write::put(key, value))
            }
            TypedWrite::Delete(key) => Ok(Write::delete(self.key(key)?)),
        }
    }
}
