//! What this member sends to one peer on one lane.
//!
//! Whoever sends a frame writes it to the socket, where that takes it at once: waking the peer thread for it would cost
//! more than the write. What can't be written so waits in a bounded queue, and the peer thread writes it.
//!
//! Invariants: frames leave in the order in which they were sent, and whole: while anything waits, or the peer thread
//! writes, all else waits behind it. What is left of a frame that was begun goes first, on the same connection or not at
//! all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use quorate_tls::Stream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::link::write;

/// Frames that may wait for a peer, per lane.
const FRAMES_QUEUED_MAX: usize = 4096;
/// Frames that leave with one write.
const FRAMES_PER_WRITE_MAX: usize = 256;
/// A larger frame is left to the peer thread: copying it to the socket would hold up the sender.
const DIRECT_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug, Default)]
struct Lane {
    /// A connection without TLS: one with it can't be shared.
    stream: Option<Arc<TcpStream>>,
    /// Frames in the queue, and in the hands of the peer thread.
    waiting: usize,
}

type Shared = Arc<Mutex<Lane>>;

fn locked(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sender's side.
#[derive(Debug)]
pub(super) struct Outgoing {
    lane: Shared,
    queue: mpsc::Sender<Bytes>,
}

/// The peer thread's side.
#[derive(Debug)]
pub(super) struct Waiting {
    lane: Shared,
    frames: mpsc::Receiver<Bytes>,
}

/// The two sides of one lane.
pub(super) fn outgoing() -> (Outgoing, Waiting) {
    let lane = Shared::default();
    let (queue, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
    (Outgoing { lane: lane.clone(), queue }, Waiting { lane, frames })
}

impl Outgoing {
    /// Sends a frame, or queues it; false where there is no room.
    pub(super) fn send(&self, mut frame: Bytes) -> bool {
        let mut lane = locked(&self.lane);
        if lane.waiting == 0
            && frame.len() <= DIRECT_BYTES_MAX
            && let Some(stream) = &lane.stream
            // An error is the peer thread's to find.
            && let Ok(written) = stream.try_write(&frame)
        {
            frame.advance(written);
            if frame.is_empty() {
                return true;
            }
        }
        let fits = self.queue.try_send(frame).is_ok();
        lane.waiting += usize::from(fits);
        fits
    }
}

impl Waiting {
    /// Whether the peer was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.frames.is_closed()
    }

    /// Drops what waits: it was for a connection that is lost.
    pub(super) fn clear(&mut self) {
        while self.frames.try_recv().is_ok() {
            locked(&self.lane).waiting -= 1;
        }
    }

    /// Writes frames until the connection breaks (`Some`) or the peer is dropped (`None`).
    pub(super) async fn pump(&mut self, stream: Stream<TcpStream>) -> Option<()> {
        match stream {
            Stream::Plain(stream) => {
                let stream = Arc::new(stream);
                locked(&self.lane).stream = Some(stream.clone());
                let ended = self.pump_plain(&stream).await;
                locked(&self.lane).stream = None;
                ended
            }
            Stream::Tls(_) => self.pump_tls(stream).await,
        }
    }

    async fn pump_plain(&mut self, stream: &TcpStream) -> Option<()> {
        let mut taken = Vec::with_capacity(FRAMES_PER_WRITE_MAX);
        loop {
            let count = tokio::select! {
                count = self.frames.recv_many(&mut taken, FRAMES_PER_WRITE_MAX) => count,
                () = ended(stream) => return Some(()),
            };
            if count == 0 {
                return None;
            }
            let written = write_all(stream, &joined(&mut taken)).await;
            locked(&self.lane).waiting -= count;
            if written.is_err() {
                return Some(());
            }
        }
    }

    async fn pump_tls(&mut self, mut stream: Stream<TcpStream>) -> Option<()> {
        let mut taken = Vec::with_capacity(FRAMES_PER_WRITE_MAX);
        let mut probe = [0u8; 1];
        loop {
            let count = tokio::select! {
                count = self.frames.recv_many(&mut taken, FRAMES_PER_WRITE_MAX) => count,
                // The peer never sends on this connection: anything that arrives is its end.
                _ = stream.read(&mut probe) => return Some(()),
            };
            if count == 0 {
                return None;
            }
            let written = write(&mut stream, &joined(&mut taken)).await;
            locked(&self.lane).waiting -= count;
            if written.is_err() {
                return Some(());
            }
        }
    }
}

/// Empties `frames` into one.
fn joined(frames: &mut Vec<Bytes>) -> Bytes {
    let joined = match &frames[..] {
        [one] => one.clone(),
        many => many.concat().into(),
    };
    frames.clear();
    joined
}

/// The peer never sends on this connection: anything that arrives is its end.
async fn ended(stream: &TcpStream) {
    loop {
        let read = match stream.readable().await {
            Ok(()) => stream.try_read(&mut [0u8; 1]),
            Err(error) => Err(error),
        };
        if !matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
            return;
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Frames of many sizes, some larger than is written directly, each filled with its number.
    fn frames() -> Vec<Bytes> {
        let size = |number: usize| 1 + (number * 7919) % (DIRECT_BYTES_MAX * 5 / 4);
        (0..600).map(|number| vec![number as u8; size(number)].into()).collect()
    }

    #[test]
    fn frames_arrive_whole_and_in_order_though_the_socket_is_full_again_and_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (outgoing, mut waiting) = outgoing();
        assert!(outgoing.send(Bytes::from_static(b"before there is a connection")));
        let lane = waiting.lane.clone();
        let peers = std::thread::spawn(move || {
            runtime.block_on(async {
                let stream = TcpStream::connect(address).await.expect("a connection");
                waiting.pump(Stream::Plain(stream)).await
            })
        });
        let (mut receiver, _) = listener.accept().expect("a connection");
        while locked(&lane).stream.is_none() || locked(&lane).waiting > 0 {
            std::thread::yield_now();
        }
        let mut sent = b"before there is a connection".to_vec();
        let mut received = Vec::new();
        let mut direct = 0;
        for (number, frame) in frames().into_iter().enumerate() {
            sent.extend_from_slice(&frame);
            direct += usize::from(locked(&lane).waiting == 0);
            assert!(outgoing.send(frame), "frame {number} finds room");
            // Now and then the receiver catches up, and frames are written directly again.
            if number % 50 == 49 {
                let missing = sent.len() - received.len();
                let mut part = vec![0; missing];
                receiver.read_exact(&mut part).expect("all that was sent");
                received.extend_from_slice(&part);
                while locked(&lane).waiting > 0 {
                    std::thread::yield_now();
                }
            }
        }
        drop(outgoing);
        receiver.read_to_end(&mut received).expect("the rest");
        assert!(received == sent, "what arrives differs from what was sent");
        assert!((1..600).contains(&direct), "{direct} frames found nothing waiting");
        assert_eq!(peers.join().expect("no panic"), None);
        assert_eq!(locked(&lane).waiting, 0);
    }
}
