//! What clients of etcd's v2 API rely on, one by one.

use quorate_ids::{Term, TreeIndex, WallTime};
use quorate_models::tree::{
    Action, Command, CompareFailure, Conditions, Event, NameStyle, Path, Reply, TreeError, Value, Write,
};

use super::machine::{Machine, directory, file, path_of};

fn changed(reply: Reply) -> Event {
    match reply {
        Reply::Changed(event) => Event::clone(&event),
        other => panic!("not a change: {other:?}"),
    }
}

fn refused(reply: Reply) -> TreeError {
    match reply {
        Reply::Refused { error, .. } => error,
        other => panic!("not a refusal: {other:?}"),
    }
}

fn text(value: &str) -> Value {
    Value::Here(bytes::Bytes::copy_from_slice(value.as_bytes()))
}

fn delete(path: &str, dir: bool, recursive: bool) -> Command {
    Command::Delete { path: path_of(path), dir, recursive }
}

#[test]
fn the_first_write_after_three_machines_joined_has_index_four() {
    let mut machine = Machine::new();
    for number in 1..=3 {
        let registration = Command::Create(file(&format!("/_etcd/machines/machine{number}"), "raft=…"));
        assert_eq!(changed(machine.apply(&registration)).index, TreeIndex(number));
    }
    let set = changed(machine.apply(&Command::Set(file("/foo", "bar"))));
    assert_eq!((set.node.created, set.node.modified), (TreeIndex(4), TreeIndex(4)));
    let (_, node, machines) = machine.get("/_etcd/machines", false).expect("a hidden node can be asked for");
    assert_eq!((node.created, node.modified, machines.len()), (TreeIndex(1), TreeIndex(1), 3));
    let (_, _, below) = machine.get("/", true).expect("the root");
    assert_eq!(below.len(), 1, "what is hidden is not listed: {below:?}");
}

#[test]
fn a_tree_that_begins_after_three_gives_its_first_write_index_four_and_begins_once() {
    let mut machine = Machine::new();
    for _ in 0..3 {
        machine.apply(&Command::Begin { index: TreeIndex(3) });
    }
    assert_eq!(changed(machine.apply(&Command::Set(file("/foo", "bar")))).index, TreeIndex(4));
    machine.apply(&Command::Begin { index: TreeIndex(90) });
    assert_eq!(changed(machine.apply(&Command::Set(file("/foo", "baz")))).index, TreeIndex(5));
    machine.compare();
}

#[test]
fn a_refused_command_takes_no_index() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/dir/file", "1")));
    let mut twice = |command: &Command| {
        assert_eq!(machine.apply(command).index(), TreeIndex(1));
        refused(machine.apply(command))
    };
    let path = path_of;
    assert_eq!(twice(&Command::Set(file("/", "x"))), TreeError::RootReadOnly);
    assert_eq!(twice(&delete("/", true, true)), TreeError::RootReadOnly);
    assert_eq!(twice(&Command::Set(file("/dir", "x"))), TreeError::NotFile { path: path("/dir") });
    assert_eq!(twice(&Command::Set(directory("/dir"))), TreeError::NotFile { path: path("/dir") });
    assert_eq!(
        twice(&Command::Create(file("/dir/file", "x"))),
        TreeError::Exists { path: path("/dir/file") }
    );
    let below_a_file = TreeError::NotDirectory { path: path("/dir/file") };
    assert_eq!(twice(&Command::Set(file("/dir/file/a/b", "x"))), below_a_file);
    assert_eq!(twice(&Command::Update(file("/no/where", "x"))), TreeError::NotFound { path: path("/no") });
    assert_eq!(twice(&Command::Update(file("/dir", "x"))), TreeError::NotFile { path: path("/dir") });
    assert_eq!(twice(&delete("/dir", false, false)), TreeError::NotFile { path: path("/dir") });
    assert_eq!(twice(&delete("/dir", true, false)), TreeError::NotEmpty { path: path("/dir") });
    assert_eq!(twice(&delete("/dir/none", false, false)), TreeError::NotFound { path: path("/dir/none") });
    let late = Write { ttl_seconds: Some(1 << 40), ..file("/x", "x") };
    assert_eq!(twice(&Command::Set(late)), TreeError::TtlTooLong { seconds: 1 << 40 });
    assert_eq!(machine.reference.statistics.set_fail, 10);
    machine.compare();
}

