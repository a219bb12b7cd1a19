//! Random commands, with restarts, checkpoints, moved records and slices of all sizes, against the reference.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_ids::{Term, TreeIndex, WallTime};
use quorate_models::tree::{
    self, AuthChange, AuthRevision, Authority, Command, Conditions, ImportedNode, NameStyle, Path, Role,
    User, Write,
};

use super::machine::{Machine, compare, read};

#[derive(Clone, Debug)]
enum Doing {
    Command(Command),
    /// The conditions of a command that may hold: those of the node as it is, with one of them spoilt or none.
    Fitting {
        path: Path,
        value: bool,
        index: bool,
        spoilt: bool,
        delete: bool,
    },
    Time(u64),
    NextTerm,
    Checkpoint,
    Restart,
    Rewrite,
}

fn path() -> impl Strategy<Value = Path> {
    let name = prop::sample::select(vec!["a", "b", "c", "_h", "a!"]);
    prop::collection::vec(name, 0..4)
        .prop_map(|names| Path::clean(names.join("/").as_bytes()).expect("a path"))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        1 => Just(Bytes::new()),
        3 => "[xyz]{1,3}".prop_map(Bytes::from),
        1 => (1..4000usize).prop_map(|len| Bytes::from(vec![b'v'; len])),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let ttl = prop_oneof![4 => Just(None), 2 => (0..20u64).prop_map(Some), 1 => Just(Some(u64::MAX))];
    (path(), value(), prop::bool::weighted(0.2), ttl, prop::bool::weighted(0.1)).prop_map(
        |(path, value, dir, ttl_seconds, refresh)| {
            let value = if dir || refresh { Bytes::new() } else { value };
            Write { path, value, dir, ttl_seconds, refresh }
        },
    )
}

fn conditions() -> impl Strategy<Value = Conditions> {
    (prop::option::of(value()), prop::option::of((0..20u64).prop_map(TreeIndex)))
        .prop_map(|(value, index)| Conditions { value, index })
}

/// Some fit together, some do not.
fn imported() -> impl Strategy<Value = ImportedNode> {
    let expiration =
        prop::option::weighted(0.2, prop::sample::select(vec![1u64, 1_700_000_005_000_000_000, u64::MAX]));
    (path(), prop::option::of(value()), 0..9u64, 0..9u64, expiration).prop_map(
        |(path, value, created, later, expiration)| ImportedNode {
            path,
            value,
            created: TreeIndex(created),
            modified: TreeIndex((created + later).saturating_sub(u64::from(later == 8) * 9)),
            expiration: expiration.map(WallTime),
        },
    )
}

fn import() -> impl Strategy<Value = Command> {
    (prop::collection::vec(imported(), 0..6), any::<bool>()).prop_map(|(mut nodes, sorted)| {
        if sorted {
            nodes.sort_by(|one, other| one.path.cmp(&other.path));
            nodes.dedup_by(|one, other| one.path == other.path);
        }
        Command::Import { nodes }
    })
}

fn end_import() -> impl Strategy<Value = Command> {
    (0..30u64).prop_map(|index| Command::EndImport { index: TreeIndex(index) })
}

fn names(one: &'static str) -> impl Strategy<Value = Option<Vec<String>>> {
    prop::option::of(prop::collection::vec(one, 0..4))
}

fn auth_change() -> impl Strategy<Value = AuthChange> {
    let name = || "[a-c]{0,2}";
    let role = || {
        (name(), names("/[xy*]{0,2}"), names("/[xy*]{0,2}")).prop_map(|(name, read, write)| Role {
            name,
            read,
            write,
        })
    };
    prop_oneof![
        3 => (name(), "[.$]{0,4}", names("[a-c]{0,2}"))
            .prop_map(|(name, password, roles)| AuthChange::PutUser(User { name, password, roles })),
        1 => name().prop_map(AuthChange::RemoveUser),
        3 => role().prop_map(AuthChange::PutRole),
        1 => name().prop_map(AuthChange::RemoveRole),
        1 => prop::option::of(role()).prop_map(|role| AuthChange::Enable { role }),
        1 => Just(AuthChange::Disable),
    ]
}

