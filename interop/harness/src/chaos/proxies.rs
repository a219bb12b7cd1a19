//! Links between members on loopback: a proxy in front of each member's peer port.
//!
//! Who dials is found out from the system's tables: the process that has the other end of the connection. What comes on
//! a link that is cut is not read until it is open again, and a connection is not made while either way is cut, as in a
//! network that loses packets and never says so.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use quorate_interop::free_port;

use super::network::Link;

/// How often a link that is cut is looked at again.
const POLL: Duration = Duration::from_millis(5);
/// How long a read waits before it looks whether the other direction has ended.
const READ_TIMEOUT: Duration = Duration::from_millis(200);
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct Proxies {
    fronts: Vec<u16>,
    backs: Vec<u16>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    links: Mutex<Vec<Link>>,
    pids: Mutex<Vec<Option<u32>>>,
}

impl Shared {
    fn link(&self, from: usize, to: usize) -> Link {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)[from * self.size + to]
    }

    /// The member whose process has the end `port` of a connection to `front`.
    fn dialer(&self, port: u16, front: u16) -> Option<usize> {
        let inode = inode_of(port, front)?;
        let wanted = format!("socket:[{inode}]");
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pids.iter().position(|pid| pid.is_some_and(|pid| holds(pid, &wanted)))
    }
}

/// The inode of the socket on loopback with this local and this remote port.
fn inode_of(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    table.lines().find_map(|line| {
        // Number, local and remote address, state, queues, timer, retransmits, user, timeout, inode.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&local) && fields.get(2)?.ends_with(&remote);
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files
        .filter_map(Result::ok)
        .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}

impl Proxies {
    /// Listens in front of `size` members.
    pub fn new(size: usize) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            size,
            links: Mutex::new(vec![Link::Open; size * size]),
            pids: Mutex::new(vec![None; size]),
        });
        let (mut fronts, mut backs) = (Vec::new(), Vec::new());
        for to in 0..size {
            let (front, back) = (free_port(), free_port());
            let listener = TcpListener::bind(("127.0.0.1", front)).context("a proxy's port")?;
            let shared = Arc::clone(&shared);
            // Ends with the process, as all of them do.
            std::thread::spawn(move || accept(&listener, &shared, to, front, back));
            fronts.push(front);
            backs.push(back);
        }
        Ok(Self { fronts, backs, shared })
    }

    /// Where the others reach a member.
    pub fn front(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.fronts[place])
    }

    /// Where it listens.
    pub fn back(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.backs[place])
    }

    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner)[from * self.shared.size + to] = link;
    }

    /// Sets all links from and to a member.
    pub fn set_around(&self, place: usize, link: Link) {
        for other in (0..self.shared.size).filter(|&other| other != place) {
            self.set(place, other, link);
            self.set(other, place, link);
        }
    }

    pub fn note_pids(&self, pids: Vec<Option<u32>>) {
        *self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner) = pids;
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, to: usize, front: u16, back: u16) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A broken connection is the business of its two ends.
            let _ = carry(stream, &shared, to, front, back);
        });
    }
}

/// Carries one connection to its end.
fn carry(dialed: TcpStream, shared: &Arc<Shared>, to: usize, front: u16, back: u16) -> std::io::Result<()> {
    let port = dialed.peer_addr()?.port();
    // A process that was just started may not be known yet.
    const KNOWN_MAX: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + KNOWN_MAX;
    let from = loop {
        match shared.dialer(port, front) {
            Some(from) => break from,
            None if Instant::now() > deadline => return dialed.shutdown(Shutdown::Both),
            None => std::thread::sleep(POLL),
        }
    };
    while shared.link(from, to) == Link::Cut || shared.link(to, from) == Link::Cut {
        std::thread::sleep(POLL);
    }
    let target = TcpStream::connect(("127.0.0.1", back))?;
    for stream in [&dialed, &target] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
    }
    let (there, back_again) = ((dialed.try_clone()?, target.try_clone()?), (target, dialed));
    let shared_back = Arc::clone(shared);
    let answers = std::thread::spawn(move || pump(back_again.0, back_again.1, &shared_back, to, from));
    pump(there.0, there.1, shared, from, to);
    let _ = answers.join();
    Ok(())
}

/// Carries what `from` sends to `to`, until either end is gone; then both are.
fn pump(mut source: TcpStream, mut sink: TcpStream, shared: &Shared, from: usize, to: usize) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if shared.link(from, to) == Link::Cut {
            std::thread::sleep(POLL);
            continue;
        }
        let len = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if is_timeout(&error) => continue,
            Err(_) => break,
        };
        if let Link::Slow(delay) = shared.link(from, to) {
            std::thread::sleep(delay);
        }
        // Read just before the link was cut: it is on its way like anything sent later.
        while shared.link(from, to) == Link::Cut {
            std::thread::sleep(POLL);
        }
        if sink.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    let _ = source.shutdown(Shutdown::Both);
    let _ = sink.shutdown(Shutdown::Both);
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
