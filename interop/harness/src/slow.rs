//! A way to a port that takes its time: what goes through it arrives later by a delay, in order, in both directions.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Such a way. Its threads end with the connections; it listens as long as the program runs.
#[derive(Debug)]
pub struct SlowWay {
    /// `host:port` where it begins.
    pub addr: String,
    millis: Arc<AtomicU64>,
}

impl SlowWay {
    /// One to `to`, without a delay at first.
    pub fn to(to: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for a slow way")?;
        let addr = listener.local_addr()?.to_string();
        let millis = Arc::new(AtomicU64::new(0));
        let (to, delay) = (to.to_owned(), Arc::clone(&millis));
        std::thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                // Who is not there refuses: so does the way.
                let Ok(there) = TcpStream::connect(&to) else { continue };
                let _ = join(&here, &there, &delay);
            }
        });
        Ok(Self { addr, millis })
    }

    /// What goes through it from now on arrives so much later.
    pub fn delay(&self, by: Duration) {
        self.millis.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

fn join(here: &TcpStream, there: &TcpStream, delay: &Arc<AtomicU64>) -> std::io::Result<()> {
    for (from, to) in [(here, there), (there, here)] {
        from.set_nodelay(true)?;
        let (from, to, delay) = (from.try_clone()?, to.try_clone()?, Arc::clone(delay));
        let (sender, receiver) = channel();
        std::thread::spawn(move || take(from, &sender, &delay));
        std::thread::spawn(move || give(to, &receiver));
    }
    Ok(())
}

fn take(mut from: TcpStream, sender: &Sender<(Instant, Vec<u8>)>, delay: &AtomicU64) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        let due = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
        if sender.send((due, bytes[..len].to_vec())).is_err() {
            return;
        }
    }
}

fn give(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in receiver {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
