//! The HTTP requests that tests need, without a client library in between.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Gets `path` from `addr`; returns status and body.
pub fn get(addr: &str, path: &str) -> anyhow::Result<(u16, String)> {
    send(addr, "GET", path, "")
}

/// Sends a request with a form, or with nothing in it; returns status and body.
pub fn send(addr: &str, method: &str, path: &str, form: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n")?;
    if !form.is_empty() {
        write!(
            stream,
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            form.len()
        )?;
    }
    write!(stream, "\r\n{form}")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the answer did not end")?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}
