//! A small HTTP/1 client: for discovery services, and for what machines ask each other on their peer ports.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use quorate_faces::etcd2::peer::percent_encoded;
use quorate_tls::{Connector, Stream};
use tokio::net::TcpStream;

/// A whole request, redirects included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1 << 20;
const REDIRECTS_MAX: usize = 5;

/// What a request came to.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct WebError {
    pub url: String,
    pub reason: String,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub method: Method,
    pub url: String,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Ask {
    pub fn get(url: impl Into<String>) -> Self {
        Self { method: Method::GET, url: url.into(), content_type: "", body: Bytes::new() }
    }

    /// Puts one field of a form.
    pub fn put_form(url: impl Into<String>, name: &str, value: &str) -> Self {
        Self {
            method: Method::PUT,
            url: url.into(),
            content_type: "application/x-www-form-urlencoded",
            body: format!("{name}={}", percent_encoded(value)).into(),
        }
    }

    pub fn put_json(url: impl Into<String>, body: String) -> Self {
        Self { method: Method::PUT, url: url.into(), content_type: "application/json", body: body.into() }
    }

    /// Asks, and follows redirects. `tls` is for `https://` URLs.
    pub async fn send(mut self, tls: Option<&Connector>) -> Result<Answer, WebError> {
        let first = self.url.clone();
        let failed = |reason: String| WebError { url: first.clone(), reason };
        let all = async {
            for _ in 0..=REDIRECTS_MAX {
                match self.once(tls).await.map_err(|reason| failed(reason.to_string()))? {
                    Once::Answer(answer) => return Ok(answer),
                    Once::Elsewhere(url) => self.url = url,
                }
            }
            Err(failed(format!("more than {REDIRECTS_MAX} redirects")))
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, all).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
        }
    }

    async fn once(&self, tls: Option<&Connector>) -> Result<Once, Failure> {
        let uri: Uri = self.url.parse().map_err(|_| Failure::Url)?;
        let host = uri.host().ok_or(Failure::Url)?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(Failure::Url),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await?;
        let stream: Stream<TcpStream> = match (secure, tls) {
            (false, _) => Stream::Plain(stream),
            (true, Some(tls)) => tls.connect(bare, stream, REQUEST_TIMEOUT).await?.into(),
            (true, None) => return Err(Failure::NoTls),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(async move {
            // Its error is the request's as well.
            let _ = connection.await;
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(&self.method).uri(path);
        request = request.header(HOST, uri.authority().map_or(host, |authority| authority.as_str()));
        if !self.body.is_empty() {
            request = request.header(CONTENT_TYPE, self.content_type).header(CONTENT_LENGTH, self.body.len());
        }
        let request = request.body(Full::new(self.body.clone())).map_err(|_| Failure::Url)?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_redirection()
            && let Some(place) = response.headers().get(LOCATION).and_then(|place| place.to_str().ok())
        {
            driving.abort();
            return Ok(Once::Elsewhere(resolved(&uri, place)));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failure::Body(error.to_string()))?.to_bytes();
        driving.abort();
        Ok(Once::Answer(Answer { status: status.as_u16(), body }))
    }
}

enum Once {
    Answer(Answer),
    Elsewhere(String),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it is no http:// or https:// URL")]
    Url,
    #[error("it has TLS, and there is no CA to check its certificate with")]
    NoTls,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Tls(#[from] quorate_tls::HandshakeError),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("its answer can't be read: {0}")]
    Body(String),
}

/// Where a redirect leads.
fn resolved(from: &Uri, place: &str) -> String {
    match (place.starts_with('/'), from.scheme_str(), from.authority()) {
        (true, Some(scheme), Some(authority)) => format!("{scheme}://{authority}{place}"),
        _ => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_elsewhere_or_to_another_path() {
        let from: Uri = "http://a:1/x?y".parse().expect("a URL");
        assert_eq!(resolved(&from, "/z"), "http://a:1/z");
        assert_eq!(resolved(&from, "http://b:2/z"), "http://b:2/z");
    }
}
