//! Messages as JSON and back.

use std::fmt::Display;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::IgnoredAny;
use serde_json::Deserializer;

use super::super::errors::{Code, Status};
use super::super::grpc;

/// What a method takes and gives.
pub struct Types {
    pub input: MessageDescriptor,
    pub output: MessageDescriptor,
}

/// JSON that may become a message of so many bytes: base64, escapes and names make it longer.
pub fn bytes_max(message_bytes_max: usize) -> usize {
    const NAMES_BYTES: usize = 64 * 1024;
    message_bytes_max.saturating_mul(2).saturating_add(NAMES_BYTES)
}

/// A message as JSON.
pub fn text(kind: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let failed = |error: &dyn Display| {
        Status::with(Code::Internal, format!("the answer can't be told as JSON: {error}"))
    };
    let message = DynamicMessage::decode(kind, message).map_err(|error| failed(&error))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true)
        .stringify_64_bit_integers(true);
    let mut out = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options)
        .map_err(|error| failed(&error))?;
    Ok(out)
}

/// The message that a JSON value means.
pub fn message(kind: MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(kind, &mut Deserializer::from_slice(text), &options)
        .map_err(|error| senseless(&error))
}

fn senseless(error: &serde_json::Error) -> Status {
    Status::with(Code::InvalidArgument, error.to_string())
}

/// The messages in a request's body, framed as gRPC has them: one JSON value each, with or without white space between.
pub struct Requests<B> {
    body: B,
    kind: MessageDescriptor,
    /// More than one may come, each to be taken as soon as it is there.
    many: bool,
    bytes_max: usize,
    buffer: BytesMut,
    ended: bool,
}

impl<B> Requests<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    pub fn new(body: B, kind: MessageDescriptor, many: bool, bytes_max: usize) -> Self {
        Self { body, kind, many, bytes_max, buffer: BytesMut::new(), ended: false }
    }

    /// The next message; `None`: there are no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            // A long value that comes in pieces is looked through once, if it is the only one.
            if (self.many || self.ended)
                && let Some(message) = self.take()?
            {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => {
                    return Err(Status::with(Code::Canceled, format!("the request broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.buffer.len().saturating_add(data.len()) > self.bytes_max {
                        let text = format!("the request has more than {} bytes of JSON", self.bytes_max);
                        return Err(Status::with(Code::ResourceExhausted, text));
                    }
                    self.buffer.extend_from_slice(&data);
                }
            }
        }
    }

    /// Takes a value that is there as a whole.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let mut values = Deserializer::from_slice(&self.buffer).into_iter::<IgnoredAny>();
        let end = match values.next() {
            None => return Ok(None),
            Some(Ok(_)) => values.byte_offset(),
            Some(Err(error)) if error.is_eof() && !self.ended => return Ok(None),
            Some(Err(error)) => return Err(senseless(&error)),
        };
        let message = message(self.kind.clone(), &self.buffer[..end])?;
        self.buffer.advance(end);
        Ok(Some(grpc::framed(&message)))
    }
}
