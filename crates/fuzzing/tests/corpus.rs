//! Runs each file of `fuzz/corpus`, and mutations of it that are the same at every run.
//!
//! `QUORATE_FUZZ_TIMES=50` runs so many times as many mutations, for a hunt without a fuzzer.
//!
//! Memory is measured, not time: what takes long without taking memory shows as a test that does not end.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

use quorate_fuzzing::mutate::{Draws, mutated};
use quorate_fuzzing::{Outcome, TARGETS, Target};

/// Notes the largest piece of memory that a thread asked for.
struct Noting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    // Threads that end allocate, too, when this is gone already.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the same promises to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the same promises to us.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: the caller keeps the same promises to us.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same promises to us.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// No input here is longer than this many bytes, and none may make a single piece of memory of more than the second:
/// the store's fixed buffers are well below it, a length from the input taken at its word is far above it.
const INPUT_BYTES_MAX: usize = 64 * 1024;
const PIECE_BYTES_MAX: usize = 8 << 20;
const CORPUS_BYTES_MAX: usize = 200_000;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name)
}

/// The corpus of a target, in the order of the names.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = folder(target);
    let listed = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<(String, Vec<u8>)> = listed
        .map(|entry| {
            let path = entry.expect("a listing").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a corpus file"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: there is no corpus", folder.display());
    files
}

/// Runs one input; what is wrong is told with `which`, and the input itself.
fn run(target: &Target, input: &[u8], which: &dyn Fn() -> String) -> Outcome {
    assert!(input.len() <= INPUT_BYTES_MAX, "{}", which());
    LARGEST.set(0);
    let ended = std::panic::catch_unwind(|| (target.run)(input));
    let largest = LARGEST.get();
    let told = || format!("{} with {}: {}", target.name, which(), hex(input));
    let outcome = ended.unwrap_or_else(|_| panic!("{} panics", told()));
    assert!(largest <= PIECE_BYTES_MAX, "{} takes {largest} bytes at once", told());
    outcome
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn walk(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let files = corpus(target);
    let times =
        std::env::var("QUORATE_FUZZ_TIMES").map_or(1, |times| times.parse::<u32>().expect("a number"));
    for (number, (file, input)) in files.iter().enumerate() {
        run(target, input, &|| format!("the file {file}"));
        let mut draws = Draws::new(number as u64);
        for mutation in 0..target.mutations * times {
            let other = &files[draws.below(files.len())].1;
            let input = mutated(input, other, &mut draws);
            run(target, &input, &|| format!("mutation {mutation} of {file}"));
        }
    }
}

macro_rules! walks {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                walk(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run_here_and_under_the_fuzzer() {
            let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(known, [$(stringify!($name)),*]);
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
            let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the fuzzers' manifest");
            for name in known {
                let source = std::fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).expect(name);
                assert!(source.contains(&format!("quorate_fuzzing::{name}(")), "{name}: {source}");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
            }
        }
    };
}

walks! {
    wal_recovery store_open snapshot_restore etcd_folder peer_frame raft_message log_entry etcd3_request etcd3_json
    etcd2_request balsa_request settings
}

#[test]
fn what_the_encoders_write_today_is_taken() {
    for target in TARGETS {
        for (name, input) in (target.seeds)() {
            let outcome = run(&target, &input, &|| format!("the seed {name}"));
            assert_eq!(outcome, Outcome::Taken, "{}: the seed {name}", target.name);
        }
    }
}

#[test]
fn the_corpus_is_small_and_holds_what_older_encoders_wrote_too() {
    let mut bytes = 0;
    for target in TARGETS {
        let files = corpus(&target);
        bytes += files.iter().map(|(_, input)| input.len()).sum::<usize>();
        let taken =
            files.iter().filter(|(file, input)| run(&target, input, &|| file.clone()) == Outcome::Taken);
        assert!(2 * taken.count() > files.len(), "{}: most of the corpus is refused", target.name);
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes: minimize it");
}

#[test]
fn mutations_are_the_same_at_every_run_and_change_what_they_are_given() {
    let of = |seed| {
        let mut draws = Draws::new(seed);
        (0..100).map(|_| mutated(b"an input of some bytes", b"another", &mut draws)).collect::<Vec<_>>()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert!(of(1).iter().filter(|bytes| bytes[..] != b"an input of some bytes"[..]).count() > 90);
}
