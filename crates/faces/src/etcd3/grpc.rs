//! gRPC's framing: messages behind five bytes each, a status at the end.
//!
//! Invariants: memory grows with the bytes that arrived, never with a length that a client claims; what is not a whole
//! message is refused with a status.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;

use super::errors::{Code, Status};
use crate::listener::Body;

/// What stands before each message: a flag and its length.
pub const PREFIX_BYTES: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a content type is gRPC's.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    let Some(rest) = kind.strip_prefix(b"application/grpc") else { return false };
    rest.is_empty() || rest.starts_with(b"+proto") || rest.starts_with(b";")
}

/// Refuses messages in an encoding that is not ours.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity" | b"") => Ok(()),
        Some(other) => Err(Status::with(
            Code::Unimplemented,
            format!(
                "grpc: Decompressor is not installed for grpc-encoding {:?}",
                String::from_utf8_lossy(other)
            ),
        )),
    }
}

/// The time that the client gives the call. `None`: no bound.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(text) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let malformed = || Status::new(Code::Internal, "malformed grpc-timeout");
    let text = text.to_str().map_err(|_| malformed())?;
    let Some((digits, unit)) = text.len().checked_sub(1).and_then(|at| text.split_at_checked(at)) else {
        return Err(malformed());
    };
    // At most eight digits, says the protocol.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed());
    }
    let number: u64 = digits.parse().map_err(|_| malformed())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(malformed()),
    }))
}

/// A message behind its prefix.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    put_prefix(&mut out, len);
    message.encode_raw(&mut out);
    out.freeze()
}

/// The prefix of a message of `len` bytes.
pub fn put_prefix(out: &mut BytesMut, len: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

/// Decodes a message.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes)
        .map_err(|error| Status::with(Code::Internal, format!("grpc: error unmarshalling request: {error}")))
}

/// Where a call's messages come from.
pub enum CallBody {
    Client(Incoming),
    /// Framed messages that the JSON gateway makes.
    Gateway(mpsc::Receiver<Bytes>),
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(context),
            Self::Gateway(messages) => {
                messages.poll_recv(context).map(|framed| Some(Ok(Frame::data(framed?))))
            }
        }
    }
}

/// The messages of a request, one after the other.
pub struct Messages<B> {
    body: B,
    message_bytes_max: usize,
    /// A piece that came alone: messages are slices of it.
    piece: Bytes,
    /// What did not come whole.
    parts: BytesMut,
}

impl<B> Messages<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub fn new(body: B, message_bytes_max: usize) -> Self {
        Self { body, message_bytes_max, piece: Bytes::new(), parts: BytesMut::new() }
    }

    /// The next message; `None`: the client sends no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None if self.piece.is_empty() && self.parts.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "unexpected EOF")),
                Some(Err(error)) => {
                    return Err(Status::with(Code::Canceled, format!("the request broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.add(data);
                    }
                }
            }
        }
    }

    /// The only message of a unary call.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        let message = self.next().await?;
        message.ok_or(Status::new(Code::Internal, "cardinality violation: no request message was sent"))
    }

    fn add(&mut self, data: Bytes) {
        if self.piece.is_empty() && self.parts.is_empty() {
            self.piece = data;
            return;
        }
        if !self.piece.is_empty() {
            self.parts.extend_from_slice(&self.piece);
            self.piece = Bytes::new();
        }
        self.parts.extend_from_slice(&data);
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let have: &[u8] = if self.parts.is_empty() { &self.piece } else { &self.parts };
        if have.len() < PREFIX_BYTES {
            return Ok(None);
        }
        match have[0] {
            0 => {}
            1 => {
                return Err(Status::new(
                    Code::Internal,
                    "grpc: compressed flag set with identity or empty encoding",
                ));
            }
            flag => {
                return Err(Status::with(
                    Code::Internal,
                    format!("grpc: received unexpected payload format {flag}"),
                ));
            }
        }
        let len = u32::from_be_bytes([have[1], have[2], have[3], have[4]]) as usize;
        if len > self.message_bytes_max {
            let max = self.message_bytes_max;
            return Err(Status::with(
                Code::ResourceExhausted,
                format!("grpc: received message larger than max ({len} vs. {max})"),
            ));
        }
        if have.len() - PREFIX_BYTES < len {
            return Ok(None);
        }
        if self.parts.is_empty() {
            self.piece.advance(PREFIX_BYTES);
            return Ok(Some(self.piece.split_to(len)));
        }
        self.parts.advance(PREFIX_BYTES);
        Ok(Some(self.parts.split_to(len).freeze()))
    }
}

