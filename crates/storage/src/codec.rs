//! How keys and values become bytes.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why something is not to be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct CodecError {
    reason: String,
}

impl CodecError {
    #[must_use]
    pub fn new(reason: impl Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// Turns a type into bytes and back. Bytes may be anything; `decode` has to give back what `encode` was given.
///
/// Where values are compared ([`crate::Typed::compare_and_swap`]), equal values have to have equal bytes.
pub trait Codec<T>: Send + Sync {
    fn encode(&self, item: &T) -> Result<Bytes, CodecError>;
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// JSON, by serde.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, item: &T) -> Result<Bytes, CodecError> {
        serde_json::to_vec(item).map(Bytes::from).map_err(CodecError::new)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes)
            .map_err(|error| CodecError::new(format!("no JSON of its type: {error}")))
    }
}

/// What [`Display`] writes and [`FromStr`] reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text;

impl<T> Codec<T> for Text
where
    T: Display + FromStr,
    T::Err: Display,
{
    fn encode(&self, item: &T) -> Result<Bytes, CodecError> {
        Ok(Bytes::from(item.to_string()))
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        std::str::from_utf8(bytes).map_err(CodecError::new)?.parse().map_err(CodecError::new)
    }
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl<T: AsRef<[u8]> + From<Vec<u8>>> Codec<T> for Raw {
    fn encode(&self, item: &T) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(item.as_ref()))
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(T::from(bytes.to_vec()))
    }
}
