//! Huge changes, a slice at a time.

use quorate_models::SLICE_RECORDS_MAX;
use quorate_models::tree::{Command, Get, Reply, get};

use super::machine::{Machine, file, path_of, read};

fn filled(nodes: usize) -> Machine {
    let mut machine = Machine::new();
    for number in 0..nodes {
        machine.apply(&Command::Set(file(&format!("/big/{}/{number}", number % 7), "value")));
    }
    machine
}

#[test]
fn a_large_directory_goes_at_once_for_readers_and_in_slices_for_the_tables() {
    let mut machine = filled(SLICE_RECORDS_MAX + 500);
    machine.apply(&Command::Set(file("/other", "stays")));
    let delete = Command::Delete { path: path_of("/big"), dir: false, recursive: true };
    let mut looked = 0;
    machine.apply_with(&delete, &mut |store, _| {
        looked += 1;
        let (_, _, below) = read(store, &path_of("/"), true).expect("the root");
        assert_eq!(below.len(), 1, "no part of what goes is seen");
        assert!(read(store, &path_of("/big/3"), true).is_err());
    });
    assert!(looked >= 1, "it took more than one slice");
    machine.compare();
}

#[test]
fn a_restart_between_slices_goes_on_and_comes_to_the_same() {
    let (mut straight, mut restarted) = (filled(300), filled(300));
    restarted.restarts = true;
    restarted.slice_records = 13;
    let delete = Command::Delete { path: path_of("/big"), dir: false, recursive: true };
    assert_eq!(straight.apply(&delete), restarted.apply(&delete));
    assert!(restarted.slices > 20, "{} slices", restarted.slices);
    for table in quorate_models::tree::HASHED_TABLES {
        assert_eq!(straight.store.read().hash(table), restarted.store.read().hash(table), "{table:?}");
    }
}

#[test]
fn a_directory_made_again_under_the_same_name_has_nothing_of_the_old_one() {
    let mut machine = filled(50);
    machine.apply(&Command::Delete { path: path_of("/big"), dir: true, recursive: true });
    machine.apply(&Command::Set(file("/big/3/new", "x")));
    let reply = get(&machine.store, &Get { path: path_of("/big"), recursive: true, bytes_max: 1 << 20 });
    assert_eq!(reply.expect("there").below.len(), 2);
    machine.compare();
}

#[test]
fn a_window_made_small_forgets_in_slices() {
    let mut machine = filled(200);
    machine.slice_records = 7;
    let reply = machine.apply(&Command::SetHistoryWindow { events: 3 });
    assert!(matches!(reply, Reply::HistoryWindow { events: 3, .. }));
    assert!(machine.slices > 20, "{} slices", machine.slices);
    machine.compare();
}

#[test]
fn what_was_deleted_gives_its_space_back_once_history_forgot_it() {
    let mut machine = Machine::new();
    machine.apply(&Command::SetHistoryWindow { events: 5 });
    let live = |machine: &Machine| machine.store.read().record_bytes().1;
    let empty = live(&machine);
    for round in 0..3 {
        for number in 0..20 {
            machine.apply(&Command::Set(file(&format!("/dir/{number}"), &format!("{round}"))));
        }
    }
    machine.apply(&Command::Delete { path: path_of("/dir"), dir: true, recursive: true });
    for _ in 0..5 {
        machine.apply(&Command::Set(file("/empty", "")));
    }
    assert_eq!(live(&machine), empty, "no record is kept for nobody");
}