/// How a call ended, where these headers or trailers say so.
#[must_use]
pub fn status_of(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok().and_then(Code::from_number);
    let text = headers.get(GRPC_MESSAGE).map_or(String::new(), |text| percent_decoded(text.as_bytes()));
    Some(match code {
        Some(Code::Ok) => Ok(()),
        code => Err(Status::with(code.unwrap_or(Code::Unknown), text)),
    })
}

/// The trailers of a call that went well.
#[must_use]
pub fn trailers_ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The trailers of a call that failed.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    put_status(&mut trailers, status);
    trailers
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code as u16));
    if !status.message.is_empty()
        && let Ok(text) = HeaderValue::from_bytes(percent_encoded(&status.message).as_bytes())
    {
        headers.insert(GRPC_MESSAGE, text);
    }
}

/// A text as `grpc-message` carries it: printable ASCII, the rest and `%` as `%XX`.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// What [`percent_encoded`] was given. What it can't have written stays as it is.
fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &behind[2..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer with this body, whose status is in its trailers.
#[must_use]
pub fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC_TYPE);
    response
}

/// An answer of one framed message.
#[must_use]
pub fn response_whole(framed: Bytes) -> Response<Body> {
    response(Body::Whole { data: Some(framed), trailers: Some(Box::new(trailers_ok())) })
}

/// An answer that has nothing but a status.
#[must_use]
pub fn response_status(status: &Status) -> Response<Body> {
    let mut response = response(Body::empty());
    put_status(response.headers_mut(), status);
    response
}

/// What a request that is not gRPC gets on a gRPC path.
#[must_use]
pub fn response_not_grpc() -> Response<Body> {
    let mut response = Response::new(Body::whole("this path speaks gRPC\n".into()));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};
    use std::convert::Infallible;

    const MAX: usize = 100;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn in_pieces(
        bytes: &[u8],
        piece: usize,
    ) -> impl HttpBody<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let frames: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, Infallible>(http_body::Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        StreamBody::new(tokio_stream::iter(frames))
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let sent = [b"first".as_slice(), b"", b"third message"];
        let mut bytes = BytesMut::new();
        for message in sent {
            put_prefix(&mut bytes, message.len());
            bytes.extend_from_slice(message);
        }
        for piece in 1..bytes.len() {
            let mut messages = Messages::new(in_pieces(&bytes, piece), MAX);
            for message in sent {
                assert_eq!(
                    block_on(messages.next()),
                    Ok(Some(Bytes::copy_from_slice(message))),
                    "pieces of {piece}"
                );
            }
            assert_eq!(block_on(messages.next()), Ok(None));
        }
    }

    #[test]
    fn what_is_not_a_whole_message_is_refused() {
        let code = |bytes: &'static [u8]| {
            let mut messages = Messages::new(Full::new(Bytes::from_static(bytes)), MAX);
            block_on(messages.only()).expect_err("hostile").code
        };
        assert_eq!(code(b""), Code::Internal, "nothing");
        assert_eq!(code(b"\0\0\0"), Code::Internal, "half a prefix");
        assert_eq!(code(b"\0\0\0\0\x05abc"), Code::Internal, "half a message");
        assert_eq!(code(b"\0\xff\xff\xff\xffabc"), Code::ResourceExhausted, "a huge length");
        assert_eq!(code(b"\0\0\0\0\x65"), Code::ResourceExhausted, "one byte more than allowed");
        assert_eq!(code(b"\x01\0\0\0\x01a"), Code::Internal, "compressed");
        assert_eq!(code(b"\x07\0\0\0\x01a"), Code::Internal, "an unknown flag");
    }

    #[test]
    fn timeouts_have_a_number_and_a_unit() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(parse("5S"), Ok(Some(Duration::from_secs(5))));
        assert_eq!(parse("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        assert_eq!(parse("250m"), Ok(Some(Duration::from_millis(250))));
        for hostile in ["", "S", "5", "5X", "-5S", "123456789S", "5 S"] {
            assert!(parse(hostile).is_err(), "{hostile:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let status = Status::with(Code::NotFound, "100 % für\nall".to_owned());
        let trailers = trailers(&status);
        assert_eq!(trailers[GRPC_STATUS], "5");
        assert_eq!(trailers[GRPC_MESSAGE], "100 %25 f%C3%BCr%0Aall");
        assert_eq!(status_of(&trailers), Some(Err(status)));
        assert_eq!(status_of(&trailers_ok()), Some(Ok(())));
        assert_eq!(status_of(&HeaderMap::new()), None);
    }

    #[test]
    fn only_grpc_is_taken_for_grpc() {
        let with = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            is_grpc(&headers)
        };
        assert!(with("application/grpc") && with("application/grpc+proto") && with("application/grpc; a=b"));
        assert!(!with("application/json") && !with("application/grpc-web") && !is_grpc(&HeaderMap::new()));
    }
}
