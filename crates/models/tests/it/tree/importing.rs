//! Another tree's nodes become this one's, with their indexes.

use quorate_ids::{TreeIndex, WallTime};
use quorate_models::tree::{
    Action, Command, Conditions, IMPORTED_PER_COMMAND_MAX, ImportFault, ImportedNode, NameStyle, Reply,
    TreeError, Value,
};

use super::machine::{Machine, file, path_of};

/// A file, or a directory where there is no value.
fn node(path: &str, value: Option<&str>, created: u64, modified: u64) -> ImportedNode {
    ImportedNode {
        path: path_of(path),
        value: value.map(|value| value.to_owned().into()),
        created: TreeIndex(created),
        modified: TreeIndex(modified),
        expiration: None,
    }
}

fn import(nodes: &[ImportedNode]) -> Command {
    Command::Import { nodes: nodes.to_vec() }
}

fn end(index: u64) -> Command {
    Command::EndImport { index: TreeIndex(index) }
}

fn fault(reply: Reply) -> ImportFault {
    match reply {
        Reply::Refused { error: TreeError::Import(fault), .. } => fault,
        other => panic!("not refused as an import: {other:?}"),
    }
}

const BEGUN: Reply = Reply::Imported { index: TreeIndex(0) };

#[test]
fn nodes_appear_at_once_with_their_indexes_and_the_next_change_takes_the_next_index() {
    let mut machine = Machine::new();
    let first = [node("/dir", None, 5, 5), node("/dir/old", Some("x"), 5, 9), node("/empty", Some(""), 7, 7)];
    assert_eq!(machine.apply(&import(&first)), BEGUN);
    assert!(machine.get("/dir", false).is_err(), "nothing is seen before the end");
    assert_eq!(machine.get("/", true).expect("the root").2, []);
    assert_eq!(machine.apply(&import(&[node("/dir/_hidden", Some("h"), 3, 3)])), BEGUN);
    machine.checkpoint();
    machine.restart();
    assert_eq!(machine.apply(&end(40)), Reply::Imported { index: TreeIndex(40) });
    let (index, old, _) = machine.get("/dir/old", false).expect("imported");
    assert_eq!((index, old.created, old.modified), (TreeIndex(40), TreeIndex(5), TreeIndex(9)));
    assert_eq!(old.value, Value::Here("x".into()));
    assert_eq!(machine.get("/dir", true).expect("imported").2.len(), 1, "what is hidden stays hidden");
    // They are nodes like others from then on.
    let conditions = Conditions { value: Some("x".into()), index: Some(TreeIndex(9)) };
    let swap = Command::CompareAndSwap { write: file("/dir/old", "y"), conditions };
    assert_eq!(machine.apply(&swap).index(), TreeIndex(41));
    let event = machine.events.last().expect("an event").clone();
    assert_eq!((event.action, event.node.created), (Action::CompareAndSwap, TreeIndex(5)));
    assert_eq!(event.previous.as_ref().expect("there was one").modified, TreeIndex(9));
    let in_order = Command::CreateInOrder { write: file("/queue", "job"), style: NameStyle::Padded };
    machine.apply(&in_order);
    assert!(machine.get("/queue/00000000000000000042", false).is_ok());
    machine.apply(&Command::Delete { path: path_of("/dir"), dir: true, recursive: true });
    machine.compare();
}

#[test]
fn only_a_tree_that_never_changed_imports_and_only_once() {
    let mut machine = Machine::new();
    machine.apply(&Command::Set(file("/foo", "bar")));
    let nodes = [node("/x", Some("1"), 1, 1)];
    assert_eq!(fault(machine.apply(&import(&nodes))), ImportFault::Changed);
    assert_eq!(fault(machine.apply(&end(9))), ImportFault::Changed);
    let mut fresh = Machine::new();
    fresh.apply(&import(&nodes));
    fresh.apply(&end(9));
    assert_eq!(fault(fresh.apply(&import(&nodes))), ImportFault::Changed);
    assert_eq!(fault(fresh.apply(&end(9))), ImportFault::Changed);
    fresh.compare();
}