/// Commands that name an auth revision. Few fit: the first ones at least.
fn on_behalf() -> impl Strategy<Value = Command> {
    let revision = || (0..4u64).prop_map(AuthRevision);
    prop_oneof![
        (revision(), auth_change()).prop_map(|(at, change)| Command::ChangeAuth { at, change }),
        (revision(), prop::option::of("[a-c]{1,2}"), write()).prop_map(|(revision, user, write)| {
            let command = Box::new(Command::Set(write));
            Command::Authorised { authority: Authority { revision, user }, command }
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let style = prop::sample::select(vec![NameStyle::Plain, NameStyle::Padded]);
    prop_oneof![
        6 => write().prop_map(Command::Set),
        3 => write().prop_map(Command::Create),
        3 => (write(), style).prop_map(|(write, style)| Command::CreateInOrder { write, style }),
        3 => write().prop_map(Command::Update),
        1 => (write(), conditions())
            .prop_map(|(write, conditions)| Command::CompareAndSwap { write, conditions }),
        1 => (path(), conditions())
            .prop_map(|(path, conditions)| Command::CompareAndDelete { path, conditions }),
        3 => (path(), any::<bool>(), any::<bool>())
            .prop_map(|(path, dir, recursive)| Command::Delete { path, dir, recursive }),
        2 => (1..4u64, 1..5u32)
            .prop_map(|(term, nodes_max)| Command::Expire { term: Term(term), nodes_max }),
        1 => (0..9u64).prop_map(|index| Command::Begin { index: TreeIndex(index) }),
        1 => (0..12u64).prop_map(|events| Command::SetHistoryWindow { events }),
        1 => import(),
        1 => end_import(),
        4 => on_behalf(),
    ]
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        20 => command().prop_map(Doing::Command),
        3 => (path(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(path, value, index, spoilt, delete)| Doing::Fitting { path, value, index, spoilt, delete }
        ),
        3 => (0..8u64).prop_map(Doing::Time),
        1 => Just(Doing::NextTerm),
        2 => Just(Doing::Checkpoint),
        1 => Just(Doing::Restart),
        1 => Just(Doing::Rewrite),
    ]
}

/// A compare-and-swap or -delete with the node's own value and index.
fn fitting(machine: &Machine, doing: &Doing) -> Option<Command> {
    let Doing::Fitting { path, value, index, spoilt, delete } = doing else { return None };
    let (node, _) = machine.reference.get(path, false).ok()?;
    let tree::Value::Here(actual) = node.value else { return None };
    let off = u64::from(*spoilt);
    let conditions = Conditions {
        value: value.then_some(actual),
        index: index.then_some(TreeIndex(node.modified.0 + off)),
    };
    Some(if *delete {
        Command::CompareAndDelete { path: path.clone(), conditions }
    } else {
        let write = Write::file(path.clone(), Bytes::from_static(b"swapped"));
        Command::CompareAndSwap { write, conditions }
    })
}

fn check(doings: Vec<Doing>, slice_records: usize, restarts: bool) {
    let mut machine = Machine::new();
    machine.slice_records = slice_records;
    machine.restarts = restarts;
    for doing in doings {
        match &doing {
            Doing::Command(command) => {
                let expires = matches!(command, Command::Expire { .. } | Command::EndImport { .. });
                machine.apply_with(command, &mut |store, reference| {
                    // Every change but the ends of several nodes is whole with its first slice.
                    if !expires && !matches!(command, Command::SetHistoryWindow { .. }) {
                        let (_, _, below) = read(store, &Path::root(), true).expect("the root");
                        let (_, expected) = reference.get(&Path::root(), true).expect("the root");
                        assert_eq!(below, expected, "a reader between slices");
                    }
                });
            }
            Doing::Fitting { .. } => {
                if let Some(command) = fitting(&machine, &doing) {
                    machine.apply(&command);
                }
            }
            Doing::Time(seconds) => machine.seconds += seconds,
            Doing::NextTerm => machine.term += 1,
            Doing::Checkpoint => machine.checkpoint(),
            Doing::Restart => {
                machine.checkpoint();
                machine.restart();
            }
            Doing::Rewrite => machine.rewrite(),
        }
        compare(&machine.store, &machine.reference);
    }
    machine.compare();
    let events: Vec<_> = machine.events.iter().map(|event| event.index.0).collect();
    let expected: Vec<_> = machine.reference.events.keys().copied().collect();
    assert_eq!(events, expected, "each change is published once, in order");
    let deadline = machine.tree.next_deadline().map(|deadline| deadline.0);
    assert_eq!(deadline, machine.reference.next_deadline());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_agree_with_the_reference(
        doings in prop::collection::vec(doing(), 1..60), slice_records in 1..6usize, restarts in any::<bool>()
    ) {
        check(doings, slice_records, restarts);
    }

    #[test]
    fn commands_after_an_import_agree_with_the_reference(
        imports in prop::collection::vec(import(), 1..8), index in 10..40u64,
        doings in prop::collection::vec(doing(), 1..30), slice_records in 1..6usize, restarts in any::<bool>()
    ) {
        let end = Command::EndImport { index: TreeIndex(index) };
        let before = imports.into_iter().chain([end]).map(Doing::Command);
        check(before.chain(doings).collect(), slice_records, restarts);
    }

    #[test]
    fn random_bytes_never_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(command) = tree::decode(&bytes) {
            prop_assert_eq!(tree::decode(&tree::encode(&command)), Ok(command));
        }
    }

    #[test]
    fn a_command_with_damaged_bytes_never_panics_the_decoder(
        command in command(), cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bit in 0..8u8
    ) {
        let whole = tree::encode(&command);
        prop_assert_eq!(tree::decode(&whole), Ok(command));
        let short = whole.slice(..cut.index(whole.len()));
        prop_assert!(tree::decode(&short).is_err(), "a command cut short is no command");
        let mut flipped = whole.to_vec();
        flipped[flip.index(whole.len())] ^= 1 << bit;
        if let Ok(command) = tree::decode(&Bytes::from(flipped)) {
            prop_assert_eq!(tree::decode(&tree::encode(&command)), Ok(command));
        }
    }
}