#[test]
fn in_order_keys_are_named_by_the_index_they_take_in_either_style() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/a", "1")));
    let in_order = |style| Command::CreateInOrder { write: file("/queue", "job"), style };
    let plain = changed(machine.apply(&in_order(NameStyle::Plain)));
    assert_eq!((plain.action, plain.node.path), (Action::Create, path_of("/queue/2")));
    let padded = changed(machine.apply(&in_order(NameStyle::Padded)));
    assert_eq!(padded.node.path, path_of("/queue/00000000000000000003"));
    machine.apply(&Command::Set(file("/queue/5", "taken")));
    assert_eq!(
        refused(machine.apply(&in_order(NameStyle::Plain))),
        TreeError::Exists { path: path_of("/queue/5") }
    );
    let at_root = Command::CreateInOrder { write: file("/", "job"), style: NameStyle::Plain };
    assert_eq!(changed(machine.apply(&at_root)).node.path, path_of("/5"));
}

#[test]
fn a_failed_compare_names_what_was_asked_and_what_is_there() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/foo", "one")));
    let swap = |value: Option<&str>, index: Option<u64>| Command::CompareAndSwap {
        write: file("/foo", "two"),
        conditions: Conditions {
            value: value.map(|value| value.to_owned().into()),
            index: index.map(TreeIndex),
        },
    };
    // A cold value is read for it.
    machine.checkpoint();
    let value = Some(("zero".into(), "one".into()));
    let index = Some((TreeIndex(9), TreeIndex(1)));
    let of = |reply| match refused(reply) {
        TreeError::CompareFailed(failure) => failure,
        other => panic!("{other}"),
    };
    let only_value = CompareFailure { value: value.clone(), index: None };
    assert_eq!(of(machine.apply(&swap(Some("zero"), None))), only_value);
    assert_eq!(of(machine.apply(&swap(Some("zero"), Some(1)))), only_value, "the index holds");
    assert_eq!(of(machine.apply(&swap(None, Some(9)))), CompareFailure { value: None, index });
    assert_eq!(of(machine.apply(&swap(Some("zero"), Some(9)))), CompareFailure { value, index });
    let swapped = changed(machine.apply(&swap(Some("one"), Some(1))));
    assert_eq!((swapped.action, swapped.index), (Action::CompareAndSwap, TreeIndex(2)));
    assert_eq!(swapped.node.created, TreeIndex(1), "a swap updates the node that is there");
    assert_eq!(swapped.previous.expect("there was one").value, text("one"));
}

#[test]
fn a_set_makes_a_new_node_and_an_update_goes_on_with_the_old_one() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/foo", "1")));
    let set = changed(machine.apply(&Command::Set(file("/foo", "2"))));
    assert_eq!((set.node.created, set.node.modified), (TreeIndex(2), TreeIndex(2)));
    let update = changed(machine.apply(&Command::Update(file("/foo", "3"))));
    assert_eq!((update.node.created, update.node.modified), (TreeIndex(2), TreeIndex(3)));
    let replaced = changed(machine.apply(&Command::Set(directory("/foo"))));
    assert!(replaced.node.dir, "a file may become a directory");
    assert_eq!(replaced.previous.expect("there was one").value, text("3"));
}

#[test]
fn a_directorys_update_changes_its_ttl_and_not_its_index() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(directory("/dir")));
    let update = Write { ttl_seconds: Some(10), ..directory("/dir") };
    let event = changed(machine.apply(&Command::Update(update)));
    assert_eq!((event.index, event.node.modified), (TreeIndex(2), TreeIndex(2)));
    let (_, node, _) = machine.get("/dir", false).expect("there");
    assert_eq!(node.modified, TreeIndex(1));
    assert_eq!(node.expiration, Some(WallTime(1_700_000_010_000_000_000)));
    machine.apply(&Command::Update(Write { ttl_seconds: None, ..directory("/dir") }));
    assert_eq!(machine.get("/dir", false).expect("there").1.expiration, None, "an update takes a TTL away");
}

#[test]
fn a_refresh_keeps_the_value_renews_the_ttl_and_tells_no_watcher() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(Write { ttl_seconds: Some(5), ..file("/foo", "kept") }));
    machine.checkpoint();
    machine.seconds = 4;
    let refresh = Write { ttl_seconds: Some(5), refresh: true, ..file("/foo", "") };
    let event = changed(machine.apply(&Command::Update(refresh.clone())));
    assert!(event.refresh);
    assert_eq!(event.node.value, text("kept"));
    machine.seconds = 8;
    assert_eq!(machine.apply(&expire(1)), Reply::Expired { index: TreeIndex(2), nodes: 0 });
    let missing = Write { path: path_of("/none"), ..refresh };
    assert_eq!(
        refused(machine.apply(&Command::Set(missing))),
        TreeError::NotFound { path: path_of("/none") }
    );
}

