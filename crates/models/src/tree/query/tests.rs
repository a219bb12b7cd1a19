//! Walks through a tree that changes between their slices.

use proptest::prelude::*;
use quorate_ids::{ClusterTime, LogIndex, Term, WallTime};

use super::super::{Command, Tree, Write};
use super::*;
use crate::{Cursor, Stamps, Step};

struct Member {
    store: Store,
    tree: Tree,
    log_index: u64,
}

impl Member {
    fn new() -> Self {
        let store = Store::in_memory();
        let tree = Tree::open(&store.read());
        Self { store, tree, log_index: 0 }
    }

    fn apply(&mut self, command: &Command) {
        self.log_index += 1;
        let stamps = Stamps {
            index: LogIndex(self.log_index),
            term: Term(1),
            cluster_time: ClusterTime(self.log_index * 1_000_000_000),
            wall_time: WallTime(self.log_index * 1_000_000_000),
        };
        let mut tables = self.store.write();
        tables.begin(stamps.index);
        let mut cursor = Cursor::default();
        while self.tree.apply(&mut tables, command, &stamps, &mut cursor) == Step::More {}
    }
}

fn path(text: &str) -> Path {
    Path::clean(text.as_bytes()).expect("a path")
}

fn all(at: &str, recursive: bool) -> Get {
    Get { path: path(at), recursive, bytes_max: usize::MAX }
}

fn finished(walk: Walk<'_>) -> (u64, Option<Node>, Vec<Node>, usize) {
    (walk.index, walk.node, walk.below.into_values().collect(), walk.bytes)
}

fn some_path() -> impl Strategy<Value = Path> {
    let name = prop::sample::select(vec!["a", "b", "c", "_h"]);
    prop::collection::vec(name, 1..5).prop_map(|names| path(&names.join("/")))
}

fn write() -> impl Strategy<Value = Write> {
    (some_path(), "[xyz]{0,3}", prop::bool::weighted(0.3), prop::option::of(0..40u64)).prop_map(
        |(path, value, dir, ttl_seconds)| {
            let value = if dir { Bytes::new() } else { value.into() };
            Write { path, value, dir, ttl_seconds, refresh: false }
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => write().prop_map(Command::Set),
        2 => write().prop_map(Command::Update),
        2 => some_path().prop_map(|path| Command::Delete { path, dir: true, recursive: true }),
        1 => Just(Command::Expire { term: Term(1), nodes_max: 3 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_ends_with_what_one_look_at_the_end_shows(
        before in prop::collection::vec(command(), 0..40),
        between in prop::collection::vec(prop::collection::vec(command(), 0..4), 0..60),
        slice in 1..4usize,
        at in prop_oneof![3 => Just("/"), 1 => Just("/a"), 1 => Just("/a/b")],
        recursive in prop::bool::weighted(0.8),
    ) {
        let mut member = Member::new();
        before.iter().for_each(|command| member.apply(command));
        let get = all(at, recursive);
        let mut walk = Walk { slice, ..Walk::new(&get) };
        let mut between = between.into_iter();
        loop {
            let progress = walk.slice(&member.store.read());
            match progress {
                Ok(Progress::More) => {}
                // It starts over: what was asked for is another node now.
                Ok(Progress::Behind) => walk = Walk { slice, ..Walk::new(&get) },
                Ok(Progress::Done) => {
                    let mut whole = Walk { slice: usize::MAX, ..Walk::new(&get) };
                    prop_assert!(matches!(whole.slice(&member.store.read()), Ok(Progress::Done)));
                    prop_assert_eq!(finished(walk), finished(whole));
                    break;
                }
                Err(error) => {
                    let mut whole = Walk { slice: usize::MAX, ..Walk::new(&get) };
                    prop_assert_eq!(whole.slice(&member.store.read()).err(), Some(error));
                    break;
                }
            }
            between.next().into_iter().flatten().for_each(|command| member.apply(&command));
        }
    }
}

#[test]
fn a_walk_that_history_left_behind_starts_over() {
    let mut member = Member::new();
    for name in 0..20 {
        member.apply(&Command::Set(Write::file(path(&format!("/{name}")), "x".into())));
    }
    member.apply(&Command::SetHistoryWindow { events: 2 });
    let get = all("/", true);
    let mut walk = Walk { slice: 5, ..Walk::new(&get) };
    assert!(matches!(walk.slice(&member.store.read()), Ok(Progress::More)));
    for round in 0..3 {
        member.apply(&Command::Set(Write::file(path("/3"), format!("{round}").into())));
    }
    assert!(matches!(walk.slice(&member.store.read()), Ok(Progress::Behind)));
}

#[test]
fn a_directorys_new_ttl_in_the_middle_of_a_walk_keeps_what_is_in_it() {
    let mut member = Member::new();
    for name in ["/a/1", "/a/2", "/b"] {
        member.apply(&Command::Set(Write::file(path(name), "x".into())));
    }
    let get = all("/", true);
    let mut walk = Walk { slice: 3, ..Walk::new(&get) };
    assert!(matches!(walk.slice(&member.store.read()), Ok(Progress::More)));
    let renewed = Write { ttl_seconds: Some(60), ..Write::file(path("/a"), Bytes::new()) };
    member.apply(&Command::Update(renewed));
    assert!(matches!(walk.slice(&member.store.read()), Ok(Progress::Done)));
    let mut whole = Walk::new(&get);
    assert!(matches!(whole.slice(&member.store.read()), Ok(Progress::Done)));
    assert_eq!(finished(walk), finished(whole));
}
