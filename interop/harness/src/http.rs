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

/// Gets `path` from `addr`, where neither the connection nor a pause in the answer may take longer than `timeout`.
pub fn get_within(addr: &str, path: &str, timeout: Duration) -> anyhow::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&addr.parse()?, timeout)
        .with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_read_timeout(Some(timeout))?;
    exchange(stream, addr, "GET", path, "")
}

/// Sends a request with a form, or with nothing in it; returns status and body.
pub fn send(addr: &str, method: &str, path: &str, form: &str) -> anyhow::Result<(u16, String)> {
    let stream = TcpStream::connect(addr).with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, addr, method, path, form)
}

fn exchange(
    mut stream: TcpStream,
    addr: &str,
    method: &str,
    path: &str,
    form: &str,
) -> anyhow::Result<(u16, String)> {
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
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no HTTP answer")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 4..]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { joined(body)? } else { body.to_vec() };
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A body that came in chunks: each has its length before it, as hexadecimal digits, and the last has none.
fn joined(mut body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|bytes| bytes == b"\r\n").context("a chunk without its length")?;
        let length = std::str::from_utf8(&body[..end])?.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(length.trim(), 16).context("a chunk's length")?;
        if length == 0 {
            return Ok(whole);
        }
        let (chunk, rest) = body[end + 2..].split_at_checked(length).context("a chunk that was cut short")?;
        whole.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n").context("a chunk without its end")?;
    }
}