fn expire(term: u64) -> Command {
    Command::Expire { term: Term(term), nodes_max: 1000 }
}

#[test]
fn a_node_ends_at_its_time_and_never_before() {
    let mut machine = Machine::new();
    machine.seconds = 100;
    let event = changed(machine.apply(&Command::Set(Write { ttl_seconds: Some(5), ..file("/foo", "bar") })));
    assert_eq!(event.node.expiration, Some(WallTime(1_700_000_105_000_000_000)));
    machine.seconds = 104;
    assert_eq!(machine.apply(&expire(1)), Reply::Expired { index: TreeIndex(1), nodes: 0 });
    machine.seconds = 105;
    assert_eq!(machine.apply(&expire(1)), Reply::Expired { index: TreeIndex(2), nodes: 1 });
    let ended = machine.events.last().expect("an event").clone();
    assert_eq!((ended.action, ended.index), (Action::Expire, TreeIndex(2)));
    assert_eq!(ended.previous.as_ref().expect("it was there").value, text("bar"));
    assert!(machine.get("/foo", false).is_err());
}

#[test]
fn an_expiry_of_an_earlier_term_changes_nothing() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(Write { ttl_seconds: Some(1), ..file("/foo", "bar") }));
    machine.seconds = 10;
    machine.term = 2;
    assert_eq!(machine.apply(&expire(1)), Reply::Expired { index: TreeIndex(1), nodes: 0 });
    assert_eq!(machine.apply(&expire(2)), Reply::Expired { index: TreeIndex(2), nodes: 1 });
}

#[test]
fn a_directory_that_ends_takes_what_is_in_it_along_in_one_event() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(Write { ttl_seconds: Some(1), ..directory("/dir") }));
    for name in ["a", "b", "c"] {
        machine.apply(&Command::Set(Write { ttl_seconds: Some(1), ..file(&format!("/dir/{name}"), "x") }));
    }
    machine.seconds = 10;
    machine.slice_records = 1;
    assert_eq!(machine.apply(&expire(1)), Reply::Expired { index: TreeIndex(5), nodes: 1 });
    machine.compare();
    assert_eq!(machine.tree.next_deadline(), None);
}

#[test]
fn an_expiry_ends_no_more_nodes_than_it_names_the_longest_overdue_first() {
    let mut machine = Machine::new();
    for (name, ttl) in [("a", 3), ("b", 1), ("c", 2)] {
        machine.apply(&Command::Set(Write { ttl_seconds: Some(ttl), ..file(name, "x") }));
    }
    machine.seconds = 10;
    machine.apply(&Command::Expire { term: Term(1), nodes_max: 2 });
    let (_, _, left) = machine.get("/", true).expect("the root");
    assert_eq!(left.iter().map(|node| node.path.clone()).collect::<Vec<_>>(), [path_of("/a")]);
}

#[test]
fn paths_of_any_depth_and_any_bytes_are_nodes_like_others() {
    let mut machine = Machine::new();
    let deep = "/d".repeat(quorate_models::tree::DEPTH_MAX);
    machine.apply(&Command::Set(file(&deep, "deep")));
    assert_eq!(machine.get(&deep, false).expect("there").1.value, text("deep"));
    let long = format!("/{}", "x".repeat(quorate_models::tree::PATH_BYTES_MAX - 1));
    machine.apply(&Command::Set(Write { ttl_seconds: Some(1), ..file(&long, "long") }));
    machine.seconds = 2;
    machine.apply(&expire(1));
    assert!(machine.get(&long, false).is_err());
    let odd = Path::clean(&[b'/', 0, b'/', 0xff, 1]).expect("a path");
    machine.apply(&Command::Set(Write::file(odd.clone(), "odd".into())));
    machine.apply(&delete("/d", false, true));
    machine.compare();
    let in_order = Command::CreateInOrder { write: file(&long, ""), style: NameStyle::Plain };
    assert!(matches!(refused(machine.apply(&in_order)), TreeError::Path(_)));
}

#[test]
fn a_listing_that_would_be_too_large_is_refused() {
    let mut machine = Machine::new();
    for number in 0..600 {
        machine.apply(&Command::Set(file(&format!("/dir/{number}"), "x")));
    }
    let get = |bytes_max| {
        let get = quorate_models::tree::Get { path: path_of("/"), recursive: true, bytes_max };
        quorate_models::tree::get(&machine.store, &get).map(|reply| reply.below.len())
    };
    assert_eq!(get(1 << 20), Ok(601));
    assert_eq!(get(4096), Err(TreeError::ListingTooLarge { bytes_max: 4096 }));
}
