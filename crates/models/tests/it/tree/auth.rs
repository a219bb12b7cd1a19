//! Users and roles, and commands on somebody's behalf.

use bytes::Bytes;
use quorate_ids::TreeIndex;
use quorate_models::tree::{
    self, AUTH_LIST_MAX, AUTH_NAME_BYTES_MAX, AuthChange, AuthRevision, Authority, Command, Reply, Role, User,
};

use super::machine::{Machine, file};

fn change(at: u64, change: AuthChange) -> Command {
    Command::ChangeAuth { at: AuthRevision(at), change }
}

fn user(name: &str, roles: &[&str]) -> AuthChange {
    let roles = Some(roles.iter().map(|&role| role.to_owned()).collect());
    AuthChange::PutUser(User { name: name.to_owned(), password: "$2b$10$x".to_owned(), roles })
}

fn on_behalf(revision: u64, user: Option<&str>, command: Command) -> Command {
    let authority = Authority { revision: AuthRevision(revision), user: user.map(str::to_owned) };
    Command::Authorised { authority, command: Box::new(command) }
}

#[test]
fn a_command_that_older_records_allowed_is_refused_unchanged_and_counts_as_nothing() {
    let mut machine = Machine::new();
    let set = |value| Command::Set(file("/a", value));
    let first = machine.apply(&on_behalf(0, None, set("1")));
    assert!(matches!(first, Reply::Changed(_)), "{first:?}");
    let made = machine.apply(&change(0, user("u", &["r"])));
    assert_eq!(
        made,
        Reply::AuthChanged { index: TreeIndex(1), revision: AuthRevision(1) },
        "it takes no index"
    );
    let before = machine.reference.statistics;
    for old in
        [on_behalf(0, None, set("2")), on_behalf(0, Some("u"), set("3")), change(0, AuthChange::Disable)]
    {
        let refused = machine.apply(&old);
        assert_eq!(refused, Reply::Outdated { index: TreeIndex(1), revision: AuthRevision(1) });
    }
    assert_eq!(machine.reference.statistics, before);
    let anew = machine.apply(&on_behalf(1, Some("u"), set("4")));
    assert!(matches!(anew, Reply::Changed(_)), "{anew:?}");
    machine.compare();
}

#[test]
fn records_outlive_a_restart_and_are_replaced_as_wholes() {
    let mut machine = Machine::new();
    let patterns = |items: &[&str]| Some(items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>());
    let role = |read, write| AuthChange::PutRole(Role { name: "r".to_owned(), read, write });
    machine.apply(&change(0, user("u", &["b", "a", "b"])));
    machine.apply(&change(1, role(patterns(&["/a/*", "/"]), None)));
    machine.apply(&change(2, AuthChange::Enable { role: None }));
    machine.checkpoint();
    machine.restart();
    machine.compare();
    let tables = machine.store.read();
    let read = tree::user(&tables, "u").expect("the user").roles.expect("roles");
    assert_eq!(read, ["b", "a", "b"], "in their order");
    drop(tables);
    machine.apply(&change(3, role(patterns(&[]), patterns(&["/w"]))));
    machine.apply(&change(4, AuthChange::RemoveUser("u".to_owned())));
    machine.apply(&change(5, AuthChange::RemoveUser("u".to_owned())));
    machine.compare();
    let tables = machine.store.read();
    assert_eq!(tables.len(quorate_models::tables::TREE_AUTH), 3, "the state, a role and its one pattern");
}

#[test]
fn records_have_no_path_in_the_tree() {
    let mut machine = Machine::new();
    machine.apply(&change(0, user("u", &[])));
    let (index, _, below) = machine.get("/", true).expect("the root");
    assert_eq!((index, below.len()), (TreeIndex(0), 0));
}

#[test]
fn what_is_beyond_a_bound_or_within_itself_is_no_command() {
    let set = Command::Set(file("/a", "1"));
    let nested = on_behalf(0, None, on_behalf(0, None, set.clone()));
    let expiry = on_behalf(0, None, Command::Begin { index: TreeIndex(1) });
    let long = change(0, AuthChange::RemoveUser("n".repeat(AUTH_NAME_BYTES_MAX + 1)));
    let many = change(0, user("u", &vec!["r"; AUTH_LIST_MAX + 1]));
    for command in [nested, expiry, long, many] {
        assert!(tree::decode(&tree::encode(&command)).is_err(), "{command:?}");
    }
    let fits = change(0, user(&"n".repeat(AUTH_NAME_BYTES_MAX), &vec!["r"; AUTH_LIST_MAX]));
    assert_eq!(tree::decode(&tree::encode(&fits)), Ok(fits));
    let mut deep = Vec::new();
    (0..100_000).for_each(|_| deep.extend_from_slice(&[20, 1, 0, 0]));
    assert!(tree::decode(&Bytes::from(deep)).is_err());
}