#[test]
fn while_an_import_goes_on_nothing_else_changes_the_tree() {
    let mut machine = Machine::new();
    let due = ImportedNode { expiration: Some(WallTime(1)), ..node("/gone", Some("1"), 1, 1) };
    machine.apply(&import(&[due]));
    for command in [Command::Set(file("/foo", "bar")), Command::Create(file("/foo", "bar"))] {
        let reply = machine.apply(&command);
        assert_eq!(reply, Reply::Refused { index: TreeIndex(0), error: TreeError::Importing });
    }
    assert_eq!(machine.tree.next_deadline(), None);
    let expire = Command::Expire { term: quorate_ids::Term(1), nodes_max: 10 };
    assert_eq!(machine.apply(&expire), Reply::Expired { index: TreeIndex(0), nodes: 0 });
    assert_eq!(machine.apply(&Command::Begin { index: TreeIndex(3) }), Reply::Began { index: TreeIndex(0) });
    machine.apply(&end(6));
    assert_eq!(machine.apply(&expire), Reply::Expired { index: TreeIndex(7), nodes: 1 }, "it was due before");
    machine.compare();
}

#[test]
fn an_expiration_is_as_far_ahead_as_it_was_and_shown_as_it_was() {
    let mut machine = Machine::new();
    machine.seconds = 100;
    let shown = WallTime((1_700_000_000 + 130) * 1_000_000_000);
    machine.apply(&import(&[ImportedNode { expiration: Some(shown), ..node("/foo", Some("1"), 1, 2) }]));
    machine.apply(&end(2));
    assert_eq!(machine.get("/foo", false).expect("imported").1.expiration, Some(shown));
    let deadline = machine.tree.next_deadline().expect("it ends");
    assert_eq!(deadline, quorate_ids::ClusterTime(130 * 1_000_000_000));
    machine.compare();
}

#[test]
fn nodes_that_do_not_fit_are_refused_whole() {
    let mut machine = Machine::new();
    machine.apply(&import(&[node("/file", Some("1"), 1, 1)]));
    let path = path_of;
    let mut refused = |nodes: &[ImportedNode]| fault(machine.apply(&import(nodes)));
    let good = node("/good", Some("2"), 2, 2);
    assert_eq!(
        refused(&[good.clone(), node("/a/b", Some("3"), 3, 3)]),
        ImportFault::NoDirectory { path: path("/a/b") }
    );
    assert_eq!(
        refused(&[node("/file/x", Some("3"), 3, 3)]),
        ImportFault::NoDirectory { path: path("/file/x") }
    );
    assert_eq!(refused(&[node("/file", None, 3, 3)]), ImportFault::Exists { path: path("/file") });
    assert_eq!(refused(&[good.clone(), good.clone()]), ImportFault::Exists { path: path("/good") });
    assert_eq!(refused(&[node("/", None, 1, 1)]), ImportFault::Exists { path: path("/") });
    assert_eq!(
        refused(&[good.clone(), node("/other", Some("3"), 1, 1)]),
        ImportFault::IndexTaken { path: path("/other"), index: TreeIndex(1) },
        "two files can't have been modified at one index"
    );
    assert!(matches!(refused(&[node("/odd", Some("3"), 4, 3)]), ImportFault::Indexes { .. }));
    let early = ImportFault::EndsBefore { index: TreeIndex(0), modified: TreeIndex(1) };
    assert_eq!(fault(machine.apply(&end(0))), early);
    machine.apply(&import(&[good]));
    machine.apply(&end(2));
    assert_eq!(machine.get("/", true).expect("the root").2.len(), 2, "what was refused left nothing");
    machine.compare();
}

#[test]
fn the_end_of_a_large_import_goes_in_slices_that_nobody_sees() {
    let mut machine = Machine::new();
    let nodes: Vec<ImportedNode> =
        (1..=IMPORTED_PER_COMMAND_MAX as u64).map(|n| node(&format!("/{n}"), Some("x"), n, n)).collect();
    machine.apply(&import(&nodes));
    machine.slice_records = 60;
    machine.restarts = true;
    machine.apply_with(&end(5000), &mut |store, _| {
        assert!(super::machine::read(store, &path_of("/7"), false).is_err());
    });
    assert!(machine.slices > 15, "{} slices", machine.slices);
    assert_eq!(machine.get("/", true).expect("the root").2.len(), nodes.len());
    machine.compare();
}
