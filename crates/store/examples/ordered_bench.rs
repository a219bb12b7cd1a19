//! Measures the ordered index: time per operation, and bytes a key.
//!
//! `cargo run --release -p quorate-store --example ordered_bench [keys]` (1,000,000 keys by default).

#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use quorate_store::ordered::{Builder, Ordered};

const ROW_BYTES: usize = 14;

/// SplitMix64: a bijection of u64, so that different numbers give different keys.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn row(number: u64) -> [u8; ROW_BYTES] {
    let mut row = [0; ROW_BYTES];
    row[..8].copy_from_slice(&mix(!number).to_le_bytes());
    row
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn timed(name: &str, operations: usize, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    println!("  {name:<30} {:>7.0} ns", start.elapsed().as_nanos() as f64 / operations as f64);
}

/// The same for the map of the standard library, which cannot count.
fn compare(keys: &[Vec<u8>]) {
    let mut map = BTreeMap::<Box<[u8]>, Box<[u8]>>::new();
    timed("BTreeMap: insert", keys.len(), || {
        for (at, key) in keys.iter().enumerate() {
            map.insert(key[..].into(), row(at as u64)[..].into());
        }
    });
    let picked: Vec<Vec<u8>> =
        (0..keys.len()).map(|at| keys[(mix(at as u64) % keys.len() as u64) as usize].clone()).collect();
    timed("BTreeMap: get", keys.len(), || {
        for key in &picked {
            assert!(black_box(map.get(&key[..])).is_some());
        }
    });
}

fn measure(name: &str, keys: &[Vec<u8>]) {
    println!("{name}: {} keys of {} bytes, rows of {ROW_BYTES}", keys.len(), keys[0].len());
    let resident_before = resident_bytes();
    let mut index = Ordered::new();
    let mut old = Vec::new();
    timed("insert", keys.len(), || {
        for (at, key) in keys.iter().enumerate() {
            index.insert(key, &row(at as u64), &mut old);
        }
    });
    let per_key = |bytes: usize| bytes as f64 / keys.len() as f64;
    let resident = resident_bytes().saturating_sub(resident_before);
    println!("  memory {:.1} bytes a key, resident {:.1}", per_key(index.memory_bytes()), per_key(resident));
    // Laid out in the order of use, so that what is measured is not the fetching of the key that is asked for.
    let picked: Vec<Vec<u8>> =
        (0..=keys.len()).map(|at| keys[(mix(at as u64) % keys.len() as u64) as usize].clone()).collect();
    let pick = |at: usize| &picked[at];
    timed("get", keys.len(), || {
        for at in 0..keys.len() {
            assert!(black_box(index.get(pick(at))).is_some());
        }
    });
    timed("count of a range", keys.len(), || {
        for at in 0..keys.len() {
            black_box(index.count(pick(at), Some(pick(at + 1))));
        }
    });
    timed("replace, row as long", keys.len(), || {
        for at in 0..keys.len() {
            assert!(index.insert(pick(at), &row(!at as u64), &mut old));
        }
    });
    timed("scan, a key", keys.len(), || {
        index.scan(b"", None, &mut |key, row| {
            black_box((key, row));
            ControlFlow::Continue(())
        });
    });
    timed("scan of 10 keys", keys.len() / 10, || {
        for at in 0..keys.len() / 10 {
            let mut left = 10;
            index.scan(pick(at), None, &mut |key, row| {
                black_box((key, row));
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
    });
    timed("remove of nine tenths", keys.len() * 9 / 10, || {
        for key in &keys[..keys.len() * 9 / 10] {
            assert!(index.remove(key, &mut old));
        }
    });
    println!("  memory {:.1} bytes a key left", index.memory_bytes() as f64 / index.len() as f64);
    let mut sorted = keys.to_vec();
    sorted.sort();
    timed("bulk build", keys.len(), || {
        let mut builder = Builder::new();
        for (at, key) in sorted.iter().enumerate() {
            builder.push(key, &row(at as u64)).expect("keys are sorted");
        }
        index = builder.finish();
    });
    println!("  memory {:.1} bytes a key", per_key(index.memory_bytes()));
}

fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let hex = |number: u64| format!("{:016x}", mix(number)).into_bytes();
    let binary = |number: u64| [mix(number).to_be_bytes(), mix(!number).to_be_bytes()].concat();
    let registry = |number: u64| {
        let namespace = mix(number) % 100;
        format!("/registry/pods/namespace-{namespace:02}/pod-{:012x}", mix(number) >> 16).into_bytes()
    };
    measure("random hex", &(0..count).map(hex).collect::<Vec<_>>());
    compare(&(0..count).map(hex).collect::<Vec<_>>());
    measure("random bytes", &(0..count).map(binary).collect::<Vec<_>>());
    measure("registry names, random order", &(0..count).map(registry).collect::<Vec<_>>());
    let ascending = |number: u64| format!("key-{number:012}").into_bytes();
    measure("ascending", &(0..count).map(ascending).collect::<Vec<_>>());
    measure("descending", &(0..count).rev().map(ascending).collect::<Vec<_>>());
}
