//! Ports for the processes of tests.
//!
//! Invariants: a port is given out once by one test process, and lies below those that systems give to outgoing
//! connections: while a member is down for a restart, no client's connection takes its port.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A port that is free now.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` ports in a row that are free now.
///
/// # Panics
/// When the machine has no such row left.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Test processes that run at the same time start at different places.
    const STRIDE: u32 = 211;
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(STRIDE) % COUNT));
    for _ in 0..COUNT {
        let start = next.fetch_add(u32::from(count), Ordering::Relaxed) % COUNT;
        if start + u32::from(count) > COUNT {
            continue;
        }
        let first = u16::try_from(FIRST + start).expect("below 65,536");
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free");
}
