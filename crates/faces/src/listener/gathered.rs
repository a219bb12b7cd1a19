//! Writes of one turn of a connection, gathered into few system calls.
//!
//! `h2` writes and flushes each frame of 256 bytes or more by itself: an event to a hundred watchers of one connection
//! would be a hundred system calls. Here a write only adds to a buffer, and a flush does nothing; the task that drives the
//! connection flushes once, after each of its turns.
//!
//! Invariants:
//!
//! - What is gathered goes out before the task rests, or the task is woken once the socket takes more.
//! - At most [`GATHERED_BYTES_MAX`] are gathered; a write beyond that waits for the socket, which is how a connection
//!   learns that its client does not read. A connection at rest holds no buffer.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one connection gathers before it writes.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// The stream as a connection sees it.
pub(super) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

/// Sends what was gathered.
pub(super) struct Flusher<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    stream: S,
    gathered: Vec<u8>,
    /// So many of them are written.
    written: usize,
    /// Something was written since the stream was last flushed.
    flush_wanted: bool,
}

/// Gathers what is written to `stream`; [`Flusher::drive`] has to drive the connection.
pub(super) fn gathered<S>(stream: S) -> (Gathered<S>, Flusher<S>) {
    let inner = Inner { stream, gathered: Vec::new(), written: 0, flush_wanted: false };
    let inner = Arc::new(Mutex::new(inner));
    (Gathered(Arc::clone(&inner)), Flusher(inner))
}

fn lock<S>(inner: &Mutex<Inner<S>>) -> MutexGuard<'_, Inner<S>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_write(&mut self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if self.gathered.len() + len > GATHERED_BYTES_MAX {
            ready!(self.poll_send(context))?;
        }
        self.flush_wanted = true;
        if len > GATHERED_BYTES_MAX {
            return Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        }
        pieces.iter().for_each(|piece| self.gathered.extend_from_slice(piece));
        Poll::Ready(Ok(len))
    }

    /// Writes all that is gathered, to the stream.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let rest = &self.gathered[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.gathered = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flush_wanted {
            ready!(self.poll_send(context))?;
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.flush_wanted = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// See the module: the [`Flusher`] flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_flush(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// Drives the connection that writes to the stream. `Err`: the stream takes nothing any more, and the connection is
    /// over.
    pub(super) async fn drive<T>(&self, mut connection: Pin<&mut impl Future<Output = T>>) -> io::Result<T> {
        poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            let flushed = lock(&self.0).poll_flush(context);
            match (ended, flushed) {
                (Poll::Ready(ended), _) => Poll::Ready(Ok(ended)),
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (Poll::Pending, _) => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts the writes that reach it, and takes so many bytes at once.
    struct Counting {
        writes: usize,
        got: Vec<u8>,
        bytes_max: usize,
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let len = bytes.len().min(self.bytes_max);
            self.writes += 1;
            self.got.extend_from_slice(&bytes[..len]);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_flushed_writes_of_one_turn_reach_the_stream_as_one() {
        let (mut writer, flusher) = gathered(Counting { writes: 0, got: Vec::new(), bytes_max: usize::MAX });
        let turn = std::pin::pin!(async {
            for _ in 0..100 {
                writer.write_all(&[7; 300]).await.expect("gathered");
                writer.flush().await.expect("nothing to wait for");
            }
            std::future::pending::<()>().await;
        });
        let waited = tokio::time::timeout(std::time::Duration::ZERO, flusher.drive(turn)).await;
        assert!(waited.is_err(), "the connection goes on");
        let inner = lock(&flusher.0);
        assert_eq!((inner.stream.writes, inner.stream.got.len()), (1, 100 * 300));
        assert_eq!(inner.gathered.capacity(), 0, "a connection at rest holds no buffer");
    }

    #[tokio::test]
    async fn a_stream_that_takes_little_gets_every_byte_in_order() {
        let (mut writer, flusher) = gathered(Counting { writes: 0, got: Vec::new(), bytes_max: 999 });
        let sent: Vec<u8> = (0..5 * GATHERED_BYTES_MAX).map(|at| at.to_le_bytes()[0]).collect();
        let write = std::pin::pin!(async {
            for (at, piece) in sent.chunks(70_001).enumerate() {
                writer.write_all(piece).await.expect("it takes all in the end");
                if at % 2 == 0 {
                    writer.write_all(&[]).await.expect("nothing to write");
                }
            }
            writer.shutdown().await.expect("the end");
        });
        flusher.drive(write).await.expect("a stream that takes all");
        assert!(lock(&flusher.0).stream.got == sent, "other bytes arrived");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let (mut writer, flusher) = gathered(ours);
        let total = 3 * GATHERED_BYTES_MAX;
        let write = std::pin::pin!(async {
            for _ in 0..3 {
                writer.write_all(&vec![1; GATHERED_BYTES_MAX]).await.expect("a reader");
            }
            writer.shutdown().await.expect("a reader");
        });
        let mut got = Vec::new();
        let (driven, read) = tokio::join!(flusher.drive(write), theirs.read_to_end(&mut got));
        driven.expect("all was written");
        assert_eq!((read.expect("all was read"), got.len()), (total, total));
    }

    #[tokio::test]
    async fn a_stream_that_broke_ends_a_connection_that_waits_for_something_else() {
        let (ours, theirs) = tokio::io::duplex(100);
        drop(theirs);
        let (mut writer, flusher) = gathered(ours);
        let write = std::pin::pin!(async {
            writer.write_all(&[1]).await.expect("gathered");
            std::future::pending::<()>().await;
        });
        assert!(flusher.drive(write).await.is_err());
    }
}
